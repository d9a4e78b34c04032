"""Embeddings in HDF5, from anybody: values that lie in the file, and unpack to bounds.

HDF5 can keep values in other files, compute them from others, and unpack a chunk to any
size before it looks how large the chunk should be.
"""

import math
import mmap
import pathlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cola_msa.collection.table.checks import (
    COLUMNS,
    MAX_METADATA_BYTES,
    MAX_TEXT,
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
_BLOCK_ROWS = 4096  # of text, read at once
_PACKED_BYTES = 1024  # by which a packed chunk may be larger
# How a text lies in an array of HDF5: it is elsewhere in the file. A thousand rows may
# have the same, and memory is taken for the length that is stated here.
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
# Where they lie: a head, then of each its number, 0 for free space, and its bytes.
_HEAP = b"GCOL\1\0\0\0"
_HEAP_HEAD = struct.Struct("<8xQ")
_HEAP_TEXT = struct.Struct("<H6xQ")
# An attribute: its version, what stands before its name, and to what its name, its type
# and its shape are padded before its value.
_ATTRIBUTES = ((1, 8, 8), (2, 8, 1), (3, 9, 1))
_ATTRIBUTE_SIZES = struct.Struct("<xx3H")
_DAMAGES = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    MemoryError,
    zlib.error,
)


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
            if self._file.id.get_create_plist().get_sizes()[0] != 8:
                raise unreadable(path, "HDF5", "its addresses have not 8 bytes")
            described = {}
            for name in COLUMNS:
                links = self._file.id.links
                if not links.exists(name.encode()):
                    continue
                if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                    raise unreadable(path, "HDF5", f"column {name} is a link")
                described[name] = self._describe(name)
            self.num_rows, self.dim = check_columns(path, described)
            _check_heaps(path)
            for name in COLUMNS:  # once it is known how large a chunk may be
                self._check_storage(name)
            self._check_metadata()
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
        num_bytes = size * _width(item)
        return Column(kind, item.shape, num_bytes, str(item.dtype))

    def _check_storage(self, name: str) -> None:
        """Refuses chunks and texts that are larger than they should be."""
        item = self._file[name]
        chunks: Iterable[bytes] = ()
        is_text = item.dtype.hasobject  # of any length
        if item.chunks is not None:
            chunks = self._unpack(name)
        elif is_text and item.id.get_offset() is not None:
            chunks = self._blocks(item)
        elif is_text and item.id.get_storage_size():  # in the header
            raise self._refuse(name, "its texts lie where they are not read from")
        for chunk in chunks:
            if not is_text:
                continue
            # Of each text its length, and where it lies.
            lengths = np.frombuffer(chunk, _REFERENCE)["length"]
            if lengths.max(initial=0) > MAX_TEXT:
                raise self._refuse(
                    name, f"a text of {lengths.max():,} bytes, more than a path has"
                )

    def _blocks(self, item: Any) -> Iterator[bytes]:
        """Yields what lies in the file of an array that is no chunks."""
        width = _width(item)
        with open(self._path, "rb") as file:
            file.seek(item.id.get_offset())
            for first in range(0, item.size, _BLOCK_ROWS):
                count = min(_BLOCK_ROWS, item.size - first)
                yield file.read(count * width)

    def _unpack(self, name: str) -> Iterator[bytes]:
        """Yields chunks without their filters; not what LZF has packed.

        Raises:
            EmbeddingFileError: If one unpacks to more than a chunk's size.
        """
        item = self._file[name]
        properties = item.id.get_create_plist()
        filters = [
            properties.get_filter(number)[0]
            for number in range(properties.get_nfilters())
        ]
        packers = [number for number in filters if number in (_DEFLATE, _LZF)]
        later = filters[filters.index(packers[0]) + 1 :] if packers else []
        if (
            set(filters) - {_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF}
            or len(set(filters)) < len(filters)
            or len(packers) > 1
            or set(later) - {_FLETCHER32}
            or (packers == [_LZF] and item.dtype.hasobject)
        ):
            raise self._refuse(
                name,
                f"stored by filters {', '.join(map(str, filters))}, which are not "
                "read; write it with gzip, or without",
            )
        chunks: list[Any] = []
        item.id.chunk_iter(chunks.append)
        width = _width(item)
        size = math.prod(item.chunks) * width
        most = size + filters.count(_FLETCHER32) * _CHECKSUM_BYTES
        for chunk in chunks:
            used = [n for k, n in enumerate(filters) if not chunk.filter_mask >> k & 1]
            is_packed = bool({_DEFLATE, _LZF} & set(used))
            content = b""
            is_whole = chunk.size <= most + (_PACKED_BYTES if is_packed else 0)
            if is_whole and _LZF not in used:
                content = item.id.read_direct_chunk(chunk.chunk_offset)[1]
            if _DEFLATE in used:
                content = zlib.decompressobj().decompress(content, most + 1)
                is_whole &= len(content) <= most
            if not is_whole:
                raise self._refuse(
                    name,
                    "a chunk is larger than it says: damaged, or made to fill memory",
                )
            content = content[:size]
            if _SHUFFLE in used:
                table = np.frombuffer(content, np.uint8)[
                    : len(content) // width * width
                ]
                content = table.reshape(width, -1).T.tobytes()
            yield content

    def _refuse(self, name: str, reason: str) -> EmbeddingFileError:
        return EmbeddingFileError(f"{self._path}: column {name}: {reason}")

    def _check_metadata(self) -> None:
        """Refuses metadata that is anything but one text of a bounded length."""
        import h5py

        name = METADATA.encode()
        if not h5py.h5a.exists(self._file.id, name):
            return
        num_bytes = h5py.h5a.get_info(self._file.id, name).data_size
        is_text = num_bytes <= MAX_METADATA_BYTES
        if is_text:
            attribute = h5py.h5a.open(self._file.id, name)
            kind = attribute.get_type()
            is_text = isinstance(kind, h5py.h5t.TypeStringID)
            is_text &= attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
            if is_text and kind.is_variable_str():
                stated = _stated_lengths(self._path, name + b"\0")
                # Where no length is found it would be taken on trust.
                is_text = 0 < len(stated) and max(stated) <= MAX_METADATA_BYTES
        if not is_text:
            raise EmbeddingFileError(f"{self._path}: metadata: not one short text")

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
        item = self._file[name]
        found: list[str] = []
        known: dict[Any, str] = {}
        for first in range(0, self.num_rows, _BLOCK_ROWS):
            values = item[first : first + _BLOCK_ROWS].tolist()
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


