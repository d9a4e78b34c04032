"""What a mini-batch of pairs is made of, before anything is read.

Source: section 3.1 of the paper; docs/architecture.md for the batch compositions.
"""

import dataclasses

import numpy as np

from cola_msa.config.schema import BATCHES, PAIR_SPANS, SILENCES, TrainConfig
from cola_msa.records.prepared import PreparedData
from cola_msa.system.errors import UserError

COLA = -1  # `source` of a pair whose positive is a window of the mixture
_TRAIN_STREAM = 0
_VALIDATION_STREAM = 1


class PairError(UserError):
    """The data cannot give the batches that were asked for."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """One mini-batch, drawn but not read. B pairs.

    Attributes:
        mode: `active`, `uniform`, `active_any` or `cola`.
        rows: int64 [B], rows of the split's index.
        source: int32 [B], the positive's source, or COLA.
        anchor_start: int64 [B], the anchor window's first frame in its segment.
        positive_start: int64 [B], the same for the positive window.
        positive_rows: int64 [B], rows of the positives' segments; None where they are
            the anchors'.
    """

    mode: str
    rows: np.ndarray
    source: np.ndarray
    anchor_start: np.ndarray
    positive_start: np.ndarray
    positive_rows: np.ndarray | None = None

    def part(self, rows: slice) -> "Draw":
        """Some of the pairs."""
        arrays = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **arrays)


def parse_source(source: str, available: tuple[str, ...]) -> tuple[int, ...]:
    """Turns `--source` into numbers of sources.

    Args:
        source: `multi` (all), `none` (COLA), or names with commas between them.
        available: The prepared data's sources, in order.

    Returns:
        Numbers into `available`; () for COLA.

    Raises:
        PairError: If a name is not among the data's sources, or stands there twice.
    """
    if source == "none":
        return ()
    if source == "multi":
        if not available:
            raise PairError(
                "--source=multi needs stems, and this data was prepared without any: "
                "prepare it with --stems_dir or --separator, or use --source=none"
            )
        return tuple(range(len(available)))
    names = source_names(source)
    unknown = [name for name in names if name not in available]
    if unknown:
        raise PairError(
            f"--source={source}: the data has no source {', '.join(unknown)}; it has "
            f"{', '.join(available) or 'none'} (or say multi, or none)"
        )
    return tuple(available.index(name) for name in names)


def source_names(source: str) -> list[str]:
    """The names that `--source` lists; data may lack one.

    Raises:
        PairError: If there is none, or one stands there twice.
    """
    names = [name.strip() for name in source.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise PairError(f"--source={source}: name each source once, or multi, or none")
    return names


def silence_value(silence: str, log_floor: float, log_mel_mean: float) -> float:
    """The constant log-mel that stands in a silent source's window.

    Raises:
        ValueError: If `silence` is not one of SILENCES.
    """
    if silence not in SILENCES:
        raise ValueError(f"silence must be one of {SILENCES}, not {silence!r}")
    if silence == "floor":
        return float(np.log(log_floor))
    return log_mel_mean if silence == "mean" else 0.0


def rows_of_same_clips(
    clip: np.ndarray, eligible: np.ndarray, rows: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """For each row an eligible one of its clip, which may be itself.

    Args:
        clip: int [S], the clip of every row of an index.
        eligible: int64 [E], rows to choose from; every clip of `rows` has some.
        rows: int64 [B].
        share: float64 [B] in [0, 1), uniform: which of its clip's rows each one takes.

    Returns:
        int64 [B], rows.
    """
    clips = clip[eligible]
    order = np.argsort(clips, kind="stable")
    low = np.searchsorted(clips, clip[rows], "left", sorter=order)
    high = np.searchsorted(clips, clip[rows], "right", sorter=order)
    picked = low + np.floor(share * (high - low)).astype(np.int64)
    return eligible[order[picked]]


def counter_generator(
    seed: int, stream: int, update: int, replica: int, micro_batch: int = 0
) -> np.random.Generator:
    """A generator that depends on its arguments alone."""
    # The first counter word is the one that moves while numbers are drawn.
    bits = np.random.Philox(
        key=[seed, stream], counter=[0, update, replica, micro_batch]
    )
    return np.random.Generator(bits)


class PairDraws:
    """Which pairs the mini-batches of one split are made of."""

    def __init__(
        self,
        data: PreparedData,
        config: TrainConfig,
        split: str = "train",
        num_replicas: int = 1,
    ):
        """Finds out which segments are eligible.

        Args:
            data: The prepared data; its index is read, no window is.
            config: Source, batches, pair_span, batch_size, seed and global_negatives
                are used.
            split: Which split to draw from.
            num_replicas: Replicas that share a draw with `global_negatives`.

        Raises:
            PairError: If the source, the batches or the span is unknown, or (in
                `train`) fewer segments are eligible than a batch holds.
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
        self.has_clip_span = config.pair_span == "clip"
        self.data = data
        self.split = split
        self.batch_size = config.batch_size
        self._num_sharing = 1
        if config.global_negatives and split == "train":
            self._num_sharing = num_replicas
        self._drawn_size = self._num_sharing * config.batch_size
        self.seed = config.seed
        self.index = data.index(split)
        self.window_frames = data.frontend.window_frames
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
