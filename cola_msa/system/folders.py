"""Folders that a command writes as a whole, and replaces only where they are its own.

An output folder of ours lists its files in its own metadata. It is replaced only if
nothing but these lies in it, in one step (`renameat2` with RENAME_EXCHANGE): at any
moment the old folder or the new one stands under its name, whole.
"""

import contextlib
import ctypes
import errno
import os
import pathlib
from collections.abc import Callable, Collection, Mapping

from cola_msa.system.errors import FileError
from cola_msa.system.files import MARKER, file_sha256, locked_folder, sync, sync_tree

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
# Files of the folder, relative, with "/"; None where it is none of ours.
Listing = Callable[[pathlib.Path], Collection[str] | None]


def unchanged_files(folder: pathlib.Path, hashes: Mapping[str, str]) -> list[str]:
    """Names of the files whose SHA-256 is still the one that was written down."""
    return [
        name
        for name, digest in hashes.items()
        if (folder / name).is_file() and file_sha256(folder / name) == digest
    ]


def check_replaceable(target: str | os.PathLike, listing: Listing, what: str) -> None:
    """Refuses an output folder that holds anything that is not ours to remove.

    Args:
        target: Where the output goes: absent, empty, or an earlier output.
        listing: Names the files of an earlier output, by its own metadata.
        what: What an earlier output is called, e.g. "an export".

    Raises:
        FileError: If it is a file, or a folder with anything else in it.
    """
    target = pathlib.Path(target)
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise FileError(f"{target} is a file: name a new folder")
    found = _content(target)
    if not found:
        return
    listed = listing(target)
    if listed is None:
        raise FileError(
            f"{target} holds {_some(found)}, and is not {what}: nothing there is "
            "replaced; name a new folder"
        )
    foreign = found - set(listed)
    if foreign:
        raise FileError(
            f"{target} holds {_some(foreign)} beside {what}: nothing there is "
            "replaced; move it away, or name a new folder"
        )


def check_file(
    path: str | os.PathLike, is_ours: Callable[[pathlib.Path], bool], what: str
) -> None:
    """Refuses an output file whose name something else than an earlier one has.

    Args:
        path: Where the output goes: absent, an empty file, or an earlier output.
        is_ours: Whether a file is an earlier output, by its content.
        what: What an earlier output is called, e.g. "a map".

    Raises:
        FileError: If anything else is there.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        return
    if not path.is_file():  # a folder, a device, a link to nothing
        raise FileError(f"{path} is no regular file: name another")
    if path.stat().st_size and not is_ours(path):
        raise FileError(
            f"{path} is there and is not {what}: nothing is written over it; move it "
            "away, or name another file"
        )


def check_names(
    folder: str | os.PathLike,
    patterns: Collection[str],
    is_ours: Callable[[pathlib.Path], bool],
    what: str,
) -> None:
    """Refuses an output folder where names that are to be written are not free.

    For folders that may hold other things, too. Its own file among them proves that
    the others are an earlier output.

    Args:
        folder: Where the output goes, absent or not.
        patterns: Names that will be written, relative; glob patterns.
        is_ours: Whether the folder holds an earlier output.
        what: What such a folder is called, e.g. "a run".

    Raises:
        FileError: If it is a file, or one of the names is somebody else's.
    """
    folder = pathlib.Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise FileError(f"{folder} is a file: name a new folder")
    taken = {
        path.relative_to(folder).as_posix()
        for pattern in patterns
        for path in folder.glob(pattern)
    }
    if taken and not is_ours(folder):
        raise FileError(
            f"{folder} holds {_some(taken)}, and is not {what}: nothing is written "
            "over them; name another folder"
        )


def replace_folder(
    folder: pathlib.Path, target: str | os.PathLike, listing: Listing, what: str
) -> None:
    """Puts a finished folder in the place of an absent, an empty or an earlier one.

    Args:
        folder: From `files.temporary_folder(target)`, filled.
        target: Where it goes.
        listing: As `check_replaceable`.
        what: As `check_replaceable`.

    Raises:
        FileError: As `check_replaceable`, which is asked again: much may have happened
            since; or if the file system cannot exchange two folders. Then `target` is
            as it was.
    """
    # A link to a folder stays one: what it points to is replaced.
    target = pathlib.Path(os.path.realpath(target))
    try:
        sync_tree(folder)
        if target.is_dir():
            with locked_folder(target):  # else others take it for left over at once
                check_replaceable(target, listing, what)
                (target / MARKER).touch()  # so that what is left of it is known as such
                _rename(folder, target, _RENAME_EXCHANGE)
                _remove_listed(folder, listing)
        else:
            check_replaceable(target, listing, what)
            _rename(folder, target, _RENAME_NOREPLACE)
        sync(target.parent)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        if problem.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            reason = "its file system cannot exchange two folders in one step"
        raise FileError(
            f"{target}: cannot be replaced ({reason}); name a new folder"
        ) from problem
    finally:
        # Not there, or `target` is a file: the refusal is what the user must read.
        with contextlib.suppress(OSError):
            (target / MARKER).unlink()


def _remove_listed(folder: pathlib.Path, listing: Listing) -> None:
    """Removes an earlier output, file by file; anything else in it stays."""
    # Of what lies there, never of what the list says alone: its metadata may come from
    # somebody else, and name "../thesis.tex".
    for name in _content(folder) & set(listing(folder) or ()):
        (folder / name).unlink(missing_ok=True)
    for root, _, _ in os.walk(folder, topdown=False):
        if root == str(folder):
            # Last, so that a killed process leaves what is known as left over.
            (folder / MARKER).unlink(missing_ok=True)
        try:
            os.rmdir(root)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _content(folder: pathlib.Path) -> set[str]:
    """Everything in a folder that is no plain folder, relative, with "/"."""
    found = set()

    def stop(problem: OSError) -> None:
        raise problem

    for root, folders, files in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*files, *links):
            found.add(pathlib.Path(root, name).relative_to(folder).as_posix())
    return found - {MARKER}


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:3]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(repr(name) for name in shown) + more


def _rename(source: pathlib.Path, target: pathlib.Path, flag: int) -> None:
    """`renameat2`: with an exchange, or never over anything."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flag):
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS) and flag == _RENAME_NOREPLACE:
            # The target was not there a moment ago; rename replaces an empty one only.
            os.rename(source, target)
            return
        raise OSError(number, os.strerror(number), str(target))


CACHE_VARIABLE = "COLA_MSA_CACHE"


def cache_dir() -> pathlib.Path:
    """`COLA_MSA_CACHE`, or `~/.cache/cola_msa`."""
    given = os.environ.get(CACHE_VARIABLE)
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache/cola_msa"
