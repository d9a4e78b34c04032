"""Files that are there whole or not at all, even after `kill -9` or a power failure.

Each is written under a temporary name, synced to the disk, renamed, and its folder
synced. A temporary name is `NAME.<16 hexadecimal digits>.tmp`, another one for every
writer, and is locked while it is written: of two processes that write one file the
later one wins, and neither writes into the other's. What a killed process left under
such a name is removed by the next writer of that file; nothing else ever is.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

from cola_msa.system.errors import FileError, UserError

TEMPORARY = ".tmp"  # suffix of what is being written
# Of the disk, whatever was being written.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
MARKER = ".cola_msa-unfinished"  # in a folder that is being written
_MAX_NAME_BYTES = 255  # of a file name on common file systems
_RANDOM_BYTES = 8
_MOST_TRIES = 100  # to make what others may take for abandoned
_LOCK_SECONDS = 10.0  # that another process may take to put a folder in its place


def temporary_path(path: str | os.PathLike) -> pathlib.Path:
    """A name beside `path` that no other writer has."""
    path = pathlib.Path(path)
    ending = f".{secrets.token_hex(_RANDOM_BYTES)}{TEMPORARY}"
    return path.with_name(_shortened(path.name, len(ending)) + ending)


def _shortened(name: str, ending_bytes: int) -> str:
    encoded = os.fsencode(name)[: _MAX_NAME_BYTES - ending_bytes]
    return os.fsdecode(encoded)


def write_file(
    path: str | os.PathLike,
    write: Callable[[IO[bytes]], Any],
    error: type[Exception] = FileError,
) -> None:
    """Writes a file that is there whole or not at all.

    Args:
        path: The file; its folder is made where it is missing.
        write: Writes its content to an open file.
        error: Class of what is raised where it cannot be written.

    Raises:
        FileError: If it cannot be written (disk full, read-only, no permission), or
            `error`; what was at `path` before is still there.
    """
    with written_path(path, error) as temporary:
        with open(temporary, "r+b") as file:
            write(file)


@contextlib.contextmanager
def written_path(
    path: str | os.PathLike, error: type[Exception] = FileError
) -> Iterator[pathlib.Path]:
    """A path to write to, for writers that want a name: renamed when all went well.

    with written_path("songs.parquet") as temporary:
        write_table(temporary)

    Args:
        path: The file; its folder is made where it is missing.
        error: Class of what is raised where it cannot be written.

    Yields:
        The temporary file; it exists and is empty. Write into it: another one in its
        place would not be locked.

    Raises:
        FileError: As `write_file`.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise error(f"{path}: is no regular file; name another")
    if path.is_symlink():  # it stays one: what it points to is written
        path = pathlib.Path(os.path.realpath(path))
    try:
        make_folder(path.parent)
        remove_stale(path)
        temporary, descriptor = _create_locked(path, _create_file)
    except OSError as problem:
        raise error(_cannot(path, problem)) from problem
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        # The new name is on the disk only when its folder is.
        sync(path.parent)
    except OSError as problem:
        if isinstance(problem, UserError) or not _is_of(path, problem):
            raise
        raise error(_cannot(path, problem)) from problem
    finally:
        with contextlib.suppress(OSError):  # gone once it was renamed
            temporary.unlink()
        os.close(descriptor)


def _is_of(path: pathlib.Path, problem: OSError) -> bool:
    """Whether the system's error is of this file; what is read may lie elsewhere."""
    named = problem.filename
    if not isinstance(named, (str, bytes, os.PathLike)):
        return problem.errno is not None  # else somebody's own message
    return os.path.dirname(os.fsdecode(named)) == os.path.dirname(os.fspath(path))


def _cannot(path: pathlib.Path, problem: OSError) -> str:
    return (
        f"{path}: cannot be written ({problem.strerror or problem}); once that is "
        "mended the same command goes on"
    )


def write_bytes(
    path: str | os.PathLike, content: bytes, error: type[Exception] = FileError
) -> None:
    """Writes a file of these bytes; see `write_file`."""
    write_file(path, lambda file: file.write(content), error)


def write_json(
    path: str | os.PathLike, values: Any, error: type[Exception] = FileError
) -> None:
    """Writes JSON; see `write_file`."""
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode(), error)