def _check_heaps(path: pathlib.Path) -> None:
    """Refuses a file in whose texts HDF5 would look for the next one forever."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        place = content.find(_HEAP)
        while 0 <= place <= len(content) - _HEAP_HEAD.size:
            (size,) = _HEAP_HEAD.unpack_from(content, place)
            end = min(place + size, len(content)) - _HEAP_TEXT.size
            position = place + _HEAP_HEAD.size
            while position <= end:
                number, size = _HEAP_TEXT.unpack_from(content, position)
                if not number and size < _HEAP_TEXT.size:
                    raise unreadable(path, "HDF5", "a heap of texts is damaged")
                header = _HEAP_TEXT.size if number else 0
                position += header + size + -size % 8
            place = content.find(_HEAP, place + 1)


def _stated_lengths(path: pathlib.Path, name: bytes) -> list[int]:
    """Lengths of texts that attributes of a name state, wherever they lie in the file.

    HDF5 takes memory for such a length before it looks for the text.
    """
    found = []
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        place = content.find(name)
        while place >= 0:
            for version, head_bytes, unit in _ATTRIBUTES:
                start = place - head_bytes
                if start < 0 or content[start] != version:
                    continue
                sizes = _ATTRIBUTE_SIZES.unpack_from(content, start)
                first = place + sum(size + -size % unit for size in sizes)
                text = content[first : first + _REFERENCE.itemsize]
                if sizes[0] == len(name) and len(text) == _REFERENCE.itemsize:
                    found.append(int(np.frombuffer(text, _REFERENCE)["length"][0]))
            place = content.find(name, place + 1)
    return found


def _width(item: Any) -> int:
    """Bytes of one of an array's values, in its own place in the file."""
    return _REFERENCE.itemsize if item.dtype.hasobject else item.dtype.itemsize
