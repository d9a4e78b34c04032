"""What a mini-batch of pairs is made of, before anything is read.

Source: section 3.1 of the paper; docs/architecture.md for the batch compositions.
"""

import dataclasses
import os

import numpy as np

from cola_msa.config.schema import BATCHES, PAIR_SPANS, SILENCES, TrainConfig
from cola_msa.pairs.eligible import (
    Choices,
    Rows,
    find_rows,
    first_rows,
    has_ordered_clips,
)
from cola_msa.records.joined import PairData
from cola_msa.system.errors import UserError

COLA = -1  # `source` of a pair whose positive is a window of the mixture
_TRAIN_STREAM = 0
_VALIDATION_STREAM = 1
# Up to so many active pairs of segment and source `active_any` permutes all of them
# for each batch, as it always did; more are drawn one by one, with the same chances.
_MOST_PERMUTED = 1 << 24
_PARTS_OF_A_PAIR = 1 << 20  # folders' shares of a batch are rounded to these


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
        data: PairData,
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
                `train`) fewer segments are eligible than a batch holds, a folder of
                several has none, or none of its sources in common with another.
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
        self.modes: tuple[str, ...] = (config.batches,)
        if not self.sources:
            self.modes = ("cola",)
        elif config.batches == "mixed":
            self.modes = ("active", "uniform")
        each = [(source,) for source in self.sources]
        self._usable, active, present = find_rows(
            self.index,
            self.window_frames,
            each if {"active", "active_any"} & set(self.modes) else [],
            each if "uniform" in self.modes else [],
        )
        self._rows = {"cola": [self._usable], "uniform": present}
        self._rows |= dict.fromkeys(("active", "active_any"), active)
        starts = self.index.starts
        self._choices = {
            mode: [Choices(self._rows[mode], self.sources, starts)]
            if mode == "active_any"
            else [
                Choices([rows], [source], starts)
                for rows, source in zip(
                    self._rows[mode], self.sources or (COLA,), strict=True
                )
            ]
            for mode in self.modes
        }
        self._has_ordered_clips = self.has_clip_span and has_ordered_clips(self.index)
        # Validation draws from all that there is.
        self._weights = data.weights if split == "train" else None
        if split == "train":
            self._check_folders(config.source)
            self._check_counts()

    def _eligible(self, mode: str, position: int) -> Choices:
        """What a mode draws from for the position of a source in self.sources."""
        return self._choices[mode][0 if mode == "active_any" else position]

    def shares(self) -> np.ndarray:
        """How often pairs come from each folder, float64 [folders], of sum 1.

        Modes and sources have equal chances, and the folders' weights are those of
        the folders that have the source.
        """
        found = [self._folder_shares(c) for cs in self._choices.values() for c in cs]
        return np.mean(found, axis=0)

    def describe_folders(self) -> list[str]:
        """Of each folder of several its segments, and how often it is drawn."""
        segments = np.diff(self._usable.count_below(self.index.starts))
        return [
            f"{part.data_dir}: {count:,} segments, {100 * share:.1f} % of all pairs"
            for part, count, share in zip(
                self.data.parts, segments, self.shares(), strict=True
            )
        ]

    def _folder_shares(self, choices: Choices) -> np.ndarray:
        counts: np.ndarray = choices.counts
        weights = counts if self._weights is None else self._weights * (counts > 0)
        return weights / max(weights.sum(), np.finfo(float).tiny)

    def _check_folders(self, source: str) -> None:
        """Every folder of several can be drawn from."""
        parts = self.data.parts
        if len(parts) == 1:
            return
        shares = zip(parts, self.shares(), strict=True)
        # One without sources is to be named, not those that it leaves alone.
        for part, share in sorted(shares, key=lambda pair: len(pair[0].sources)):
            others = {s for other in parts if other is not part for s in other.sources}
            if source == "multi" and not others & set(part.sources):
                raise PairError(
                    f"--data_dir: {part.data_dir} has no source in common with the "
                    f"other folders: {', '.join(part.sources) or 'none'} and "
                    f"{', '.join(sorted(others)) or 'none'}; leave it out, or name "
                    "sources by --source (none needs no source)"
                )
            if not share:
                raise PairError(
                    f"--data_dir: {part.data_dir} has no segment in train that pairs "
                    f"of --source={source} could be drawn from; leave it out"
                )

    def _check_counts(self) -> None:
        for mode in self.modes:
            for choices in self._choices[mode]:
                name = "mixture"
                if mode in ("active", "uniform"):
                    name = self.data.sources[choices.sources[0]]
                counts = self._count_distinct(mode, choices)
                if counts.sum() < self._drawn_size:
                    self._refuse(self.data.data_dir, name, mode, counts.sum())
                if self._weights is None:
                    continue
                needed = -(-np.diff(self._folder_edges(choices)) // _PARTS_OF_A_PAIR)
                for part, count, least in zip(
                    self.data.parts, counts, needed, strict=True
                ):
                    if count < least:
                        self._refuse(part.data_dir, name, mode, count, int(least))

    def _count_distinct(self, mode: str, choices: Choices) -> np.ndarray:
        """Segments of each folder that a mode can put into one batch."""
        if mode != "active_any":
            return choices.counts
        _, (rows,), _ = find_rows(self.index, self.window_frames, [self.sources])
        return np.diff(rows.count_below(self.index.starts))

    def _refuse(
        self,
        folder: str | os.PathLike,
        name: str,
        mode: str,
        count: int,
        least: int | None = None,
    ) -> None:
        """Raises PairError for too few segments, of one folder where it has `least`."""
        times = f" x {self._num_sharing} replicas" if self._num_sharing > 1 else ""
        batch = f"--batch_size={self.batch_size}{times}"
        wanted, advice = batch, "lower --batch_size"
        if least is not None:
            wanted = f"the {least} that its --data_weights takes of {batch}"
            advice = "lower its weight or --batch_size"
        if not self.sources:
            raise PairError(
                f"{folder}: there are {count} segments of mixtures in {self.split}, "
                f"fewer than {wanted}; {advice}, or add clips"
            )
        raise PairError(
            f"{folder}: source {name} has {count} eligible segments for {mode} batches "
            f"in {self.split}, fewer than {wanted}; {advice}, add clips, or leave this "
            "source out of --source"
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
        choices = self._eligible(mode, position)
        take = _take_segments if mode == "active_any" else _take_distinct
        if len(choices) < self._drawn_size:
            self._check_counts()
        if self._weights is None:
            rows, source = take(random, choices, self._drawn_size)
            return self._complete(mode, rows, source, random)
        edges = self._folder_edges(choices)
        edges[1:-1] += random.integers(_PARTS_OF_A_PAIR)
        counts = np.diff(edges // _PARTS_OF_A_PAIR)
        taken = [
            take(random, choices, count, folder)
            for folder, count in enumerate(counts)
            if count
        ]
        # Replicas that share a draw each take their part of all folders.
        order = random.permutation(self._drawn_size)
        rows = np.concatenate([own_rows for own_rows, _ in taken])[order]
        source = np.concatenate([own_source for _, own_source in taken])[order]
        return self._complete(mode, rows, source, random)

    def _folder_edges(self, choices: Choices) -> np.ndarray:
        """Where each folder's pairs start and end in a batch, in parts of a pair.

        A random shift of the inner edges, rounded down, gives every folder its share
        of a batch, rounded up or down, and in the mean over batches exactly.
        """
        sums = np.cumsum(self._folder_shares(choices))
        edges = np.rint(sums / sums[-1] * self._drawn_size * _PARTS_OF_A_PAIR)
        return np.concatenate([[0], edges.astype(np.int64)])

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
            position = 0 if number == COLA else self.sources.index(int(number))
            found[is_own] = self._within_clips(
                self._rows[mode][position], rows[is_own], share[is_own]
            )
        return found

    def _within_clips(
        self, eligible: Rows, rows: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        """As `rows_of_same_clips`; it looks at these clips alone where it can."""
        clip = self.index.clip
        if not self._has_ordered_clips:
            return rows_of_same_clips(clip[:], eligible.all(), rows, share)
        clips = clip[rows].astype(np.int64)
        low = eligible.count_below(first_rows(clip, clips))
        high = eligible.count_below(first_rows(clip, clips + 1))
        return eligible[low + np.floor(share * (high - low)).astype(np.int64)]

    def validation_draws(self) -> list[Draw]:
        """The fixed batches of a validation: the same for every run and seed.

        Every combination of source and mode takes an equal share of the split's
        segments (at least one batch, or all that are eligible), without repeats.

        Returns:
            Draws of at most batch_size pairs; the last of a combination is shorter.
        """
        combinations = [
            (mode, choices) for mode in self.modes for choices in self._choices[mode]
        ]
        share = -(-len(self._usable) // max(len(combinations), 1))
        draws = []
        for number, (mode, choices) in enumerate(combinations):
            random = counter_generator(0, _VALIDATION_STREAM, number, 0)
            order = random.permutation(len(choices))
            order = order[: max(share, self.batch_size)]
            for start in range(0, len(order), self.batch_size):
                part = order[start : start + self.batch_size]
                if len(part) < 2:
                    continue
                draws.append(self._complete(mode, *choices.pick(part), random))
        if not draws:
            raise PairError(
                f"{self.data.data_dir}: split {self.split} has no segment to validate "
                "on; prepare more clips, or use --validate_every_steps=0"
            )
        return draws


def _take_distinct(
    random: np.random.Generator, choices: Choices, count: int, folder: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and sources, uniform, none twice: of one source no row comes twice."""
    among = len(choices) if folder is None else choices.counts[folder]
    return choices.pick(random.choice(among, count, replace=False), folder)


def _take_segments(
    random: np.random.Generator, choices: Choices, count: int, folder: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and sources, uniform over all, each passed over whose row came before."""
    among = int(len(choices) if folder is None else choices.counts[folder])
    is_permuted = among <= _MOST_PERMUTED
    order = random.permutation(among) if is_permuted else np.zeros(0, np.int64)
    length = count
    while True:
        length *= 2
        if not is_permuted:
            more = random.integers(0, among, length - len(order))
            order = np.concatenate([order, more])
        rows, source = choices.pick(order[:length], folder)
        _, first = np.unique(rows, return_index=True)
        if len(first) >= count or length >= len(order) and is_permuted:
            chosen = np.sort(first)[:count]
            return rows[chosen], source[chosen]
