"""GTZAN: 30 s excerpts of 10 genres. `python -m data_prep.gtzan --help`.

The splits are read from the published lists of the fault-filtered partition
(`train_filtered.txt`, `valid_filtered.txt`, `test_filtered.txt`): excerpts that repeat,
are distorted or mislabelled are in none of them, and no artist is in two.
"""

import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence

from cola_msa.values.tables import read_lines
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
from data_prep.datasets.layout import list_layout

LISTS = {
    "train": "train_filtered.txt",
    "validation": "valid_filtered.txt",
    "test": "test_filtered.txt",
}
_AUDIO_FOLDERS = ("genres", "genres_original", ".")
_REAL_FROM = 900  # excerpts in the lists
_REAL_COUNTS = {"train": 443, "validation": 197, "test": 290, "genres": 10}


def _read_list(path: pathlib.Path) -> list[tuple[str, str]]:
    """Genre and name without suffix of each line, `blues/blues.00029.wav`."""
    found = []
    for number, line in read_lines(require(path, LAYOUT), error=DatasetError):
        if not line.strip():
            continue
        genre, _, name = line.strip().replace("\\", "/").rpartition("/")
        if not genre or not name:
            raise DatasetError(
                f"{path}, line {number}: {line!r} is not like blues/blues.00029.wav"
            )
        found.append((genre.rpartition("/")[2], os.path.splitext(name)[0]))
    return found


def _by_name(
    paths: Iterable[str], folders: Sequence[str]
) -> dict[tuple[str, str], str]:
    """Paths by genre and name without suffix; of several that of the first folder."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(paths, key=lambda path: folders.index(os.path.dirname(path))):
        folder, name = os.path.split(path)
        found.setdefault((os.path.basename(folder), os.path.splitext(name)[0]), path)
    return found


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists the excerpts that the split lists name; the classes are sorted by name.

    Args:
        dataset_dir: Holds a folder a genre, or `genres` or `genres_original` with them.
        options: `split_dir`, the folder of the lists (default `dataset_dir`), and
            `stem_splits`.

    Returns:
        The DatasetIndex; excerpts without a file are failures, files in no list are
        none (they are the faulty ones).

    Raises:
        DatasetError: If a list is missing, has another format or names an excerpt of
            another list, or if the real lists do not give the published counts.
    """
    lists_dir = dataset_dir / (options.split_dir or ".")
    listed = {split: _read_list(lists_dir / name) for split, name in LISTS.items()}
    keys = [key for found in listed.values() for key in found]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise DatasetError(
            f"{lists_dir}: the lists name {'/'.join(twice[0])} twice; put the "
            "published lists back"
        )
    class_names = tuple(sorted({genre for genre, _ in keys}))
    number = {genre: k for k, genre in enumerate(class_names)}
    is_published = len(keys) >= _REAL_FROM
    if is_published:
        counts = {split: len(found) for split, found in listed.items()}
        check_counts("GTZAN", counts | {"genres": len(class_names)}, _REAL_COUNTS)
    folders = [
        (pathlib.PurePath(base) / genre).as_posix()
        for base in _AUDIO_FOLDERS
        for genre in class_names
    ]
    laid_out = list_layout(dataset_dir, folders)
    audio = _by_name(laid_out.paths, folders)
    clips, failures = [], list(laid_out.failures())
    for split, found in listed.items():
        for genre, name in sorted(found):
            path = audio.get((genre, name))
            if path is None:
                shown = f"{genre}/{name}.wav"
                places = [
                    f"{base}/{shown}".removeprefix("./") for base in _AUDIO_FOLDERS
                ]
                reasons = [laid_out.why_missing(p, LISTS[split]) for p in places]
                # One that a folder gives comes before one that nothing gives.
                reason = min(reasons, key=lambda why: "does not exist" in why)
                failures.append(Failure(text(name), text(shown), split, reason))
                continue
            clips.append(
                Clip(
                    clip_id=text(f"{genre}/{name}"),
                    path=path,
                    split=split,
                    group=text(name),
                    labels=(number[genre],),
                    wants_stems=split in options.stem_splits,
                )
            )
    remarks = laid_out.remarks_of(clips, "no list names")
    return DatasetIndex(
        tuple(clips), class_names, tuple(failures), is_published, remarks
    )


LAYOUT = (
    "<dataset_dir>/genres/blues/blues.00000.wav and so on (genres_original, or without "
    "that folder, do too), and train_filtered.txt, valid_filtered.txt, "
    "test_filtered.txt in --split_dir or in <dataset_dir>"
)
DATASET = Dataset(
    name="gtzan",
    task_type="multiclass",
    stems="optional",
    options=("split_dir", "stem_splits"),
    max_clips_per_shard=64,
    index=index,
    citation="G. Tzanetakis, P. Cook: Musical genre classification of audio signals. "
    "IEEE Transactions on Speech and Audio Processing 10(5), 2002. Fault-filtered "
    "split: C. Kereliuk, B. L. Sturm, J. Larsen: Deep learning and music adversaries. "
    "IEEE Transactions on Multimedia 17(11), 2015.",
    licence="None stated by its authors; excerpts of commercial recordings, for "
    "research",
    layout=LAYOUT,
    metadata=tuple(LISTS.values()),
    homepage="http://marsyas.info/downloads/datasets.html",
    download="genres.tar.gz (1.2 GB), unpacked into <dataset_dir>; the three lists of "
    "the fault-filtered split are in GTZAN_split of "
    "https://github.com/jongpillee/music_dataset_split",
)
