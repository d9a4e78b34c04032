"""Any tree of audio files, unlabelled. `python -m data_prep.folder --help`."""

import os
import pathlib

from cola_msa.audio.files import AUDIO_SUFFIXES
from data_prep.datasets.base import (
    Clip,
    Dataset,
    DatasetError,
    DatasetIndex,
    IndexOptions,
    folder_failures,
    list_own,
    split_groups,
    text,
)


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
    listing = list_own(dataset_dir, options.stems_dir)
    paths = listing.paths
    if not paths:
        remarks = "".join(f"; {line}" for line in listing.remarks())
        raise DatasetError(
            f"{dataset_dir}: no audio file ({', '.join(sorted(AUDIO_SUFFIXES))})"
            f"{remarks}"
        )

    def group_of(path: str) -> str:
        return os.path.dirname(path) if options.split_by == "folder" else path

    split_of = split_groups(
        map(group_of, paths),
        options,
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
    return DatasetIndex(
        clips, failures=folder_failures(listing), remarks=listing.remarks()
    )


LAYOUT = "<dataset_dir>/**/<any name>.<wav, flac, ogg, mp3, ...>"
DATASET = Dataset(
    name="folder",
    task_type=None,
    stems="optional",
    options=("split_by", "validation_share", "test_share", "stem_splits"),
    max_clips_per_shard=64,
    index=index,
    citation="Your own collection.",
    licence="Your own collection's.",
    layout=LAYOUT,
)
