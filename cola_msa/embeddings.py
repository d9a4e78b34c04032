"""Embeddings of a prepared split: computed once, kept on disk as float16.

A clip's windows are all F // 98 windows from its frame 0 on. The cache holds one
file of float16 rows a split and a JSON file beside it, which is written last: a
cache without it, or that does not agree with it, is computed again.

Files are read and written by calls, not through memory maps, because mapped pages
count as resident: memory stays flat however many clips a split has.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from cola_msa.prepared import PreparedData
from cola_msa.record_index import Index
from cola_msa.records import DataError, manifest_hash

_CACHE_VERSION = 1
_READ_AHEAD_BATCHES = 4
Encoder = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class EmbeddedSplit:
    """Embeddings and labels of one split, or of several, one after the other.

    W windows, C clips, D dimensions (1280), K classes.

    Attributes:
        files: Files of float16 [windows, D], in order.
        file_windows: Windows of each file.
        dim: D.
        clip_ids: str [C], in the index's order.
        clip_splits: int64 [C + 1]; clip c has windows clip_splits[c] to
            clip_splits[c + 1].
        labels: float32 [C, K], multi-hot.
    """

    files: tuple[pathlib.Path, ...]
    file_windows: tuple[int, ...]
    dim: int
    clip_ids: np.ndarray
    clip_splits: np.ndarray
    labels: np.ndarray

    @property
    def num_windows(self) -> int:
        """W."""
        return int(self.clip_splits[-1])

    @property
    def num_clips(self) -> int:
        """C."""
        return len(self.clip_ids)

    @property
    def num_bytes(self) -> int:
        """Bytes of all windows."""
        return self.num_windows * self.dim * 2

    @property
    def windows(self) -> np.ndarray:
        """All windows, float16 [W, D]: memory-mapped where they lie in one file."""
        used = [f for f, n in zip(self.files, self.file_windows, strict=True) if n]
        if len(used) == 1:
            return np.memmap(used[0], "<f2", "r", shape=(self.num_windows, self.dim))
        return self.read(0, self.num_windows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads windows start to stop into memory, float16 [stop - start, D]."""
        parts, first = [], 0
        for path, count in zip(self.files, self.file_windows, strict=True):
            a, b = max(start - first, 0), min(stop - first, count)
            if a < b:
                offset = a * self.dim * 2
                flat = np.fromfile(path, "<f2", (b - a) * self.dim, offset=offset)
                parts.append(flat.reshape(b - a, self.dim))
            first += count
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros((0, self.dim), np.float16), *parts])

    def window_clips(self) -> np.ndarray:
        """Each window's clip, int64 [W]."""
        return np.repeat(np.arange(self.num_clips), np.diff(self.clip_splits))


def join(parts: Sequence[EmbeddedSplit]) -> EmbeddedSplit:
    """Joins splits without copying their windows."""
    if len(parts) == 1:
        return parts[0]
    counts = np.concatenate([np.diff(part.clip_splits) for part in parts])
    return EmbeddedSplit(
        files=tuple(path for part in parts for path in part.files),
        file_windows=tuple(n for part in parts for n in part.file_windows),
        dim=parts[0].dim,
        clip_ids=np.concatenate([part.clip_ids for part in parts]),
        clip_splits=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        labels=np.concatenate([part.labels for part in parts]),
    )


@dataclasses.dataclass(frozen=True)
class _WindowPlan:
    """Where every window of a split lies; V windows, C clips.

    Attributes:
        shard: int32 [V].
        byte_offset: int64 [V], of the window's first frame.
        clip_splits: int64 [C + 1].
    """

    shard: np.ndarray
    byte_offset: np.ndarray
    clip_splits: np.ndarray


