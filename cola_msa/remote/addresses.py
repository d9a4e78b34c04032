"""Folders behind fsspec (gs://, s3:// and so on): listing, copies, clear errors."""

import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import posixpath
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cola_msa.system.errors import UsageError, UserError, hide_logins
from cola_msa.values.names import escape

# Where a file appears whole or not at all, and folders are but parts of names.
_OBJECT_STORES = frozenset("abfs abfss az gcs gs memory oci oss s3 s3a".split())
_ATTEMPTS, _PAUSE_SECONDS = 3, 2.0
_FINAL_ERRORS = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# Of this machine's disk, whatever was being copied.
_DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))
_BATCH_FILES = 1000
_MAX_NAME_BYTES, _KEPT_NAME = 200, 40  # of a copy's name; characters of a longer one
SCRATCH_PREFIX = "cola_msa-"  # of folders for what was fetched
_LOCAL = ("file", "local")


class AddressError(UserError):
    """An address that cannot be used at all; the message says why and what to do."""


class RemoteError(UserError, OSError):
    """What a file system answered: one line with the address.

    Attributes:
        is_missing: Whether there is no such file.
    """

    is_missing = False


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is an address such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def protocol_of(url: str) -> str:
    """`gs` of gs://bucket/folder; the last of chained ones."""
    return url.split("://")[0].split("::")[-1]


def local_path(given: str) -> str:
    """The path that a file:// address names; anything else as it is."""
    protocol, mark, path = given.partition("://")
    return path if mark and protocol in _LOCAL else given


def split(url: str) -> tuple[str, str]:
    """The address of a file's folder, and the file's name; "" of a whole bucket.

    Of chained addresses the first is split.
    """
    first, chain, rest = url.partition("::")
    if "://" not in first:
        first, chain, rest = url, "", ""
    protocol, mark, path = first.partition("://")
    folder, slash, name = path.rpartition("/")
    if not slash:
        folder, name = path, ""
    return f"{protocol}{mark}{folder}{chain}{rest}", name


def join(url: str, name: str) -> str:
    """The address of a file in the folder at an address."""
    first, chain, rest = url.partition("::")
    if "://" not in first:
        first, chain, rest = url, "", ""
    slash = "" if first.endswith("/") and not first.endswith("://") else "/"
    return f"{first}{slash}{name}{chain}{rest}"


