"""Embeds many files: decoded in threads, batched across files, resumable.

Threads hash and decode files ahead of the network, a few at a time, so that memory
depends neither on their number nor on their length. What is finished is known by its
content: a file that was moved, or lies there twice, is not embedded again.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cola_msa.audio import errors
from cola_msa.audio.clip_windows import ClipWindows, decode_clip
from cola_msa.collection.table.earlier import Earlier
from cola_msa.collection.table.store import FileRows, Store, cannot_write
from cola_msa.collection.table.write import (
    Clip,
    Table,
    check_output,
    failures_path,
    keep_previous,
    write_failures,
    write_table,
)
from cola_msa.hub.embedder import BATCH_SIZE, Batcher, hop_to_frames
from cola_msa.hub.opened import OpenedModel
from cola_msa.model.embedding import ClipPooling
from cola_msa.remote import addresses
from cola_msa.system import signals
from cola_msa.system.console import ProgressBar, progress_bar
from cola_msa.system.errors import RunError, UsageError, hide_logins
from cola_msa.system.files import DISK_ERRORS
from cola_msa.values import names
from cola_msa.values.fields import plain_fields

GRANULARITIES = ("clip", "window")
LISTED = 5  # failures that a summary names
_HASH_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        num_files: Files of the input.
        num_embedded: Of these, embedded now; as many contents.
        num_earlier: Known by their content from before, or from another path.
        failures: Reason by path.
        num_rows: Rows of the output.
        audio_seconds: Duration of what was embedded now.
        wall_seconds: Time that it took.
        previous: Where an output went that held further files; None if it held none.
    """

    num_files: int
    num_embedded: int
    num_earlier: int
    failures: dict[str, str]
    num_rows: int
    audio_seconds: float
    wall_seconds: float
    previous: pathlib.Path | None = None


@dataclasses.dataclass
class _Prepared:
    """A file after its thread: windows to embed, or what else became of it."""

    path: str
    sha256: str = ""
    version: tuple[int, ...] = ()
    clip: ClipWindows | None = None
    failure: str = ""
    rows_left: int = 0
    pooling: ClipPooling | None = None
    is_finite: bool = True


def work_folder(output: pathlib.Path) -> pathlib.Path:
    """Where an unfinished run keeps what it has: beside the output."""
    return output.with_name(f"{output.name}.work")


def describe(model: OpenedModel, per: str, hop_seconds: float | None) -> dict[str, Any]:
    """What decides the output's values, in plain JSON types.

    Raises:
        ValueError: If `per` is unknown or the hop below one frame.
    """
    if per not in GRANULARITIES:
        raise ValueError(f"per must be one of {', '.join(GRANULARITIES)}, not {per!r}")
    frontend = model.frontend
    frame_seconds = frontend.seconds(1)
    clip = {}
    if model.clip_embedding != "mean":  # of which earlier versions said nothing
        clip["clip_embedding"] = model.clip_embedding
    return {
        "model_hash": model.key,
        "frontend": plain_fields(frontend),
        "per": per,
        "hop_seconds": round(hop_to_frames(hop_seconds, frontend) * frame_seconds, 6),
        "embedding_dim": row_dim(model, per),
        **clip,
    }


def row_dim(model: OpenedModel, per: str) -> int:
    """Values of a row."""
    return model.clip_dim if per == "clip" else model.dim


def _is_empty(folder: str) -> bool:
    """Whether a folder is gone or holds nothing, as where a disk was mounted."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _version(file: str | int | os.PathLike) -> tuple[int, ...]:
    """What differs once a file is written to or replaced."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    times = found.st_mtime_ns, found.st_ctime_ns
    return (found.st_dev, found.st_ino, found.st_size, *times)


