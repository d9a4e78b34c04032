"""Finished files of an embedding run, in a folder that survives `kill -9`.

rows.f32      float32 rows, one file's after another's; only ever appended to
files.jsonl   one line a finished file: its SHA-256, where its rows lie, their CRC
settings.json what the rows were made with; another run's settings are refused

A file counts only once its line is complete and its rows have that line's CRC, so
that whatever a stop left half-written is made again.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import zlib
from typing import Any

import numpy as np

from cola_msa.system import files
from cola_msa.system.errors import UserError
from cola_msa.system.locks import Lock
from cola_msa.values.reading import read_json

_LOCK = ".lock"
_MAX_ATTEMPTS = 100  # to lock a folder that others keep removing
_OWN_FILES = ("rows.f32", "files.jsonl", "settings.json", _LOCK)


class StoreError(UserError):
    """A work folder that cannot be used; the message says why and what to do."""


def cannot_write(folder: str | os.PathLike, error: OSError) -> StoreError:
    """What a full disk or a read-only file system becomes."""
    return StoreError(
        f"{folder}: cannot be written ({error.strerror or error}); once that is mended "
        "the same command goes on"
    )


@dataclasses.dataclass(frozen=True)
class FileRows:
    """Where one file's embeddings lie.

    Attributes:
        sha256: Of the file's bytes.
        first_row: Its first row.
        num_rows: Its rows.
        seconds: Its duration.
    """

    sha256: str
    first_row: int
    num_rows: int
    seconds: float


class Store:
    """The folder; one process at a time. Use it as a context manager.

    Attributes:
        finished: FileRows by SHA-256.
    """

    def __init__(self, folder: pathlib.Path, dim: int, settings: dict[str, Any]):
        """Opens the folder, or makes it.

        Args:
            folder: The folder.
            dim: Values of a row.
            settings: What decides the rows' values.

        Raises:
            StoreError: If another process works there, or it holds other settings.
        """
        self.folder = folder
        self._dim = dim
        self.finished: dict[str, FileRows] = {}
        busy = (
            f"{folder}: another process writes there; wait for it, or name another "
            "--output"
        )
        try:
            self._lock = self._take_lock(busy)
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            self._check_settings(settings)
            self._rows = open(folder / "rows.f32", "a+b")
            self._lines = open(folder / "files.jsonl", "a+b")
            self._load()
        except OSError as error:
            self._lock.release()
            raise cannot_write(folder, error) from error
        except BaseException:
            self._lock.release()
            raise
        self._pending = (self._num_rows, 0)  # first row and CRC of the file underway

    def _take_lock(self, busy: str) -> Lock:
        """Locks the folder; a process that ended there may just have removed it."""
        for _ in range(_MAX_ATTEMPTS):
            # The folder may go as it is made, too.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                lock = Lock(self.folder / _LOCK, busy, StoreError)
                if lock.is_in_place():
                    return lock
                lock.release()
        raise StoreError(busy)

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / "settings.json"
        if not path.exists():
            names = set(os.listdir(self.folder)) - {_LOCK}
            foreign = sorted(name for name in names if not name.endswith(".tmp"))
            if foreign:
                raise StoreError(
                    f"{self.folder} holds {foreign[0]!r} and is no work folder of "
                    "embed: move it away, or name another --output"
                )
            files.write_json(path, settings, StoreError)
            return
        found = read_json(
            path, StoreError, f"move {self.folder} away, or name another --output"
        )
        differing = [n for n in settings if found.get(n) != settings[n]]
        if differing:
            raise StoreError(
                f"{self.folder} holds an unfinished run with another "
                f"{', '.join(differing)}; name another --output, or delete that folder"
            )

    def _load(self) -> None:
        self._lines.seek(0)
        row_bytes = self._dim * 4
        size = os.fstat(self._rows.fileno()).st_size
        end, kept = 0, 0
        for line in self._lines:
            try:
                entry = json.loads(line)
                rows = FileRows(**{k: v for k, v in entry.items() if k != "crc32"})
                crc32 = entry["crc32"]
                if not all(
                    type(n) is int and n >= 0 for n in (rows.first_row, rows.num_rows)
                ):
                    break
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                break
            stop = (rows.first_row + rows.num_rows) * row_bytes
            is_whole = line.endswith(b"\n") and stop <= size
            if not is_whole or self._crc32(rows) != crc32:
                break
            end, kept = stop, kept + len(line)
            self.finished[rows.sha256] = rows
        # What follows the last whole file was being written when a run was stopped.
        self._lines.truncate(kept)
        self._rows.truncate(end)
        self._num_rows = end // row_bytes

    def _crc32(self, rows: FileRows) -> int:
        checksum = 0
        for first in range(0, rows.num_rows, 1024):
            count = min(1024, rows.num_rows - first)
            part = self.read(rows.first_row + first, count)
            checksum = zlib.crc32(part.tobytes(), checksum)
        return checksum

    def append(self, embeddings: np.ndarray) -> None:
        """Appends rows of the file that is underway, float32 [k, dim]."""
        content = np.ascontiguousarray(embeddings, "<f4").tobytes()
        try:
            self._rows.write(content)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._num_rows += len(embeddings)
        first, checksum = self._pending
        self._pending = (first, zlib.crc32(content, checksum))

    def finish(self, sha256: str, seconds: float) -> None:
        """Ends the file that is underway: all rows since the last end are its own."""
        first, checksum = self._pending
        rows = FileRows(sha256, first, self._num_rows - first, seconds)
        # The rows first: a line stands for rows that are there.
        line = {**dataclasses.asdict(rows), "crc32": checksum}
        try:
            self._rows.flush()
            self._lines.write(json.dumps(line).encode() + b"\n")
            self._lines.flush()
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self.finished[sha256] = rows
        self._pending = (self._num_rows, 0)

    def abandon(self) -> None:
        """Leaves the file underway out; its rows stay where they are, unnamed."""
        self._pending = (self._num_rows, 0)

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Reads rows of finished files, float32 [num_rows, dim]."""
        size = num_rows * self._dim * 4
        content = os.pread(self._rows.fileno(), size, first_row * self._dim * 4)
        if len(content) != size:
            raise StoreError(f"{self.folder / 'rows.f32'}: ends too early; delete it")
        return np.frombuffer(content, "<f4").reshape(num_rows, self._dim)

    def close(self) -> None:
        """Writes what is buffered and lets other processes in."""
        try:
            self._rows.close()
            self._lines.close()
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        finally:
            self._lock.release()

    def __enter__(self) -> "Store":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the folder."""
        self.close()

    def remove(self) -> None:
        """Deletes the folder, once its rows lie elsewhere; what is not ours stays.

        Before `close`: afterwards the folder may be another process's.
        """
        for name in _OWN_FILES:
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds something else
            self.folder.rmdir()
