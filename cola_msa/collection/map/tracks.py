"""The tracks that a map shows: all of a file's, or a sample, read in blocks."""

import dataclasses
import os

import numpy as np

from cola_msa.collection.map.layout import MapError
from cola_msa.collection.table.clips import Clips

MOST_TRACKS = 200_000  # that a page shows
_SAMPLE = 100_000  # that the message for more proposes


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
    is_quiet: bool = True,
) -> Tracks:
    """Reads the tracks of a file or folder of embeddings, as `load_embeddings` does.

    Memory is taken for the tracks that are shown, whatever else there is, and for the
    names of all.

    Args:
        path: What `open_reader` opens.
        sample: So many tracks, drawn at random; None, or more than there are: all.
        seed: Seed of the sample; equal files and seeds give equal samples.
        most: Tracks that a map shows.
        is_quiet: Without a progress bar.

    Returns:
        The Tracks.

    Raises:
        EmbeddingFileError: As `load_embeddings`.
        MapError: If there are more tracks than `most`, and no sample is wanted, or a
            larger one.
    """
    if sample is not None and not 1 <= sample <= most:
        raise MapError(f"--sample={sample}: a map shows 1 to {most:,} tracks")
    with Clips(path, is_quiet=is_quiet) as clips:
        names = clips.paths
        if sample is None and len(names) > most:
            raise MapError(
                f"{path}: {len(names):,} tracks, and a map shows at most {most:,}: "
                f"show a sample of them by --sample={min(most, _SAMPLE)}"
            )
        numbers = np.arange(len(names))
        if sample is not None and sample < len(names):
            random = np.random.default_rng(seed)
            numbers = np.sort(random.choice(len(names), sample, replace=False))
        embeddings = clips.take(numbers)
    paths = tuple(names[number] for number in numbers)
    return Tracks(paths, embeddings, names, numbers)
