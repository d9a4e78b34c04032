"""MTG-Jamendo: whole tracks with tags. `python -m data_prep.jamendo --help`.

Splits and tags are read from the published `autotagging_top50tags-train.tsv`,
`-validation.tsv` and `-test.tsv` of one of the dataset's five splits
(`data/splits/split-0` and so on in its repository); no artist is in two of them.
"""

import os
import pathlib
from collections.abc import Mapping

from cola_msa.audio.files import AUDIO_SUFFIXES
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
)
from data_prep.datasets.layout import list_layout, without_case

SUBSET = "autotagging_top50tags"
SPLITS = ("train", "validation", "test")
_HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
_REAL_FROM = 50_000  # tracks
_REAL_COUNTS = {"tracks": 54_380, "tags": 50}


def _read_split(path: pathlib.Path) -> list[list[str]]:
    rows = list(
        read_rows(
            require(path, LAYOUT), delimiter="\t", is_strict=False, error=DatasetError
        )
    )
    if not rows or rows[0].cells != _HEADER:
        raise DatasetError(
            f"{path} is not MTG-Jamendo's: its header must be {', '.join(_HEADER)}, "
            "with tabs between"
        )
    for line, row in rows[1:]:
        if len(row) < len(_HEADER):
            raise DatasetError(f"{path}, line {line}: {len(row)} columns and no tag")
    return [row.cells for row in rows[1:]]


def _find(files: Mapping[str, str], path: str) -> str | None:
    """The file of a track.

    `34/786434.mp3` as published, `34/786434.low.mp3` of the smaller download, or the
    same name with another suffix.
    """
    stem = os.path.splitext(path)[0]
    suffixes = [".mp3", ".low.mp3", *sorted(AUDIO_SUFFIXES - {".mp3"})]
    return next((files[stem + s] for s in suffixes if stem + s in files), None)


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists the tracks of the three split files; the tags are sorted by name.

    Args:
        dataset_dir: Holds the folders 00 to 99 with the tracks.
        options: `split_dir`, the folder of the split files (default `dataset_dir`),
            and `stem_splits`.

    Returns:
        The DatasetIndex; a track's group is its artist, and tracks without a file are
        failures.

    Raises:
        DatasetError: If a split file is missing or of another format, if a track is in
            two, or if the real files do not give the published counts.
    """
    lists_dir = dataset_dir / (options.split_dir or ".")
    rows = [
        (split, row)
        for split in SPLITS
        for row in _read_split(lists_dir / f"{SUBSET}-{split}.tsv")
    ]
    class_names = tuple(sorted({tag for _, row in rows for tag in row[5:] if tag}))
    number = {tag: k for k, tag in enumerate(class_names)}
    is_published = len(rows) >= _REAL_FROM
    if is_published:
        counts = {"tracks": len(rows), "tags": len(class_names)}
        check_counts("MTG-Jamendo", counts, _REAL_COUNTS)
    folders = sorted({os.path.dirname(row[3]) for _, row in rows})
    laid_out = list_layout(dataset_dir, folders)
    files = without_case(laid_out.paths)
    clips, failures = [], list(laid_out.failures())
    seen: set[str] = set()
    for split, row in rows:
        track, artist, _, path = row[:4]
        if track in seen:
            raise DatasetError(
                f"{lists_dir}: {track} is listed twice; take all three files of one "
                "published split"
            )
        seen.add(track)
        found = _find(files, path)
        if found is None:
            reason = laid_out.why_missing(path, f"{SUBSET}-{split}.tsv")
            failures.append(Failure(text(track), text(path), split, reason))
            continue
        clips.append(
            Clip(
                clip_id=text(track),
                path=found,
                split=split,
                group=text(artist),
                labels=tuple(sorted({number[tag] for tag in row[5:] if tag})),
                wants_stems=split in options.stem_splits,
            )
        )
    remarks = laid_out.remarks_of(clips, "are in none of the splits")
    return DatasetIndex(
        tuple(clips), class_names, tuple(failures), is_published, remarks
    )


LAYOUT = (
    "<dataset_dir>/34/786434.mp3 (or .low.mp3) and so on, and "
    f"{SUBSET}-train.tsv, -validation.tsv, -test.tsv in --split_dir or in <dataset_dir>"
)
DATASET = Dataset(
    name="jamendo",
    task_type="multilabel",
    stems="optional",
    options=("split_dir", "stem_splits"),
    max_clips_per_shard=128,
    index=index,
    citation="D. Bogdanov, M. Won, P. Tovstogan, A. Porter, X. Serra: The MTG-Jamendo "
    "dataset for automatic music tagging. Machine Learning for Music Discovery "
    "Workshop, ICML 2019.",
    licence="Metadata CC BY-NC-SA 4.0; each track under its artist's Creative Commons "
    "licence, see audio_licenses.txt",
    layout=LAYOUT,
    metadata=(f"{SUBSET}-*.tsv",),
    homepage="https://github.com/MTG/mtg-jamendo-dataset",
    download="the audio by its scripts/download/download.py (raw_30s, audio, or the "
    "smaller audio-low), and data/splits/split-0 of the repository",
)
