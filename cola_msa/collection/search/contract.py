"""What every index can do, whatever lies behind it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cola_msa.system.errors import UserError

FORMAT = "cola_msa search index"
KINDS = ("flat", "hnsw", "ivfpq")  # flat is exact, the others near it
# A row's number and score, of each query, the best first.
Nearest = list[tuple[np.ndarray, np.ndarray]]


class SearchError(UserError):
    """An index or a query that cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Recall:
    """How much of the exact answer an index finds, as `build` measured it.

    Attributes:
        share: Of the exact nearest rows, those that were found, or as near ones.
        num_results: k, the neighbours of a query.
        num_queries: Rows of the index that were asked for, each without itself.
    """

    share: float
    num_results: int
    num_queries: int

    def __str__(self) -> str:
        """As it is told, `recall@10 0.983 of 256 queries`."""
        return (
            f"recall@{self.num_results} {self.share:.3f} of {self.num_queries} queries"
        )


class Index(Protocol):
    """Clips to search among, on disk."""

    @property
    def kind(self) -> str:
        """One of KINDS."""

    @property
    def metric(self) -> str:
        """`cosine` or `euclidean`."""

    @property
    def num_rows(self) -> int:
        """How many clips there are."""

    @property
    def dim(self) -> int:
        """Values of an embedding."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What is known of the encoder."""

    @property
    def recall(self) -> Recall | None:
        """As it was measured; None of a flat index, which is exact."""

    def find_row(self, file: str) -> int | None:
        """The row of a file: its path, its place on the disk, or its content."""

    def find_path(self, path: str) -> int | None:
        """The row of a path as it stands in the index, whatever lies on the disk."""

    def path(self, row: int) -> str:
        """The path of a row, as it was given to `embed`."""

    def vector(self, row: int) -> np.ndarray:
        """The embedding of a row, float [dim], as the index holds it."""

    def nearest(
        self,
        queries: Sequence[np.ndarray],
        num_results: int,
        skip: Sequence[int],
        backend: str = "auto",
    ) -> Nearest:
        """Finds the nearest rows of each query.

        Args:
            queries: q of float [dim].
            num_results: k, 1 or more; fewer are found where there are not so many.
            skip: A row that each query must not find (itself); -1 for none.
            backend: What compares, in a flat index: `auto`, `sklearn` or `faiss`.

        Raises:
            NeighbourError: If a query does not fit, or the backend cannot be had.
            SearchError: If the index is damaged.
        """


def results(index: Index, rows: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """What was found of one query, as JSON: `rank`, `path` and `score` of each."""
    return [
        {"rank": rank, "path": index.path(int(row)), "score": float(score)}
        for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
    ]


def encoder_hash(index: Index) -> str | None:
    """Names the weights that made the index; None where it does not say."""
    return index.metadata.get("model_hash")


def describe(index: Index) -> str:
    """What an index holds, in a line."""
    model = encoder_hash(index)
    kind = "" if index.recall is None else f"{index.kind}, {index.recall}, "
    return (
        f"{index.num_rows} clips, {index.dim} values each, metric {index.metric}, "
        f"{kind}model {model[:12] if model else 'not recorded'}"
    )
