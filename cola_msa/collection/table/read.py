"""Files of embeddings, read: what `python -m cola_msa.embed` writes, in one table.

Parquet, .npz and .h5 hold the same columns, one row a clip or a window:

    path       str, the file's path
    sha256     str, of the file's bytes
    start      float, where the row's audio begins (s)
    seconds    float, how much audio the row stands for (s)
    embedding  float32 [dim]

and, where their writer gave one, a JSON text `metadata` (schema metadata, an array or
an attribute) that says which encoder made them. Other programs may have written them:
the columns count, not their order, and not what else there is. A folder of Parquet
files is one table, see `dataset`.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cola_msa.collection.table.checks import EmbeddingFileError, Reader
from cola_msa.collection.table.dataset import DatasetReader
from cola_msa.collection.table.h5 import H5Reader
from cola_msa.collection.table.npz import NpzReader
from cola_msa.collection.table.parquet import ParquetReader
from cola_msa.remote import addresses
from cola_msa.system.errors import hide_logins
from cola_msa.values.arrays import row_blocks

_READERS: dict[str, Callable[[pathlib.Path], Reader]] = {
    ".parquet": ParquetReader,
    ".npz": NpzReader,
    ".h5": H5Reader,
}
SUFFIXES = tuple(_READERS)


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Rows of embeddings; n rows of `dim` values.

    Attributes:
        paths: n paths, as they were given to `embed`.
        sha256: n hashes of the files' bytes.
        starts: float64 [n], seconds.
        seconds: float64 [n].
        embeddings: float32 [n, dim].
        metadata: What is known of the encoder; `model_hash` names its weights.
    """

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    starts: np.ndarray
    seconds: np.ndarray
    embeddings: np.ndarray
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def model_hash(self) -> str | None:
        """Names the encoder's weights; None where the file does not say."""
        return self.metadata.get("model_hash")

    def per_clip(self) -> "Embeddings":
        """One row a path, in order of first appearance, of all its windows.

        Their mean, and behind it their deviation where the encoder's clips have it.
        """
        with_deviation = has_deviation(self.metadata)
        first: dict[str, int] = {}
        clip = np.array([first.setdefault(p, len(first)) for p in self.paths], int)
        if len(first) == len(self.paths) and not with_deviation:
            return self
        rows = np.unique(clip, return_index=True)[1]
        counts = np.bincount(clip)
        means = np.zeros((len(first), self.embeddings.shape[1]))
        np.add.at(means, clip, self.embeddings)
        means /= counts[:, np.newaxis]
        if with_deviation:
            squares = np.zeros(means.shape)
            np.add.at(squares, clip, np.square(self.embeddings, dtype=np.float64))
            variance = squares / counts[:, np.newaxis] - np.square(means)
            means = np.concatenate([means, np.sqrt(np.maximum(variance, 0.0))], axis=1)
        ends = np.full(len(first), -np.inf)
        np.maximum.at(ends, clip, self.starts + self.seconds)
        begins = np.full(len(first), np.inf)
        np.minimum.at(begins, clip, self.starts)
        return Embeddings(
            paths=tuple(first),
            sha256=tuple(self.sha256[row] for row in rows),
            starts=begins,
            seconds=ends - begins,
            embeddings=means.astype(np.float32),
            metadata=self.metadata,
        )


def has_deviation(metadata: dict[str, Any]) -> bool:
    """Whether a clip's embedding is its windows' mean and behind it their deviation."""
    return (
        metadata.get("per") == "window" and metadata.get("clip_embedding") == "moments"
    )