@contextlib.contextmanager
def plain_hdf5_errors() -> Iterator[None]:
    """Makes an OSError of what HDF5 tells of the disk in a paragraph."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        told = re.search(r"errno = (\d+)", str(error))
        if told is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1]))) from error


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder and those above it, and their names survive a power failure."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)


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


def sync_tree(folder: pathlib.Path) -> None:
    """Waits until everything in a folder is on the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync(os.path.join(root, name))
        sync(root)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def temporary_folder(target: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A fresh folder beside `target`, to be filled and then put in its place.

    It is locked and marked while it is filled; what is left of it at the end of the
    block is removed. `folders.replace_folder` puts it in its place.

    Args:
        target: What it shall become.

    Yields:
        The folder, empty but for MARKER.

    Raises:
        FileError: If it cannot be made, or the disk cannot take what is put into it.
    """
    target = pathlib.Path(os.path.realpath(target))
    try:
        make_folder(target.parent)
        remove_stale(target)
        folder, descriptor = _create_locked(target, _create_folder)
    except OSError as problem:
        raise FileError(_cannot(target, problem)) from problem
    try:
        yield folder
    except OSError as problem:
        if problem.errno not in DISK_ERRORS:
            raise
        raise FileError(_cannot(target, problem)) from problem
    finally:
        if (folder / MARKER).exists():  # else it is no longer the one that was made
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_stale(path: str | os.PathLike) -> None:
    """Removes what killed writers of a file or a folder left beside it.

    Only names that `temporary_path` gives for this very path and that no process
    holds a lock on; a folder only where it holds MARKER.
    """
    path = pathlib.Path(path)
    ending_bytes = 2 * _RANDOM_BYTES + len(TEMPORARY) + 1
    stem = re.escape(_shortened(path.name, ending_bytes))
    pattern = re.compile(
        rf"{stem}\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}{re.escape(TEMPORARY)}", re.DOTALL
    )
    try:
        names = os.listdir(path.parent)
    except OSError:
        return
    for name in names:
        if pattern.fullmatch(name):
            _remove_if_abandoned(path.parent / name)


def remove_abandoned(folder: str | os.PathLike, patterns: Collection[str] = ()) -> None:
    """Removes what killed writers left of any file in a folder and those below it.

    Args:
        folder: One that the project made.
        patterns: Glob patterns, relative to it, of names that earlier versions gave.
    """
    folder = pathlib.Path(folder)
    own = re.compile(
        rf".+\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}{re.escape(TEMPORARY)}", re.DOTALL
    )
    # Not `rglob`, which fails where another process's folder goes as it is looked at.
    for root, folders, names in os.walk(folder):
        for name in filter(own.fullmatch, (*folders, *names)):
            _remove_if_abandoned(pathlib.Path(root, name))
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def _remove_if_abandoned(path: pathlib.Path) -> None:
    try:
        if path.is_symlink() or not _is_ours(path):
            return
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        if not _try_lock(descriptor):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_ours(path: pathlib.Path) -> bool:
    if path.is_dir():
        names = os.listdir(path)
        return MARKER in names or not names  # a kill may come before it is marked
    return path.is_file()


def _create_locked(
    path: pathlib.Path, create: Callable[[pathlib.Path], int]
) -> tuple[pathlib.Path, int]:
    """Makes a temporary file or folder of `path` and locks it.

    Until it is locked another process may take it for abandoned: then another is made.
    """
    for number in itertools.count(1):
        temporary = temporary_path(path)
        try:
            descriptor = create(temporary)
        except FileNotFoundError:
            # Of a folder where nothing can be made, such as /proc, it never ends.
            if number == _MOST_TRIES or not temporary.parent.is_dir():
                raise
            continue
        is_free = _try_lock(descriptor)
        with contextlib.suppress(FileNotFoundError):
            is_same = os.path.samestat(os.stat(temporary), os.fstat(descriptor))
            is_marked = temporary.is_file() or (temporary / MARKER).exists()
            if is_free is not False and is_same and is_marked:
                return temporary, descriptor
        os.close(descriptor)
    raise AssertionError


def _create_file(path: pathlib.Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _create_folder(path: pathlib.Path) -> int:
    path.mkdir()
    (path / MARKER).touch()
    return os.open(path, os.O_RDONLY)


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps others from replacing a folder, and `remove_stale` from what was it.

    The lock goes with the folder, whatever its name becomes. Who holds it for long is
    not waited for: then the file system's own exchange has to do.

    Raises:
        OSError: If the folder is gone.
    """
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            is_ours = _try_lock(descriptor) is not False
            is_there = os.path.samestat(os.stat(folder), os.fstat(descriptor))
            if (is_ours and is_there) or time.monotonic() > end:
                yield
                return
        finally:
            os.close(descriptor)
        time.sleep(0.01)


def _try_lock(descriptor: int) -> bool | None:
    """Locks a file or folder until it is closed.

    Returns:
        False where another holds it; None where the file system knows no locks, so
        that nothing can be known to be abandoned.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
