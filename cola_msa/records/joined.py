"""Several prepared folders as one collection of pairs: nothing is copied or sorted.

Rows, clips and shards of a split are numbered through in the order of the folders, and
sources are joined by name: of a source that a folder does not know, none of its
segments has a stem. Labels are not joined: a task is judged on one folder.
"""

import bisect
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from cola_msa.config.schema import FrontendConfig, unequal_fields
from cola_msa.records.folder_lists import join_names, parse_weights, split_names
from cola_msa.records.index import BLOCK_ROWS, Index, merge_indices
from cola_msa.records.kinds import prepared_folders
from cola_msa.records.prepared import PreparedData
from cola_msa.records.schema import MANIFEST_NAME, DataError


class Column:
    """One array of several indices, one after the other, read where it lies.

    `column[rows]` and, of a value for each source, `column[rows, source]` read as NumPy
    does; rows are a number, numbers, or a slice without a step.
    """

    def __init__(self, parts: Sequence[np.ndarray], bases: Sequence[int] = ()):
        """Joins arrays.

        Args:
            parts: [S_p] of each index.
            bases: What is added to the values of each; none where nothing is.
        """
        self._parts = parts
        self._bases = bases
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        """Rows of all parts."""
        return int(self._starts[-1])

    def __getitem__(self, key: Any) -> Any:
        """The values of rows, or of one source of each."""
        if isinstance(key, tuple):
            rows, source = key
            values = self[rows]
            if np.ndim(source):
                return values[np.arange(len(values)), source]
            return values[..., source]
        if isinstance(key, slice):
            first, stop, _ = key.indices(len(self))
            return np.concatenate(
                [
                    self._read(part, slice(max(first - start, 0), max(stop - start, 0)))
                    for part, start in enumerate(self._starts[:-1])
                ]
            )
        rows = np.asarray(key)
        if rows.ndim == 0:
            return self[rows[np.newaxis]][0]
        if len(rows) and not (0 <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        # Of parts that begin at the same row, all but the last have none.
        part_of_row = np.searchsorted(self._starts[1:], rows, "right")
        nothing = self._read(0, slice(0, 0))
        result = np.empty((len(rows), *nothing.shape[1:]), nothing.dtype)
        for part in np.unique(part_of_row):
            is_own = part_of_row == part
            result[is_own] = self._read(part, rows[is_own] - self._starts[part])
        return result

    def _read(self, part: int, rows: Any) -> np.ndarray:
        values = self._parts[part][rows]
        if not self._bases:
            return values
        return values + values.dtype.type(self._bases[part])


class _SourceColumn(Column):
    """The same of values for each source, which each index has in its own order."""

    def __init__(
        self, parts: Sequence[np.ndarray], places: Sequence[np.ndarray], missing: Any
    ):
        """Joins arrays.

        Args:
            parts: [S_p, K_p] of each index.
            places: Of each, int [K]: where the joined sources lie in it; -1: nowhere.
            missing: The value of a source that lies nowhere.
        """
        super().__init__(parts)
        self._places = places
        self._missing = missing

    def _read(self, part: int, rows: Any) -> np.ndarray:
        values, places = self._parts[part][rows], self._places[part]
        if np.array_equal(places, np.arange(values.shape[1])):
            return values
        found = np.full((len(values), len(places)), self._missing, values.dtype)
        found[:, places >= 0] = values[:, places[places >= 0]]
        return found


class JoinedIndex:
    """The indices of a split in several folders; S segments in all, K sources.

    Attributes:
        parts: Each folder's index, without rows where it lacks the split.
        starts: int64 [folders + 1], where each folder's rows start and end.
        shard_starts: The same of shards.
        shard: [S], numbered through; this and all below are as `Index` has them.
        mixture_offset: [S].
        stem_offset: [S, K].
        num_frames: [S].
        is_tail: [S].
        is_active: [S, K].
        has_stem: [S, K].
        segment: [S].
        clip: [S], numbered through.
    """

    def __init__(
        self,
        parts: Sequence[Index],
        sources: Sequence[str],
        datasets: Sequence[str | None],
    ):
        """Joins indices.

        Args:
            parts: One of each folder.
            sources: The joined sources.
            datasets: What dataset each folder holds: songs of one dataset that have
                the same name are the same song.
        """

        def total(name: str) -> np.ndarray:
            return np.cumsum([0, *(len(getattr(part, name)) for part in parts)])

        def column(name: str, bases: Sequence[int] = ()) -> Column:
            return Column([getattr(part, name) for part in parts], bases)

        self.parts = tuple(parts)
        self.starts = total("shard")
        self.shard_starts: list[int] = total("shards").tolist()
        self.shard = column("shard", self.shard_starts[:-1])
        self.clip = column("clip", total("clip_ids")[:-1].tolist())
        self.mixture_offset = column("mixture_offset")
        self.num_frames = column("num_frames")
        self.is_tail = column("is_tail")
        self.segment = column("segment")
        places = [
            np.array(
                [
                    part.sources.tolist().index(s) if s in part.sources else -1
                    for s in sources
                ],
                int,
            )
            for part in parts
        ]
        self.stem_offset, self.is_active, self.has_stem = (
            _SourceColumn([getattr(part, name) for part in parts], places, missing)
            for name, missing in (
                ("stem_offset", -1),
                ("is_active", False),
                ("has_stem", False),
            )
        )
        self._datasets = datasets

    def songs(self) -> np.ndarray:
        """Each clip's song, int64 [clips]."""
        names = []
        for part, dataset in zip(self.parts, self._datasets, strict=True):
            number = self._datasets.index(dataset)
            names.append(np.char.add(f"{number} ", part.groups))
        return np.unique(np.concatenate(names), return_inverse=True)[1]

    def row_blocks(self) -> Iterator[slice]:
        """As of `Index`; a block may lie in several folders."""
        for first in range(0, len(self.shard), BLOCK_ROWS):
            yield slice(first, min(first + BLOCK_ROWS, len(self.shard)))
            for part in self.parts:
                part.release_pages()


class JoinedData:
    """Several prepared folders; what pairs are drawn from reads it as PreparedData.

    Attributes:
        parts: The folders.
        weights: float64 [folders], sum 1: how often each is drawn in training; None:
            as often as it has segments.
        data_dir: The folders' names, with commas between them.
        manifest_hash: 16 hexadecimal digits that stand for all manifests, their order,
            and the weights.
        sources: Names of all sources, in the order of the folders.
        frontend: The FrontendConfig that made the log-mels.
    """

    def __init__(
        self, parts: Sequence[PreparedData], weights: Sequence[float] | None = None
    ):
        """Joins folders.

        Args:
            parts: The folders, at least one.
            weights: How often each is drawn, relative to one another, above 0.

        Raises:
            DataError: If front ends differ, or two folders hold the same data.
        """
        self.parts = tuple(parts)
        self.weights: np.ndarray | None = None
        if weights is not None:
            relative = np.asarray(weights, np.float64) / np.max(weights)
            self.weights = relative / math.fsum(relative)
        self.data_dir = join_names([str(part.data_dir) for part in parts])
        self.frontend: FrontendConfig = parts[0].frontend
        seen: dict[str, PreparedData] = {}
        for part in parts:
            _check_frontend(parts[0], part)
            part.most_mapped = max(1, PreparedData.most_mapped // len(parts))
            other = seen.setdefault(part.manifest_hash, part)
            if other is not part:
                raise DataError(
                    f"--data_dir: {part.data_dir} holds the same data as "
                    f"{other.data_dir}, so that batches would hold segments twice; "
                    "name one of them (--data_weights says how often each is drawn)"
                )
        text = json.dumps([list(seen), self._given_weights()])
        self.manifest_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        names = [name for part in parts for name in part.sources]
        self.sources: tuple[str, ...] = tuple(dict.fromkeys(names))
        self._indices: dict[str, JoinedIndex] = {}

    def _given_weights(self) -> list[float] | None:
        return None if self.weights is None else self.weights.tolist()

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that some folder has."""
        return tuple(dict.fromkeys(s for part in self.parts for s in part.splits))

    def index(self, split: str) -> JoinedIndex:
        """Opens a split's index in every folder that has the split.

        Raises:
            DataError: If none has it, or as `PreparedData.index`.
        """
        if split not in self._indices:
            if split not in self.splits:
                raise DataError(
                    f"{self.data_dir}: no folder has a split {split!r}; there are "
                    f"{', '.join(self.splits)}"
                )
            self._indices[split] = JoinedIndex(
                [
                    part.index(split)
                    if split in part.splits
                    else merge_indices([], part.sources)
                    for part in self.parts
                ],
                self.sources,
                [part.manifest.get("dataset") for part in self.parts],
            )
        return self._indices[split]

    def read(
        self, split: str, shard: int, byte_offset: int, num_frames: int
    ) -> np.ndarray:
        """Reads frames of one array, as `PreparedData.read`."""
        starts = self.index(split).shard_starts
        part = bisect.bisect_right(starts, shard) - 1
        return self.parts[part].read(
            split, shard - starts[part], byte_offset, num_frames
        )

    @property
    def log_mel_moments(self) -> tuple[float, float]:
        """Mean and deviation of the training mixtures' log-mels, of all folders.

        They are those of one folder that holds all of them; where there are weights,
        each folder counts as often as it is drawn.

        Raises:
            DataError: If a folder has none.
        """
        moments = np.array([part.log_mel_moments for part in self.parts])
        shares = self.weights
        if shares is None:
            frames = [_count_frames(part) for part in self.index("train").parts]
            shares = np.array(frames) / max(sum(frames), 1)
        mean = math.fsum(shares * moments[:, 0])
        square = math.fsum(shares * (moments[:, 1] ** 2 + (moments[:, 0] - mean) ** 2))
        return mean, math.sqrt(square)

    def fingerprint(self, splits: Sequence[str]) -> str:
        """16 hexadecimal digits that stand for splits' records and all manifests.

        Raises:
            DataError: As `index`.
        """
        found = [
            part.fingerprint([split for split in splits if split in part.splits])
            for part in self.parts
        ]
        text = json.dumps([self.manifest_hash, *found])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What a run's config.json says of its data, as `PreparedData.describe`.

        Without paths, `folders` says what each of them is, and `weight` how often it
        was to be drawn.
        """
        described = [part.describe() for part in self.parts]
        weights: Sequence[float | None]
        weights = self._given_weights() or [None] * len(self.parts)
        separators = [part["separator"] for part in described]
        separator = separators[0]
        if any(other != separator for other in separators):
            separator = {"name": " + ".join(dict.fromkeys(map(_name, separators)))}
        datasets = [part["dataset"] for part in described if part["dataset"]]
        return {
            "data_dir": join_names([part["data_dir"] for part in described]),
            "manifest_hash": self.manifest_hash,
            "dataset": " + ".join(dict.fromkeys(datasets)) or None,
            "sources": list(self.sources),
            "separator": separator,
            "folders": [
                {
                    "manifest_hash": part["manifest_hash"],
                    "dataset": part["dataset"],
                    "sources": part["sources"],
                    "separator": part["separator"],
                    "weight": weight,
                }
                for part, weight in zip(described, weights, strict=True)
            ],
        }


def open_data(
    data_dir: str | os.PathLike,
    frontend: FrontendConfig | None = None,
    weights: Sequence[str] | None = None,
) -> "PairData":
    """Opens what `--data_dir` names: one prepared folder, or several as one.

    Args:
        data_dir: A folder, or several with commas between them, see `folder_lists`.
        frontend: What the reader's model was trained with; None accepts any.
        weights: The numbers of `--data_weights`; None without.

    Raises:
        UsageError: If a folder is named twice, or weights are wrong.
        DataError: As PreparedData, or as JoinedData.
    """
    names = split_names(os.fspath(data_dir))
    given = None if weights is None else parse_weights(weights, len(names))
    for name in names:
        # Of one name without a comma PreparedData says what is missing, and of a folder
        # that holds the other kind of records alone.
        found = prepared_folders(pathlib.Path(name))[0] / MANIFEST_NAME
        if "," in os.fspath(data_dir) and "://" not in name and not found.exists():
            path = os.path.join(name, MANIFEST_NAME)
            raise DataError(
                f"--data_dir={os.fspath(data_dir)}: {path} does not exist: is {name} "
                "no prepared folder, or was it moved? A comma stands between two "
                "folders; \\, is one in a folder's name"
            )
    parts = [PreparedData(name, frontend) for name in names]
    return parts[0] if len(parts) == 1 else JoinedData(parts, given)


PairData: TypeAlias = PreparedData | JoinedData  # what pairs are drawn from
PairIndex: TypeAlias = Index | JoinedIndex


def _name(separator: Any) -> str:
    if isinstance(separator, dict):
        separator = separator.get("name")
    return separator or "none"


def _count_frames(index: Index) -> int:
    return sum(int(index.num_frames[rows].sum()) for rows in index.row_blocks())


def _check_frontend(first: PreparedData, other: PreparedData) -> None:
    differing = [
        f"{name} {theirs} != {mine}"
        for name, mine, theirs in unequal_fields(first.frontend, other.frontend)
    ]
    if differing:
        raise DataError(
            f"--data_dir: {other.data_dir} was prepared with another front end than "
            f"{first.data_dir}: {', '.join(differing)}; prepare one of them again with "
            "the other's (--level, for the level rule), or leave it out"
        )
