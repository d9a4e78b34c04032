"""FMA-small: 30 s clips of 8 genres. `python -m data_prep.fma --help`."""

import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Iterable

from cola_msa.values.tables import read_rows
from data_prep.datasets.base import (
    Clip,
    Dataset,
    DatasetError,
    DatasetIndex,
    Failure,
    IndexOptions,
    check_counts,
    require,
    text,
    unlabelled,
)
from data_prep.datasets.layout import list_layout

CLIP_SECONDS = 30.0
_SPLITS = {"training": "train", "validation": "validation", "test": "test"}
_REAL_COUNTS = {"train": 6400, "validation": 800, "test": 800, "genres": 8}
_REAL_FROM = 8000
_AUDIO_FOLDER, _TRACKS = "fma_small", "fma_metadata/tracks.csv"
# The clipping went beyond the end of these tracks. Source: github.com/mdeff/fma,
# issues 8 and 44.
_KNOWN_SHORT = ("098565", "098567", "098569")
_KNOWN_EMPTY = ("099134", "108925", "133297")
_GROUPS = (
    ("artist", "id"),
    ("artist", "name"),
    ("album", "id"),
    ("album", "title"),
)
_NEEDED = (("set", "split"), ("set", "subset"), ("track", "genre_top"))


def _read_tracks(path: pathlib.Path) -> dict[str, dict[tuple[str, str], str]]:
    """Rows of the subset `small` by six-digit track id."""
    rows = read_rows(
        path,
        delimiter=",",
        errors="backslashreplace",
        is_strict=False,
        error=DatasetError,
    )
    header = [row.cells for row in itertools.islice(rows, 3)]
    columns = list(zip(*header[:2], strict=False))
    missing = [f"{a}.{b}" for a, b in _NEEDED if columns.count((a, b)) != 1]
    if missing:
        raise DatasetError(
            f"{path} is not FMA's: its three header rows lack {', '.join(missing)}, or "
            "have it twice"
        )
    subset = columns.index(("set", "subset"))
    tracks = {}
    for line, row in rows:
        if len(row) != len(columns):
            raise DatasetError(
                f"{path}, line {line}: {len(row)} columns instead of {len(columns)}"
            )
        if row[subset] == "small":
            if not (row[0].isascii() and row[0].isdigit() and len(row[0]) < 20):
                raise DatasetError(f"{path}, line {line}: {row[0]!r} is no track id")
            tracks[f"{int(row[0]):06d}"] = dict(zip(columns, row, strict=True))
    return tracks


def _by_track(paths: Iterable[str]) -> tuple[dict[str, str], list[Failure]]:
    """Path by track id (the name without suffix), and twins."""
    found: dict[str, str] = {}
    twins = []
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        first = found.setdefault(stem, path)
        if first != path:
            reason = f"its track id is also {text(first)}'s"
            twins.append(Failure(text(stem), text(path), "", reason))
    return found, twins


def _group(track_id: str, row: dict[tuple[str, str], str]) -> str:
    for column in _GROUPS:
        if row.get(column):
            return f"{'-'.join(column)}: {row[column]}"
    return track_id


def _seconds(row: dict[tuple[str, str], str]) -> float:
    """A clip has 30 s of its track, whose duration the metadata gives."""
    try:
        return min(CLIP_SECONDS, float(row.get(("track", "duration"), "")))
    except ValueError:
        return CLIP_SECONDS


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists the clips of an FMA-small folder; the classes are sorted by name.

    Args:
        dataset_dir: Holds fma_small and fma_metadata.
        options: `stem_splits` is used.

    Returns:
        The DatasetIndex; missing files, files without a row and rows without a genre
        or a known split are failures.

    Raises:
        DatasetError: If tracks.csv is missing or not FMA's, or if the real metadata
            does not give the published counts.
    """
    tracks = _read_tracks(require(dataset_dir / _TRACKS, LAYOUT))
    require(dataset_dir / _AUDIO_FOLDER, LAYOUT)
    laid_out = list_layout(dataset_dir, [_AUDIO_FOLDER], depth=2)
    audio, twins = _by_track(laid_out.paths)
    class_names = tuple(
        sorted({r[("track", "genre_top")] for r in tracks.values()} - {""})
    )
    number = {name: k for k, name in enumerate(class_names)}
    is_published = len(tracks) >= _REAL_FROM
    if is_published:
        counts = Counter(_SPLITS.get(r[("set", "split")], "") for r in tracks.values())
        counts["genres"] = len(class_names)
        check_counts("FMA-small", counts, _REAL_COUNTS)
    clips: list[Clip] = []
    failures = [*twins, *laid_out.failures()]
    for track_id, row in sorted(tracks.items()):
        split = _SPLITS.get(row[("set", "split")], "")
        genre = row[("track", "genre_top")]
        path = audio.get(track_id)
        shown = path or f"{_AUDIO_FOLDER}/{track_id[:3]}/{track_id}.mp3"
        reason = None
        if path is None:
            reason = laid_out.why_missing(shown, "tracks.csv")
        elif not genre:
            reason = "its row in tracks.csv has no top genre"
        elif not split:
            reason = f"its split in tracks.csv is {row[('set', 'split')]!r}"
        if path is None or reason:
            failures.append(Failure(track_id, text(shown), split, reason or ""))
            continue
        clips.append(
            Clip(
                clip_id=track_id,
                path=path,
                split=split,
                group=text(_group(track_id, row)),
                labels=(number[genre],),
                wants_stems=split in options.stem_splits,
                expected_seconds=_seconds(row),
            )
        )
    failures += unlabelled(
        audio.values(),
        (path for track_id, path in audio.items() if track_id in tracks),
        "no row of the subset small in tracks.csv",
    )
    return DatasetIndex(
        tuple(clips), class_names, tuple(failures), is_published, laid_out.remarks
    )


LAYOUT = (
    "<dataset_dir>/fma_metadata/tracks.csv and <dataset_dir>/fma_small/000/000002.mp3 "
    "and so on"
)


def _known_broken() -> dict[str, str]:
    kinds = {
        "far shorter than 30 s in the published archive": _KNOWN_SHORT,
        "without audio in the published archive": _KNOWN_EMPTY,
    }
    return {
        f"{_AUDIO_FOLDER}/{track_id[:3]}/{track_id}.mp3": what
        for what, tracks in kinds.items()
        for track_id in tracks
    }


DATASET = Dataset(
    name="fma",
    task_type="multiclass",
    stems="optional",
    options=("stem_splits",),
    max_clips_per_shard=128,
    index=index,
    citation="M. Defferrard, K. Benzi, P. Vandergheynst, X. Bresson: FMA: a dataset "
    "for music analysis. ISMIR 2017.",
    licence="Metadata CC-BY 4.0; each track under its artist's licence, see tracks.csv",
    layout=LAYOUT,
    metadata=(_TRACKS,),
    homepage="https://github.com/mdeff/fma",
    download="fma_small.zip and fma_metadata.zip: unpack both into <dataset_dir>",
    known_broken=_known_broken(),
)
