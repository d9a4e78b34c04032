"""Files of embeddings, read: what `python -m cola_msa.embed` writes, in one table.

Parquet, .npz and .h5 hold the same columns, one row a clip or a window:

    path       str, the file's path
    sha256     str, of the file's bytes
    start      float, where the row's audio begins (s)
    seconds    float, how much audio the row stands for (s)
    embedding  float32 [dim]

and, where their writer gave one, a JSON text `metadata` (schema metadata, an array or
an attribute) that says which encoder made them.
"""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cola_msa.system.errors import UserError

COLUMNS = ("path", "sha256", "start", "seconds", "embedding")
METADATA = "metadata"
SUFFIXES = (".parquet", ".npz", ".h5")


class EmbeddingFileError(UserError):
    """A file of embeddings that cannot be used; the message says why."""


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
        """One row a path, in order of first appearance: the mean over its windows."""
        first: dict[str, int] = {}
        clip = np.array([first.setdefault(p, len(first)) for p in self.paths], int)
        if len(first) == len(self.paths):
            return self
        rows = np.unique(clip, return_index=True)[1]
        counts = np.bincount(clip)
        means = np.zeros((len(first), self.embeddings.shape[1]))
        np.add.at(means, clip, self.embeddings)
        ends = np.full(len(first), -np.inf)
        np.maximum.at(ends, clip, self.starts + self.seconds)
        begins = np.full(len(first), np.inf)
        np.minimum.at(begins, clip, self.starts)
        return Embeddings(
            paths=tuple(first),
            sha256=tuple(self.sha256[row] for row in rows),
            starts=begins,
            seconds=ends - begins,
            embeddings=(means / counts[:, np.newaxis]).astype(np.float32),
            metadata=self.metadata,
        )


def load_embeddings(path: str | os.PathLike, per_clip: bool = True) -> Embeddings:
    """Reads a file of embeddings.

    Args:
        path: .parquet, .npz or .h5, see the module.
        per_clip: Average the windows of each path; else one row a window.

    Returns:
        Embeddings.

    Raises:
        EmbeddingFileError: If the file does not exist, is damaged, lacks a column,
            holds no row, or has values that are not finite.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise EmbeddingFileError(
            f"{path}: there is no such file; python -m cola_msa.embed writes one"
        )
    readers = {".parquet": _read_parquet, ".npz": _read_npz, ".h5": _read_h5}
    if path.suffix.lower() not in readers:
        raise EmbeddingFileError(
            f"{path}: embeddings are read from {', '.join(SUFFIXES)} files"
        )
    columns, metadata = readers[path.suffix.lower()](path)
    found = _checked(path, columns, metadata)
    return found.per_clip() if per_clip else found


def _checked(
    path: pathlib.Path, columns: Mapping[str, Any], metadata: str | bytes | None
) -> Embeddings:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise EmbeddingFileError(
            f"{path}: no column {', '.join(missing)}; python -m cola_msa.embed writes "
            f"{', '.join(COLUMNS)}"
        )
    try:
        values = np.asarray(columns["embedding"], np.float32)
        starts = np.asarray(columns["start"], np.float64)
        seconds = np.asarray(columns["seconds"], np.float64)
        info = json.loads(metadata) if metadata else {}
    except (TypeError, ValueError) as error:
        raise EmbeddingFileError(f"{path}: damaged ({error})") from error
    paths, hashes = (tuple(map(_text, columns[n])) for n in ("path", "sha256"))
    if not len(paths):
        raise EmbeddingFileError(f"{path}: holds no embedding")
    lengths = {len(paths), len(hashes), len(starts), len(seconds), len(values)}
    if values.ndim != 2 or len(lengths) != 1:
        raise EmbeddingFileError(f"{path}: its columns do not have the same length")
    is_bad = ~np.isfinite(values).all(axis=1)
    if is_bad.any():
        raise EmbeddingFileError(
            f"{path}: the embedding of {paths[int(np.argmax(is_bad))]} is not finite "
            f"({int(is_bad.sum())} such rows); embed these files again"
        )
    return Embeddings(
        paths, hashes, starts, seconds, values, info if isinstance(info, dict) else {}
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read_parquet(path: pathlib.Path) -> tuple[dict[str, Any], bytes | None]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise EmbeddingFileError(
            f"{path}: Parquet needs pyarrow: pip install 'cola_msa[embed]'; or embed "
            "into .npz or .h5"
        ) from error
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise EmbeddingFileError(f"{path}: not readable as Parquet: {error}") from error
    columns: dict[str, Any] = {}
    for name in set(COLUMNS) & set(table.column_names):
        column = table.column(name).combine_chunks()
        if name == "embedding":
            if not pyarrow.types.is_fixed_size_list(column.type):
                raise EmbeddingFileError(
                    f"{path}: column embedding is {column.type}, not a fixed-size list"
                )
            flat = column.flatten().to_numpy(zero_copy_only=False)
            columns[name] = flat.reshape(len(column), column.type.list_size)
        else:
            columns[name] = column.to_pylist()
    return columns, (table.schema.metadata or {}).get(METADATA.encode())


def _read_npz(path: pathlib.Path) -> tuple[dict[str, Any], str | None]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in COLUMNS if name in arrays}
            metadata = str(arrays[METADATA]) if METADATA in arrays else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EmbeddingFileError(f"{path}: not readable as .npz: {error}") from error
    return columns, metadata


def _read_h5(path: pathlib.Path) -> tuple[dict[str, Any], str | None]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            columns = {name: file[name][()] for name in COLUMNS if name in file}
            metadata = file.attrs.get(METADATA)
    except OSError as error:
        raise EmbeddingFileError(f"{path}: not readable as HDF5: {error}") from error
    return columns, metadata
