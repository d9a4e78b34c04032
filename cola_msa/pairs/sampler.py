"""Prepared data to pair batches: the pretext task's input.

The pairs of update n are a pure function of (seed, n, replica, micro-batch): a
counter-based generator draws source, mode, segments and window starts, and just those
windows are read from memory-mapped shards. So a resumed run sees what an uninterrupted
one would. With `global_negatives` the replicas share one draw, the same as that of one
replica with all their pairs, and each reads its part of it.

Source: section 3.1 of the paper; docs/architecture.md for the batch compositions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig, TrainConfig
from cola_msa.pairs import remix
from cola_msa.pairs.augment import Augment, log_mel_augmentation, split_remix
from cola_msa.pairs.draws import (
    COLA,
    Draw,
    PairDraws,
)
from cola_msa.records.joined import PairData, PairIndex
from cola_msa.records.stored import VALUE_BYTES, read_type

_AUGMENT_STREAM = 2
_REMIX_STREAM = 3
_REMIX_SHARE_STREAM = 4
_MOMENTS_UPDATE = 2**41  # first of the draws that bands' moments come from
_MOMENTS_PAIRS = 1024
BuildAugmentation = Callable[[TrainConfig, FrontendConfig], Augment | None]


class PairSampler:
    """Draws and reads mini-batches of one split."""

    def __init__(
        self,
        data: PairData,
        config: TrainConfig,
        split: str = "train",
        silent_value: float = 0.0,
        num_replicas: int = 1,
        build_augmentation: BuildAugmentation = log_mel_augmentation,
    ):
        """Finds out which segments are eligible, and builds the augmentation.

        Args:
            data: The prepared data.
            config: Source, batches, augment, pair_span, batch_size and seed are used.
            split: Which split to draw from.
            silent_value: What a silent source's window is filled with.
            num_replicas: Replicas that share a draw with `global_negatives`.
            build_augmentation: Gives what changes windows, of the configuration and
                the front end; the framework's.

        Raises:
            PairError: If the source, the batches or the span is unknown, or (in
                `train`) fewer segments are eligible than a batch holds.
            AugmentError: If the augmentation is unknown or its package is missing.
        """
        # Validation is never augmented: its loss is compared between strategies.
        own = config
        if split != "train":
            own = dataclasses.replace(config, augment="none")
        self.is_remixed, _ = split_remix(own.augment, own.source)
        self._remix_share = own.remix_share
        self._augment = build_augmentation(own, data.frontend)
        self._draws = PairDraws(data, config, split, num_replicas)
        self.data = data
        self.split = split
        self.batch_size = config.batch_size
        self.seed = config.seed
        self.silent_value = silent_value
        self.index = self._draws.index
        self.sources = self._draws.sources
        self.window_frames = data.frontend.window_frames
        self.num_mels = data.frontend.num_mels

    def draw(self, update: int, replica: int = 0, micro_batch: int = 0) -> Draw:
        """Draws a mini-batch; see `PairDraws.draw`."""
        return self._draws.draw(update, replica, micro_batch)

    def describe_folders(self) -> list[str]:
        """A line for each folder; see `PairDraws.describe_folders`."""
        return self._draws.describe_folders()

    def validation_draws(self) -> list[Draw]:
        """The fixed batches of a validation; see `PairDraws.validation_draws`."""
        return self._draws.validation_draws()

    def read(self, draw: Draw) -> dict[str, np.ndarray]:
        """Reads a draw's windows.

        Returns:
            `anchor` and `positive` float16 [B, window_frames, num_mels, 1] (of
            waveforms float32), `is_active` bool [B], `source` int32 [B].
        """
        return read_pairs(self.data, self.split, self.index, draw, self.silent_value)

    def batch(
        self,
        update: int,
        replica: int = 0,
        micro_batch: int = 0,
        with_stems: bool = False,
    ) -> dict[str, np.ndarray]:
        """Draws and reads one mini-batch; see `draw` and `read`.

        With `with_stems` there are also those of the anchors' windows: `stems` float16
        [B, sources, window_frames, num_mels] and `stem_is_active` bool [B, sources].
        """
        draw = self.draw(update, replica, micro_batch)
        batch = self.read(draw)
        if with_stems:
            batch |= read_stems(self.data, self.split, self.index, draw)
        return batch

    def band_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each mel band, over mixtures and sources.

        They come from batches that no training update draws, and depend on nothing
        but the data, the pairs' configuration and its seed.

        Returns:
            Two float32 [num_mels].
        """
        count = -(-_MOMENTS_PAIRS // self.batch_size)
        total, frames = np.zeros((2, self.num_mels)), 0
        for number in range(count):
            batch = self.batch(_MOMENTS_UPDATE + number)
            for windows in (batch["anchor"], batch["positive"][batch["is_active"]]):
                values = windows[..., 0].astype(np.float64)
                total += values.sum((0, 1)), np.square(values).sum((0, 1))
                frames += values.shape[0] * values.shape[1]
        mean, square = total / frames
        # A band in which nothing ever sounds has no deviation to divide by.
        deviation = np.sqrt(np.maximum(square - mean**2, 1e-6))
        return mean.astype(np.float32), deviation.astype(np.float32)

    def augment(
        self,
        batch: dict[str, tf.Tensor],
        update: tf.Tensor,
        replica: tf.Tensor,
        micro_batch: tf.Tensor | int = 0,
    ) -> dict[str, tf.Tensor]:
        """Augments both windows of every pair, but for the constant silent ones.

        Args:
            batch: As `dataset` gives, windows float32; with `stems` and
                `stem_is_active`, as `batch` gives, where pairs are remixed.
            update: int64, the update that the batch is for.
            replica: int64, its replica.
            micro_batch: int64, its number within the update.

        Returns:
            The batch; equal (seed, update, replica, micro_batch), equal windows.
        """
        if self._augment is None and not self.is_remixed:
            return batch
        seed = tf.stack([tf.constant(self.seed, tf.int64), update])
        stream = _AUGMENT_STREAM + tf.cast(micro_batch, tf.int64)
        seed = tf.random.fold_in(tf.random.fold_in(seed, replica), stream)
        anchor, positive = batch["anchor"], batch["positive"]
        if self.is_remixed:
            stems = batch["stems"]
            parameters = remix.draw_remix(
                tf.random.fold_in(seed, _REMIX_STREAM),
                tf.shape(stems)[0],
                stems.shape[1],
                stems.shape[3],
            )
            mixed = remix.apply_remix(
                stems,
                batch["stem_is_active"],
                positive,
                batch["source"],
                parameters,
                self.data.frontend.log_floor,
            )
            if self._remix_share < 1.0:
                # All of a mini-batch or none: what was mixed would tell itself apart.
                stream = tf.random.fold_in(seed, _REMIX_SHARE_STREAM)
                is_mixed = tf.random.stateless_uniform([], stream) < self._remix_share
                mixed = (
                    tf.where(is_mixed, mixed[0], anchor),
                    tf.where(is_mixed, mixed[1], positive),
                )
            anchor, positive = mixed
            batch = {k: v for k, v in batch.items() if k not in STEM_KEYS}
        if self._augment is not None:
            windows = tf.concat([anchor, positive], axis=0)
            anchor, positive = tf.split(self._augment(windows, seed), 2)
        is_active = batch["is_active"][:, tf.newaxis, tf.newaxis, tf.newaxis]
        positive = tf.where(is_active, positive, batch["positive"])
        return {**batch, "anchor": anchor, "positive": positive}

    def dataset(
        self,
        first_update: int = 0,
        num_updates: int | None = None,
        num_replicas: int = 1,
        num_micro_batches: int = 1,
        first_replica: int = 0,
    ) -> tf.data.Dataset:
        """Makes a dataset of mini-batches.

        Args:
            first_update: Where to begin.
            num_updates: How many updates; None goes on without an end.
            num_replicas: How many replicas to make mini-batches for.
            num_micro_batches: Mini-batches an update and replica.
            first_replica: Number of the first of the replicas.

        Returns:
            tf.data.Dataset of what `read` returns, windows as float32: replica by
            replica within each micro-batch, these within each update.
        """
        return pair_dataset(
            self,
            first_update,
            num_updates,
            num_replicas,
            num_micro_batches,
            first_replica,
        )


STEM_KEYS = ("stems", "stem_is_active")


def read_pairs(
    data: PairData,
    split: str,
    index: PairIndex,
    draw: Draw,
    silent_value: float,
) -> dict[str, np.ndarray]:
    """Reads a draw's anchors and positives.

    Args:
        data: The prepared data.
        split: The split that the draw is of.
        index: Its index.
        draw: B pairs.
        silent_value: What a silent source's window is filled with.

    Returns:
        `anchor` and `positive` float16 [B, window_frames, num_mels, 1] (of waveforms
        float32), `is_active` bool [B], `source` int32 [B].
    """
    window_frames, num_mels = data.frontend.window_frames, data.frontend.num_mels
    shape = (len(draw.rows), window_frames, num_mels)
    anchor = np.empty(shape, read_type(data.frontend))
    positive = np.empty_like(anchor)
    is_active = np.ones(len(draw.rows), bool)
    frame_bytes = num_mels * VALUE_BYTES
    rows = draw.rows if draw.positive_rows is None else draw.positive_rows
    anchor_shard, positive_shard = index.shard[draw.rows], index.shard[rows]
    anchor_offset = index.mixture_offset[draw.rows] + draw.anchor_start * frame_bytes
    positive_offset = index.mixture_offset[rows]
    has_source = draw.source != COLA
    if has_source.any():
        stem_offset = index.stem_offset[rows, draw.source]
        is_active = ~has_source | index.is_active[rows, draw.source]
        positive_offset = np.where(has_source, stem_offset, positive_offset)
    positive_offset = positive_offset + draw.positive_start * frame_bytes
    for i in range(len(draw.rows)):
        anchor[i] = data.read(split, anchor_shard[i], anchor_offset[i], window_frames)
        positive[i] = (
            data.read(split, positive_shard[i], positive_offset[i], window_frames)
            if is_active[i]
            else silent_value
        )
    return {
        "anchor": anchor[..., np.newaxis],
        "positive": positive[..., np.newaxis],
        "is_active": is_active,
        "source": draw.source,
    }


def read_stems(
    data: PairData, split: str, index: PairIndex, draw: Draw
) -> dict[str, np.ndarray]:
    """Reads all stems of a draw's anchor windows.

    Args:
        data: The prepared data.
        split: The split that the draw is of.
        index: Its index.
        draw: B pairs.

    Returns:
        `stems` float16 [B, sources, window_frames, num_mels], the log-mel floor where
        a stem is silent or missing; `stem_is_active` bool [B, sources].
    """
    window_frames, num_mels = data.frontend.window_frames, data.frontend.num_mels
    is_active = index.is_active[draw.rows]
    shard, offset = index.shard[draw.rows], index.stem_offset[draw.rows]
    stems = np.full(
        (*is_active.shape, window_frames, num_mels),
        np.log(data.frontend.log_floor),
        np.float16,
    )
    for i, k in np.argwhere(is_active):
        first = offset[i, k] + draw.anchor_start[i] * num_mels * VALUE_BYTES
        stems[i, k] = data.read(split, shard[i], first, window_frames)
    return {"stems": stems, "stem_is_active": is_active}


def pair_dataset(
    sampler: "PairSampler",
    first_update: int,
    num_updates: int | None,
    num_replicas: int,
    num_micro_batches: int,
    first_replica: int,
) -> tf.data.Dataset:
    """Mini-batches in the order of `PairSampler.dataset`, which has the arguments."""
    num_elements = num_replicas * num_micro_batches
    start = first_update * num_elements
    stop = np.iinfo(np.int64).max
    if num_updates is not None:
        stop = start + num_updates * num_elements

    def place(number: Any) -> tuple[Any, Any, Any]:
        """Update, replica and micro-batch of an element."""
        rest, replica = number // num_replicas, number % num_replicas
        return (
            rest // num_micro_batches,
            first_replica + replica,
            rest % num_micro_batches,
        )

    with_stems = sampler.is_remixed
    value = tf.as_dtype(read_type(sampler.data.frontend))
    types = [value, value, tf.bool, tf.int32]
    types += [tf.float16, tf.bool] if with_stems else []

    def load(number: np.ndarray) -> tuple[np.ndarray, ...]:
        place_of_batch = place(int(number))
        return tuple(sampler.batch(*place_of_batch, with_stems=with_stems).values())

    def parse(number: tf.Tensor) -> dict[str, tf.Tensor]:
        anchor, positive, is_active, source, *stems = tf.numpy_function(
            load, [number], types
        )
        shape = [sampler.batch_size, sampler.window_frames, sampler.num_mels, 1]
        batch = {
            "anchor": tf.cast(tf.ensure_shape(anchor, shape), tf.float32),
            "positive": tf.cast(tf.ensure_shape(positive, shape), tf.float32),
            "is_active": tf.ensure_shape(is_active, shape[:1]),
            "source": tf.ensure_shape(source, shape[:1]),
        }
        if with_stems:
            shape = [sampler.batch_size, len(sampler.data.sources), *shape[1:3]]
            values = tf.cast(tf.ensure_shape(stems[0], shape), tf.float32)
            is_active = tf.ensure_shape(stems[1], shape[:2])
            batch |= dict(zip(STEM_KEYS, (values, is_active), strict=True))
        return sampler.augment(batch, *place(number))

    options = tf.data.Options()
    # Elements are whole mini-batches already, in the order of the replicas.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return (
        tf.data.Dataset.range(start, stop)
        .map(parse, num_parallel_calls=2, deterministic=True)
        .prefetch(2 * num_elements)
        .with_options(options)
    )
