"""One process at a time: a lock on a file, which ends with the process."""

import fcntl
import os
import pathlib
from typing import IO

from cola_msa.system.errors import UserError


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
