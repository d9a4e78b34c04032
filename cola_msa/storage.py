"""Files that are there whole or not at all, even after `kill -9` or a power failure.

`system.files` writes; this knows arrays, and whose error it is. Nothing here knows what
the files are for.
"""

import json
import os
import pathlib
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from cola_msa.system import files
from cola_msa.system.errors import UserError

STATE = "state"  # name of the array that holds JSON
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


class RunError(UserError):
    """A run directory that cannot be used; the message says why and what to do."""


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
    arrays = {**arrays, STATE: np.array(json.dumps(state))}
    files.write_file(
        path,
        lambda file: np.savez(file, **arrays),  # type: ignore[arg-type]  # names
        RunError,
    )


def read_state(path: str | os.PathLike) -> dict[str, Any] | None:
    """The JSON state of `write_arrays`'s file; None of any other file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            state = json.loads(str(arrays[STATE]))
    except (*_DAMAGES, TypeError, AttributeError, RecursionError, IndexError):
        return None
    return state if isinstance(state, dict) else None


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
