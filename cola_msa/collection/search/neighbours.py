"""Nearest neighbours among embeddings: scikit-learn, or FAISS where it is installed.

Both compare with every row, and scores are computed in double precision: whatever
finds them, neighbours come in the same order, and equal scores by row. A backend only
proposes; where its rounding could hide a better row or a tie, every row is compared in
double precision. A row of zeros (silence) has no direction: its cosine with any row
is 0.
"""

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.system.errors import UserError
from cola_msa.values.arrays import row_blocks

BACKENDS = ("auto", "sklearn", "faiss")
METRICS = ("cosine", "euclidean")
_BATCH = 1024  # queries at once: bounds the memory that distances take
_EXACT_BYTES = 1 << 27  # of the distances of queries to all rows
_BLOCK_BYTES = 1 << 24  # of the rows that are in memory at once
_SPARE = 9  # more rows than wanted are asked for: ties at the edge
_LARGEST = 1e150  # squares beyond it are infinite


class NeighbourError(UserError):
    """A search that cannot be made; the message says why."""


def choose_backend(name: str) -> str:
    """Turns `auto` into the backend that is used.

    Raises:
        NeighbourError: If FAISS is asked for but not installed, or the name is unknown.
    """
    if name not in BACKENDS:
        raise NeighbourError(
            f"--backend must be one of {', '.join(BACKENDS)}, not {name!r}"
        )
    has_faiss = importlib.util.find_spec("faiss") is not None
    if name == "faiss" and not has_faiss:
        raise NeighbourError(
            "--backend=faiss needs FAISS: pip install 'cola_msa[search]', or "
            "--backend=sklearn, which gives the same neighbours"
        )
    if name == "auto":
        return "faiss" if has_faiss else "sklearn"
    return name


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1, whatever their values' size; rows of zeros stay.

    Args:
        embeddings: float [..., dim], finite.

    Returns:
        float64 [..., dim].
    """
    values = np.asarray(embeddings, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        norms = np.linalg.norm(values, axis=-1, keepdims=True)
    if (is_odd := ~((norms > 1 / _LARGEST) & (norms < _LARGEST))).any():
        largest = np.abs(values).max(axis=-1, keepdims=True)
        values = np.where(
            is_odd & (largest > 0), values / np.maximum(largest, 5e-324), values
        )
        norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(norms > 0, norms, 1.0)


def check_query(query: np.ndarray, dim: int, num_results: int, metric: str) -> None:
    """Refuses a query that cannot be asked.

    Args:
        query: float [d].
        dim: Values of a row.
        num_results: k.
        metric: As `Neighbours`.

    Raises:
        NeighbourError: If d is not `dim`, a value is not finite, or k is below 1.
    """
    queries = np.atleast_2d(np.asarray(query))
    _check_question(queries, dim, num_results)
    _check_values(queries.astype(np.float64), "query", metric)


def _check_question(queries: np.ndarray, dim: int, num_results: int) -> None:
    if queries.shape[1] != dim:
        raise NeighbourError(
            f"the query has {queries.shape[1]} values, the index {dim}: they come from "
            "different encoders"
        )
    if num_results < 1:
        raise NeighbourError(f"--num_results must be 1 or more, not {num_results}")


def _check_values(values: np.ndarray, what: str, metric: str) -> None:
    largest = np.abs(values).max(axis=1, initial=0.0)
    limit = np.inf if metric == "cosine" else _LARGEST
    if (is_bad := ~(largest < limit)).any():
        raise NeighbourError(
            f"{what} {int(np.argmax(is_bad))} has values that are not finite, or too "
            "large to compare"
        )


class Neighbours:
    """Finds the nearest rows of a table of embeddings."""

    def __init__(
        self, embeddings: np.ndarray, metric: str = "cosine", backend: str = "auto"
    ):
        """Builds the index.

        Args:
            embeddings: float [n, dim].
            metric: `cosine` (scores are similarities, 1 is equal) or `euclidean`
                (scores are distances, 0 is equal).
            backend: `auto`, `sklearn` or `faiss`.

        Raises:
            NeighbourError: If metric or backend are not there.
        """
        if metric not in METRICS:
            raise NeighbourError(
                f"--metric must be one of {', '.join(METRICS)}, not {metric!r}"
            )
        self.metric = metric
        self.backend = choose_backend(backend)
        embeddings = np.asarray(embeddings)
        self._num_rows = len(embeddings)
        rows = self._prepare(embeddings, "row")
        # Each different row once, in order of its first appearance.
        self._members = _equal_rows(rows)
        if len(self._members) < len(rows):
            rows = rows[[members[0] for members in self._members]]
        self._rows = rows
        self._largest_norm = float(np.linalg.norm(rows, axis=1).max(initial=0.0))
        self._index = self._build()

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self._num_rows

    def _prepare(self, embeddings: np.ndarray, what: str) -> np.ndarray:
        values = np.asarray(embeddings, np.float64)
        _check_values(values, what, self.metric)
        return unit_rows(values) if self.metric == "cosine" else values

    def _build(self) -> Any:
        if self.backend == "faiss":
            # Which of its builds it loads is no news to a user.
            logging.getLogger("faiss.loader").setLevel(logging.WARNING)
            import faiss

            dim = self._rows.shape[1]
            is_cosine = self.metric == "cosine"
            index = faiss.IndexFlatIP(dim) if is_cosine else faiss.IndexFlatL2(dim)
            # What overflows is found by comparing with all rows.
            with np.errstate(over="ignore"):
                index.add(self._rows.astype(np.float32))
            return index
        from sklearn.neighbors import NearestNeighbors

        # Of unit vectors, Euclidean distances give the cosines' order.
        return NearestNeighbors(metric="euclidean", algorithm="brute").fit(self._rows)

    def find(
        self,
        queries: np.ndarray,
        num_results: int,
        skip: Sequence[int] | np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest rows.

        Args:
            queries: float [q, dim].
            num_results: k; fewer where there are not so many rows.
            skip: int [q], a row that each query must not find (itself); -1 for none.

        Returns:
            rows int64 [q, k] and scores float64 [q, k], the best first; equal scores
            (to 12 decimals) by row.

        Raises:
            NeighbourError: If queries have another dimension or are not finite, or k
                is below 1.
        """
        queries = np.atleast_2d(np.asarray(queries))
        _check_question(queries, self._rows.shape[1], num_results)
        skip = np.full(len(queries), -1) if skip is None else np.asarray(skip)
        count = min(num_results, self.num_rows - int((skip >= 0).any()))
        rows = np.zeros((len(queries), count), np.int64)
        scores = np.zeros((len(queries), count))
        prepared = self._prepare(queries, "query")
        for start in range(0, len(queries), _BATCH):
            part = slice(start, start + _BATCH)
            rows[part], scores[part] = self._find_part(
                prepared[part], count, skip[part]
            )
        return rows, scores

    def _find_part(
        self, queries: np.ndarray, count: int, skip: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # One more than wanted: the query itself.
        wanted = min(len(self._rows), count + 1)
        near = self._propose(queries, wanted)
        score = self._scores(queries, near)
        near, score = in_order(near, score, wanted, self.metric)
        if len(self._members) == self.num_rows:
            is_skipped = near == skip[:, np.newaxis]
            order = np.argsort(is_skipped, axis=1, kind="stable")[:, :count]
            return _take(near, score, order)
        rows = np.empty((len(queries), count), np.int64)
        scores = np.empty((len(queries), count))
        for n in range(len(queries)):
            parts = [self._members[row][: count + 1] for row in near[n]]
            each = np.concatenate(parts)
            value = np.repeat(score[n], [len(part) for part in parts])
            is_left = each != skip[n]
            rows[n], scores[n] = (
                found[0]
                for found in in_order(
                    each[np.newaxis, is_left],
                    value[np.newaxis, is_left],
                    count,
                    self.metric,
                )
            )
        return rows, scores

    def _propose(self, queries: np.ndarray, wanted: int) -> np.ndarray:
        """Different rows, int64 [q, m], among which are the `wanted` nearest."""
        num_rows = len(self._rows)
        asked = min(num_rows, wanted + _SPARE)
        if asked == num_rows:
            return np.tile(np.arange(num_rows), (len(queries), 1))
        # How wrong a product of two rows may be as a backend computes it.
        unit = 2.0**-24 if self.backend == "faiss" else 2.0**-53
        norms = np.linalg.norm(queries, axis=1) + self._largest_norm
        error = 2 * (self._rows.shape[1] + 8) * unit * norms**2
        with np.errstate(over="ignore", invalid="ignore"):
            if self.backend == "faiss":
                found, near = self._index.search(queries.astype(np.float32), asked)
                farthest = found[:, -1].astype(np.float64)
            else:
                found, near = self._index.kneighbors(queries, asked)
                farthest = found[:, -1] ** 2
                if self.metric == "cosine":
                    farthest = 1 - farthest / 2
            near = near.astype(np.int64)
            is_sure = (near >= 0).all(axis=1) & np.isfinite(found).all(axis=1)
            score = self._scores(queries, np.maximum(near, 0))
            if self.metric == "cosine":
                last = np.sort(score, axis=1)[:, -wanted]
                is_sure &= farthest + error < last - 1e-11
            else:
                last = np.sort(score, axis=1)[:, wanted - 1]
                is_sure &= farthest - error > (last + 1e-11) ** 2
        unsure = np.flatnonzero(~is_sure)
        size = max(1, _EXACT_BYTES // (8 * num_rows))
        for first in range(0, len(unsure), size):
            part = unsure[first : first + size]
            near[part] = self._compare_all(queries[part], asked)
        return near

    def _compare_all(self, queries: np.ndarray, asked: int) -> np.ndarray:
        """The nearest rows, int64 [q, asked], by comparing with all of them."""
        if self.metric == "cosine":
            rough = -(queries @ self._rows.T)
            slack = np.full(len(queries), 1e-11)
        else:
            square = np.square(self._rows).sum(axis=1)
            rough = square - 2 * (queries @ self._rows.T)
            norms = np.linalg.norm(queries, axis=1) + self._largest_norm
            slack = 4 * (self._rows.shape[1] + 8) * 2.0**-53 * norms**2 + 1e-11
        near = np.empty((len(queries), asked), np.int64)
        for n, row in enumerate(rough):
            edge = np.partition(row, asked - 1)[asked - 1]
            rows = np.flatnonzero(row <= edge + slack[n])
            score = self._scores(queries[n : n + 1], rows[np.newaxis])
            near[n] = in_order(rows[np.newaxis], score, asked, self.metric)[0][0]
        return near

    def _scores(self, queries: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Scores in double precision, so that every backend gives the same order."""
        if self.metric == "cosine":
            return np.einsum("qd,qkd->qk", queries, self._rows[near])
        return np.linalg.norm(queries[:, np.newaxis] - self._rows[near], axis=-1)


def find_in_blocks(
    embeddings: np.ndarray,
    queries: Sequence[np.ndarray],
    num_results: int,
    skip: Sequence[int],
    metric: str = "cosine",
    backend: str = "auto",
    block_bytes: int = _BLOCK_BYTES,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds what `Neighbours.find` finds for each query, with a few rows at a time.

    Args:
        embeddings: float [n, dim]; may be memory-mapped.
        queries: q of float [dim].
        num_results: k, 1 or more.
        skip: As `Neighbours.find`.
        metric: As `Neighbours`.
        backend: As `Neighbours`.
        block_bytes: That a block's rows have at most in float64.

    Returns:
        Of each query, rows int64 [k] and scores float64 [k]; fewer where there are not
        so many rows.

    Raises:
        NeighbourError: As `Neighbours` and its `find`.
    """
    best = [(np.zeros(0, np.int64), np.zeros(0)) for _ in queries]
    for first, rows in row_blocks(embeddings, block_bytes):
        block = Neighbours(rows, metric, backend)
        for n, (query, skipped) in enumerate(zip(queries, skip, strict=True)):
            # A row of this block, or none.
            own = skipped - first if first <= skipped < first + len(rows) else -1
            near, score = block.find(query, num_results, [own])
            near = np.concatenate([best[n][0], near[0] + first])
            score = np.concatenate([best[n][1], score[0]])
            near, score = in_order(near[None], score[None], num_results, metric)
            best[n] = (near[0], score[0])
    return best


def in_order(
    near: np.ndarray, score: np.ndarray, count: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """The best rows first, equal scores (to 12 decimals) by row.

    Args:
        near: int64 [q, m], rows.
        score: float64 [q, m], their scores.
        count: How many are kept.
        metric: As `Neighbours`.
    """
    key = -score if metric == "cosine" else score
    # Beyond 1,000 the 12th decimal is not there.
    key = np.where(np.abs(key) < 1e3, key.round(12), key)
    return _take(near, score, np.lexsort((near, key), axis=-1)[:, :count])


def _take(
    near: np.ndarray, score: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return np.take_along_axis(near, order, 1), np.take_along_axis(score, order, 1)


def _equal_rows(values: np.ndarray) -> list[np.ndarray]:
    """Numbers of equal rows, in rising order; groups by their first row."""
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(values + 0.0):  # -0.0 equals 0.0
        groups.setdefault(hashlib.blake2b(row.tobytes()).digest(), []).append(number)
    return [np.array(group) for group in groups.values()]
