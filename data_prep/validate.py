"""Checks a download before days of work: python -m data_prep.validate --dataset=mtat.

Compares the files of a dataset with its metadata: which are missing, empty, too short
or damaged, which are known to be broken, and whether the metadata has the published
counts. Decodes nothing and changes nothing. Exit codes: 0 all is well but for what is
broken in the published archive, 1 something is wrong, or it is not this dataset (the
message says where to get it).
"""

import importlib
import os
import pathlib
from typing import Any

from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import FileError, UsageError
from cola_msa.values.paths import define_path

_DATASETS = ("mtat", "nsynth", "fma", "gtzan", "jamendo", "labelled_folder")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum(
        "dataset", None, _DATASETS, "Which dataset.", required=True, **add
    )
    define_path("dataset_dir", None, "Where it was unpacked.", required=True, **add)
    define_path(
        "split_dir",
        None,
        "Folder of the published split files, where they are not in --dataset_dir "
        "(gtzan, jamendo).",
        **add,
    )
    flags.DEFINE_bool(
        "durations",
        True,
        "Open every file, too: durations, and whether it is whole. --nodurations only "
        "looks at names and sizes.",
        **add,
    )
    flags.DEFINE_integer(
        "num_workers", 1, "Processes; 0 for one a core.", lower_bound=0, **add
    )
    define_path("output", None, "Also write all problems into this JSON file.", **add)


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    from data_prep.checks import download
    from data_prep.datasets.base import DatasetError
    from data_prep.remote import copy

    copy.check_local("dataset_dir", options.dataset_dir)
    dataset = importlib.import_module(f"data_prep.datasets.{options.dataset}").DATASET
    if options.split_dir and "split_dir" not in dataset.options:
        raise UsageError(f"--split_dir is not for --dataset={dataset.name}")
    for title, text in (
        ("get it from", dataset.homepage),
        ("download", dataset.download),
        ("layout", dataset.layout),
        ("licence", dataset.licence),
        ("cite", dataset.citation),
    ):
        if text:
            console.tell(f"{title}: {text}")
    try:
        if options.output:
            download.check_output(pathlib.Path(options.output))
        report = download.validate(
            dataset,
            pathlib.Path(options.dataset_dir),
            options.durations,
            options.num_workers or len(os.sched_getaffinity(0)),
            split_dir=options.split_dir,
        )
        if options.output:
            download.write_problems(pathlib.Path(options.output), report.problems)
    except DatasetError as error:
        source = f"; get it from {dataset.homepage}" if dataset.homepage else ""
        raise DatasetError(f"{error}{source}") from error
    except OSError as error:
        raise FileError(str(error)) from error
    download.describe(report, console.tell)
    num_wrong = sum(not problem.known for problem in report.problems)
    if num_wrong:
        advice = "" if options.output else "; --output=FILE lists them all"
        raise download.ValidationError(
            f"{num_wrong} of {report.num_expected} files are not as they should be; "
            f"download or unpack them again{advice}"
        )
    console.tell(f"{options.dataset_dir}: all is well")


if __name__ == "__main__":
    console.start(main, define_flags, keeps_memory=False)