def open_reader(path: str | os.PathLike) -> Reader:
    """Opens a file or a folder of embeddings; what it declares is checked.

    Args:
        path: .parquet, .npz or .h5, or a folder of .parquet files, see the module.

    Returns:
        What reads it; of a folder only the shards that rows are asked of.

    Raises:
        EmbeddingFileError: If the file does not exist, is damaged, lacks a column, has
            one of another type or length, or is made to fill memory; if of a folder's
            shards one is missing, or another encoder's than the first.
    """
    if addresses.is_address(path) and not os.path.exists(path):
        raise EmbeddingFileError(
            f"{hide_logins(os.fspath(path))}: is an address, and embeddings are read "
            "from local files: copy it first: python -m data_prep.copy"
        )
    path = pathlib.Path(path)
    if path.is_dir():
        return DatasetReader(path)
    if not path.is_file():
        raise EmbeddingFileError(
            f"{path}: there is no such file; python -m cola_msa.embed writes one"
        )
    if path.suffix.lower() not in _READERS:
        raise EmbeddingFileError(
            f"{path}: embeddings are read from {', '.join(SUFFIXES)} files"
        )
    return _READERS[path.suffix.lower()](path)


def load_embeddings(path: str | os.PathLike, per_clip: bool = True) -> Embeddings:
    """Reads a file or a folder of embeddings.

    Args:
        path: .parquet, .npz or .h5, or a folder of .parquet files, see the module.
        per_clip: Average the windows of each path; else one row a window.

    Returns:
        Embeddings.

    Raises:
        EmbeddingFileError: As `open_reader`; if it holds no row, has values that
            are not finite, or clips are wanted and two contents have one path.
    """
    reader = open_reader(path)
    try:
        if not reader.num_rows:
            raise EmbeddingFileError(f"{path}: holds no embedding")
        metadata = parse_metadata(path, reader.metadata())
        columns = reader.columns()
        rows = reader.read(0, reader.num_rows)
    finally:
        reader.close()
    found = Embeddings(
        tuple(columns["path"]),
        tuple(columns["sha256"]),
        columns["start"],
        columns["seconds"],
        rows,
        metadata,
    )
    check_values(path, found)
    if not per_clip:
        return found
    check_contents(path, found)
    return found.per_clip()


def check_contents(path: str | os.PathLike, table: Embeddings) -> None:
    """Refuses two files under one path: their mean is neither's embedding.

    Raises:
        EmbeddingFileError: If there are such.
    """
    contents: dict[str, str] = {}
    mixed = [
        name
        for name, digest in zip(table.paths, table.sha256, strict=True)
        if contents.setdefault(name, digest) != digest
    ]
    if mixed:
        raise EmbeddingFileError(
            f"{path}: rows of {mixed[0]} have different sha256 ({len(mixed)} such "
            "rows): two files of one name; give tracks of different folders paths of "
            "their own"
        )


def parse_metadata(path: str | os.PathLike, text: str | bytes | None) -> dict[str, Any]:
    """What a reader's `metadata` says of the encoder; an empty dict where nothing.

    Raises:
        EmbeddingFileError: If it is not what `embed` writes.
    """
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise EmbeddingFileError(f"{path}: metadata: no JSON ({error})") from error
    check_metadata(path, found)
    return found


def check_metadata(path: str | os.PathLike, metadata: Any) -> None:
    """Raises EmbeddingFileError where it is not what `embed` writes, or nothing."""
    if not isinstance(metadata, dict):
        raise EmbeddingFileError(f"{path}: metadata: no JSON object")
    if not isinstance(metadata.get("model_hash"), str | None):
        raise EmbeddingFileError(f"{path}: metadata: model_hash is no text")
    hop = metadata.get("hop_seconds")
    if hop is not None and not (
        isinstance(hop, int | float) and np.isfinite(hop) and hop > 0
    ):
        raise EmbeddingFileError(f"{path}: metadata: hop_seconds is no duration")


def check_values(path: str | os.PathLike, table: Embeddings) -> None:
    """Refuses values that are not finite; the message names column, file and count.

    Raises:
        EmbeddingFileError: If there are any.
    """
    values = {"start": table.starts, "seconds": table.seconds}
    for name, column in {**values, "embedding": table.embeddings}.items():
        is_bad = np.zeros(len(column), bool)
        for first, rows in row_blocks(column):
            is_finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
            is_bad[first : first + len(rows)] = ~is_finite
        if is_bad.any():
            raise EmbeddingFileError(
                f"{path}: column {name}: the value of "
                f"{table.paths[int(np.argmax(is_bad))]} is not finite "
                f"({int(is_bad.sum())} such rows); embed these files again"
            )
