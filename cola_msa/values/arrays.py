"""Arrays and states in files, written whole or not at all and read with checks.

`system.files` writes; this knows arrays, and whose error it is. Nothing here knows what
the files are for.
"""

import json
import math
import mmap
import os
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO, Any, BinaryIO, Literal

import numpy as np

from cola_msa.system import files
from cola_msa.system.errors import RunError
from cola_msa.values.reading import open_regular

STATE = "state"  # name of the array that holds JSON
# What NumPy and zipfile raise on files that are cut off, overwritten or not theirs.
DAMAGES = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_READ_BYTES = 1 << 20
# What stands before an entry's bytes in a zip, its name and what is extra.
_LOCAL_HEADER = struct.Struct("<26xHH")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        RunError: If it cannot be written; what was at `path` before is still there.
    """
    files.write_bytes(path, content, RunError)


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Writes JSON as `write_bytes` does."""
    files.write_json(path, values, RunError)


def write_arrays(
    path: pathlib.Path, arrays: dict[str, np.ndarray], state: dict[str, Any]
) -> None:
    """Writes arrays and a JSON state to one .npz file.

    Raises:
        RunError: If it cannot be written.
    """
    files.write_file(path, lambda file: save_arrays(file, arrays, state), RunError)


def save_arrays(
    file: Any, arrays: dict[str, np.ndarray], state: dict[str, Any]
) -> None:
    """As `write_arrays`, into a file that is open already."""
    named: dict[str, Any] = {**arrays, STATE: np.array(json.dumps(state))}
    np.savez(file, **named)


def read_state(path: str | os.PathLike) -> dict[str, Any] | None:
    """The JSON state of `write_arrays`'s file; None of any other file."""
    try:
        with open_regular(path) as file:
            check_stored(file, os.fstat(file.fileno()).st_size)
            with np.load(file, allow_pickle=False) as arrays:
                state = json.loads(str(arrays[STATE]))
    except (*DAMAGES, TypeError, AttributeError, RecursionError, IndexError):
        return None
    return state if isinstance(state, dict) else None


def read_arrays(
    path: pathlib.Path, mapped: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Reads every array of `write_arrays`'s file; zip's checksums are compared.

    Arrays must lie in the file as they are, as they are written: what is compressed may
    be a thousand times larger than its file.

    Args:
        path: The file.
        mapped: Names of arrays that stay in the file; `row_blocks` reads them.

    Raises:
        RunError: If the file is damaged.
    """
    try:
        with open_regular(path) as file:
            check_stored(file, os.fstat(file.fileno()).st_size)
            with np.load(file, allow_pickle=False) as arrays:
                return {
                    name: _map_array(file, arrays.zip, f"{name}.npy")
                    if name in mapped
                    else arrays[name]
                    for name in arrays.files
                }
    except DAMAGES as error:
        reason = " ".join(repr(error).split())[:300]
        raise RunError(f"{path}: damaged checkpoint ({reason})") from error


def _map_array(file: BinaryIO, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array where it lies, once its bytes were compared with their checksum."""
    entry = archive.getinfo(name)
    with archive.open(entry) as member:
        while member.read(_READ_BYTES):
            pass
    return _map_entry(file, entry)


def _map_entry(file: BinaryIO, entry: zipfile.ZipInfo) -> np.ndarray:
    """An array where it lies; its bytes are not looked at."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed")
    file.seek(entry.header_offset)
    local = file.read(_LOCAL_HEADER.size)
    file.seek(sum(_LOCAL_HEADER.unpack(local)), os.SEEK_CUR)
    version = np.lib.format.read_magic(file)
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects, which could run code")
    if not math.prod(shape):  # nothing can be mapped
        return np.zeros(shape, dtype)
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order)


def map_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """Maps every array of an archive, by name; their bytes are not looked at.

    Args:
        file: The archive; it may be closed afterwards.

    Raises:
        Exception: One of DAMAGES, if they do not lie in it as they are.
    """
    check_stored(file, os.fstat(file.fileno()).st_size)
    with zipfile.ZipFile(file) as archive:
        return {
            entry.filename.removesuffix(".npy"): _map_entry(file, entry)
            for entry in archive.infolist()
        }


def release_pages(values: np.ndarray) -> None:
    """Gives the pages of a memory-mapped array back that were read; else nothing."""
    if isinstance(values.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        values.base.madvise(mmap.MADV_DONTNEED)


def new_mapped(
    path: pathlib.Path, shape: tuple[int, ...], dtype: type | str
) -> np.ndarray:
    """A file of zeros as an array that can be written to.

    The disk gives its space now: a write to a mapped page that it has no space for
    would end the process.

    Raises:
        OSError: If the disk has too little.
    """
    size = np.dtype(dtype).itemsize * math.prod(shape)
    with open(path, "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "r+", shape=shape)


def write_raw(file: IO[bytes], values: np.ndarray) -> None:
    """Writes an array's bytes; what `ndarray.tofile` raises names no cause.

    Raises:
        OSError: If the disk cannot take them.
    """
    file.write(np.ascontiguousarray(values).data)


def row_blocks(
    rows: np.ndarray, block_bytes: int = 1 << 24
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the rows of an array in blocks, each with its first row's number.

    Of a memory-mapped array the pages that were read are given back.

    Args:
        rows: [n, ...].
        block_bytes: That a block of these values has at most in float64.
    """
    count = max(1, block_bytes // (8 * max(1, math.prod(rows.shape[1:]))))
    for first in range(0, len(rows), count):
        yield first, np.asarray(rows[first : first + count])
        release_pages(rows)


def check_stored(file: IO[bytes], size: int) -> None:
    """Refuses an archive of arrays that holds more than its file has bytes.

    Args:
        file: The archive; its position is its start afterwards.
        size: The file's bytes.

    Raises:
        ValueError: If it does, or an array's header says that it is larger.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its arrays are larger than the file")
        for entry in entries:
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                if version not in _HEADERS:
                    raise ValueError(f"an array of version {version}")
                shape, _, dtype = _HEADERS[version](member)
            # Memory is taken for what the header says.
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"{entry.filename} is cut off")
    file.seek(0)


def parse_state(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The JSON state of `write_arrays`'s file.

    Args:
        path: The file, for messages.
        arrays: What `read_arrays` gave.

    Raises:
        RunError: If there is none.
    """
    try:
        state = json.loads(str(arrays[STATE]))
    except (KeyError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged checkpoint, no state ({error!r})") from error
    if not isinstance(state, dict):
        raise RunError(f"{path}: damaged checkpoint, its state is no object")
    return state
