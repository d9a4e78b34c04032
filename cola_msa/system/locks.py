"""One process at a time: a lock on a file, which ends with the process."""

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator
from typing import IO

from absl import logging

from cola_msa.system.errors import UserError
from cola_msa.system.processes import ProcessError


class LockedError(UserError):
    """Another process holds the lock; the message says of what."""


class Lock:
    """Holds a lock file until it is released or the process ends.

    with Lock(run_dir / ".lock", f"{run_dir}: another process trains there"):
        ...

    The file stays where it is: a lock whose file is removed protects nothing.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        message: str,
        error: type[Exception] = LockedError,
        waits: bool = False,
    ):
        """Takes the lock.

        Args:
            path: The lock's file; it and its folder are made.
            message: Of the error where another process holds it.
            error: Class of that error.
            waits: Whether to wait for the other process instead.

        Raises:
            LockedError: If another process holds it (or `error`).
            OSError: If the file cannot be made, or the file system knows no locks.
        """
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(self._path, "ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError as problem:
            self._file.close()
            raise error(message) from problem
        except BaseException:
            self._file.close()
            raise

    def is_in_place(self) -> bool:
        """Whether the file is still there: for locks in folders that are removed."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._file.fileno()))

    def release(self) -> None:
        """Lets other processes in."""
        self._file.close()

    def __enter__(self) -> "Lock":
        """The lock itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases it."""
        self.release()


LOCK_NAME = ".lock"


_LOCK_SECONDS = 60.0


@contextlib.contextmanager
def exclusive_folder(
    folder: pathlib.Path, wait_seconds: float = _LOCK_SECONDS
) -> Iterator[int]:
    """Keeps other processes from working in a folder.

    The lock belongs to the descriptor, which children inherit (`run_child`): it is
    held until the last of them has ended, also where this process is killed.

    Args:
        folder: The folder.
        wait_seconds: How long to wait for another process that is ending.

    Yields:
        The lock's descriptor.

    Raises:
        ProcessError: If another process still works there.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, folder, wait_seconds)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: pathlib.Path, wait_seconds: float) -> None:
    end = time.monotonic() + wait_seconds
    is_first = True
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise ProcessError(
                    f"{folder}: another process works there; wait for it or stop it, "
                    "or name another --output_dir"
                ) from error
            if is_first:
                logging.info("waiting for another process that works in %s", folder)
            is_first = False
            time.sleep(0.5)
        except OSError as error:
            logging.warning(
                "%s: no locks on this file system (%s): use it from one process alone",
                folder,
                error,
            )
            return