def _plan_windows(data: PreparedData, split: str, index: Index) -> _WindowPlan:
    """Lists all windows of a split, clip by clip, from each clip's frame 0 on."""
    frames = data.frontend.window_frames
    if data.frontend.segment_frames % frames:
        raise DataError(
            f"{data.data_dir}: a segment's {data.frontend.segment_frames} frames are "
            f"no multiple of a window's {frames}, so windows would cross segments"
        )
    order = np.lexsort((index.segment, index.clip))
    clip, number = index.clip[order], index.segment[order]
    num_frames = index.num_frames[order]
    is_first = np.diff(clip, prepend=-1) != 0
    is_last = np.diff(clip, append=-1) != 0
    # A hole, or a short segment before the last, would shift the clip's windows.
    expected = np.arange(len(order)) - np.maximum.accumulate(
        np.where(is_first, np.arange(len(order)), 0)
    )
    is_wrong = (number != expected) | (
        ~is_last & (num_frames != data.frontend.segment_frames)
    )
    if is_wrong.any():
        bad = index.clip_ids[clip[np.argmax(is_wrong)]]
        raise DataError(
            f"{data.data_dir}, split {split}: clip {bad} lacks a segment; run the "
            "preparation again"
        )
    num_windows = num_frames // frames
    per_clip = np.bincount(clip, num_windows, len(index.clip_ids)).astype(np.int64)
    if len(per_clip) and per_clip.min() == 0:
        raise DataError(
            f"{data.data_dir}, split {split}: clip "
            f"{index.clip_ids[np.argmin(per_clip)]} is shorter than a window"
        )
    row = np.repeat(order, num_windows)
    starts = np.cumsum(num_windows) - num_windows
    within = np.arange(len(row)) - np.repeat(starts, num_windows)
    window_bytes = frames * data.frontend.num_mels * 2
    return _WindowPlan(
        shard=index.shard[row],
        byte_offset=index.mixture_offset[row] + within * window_bytes,
        clip_splits=np.concatenate([[0], np.cumsum(per_clip)]),
    )


class _WindowReader:
    """Reads windows of a plan from the shards, by calls of the operating system."""

    def __init__(self, data: PreparedData, index: Index, plan: _WindowPlan):
        self._paths = [data.data_dir / str(name) for name in index.shards]
        self._plan = plan
        self._shape = (data.frontend.window_frames, data.frontend.num_mels)
        self._open: tuple[int, int] | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Windows start to stop, float16 [stop - start, frames, mels]."""
        windows = np.empty((stop - start, *self._shape), "<f2")
        for row, position in enumerate(range(start, stop)):
            shard = int(self._plan.shard[position])
            if self._open is None or self._open[0] != shard:
                self.close()
                self._open = (shard, os.open(self._paths[shard], os.O_RDONLY))
            offset = int(self._plan.byte_offset[position])
            if os.preadv(self._open[1], [windows[row]], offset) != windows[row].nbytes:
                raise DataError(f"{self._paths[shard]}: ends too early")
        return windows

    def close(self) -> None:
        """Closes the shard that is open."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def progress_bar(total: int, title: str, unit: str, is_shown: bool = True) -> tqdm.tqdm:
    """A progress bar with rate and remaining time; rare lines in a file."""
    return tqdm.tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=True,
        disable=not is_shown,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        dynamic_ncols=True,
    )


def _embed_function(encoder: Encoder, frames: int, mels: int) -> Any:
    options = {"training": False} if isinstance(encoder, keras.Layer) else {}

    @tf.function(
        input_signature=[tf.TensorSpec([None, frames, mels], tf.float16)],
        autograph=False,
    )
    def embed(windows: tf.Tensor) -> tf.Tensor:
        log_mel = tf.cast(windows, tf.float32)[..., tf.newaxis]
        return tf.cast(encoder(log_mel, **options), tf.float16)

    return embed


def read_ahead(items: Iterator[Any], depth: int = 1) -> Iterator[Any]:
    """Makes the next `depth` items in a thread while the current one is worked on.

    Not tf.data's prefetch, which determinism of operations switches off for Python
    functions.

    Args:
        items: What to make; it is only asked from the one thread.
        depth: Items made ahead.

    Yields:
        The items, in order.
    """
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        upcoming = collections.deque(
            executor.submit(next, items, end) for _ in range(depth)
        )
        while (item := upcoming.popleft().result()) is not end:
            upcoming.append(executor.submit(next, items, end))
            yield item


