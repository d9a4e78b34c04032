"""Where a dataset is written: a folder or an address, its failures and work beside it.

    songs/part-00000-of-00012.parquet            the table, and nothing else
    songs.failures/part-00000-of-00012.parquet   path and reason of what failed there
    songs.work/                                  what is being made; gone at the end

Beside, not inside: polars and DuckDB take all that lies in a folder for its table.
"""

import concurrent.futures
import contextlib
import errno
import io
import json
import os
import pathlib
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from cola_msa.collection.shards.plan import Found, parse_name
from cola_msa.collection.table.checks import MAX_METADATA_BYTES
from cola_msa.collection.table.write import OutputError, import_pyarrow
from cola_msa.remote import addresses
from cola_msa.system import files
from cola_msa.system.errors import UsageError, hide_logins
from cola_msa.system.locks import Lock

FAILURES, WORK = ".failures", ".work"
INPUT_FAILURES = "inputs.parquet"  # of folders that could not be searched
MARK = "shard"  # in a shard's metadata: what `plan.Shard.mark` says
INPUTS = (
    "cola_msa-inputs.json"  # in the work folder: the files of all shards, for workers
)
_LOCK = ".lock"
_FAILURE_COLUMNS = ("path", "reason")
MAX_FILES = 1 << 31  # of a shard, by its metadata
_MAX_ATTEMPTS = 100  # to lock a folder that others keep removing
_THREADS = 16  # that ask an address
_TAIL_BYTES = 1 << 16  # of a Parquet file, which hold its footer, or nearly so
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Output:
    """The folder, or the address, and the two beside it.

    Attributes:
        given: As it was given.
        shown: The same for messages, without user and password.
    """

    def __init__(self, given: str | os.PathLike):
        """Names the places; asks nothing yet.

        Raises:
            UsageError, AddressError: If the address cannot be used.
        """
        self.given = addresses.local_path(os.fspath(given)).rstrip("/") or "/"
        self.shown = hide_logins(self.given)
        self.is_remote = addresses.is_address(self.given)
        if self.is_remote:
            self._root = self.given
            if not addresses.split(self._root)[1]:
                raise UsageError(
                    f"--output={self.shown} is a bucket; name a folder in it, as "
                    f"{self.shown}/embeddings"
                )
            addresses.open_folder(self._root)
        else:
            # What a link points to: its neighbours are on the same disk.
            self._root = os.path.realpath(self.given)

    def _place(self, ending: str = "") -> str:
        return self._root + ending

    def _folder(self, ending: str = "") -> addresses.RemoteFolder:
        return addresses.open_folder(self._place(ending))

    def check(self) -> None:
        """Refuses a folder that holds anything but a dataset's shards.

        Raises:
            OutputError: If it does, or is a file.
            OSError: If it cannot be read.
        """
        import_pyarrow()
        if not self.is_remote and os.path.exists(self._root):
            if not os.path.isdir(self._root):
                raise OutputError(f"--output={self.shown} is a file; name a folder")
        foreign = [n for n in self._names() if n[0] not in "._" and not parse_name(n)]
        if foreign:
            raise OutputError(
                f"--output={self.shown} holds {foreign[0]!r}, which is no shard: a "
                "dataset's folder holds nothing else, or other programs would take it "
                "for rows; name another"
            )
        for name in sorted(self.failed_names())[:1]:
            if self._columns(name, FAILURES) != list(_FAILURE_COLUMNS):
                raise OutputError(
                    f"{self.failures_shown()}/{name} is no table of failures, and that "
                    "is where they go: move it away, or name another --output"
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second run out, where it is a folder; work is gone at the end.

        So is the folder of failures, where there are none; no worker may remove it.

        Raises:
            OutputError: If another process writes there, or the disk cannot be written.
        """
        if self.is_remote:
            yield
            return
        work = pathlib.Path(self._place(WORK))
        try:
            lock = self._take_lock(work)
        except OSError as error:
            raise OutputError(
                f"{work}: cannot be written ({error.strerror or error})"
            ) from error
        with lock:
            files.remove_abandoned(work)
            self.remove_work(INPUTS)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # it holds some
                    os.rmdir(self._place(FAILURES))
                # From here on another process may take the lock.
                (work / _LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds something of the user's
                    work.rmdir()

    def _take_lock(self, work: pathlib.Path) -> Lock:
        """Locks the work folder; a process that ended may just have removed it."""
        busy = (
            f"{self.shown}: another process writes there; wait for it, or name another "
            "--output"
        )
        for _ in range(_MAX_ATTEMPTS):
            # The folder may go as it is made, too.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                files.make_folder(work)
                lock = Lock(work / _LOCK, busy, OutputError)
                if lock.is_in_place():
                    return lock
                lock.release()
        raise OutputError(busy)

    def _names(self, ending: str = "") -> list[str]:
        if self.is_remote:
            return sorted(self._folder(ending).list())
        try:
            return sorted(os.listdir(self._place(ending)))
        except FileNotFoundError:
            return []

    def find(self) -> list[tuple[Found, dict[str, Any]]]:
        """The shards that are there, each with its metadata.

        Raises:
            OutputError: If one is damaged, or none of `embed`'s or `tag`'s.
            OSError: If it cannot be read.
        """
        return list(_in_threads(self._describe, sorted(self.names())))

    def names(self) -> set[str]:
        """Names of the shards that are there.

        Raises:
            OSError: If they cannot be listed.
        """
        return {name for name in self._names() if parse_name(name) is not None}

    def _describe(self, name: str) -> tuple[Found, dict[str, Any]]:
        pyarrow, parquet = import_pyarrow()
        place = f"{self.shown}/{name}"
        try:
            with self._footer(name) as file, parquet.ParquetFile(file) as opened:
                num_rows = opened.metadata.num_rows
                text = (opened.schema_arrow.metadata or {}).get(b"metadata", b"{}")
            if len(text) > MAX_METADATA_BYTES:
                raise ValueError("its metadata are not one short text")
            content = json.loads(text)
            mark = content.get(MARK)
        except (
            addresses.RemoteError,
            PermissionError,
            FileNotFoundError,
        ):
            raise
        except (
            pyarrow.ArrowException,
            OSError,
            ValueError,
            AttributeError,
            RecursionError,
        ) as error:
            reason = " ".join(str(error).split())[:300]
            raise OutputError(
                f"{place}: damaged, or no table ({reason}); delete it, and the same "
                "command makes it again"
            ) from error
        try:
            found = Found(
                name, mark["sha256"], mark["num_files"], mark["begin"], num_rows
            )
            is_meant = (
                type(found.digest) is str
                and type(found.num_files) is type(found.begin) is int
                and 0 <= found.num_files <= MAX_FILES
                and 0 <= found.begin <= found.number
            )
            if not is_meant:
                raise ValueError(f"its {MARK} is {mark!r:.80}")
        except (TypeError, KeyError, ValueError) as error:
            raise OutputError(
                f"{place}: does not say which files it was made of, so that it is "
                "nobody's to go on with; name another --output"
            ) from error
        return found, content

    @contextlib.contextmanager
    def _footer(self, name: str) -> Iterator[Any]:
        """A shard as a file of which only the footer will be read."""
        if not self.is_remote:
            with open(os.path.join(self._root, name), "rb") as file:
                yield file
            return
        yield _Tail(self._folder(), name)

    def has(self, name: str, digest: str) -> bool:
        """Whether a shard is there, and made of these files."""
        try:
            if not self.is_remote and not os.path.exists(
                os.path.join(self._root, name)
            ):
                return False
            return self._describe(name)[0].digest == digest
        except (FileNotFoundError, OutputError):
            return False
        except addresses.RemoteError as error:
            if error.is_missing:
                return False
            raise

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives shards and their failures other names, in ascending order.

        Raises:
            OSError: If it cannot be done; what was renamed keeps its new name.
        """
        others = set(self._names(FAILURES)) if names else set()
        for old, new in names.items():
            # Failures first: a shard stands for both.
            for ending in (FAILURES, "")[0 if old in others else 1 :]:
                if self.is_remote:
                    self._folder(ending).move(old, new)
                else:
                    folder = self._place(ending)
                    os.rename(os.path.join(folder, old), os.path.join(folder, new))

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[pathlib.Path]:
        """An empty folder to make a shard in; of a local output on its disk."""
        if self.is_remote:
            with tempfile.TemporaryDirectory(prefix=addresses.SCRATCH_PREFIX) as folder:
                yield pathlib.Path(folder)
            return
        target = pathlib.Path(self._place(WORK), name)
        with files.temporary_folder(target) as found:
            yield found

    def put(
        self,
        shard: pathlib.Path,
        name: str,
        failures: Mapping[str, str],
        is_again: bool = False,
    ) -> None:
        """Takes a finished shard in, and its failures.

        Whenever a kill comes, each file of a shard that is there is a row or a failure.

        Args:
            shard: The file, in `scratch`; it may be moved.
            name: Its name.
            failures: Reason by path.
            is_again: Whether a shard with more failures is there.

        Raises:
            OutputError, RemoteError: If it cannot be written.
        """
        if is_again:
            self._put(shard, name, "")
        self.put_failures(shard.parent, name, failures)
        if not is_again:
            self._put(shard, name, "")

    def put_failures(
        self, scratch: pathlib.Path, name: str, failures: Mapping[str, str]
    ) -> None:
        """Writes a table of failures; where there is none, an earlier one goes."""
        if not failures:
            self._delete_failures(name)
            return
        pyarrow, parquet = import_pyarrow()
        schema = pyarrow.schema([(name, pyarrow.string()) for name in _FAILURE_COLUMNS])
        columns = [list(failures), list(failures.values())]
        file = scratch / "failures.parquet"
        with files.written_path(file, OutputError) as temporary:
            with open(temporary, "wb") as to:  # pyarrow takes names of UTF-8 alone
                parquet.write_table(
                    pyarrow.table(columns, schema=schema), to, write_page_checksum=True
                )
        self._put(file, name, FAILURES)

    def _delete_failures(self, name: str) -> None:
        if self.is_remote:
            self._folder(FAILURES).delete(name)
            return
        # The folder stays: another worker may be about to put its own there.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._place(FAILURES), name))

    def _put(self, file: pathlib.Path, name: str, ending: str) -> None:
        if self.is_remote:
            self._folder(ending).upload(file, name)
            return
        target = pathlib.Path(self._place(ending), name)
        try:
            files.make_folder(target.parent)
            try:
                os.replace(file, target)
            except OSError as error:
                if error.errno != errno.EXDEV:  # a folder that is a disk of its own
                    raise
                with open(file, "rb") as source:
                    files.write_file(
                        target, lambda out: shutil.copyfileobj(source, out), OutputError
                    )
                return
            files.sync(target.parent)
        except OSError as error:
            raise OutputError(
                f"{target}: cannot be written ({error.strerror or error}); once that "
                "is mended the same command goes on"
            ) from error

    def files_of(self, found: Found) -> list[str]:
        """The files that a shard was made of, those that failed there too.

        Raises:
            OutputError: If it cannot be read.
        """
        names = dict.fromkeys(self._column(found.name, "", "path"))
        names |= dict.fromkeys(self.failures_of(found.name))
        return list(names)

    def failures_of(self, name: str) -> dict[str, str]:
        """Reason by path of what failed in a shard.

        Raises:
            OutputError: If it cannot be read.
        """
        try:
            paths = self._column(name, FAILURES, "path")
        except FileNotFoundError:
            return {}
        except addresses.RemoteError as error:
            if error.is_missing:
                return {}
            raise
        reasons = self._column(name, FAILURES, "reason")
        return dict(zip(paths, reasons, strict=True))

    def failures(self, names: Iterable[str]) -> dict[str, str]:
        """Reason by path of what failed in these shards, in their order."""
        there = set(self._names(FAILURES))
        known = [name for name in (*names, INPUT_FAILURES) if name in there]
        found: dict[str, str] = {}
        for part in _in_threads(self.failures_of, known):
            found |= part
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Deletes shards that are there under other names, too."""
        for name in names:
            if self.is_remote:
                self._folder().delete(name)
            else:
                os.unlink(os.path.join(self._root, name))

    def forget_failures(self, names: Collection[str]) -> None:
        """Deletes failures of shards that are not these: of runs that were killed."""
        for name in self.failed_names() - set(names):
            self._delete_failures(name)

    def failed_names(self) -> set[str]:
        """Names of the shards that have failures."""
        return {name for name in self._names(FAILURES) if parse_name(name) is not None}

    def _columns(self, name: str, ending: str) -> list[str]:
        return self._read(name, ending, lambda file: file.schema_arrow.names)

    def _column(self, name: str, ending: str, column: str) -> list[str]:
        def read(file: Any) -> list[str]:
            found = file.read([column]).column(0).to_pylist()
            if not all(isinstance(text, str) for text in found):
                raise ValueError(f"column {column} is not all text")
            return found

        return self._read(name, ending, read)

    def _read(self, name: str, ending: str, read: Callable[[Any], _Result]) -> _Result:
        pyarrow, parquet = import_pyarrow()
        place = f"{self.shown}{ending}/{name}"
        try:
            with (
                self._opened(name, ending) as path,
                parquet.ParquetFile(path, page_checksum_verification=True) as file,
            ):
                return read(file)
        except (addresses.RemoteError, FileNotFoundError, PermissionError):
            raise
        except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
            reason = " ".join(str(error).split())[:300]
            raise OutputError(
                f"{place}: cannot be read ({reason}); delete it, and the same command "
                "makes its shard again"
            ) from error

    @contextlib.contextmanager
    def _opened(self, name: str, ending: str) -> Iterator[Any]:
        if not self.is_remote:
            with open(os.path.join(self._place(ending), name), "rb") as file:
                yield file
            return
        with tempfile.TemporaryDirectory(prefix=addresses.SCRATCH_PREFIX) as scratch:
            path = pathlib.Path(scratch, name)
            self._folder(ending).download(name, path)
            yield path

    def put_work(self, name: str, content: bytes) -> str:
        """Writes a file for workers, which read parts of it by `read_work`."""
        if self.is_remote:
            with tempfile.TemporaryDirectory(
                prefix=addresses.SCRATCH_PREFIX
            ) as scratch:
                path = pathlib.Path(scratch, name)
                path.write_bytes(content)
                self._folder(WORK).upload(path, name)
        else:
            files.write_bytes(pathlib.Path(self._place(WORK), name), content)
        return name

    def read_work(self, name: str, start: int, stop: int) -> bytes:
        """Bytes of what `put_work` wrote.

        Raises:
            OSError: If it cannot be read.
        """
        if self.is_remote:
            return self._folder(WORK).read(name, start, stop)
        with open(os.path.join(self._place(WORK), name), "rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def remove_work(self, name: str) -> None:
        """Deletes what `put_work` wrote."""
        if self.is_remote:
            self._folder(WORK).delete(name)
        else:
            pathlib.Path(self._place(WORK), name).unlink(missing_ok=True)

    def failures_shown(self) -> str:
        """Where failures are, for messages; of a link beside what it points to."""
        is_link = not self.is_remote and self._root != os.path.abspath(self.given)
        return self._place(FAILURES) if is_link else self.shown + FAILURES


def _in_threads(
    work: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Results in order; an address takes a while for each."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(work, items)


class _Tail(io.RawIOBase):
    """A file at an address, of which the end is fetched first, and else what is asked.

    So a footer takes one request.
    """

    def __init__(self, folder: addresses.RemoteFolder, name: str):
        super().__init__()
        self._folder, self._name = folder, name
        self._size = folder.size(name)
        self._begin = max(0, self._size - _TAIL_BYTES)
        self._end = folder.read(name, self._begin, self._size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = base[whence] + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        start, stop = self._position, self._position + size
        if start >= self._begin:
            content = self._end[start - self._begin : stop - self._begin]
        else:
            content = self._folder.read(self._name, start, stop)
        self._position += len(content)
        return content


def is_dataset(given: str) -> bool:
    """Whether an `--output` means a folder of shards, not a file.

    Raises:
        UsageError: If it is the address of a file.
    """
    local = addresses.local_path(given)
    base = posixpath.basename(local)
    has_suffix = bool(os.path.splitext(base)[1])
    if addresses.is_address(local) and has_suffix:
        raise UsageError(
            f"--output={hide_logins(given)}: at an address a folder of shards is "
            "written: name one, without a suffix"
        )
    return not base or os.path.isdir(local) or not has_suffix