class _Preparer:
    """Fetches, hashes and decodes files; called by several threads."""

    def __init__(
        self,
        model: OpenedModel,
        store: Store,
        known: dict[str, FileRows],
        root: str | None,
    ):
        self._model = model
        self._folder = str(store.folder)
        self._root = root
        self._claimed = set(known)
        self._lock = threading.Lock()
        self.is_stopped = threading.Event()

    def __call__(self, path: str) -> _Prepared:
        found = _Prepared(path)
        try:
            with self._local(path) as file:
                self._prepare(found, file)
        except (errors.AudioError, addresses.AddressError, UsageError) as error:
            found.failure = hide_logins(str(error))
        except addresses.RemoteError as error:
            self._check_root(error, path)
            found.failure = f"could not be downloaded: {error}"
        except OSError as error:
            if error.errno in DISK_ERRORS:  # ours, not the file's
                raise cannot_write(error.filename or self._folder, error) from error
            found.failure = f"cannot be read: {error.strerror or error}"
        except MemoryError:
            found.failure = "there is too little memory to decode it"
        except Exception as error:  # one file never ends a long run
            found.failure = f"unexpected: {error!r}"
        if found.failure:
            self._check_root(None, path)
        return found

    @staticmethod
    def _local(path: str) -> contextlib.AbstractContextManager[str | os.PathLike]:
        """A file of this machine with a path's content."""
        if not addresses.is_address(path) or os.path.exists(path):
            return contextlib.nullcontext(path)
        return addresses.fetched(path)

    def _check_root(self, error: addresses.RemoteError | None, path: str) -> None:
        """Tells a lost disk or network from a lost file.

        Raises:
            RunError: If what the files were listed from is gone, or does not answer.
        """
        if error is not None:
            root = self._root
            if root is None and error.is_missing:  # one of a list
                return
            folder = addresses.open_folder(root or addresses.split(path)[0])
            is_there = folder.is_there() or root is None
            root = folder.shown
        elif self._root is None or addresses.is_address(self._root):
            return
        else:
            root = self._root
            is_there = not _is_empty(root)
        if not is_there:
            raise RunError(
                f"{root} has vanished, or is empty now; once that is mended the same "
                "command goes on"
            )

    def _prepare(self, found: _Prepared, file: str | os.PathLike) -> None:
        found.sha256 = self._hash(found, file)
        with self._lock:
            is_new = found.sha256 not in self._claimed
            self._claimed.add(found.sha256)
        if is_new:
            found.clip = self._decode_unchanged(found, file)

    def _decode_unchanged(
        self, found: _Prepared, file: str | os.PathLike
    ) -> ClipWindows:
        """Decodes what was hashed: a file that is replaced meanwhile is a failure."""
        clip = None
        try:
            clip = self._decode(file)
        finally:
            is_same = _version(file) == found.version
            if not is_same and self._hash(found, file) != found.sha256:
                if clip is not None:
                    clip.close()
                raise errors.UnreadableError(
                    "it changed while it was read; the same command reads it again"
                )
        return clip

    def _hash(self, found: _Prepared, path: str | os.PathLike) -> str:
        if not os.path.isfile(path):  # to open a named pipe waits for its writer
            raise errors.MissingError(
                "not a regular file" if os.path.exists(path) else "it does not exist"
            )
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            found.version = _version(file.fileno())
            while block := file.read(_HASH_BYTES):
                digest.update(block)
                self._check()
        return digest.hexdigest()

    def _decode(self, path: str | os.PathLike) -> ClipWindows:
        return decode_clip(
            path, self._model.frontend, self._folder, lambda block: self._check()
        )

    def _check(self) -> None:
        if self.is_stopped.is_set():
            raise KeyboardInterrupt


class _Run:
    """One pass over the files that are not known yet."""

    def __init__(
        self,
        model: OpenedModel,
        store: Store,
        per: str,
        hop_frames: int,
        batch_size: int,
    ):
        self._model = model
        self._store = store
        self._per = per
        self._hop_frames = hop_frames
        self._batcher = Batcher(model.embed, self._receive, batch_size)
        self.failures: dict[str, str] = {}  # by path
        self.earlier_failures: dict[str, str] = {}
        self.failed_hashes: dict[str, str] = {}  # reason by SHA-256
        self.hashes: dict[str, str] = {}  # by path
        self.num_embedded = 0
        self.audio_seconds = 0.0

    def take(self, found: _Prepared) -> None:
        """Passes a file's windows on, or notes what else became of it."""
        if found.sha256:
            self.hashes[found.path] = found.sha256
        if found.failure:
            self._fail(found, found.failure)
        if found.clip is None:
            return
        with found.clip as clip:
            found.rows_left = len(clip.starts(self._hop_frames))
            found.pooling = ClipPooling(self._model.clip_embedding)
            for windows in clip.windows(self._hop_frames):
                self._batcher.add(found, windows)
                signals.check()

    def flush(self) -> None:
        """Embeds the last batch."""
        self._batcher.flush()

    def _fail(self, found: _Prepared, reason: str) -> None:
        self.failures[found.path] = reason
        self.failed_hashes[found.sha256] = reason

    def _receive(self, found: _Prepared, embeddings: np.ndarray) -> None:
        found.rows_left -= len(embeddings)
        found.is_finite &= bool(np.isfinite(embeddings).all())
        if self._per == "window":
            self._store.append(embeddings)
        elif found.pooling is not None:
            found.pooling.add(embeddings)
        if found.rows_left:
            return
        if not found.is_finite:
            if not self.num_embedded:
                _check_encoder(self._model)
            self._store.abandon()
            self._fail(found, "the encoder's values for it are not finite")
            return
        if self._per == "clip" and found.pooling is not None:
            self._store.append(found.pooling.result()[np.newaxis])
        assert found.clip is not None
        self._store.finish(found.sha256, found.clip.seconds)
        self.num_embedded += 1
        self.audio_seconds += found.clip.seconds


