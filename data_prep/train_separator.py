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

from absl import app, flags

from cola_msa.config.schema import SOURCES
from cola_msa.system.console import run_command
from cola_msa.values.numbers import define_float, define_seed
from data_prep.datasets import multitrack
from data_prep.datasets.base import DatasetError
from data_prep.pipeline import cli
from data_prep.separator.tracks import AUGMENTATIONS, SeparatorConfig

_DEFAULTS = SeparatorConfig()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "dataset_dir",
        None,
        "One folder a track with its stems (layout of data_prep.multitrack), or "
        "MUSDB18-HQ with its folders train and test.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output_dir", None, "Folder of weights, for --separator.", flag_values=values
    )
    flags.DEFINE_integer(
        "epochs",
        1000,
        "Most epochs; 2 for the paper's degraded separator.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "targets", [], "Sources to train; all without it.", flag_values=values
    )
    flags.DEFINE_list(
        "sources",
        list(SOURCES),
        "Sources that make up the mixture.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "stem_names",
        [],
        "source=file pairs, where the file (without suffix) is not named like the "
        "source; mixture=file too.",
        flag_values=values,
    )
    _define_model_flags(values)
    _define_training_flags(values)
    _define_run_flags(values)
    flags.mark_flags_as_required(["dataset_dir", "output_dir"], flag_values=values)


def _define_model_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "hidden_size",
        _DEFAULTS.hidden_size,
        "Width of the network, even.",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "nfft",
        _DEFAULTS.fft_size,
        "STFT window and FFT length, in samples.",
        lower_bound=16,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "nhop",
        _DEFAULTS.hop_samples,
        "STFT hop, in samples.",
        lower_bound=1,
        flag_values=values,
    )
    define_float(
        "bandwidth_hz",
        _DEFAULTS.bandwidth_hz,
        "The network reads no higher frequencies.",
        lower_bound=1,
        flag_values=values,
    )


def _define_training_flags(values: flags.FlagValues) -> None:
    define_float(
        "seq_seconds",
        _DEFAULTS.seq_seconds,
        "Length of a training example.",
        lower_bound=0.01,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "samples_per_track",
        _DEFAULTS.samples_per_track,
        "Examples an epoch for each training track.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        _DEFAULTS.batch_size,
        "Examples an update.",
        lower_bound=1,
        flag_values=values,
    )
    define_float(
        "learning_rate",
        _DEFAULTS.learning_rate,
        "Adam's rate.",
        lower_bound=1e-12,
        upper_bound=10.0,
        flag_values=values,
    )
    define_float(
        "weight_decay",
        _DEFAULTS.weight_decay,
        "L2 penalty.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "patience",
        _DEFAULTS.patience,
        "Epochs without a better validation loss before training stops.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "lr_decay_patience",
        _DEFAULTS.lr_decay_patience,
        "Such epochs before the rate is lowered.",
        lower_bound=0,
        flag_values=values,
    )
    define_float(
        "lr_decay_gamma",
        _DEFAULTS.lr_decay_gamma,
        "Factor that lowers the rate.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_list(
        "source_augmentations",
        list(AUGMENTATIONS),
        "Augmentations of single sources: gain, channelswap; empty for none.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "random_track_mix",
        _DEFAULTS.random_track_mix,
        "Mix an example's sources from different tracks and times.",
        flag_values=values,
    )


def _define_run_flags(values: flags.FlagValues) -> None:
    define_float(
        "validation_share",
        _DEFAULTS.options.validation_share,
        "Share of songs for validation, where the dataset has no such split.",
        flag_values=values,
    )
    define_float(
        "test_share",
        _DEFAULTS.options.test_share,
        "Share of songs for the report, where the dataset has no such split.",
        flag_values=values,
    )
    define_seed(0, "Seed of splits, weights and examples.", flag_values=values)
    flags.DEFINE_integer(
        "threads", 1, "torch's threads.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_string(
        "device", "cpu", "torch's device to train on: cpu, cuda.", flag_values=values
    )
    define_float(
        "cache_gb",
        _DEFAULTS.cache_gb,
        "Most memory for decoded stems; others are read chunk by chunk.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "niter",
        1,
        "Wiener iterations in the report's separation.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "report_tracks",
        0,
        "Most held-out tracks that the report separates; 0 for all.",
        lower_bound=0,
        flag_values=values,
    )
    define_float(
        "report_seconds",
        30.0,
        "The report separates the middle of a track, up to this length.",
        lower_bound=1.0,
        flag_values=values,
    )


def parse_config(values: flags.FlagValues) -> tuple[SeparatorConfig, tuple[str, ...]]:
    """Turns flags into the configuration and the targets.

    Raises:
        DatasetError: If a flag's value makes no sense.
    """
    options = cli.parse_options(multitrack.DATASET, values)
    targets = tuple(values.targets) or options.sources
    unknown = sorted(set(targets) - set(options.sources))
    if unknown:
        raise DatasetError(
            f"--targets: {', '.join(unknown)} is not one of --sources="
            f"{','.join(options.sources)}"
        )
    config = SeparatorConfig(
        options=options,
        hidden_size=values.hidden_size,
        fft_size=values.nfft,
        hop_samples=values.nhop,
        bandwidth_hz=values.bandwidth_hz,
        seq_seconds=values.seq_seconds,
        samples_per_track=values.samples_per_track,
        batch_size=values.batch_size,
        learning_rate=values.learning_rate,
        weight_decay=values.weight_decay,
        patience=values.patience,
        lr_decay_patience=values.lr_decay_patience,
        lr_decay_gamma=values.lr_decay_gamma,
        source_augmentations=tuple(values.source_augmentations),
        random_track_mix=values.random_track_mix,
        cache_gb=values.cache_gb,
    )
    if not set(config.source_augmentations) <= set(AUGMENTATIONS):
        raise DatasetError(
            f"--source_augmentations={','.join(config.source_augmentations)}: only "
            f"{', '.join(AUGMENTATIONS)} are known"
        )
    if config.hidden_size % 2:
        raise DatasetError(f"--hidden_size={config.hidden_size} must be even")
    if config.hop_samples > config.fft_size:
        raise DatasetError("--nhop must not be larger than --nfft")
    if config.seq_samples < config.fft_size:
        raise DatasetError(
            f"--seq_seconds={config.seq_seconds} is shorter than one STFT window of "
            f"--nfft={config.fft_size} samples"
        )
    return config, targets


def train(values: flags.FlagValues) -> None:
    """Trains, evaluates and reports what the parsed flags ask for.

    Raises:
        DatasetError: If a flag or the dataset is not what it should be.
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
        print(f"left out: {failure.path}: {failure.reason}")
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
        output_dir, dataset_dir, tracks, config, evaluation, log=print
    )
    print(report_lib.to_text(report), end="")


@run_command
def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise DatasetError(f"unknown argument {argv[1]!r}")
    train(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    app.run(main)
