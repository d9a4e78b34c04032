"""Copies prepared data, or a dataset, from an address to a local disk.

    python -m data_prep.copy --data_dir=gs://bucket/mtat --output_dir=prepared/mtat

Training, data_prep.verify, inspect and validate read local files. Files that are there
already with the same size are left alone, so the same command goes on after an
interruption. One of another size is refused, but in prepared data, where it comes anew.
"""

import pathlib
from typing import Any

from absl import flags

from cola_msa.remote import addresses
from cola_msa.system import console
from cola_msa.system.errors import FileError, UsageError
from cola_msa.values.paths import define_path
from data_prep.remote.copy import copy_tree


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values, "required": True}
    define_path("data_dir", None, "Address, e.g. gs://bucket/folder.", **add)
    define_path("output_dir", None, "Local folder.", **add)


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    for name, wanted in (("data_dir", True), ("output_dir", False)):
        path = getattr(options, name)
        if addresses.is_address(path) != wanted:
            kind = "an address" if wanted else "a local folder"
            raise UsageError(f"--{name}={path} must be {kind}")
    try:
        count = copy_tree(options.data_dir, pathlib.Path(options.output_dir))
    except (FileError, OSError) as error:
        raise FileError(f"{error}; what is copied stays") from error
    console.tell(f"{count} files copied to {options.output_dir}")


if __name__ == "__main__":
    console.start(main, define_flags, keeps_memory=False)
