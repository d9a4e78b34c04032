"""Copies prepared data, or a dataset, from an address to a local disk.

    python -m data_prep.copy --data_dir=gs://bucket/mtat --output_dir=prepared/mtat

Training, data_prep.verify, inspect and validate read local files. Files that are there
already with the same size are left alone, so the same command goes on after an
interruption. One of another size is refused, but in prepared data, where it comes anew.
Exit codes: 0 done, 1 something could not be copied, 2 wrong usage, 130 interrupted.
"""

import glob
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from cola_msa.system import files, folders
from cola_msa.system.errors import FileError
from cola_msa.values.reading import read_json
from data_prep.datasets.base import DatasetError
from data_prep.remote import addresses

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
# Its presence says that all else is there.
_LAST = "manifest.json"

flags.disclaim_key_flags()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("data_dir", None, "Address, e.g. gs://bucket/folder.", **add)
    flags.DEFINE_string("output_dir", None, "Local folder.", **add)
    flags.mark_flags_as_required(["data_dir", "output_dir"], flag_values=values)


def copy_tree(url: str, output_dir: pathlib.Path, show_progress: bool = True) -> int:
    """Copies all files below an address that are not there yet.

    Args:
        url: The address.
        output_dir: Where to.
        show_progress: Whether to draw a progress bar.

    Returns:
        Number of files copied.

    Raises:
        DatasetError: If there is nothing at the address.
        FileError: If a file cannot be written, or one of another size is there that
            is no part of prepared data; nothing is copied then.
        OSError: If a file cannot be read.
    """
    from tqdm import tqdm

    folder = addresses.open_folder(url)
    if not folder.is_there():
        raise DatasetError(f"{folder.url} does not exist, or is empty")
    entries = {n: e for n, e in folder.walk().items() if not e.is_folder}
    left = []
    for name, entry in entries.items():
        path = output_dir / name
        if not path.is_file() or path.stat().st_size != entry.size or name == _LAST:
            left.append(name)
    differing = [name for name in left if _differs(output_dir / name, entries[name])]
    folders.check_names(
        output_dir, [glob.escape(n) for n in differing], _is_prepared, "prepared data"
    )
    left.sort(key=lambda name: (name == _LAST, name))
    num_bytes = sum(entries[name].size for name in left)
    with tqdm(
        total=num_bytes, unit="B", unit_scale=True, disable=not show_progress
    ) as bar:
        for name in left:
            with files.written_path(output_dir / name) as temporary:
                folder.download(name, temporary)
            bar.update(entries[name].size)
    return len(left)


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


def execute(values: Any) -> int:
    """Copies what the parsed flags name; returns the exit code."""
    try:
        for name, wanted in (("data_dir", True), ("output_dir", False)):
            path = getattr(values, name)
            if addresses.is_address(path) != wanted:
                kind = "an address" if wanted else "a local folder"
                raise DatasetError(f"--{name}={path} must be {kind}")
        count = copy_tree(values.data_dir, pathlib.Path(values.output_dir))
    except DatasetError as error:
        return _complain(str(error), _USAGE)
    except FileError as error:
        return _complain(f"{error}; what is copied stays", _FAILED)
    except OSError as error:
        return _complain(f"{error}; what is copied stays", _FAILED)
    except KeyboardInterrupt:
        message = "interrupted; run the same command again to go on"
        return _complain(message, _INTERRUPTED)
    print(f"{count} files copied to {values.output_dir}")
    return 0


def _complain(message: str, code: int) -> int:
    print(f"data_prep.copy: {message}", file=sys.stderr)
    return code


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    if len(arguments) > 1:
        return _complain(f"unknown argument {arguments[1]!r}", _USAGE)
    return execute(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    app.run(main)