def _in_order(
    prepare: _Preparer, paths: Sequence[str], num_workers: int
) -> Iterator[_Prepared]:
    """Prepares files in threads, at most two a thread ahead; gives them in order."""
    pool = concurrent.futures.ThreadPoolExecutor(num_workers, "decode")
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    remaining = iter(paths)
    try:
        while True:
            for path in remaining:
                waiting.append(pool.submit(prepare, path))
                if len(waiting) >= 2 * num_workers:
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        prepare.is_stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for future in waiting:
            if not future.cancelled() and future.exception() is None:
                if future.result().clip is not None:
                    future.result().clip.close()


def _check_encoder(model: OpenedModel) -> None:
    """Refuses an encoder that gives no numbers: no file is to blame for it."""
    shape = (1, model.frontend.window_frames, model.frontend.num_mels, 1)
    if not np.isfinite(model.embed(np.zeros(shape, np.float32))).all():
        raise RunError(
            f"{model.path}: the encoder's embedding of a window of zeros is not "
            "finite, so that no file can be embedded: its weights are broken; use "
            "another checkpoint, or another model"
        )


def embed_files(
    paths: Sequence[str],
    output: str | os.PathLike,
    model: OpenedModel,
    per: str = "clip",
    hop_seconds: float | None = None,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
    is_quiet: bool = False,
    failures: Mapping[str, str] | None = None,
    *,
    root: str | None = None,
    mark: Mapping[str, Any] | None = None,
    on_file: Callable[[float], None] | None = None,
) -> Summary:
    """Embeds files into one file of embeddings; goes on where an earlier call was.

    Beside the output, `<output>.failures.csv` lists what could not be embedded. A
    stopped call leaves `<output>.work/`, and the same call goes on from there.

    Args:
        paths: Audio files, or their addresses; each of these is fetched, decoded and
            deleted again.
        output: .parquet, .npz or .h5.
        model: From `cola_msa.hub.loading.open_model`.
        per: `clip` (one row a file, the mean over its windows) or `window`.
        hop_seconds: From one window to the next, rounded to whole frames (10 ms);
            None for windows that touch (0.98 s).
        batch_size: Windows that pass through the network at once.
        num_workers: Threads that decode; 0 for one a core.
        is_quiet: Whether there is no progress bar.
        failures: Reason by path of what failed already, e.g. folders that could not
            be searched; listed with the others.
        root: The folder or address that the paths were found in: where it is gone,
            the call ends, and nothing is a failure for that.
        mark: Further metadata of the output; plain JSON types.
        on_file: Called after each file with the seconds of audio so far, in place of
            a progress bar.

    Returns:
        Summary.

    Raises:
        ValueError: If `per` or the hop makes no sense.
        OutputError: If the output cannot be written, or holds something else.
        StoreError: If the work folder cannot be used.
        RunError: If the encoder's values are not finite, whatever the file, or `root`
            is gone.
    """
    output = pathlib.Path(output)
    check_output(output)
    settings = describe(model, per, hop_seconds)
    hop_frames = hop_to_frames(hop_seconds, model.frontend)
    version = _version(output)
    earlier = Earlier(output, settings) if output.exists() else None
    begin = time.monotonic()
    try:
        dim = row_dim(model, per)
        with Store(work_folder(output), dim, settings) as store:
            if _version(output) != version:  # by a process that ended just now
                if earlier:
                    earlier.close()
                earlier = Earlier(output, settings)
            known = {**store.finished, **(earlier.finished if earlier else {})}
            run = _Run(model, store, per, hop_frames, batch_size)
            prepare = _Preparer(model, store, known, root)
            workers = num_workers or len(os.sched_getaffinity(0))
            is_shown = not is_quiet and on_file is None
            with progress_bar(len(paths), "embedding", "file", is_shown) as bar:
                for found in _in_order(prepare, paths, workers):
                    signals.check()
                    run.take(found)
                    _show(bar, run.audio_seconds, time.monotonic() - begin)
                    if on_file is not None:
                        on_file(run.audio_seconds)
                run.flush()
                _show(bar, run.audio_seconds, time.monotonic() - begin, 0)
            run.earlier_failures = dict(failures or {})
            metadata = table_metadata(model, settings, mark)
            summary = _write(paths, output, metadata, model, store, earlier, run, begin)
            store.remove()
        return summary
    finally:
        if earlier:
            earlier.close()


