"""What a mini-batch of pairs is made of, before anything is read.

Source: section 3.1 of the paper; DESIGN section 7 for the batch compositions.
"""

import dataclasses

import numpy as np

from cola_msa.system.errors import UserError

COLA = -1  # `source` of a pair whose positive is a window of the mixture
BATCHES = ("mixed", "active", "uniform", "active_any")
SILENCES = ("zeros", "floor", "mean", "learned")
PAIR_SPANS = ("segment", "clip")


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
        PairError: If a name is not among the data's sources.
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
    names = [name.strip() for name in source.split(",") if name.strip()]
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise PairError(
            f"--source={source}: the data has no source {', '.join(unknown) or 'named'}"
            f"; it has {', '.join(available) or 'none'} (or say multi, or none)"
        )
    return tuple(available.index(name) for name in names)


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
