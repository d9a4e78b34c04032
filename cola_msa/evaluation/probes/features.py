"""Embeddings of a prepared split: computed once, kept on disk as float16.

A clip's windows are all F // 98 windows from its frame 0 on. The cache holds one
file of float16 rows a split and a JSON file beside it, which is written last: a
cache without it, or that does not agree with it, is computed again.

Files are read and written by calls, not through memory maps (see
`records.reader`).
"""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.model.folding import fold_batch_normalization
from cola_msa.records.prepared import PreparedData
from cola_msa.records.reader import fixed_bounds, open_windows
from cola_msa.records.schema import DataError
from cola_msa.records.stored import read_type
from cola_msa.records.windows import plan_windows
from cola_msa.system import files
from cola_msa.system.console import ProgressBar, progress_bar
from cola_msa.system.errors import FileError
from cola_msa.values.reading import open_regular, read_json

_CACHE_VERSION = 1
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
        rows: int64 [W], where each window lies among all of the files' windows; None
            where these are the split's, in order.
    """

    files: tuple[pathlib.Path, ...]
    file_windows: tuple[int, ...]
    dim: int
    clip_ids: np.ndarray
    clip_splits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray | None = None

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
        if len(used) == 1 and self.rows is None:
            return np.memmap(used[0], "<f2", "r", shape=(self.num_windows, self.dim))
        return self.read(0, self.num_windows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads windows start to stop into memory, float16 [stop - start, D]."""
        if self.rows is None:
            return self._read_files(start, stop)
        rows = self.rows[start:stop]
        # Clips lie in one piece each: a read a run of rows that follow one another.
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        parts = [self._read_files(int(r[0]), int(r[-1]) + 1) for r in runs if len(r)]
        return np.concatenate([np.zeros((0, self.dim), np.float16), *parts])

    def _read_files(self, start: int, stop: int) -> np.ndarray:
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

    def select(self, clips: np.ndarray) -> "EmbeddedSplit":
        """The same files, but only some clips.

        Args:
            clips: Numbers of clips, in the order wanted.
        """
        counts = np.diff(self.clip_splits)[clips]
        clip_splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(clip_splits[-1]) - np.repeat(clip_splits[:-1], counts)
        rows = np.repeat(self.clip_splits[:-1][clips], counts) + within
        return dataclasses.replace(
            self,
            clip_ids=self.clip_ids[clips],
            clip_splits=clip_splits,
            labels=self.labels[clips],
            rows=rows if self.rows is None else self.rows[rows],
        )


def join(parts: Sequence[EmbeddedSplit]) -> EmbeddedSplit:
    """Joins whole splits without copying their windows."""
    if len(parts) == 1:
        return parts[0]
    if any(part.rows is not None for part in parts):
        raise ValueError("join splits before selecting clips from them")
    counts = np.concatenate([np.diff(part.clip_splits) for part in parts])
    return EmbeddedSplit(
        files=tuple(path for part in parts for path in part.files),
        file_windows=tuple(n for part in parts for n in part.file_windows),
        dim=parts[0].dim,
        clip_ids=np.concatenate([part.clip_ids for part in parts]),
        clip_splits=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        labels=np.concatenate([part.labels for part in parts]),
    )


def embed_function(
    encoder: Encoder, frames: int, mels: int, value_type: Any = np.float16
) -> Any:
    """Compiles an encoder for windows as they are stored.

    Args:
        encoder: float32 [batch, frames, mels, 1] -> [batch, D]; called in inference
            mode where it is a Keras layer, and with the weights that it has now.
        frames: Frames of a window.
        mels: Values a frame.
        value_type: Of the windows as they are read, see `records.stored.read_type`.

    Returns:
        tf.function, value_type [batch, frames, mels] -> float16 [batch, D].
    """
    options = {"training": False} if isinstance(encoder, keras.Layer) else {}
    if isinstance(encoder, keras.Model):
        encoder = fold_batch_normalization(encoder)

    @tf.function(
        input_signature=[tf.TensorSpec([None, frames, mels], value_type)],
        autograph=False,
    )
    def embed(windows: tf.Tensor) -> tf.Tensor:
        inputs = tf.cast(windows, tf.float32)[..., tf.newaxis]
        return tf.cast(encoder(inputs, **options), tf.float16)

    return embed


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
        key: Stands for the encoder's weights; with the data's fingerprint and the
            split it names the cached file.
        batch_windows: Windows a forward pass; of waveforms an eighth.
        show_progress: Whether to show a progress bar.

    Returns:
        The embedded split, its clips in the index's order.

    Raises:
        DataError: If the data is incomplete, or the encoder gives numbers that
            float16 cannot hold.
    """
    index = data.index(split)
    plan = plan_windows(data, [split])
    num_windows = plan.num_windows
    cache_dir = pathlib.Path(cache_dir)
    manifest = data.fingerprint((split,))
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
        shape = (data.frontend.window_frames, data.frontend.num_mels)
        embed = embed_function(encoder, *shape, read_type(data.frontend))
        bounds = fixed_bounds(num_windows, data.frontend.at_once(batch_windows))
        with (
            progress_bar(
                num_windows, f"embed {split}", " windows", show_progress
            ) as bar,
            open_windows(plan, shape, bounds) as batches,
        ):
            example = np.zeros((1, *shape), read_type(data.frontend))
            dim = _write(path, identity, embed, batches, example, bar)
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


def check_finite(embeddings: np.ndarray, split: str) -> np.ndarray:
    """Returns embeddings, or refuses those that float16 cannot hold.

    Raises:
        DataError: If a value is not finite.
    """
    if not np.isfinite(embeddings).all():
        raise DataError(
            f"{split}: the encoder gives values that are not finite in float16; its "
            "run has diverged"
        )
    return embeddings


def _write(
    path: pathlib.Path,
    identity: dict[str, Any],
    embed: Callable[..., tf.Tensor],
    batches: Iterable[np.ndarray],
    example: np.ndarray,
    bar: ProgressBar,
) -> int:
    """Embeds, writes, and notes what was written; returns the dimension."""
    dim = int(embed(example).shape[-1])
    checksum = 0
    num_bytes = 0
    with files.written_path(path) as temporary, open(temporary, "r+b") as file:
        for windows in batches:
            embeddings = check_finite(embed(windows).numpy(), identity["split"])
            content = np.ascontiguousarray(embeddings, "<f2").tobytes()
            checksum = zlib.crc32(content, checksum)
            num_bytes += file.write(content)
            bar.update(len(embeddings))
    sidecar = {**identity, "dim": dim, "bytes": num_bytes, "crc32": checksum}
    files.write_json(path.with_suffix(".json"), sidecar)
    return dim


def _cached_dim(path: pathlib.Path, identity: dict[str, Any]) -> int | None:
    """The dimension of a finished cache; None where it must be computed."""
    sidecar_path = path.with_suffix(".json")
    if not (path.exists() and sidecar_path.exists()):
        return None
    try:
        sidecar = read_json(sidecar_path)
        dim = sidecar.get("dim")
        num_bytes = path.stat().st_size
        is_same = (
            all(sidecar.get(name) == value for name, value in identity.items())
            and type(dim) is int
            and 0 < dim <= num_bytes
            and sidecar.get("bytes") == num_bytes
            and dim * identity["num_windows"] * 2 == num_bytes
            and sidecar.get("crc32") == _file_crc32(path)
        )
    except (OSError, FileError):
        is_same = False
    if not is_same:
        logging.warning("%s is damaged or out of date; it is computed again", path)
        return None
    return dim


def _file_crc32(path: pathlib.Path) -> int:
    checksum = 0
    with open_regular(path) as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
