"""Files that are there whole or not at all, even after `kill -9` or a power failure.

Each is written under a temporary name, synced to the disk, renamed, and its folder
synced. Nothing here knows what the files are for.
"""

import errno
import json
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np

STATE = "state"  # name of the array that holds JSON
TEMPORARY = ".tmp"  # suffix of files that were being written
# What NumPy and zipfile raise on files that are cut off, overwritten or not theirs.
_DAMAGES = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class RunError(ValueError):
    """A run directory that cannot be used; the message says why and what to do."""


def _write_synced(path: pathlib.Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file that is there whole or not at all, even after a power failure.

    Args:
        path: The file.
        write: Writes its content.

    Raises:
        RunError: If it cannot be written; what was at `path` before is still there.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            sync(path.parent.parent)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        # The new name is on the disk only when its folder is.
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); once that is "
            "mended the same command goes on"
        ) from error


def sync(path: str | os.PathLike) -> None:
    """Waits until a file's or a folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder, and need not.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file under a temporary name, syncs and renames it."""
    _write_synced(pathlib.Path(path), lambda file: file.write(content))


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Writes JSON under a temporary name, syncs and renames it."""
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode())


def write_arrays(
    path: pathlib.Path, arrays: dict[str, np.ndarray], state: dict[str, Any]
) -> None:
    """Writes arrays and a JSON state to one .npz file.

    Raises:
        RunError: If it cannot be written.
    """
    arrays = {**arrays, STATE: np.array(json.dumps(state))}
    _write_synced(
        path,
        lambda file: np.savez(file, **arrays),  # type: ignore[arg-type]  # names
    )


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads every array of `write_arrays`'s file; zip's checksums are compared.

    Raises:
        RunError: If the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except _DAMAGES as error:
        raise RunError(f"{path}: damaged checkpoint ({error!r})") from error
