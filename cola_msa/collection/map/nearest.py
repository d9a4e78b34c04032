"""Nearest rows of many: all with all, in blocks of bounded memory, in single precision.

For collections beyond what `Neighbours` is made for: it compares in double precision
wherever single precision could hide a tie, which of a hundred thousand rows takes
hours. Here rows that differ by less than single precision tells (about 1e-6 of a
cosine) may stand in each other's place.
"""

from collections.abc import Iterator

import numpy as np

_BLOCK_BYTES = 1 << 28  # of the products of a block of queries with all rows
_GROUP = 32  # rows of which the largest product is looked at first


def largest_products(
    queries: np.ndarray,
    rows: np.ndarray,
    count: int,
    bias: np.ndarray | None = None,
    block_bytes: int = _BLOCK_BYTES,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Finds for each query the rows whose product with it is the largest.

    Args:
        queries: float32 [q, dim].
        rows: float32 [n, dim].
        count: k, at most n.
        bias: float32 [n] to add to the products; minus half of the rows' squares makes
            the order that of Euclidean distances.
        block_bytes: That the products of a block take.

    Yields:
        Of a block of queries: the number of its first, int64 [b, k] rows, and float32
        [b, k] products with their bias; the largest first, equal ones by row.
    """
    num_rows = len(rows)
    num_groups = -(-num_rows // _GROUP)
    size = max(1, block_bytes // (4 * num_groups * _GROUP))
    products = np.full((size, _GROUP * num_groups), -np.inf, np.float32)
    for first in range(0, len(queries), size):
        part = queries[first : first + size]
        found = products[: len(part)]
        np.matmul(part, rows.T, out=found[:, :num_rows])
        if bias is not None:
            found[:, :num_rows] += bias
        yield first, *_largest(found, count, num_groups)


def _largest(
    products: np.ndarray, count: int, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest of each row: they lie in the groups whose largest are the largest.

    Group g has the places g, g + num_groups, and so on: so NumPy compares whole lines.
    """
    lines = products.reshape(len(products), _GROUP, num_groups)
    if num_groups > count:
        most = lines.max(axis=1)
        groups = np.argpartition(-most, count - 1, axis=1)[:, :count]
    else:
        groups = np.tile(np.arange(num_groups), (len(products), 1))
    places = groups[:, np.newaxis] + num_groups * np.arange(_GROUP)[:, np.newaxis]
    places = places.reshape(len(products), -1)
    values = np.take_along_axis(products, places, axis=1)
    near = np.argpartition(-values, count - 1, axis=1)[:, :count]
    places = np.take_along_axis(places, near, axis=1)
    values = np.take_along_axis(values, near, axis=1)
    order = np.lexsort((places, -values), axis=1)
    return np.take_along_axis(places, order, 1), np.take_along_axis(values, order, 1)
