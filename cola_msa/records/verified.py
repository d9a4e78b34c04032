"""Shards are what was made: their SHA-256 is compared once, and that is remembered.

What was compared is noted for the user, by the file's device, inode, size, time of
modification and time of change (ctime, which no program can set): a second start reads
no shard. A file that was changed less than two seconds before it was read is not noted,
because clocks of file systems are coarse; a note is believed for a week, so that a disk
that loses bits is found out. While a command runs its data must not be changed.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import logging

from cola_msa.records.schema import DataError
from cola_msa.system import files, signals
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import FileError
from cola_msa.system.folders import cache_dir
from cola_msa.values.reading import open_regular, read_json

_SETTLED_NS = 2 * 10**9
_BELIEVED_NS = 7 * 86400 * 10**9
_MAX_THREADS = 8
ADVICE = (
    "put it back from a copy, or delete it and run the preparation's command again: "
    "finished shards are kept"
)


@dataclasses.dataclass(frozen=True)
class FileState:
    """What tells that a file is still the same one, unchanged."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: int | os.PathLike) -> "FileState":
        """Of a descriptor or a path."""
        found = os.stat(file)
        return cls(
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )


@dataclasses.dataclass(frozen=True)
class VerifiedFile:
    """A file that was read whole.

    Attributes:
        state: Its state before and after.
        sha256: Of its bytes.
        began_ns: When reading began, in nanoseconds since 1970.
    """

    state: FileState
    sha256: str
    began_ns: int


class Notes:
    """What this user has read of one folder, kept between processes."""

    def __init__(self, data_dir: pathlib.Path):
        """Reads the notes; damaged ones are none.

        Args:
            data_dir: The prepared folder.
        """
        name = hashlib.sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()[:32]
        self._path = cache_dir() / "verified" / f"{name}.json"
        self._files: dict[str, VerifiedFile] = {}
        with contextlib.suppress(FileError):
            self._files = read_json(self._path, check=_parse_notes)

    def find(self, name: str, state: FileState) -> VerifiedFile | None:
        """What is noted of a file in this very state; None where nothing is."""
        found = self._files.get(name)
        age = time.time_ns() - found.began_ns if found else -1
        if found and found.state == state and 0 <= age < _BELIEVED_NS:
            return found
        return None

    def add(self, found: dict[str, VerifiedFile]) -> None:
        """Notes files, by name, and writes the notes."""
        settled = {
            name: file
            for name, file in found.items()
            if max(file.state.mtime_ns, file.state.ctime_ns)
            < file.began_ns - _SETTLED_NS
        }
        if not settled:
            return
        self._files |= settled
        content = {
            name: (dataclasses.astuple(file.state), file.sha256, file.began_ns)
            for name, file in self._files.items()
        }
        try:
            files.write_json(self._path, content)
        except FileError as error:
            logging.warning("files are read whole at every start: %s", error)


def _parse_notes(content: dict[str, Any]) -> dict[str, VerifiedFile]:
    return {
        name: VerifiedFile(FileState(*state), str(sha256), int(began))
        for name, (state, sha256, began) in content.items()
    }


def read_file(path: pathlib.Path) -> VerifiedFile:
    """Reads a file whole.

    Raises:
        DataError: If it cannot be read, or is changed meanwhile.
    """
    began = time.time_ns()
    try:
        with open_regular(path) as file:
            before = FileState.of(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = FileState.of(file.fileno())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); {ADVICE}"
        ) from error
    if before != after:
        raise DataError(
            f"{path}: is being changed while it is read; wait until that has ended"
        )
    return VerifiedFile(before, digest, began)


def verified_file(data_dir: pathlib.Path, name: str) -> VerifiedFile:
    """A file of a prepared folder, as it is noted; else it is read whole, and noted.

    Raises:
        DataError: As `read_file`.
    """
    notes = Notes(data_dir)
    with contextlib.suppress(OSError):  # which `read_file` finds too
        if known := notes.find(name, FileState.of(data_dir / name)):
            return known
    found = read_file(data_dir / name)
    notes.add({name: found})
    return found


def known_shards(
    data_dir: pathlib.Path, names: Sequence[str], sha256: Sequence[str | None]
) -> dict[str, VerifiedFile]:
    """The shards that are noted to be what was made, by name; nothing is read."""
    notes = Notes(data_dir)
    found = {}
    for name, digest in zip(names, sha256, strict=True):
        with contextlib.suppress(OSError):
            known = notes.find(name, FileState.of(data_dir / name))
            if known is not None and known.sha256 == digest:
                found[name] = known
    return found


def verify_shards(
    data_dir: pathlib.Path, names: Sequence[str], sha256: Sequence[str | None]
) -> dict[str, VerifiedFile]:
    """Compares shards with their checksums, reading those that are not noted.

    Args:
        data_dir: The prepared folder.
        names: The shards' names.
        sha256: The checksum of each; None accepts any bytes.

    Returns:
        What was found, by name.

    Raises:
        DataError: If one is missing or not what was made; the message names the first.
    """
    notes = Notes(data_dir)
    found: dict[str, VerifiedFile] = {}
    for name in names:
        try:
            known = notes.find(name, FileState.of(data_dir / name))
        except OSError as error:
            raise DataError(
                f"{data_dir / name} is missing or cannot be read ({error.strerror}); "
                "run the preparation again: finished shards are kept"
            ) from error
        if known is not None:
            found[name] = known
    left = [name for name in names if name not in found]
    if left:
        fresh = _read_all(data_dir, left)
        found |= fresh
    for name, digest in zip(names, sha256, strict=True):
        if digest is not None and found[name].sha256 != digest:
            raise DataError(
                f"{data_dir / name}: its bytes are not those that were made "
                f"(SHA-256); {ADVICE}"
            )
    if left:
        notes.add(fresh)
    return found


def _read_all(data_dir: pathlib.Path, names: Sequence[str]) -> dict[str, VerifiedFile]:
    num_threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)), len(names))
    found = {}
    executor = concurrent.futures.ThreadPoolExecutor(num_threads)
    try:
        waiting = [executor.submit(read_file, data_dir / name) for name in names]
        with ProgressBar(
            total=sum((data_dir / name).stat().st_size for name in names),
            desc="check shards",
            unit="B",
            unit_scale=True,
            delay=2,
            mininterval=1,
        ) as bar:
            for name, future in zip(names, waiting, strict=True):
                found[name] = future.result()
                signals.check()
                bar.update(found[name].state.size)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return found