def _show(bar: ProgressBar, audio: float, wall: float, num_files: int = 1) -> None:
    bar.set_postfix_str(speed(audio, wall), refresh=False)
    bar.update(num_files)


def speed(audio_seconds: float, wall_seconds: float) -> str:
    """How fast audio went through, `43 times real time`; "" where none has."""
    if not audio_seconds:
        return ""
    times = audio_seconds / max(wall_seconds, 1e-3)
    return f"{times:.{0 if times >= 10 else 1}f} times real time"


def describe_work(summary: Summary) -> str:
    """What was embedded now, as a line."""
    return (
        f"embedded {summary.num_embedded:,} files, "
        f"{summary.audio_seconds / 60:.1f} min of audio in "
        f"{summary.wall_seconds:.1f} s: "
        f"{speed(summary.audio_seconds, summary.wall_seconds)}"
    )


def _write(
    paths: Sequence[str],
    output: pathlib.Path,
    metadata: dict[str, Any],
    model: OpenedModel,
    store: Store,
    earlier: Earlier | None,
    run: _Run,
    begin: float,
) -> Summary:
    clips = []
    failures = dict(run.failures)
    window_seconds = model.frontend.window_seconds
    for path in paths:
        sha256 = run.hashes.get(path, "")
        if path in failures:
            continue
        if sha256 in run.failed_hashes:  # the same content under another path
            failures[path] = run.failed_hashes[sha256]
            continue
        is_earlier = earlier is not None and sha256 in earlier.finished
        source: Any = earlier if is_earlier else store
        rows: FileRows = source.finished[sha256]
        if metadata["per"] == "clip":
            starts, seconds = np.zeros(1), np.full(1, rows.seconds)
        else:
            starts = np.round(np.arange(rows.num_rows) * metadata["hop_seconds"], 6)
            seconds = np.full(rows.num_rows, min(window_seconds, rows.seconds))

        def read(first: int, count: int, source=source, rows=rows) -> np.ndarray:
            return source.read(rows.first_row + first, count)

        clips.append(Clip(text(path), sha256, starts, seconds, read))
    table = Table(clips, row_dim(model, metadata["per"]), metadata)
    current = {clip.path: clip.sha256 for clip in clips}
    previous = None
    if earlier is None or list(earlier.paths.items()) != list(current.items()):
        if earlier is not None and set(earlier.paths) - set(current):
            previous = keep_previous(output)
        if clips:
            write_table(output, table)
    in_order = {text(path): failures[path] for path in paths if path in failures}
    in_order |= {text(path): why for path, why in run.earlier_failures.items()}
    write_failures(failures_path(output), in_order)
    return Summary(
        num_files=len(paths) + len(run.earlier_failures),
        num_embedded=run.num_embedded,
        num_earlier=len(clips) - run.num_embedded,
        failures=in_order,
        num_rows=table.num_rows,
        audio_seconds=run.audio_seconds,
        wall_seconds=time.monotonic() - begin,
        previous=previous,
    )


def table_metadata(
    model: OpenedModel, settings: dict[str, Any], mark: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a table says of how it was made.

    Args:
        model: The encoder.
        settings: From `describe`.
        mark: What else it shall say.
    """
    return {
        **settings,
        "model": model.description,
        "kind": model.kind,
        **(mark or {}),
    }


def text(path: str) -> str:
    """A path as tables hold it, in UTF-8: names may have any bytes, see `values.names`.

    Of an address without user and password.
    """
    return names.escape(hide_logins(path) if addresses.is_address(path) else path)


def describe_summary(summary: Summary, output: pathlib.Path, dim: int) -> Iterator[str]:
    """What became of the files, as lines for a terminal.

    Args:
        summary: From `embed_files`.
        output: The table.
        dim: Values of an embedding.
    """
    if summary.num_embedded:
        yield describe_work(summary)
    if summary.num_earlier:
        yield f"skipped {summary.num_earlier} files whose content was embedded before"
    for path, reason in list(summary.failures.items())[:LISTED]:
        yield f"failed: {path}: {reason}"
    if summary.failures:
        listed = failures_path(output)
        yield f"{len(summary.failures)} files failed; {listed} names each"
    if summary.previous:
        yield (
            f"{output} held files that --input does not name; it is kept as "
            f"{summary.previous}"
        )
    if summary.num_rows:
        yield f"{output}: {summary.num_rows} rows of {dim} values"
