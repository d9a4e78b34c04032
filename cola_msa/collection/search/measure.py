"""Recall: how much of the exact answer an approximate index finds, and at which effort.

Rows that are as near as the last of the exact answer count as found: which of equal
rows comes first is nobody's merit.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cola_msa.collection.search.approximate import (
    LEAST_EFFORT,
    MOST_EFFORT,
    Approximate,
    Form,
)
from cola_msa.collection.search.contract import Recall
from cola_msa.system.console import progress_bar

NUM_RESULTS, NUM_QUERIES = 10, 256
TARGET = 0.98  # beyond what is promised: other queries differ
PROMISED = 0.95
_KEPT = 64  # of the exact answer: rows as near as the last wanted one
_EQUAL = 1e-6  # of scores that differ by rounding alone


def choose_queries(num_rows: int) -> np.ndarray:
    """Rows to ask for, in rising order, the same for every index of this size."""
    count = min(NUM_QUERIES, num_rows)
    return np.sort(np.random.default_rng(0).choice(num_rows, count, replace=False))


class Exact:
    """The exact answer to a sample of queries, by comparing with every row."""

    def __init__(
        self,
        form: Form,
        rows: np.ndarray,
        queries: np.ndarray,
        blocks: Iterator[tuple[int, np.ndarray]],
        num_rows: int,
        is_quiet: bool = True,
        places: np.ndarray | None = None,
    ):
        """Finds it.

        Args:
            form: Whose metric compares.
            rows: int64 [q], the rows of the index that are asked for.
            queries: float [q, dim], their embeddings.
            blocks: All embeddings, each block with its first row's number.
            num_rows: n.
            is_quiet: Without a progress bar.
            places: int64 [n], which row of the index each row of `blocks` is; None
                for the same.
        """
        self._rows, self._queries = rows, queries
        is_cosine = form.metric == "cosine"
        # Unit vectors lose nothing that counts; of squares, differences would be lost.
        kind: Any = np.float32 if is_cosine else np.float64
        asked = form.store(queries).astype(kind)
        best = np.full((len(rows), 0), 0, kind)
        near = np.zeros((len(rows), 0), np.int64)
        with progress_bar(num_rows, "comparing", "rows", not is_quiet) as bar:
            for first, values in blocks:
                stored = form.store(values).astype(kind)
                score = asked @ stored.T
                if not is_cosine:
                    squares = np.square(stored).sum(axis=1)
                    score = 2 * score - squares - np.square(asked).sum(1)[:, np.newaxis]
                numbers = np.arange(first, first + len(values))
                if places is not None:
                    numbers = places[numbers]
                score[rows[:, np.newaxis] == numbers] = -np.inf  # a query itself
                best = np.concatenate([best, score], axis=1)
                near = np.concatenate([near, np.tile(numbers, (len(rows), 1))], axis=1)
                if best.shape[1] > _KEPT:
                    order = np.argpartition(-best, _KEPT - 1, axis=1)[:, :_KEPT]
                    best = np.take_along_axis(best, order, 1)
                    near = np.take_along_axis(near, order, 1)
                bar.update(len(values))
        order = np.argsort(-best, axis=1, kind="stable")
        self._near = np.take_along_axis(near, order, 1)
        self._best = np.take_along_axis(best, order, 1)
        self._num_results = min(NUM_RESULTS, num_rows - 1)

    def recall(self, near: Approximate, stored: np.ndarray, effort: int) -> Recall:
        """What an index finds of it.

        Args:
            near: The index.
            stored: float16 [n, dim], its rows.
            effort: As `Approximate.nearest`.
        """
        count = self._num_results
        if not count:  # a single row
            return Recall(1.0, count, len(self._rows))
        answers = near.nearest(list(self._queries), count, self._rows.tolist(), effort)
        num_found = 0
        for n, (rows, _) in enumerate(answers):
            edge = self._best[n, count - 1]
            slack = _EQUAL * max(1.0, abs(float(edge)))
            good = set(self._near[n, self._best[n] >= edge - slack].tolist())
            # As many rows may be equal to the last as there are.
            last = stored[self._near[n, count - 1]]
            num_found += sum(
                int(row) in good or np.array_equal(stored[row], last) for row in rows
            )
        return Recall(num_found / count / len(self._rows), count, len(self._rows))

    def tune(
        self, near: Approximate, stored: np.ndarray, kind: str
    ) -> tuple[int, Recall]:
        """The least effort that finds TARGET, or the most there is, and its recall."""
        effort = LEAST_EFFORT[kind]
        while True:
            recall = self.recall(near, stored, effort)
            if recall.share >= TARGET or effort >= MOST_EFFORT[kind]:
                return effort, recall
            effort *= 2
