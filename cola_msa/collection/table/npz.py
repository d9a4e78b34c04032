"""Embeddings in .npz: arrays in a zip, from anybody."""

import math
import pathlib
import zipfile
from typing import Any

import numpy as np

from cola_msa.collection.table.checks import (
    COLUMNS,
    MAX_METADATA_BYTES,
    METADATA,
    NUMBERS,
    TEXTS,
    Column,
    EmbeddingFileError,
    check_columns,
    check_texts,
    unreadable,
)
from cola_msa.values.arrays import DAMAGES

_KINDS = {"U": "text", "S": "text", "f": "number", "i": "number", "u": "number"}
_ARRAY = b"\x93NUMPY"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def column_of(shape: tuple[int, ...], dtype: np.dtype) -> Column:
    """What an array is as a column."""
    num_bytes = math.prod(shape) * dtype.itemsize
    return Column(_KINDS.get(dtype.kind, ""), shape, num_bytes, str(dtype))


class NpzReader:
    """A .npz of embeddings; it is read whole. See `embedding_checks.Reader`."""

    def __init__(self, path: pathlib.Path):
        """Opens, checks and reads a file.

        Raises:
            EmbeddingFileError: If it cannot be used.
        """
        self._path = path
        try:
            with open(path, "rb") as file:
                if file.read(len(_ARRAY)) == _ARRAY:
                    raise unreadable(path, ".npz", "it is one array, a .npy")
            with zipfile.ZipFile(path) as archive:
                self._read_archive(archive)
        except EmbeddingFileError:
            raise
        except (*DAMAGES, TypeError) as error:
            raise unreadable(path, ".npz", error) from error

    def _read_archive(self, archive: zipfile.ZipFile) -> None:
        members: dict[str, zipfile.ZipInfo] = {}
        for item in archive.infolist():
            name = item.filename.removesuffix(".npy")
            if name == item.filename or name not in (*COLUMNS, METADATA):
                continue
            if name in members:
                raise unreadable(self._path, ".npz", f"it holds {name} twice")
            if item.flag_bits & 1:
                raise unreadable(self._path, ".npz", f"{name} is encrypted")
            if item.compress_type not in _METHODS:
                raise unreadable(
                    self._path, ".npz", f"{name} is compressed by an unknown method"
                )
            members[name] = item
        described = {name: self._describe(archive, members[name]) for name in members}
        metadata = described.pop(METADATA, Column("text", (), 0, ""))
        if metadata[:2] != ("text", ()) or metadata.num_bytes > MAX_METADATA_BYTES:
            raise EmbeddingFileError(f"{self._path}: metadata: not one short text")
        self.num_rows, self.dim = check_columns(self._path, described)
        self._arrays = {}
        for name, item in members.items():
            with archive.open(item) as member:
                self._arrays[name] = np.lib.format.read_array(
                    member, allow_pickle=False
                )
                member.read()  # to its end, where the checksum is compared

    def _describe(self, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> Column:
        with archive.open(item) as member:
            version = np.lib.format.read_magic(member)
            if version not in _HEADERS:
                raise ValueError(f"{item.filename}: an array of version {version}")
            shape, _, dtype = _HEADERS[version](member)
            num_bytes = math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise ValueError(
                    f"{item.filename} holds Python objects, which could run code"
                )
            if min(shape, default=0) < 0 or item.file_size - member.tell() != num_bytes:
                raise ValueError(f"{item.filename} is not as long as it says")
        return column_of(shape, dtype)

    def metadata(self) -> str | bytes | None:
        """JSON that says what made it; None where there is none."""
        return self._arrays[METADATA].item() if METADATA in self._arrays else None

    def columns(self) -> dict[str, Any]:
        """All but the embeddings: lists of str, arrays of float64, by name."""
        found: dict[str, Any] = {
            name: np.asarray(self._arrays[name], np.float64) for name in NUMBERS
        }
        for name in TEXTS:
            try:
                values = self._arrays[name].tolist()
            except (ValueError, SystemError) as error:  # numbers, no characters
                raise EmbeddingFileError(
                    f"{self._path}: column {name}: no text ({error})"
                ) from error
            found[name] = check_texts(self._path, name, values)
        return found

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Embeddings, float32 [num_rows, dim]."""
        rows = self._arrays["embedding"][first_row : first_row + num_rows]
        with np.errstate(over="ignore"):  # infinity, which is refused
            return np.asarray(rows, np.float32)

    def close(self) -> None:
        """Lets go of the arrays."""
        self._arrays.clear()
