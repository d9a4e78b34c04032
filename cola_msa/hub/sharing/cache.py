"""The cache of pretrained folders that were fetched: each whole, or not there.

It is `COLA_MSA_CACHE`, or `~/.cache/cola_msa`. One process fetches at a time; others
wait and find what it fetched.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from cola_msa.hub.pretrained import (
    check_files,
    is_pretrained,
    listed_hashes,
    own_files,
    read_config,
)
from cola_msa.system.errors import RunError
from cola_msa.system.files import temporary_folder
from cola_msa.system.folders import CACHE_VARIABLE, cache_dir, replace_folder
from cola_msa.system.locks import Lock

MAX_DOWNLOAD_SECONDS = 3600
Found = TypeVar("Found")


def kept_folder(
    target: pathlib.Path, shown: str, fill: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """A folder of the cache; filled where it is not there yet.

    Args:
        target: The folder, below `cache_dir()`.
        shown: What it is fetched from, for messages.
        fill: Writes the files into an empty folder.

    Returns:
        `target`.

    Raises:
        RunError: If it was there and is damaged, or what was fetched is.
    """
    if is_pretrained(target):
        _check_cached(target, shown)
        return target
    try:
        with Lock(cache_dir() / ".locks" / f"{target.name}.lock", "", waits=True):
            if not is_pretrained(target):  # another process may have fetched it
                with temporary_folder(target) as folder:
                    fill(folder)
                    # Before the cache keeps it and nobody asks its source any more.
                    with told_of(folder, shown):
                        check_files(folder, listed_hashes(read_config(folder)))
                    # What lies there is no pretrained folder: damaged, or of another
                    # kind.
                    replace_folder(folder, target, own_files, "a damaged download")
    except OSError as error:
        raise RunError(
            f"{target}: cannot be written ({error.strerror or error}); name "
            f"another cache by {CACHE_VARIABLE}"
        ) from error
    return target


def _check_cached(folder: pathlib.Path, shown: str) -> None:
    """Says where a download lies that was whole once, and is no more."""
    try:
        check_files(folder, listed_hashes(read_config(folder)))
    except RunError as error:
        raise RunError(
            f"{error}. This is the cached download of {shown}: remove the folder "
            f"{folder}, and the same command fetches it again"
        ) from error


@contextlib.contextmanager
def told_of(folder: pathlib.Path, shown: str) -> Iterator[None]:
    """Inside, what is wrong in a temporary folder is told of what it came from."""
    try:
        yield
    except RunError as error:
        reason = str(error).replace(f"{folder}{os.sep}", "")
        raise RunError(f"{shown}: {reason}") from error


def in_time(
    work: Callable[[threading.Event], Found], shown: str, max_seconds: float
) -> Found:
    """Does what asks a server, within a limit for all of it.

    It holds for name lookup, handshakes, headers, content. A server can delay each byte
    of its headers, which no timeout of a socket notices, so the work is done by a
    thread that is left behind at the limit.

    Args:
        work: Is given an event, which is set once nobody waits any more.
        shown: What is fetched, for messages.
        max_seconds: The limit.

    Returns:
        What `work` returns.

    Raises:
        RunError: At the limit.
    """
    results: list[Found] = []
    errors: list[BaseException] = []
    is_late = threading.Event()

    def run() -> None:
        try:
            results.append(work(is_late))
        except BaseException as error:  # raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join(max_seconds)
    finally:
        is_late.set()  # Ctrl-C, too, ends the thread at its next block
    if errors:
        raise errors[0]
    if not results:
        raise RunError(
            f"{shown}: not fetched within {max_seconds:,} s, which is the limit; try "
            "again, or download it by hand"
        )
    return results[0]
