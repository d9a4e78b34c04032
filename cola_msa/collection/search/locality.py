"""What a query of a mapped index brings into memory: the order of rows, and pages.

The system maps more of a file than is touched: some pages around, or all that it holds
in one piece, up to 2 MB of what was read from end to end. So rows that are looked at
together lie together, a file is written in small pieces, which the system keeps as it
gets them, and what was looked at once is given back.
"""

import ctypes
import functools
import mmap
import pathlib
import sys
from collections.abc import Callable
from typing import IO

import numpy as np

from cola_msa.values.arrays import write_raw

WRITE_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 26


def near_order(links: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """An order of rows in which linked ones lie close together: depth first.

    Each row comes after one that links to it, the last one placed that has such a row;
    where none is left, the first row that has no place.

    Args:
        links: int32 [m], rows that rows link to; -1 for none.
        starts: int [n], where a row's links begin.
        width: How many each has.

    Returns:
        int64 [n], which row comes where.
    """
    count = len(starts)
    is_placed = np.zeros(count + 1, bool)
    is_placed[-1] = True  # where -1 leads
    order = np.empty(count, np.int64)
    trail: list[int] = []
    unseen = 0  # rows before it have a place
    for place in range(count):
        row = -1
        while trail and row < 0:
            start = starts[trail[-1]]
            near = links[start : start + width]
            free = is_placed[near].argmin()
            if is_placed[near[free]]:
                trail.pop()
            else:
                row = int(near[free])
        if row < 0:
            unseen += int(is_placed[unseen:].argmin())
            row = unseen
        is_placed[row] = True
        order[place] = row
        trail.append(row)
    return order


def inverse(order: np.ndarray) -> np.ndarray:
    """Where each row comes, int64 [n]."""
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


def write_pieces(file: IO[bytes], rows: np.ndarray) -> None:
    """Writes rows in small pieces.

    Raises:
        OSError: If the disk cannot take them.
    """
    count = max(1, WRITE_BYTES // max(1, rows[:1].nbytes))
    for first in range(0, len(rows), count):
        write_raw(file, rows[first : first + count])


def reorder(path: pathlib.Path, rows: np.ndarray, order: np.ndarray) -> None:
    """Writes rows in another order.

    Args:
        path: A new file.
        rows: [n, dim], mapped from another file.
        order: int64 [n], which row comes where.

    Raises:
        OSError: If the disk cannot take them.
    """
    count = max(1, _BLOCK_BYTES // max(1, rows[:1].nbytes))
    with open(path, "wb") as file:
        for first in range(0, len(order), count):
            write_pieces(file, rows[order[first : first + count]])
            release(rows)


def release(values: np.ndarray) -> None:
    """Gives the pages of mapped memory back; they are read again where they are wanted.

    Elsewhere than on Linux they stay, which changes no answer.

    Args:
        values: Part of a file that is mapped to be read alone: what is in memory of
            its own would be lost.
    """
    advise = _madvise()
    if advise is None or not values.size:
        return
    # The page that a part begins or ends in is the file's, too.
    start = values.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    advise(start, values.ctypes.data + values.nbytes - start, mmap.MADV_DONTNEED)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system's function, where it is known to keep what a file holds."""
    if sys.platform != "linux":
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found
