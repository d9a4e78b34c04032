"""NSynth: 4 s notes with an instrument family. `python -m data_prep.nsynth --help`."""

import pathlib
from typing import Any

from cola_msa.values.reading import read_json
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

_MAX_BYTES = 1 << 30  # of the training split's examples.json: it has 200 MB
FOLDER_OF_SPLIT = {
    "train": "nsynth-train",
    "validation": "nsynth-valid",
    "test": "nsynth-test",
}
NOTE_SECONDS = 4.0
_REAL_COUNTS = {"train": 289205, "validation": 12678, "test": 4096}
# More training notes than any cut of NSynth that people make by hand.
_REAL_FROM = 280000


def _read_notes(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    return read_json(
        require(path, LAYOUT),
        DatasetError,
        "get the dataset again",
        max_bytes=_MAX_BYTES,
        check=_checked_notes,
    )


def _checked_notes(notes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for name, note in notes.items():
        family = note["instrument_family"], note["instrument_family_str"]
        if tuple(map(type, family)) != (int, str):
            raise ValueError(f"{name!r:.60} is of no instrument family")
    return notes


def _class_names(notes: dict[str, dict[str, dict[str, Any]]]) -> tuple[str, ...]:
    """Families in the order of NSynth's own numbers."""
    families = {
        (note["instrument_family"], note["instrument_family_str"])
        for split_notes in notes.values()
        for note in split_notes.values()
    }
    names = tuple(name for _, name in sorted(families))
    if len(set(names)) != len(names):
        raise DatasetError(
            f"examples.json gives one instrument family two numbers: {sorted(families)}"
        )
    return names


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists the notes of an NSynth folder.

    Args:
        dataset_dir: Holds nsynth-train, nsynth-valid and nsynth-test.
        options: Not used.

    Returns:
        The DatasetIndex; missing files and files without a note are failures.

    Raises:
        DatasetError: If a split's examples.json is missing or damaged, or if the real
            metadata does not give the published counts.
    """
    notes = {
        split: _read_notes(dataset_dir / folder / "examples.json")
        for split, folder in FOLDER_OF_SPLIT.items()
    }
    is_published = len(notes["train"]) >= _REAL_FROM
    if is_published:
        check_counts("NSynth", {s: len(n) for s, n in notes.items()}, _REAL_COUNTS)
    class_names = _class_names(notes)
    number = {name: k for k, name in enumerate(class_names)}
    clips: list[Clip] = []
    failures: list[Failure] = []
    remarks: list[str] = []
    for split, folder in FOLDER_OF_SPLIT.items():
        require(dataset_dir / folder / "audio", LAYOUT)
        # One listing: a stat for each of 300,000 files takes minutes.
        laid_out = list_layout(dataset_dir, [f"{folder}/audio"], (".wav",))
        files = without_case(laid_out.paths)
        remarks += [f"{folder}: {line}" for line in laid_out.remarks]
        failures += laid_out.failures()
        for name, note in sorted(notes[split].items()):
            path = f"{folder}/audio/{name}.wav"
            found = files.get(path)
            if found is None:
                reason = laid_out.why_missing(path, "examples.json")
                failures.append(Failure(text(name), text(path), split, reason))
                continue
            clips.append(
                Clip(
                    clip_id=name,
                    path=found,
                    split=split,
                    group=note.get("instrument_str", name),
                    labels=(number[note["instrument_family_str"]],),
                    expected_seconds=NOTE_SECONDS,
                )
            )
        failures += unlabelled(
            laid_out.paths,
            (files.get(f"{folder}/audio/{name}.wav", "") for name in notes[split]),
            "no entry in examples.json",
        )
    return DatasetIndex(
        tuple(clips), class_names, tuple(failures), is_published, tuple(remarks)
    )


LAYOUT = (
    "<dataset_dir>/nsynth-train, nsynth-valid and nsynth-test, each with examples.json "
    "and audio/*.wav (16 kHz, 4 s)"
)
DATASET = Dataset(
    name="nsynth",
    task_type="multiclass",
    stems="none",
    options=(),
    max_clips_per_shard=1024,
    index=index,
    citation="J. Engel, C. Resnick, A. Roberts, S. Dieleman, D. Eck, K. Simonyan, M. "
    "Norouzi: Neural audio synthesis of musical notes with WaveNet autoencoders. ICML "
    "2017.",
    licence="CC-BY 4.0",
    layout=LAYOUT,
    metadata=("nsynth-*/examples.json",),
    homepage="https://magenta.tensorflow.org/datasets/nsynth",
    download="nsynth-train.jsonwav.tar.gz, nsynth-valid.jsonwav.tar.gz and "
    "nsynth-test.jsonwav.tar.gz: unpack each into <dataset_dir>",
)
