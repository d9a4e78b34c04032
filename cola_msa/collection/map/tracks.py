"""The tracks that a map shows: all of a file's, or a sample, read in blocks."""

import dataclasses
import os
from typing import Any

import numpy as np

from cola_msa.collection.map.layout import MapError
from cola_msa.collection.table.checks import EmbeddingFileError
from cola_msa.collection.table.read import (
    Embeddings,
    check_contents,
    check_values,
    open_reader,
    parse_metadata,
)

MOST_TRACKS = 200_000  # that a page shows
_SAMPLE = 100_000  # that the message for more proposes
_BLOCK_BYTES = 1 << 25  # of the rows that are read at once


@dataclasses.dataclass(frozen=True)
class Tracks:
    """The tracks of a map.

    Attributes:
        paths: n paths.
        embeddings: float32 [n, dim]; windows are averaged to tracks.
        all_paths: Those of all tracks of the file.
        numbers: int64 [n], which of them the map shows, in rising order.
    """

    paths: tuple[str, ...]
    embeddings: np.ndarray
    all_paths: tuple[str, ...]
    numbers: np.ndarray

    @property
    def is_sample(self) -> bool:
        """Whether the file has more tracks."""
        return len(self.paths) < len(self.all_paths)


def read_tracks(
    path: str | os.PathLike,
    sample: int | None = None,
    seed: int = 0,
    most: int = MOST_TRACKS,
) -> Tracks:
    """Reads the tracks of a file or folder of embeddings, as `load_embeddings` does.

    Memory is taken for the tracks that are shown, whatever else there is, and for the
    names of all.

    Args:
        path: What `open_reader` opens.
        sample: So many tracks, drawn at random; None, or more than there are: all.
        seed: Seed of the sample; equal files and seeds give equal samples.
        most: Tracks that a map shows.

    Returns:
        The Tracks.

    Raises:
        EmbeddingFileError: As `load_embeddings`.
        MapError: If there are more tracks than `most`, and no sample is wanted, or a
            larger one.
    """
    if sample is not None and not 1 <= sample <= most:
        raise MapError(f"--sample={sample}: a map shows 1 to {most:,} tracks")
    reader = open_reader(path)
    try:
        if not reader.num_rows:
            raise EmbeddingFileError(f"{path}: holds no embedding")
        metadata = parse_metadata(path, reader.metadata())
        columns = reader.columns()
        check_contents(path, _rows_of(columns, slice(None), np.zeros((0, 0))))
        names, track_of = _number_tracks(columns["path"])
        if sample is None and len(names) > most:
            raise MapError(
                f"{path}: {len(names):,} tracks, and a map shows at most {most:,}: "
                f"show a sample of them by --sample={min(most, _SAMPLE)}"
            )
        numbers = np.arange(len(names))
        if sample is not None and sample < len(names):
            random = np.random.default_rng(seed)
            numbers = np.sort(random.choice(len(names), sample, replace=False))
        place = np.full(len(names), -1)
        place[numbers] = np.arange(len(numbers))
        has_deviation = (
            metadata.get("per") == "window"
            and metadata.get("clip_embedding") == "moments"
        )
        means = _Means(place[track_of], len(numbers), reader.dim, has_deviation)
        size = max(1, _BLOCK_BYTES // (8 * reader.dim))
        for first in range(0, reader.num_rows, size):
            part = slice(first, min(first + size, reader.num_rows))
            if (place[track_of[part]] < 0).all():
                continue
            rows = reader.read(first, part.stop - first)
            check_values(path, _rows_of(columns, part, rows))
            means.add(first, rows)
    finally:
        reader.close()
    paths = tuple(names[number] for number in numbers)
    return Tracks(paths, means.values, tuple(names), numbers)


def _rows_of(columns: dict[str, Any], part: slice, rows: np.ndarray) -> Embeddings:
    return Embeddings(
        paths=tuple(columns["path"][part]),
        sha256=tuple(columns["sha256"][part]),
        starts=columns["start"][part],
        seconds=columns["seconds"][part],
        embeddings=rows,
    )


def _number_tracks(paths: list[str]) -> tuple[list[str], np.ndarray]:
    """Different paths in order of appearance, and the number of each row's."""
    first: dict[str, int] = {}
    rows = np.array([first.setdefault(p, len(first)) for p in paths], np.int64)
    return list(first), rows


class _Means:
    """Means of rows that come in blocks; those of a track need not stand together.

    Sums are taken in the rows' order and in double precision, as `per_clip` takes them.
    """

    def __init__(
        self, place: np.ndarray, num_tracks: int, dim: int, has_deviation: bool
    ):
        """Begins.

        Args:
            place: int64 [rows], where each row's track stands; -1 for what is not read.
            num_tracks: Tracks.
            dim: Values of a row.
            has_deviation: Whether a track's deviation follows its mean.
        """
        self._place = place
        self._has_deviation = has_deviation
        self._counts = np.bincount(place[place >= 0], minlength=num_tracks)
        self._left = self._counts.copy()
        # Sums, and of squares, of tracks of which rows are still to come.
        self._open: dict[int, np.ndarray] = {}
        width = dim * (2 if has_deviation else 1)
        self.values = np.zeros((num_tracks, width), np.float32)

    def add(self, first: int, rows: np.ndarray) -> None:
        """Adds rows from number `first` on."""
        place = self._place[first : first + len(rows)]
        is_shown = place >= 0
        place, rows = place[is_shown], rows[is_shown]
        if self._counts.max() == 1 and not self._has_deviation:
            self.values[place] = rows
            return
        tracks, which = np.unique(place, return_inverse=True)
        sums = np.zeros((len(tracks), self.values.shape[1]))
        for number, track in enumerate(tracks.tolist()):
            if track in self._open:
                sums[number] = self._open.pop(track)
        dim = rows.shape[1]
        np.add.at(sums[:, :dim], which, rows)
        if self._has_deviation:
            np.add.at(sums[:, dim:], which, np.square(rows, dtype=np.float64))
        self._left[tracks] -= np.bincount(which, minlength=len(tracks))
        for number, track in enumerate(tracks.tolist()):
            if self._left[track]:
                self._open[track] = sums[number].copy()
        is_whole = self._left[tracks] == 0
        found = sums[is_whole] / self._counts[tracks[is_whole], np.newaxis]
        if self._has_deviation:
            variance = found[:, dim:] - np.square(found[:, :dim])
            found[:, dim:] = np.sqrt(np.maximum(variance, 0.0))
        self.values[tracks[is_whole]] = found
