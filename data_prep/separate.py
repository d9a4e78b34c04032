"""Separates a dataset's clips once, for every later preparation.

    python -m data_prep.separate --dataset=mtat --dataset_dir=raw/mtat \
        --separator=umxhq --stems_cache=stems

Then `python -m data_prep.mtat ... --separator=umxhq --stems_cache=stems` decodes the
stems instead of separating; its shards are the same byte for byte. Exit codes as of
the dataset commands.
"""

import importlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from cola_msa.system.errors import FileError
from cola_msa.values.numbers import define_float, define_seed
from cola_msa.values.paths import define_path
from data_prep.datasets.base import (
    DatasetError,
)
from data_prep.pipeline.separate import (
    _failures_path,
    _separate,
    _wanted,
    check_stems_cache,
)
from data_prep.remote import addresses, places

# Those that have --separator. NSynth's notes are of one instrument each, and a
# multitrack folder has its own stems.
DATASETS = ("mtat", "fma", "gtzan", "jamendo", "folder", "labelled_folder")

flags.disclaim_key_flags()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("dataset", None, DATASETS, "The dataset module.", **add)
    define_path("dataset_dir", None, "The dataset's root.", **add)
    define_path("stems_cache", None, "Where stems are kept.", **add)
    flags.DEFINE_string(
        "separator",
        None,
        "umxhq, umxl, random (untrained Open-Unmix), or a folder of weights.",
        **add,
    )
    flags.DEFINE_integer("niter", 1, "Wiener iterations.", lower_bound=0, **add)
    flags.DEFINE_enum(
        "separator_dtype",
        "float32",
        ["float32", "bfloat16"],
        "Type of the separator's products.",
        **add,
    )
    flags.DEFINE_string(
        "split_dir",
        None,
        "Folder of the published split files (gtzan, jamendo); default: <dataset_dir>.",
        **add,
    )
    flags.DEFINE_list(
        "stem_splits", ["train", "validation"], "Splits whose clips get stems.", **add
    )
    flags.DEFINE_integer(
        "num_workers", 1, "Processes; 0 for one a core.", lower_bound=0, **add
    )
    define_seed(0, "Seed of splits and random masks.", **add)
    define_float(
        "max_failures",
        0.01,
        "Share of clips that may fail before the command ends with an error.",
        lower_bound=0.0,
        upper_bound=1.0,
        **add,
    )
    required = ["dataset", "dataset_dir", "stems_cache", "separator"]
    flags.mark_flags_as_required(required, flag_values=values)


def execute(values: Any) -> int:
    """Separates what the parsed flags ask for; returns the exit code."""
    from data_prep.pipeline import jobs, manifest
    from data_prep.stems import weights

    def complain(message: str, code: int) -> int:
        print(f"data_prep.separate: {message}", file=sys.stderr)
        return code

    shown: Callable[[str], str] = str
    try:
        dataset = importlib.import_module(
            f"data_prep.datasets.{values.dataset}"
        ).DATASET
        for name in ("separator", "stems_cache"):
            if addresses.is_address(getattr(values, name)):
                raise DatasetError(
                    f"--{name}={getattr(values, name)} is an address, and this is "
                    "read and written as a folder: name a local one"
                )
        cache = pathlib.Path(values.stems_cache)
        if values.split_dir and "split_dir" not in dataset.options:
            raise DatasetError(f"--split_dir: {dataset.name} has no split files")
        with places.open_places(
            values.dataset_dir, None, dataset.metadata, values.split_dir
        ) as opened:
            shown = opened.shown
            check_stems_cache(dataset, values.dataset_dir, values.stems_cache)
            clips = _wanted(dataset, opened.dataset_dir, values)
            failures = _separate(dataset, clips, opened, cache, values)
    except (DatasetError, weights.SeparatorError) as error:
        return complain(shown(str(error)), 2)
    except (jobs.PreparationError, manifest.ResumeError) as error:
        return complain(str(error), 1)
    except (FileError, OSError) as error:
        return complain(f"{shown(str(error))}; finished stems are kept", 1)
    except KeyboardInterrupt:
        return complain("interrupted; run the same command again to go on", 130)
    print(f"{len(clips) - len(failures)} of {len(clips)} clips have stems in {cache}")
    for failure in failures[:5]:
        print(f"failed: {failure['path']}: {failure['reason']}")
    if len(failures) > values.max_failures * len(clips):
        return complain(
            f"{len(failures)} of {len(clips)} clips failed, more than "
            f"--max_failures={values.max_failures}; "
            f"{_failures_path(cache, dataset.name)} names each with its reason",
            1,
        )
    return 0


def _main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        print(f"data_prep.separate: unknown argument {arguments[1]!r}", file=sys.stderr)
        return 2
    return execute(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(_main)
