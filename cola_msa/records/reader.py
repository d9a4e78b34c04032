"""Reads windows from shards, ahead of their use, with a progress bar.

Files are read by calls, not through memory maps, because mapped pages count as
resident: memory stays flat however many clips a split has.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import os
import pathlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.records.schema import DataError
from cola_msa.records.stored import from_stored
from cola_msa.records.windows import Windows
from cola_msa.system import signals

_MAX_OPEN_FILES = 128
_READ_AHEAD_BATCHES = 4


class WindowReader:
    """Reads windows from shards; for use by one thread."""

    def __init__(
        self,
        paths: Sequence[pathlib.Path],
        window_frames: int,
        num_mels: int,
        stored_type: np.dtype = np.dtype("<f2"),
    ):
        """Opens nothing yet.

        Args:
            paths: The shards.
            window_frames: Frames of a window.
            num_mels: Values a frame.
            stored_type: Of the values, see `stored`.
        """
        self._paths = paths
        self._type = stored_type
        self._shape = (window_frames, num_mels)
        self._open: collections.OrderedDict[int, int] = collections.OrderedDict()

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            if len(self._open) >= _MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return self._open[shard]

    def read(self, shard: np.ndarray, byte_offset: np.ndarray) -> np.ndarray:
        """Reads windows, in the order given.

        Args:
            shard: int [N], into the reader's paths.
            byte_offset: int [N], of each window's first frame.

        Returns:
            float16 [N, frames, mels]; of waveforms float32 from -1 to 1.

        Raises:
            DataError: If a shard ends too early.
        """
        windows = np.empty((len(shard), *self._shape), self._type)
        # Rising offsets, so that a disk is not sent back and forth.
        for row in np.lexsort((byte_offset, shard)):
            number, offset = int(shard[row]), int(byte_offset[row])
            count = os.preadv(self._descriptor(number), [windows[row]], offset)
            if count != windows[row].nbytes:
                raise DataError(f"{self._paths[number]}: ends too early")
        return from_stored(windows)

    def close(self) -> None:
        """Closes the shards that are open."""
        while self._open:
            os.close(self._open.popitem()[1])


def read_ahead(items: Iterator[Any], depth: int = 1) -> Generator[Any, None, None]:
    """Makes the next `depth` items in a thread while the current one is worked on.

    Not tf.data's prefetch, which determinism of operations switches off for Python
    functions. Close the generator before what `items` reads from.

    Args:
        items: What to make; it is only asked from the one thread.
        depth: Items made ahead.

    Yields:
        The items, in order.
    """
    end = object()
    executor = concurrent.futures.ThreadPoolExecutor(1)
    try:
        upcoming = collections.deque(
            executor.submit(next, items, end) for _ in range(depth)
        )
        while (item := upcoming.popleft().result()) is not end:
            signals.check()
            upcoming.append(executor.submit(next, items, end))
            yield item
    finally:
        # After an error or Ctrl-C, what was only planned is not made any more.
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def open_windows(
    windows: Windows, shape: tuple[int, int], bounds: Sequence[int]
) -> Iterator[Iterator[np.ndarray]]:
    """Reads windows batch by batch, ahead of their use.

    Args:
        windows: What to read.
        shape: Frames and mels of a window.
        bounds: Batch n holds windows bounds[n] to bounds[n + 1].

    Yields:
        An iterator over what `WindowReader.read` gives.
    """
    reader = WindowReader(windows.paths, *shape, windows.stored_type)
    batches = (
        reader.read(windows.shard[a:b], windows.byte_offset[a:b])
        for a, b in itertools.pairwise(bounds)
    )
    try:
        with contextlib.closing(read_ahead(batches, _READ_AHEAD_BATCHES)) as ahead:
            yield ahead
    finally:
        reader.close()


def fixed_bounds(num_windows: int, size: int) -> list[int]:
    """Bounds of batches of `size` windows; the last one may be smaller."""
    return [*range(0, num_windows, size), num_windows]


def even_bounds(num_windows: int, size: int) -> list[int]:
    """Bounds of batches of at most `size` windows that differ by at most one."""
    count = -(-num_windows // size)
    return [number * num_windows // count for number in range(count + 1)]