@contextlib.contextmanager
def fetched(url: str) -> Iterator[pathlib.Path]:
    """A file at an address as a local one, as long as it is needed.

    Args:
        url: The file's address.

    Yields:
        The copy; it has the same suffix.

    Raises:
        UsageError, AddressError: If the address cannot be used.
        RemoteError: If it cannot be read, or arrives with another length.
        OSError: If this machine's disk cannot take it.
    """
    folder, name = split(url)
    base = name if len(os.fsencode(name)) <= _MAX_NAME_BYTES else name[-_KEPT_NAME:]
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX) as scratch:
        path = pathlib.Path(scratch, base if base not in ("", ".", "..") else "file")
        open_folder(folder).download(name, path)
        yield path


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or folder of a listing.

    Attributes:
        size: Bytes.
        is_folder: Whether it is a folder.
        state: Changes when its content does.
        reason: Why a folder was not listed; "" if it was.
        same_as: Of a link to a folder that is listed under another path: that path.
    """

    size: int
    is_folder: bool
    state: str
    reason: str = ""
    same_as: str | None = None


class RemoteFolder:
    """A folder at an address.

    Attributes:
        url: The address.
        shown: The address without user and password, for messages.
        path: The folder as its file system names it, without slashes at its ends.
    """

    def __init__(self, url: str):
        """Finds the file system; asks it nothing yet.

        Args:
            url: The address.

        Raises:
            UsageError: If fsspec does not know the protocol, or it has no folders.
            AddressError: If a package is missing; the message names the pip command.
        """
        import fsspec  # here, not above: half a second of imports of its own

        protocol = protocol_of(url)
        self.url, self.shown = url.rstrip("/"), hide_logins(url.rstrip("/"))
        if protocol in ("http", "https"):
            raise UsageError(
                f"{self.shown}: {protocol}:// has no folders to list: download the "
                "files"
            )
        try:
            self._files, path = fsspec.url_to_fs(url)
        except ImportError as error:
            raise AddressError(
                f"{self.shown}: {protocol}:// needs a package that is not installed: "
                f"{_pip_command(protocol, error)}"
            ) from error
        except ValueError as error:
            raise UsageError(f"{url}: {_reason(error, protocol)}") from error
        except Exception as error:  # each file system has errors of its own
            raise AddressError(f"{self.shown}: {_reason(error, protocol)}") from error
        self._root = path.rstrip("/")
        self.path = self._root.lstrip("/")
        self._protocol = protocol

    def _remote(self, name: str) -> str:
        # Names may lead out of the folder, as to stems beside a dataset.
        joined = posixpath.normpath(posixpath.join("/", self.path, name)).lstrip("/")
        return "/" + joined if self._root.startswith("/") else joined

    def _attempt(
        self,
        action: Callable[[], Any],
        what: str,
        target: pathlib.Path | None = None,
    ) -> Any:
        """Does something up to three times.

        Args:
            action: What.
            what: The address and what failed there, for the message.
            target: Where it writes on this machine, if it does.

        Raises:
            RemoteError: If it cannot be done.
            OSError: If this machine's disk cannot take it.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return action()
            except Exception as error:  # each file system has errors of its own
                code = getattr(error, "errno", None)
                if target is not None and code in _DISK_ERRORS:
                    raise OSError(code, os.strerror(code), str(target)) from error
                if isinstance(error, _FINAL_ERRORS) or attempt == _ATTEMPTS - 1:
                    reason = _reason(error, self._protocol)
                    told = RemoteError(f"{what}: {reason}")
                    told.is_missing = isinstance(error, FileNotFoundError)
                    raise told from error
            time.sleep(_PAUSE_SECONDS * 4**attempt)
        raise AssertionError("not reached")

    def is_there(self) -> bool:
        """Whether the folder exists, or holds anything.

        Raises:
            RemoteError: If its file system does not say.
        """

        def ask() -> bool:
            self._files.invalidate_cache()
            return bool(self._files.isdir(self._root))

        return self._attempt(ask, f"{self.shown} cannot be read")

    def list(self, name: str = ".") -> dict[str, Entry]:
        """What lies in a folder, by name; {} where there is none.

        Args:
            name: The folder, relative to this one.

        Raises:
            RemoteError: If it cannot be listed.
        """
        return {base: _entry(info) for base, info in self._infos(name).items()}

    def _infos(self, name: str) -> dict[str, dict[str, Any]]:
        folder = self._remote(name)

        def ask() -> Any:
            self._files.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                return self._files.ls(folder, detail=True)
            return []

        found = self._attempt(ask, f"{self.shown} cannot be listed")
        return {posixpath.basename(i["name"].rstrip("/")): i for i in found}

    def walk(self) -> dict[str, Entry]:
        """All files and folders at any depth, by their paths relative to this one.

        Where there are folders, links to them are followed, and a folder that cannot
        be listed has a reason.

        Raises:
            AddressError: If a name cannot be a file's on this machine.
            RemoteError: If it cannot be listed.
        """
        if self._protocol not in _OBJECT_STORES:
            return self._walk_folders()

        def ask() -> Any:
            self._files.invalidate_cache()
            return self._files.find(self._root, withdirs=True, detail=True)

        found = {}
        for path, info in self._attempt(ask, f"{self.shown} cannot be listed").items():
            name = path[len(self._root) :].removeprefix("/")
            if not name or name.endswith("/"):  # a folder's own mark
                continue
            self._check_name(name)
            found[name] = _entry(info)
        return found

    def _check_name(self, name: str) -> None:
        if {"", ".", ".."} & set(name.split("/")):
            raise AddressError(
                f"{self.shown}: {escape(name)} cannot be a file's name here; rename it"
            )

    def _walk_folders(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        met: dict[str | None, str] = {}  # by where a folder really is
        waiting, links = ["."], list[str]()
        while waiting or links:
            # Links last: a folder's own path is the one that counts.
            is_link = not waiting
            name = links.pop(0) if is_link else waiting.pop()
            real = self._real_path(name, is_link)
            if real is None:
                reason = "a link to a folder, which is not followed on this file system"
                found[name] = dataclasses.replace(found[name], reason=reason)
                continue
            if real in met:
                found[name] = dataclasses.replace(found[name], same_as=met[real])
                continue
            met[real] = name
            try:
                infos = self._infos(name)
            except RemoteError as error:
                if name == ".":
                    raise
                found[name] = dataclasses.replace(found[name], reason=str(error))
                continue
            for base, info in infos.items():
                below = base if name == "." else f"{name}/{base}"
                self._check_name(below)
                entry = _entry(info)
                if entry.is_folder:
                    waiting.append(below)
                elif info["type"] != "file" and self._is_folder(info["name"]):
                    entry = dataclasses.replace(entry, is_folder=True)
                    links.append(below)
                found[below] = entry
        return dict(sorted(found.items()))

    def _real_path(self, name: str, is_link: bool) -> str | None:
        """Where a folder is, if its file system says it of links."""
        if self._protocol in _LOCAL:
            return os.path.realpath(self._remote(name))
        return None if is_link else self._remote(name)

    def _is_folder(self, path: str) -> bool:
        try:
            return self._files.info(path)["type"] == "directory"
        except Exception:  # each file system has errors of its own
            return False

    def download(self, name: str, target: pathlib.Path) -> None:
        """Copies a file to this machine.

        Args:
            name: Relative to this folder.
            target: Where to; folders are made.

        Raises:
            RemoteError: If it cannot be read, or arrives with another length.
            OSError: If this machine's disk cannot take it.
        """
        remote = self._remote(name)
        target.parent.mkdir(parents=True, exist_ok=True)

        def copy() -> None:
            info = self._files.info(remote)
            if info["type"] != "file":
                raise IsADirectoryError("no regular file")
            self._files.get_file(remote, str(target))
            size = target.stat().st_size
            if info.get("size") is not None and size != info["size"]:
                raise ConnectionError(f"{size} of {info['size']} bytes arrived")

        self._attempt(copy, f"{self.shown}/{escape(name)} cannot be read", target)

    def download_all(self, names: Sequence[str], folder: pathlib.Path) -> None:
        """Copies small files into a folder, many at a time where fsspec can.

        Args:
            names: Without slashes.
            folder: Where to.

        Raises:
            RemoteError: If one cannot be read.
            OSError: If this machine's disk cannot take them.
        """
        for start in range(0, len(names), _BATCH_FILES):
            batch = names[start : start + _BATCH_FILES]
            sources = [self._remote(name) for name in batch]
            targets = [str(folder / name) for name in batch]
            self._attempt(
                functools.partial(self._files.get, sources, targets),
                f"{self.shown} cannot be read",
                folder,
            )

    def upload(self, source: pathlib.Path, name: str) -> None:
        """Copies a file of this machine; it appears whole or not at all.

        Args:
            source: The file.
            name: Relative to this folder, without slashes.

        Raises:
            RemoteError: If it cannot be written.
        """
        remote = self._remote(name)

        def copy() -> None:
            if self._protocol in _OBJECT_STORES:
                self._files.put_file(str(source), remote)
                return
            folder = posixpath.dirname(remote)
            self._files.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                self._files.put_file(str(source), temporary)
                self._files.mv(temporary, remote)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._files.rm_file(temporary)
                raise

        self._attempt(copy, f"{self.shown}/{name} cannot be written")

    def delete(self, name: str) -> None:
        """Deletes a file, where there is one.

        Raises:
            RemoteError: If it cannot be deleted.
        """

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._remote(name))

        self._attempt(remove, f"{self.shown}/{name} cannot be deleted")

    def move(self, name: str, new_name: str) -> None:
        """Gives a file of this folder another name.

        Raises:
            RemoteError: If it cannot be done.
        """

        def move() -> None:
            with contextlib.suppress(FileNotFoundError):  # an attempt did it
                self._files.mv(self._remote(name), self._remote(new_name))

        self._attempt(move, f"{self.shown}/{escape(name)} cannot be renamed")

    def kind(self, name: str = ".") -> str | None:
        """`file`, `directory` or another kind of a name; None where nothing is there.

        Raises:
            RemoteError: If its file system does not say.
        """

        def ask() -> str | None:
            self._files.invalidate_cache()
            try:
                return str(self._files.info(self._remote(name))["type"])
            except FileNotFoundError:
                return None

        return self._attempt(ask, f"{self.shown} cannot be read")

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            RemoteError: If it cannot be read.
        """
        return self._attempt(
            lambda: int(self._files.info(self._remote(name))["size"]),
            f"{self.shown}/{escape(name)} cannot be read",
        )

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file.

        Raises:
            RemoteError: If they cannot be read, or are fewer.
        """

        def read() -> bytes:
            content = self._files.cat_file(self._remote(name), start, stop)
            if len(content) != stop - start:
                raise ConnectionError(f"{len(content)} of {stop - start} bytes arrived")
            return content

        return self._attempt(read, f"{self.shown}/{escape(name)} cannot be read")

    def files_below(self) -> tuple[Sequence[str], dict[str, str]]:
        """Files at any depth, by their paths relative to this folder, sorted.

        Returns:
            The paths, and a reason by folder that was not listed.

        Raises:
            RemoteError: If it cannot be listed.
        """
        if self._protocol not in _OBJECT_STORES:
            entries = self._walk_folders()
            names = [name for name, entry in entries.items() if not entry.is_folder]
            reasons = {n: e.reason for n, e in entries.items() if e.reason}
            return sorted(names), reasons

        def ask() -> Any:
            self._files.invalidate_cache()
            try:
                # Names alone: what else is known of a million takes gigabytes.
                return self._files.find(self._root, detail=False)
            finally:
                self._files.invalidate_cache()

        found = self._attempt(ask, f"{self.shown} cannot be listed")
        below = (path[len(self._root) :].removeprefix("/") for path in found)
        return sorted(name for name in below if name and name[-1] != "/"), {}

    def glob(self, pattern: str) -> dict[str, bool]:
        """What a pattern matches, relative to this folder, and whether it is a folder.

        Args:
            pattern: Relative to this folder; with *, ?, [...] and **.

        Raises:
            RemoteError: If it cannot be listed.
        """

        def ask() -> Any:
            self._files.invalidate_cache()
            try:
                return self._files.glob(f"{self._root}/{pattern}", detail=True)
            finally:
                self._files.invalidate_cache()

        found = self._attempt(ask, f"{self.shown} cannot be listed")
        return {
            path[len(self._root) :].strip("/"): info["type"] == "directory"
            for path, info in found.items()
        }

    def relative(self, other: "RemoteFolder") -> str:
        """Another folder's path as seen from this one.

        Raises:
            UsageError: If it lies on another file system.
        """
        if self._files != other._files:
            raise UsageError(
                f"{other.shown} lies on another file system than {self.shown}: copy it "
                "there"
            )
        return posixpath.relpath("/" + other.path, "/" + self.path)


@functools.lru_cache(maxsize=8)
def open_folder(url: str) -> RemoteFolder:
    """The folder at an address, one object a process."""
    return RemoteFolder(url)


def _entry(info: dict[str, Any]) -> Entry:
    return Entry(info.get("size") or 0, info["type"] == "directory", str(info))


def _reason(error: Exception, protocol: str) -> str:
    """One line; what backends raise is often many, or none."""
    kind = type(error).__name__
    first = next(iter(str(error).strip().splitlines()), "")
    told = f"{kind}: {first}" if first else kind
    if isinstance(error, PermissionError) or "redential" in told:
        told += f" (check the credentials for {protocol}://, and their rights)"
    return hide_logins(told)


def _pip_command(protocol: str, error: ImportError) -> str:
    """What installs the package that fsspec misses."""
    from fsspec.registry import known_implementations

    known = known_implementations.get(protocol, {})
    package = str(known.get("class", "")).split(".")[0]
    if package in ("", "fsspec"):
        # A package that fsspec's own implementation needs.
        quoted = re.findall(r'"([\w.-]+)"', str(known.get("err", "")))
        package = " ".join(quoted) or getattr(error, "name", None) or f"({error})"
    return f"pip install {package}"
