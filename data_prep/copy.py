"""Copies prepared data, or a dataset, from an address to a local disk.

    python -m data_prep.copy --data_dir=gs://bucket/mtat --output_dir=prepared/mtat

Training, data_prep.verify, inspect and validate read local files. Files that are there
already with the same size are left alone, so the same command goes on after an
interruption. One of another size is refused, but in prepared data, where it comes anew.
Exit codes: 0 done, 1 something could not be copied, 2 wrong usage, 130 interrupted.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from cola_msa.system.errors import FileError
from cola_msa.values.paths import define_path
from data_prep.datasets.base import DatasetError
from data_prep.remote import addresses
from data_prep.remote.copy import copy_tree

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130

flags.disclaim_key_flags()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("data_dir", None, "Address, e.g. gs://bucket/folder.", **add)
    define_path("output_dir", None, "Local folder.", **add)
    flags.mark_flags_as_required(["data_dir", "output_dir"], flag_values=values)


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
