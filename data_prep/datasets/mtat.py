"""MagnaTagATune: 29 s clips with tags. `python -m data_prep.mtat --help`."""

import pathlib
import re
from collections import Counter

from cola_msa.values.tables import read_table
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
from data_prep.datasets.layout import list_layout, without_case

NUM_TOP_TAGS = 50
# The customary 12:1:3 split, by the first character of the path.
SPLIT_OF_FOLDER = {
    **dict.fromkeys("0123456789ab", "train"),
    "c": "validation",
    **dict.fromkeys("def", "test"),
}
_REAL_ROWS, _REAL_TAGS = 25863, 188
_REAL_COUNTS = {
    "train": 15244,
    "validation": 1529,
    "test": 4332,
    "test with test_extra": 5329,
}
# Empty files in the official archive; as tagged clips they would count.
KNOWN_BROKEN = frozenset(
    (
        "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
        "8/jacob_heringman-josquin_des_prez_lute_settings-19-"
        "gintzler__pater_noster-204-233.mp3",
        "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
        "le_petit_rien_xiv_ordre_couperin-88-117.mp3",
    )
)
_NAME = re.compile(r"(.+)-(\d+)-(\d+)\.[^.]+$")
_ANNOTATIONS, _CLIP_INFO = "annotations_final.csv", "clip_info_final.csv"


def _read_table(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    table = read_table(
        path,
        delimiter="\t",
        errors="backslashreplace",
        is_strict=False,
        error=DatasetError,
    )
    if table.columns[0] != "clip_id" or table.columns[-1] != "mp3_path":
        raise DatasetError(
            f"{path} is not MagnaTagATune's: the tab-separated header must begin with "
            "clip_id and end with mp3_path"
        )
    return list(table.columns), [row.cells for row in table.rows]


def _read_clip_info(path: pathlib.Path) -> dict[str, tuple[str, float | None]]:
    """Song and seconds by path; empty without the file, which is optional."""
    if not path.exists():
        return {}
    header, rows = _read_table(path)
    info = {}
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        song = "/".join(cells.get(key, "") for key in ("artist", "album", "title"))
        try:
            seconds = float(cells["segmentEnd"]) - float(cells["segmentStart"])
        except (KeyError, ValueError):
            seconds = None
        info[row[-1]] = (song, seconds)
    return info


def _from_name(path: str) -> tuple[str, float | None]:
    match = _NAME.match(path.split("/")[-1])
    if match is None:
        return path, None
    return match[1], float(match[3]) - float(match[2])


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists the clips of a MagnaTagATune folder.

    The classes are the 50 most frequent tags, in falling frequency, ties by name.
    Clips with none of them go into `train_extra`, `validation_extra`, `test_extra`.

    Args:
        dataset_dir: Holds annotations_final.csv and the folders 0 to f.
        options: `stem_splits` is used.

    Returns:
        The DatasetIndex; missing files and files without annotation are failures.

    Raises:
        DatasetError: If the annotations are missing or not MagnaTagATune's, or if the
            real metadata does not give the published counts.

    Source: docs/architecture.md.
    """
    header, rows = _read_table(require(dataset_dir / _ANNOTATIONS, LAYOUT))
    tags = header[1:-1]
    frequency = Counter(
        tag
        for row in rows
        for tag, flag in zip(tags, row[1:-1], strict=True)
        if flag == "1"
    )
    class_names = tuple(sorted(tags, key=lambda t: (-frequency[t], t))[:NUM_TOP_TAGS])
    columns = [header.index(name) for name in class_names]
    info = _read_clip_info(dataset_dir / _CLIP_INFO)
    # Stems may lie in folders of their own.
    laid_out = list_layout(dataset_dir, SPLIT_OF_FOLDER, (".mp3",))
    audio = without_case(laid_out.paths)
    clips, failures = [], []
    counts: Counter[str] = Counter()
    for row in rows:
        path = row[-1]
        found = audio.get(path)
        labels = tuple(k for k, column in enumerate(columns) if row[column] == "1")
        split = SPLIT_OF_FOLDER.get(path[:1], "")
        if path not in KNOWN_BROKEN:
            counts[split if labels else f"{split}_extra"] += 1
        if not split:
            failures.append(
                Failure(text(row[0]), text(path), "", "not in a folder 0 to f")
            )
            continue
        if not labels:
            split += "_extra"
        if found is None:
            reason = laid_out.why_missing(path, _ANNOTATIONS)
            failures.append(Failure(text(row[0]), text(path), split, reason))
            continue
        song, seconds = info.get(path) or _from_name(path)
        clips.append(
            Clip(
                clip_id=text(row[0]),
                path=found,
                split=split,
                group=text(song),
                labels=labels,
                wants_stems=split in options.stem_splits,
                expected_seconds=seconds,
            )
        )
    is_published = (len(rows), len(tags)) == (_REAL_ROWS, _REAL_TAGS)
    if is_published:
        counts["test with test_extra"] = counts["test"] + counts["test_extra"]
        check_counts("MagnaTagATune", counts, _REAL_COUNTS)
    failures += laid_out.failures()
    known = {audio.get(row[-1], row[-1]) for row in rows}
    failures += unlabelled(laid_out.paths, known, f"no row in {_ANNOTATIONS}")
    return DatasetIndex(
        tuple(clips), class_names, tuple(failures), is_published, laid_out.remarks
    )


LAYOUT = (
    "<dataset_dir>/annotations_final.csv (tab separated), clip_info_final.csv "
    "(optional), and mp3 files in folders 0 to 9 and a to f"
)
DATASET = Dataset(
    name="mtat",
    task_type="multilabel",
    stems="optional",
    options=("stem_splits",),
    max_clips_per_shard=64,
    index=index,
    citation="E. Law, K. West, M. Mandel, M. Bay, J. S. Downie: Evaluation of "
    "algorithms using games: the case of music tagging. ISMIR 2009.",
    licence="Annotations CC-BY-NC-SA 3.0; audio by Magnatune's artists, CC-BY-NC-SA, "
    "for research",
    layout=LAYOUT,
    metadata=(_ANNOTATIONS, _CLIP_INFO),
    homepage="https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
    download="annotations_final.csv, clip_info_final.csv, and mp3.zip.001 to "
    "mp3.zip.003, which are one archive: cat mp3.zip.00? > mp3.zip; unzip mp3.zip",
    known_broken=dict.fromkeys(KNOWN_BROKEN, "an empty file in the published archive"),
)
