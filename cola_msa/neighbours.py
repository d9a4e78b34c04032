"""Nearest neighbours among embeddings: scikit-learn, or FAISS where it is installed.

Both compare with every row, and scores are computed in double precision: whatever
finds them, neighbours come in the same order, and equal scores by row.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.system.errors import UserError

BACKENDS = ("auto", "sklearn", "faiss")
METRICS = ("cosine", "euclidean")
_BATCH = 1024  # queries at once: bounds the memory that distances take


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
        self._rows = self._prepare(embeddings)
        self._index = self._build()

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def _prepare(self, embeddings: np.ndarray) -> np.ndarray:
        values = np.asarray(embeddings, np.float64)
        if self.metric == "cosine":
            norms = np.linalg.norm(values, axis=-1, keepdims=True)
            values = values / np.maximum(norms, np.finfo(np.float64).tiny)
        return values

    def _build(self) -> Any:
        if self.backend == "faiss":
            import faiss

            dim = self._rows.shape[1]
            is_cosine = self.metric == "cosine"
            index = faiss.IndexFlatIP(dim) if is_cosine else faiss.IndexFlatL2(dim)
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
            rows int64 [q, k] and scores float64 [q, k], the best first.

        Raises:
            NeighbourError: If queries have another dimension or k is below 1.
        """
        queries = np.atleast_2d(np.asarray(queries))
        if queries.shape[1] != self._rows.shape[1]:
            raise NeighbourError(
                f"the query has {queries.shape[1]} values, the index "
                f"{self._rows.shape[1]}: they come from different encoders"
            )
        if num_results < 1:
            raise NeighbourError(f"--num_results must be 1 or more, not {num_results}")
        skip = np.full(len(queries), -1) if skip is None else np.asarray(skip)
        count = min(num_results, self.num_rows - int((skip >= 0).any()))
        rows = np.zeros((len(queries), count), np.int64)
        scores = np.zeros((len(queries), count))
        prepared = self._prepare(queries)
        for start in range(0, len(queries), _BATCH):
            part = slice(start, start + _BATCH)
            rows[part], scores[part] = self._find_part(
                prepared[part], count, skip[part]
            )
        return rows, scores

    def _find_part(
        self, queries: np.ndarray, count: int, skip: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # A few more than wanted: the query itself, and ties at the edge.
        wanted = min(self.num_rows, count + 9)
        if self.backend == "faiss":
            near = self._index.search(queries.astype(np.float32), wanted)[1]
        else:
            near = self._index.kneighbors(queries, wanted, return_distance=False)
        # Scores anew in double precision, so that every backend gives the same order.
        if self.metric == "cosine":
            score = np.einsum("qd,qkd->qk", queries, self._rows[near])
            key = -score
        else:
            score = np.linalg.norm(queries[:, np.newaxis] - self._rows[near], axis=-1)
            key = score.copy()
        key[near == skip[:, np.newaxis]] = np.inf
        order = np.lexsort((near, key.round(12)), axis=-1)[:, :count]
        return np.take_along_axis(near, order, 1), np.take_along_axis(score, order, 1)
