"""Copies a folder from an address to the local disk."""

import glob
import os
import pathlib
from collections.abc import Iterable

from cola_msa.remote import addresses
from cola_msa.system import files, folders
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import FileError, UsageError, hide_logins
from cola_msa.values.reading import read_json

# Its presence says that all else is there.
_LAST = "manifest.json"


def check_local(flag: str, path: str) -> None:
    """Refuses an address, by UsageError; for what reads local files alone."""
    if addresses.is_address(path):
        path = hide_logins(path)
        raise UsageError(
            f"--{flag}={path} is an address, and this reads local files: copy it "
            f"first: python -m data_prep.copy --data_dir={path} --output_dir=FOLDER"
        )


def copy_tree(url: str, output_dir: pathlib.Path, show_progress: bool = True) -> int:
    """Copies all files below an address that are not there yet.

    Args:
        url: The address.
        output_dir: Where to.
        show_progress: Whether to draw a progress bar.

    Returns:
        Number of files copied.

    Raises:
        AddressError: If there is nothing at the address.
        FileError: If a file cannot be written, or one of another size is there that
            is no part of prepared data; nothing is copied then.
        OSError: If a file cannot be read.
    """
    folder = addresses.open_folder(url)
    if not folder.is_there():
        raise addresses.AddressError(f"{folder.shown} does not exist, or is empty")
    entries = {n: e for n, e in folder.walk().items() if not e.is_folder}
    left = []
    for name, entry in entries.items():
        path = output_dir / name
        is_there = path.is_file() and path.stat().st_size == entry.size
        if not is_there or _is_last(name):
            left.append(name)
    differing = [name for name in left if _differs(output_dir / name, entries[name])]
    for folder_name, names in _by_folder(differing).items():
        folders.check_names(
            output_dir / folder_name,
            [glob.escape(name) for name in names],
            lambda inner: _is_prepared(inner) or _is_prepared(output_dir),
            "prepared data",
        )
    # Of a folder within it, too; the outermost last of all.
    left.sort(key=lambda name: (_is_last(name), -name.count("/"), name))
    num_bytes = sum(entries[name].size for name in left)
    with ProgressBar(
        total=num_bytes, unit="B", unit_scale=True, disable=not show_progress
    ) as bar:
        for name in left:
            with files.written_path(output_dir / name) as temporary:
                folder.download(name, temporary)
            bar.update(entries[name].size)
    return len(left)


def _is_last(name: str) -> bool:
    return pathlib.PurePosixPath(name).name == _LAST


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of files by the folders that they lie in."""
    found: dict[str, list[str]] = {"": []}  # the outermost is looked at anyway
    for name in names:
        path = pathlib.PurePosixPath(name)
        found.setdefault(str(path.parent), []).append(path.name)
    return found


def _differs(path: pathlib.Path, entry: addresses.Entry) -> bool:
    return os.path.lexists(path) and not (
        path.is_file() and path.stat().st_size == entry.size
    )


def _is_prepared(folder: pathlib.Path) -> bool:
    """Whether names like those of a prepared folder are this folder's own."""
    try:
        found = read_json(folder / _LAST)
    except FileError:
        return False
    return {"schema_version", "splits"} <= found.keys()
