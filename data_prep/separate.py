"""Separates a dataset's clips once, for every later preparation.

    python -m data_prep.separate --dataset=mtat --dataset_dir=raw/mtat \
        --separator=umxhq --stems_cache=stems

Then `python -m data_prep.mtat ... --separator=umxhq --stems_cache=stems` decodes the
stems instead of separating; its shards are the same byte for byte.
"""

import importlib
import pathlib
from typing import Any

from absl import flags

from cola_msa.remote import addresses
from cola_msa.system import console
from cola_msa.system.errors import FileError, UsageError
from cola_msa.values.numbers import define_seed
from cola_msa.values.paths import define_path
from data_prep.pipeline import cli
from data_prep.pipeline.separate import (
    check_stems_cache,
    failures_path,
    fill_cache,
    wanted_clips,
)
from data_prep.remote import places

# Those that have --separator. NSynth's notes are of one instrument each, and a
# multitrack folder has its own stems.
DATASETS = ("mtat", "fma", "gtzan", "jamendo", "folder", "labelled_folder")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    needed: dict[str, Any] = {"required": True, **add}
    flags.DEFINE_enum("dataset", None, DATASETS, "The dataset module.", **needed)
    define_path("dataset_dir", None, "The dataset's root.", **needed)
    define_path("stems_cache", None, "Where stems are kept.", **needed)
    cli.define_separator_flags(add, required=True)
    define_path(
        "split_dir",
        None,
        "Folder of the published split files (gtzan, jamendo); default: <dataset_dir>.",
        **add,
    )
    flags.DEFINE_list(
        "stem_splits", ["train", "validation"], "Splits whose clips get stems.", **add
    )
    cli.define_common_flags(add)
    define_seed(0, "Seed of splits and random masks.", **add)


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    from data_prep.pipeline import jobs

    dataset = importlib.import_module(f"data_prep.datasets.{options.dataset}").DATASET
    for name in ("separator", "stems_cache"):
        path = getattr(options, name)
        if addresses.is_address(path):
            raise UsageError(
                f"--{name}={path} is an address, and this is read and written as a "
                "folder: name a local one"
            )
    if options.split_dir and "split_dir" not in dataset.options:
        raise UsageError(f"--split_dir: {dataset.name} has no split files")
    check_stems_cache(dataset, options.dataset_dir, options.stems_cache)
    cache = pathlib.Path(options.stems_cache)
    try:
        with places.open_places(
            options.dataset_dir, None, dataset.metadata, options.split_dir
        ) as opened:
            clips = wanted_clips(dataset, opened.dataset_dir, options)
            failures = fill_cache(dataset, clips, opened, cache, options)
    except (FileError, OSError) as error:
        raise FileError(f"{error}; finished stems are kept") from error
    console.tell(
        f"{len(clips) - len(failures)} of {len(clips)} clips have stems in {cache}"
    )
    for failure in failures[:5]:
        console.tell(f"failed: {failure['path']}: {failure['reason']}")
    if len(failures) > options.max_failures * len(clips):
        raise jobs.PreparationError(
            f"{len(failures)} of {len(clips)} clips failed, more than "
            f"--max_failures={options.max_failures}; "
            f"{failures_path(cache, dataset.name)} names each with its reason"
        )


if __name__ == "__main__":
    console.start(main, define_flags, keeps_memory=False)
