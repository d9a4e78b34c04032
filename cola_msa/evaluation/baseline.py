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

import numpy as np
from absl import logging

from cola_msa.evaluation.validation import Validator
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.pairs.sampler import PairSampler, parse_source
from cola_msa.records.prepared import PreparedData
from cola_msa.records.schema import DataError
from cola_msa.runs import kept

_BATCH = 32  # pairs a batch of the statistics, at the most


def has_untrained(run_dir: str | os.PathLike) -> bool:
    """Whether the run kept its untrained network."""
    return 0 in kept.kept_steps(run_dir)


def untrained_model(
    run_dir: str | os.PathLike, data: PreparedData, statistics: str
) -> ContrastiveModel:
    """The network that a run started from; a fresh one where weights were imported.

    Args:
        run_dir: The run.
        data: Where a fresh network's batch-norm statistics come from: its training
            split.
        statistics: `anchors`, of mixtures alone, or `pairs`, for which data must hold
            the run's sources.

    Returns:
        ContrastiveModel, ready for inference.

    Raises:
        RunError: If there is no such run.
        PairError: If the data lacks the run's sources.
        DataError: If the training split has no segment.
    """
    if has_untrained(run_dir):
        return kept.load_model(run_dir, 0, statistics)
    run, config = kept.load_run(run_dir), kept.load_config(run_dir)
    logging.info(
        "%s has kept no untrained network: one with fresh weights of seed %d, with "
        "batch-norm statistics of %s",
        run_dir,
        config.train.seed,
        data.data_dir,
    )
    model = kept.build_model(
        pathlib.Path(run_dir) / "config.json", config, run["data"], config.train.seed
    )
    train = config.train
    if statistics == "anchors":
        train = dataclasses.replace(train, source="none", augment="none")
    index = data.index("train")
    is_usable = ~index.is_tail & (index.num_frames >= config.frontend.window_frames)
    num_usable = int(np.count_nonzero(is_usable))
    if not num_usable:
        raise DataError(
            f"{data.data_dir}: the training split has no whole segment to estimate "
            "the untrained network's batch-norm statistics from"
        )
    # A mini-batch holds segments of one source: the rarest decides.
    counts = [
        int(np.count_nonzero(is_usable & index.is_active[:, k]))
        for k in parse_source(train.source, data.sources)
    ]
    size = max(1, min(train.batch_size, _BATCH, num_usable, *counts))
    train = dataclasses.replace(train, batch_size=size)
    sampler = PairSampler(data, train)
    validator = Validator(model, sampler, None, train.statistics_batches)
    validator.estimate_statistics()[statistics].assign_to(model)
    return model


def untrained_key(
    run_dir: str | os.PathLike, data: PreparedData, statistics: str
) -> str:
    """16 hexadecimal digits that stand for what `untrained_model` computes."""
    if has_untrained(run_dir):
        return kept.encoder_key(run_dir, 0, statistics)
    parts = (
        kept.load_run(run_dir)["config"],
        data.fingerprint(("train",)),
        statistics,
    )
    return hashlib.sha256(f"untrained {parts}".encode()).hexdigest()[:16]
