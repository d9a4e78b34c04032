"""The network that a run started from, also where none was kept.

A run of ours keeps its untrained network as step 0. Imported weights come without
one: the comparison is then a network with fresh weights of the run's configuration and
seed, whose batch-norm statistics are estimated from the data at hand, as a run of ours
does from its own.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.audio.frontend import window_log_mels
from cola_msa.config.schema import FrontendConfig
from cola_msa.evaluation.retrieval import (
    NUM_CANDIDATES,
    NUM_ROUNDS,
    Retrieval,
    paired_interval,
    project_draws,
    rank_projections,
    retrieval_draws,
    retrieve_without_learning,
)
from cola_msa.evaluation.validation import Validator
from cola_msa.frameworks.choose import framework_of
from cola_msa.model.contrastive import PairModel, project_function
from cola_msa.pairs.draws import parse_source
from cola_msa.pairs.eligible import find_rows
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.joined import PairData
from cola_msa.records.schema import DataError
from cola_msa.runs import directory, kept, network
from cola_msa.system.errors import FileError
from cola_msa.values.reading import read_json

_WITH_KERNEL = "untrained_trained_kernel"  # where the similarity has one
_LABELS = {
    "trained": "trained",
    "untrained": "untrained, initial kernel",
    _WITH_KERNEL: "untrained, trained kernel",
    "no_learning": "no learning (spectra, cosine)",
}
_BATCH = 32  # pairs a batch of the statistics, at the most


def has_untrained(run_dir: str | os.PathLike) -> bool:
    """Whether the run kept its untrained network."""
    return 0 in kept.kept_steps(run_dir)


def untrained_model(
    run_dir: str | os.PathLike, data: PairData, statistics: str
) -> PairModel:
    """The network that a run started from; a fresh one where weights were imported.

    Args:
        run_dir: The run.
        data: Where a fresh network's batch-norm statistics come from: its training
            split.
        statistics: `anchors`, of mixtures alone, or `pairs`, for which data must hold
            the run's sources.

    Returns:
        PairModel, ready for inference.

    Raises:
        RunError: If there is no such run.
        PairError: If the data lacks the run's sources.
        DataError: If the training split has no segment.
    """
    if has_untrained(run_dir):
        return kept.load_model(run_dir, 0, statistics)
    config = directory.load_config(run_dir)
    logging.info(
        "%s has kept no untrained network: one with fresh weights of seed %d, with "
        "batch-norm statistics of %s",
        run_dir,
        config.train.seed,
        data.data_dir,
    )
    model = network.fresh_network(run_dir)
    train = config.train
    if statistics == "anchors":
        train = dataclasses.replace(train, source="none", augment="none")
    usable, active, _ = find_rows(
        data.index("train"),
        config.frontend.window_frames,
        [(k,) for k in parse_source(train.source, data.sources)],
    )
    if not len(usable):
        raise DataError(
            f"{data.data_dir}: the training split has no whole segment to estimate "
            "the untrained network's batch-norm statistics from"
        )
    # A mini-batch holds segments of one source: the rarest decides.
    counts = map(len, (usable, *active))
    size = max(1, min(train.batch_size, _BATCH, *counts))
    train = dataclasses.replace(train, batch_size=size)
    build = framework_of(config).build_augmentation
    sampler = PairSampler(data, train, build_augmentation=build)
    validator = Validator(model, sampler, None, train.statistics_batches)
    validator.estimate_statistics()[statistics].assign_to(model)
    return model


SPECTRA_KEY = "spectra-1"  # raised whenever `window_spectra` gives other values


def window_spectra(windows: tf.Tensor) -> tf.Tensor:
    """What a window says of itself without any network: statistics of its log-mels.

    Args:
        windows: float32 [n, frames, num_mels, 1].

    Returns:
        float32 [n, 4 * num_mels]: each band's mean, deviation, mean change from frame
        to frame, and 90th percentile (the nearest frame's).
    """
    values = tf.squeeze(windows, -1)
    mean = tf.reduce_mean(values, axis=1)
    deviation = tf.math.reduce_std(values, axis=1)
    change = tf.reduce_mean(tf.abs(values[:, 1:] - values[:, :-1]), axis=1)
    rank = tf.cast(
        tf.round(0.9 * tf.cast(tf.shape(values)[1] - 1, tf.float32)), "int32"
    )
    loud = tf.gather(tf.sort(values, axis=1), rank, axis=1)
    return tf.concat([mean, deviation, change, loud], axis=1)


def spectra_function(frontend: FrontendConfig) -> Callable[[tf.Tensor], tf.Tensor]:
    """`window_spectra` of an encoder's windows, of a waveform of its log-mels.

    Args:
        frontend: The windows' FrontendConfig.
    """
    return lambda windows: window_spectra(window_log_mels(windows, frontend))


def untrained_key(run_dir: str | os.PathLike, data: PairData, statistics: str) -> str:
    """16 hexadecimal digits that stand for what `untrained_model` computes."""
    if has_untrained(run_dir):
        return kept.encoder_key(run_dir, 0, statistics)
    parts = (
        directory.load_run(run_dir)["config"],
        data.fingerprint(("train",)),
        statistics,
    )
    return hashlib.sha256(f"untrained {parts}".encode()).hexdigest()[:16]


def compare_with_untrained(
    run_dir: str | pathlib.Path,
    data: PairData,
    step: int | str | None = None,
    split: str = "validation",
    source: str | None = None,
) -> dict[str, Any]:
    """Retrieval of a run's network and of the network that it started from.

    Args:
        run_dir: The run.
        data: Prepared data with stems.
        step: A kept step, `best`, or None for the last.
        split: Where the songs come from.
        source: What candidates are of, as `--source`; None for the run's own.

    Returns:
        `trained` (its own kernel), `untrained` (its own initial kernel), where the
        similarity has a kernel `untrained_trained_kernel` (initial network, trained
        kernel), and `no_learning` (the cosine of spectral profiles): scores with
        chance; `difference`: trained minus the better of the untrained ones, for
        `top1` and `mrr`, each with the 95 % interval over songs, and the ratio;
        `difference_no_learning`: the same against `no_learning`.
    """
    config = directory.load_config(run_dir)
    train = dataclasses.replace(config.train, source=source or config.train.source)
    build = framework_of(config).build_augmentation
    sampler = PairSampler(data, train, split, build_augmentation=build)
    trained_model = kept.load_model(run_dir, step, "pairs")
    untrained_network = untrained_model(run_dir, data, "pairs")
    draws = retrieval_draws(sampler, NUM_CANDIDATES, NUM_ROUNDS)
    projected = {
        name: project_draws(sampler, draws, project_function(model))
        for name, model in (
            ("trained", trained_model),
            ("untrained", untrained_network),
        )
    }
    compared = [
        ("trained", "trained", trained_model),
        ("untrained", "untrained", untrained_network),
    ]
    if trained_model.similarity.weights:
        compared.append((_WITH_KERNEL, "untrained", trained_model))
    found = {
        name: rank_projections(sampler, draws, projected[network], kernel.similarity)
        for name, network, kernel in compared
    }
    untrained_names = [name for name, network, _ in compared if network == "untrained"]
    found["no_learning"] = retrieve_without_learning(sampler, draws)
    results: dict[str, Any] = {name: r.scores() for name, r in found.items()}
    per_source = {}
    for number in np.unique(found["trained"].source):
        name = "mixture" if number < 0 else data.sources[number]
        per_source[name] = {
            model: float(r.top1[r.source == number].mean())
            for model, r in found.items()
        }
    results["top1_per_source"] = per_source
    results["difference"] = {}
    results["difference_no_learning"] = {}
    for measure in ("top1", "mrr"):
        other = max(
            untrained_names,
            key=lambda name: results[name][measure],
        )
        results["difference"][measure] = _difference(found, other, measure)
        results["difference_no_learning"][measure] = _difference(
            found, "no_learning", measure
        )
    results["split"] = split
    results["num_candidates"] = NUM_CANDIDATES
    return results


def _difference(
    found: dict[str, Retrieval], other: str, measure: str
) -> dict[str, Any]:
    """Trained minus another, with the 95 % interval over songs, and the ratio."""
    trained, against = (
        r.top1 if measure == "top1" else r.reciprocal
        for r in (found["trained"], found[other])
    )
    low, high = paired_interval(trained, against, found["trained"].songs)
    return {
        "against": other,
        "difference": float(trained.mean() - against.mean()),
        "interval": [low, high],
        "ratio": float(trained.mean() / max(against.mean(), 1e-12)),
    }


def holds_comparison(path: pathlib.Path) -> bool:
    """Whether a file is a comparison that was written before."""
    try:
        return {"trained", "untrained", "split"} <= set(read_json(path))
    except FileError:
        return False


def render(results: dict[str, Any]) -> str:
    """The comparison as a text table."""
    trained = results["trained"]
    lines = [
        f"retrieval on {trained['num_songs']} {results['split']} songs, "
        f"{trained['num_queries']} queries, up to {results['num_candidates']} "
        "candidates",
        f"{'network':32s} {'top-1':>7s} {'MRR':>7s}",
    ]
    labels = {name: label for name, label in _LABELS.items() if name in results}
    if _WITH_KERNEL not in results:
        labels["untrained"] = "untrained"
    for name, label in labels.items():
        row = results[name]
        lines.append(f"{label:32s} {row['top1']:7.3f} {row['mrr']:7.3f}")
    lines.append(
        f"{'chance':32s} {trained['chance_top1']:7.3f} {trained['chance_mrr']:7.3f}"
    )
    for part in ("difference", "difference_no_learning"):
        for measure, row in results[part].items():
            low, high = row["interval"]
            lines.append(
                f"{measure}: trained minus {labels[row['against']]} = "
                f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}], "
                f"{row['ratio']:.1f} times"
            )
    lines.append(_verdict(results))
    return "\n".join(lines)


def _verdict(results: dict[str, Any]) -> str:
    """Whether the network has learned more than can be seen without learning."""
    low, high = results["difference_no_learning"]["top1"]["interval"]
    if low > 0:
        return "the run beats what a comparison of spectra finds without learning"
    found = "finds no more than" if high >= 0 else "finds less than"
    return (
        f"the run {found} a comparison of spectra does without learning: it has not "
        "learned the task yet"
    )
