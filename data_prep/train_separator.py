r"""Trains Open-Unmix on stems. `python -m data_prep.train_separator --help`.

    python -m data_prep.train_separator --dataset_dir=raw/musdb18hq \
        --output_dir=separators/full
    python -m data_prep.train_separator --dataset_dir=raw/musdb18hq \
        --output_dir=separators/2epochs --epochs=2
    python -m data_prep.mtat --separator=separators/2epochs ...

The second is the degraded separator of the paper's Figure 5. The same command goes on
where a stopped one was; a larger --epochs goes on where a finished one ended.
"""

import pathlib
from typing import Any

from absl import flags

from cola_msa.config.schema import SOURCES
from cola_msa.system import console
from cola_msa.system.errors import UsageError, of_flags
from cola_msa.values.field_flags import define_fields, given_fields
from cola_msa.values.numbers import define_float, define_seed
from cola_msa.values.paths import define_path
from data_prep.datasets.base import DatasetError, IndexOptions
from data_prep.datasets.multitrack import DATASET
from data_prep.pipeline import cli
from data_prep.separator.tracks import SeparatorConfig, check_config

_OPTIONS: IndexOptions = SeparatorConfig().options


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags; those of the network come from its fields."""
    add: dict[str, Any] = {"flag_values": values}
    define_path(
        "dataset_dir",
        None,
        "One folder a track with its stems (layout of data_prep.multitrack), or "
        "MUSDB18-HQ with its folders train and test.",
        required=True,
        **add,
    )
    text = "Folder of weights, for --separator."
    define_path("output_dir", None, text, required=True, **add)
    text = "Most epochs; 2 for the paper's degraded separator."
    flags.DEFINE_integer("epochs", 1000, text, lower_bound=1, **add)
    flags.DEFINE_list("targets", [], "Sources to train; all without it.", **add)
    text = "Sources that make up the mixture."
    flags.DEFINE_list("sources", list(SOURCES), text, **add)
    flags.DEFINE_list(
        "stem_names",
        [],
        "source=file pairs, where the file (without suffix) is not named like the "
        "source; mixture=file too.",
        **add,
    )
    define_fields(SeparatorConfig, values, with_defaults=True)
    text = "Share of songs for validation, where the dataset has no such split."
    define_float("validation_share", _OPTIONS.validation_share, text, 0.0, 1.0, **add)
    text = "Share of songs for the report, where the dataset has no such split."
    define_float("test_share", _OPTIONS.test_share, text, 0.0, 1.0, **add)
    define_seed(0, "Seed of splits, weights and examples.", **add)
    flags.DEFINE_integer("threads", 1, "torch's threads.", lower_bound=1, **add)
    text = "torch's device to train on: cpu, cuda."
    flags.DEFINE_string("device", "cpu", text, **add)
    text = "Wiener iterations in the report's separation."
    flags.DEFINE_integer("niter", 1, text, lower_bound=0, **add)
    text = "Most held-out tracks that the report separates; 0 for all."
    flags.DEFINE_integer("report_tracks", 0, text, lower_bound=0, **add)
    text = "The report separates the middle of a track, up to this length."
    define_float("report_seconds", 30.0, text, lower_bound=1.0, **add)


def parse_config(values: flags.FlagValues) -> tuple[SeparatorConfig, tuple[str, ...]]:
    """Turns flags into the configuration and the targets.

    Raises:
        UsageError: If a flag's value makes no sense.
    """
    options = cli.parse_options(DATASET, values)
    targets = tuple(values.targets) or options.sources
    unknown = sorted(set(targets) - set(options.sources))
    if unknown:
        raise UsageError(
            f"--targets: {', '.join(unknown)} is not one of --sources="
            f"{','.join(options.sources)}"
        )
    given = given_fields(SeparatorConfig, values)
    with of_flags():
        config = SeparatorConfig(options=options, **given)
    check_config(config)
    return config, targets


def main(values: flags.FlagValues) -> None:
    """Trains, evaluates and reports what the parsed flags ask for.

    Raises:
        UsageError: If a flag's value makes no sense.
        DatasetError: If the dataset is not what it should be.
        TrainingError: If the training cannot begin or go on.
        SeparatorError: If the extra is missing.
        AudioError: If a file cannot be read.
    """
    from data_prep.separator import folder
    from data_prep.separator import report as report_lib
    from data_prep.separator import tracks as tracks_lib
    from data_prep.separator.training import Run
    from data_prep.stems import weights

    config, targets = parse_config(values)
    dataset_dir = pathlib.Path(values.dataset_dir)
    output_dir = pathlib.Path(values.output_dir)
    if not dataset_dir.is_dir():
        raise DatasetError(f"--dataset_dir={dataset_dir} is not a folder")
    tracks, failures = tracks_lib.list_tracks(dataset_dir, config)
    for failure in failures:
        console.tell(f"left out: {failure.path}: {failure.reason}")
    weights.start_torch(values.threads, values.device)
    run = Run(output_dir, values.epochs, values.device)
    folder.train_targets(targets, dataset_dir, tracks, config, run)
    evaluation = report_lib.EvaluationConfig(
        num_tracks=values.report_tracks,
        seconds=values.report_seconds,
        niter=values.niter,
        num_threads=values.threads,
    )
    report = report_lib.make(
        output_dir, dataset_dir, tracks, config, evaluation, log=console.tell
    )
    print(report_lib.to_text(report), end="")


if __name__ == "__main__":
    console.start(main, define_flags)
