"""Which segments pairs are drawn from: one bit a segment, however many there are."""

from collections.abc import Sequence

import numpy as np

from cola_msa.records.joined import Column, PairIndex

_BLOCK = 1024  # rows that are counted together
_TOGETHER = 4096  # numbers that are looked up together
_COUNTS = np.array([number.bit_count() for number in range(256)], np.uint8)


class Rows:
    """Rows of an index, ascending; number n is found without a list of them."""

    def __init__(self, bits: np.ndarray):
        """Counts them.

        Args:
            bits: uint8 [blocks, _BLOCK / 8], as np.packbits makes them of a mask.
        """
        self._bits = bits
        counts = _COUNTS[bits].sum(axis=1, dtype=np.int64)
        self._before = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        """How many there are."""
        return int(self._before[-1])

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Rows by their number among these, int64 [B] -> int64 [B]."""
        if 8 * len(numbers) > len(self):
            return self.all()[numbers]
        found = np.empty(len(numbers), np.int64)
        for first in range(0, len(numbers), _TOGETHER):
            part = slice(first, first + _TOGETHER)
            found[part] = self._look_up(numbers[part])
        return found

    def _look_up(self, numbers: np.ndarray) -> np.ndarray:
        block = np.searchsorted(self._before, numbers, "right") - 1
        wanted = numbers - self._before[block] + 1  # from 1, within the block
        bits, each = self._bits[block], np.arange(len(numbers))
        counted = np.cumsum(_COUNTS[bits], axis=1, dtype=np.int16)
        byte = (counted >= wanted[:, np.newaxis]).argmax(axis=1)
        held = bits[each, byte]
        wanted -= counted[each, byte] - _COUNTS[held]
        counted = np.cumsum(np.unpackbits(held[:, np.newaxis], axis=1), axis=1)
        place = (counted >= wanted[:, np.newaxis]).argmax(axis=1)
        return block * _BLOCK + byte * 8 + place

    def count_below(self, rows: np.ndarray) -> np.ndarray:
        """How many of these come before rows of the index, int64 [B] -> int64 [B]."""
        block, within = np.divmod(rows, _BLOCK)
        # The row behind the last one may be the first of a block that is not there.
        is_there = block < len(self._bits)
        bits, within = self._bits[block * is_there], within * is_there
        byte, place = np.divmod(within, 8)
        is_before = np.arange(_BLOCK // 8) < byte[:, np.newaxis]
        counts = (_COUNTS[bits] * is_before).sum(axis=1, dtype=np.int64)
        # The first row of a byte is its highest bit.
        cut = bits[np.arange(len(rows)), byte].astype(np.int64) >> (8 - place)
        return self._before[block] + counts + _COUNTS[cut]

    def all(self) -> np.ndarray:
        """The rows themselves, int64."""
        return np.flatnonzero(np.unpackbits(self._bits))


def find_rows(
    index: PairIndex,
    window_frames: int,
    active: Sequence[Sequence[int]] = (),
    present: Sequence[Sequence[int]] = (),
) -> tuple[Rows, list[Rows], list[Rows]]:
    """Finds segments in one reading of the index.

    Args:
        index: The index.
        window_frames: Frames that a segment must hold.
        active: Sources, by number.
        present: Sources.

    Returns:
        All that hold a window and are no tail of a clip; for each of `active` those
        of them in which one of its sources is active; and for each of `present` those
        which have the stem of one.
    """
    num_blocks = max(1, -(-len(index.shard) // _BLOCK))
    num_sets = 1 + len(active) + len(present)
    bits = np.zeros((num_sets, num_blocks, _BLOCK // 8), np.uint8)
    flat = bits.reshape(num_sets, -1)
    for rows in index.row_blocks():
        is_usable = ~index.is_tail[rows] & (index.num_frames[rows] >= window_frames)
        masks = [is_usable]
        for column, wanted in ((index.is_active, active), (index.has_stem, present)):
            if wanted:
                flags = column[rows]
                masks += [is_usable & _any_of(flags, s) for s in wanted]
        for number, mask in enumerate(masks):
            packed = np.packbits(mask)
            flat[number, rows.start // 8 : rows.start // 8 + len(packed)] = packed
    usable, *others = map(Rows, bits)
    return usable, others[: len(active)], others[len(active) :]


def _any_of(flags: np.ndarray, sources: Sequence[int]) -> np.ndarray:
    """Which rows have the flag of one of some sources, bool [rows]."""
    found = np.zeros(len(flags), bool)
    for source in sources:
        found |= flags[:, source]
    return found


class Choices:
    """What a mini-batch is drawn from: rows with a source, source by source.

    Attributes:
        sources: int64 [sources].
        counts: int64 [folders], how many there are in each.
    """

    def __init__(
        self, rows: Sequence[Rows], sources: Sequence[int], starts: np.ndarray
    ):
        """Counts them.

        Args:
            rows: Of each source.
            sources: Its number.
            starts: int64 [folders + 1], where the folders' rows start and end.
        """
        self._rows = rows
        self.sources = np.array(sources, np.int64)
        # [sources, folders + 1]: where each folder's start and end among a source's.
        self._bounds = np.stack([own.count_below(starts) for own in rows])
        self.counts = np.diff(self._bounds).sum(axis=0)

    def __len__(self) -> int:
        """How many there are in all folders."""
        return int(self.counts.sum())

    def pick(
        self, numbers: np.ndarray, folder: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Looks some up.

        Args:
            numbers: int64 [B], below len(self); below counts[folder] where one is
                given.
            folder: The folder to count in; None counts in all.

        Returns:
            Rows and sources, two int64 [B].
        """
        first, last = (0, -1) if folder is None else (folder, folder + 1)
        low, high = self._bounds[:, first], self._bounds[:, last]
        ends = np.cumsum(high - low)
        which = np.searchsorted(ends, numbers, "right")
        own = numbers - (ends - (high - low))[which] + low[which]
        rows = np.empty(len(numbers), np.int64)
        for position in np.unique(which):
            is_own = which == position
            rows[is_own] = self._rows[position][own[is_own]]
        return rows, self.sources[which]


def has_ordered_clips(index: PairIndex) -> bool:
    """Whether each clip's segments follow one another, clip after clip."""
    last = -1
    for rows in index.row_blocks():
        clips = index.clip[rows]
        if clips[0] < last or (np.diff(clips) < 0).any():
            return False
        last = clips[-1]
    return True


def first_rows(clip: np.ndarray | Column, clips: np.ndarray) -> np.ndarray:
    """The first row whose clip is not below each of `clips`, int64.

    Args:
        clip: Ascending; it is searched without being read whole.
        clips: int64 [B].
    """
    low = np.zeros(len(clips), np.int64)
    high = np.full(len(clips), len(clip))
    for _ in range(len(clip).bit_length()):
        middle = (low + high) // 2
        is_below = clip[np.minimum(middle, len(clip) - 1)] < clips
        is_open = low < high
        low = np.where(is_open & is_below, middle + 1, low)
        high = np.where(is_open & ~is_below, middle, high)
    return low
