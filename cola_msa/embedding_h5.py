"""Embeddings in HDF5, from anybody: values that lie in the file, and unpack to bounds.

HDF5 can keep values in other files, compute them from others, and unpack a chunk to any
size before it looks how large the chunk should be.
"""

import math
import os
import pathlib
import zlib
from typing import Any

import numpy as np

from cola_msa.embedding_checks import (
    COLUMNS,
    FREE_BYTES,
    METADATA,
    NUMBERS,
    TEXTS,
    Column,
    EmbeddingFileError,
    check_columns,
    check_texts,
    unreadable,
)

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_CHECKSUM_BYTES = 4
_MIN_BLOCK, _MAX_BLOCK = 16, 1 << 16  # rows of text that are read at once
_DAMAGES = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)


class H5Reader:
    """An .h5 of embeddings. See `embedding_checks.Reader`."""

    def __init__(self, path: pathlib.Path):
        """Opens and checks a file.

        Raises:
            EmbeddingFileError: If it cannot be used.
        """
        import h5py

        self._path = path
        try:
            self._file = h5py.File(path, "r")
        except _DAMAGES as error:
            raise unreadable(path, "HDF5", error) from error
        try:
            described = {}
            for name in COLUMNS:
                links = self._file.id.links
                if not links.exists(name.encode()):
                    continue
                if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                    raise unreadable(path, "HDF5", f"column {name} is a link")
                described[name] = self._describe(name)
            self.num_rows, self.dim = check_columns(path, described)
            for name in COLUMNS:  # once it is known how large a chunk may be
                self._check_chunks(name)
        except EmbeddingFileError:
            self.close()
            raise
        except _DAMAGES as error:
            self.close()
            raise unreadable(path, "HDF5", error) from error

    def _describe(self, name: str) -> Column:
        import h5py

        item = self._file[name]
        if not isinstance(item, h5py.Dataset):
            return Column("", (), 0, "a group")
        if item.external or item.is_virtual:
            raise EmbeddingFileError(
                f"{self._path}: the values of column {name} do not lie in the file"
            )
        is_text = h5py.check_string_dtype(item.dtype) is not None
        kind = "text" if is_text else "number" if item.dtype.kind in "fiu" else ""
        if item.shape is None:
            return Column(kind, (), 0, "empty")
        size = max(math.prod(item.shape), math.prod(item.chunks or ()))
        num_bytes = size * item.dtype.itemsize
        return Column(kind, item.shape, num_bytes, str(item.dtype))

    def _check_chunks(self, name: str) -> None:
        """Refuses chunks that unpack to more than a chunk's size."""
        item = self._file[name]
        if item.chunks is None:
            return
        properties = item.id.get_create_plist()
        filters = [
            properties.get_filter(number)[0]
            for number in range(properties.get_nfilters())
        ]
        packers = [number for number in filters if number in (_DEFLATE, _LZF)]
        unknown = set(filters) - {_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF}
        later = filters[filters.index(packers[0]) + 1 :] if packers else []
        if unknown or len(packers) > 1 or set(later) - {_FLETCHER32}:
            raise EmbeddingFileError(
                f"{self._path}: column {name} is stored by filters that are not read "
                f"({', '.join(map(str, filters))}); write it with gzip, or without"
            )
        chunks: list[Any] = []
        item.id.chunk_iter(chunks.append)
        num_checksums = filters.count(_FLETCHER32)
        size = math.prod(item.chunks) * item.dtype.itemsize
        most = size + num_checksums * _CHECKSUM_BYTES
        for chunk in chunks:
            is_packed = packers and not chunk.filter_mask & (
                1 << filters.index(packers[0])
            )
            is_whole = chunk.size <= most + (1024 if is_packed else 0)
            if is_whole and is_packed and packers[0] == _DEFLATE:
                packed = item.id.read_direct_chunk(chunk.chunk_offset)[1]
                is_whole = (
                    len(zlib.decompressobj().decompress(packed, most + 1)) <= most
                )
            if not is_whole:
                raise EmbeddingFileError(
                    f"{self._path}: column {name}: a chunk is larger than it says: "
                    "damaged, or made to fill memory"
                )

    def metadata(self) -> str | bytes | None:
        """JSON that says what made it; None where there is none."""
        try:
            value = self._file.attrs.get(METADATA)
        except _DAMAGES as error:
            raise unreadable(self._path, "HDF5", error) from error
        if value is not None and not isinstance(value, str | bytes):
            raise EmbeddingFileError(f"{self._path}: metadata: not one text")
        return value

    def columns(self) -> dict[str, Any]:
        """Reads all but the embeddings: lists of str, arrays of float64, by name."""
        try:
            found: dict[str, Any] = {
                name: np.asarray(self._file[name][()], np.float64) for name in NUMBERS
            }
            return found | {name: self._read_texts(name) for name in TEXTS}
        except EmbeddingFileError:
            raise
        except _DAMAGES as error:
            raise unreadable(self._path, "HDF5", error) from error

    def _read_texts(self, name: str) -> list[str]:
        # Texts lie elsewhere in the file, and many rows may have the same: so few are
        # read at once that it is no matter how long they are.
        elsewhere = os.path.getsize(self._path) - sum(
            self._file[column].id.get_storage_size() for column in COLUMNS
        )
        block = FREE_BYTES // max(elsewhere, 1)
        block = min(max(block, _MIN_BLOCK), _MAX_BLOCK)
        item = self._file[name]
        found: list[str] = []
        known: dict[Any, str] = {}
        for first in range(0, self.num_rows, block):
            values = item[first : first + block].tolist()
            found += check_texts(self._path, name, values, first + 1, known)
        return found

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Reads embeddings, float32 [num_rows, dim]."""
        try:
            rows = self._file["embedding"][first_row : first_row + num_rows]
        except _DAMAGES as error:
            raise unreadable(self._path, "HDF5", error) from error
        with np.errstate(over="ignore"):  # infinity, which is refused
            return np.asarray(rows, np.float32)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
