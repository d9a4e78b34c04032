"""Checks a download before days of work: python -m data_prep.validate --dataset=mtat.

Compares the files of a dataset with its metadata: which are missing, empty, too short
or damaged, which are known to be broken, and whether the metadata has the published
counts. Decodes nothing and changes nothing. Exit codes: 0 all is well but for what is
broken in the published archive, 1 something is wrong, 2 wrong usage or not this dataset
(the message says where to get it), 130 interrupted.
"""

import importlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from cola_msa.values.paths import define_path

_WRONG, _USAGE, _INTERRUPTED = 1, 2, 130
_DATASETS = ("mtat", "nsynth", "fma", "gtzan", "jamendo", "labelled_folder")

flags.disclaim_key_flags()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("dataset", None, _DATASETS, "Which dataset.", **add)
    define_path("dataset_dir", None, "Where it was unpacked.", **add)
    flags.DEFINE_string(
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
    flags.DEFINE_string(
        "output", None, "Also write all problems into this JSON file.", **add
    )
    flags.mark_flags_as_required(["dataset", "dataset_dir"], flag_values=values)


def execute(values: Any) -> int:
    """Checks what the parsed flags name; returns the exit code."""
    from cola_msa.system.errors import FileError
    from data_prep.checks import download
    from data_prep.datasets.base import DatasetError
    from data_prep.remote import addresses

    if addresses.is_address(values.dataset_dir):
        return _complain(addresses.why_local("dataset_dir", values.dataset_dir), _USAGE)

    dataset = importlib.import_module(f"data_prep.datasets.{values.dataset}").DATASET
    for title, text in (
        ("get it from", dataset.homepage),
        ("download", dataset.download),
        ("layout", dataset.layout),
        ("licence", dataset.licence),
        ("cite", dataset.citation),
    ):
        if text:
            print(f"{title}: {text}")
    if values.split_dir and "split_dir" not in dataset.options:
        return _complain(f"--split_dir is not for --dataset={dataset.name}", _USAGE)
    try:
        if values.output:
            download.check_output(pathlib.Path(values.output))
        report = download.validate(
            dataset,
            pathlib.Path(values.dataset_dir),
            values.durations,
            values.num_workers or len(os.sched_getaffinity(0)),
            split_dir=values.split_dir,
        )
        if values.output:
            download.write_problems(pathlib.Path(values.output), report.problems)
    except FileError as error:
        return _complain(str(error), _WRONG)
    except DatasetError as error:
        source = f"; get it from {dataset.homepage}" if dataset.homepage else ""
        return _complain(f"{error}{source}", _USAGE)
    except (download.ValidationError, OSError) as error:
        return _complain(str(error), _WRONG)
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)
    download.describe(report, print)
    num_wrong = sum(not problem.known for problem in report.problems)
    if num_wrong:
        advice = "" if values.output else "; --output=FILE lists them all"
        return _complain(
            f"{num_wrong} of {report.num_expected} files are not as they should be; "
            f"download or unpack them again{advice}",
            _WRONG,
        )
    print(f"{values.dataset_dir}: all is well")
    return 0


def _complain(message: str, code: int) -> int:
    print(f"data_prep.validate: {message}", file=sys.stderr)
    return code


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    if len(arguments) > 1:
        return _complain(f"unknown argument {arguments[1]!r}", _USAGE)
    return execute(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    app.run(main)