def embed_split(
    encoder: Encoder,
    data: PreparedData,
    split: str,
    cache_dir: str | os.PathLike,
    key: str,
    *,
    batch_windows: int = 256,
    show_progress: bool = True,
) -> EmbeddedSplit:
    """Embeds every window of a split, or reads what an earlier call kept.

    Args:
        encoder: float32 [batch, frames, mels, 1] -> [batch, D], in inference mode.
        data: The prepared data.
        split: One of its splits.
        cache_dir: Where embeddings are kept.
        key: Stands for the encoder's weights; with the manifest's hash and the
            split it names the cached file.
        batch_windows: Windows a forward pass.
        show_progress: Whether to show a progress bar.

    Returns:
        The embedded split, its clips in the index's order.

    Raises:
        DataError: If the data is incomplete, or the encoder gives numbers that
            float16 cannot hold.
    """
    index = data.index(split)
    plan = _plan_windows(data, split, index)
    num_windows = int(plan.clip_splits[-1])
    cache_dir = pathlib.Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    manifest = manifest_hash(data.data_dir)
    path = cache_dir / f"{split}-{key}-{manifest}.f16"
    identity = {
        "version": _CACHE_VERSION,
        "key": key,
        "manifest": manifest,
        "split": split,
        "num_windows": num_windows,
    }
    dim = _cached_dim(path, identity)
    if dim is None:
        reader = _WindowReader(data, index, plan)
        shape = (data.frontend.window_frames, data.frontend.num_mels)
        embed = _embed_function(encoder, *shape)
        batches = read_ahead(
            (
                reader.read(start, min(start + batch_windows, num_windows))
                for start in range(0, num_windows, batch_windows)
            ),
            _READ_AHEAD_BATCHES,
        )
        try:
            with progress_bar(
                num_windows, f"embed {split}", " windows", show_progress
            ) as bar:
                dim = _write(path, identity, embed, batches, shape, bar)
        finally:
            reader.close()
    else:
        logging.info("Embeddings of %s read from %s", split, path)
    return EmbeddedSplit(
        files=(path,),
        file_windows=(num_windows,),
        dim=dim,
        clip_ids=index.clip_ids,
        clip_splits=plan.clip_splits.astype(np.int64),
        labels=index.label_matrix(len(data.class_names)),
    )


def _write(
    path: pathlib.Path,
    identity: dict[str, Any],
    embed: Callable[..., tf.Tensor],
    batches: Iterator[np.ndarray],
    shape: tuple[int, int],
    bar: tqdm.tqdm,
) -> int:
    """Embeds, writes under a temporary name, renames; returns the dimension."""
    # The process's number, so that two commands over the same data do not mix.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    dim = int(embed(tf.zeros([1, *shape], tf.float16)).shape[-1])
    checksum = 0
    try:
        with open(temporary, "wb") as file:
            for windows in batches:
                embeddings = embed(windows).numpy()
                if not np.isfinite(embeddings).all():
                    raise DataError(
                        f"{identity['split']}: the encoder gives values that are not "
                        "finite in float16; its run has diverged"
                    )
                content = np.ascontiguousarray(embeddings, "<f2").tobytes()
                checksum = zlib.crc32(content, checksum)
                file.write(content)
                bar.update(len(embeddings))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    sidecar = {**identity, "dim": dim, "bytes": path.stat().st_size, "crc32": checksum}
    temporary.write_text(json.dumps(sidecar, indent=1) + "\n")
    os.replace(temporary, path.with_suffix(".json"))
    return dim


def _cached_dim(path: pathlib.Path, identity: dict[str, Any]) -> int | None:
    """The dimension of a finished cache; None where it must be computed."""
    sidecar_path = path.with_suffix(".json")
    if not (path.exists() and sidecar_path.exists()):
        return None
    try:
        sidecar = json.loads(sidecar_path.read_text())
        is_same = all(sidecar.get(name) == value for name, value in identity.items())
    except ValueError:
        is_same = False
    if (
        not is_same
        or sidecar["bytes"] != path.stat().st_size
        or sidecar["crc32"] != _file_crc32(path)
    ):
        logging.warning("%s is damaged or out of date; it is computed again", path)
        return None
    return int(sidecar["dim"])


def _file_crc32(path: pathlib.Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
