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

from cola_msa import pair_windows, remix
from cola_msa.augment import build_augmentation, split_remix
from cola_msa.config import TrainConfig
from cola_msa.draws import (
    BATCHES,
    COLA,
    PAIR_SPANS,
    SILENCES,
    Draw,
    PairError,
    counter_generator,
    parse_source,
    rows_of_same_clips,
    silence_value,
)
from cola_msa.pair_dataset import pair_dataset
from cola_msa.pair_windows import STEM_KEYS
from cola_msa.prepared import PreparedData

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

_TRAIN_STREAM = 0
_VALIDATION_STREAM = 1
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
        """Finds out which segments are eligible.

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
        if config.batches not in BATCHES:
            raise PairError(
                f"--batches={config.batches}: must be one of {', '.join(BATCHES)}"
            )
        if config.pair_span not in PAIR_SPANS:
            raise PairError(
                f"--pair_span={config.pair_span}: must be one of "
                f"{', '.join(PAIR_SPANS)}"
            )
        # Validation is never augmented: its loss is compared between strategies.
        augment = config.augment if split == "train" else "none"
        self.is_remixed, rest = split_remix(augment)
        if self.is_remixed and config.source == "none":
            raise PairError(
                "--augment=remix mixes a source's stem anew, and --source=none (COLA) "
                "has no source; say --source=multi or leave remix out"
            )
        self._augment = build_augmentation(rest, data.frontend.log_floor)
        self.has_clip_span = config.pair_span == "clip"
        self.data = data
        self.split = split
        self.batch_size = config.batch_size
        self._num_sharing = 1
        if config.global_negatives and split == "train":
            self._num_sharing = num_replicas
        self._drawn_size = self._num_sharing * config.batch_size
        self.seed = config.seed
        self.silent_value = silent_value
        self.index = data.index(split)
        self.window_frames = data.frontend.window_frames
        self.num_mels = data.frontend.num_mels
        self.sources = parse_source(config.source, data.sources)
        usable = ~self.index.is_tail & (self.index.num_frames >= self.window_frames)
        self._uniform = [
            np.flatnonzero(usable & self.index.has_stem[:, k]) for k in self.sources
        ]
        self._active = [
            np.flatnonzero(usable & self.index.is_active[:, k]) for k in self.sources
        ]
        self._usable = np.flatnonzero(usable)
        # Ablation 3 draws from all (segment, source) combinations that are active.
        self._active_any = np.concatenate(
            [
                np.stack([rows, np.full_like(rows, k)], axis=1)
                for k, rows in zip(self.sources, self._active, strict=True)
            ]
            or [np.zeros((0, 2), np.int64)]
        )
        self.modes: tuple[str, ...] = (config.batches,)
        if not self.sources:
            self.modes = ("cola",)
        elif config.batches == "mixed":
            self.modes = ("active", "uniform")
        if split == "train":
            self._check_counts()

    def _eligible(self, mode: str, position: int) -> np.ndarray:
        """Rows for a mode and the position of a source within self.sources."""
        if mode == "cola":
            return self._usable
        if mode == "active_any":
            return self._active_any
        return (self._active if mode == "active" else self._uniform)[position]

    def _check_counts(self) -> None:
        for mode in self.modes:
            for position in range(max(len(self.sources), 1)):
                count = len(self._eligible(mode, position))
                if mode == "active_any":
                    count = len(np.unique(self._active_any[:, 0]))
                if count >= self._drawn_size:
                    continue
                name = "mixture"
                if mode in ("active", "uniform"):
                    name = self.data.sources[self.sources[position]]
                times = (
                    f" x {self._num_sharing} replicas" if self._num_sharing > 1 else ""
                )
                raise PairError(
                    f"{self.data.data_dir}: source {name} has {count} eligible "
                    f"segments for {mode} batches in {self.split}, fewer than "
                    f"--batch_size={self.batch_size}"
                    f"{times}; lower --batch_size, add clips, "
                    "or leave this source out of --source"
                )

    def draw(self, update: int, replica: int = 0, micro_batch: int = 0) -> Draw:
        """Draws a mini-batch; equal arguments, equal draw.

        Args:
            update: The update that it is for.
            replica: Number of the replica, over all machines.
            micro_batch: Number of the mini-batch within the update.

        Returns:
            Draw of batch_size pairs.
        """
        if self._num_sharing == 1:
            return self._draw(update, replica, micro_batch)
        joint = self._draw(update, 0, micro_batch)
        first = replica * self.batch_size
        return joint.part(slice(first, first + self.batch_size))

    def _draw(self, update: int, replica: int, micro_batch: int) -> Draw:
        random = counter_generator(
            self.seed, _TRAIN_STREAM, update, replica, micro_batch
        )
        mode = self.modes[random.integers(len(self.modes))]
        position = int(random.integers(max(len(self.sources), 1)))
        eligible = self._eligible(mode, position)
        if mode == "active_any":
            picked = self._distinct_active_any(random)
            return self._complete(mode, picked[:, 0], picked[:, 1], random)
        if len(eligible) < self._drawn_size:
            self._check_counts()
        rows = random.choice(eligible, self._drawn_size, replace=False)
        source = COLA if mode == "cola" else self.sources[position]
        return self._complete(mode, rows, np.full(len(rows), source), random)

    def _distinct_active_any(self, random: np.random.Generator) -> np.ndarray:
        """Pairs of (row, source), uniform over active ones, no row twice."""
        order = random.permutation(len(self._active_any))
        picked = self._active_any[order]
        _, first = np.unique(picked[:, 0], return_index=True)
        return picked[np.sort(first)[: self._drawn_size]]

    def _complete(
        self,
        mode: str,
        rows: np.ndarray,
        source: np.ndarray,
        random: np.random.Generator,
    ) -> Draw:
        """Draws window starts, and the positives' segments where they are free."""
        positive_rows = None
        if self.has_clip_span:
            positive_rows = self._rows_of_same_clips(mode, rows, source, random)
        return Draw(
            mode=mode,
            rows=rows,
            source=np.asarray(source, np.int32),
            anchor_start=random.integers(0, self._num_starts(rows)),
            positive_start=random.integers(
                0, self._num_starts(rows if positive_rows is None else positive_rows)
            ),
            positive_rows=positive_rows,
        )

    def _num_starts(self, rows: np.ndarray) -> np.ndarray:
        return self.index.num_frames[rows].astype(np.int64) - self.window_frames + 1

    def _rows_of_same_clips(
        self,
        mode: str,
        rows: np.ndarray,
        source: np.ndarray,
        random: np.random.Generator,
    ) -> np.ndarray:
        """For each row an eligible one of its clip and source; it may be itself."""
        found = np.empty_like(rows)
        share = random.random(len(rows))
        for number in np.unique(source):
            is_own = source == number
            eligible = self._usable
            if number != COLA:
                position = self.sources.index(int(number))
                eligible = (self._uniform if mode == "uniform" else self._active)[
                    position
                ]
            found[is_own] = rows_of_same_clips(
                self.index.clip, eligible, rows[is_own], share[is_own]
            )
        return found

    def validation_draws(self) -> list[Draw]:
        """The fixed batches of a validation: the same for every run and seed.

        Every combination of source and mode takes an equal share of the split's
        segments (at least one batch, or all that are eligible), without repeats.

        Returns:
            Draws of at most batch_size pairs; the last of a combination is shorter.
        """
        combinations = [
            (mode, position)
            for mode in self.modes
            for position in range(
                1 if mode in ("cola", "active_any") else len(self.sources)
            )
        ]
        share = -(-len(self._usable) // max(len(combinations), 1))
        draws = []
        for number, (mode, position) in enumerate(combinations):
            random = counter_generator(0, _VALIDATION_STREAM, number, 0)
            eligible = random.permutation(self._eligible(mode, position))
            eligible = eligible[: max(share, self.batch_size)]
            for start in range(0, len(eligible), self.batch_size):
                part = eligible[start : start + self.batch_size]
                if len(part) < 2:
                    continue
                if mode == "active_any":
                    rows, source = part[:, 0], part[:, 1]
                else:
                    rows = part
                    name = COLA if mode == "cola" else self.sources[position]
                    source = np.full(len(rows), name)
                draws.append(self._complete(mode, rows, source, random))
        if not draws:
            raise PairError(
                f"{self.data.data_dir}: split {self.split} has no segment to validate "
                "on; prepare more clips, or use --validate_every_steps=0"
            )
        return draws

    def read(self, draw: Draw) -> dict[str, np.ndarray]:
        """Reads a draw's windows.

        Returns:
            `anchor` and `positive` float16 [B, window_frames, num_mels, 1],
            `is_active` bool [B], `source` int32 [B].
        """
        return pair_windows.read_pairs(
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
            batch |= pair_windows.read_stems(self.data, self.split, self.index, draw)
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
