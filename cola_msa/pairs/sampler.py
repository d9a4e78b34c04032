"""Prepared data to pair batches: the pretext task's input.

The pairs of update n are a pure function of (seed, n, replica, micro-batch): a
counter-based generator draws source, mode, segments and window starts, and just those
windows are read from memory-mapped shards. So a resumed run sees what an uninterrupted
one would. With `global_negatives` the replicas share one draw, the same as that of one
replica with all their pairs, and each reads its part of it.

Source: section 3.1 of the paper; DESIGN section 7 for the batch compositions.
"""

import numpy as np
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.pairs import remix
from cola_msa.pairs import windows as windows_lib
from cola_msa.pairs.augment import build_augmentation, split_remix
from cola_msa.pairs.dataset import pair_dataset
from cola_msa.pairs.draws import (
    BATCHES,
    COLA,
    PAIR_SPANS,
    SILENCES,
    Draw,
    PairDraws,
    PairError,
    parse_source,
    silence_value,
)
from cola_msa.pairs.windows import STEM_KEYS
from cola_msa.records.prepared import PreparedData

__all__ = [
    "BATCHES",
    "COLA",
    "PAIR_SPANS",
    "SILENCES",
    "Draw",
    "PairError",
    "PairSampler",
    "parse_source",
    "silence_value",
]

_AUGMENT_STREAM = 2
_REMIX_STREAM = 3


class PairSampler:
    """Draws and reads mini-batches of one split."""

    def __init__(
        self,
        data: PreparedData,
        config: TrainConfig,
        split: str = "train",
        silent_value: float = 0.0,
        num_replicas: int = 1,
    ):
        """Finds out which segments are eligible, and builds the augmentation.

        Args:
            data: The prepared data.
            config: Source, batches, augment, pair_span, batch_size and seed are used.
            split: Which split to draw from.
            silent_value: What a silent source's window is filled with.
            num_replicas: Replicas that share a draw with `global_negatives`.

        Raises:
            PairError: If the source, the batches or the span is unknown, or (in
                `train`) fewer segments are eligible than a batch holds.
            AugmentError: If the augmentation is unknown or its package is missing.
        """
        # Validation is never augmented: its loss is compared between strategies.
        augment = config.augment if split == "train" else "none"
        self.is_remixed, rest = split_remix(augment)
        if self.is_remixed and config.source == "none":
            raise PairError(
                "--augment=remix mixes a source's stem anew, and --source=none (COLA) "
                "has no source; say --source=multi or leave remix out"
            )
        self._augment = build_augmentation(rest, data.frontend.log_floor)
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

    def validation_draws(self) -> list[Draw]:
        """The fixed batches of a validation; see `PairDraws.validation_draws`."""
        return self._draws.validation_draws()

    def read(self, draw: Draw) -> dict[str, np.ndarray]:
        """Reads a draw's windows.

        Returns:
            `anchor` and `positive` float16 [B, window_frames, num_mels, 1],
            `is_active` bool [B], `source` int32 [B].
        """
        return windows_lib.read_pairs(
            self.data, self.split, self.index, draw, self.silent_value
        )

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
            batch |= windows_lib.read_stems(self.data, self.split, self.index, draw)
        return batch

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
            anchor, positive = remix.apply_remix(
                stems,
                batch["stem_is_active"],
                positive,
                batch["source"],
                parameters,
                self.data.frontend.log_floor,
            )
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
            tf.data.Dataset of what `read` returns, log-mels as float32: replica by
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
