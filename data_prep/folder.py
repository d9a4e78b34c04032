"""Any tree of audio files, unlabelled. `python -m data_prep.folder --help`."""

import os
import pathlib

from cola_msa.audio import AUDIO_SUFFIXES
from data_prep.clips import (
    Clip,
    Dataset,
    DatasetError,
    DatasetIndex,
    Failure,
    IndexOptions,
    split_groups,
    text,
)


def _list_audio(
    dataset_dir: pathlib.Path, stems_dir: str | None
) -> tuple[list[str], list[str]]:
    """Audio files, and folders without any that are named like one."""
    skipped = stems_dir and os.path.normpath(dataset_dir / stems_dir)
    found: list[str] = []
    suspects = []
    for folder, names, files in os.walk(dataset_dir):
        # Stems beside the mixtures are not mixtures themselves.
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".")
            and os.path.normpath(os.path.join(folder, name)) != skipped
        )
        relative = pathlib.Path(folder).relative_to(dataset_dir)
        suspects += [
            (relative / name).as_posix()
            for name in names
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
        found += [
            (relative / name).as_posix()
            for name in files
            if not name.startswith(".")
            and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
    # An album may be called anything, also x.mp3.
    empty = [s for s in suspects if not any(f.startswith(f"{s}/") for f in found)]
    return sorted(found), sorted(empty)


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists all audio files below a folder, whatever their depth.

    Args:
        dataset_dir: The folder.
        options: `split_by`, `validation_share`, `test_share`, `stem_splits`,
            `stems_dir`, `seed`.

    Returns:
        The DatasetIndex; a clip's group is its folder, or itself.

    Raises:
        DatasetError: If there is no audio file.
    """
    paths, folders = _list_audio(dataset_dir, options.stems_dir)
    if not paths:
        raise DatasetError(
            f"{dataset_dir}: no audio file ({', '.join(sorted(AUDIO_SUFFIXES))})"
        )

    def group_of(path: str) -> str:
        return os.path.dirname(path) if options.split_by == "folder" else path

    split_of = split_groups(
        map(group_of, paths),
        options.validation_share,
        options.test_share,
        options.seed,
    )
    clips = tuple(
        Clip(
            clip_id=text(path),
            path=path,
            split=split_of[group_of(path)],
            group=text(group_of(path)) or ".",
            wants_stems=split_of[group_of(path)] in options.stem_splits,
        )
        for path in paths
    )
    failures = tuple(
        Failure(text(path), text(path), "", "not a regular file, but a directory")
        for path in folders
    )
    return DatasetIndex(clips, failures=failures)


CITATION = "Your own collection."
LICENCE = "Your own collection's."
LAYOUT = "<dataset_dir>/**/<any name>.<wav, flac, ogg, mp3, ...>"
DATASET = Dataset(
    name="folder",
    task_type=None,
    stems="optional",
    options=("split_by", "validation_share", "test_share", "stem_splits"),
    max_clips_per_shard=64,
    index=index,
    citation=CITATION,
    licence=LICENCE,
    layout=LAYOUT,
)

if __name__ == "__main__":
    from data_prep import cli

    cli.run(DATASET)
