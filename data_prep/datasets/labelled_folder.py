"""Own labels: a folder a class. `python -m data_prep.labelled_folder --help`."""

import os
import pathlib

from cola_msa.audio.files import is_folder
from data_prep.datasets.base import (
    Clip,
    Dataset,
    DatasetError,
    DatasetIndex,
    IndexOptions,
    folder_failures,
    list_own,
    named_failures,
    split_groups,
    text,
)


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists audio files below class folders; the classes are the folders' names.

    Each class is divided by itself, so that every split has all classes as far as
    they have enough groups. A group is a folder within the class (an album) or, of
    files that lie in the class folder itself, the file.

    Args:
        dataset_dir: Holds a folder a class.
        options: `split_by`, `validation_share`, `test_share`, `stem_splits`,
            `stems_dir`, `seed`.

    Returns:
        The DatasetIndex; audio files beside the class folders are failures.

    Raises:
        DatasetError: If there are not at least two folders with audio.
    """
    listing = list_own(dataset_dir, options.stems_dir)
    stems_dir = os.path.normpath(dataset_dir / (options.stems_dir or "."))
    folders = sorted(
        entry.name
        for entry in os.scandir(dataset_dir)
        if is_folder(entry) and not entry.name.startswith(".")
        if os.path.normpath(entry.path) != stems_dir
    )
    files: dict[str, list[str]] = {name: [] for name in folders}
    beside = []
    for path in listing.paths:
        name, slash, rest = path.partition("/")
        if slash:
            files[name].append(rest)
        else:
            beside.append(path)
    class_names = tuple(name for name in folders if files[name])
    if len(class_names) < 2:
        raise DatasetError(
            f"{dataset_dir}: {len(class_names)} folder with audio; a task needs two "
            f"classes; expected layout: {LAYOUT}"
        )
    clips = []
    for number, name in enumerate(class_names):

        def group_of(path: str) -> str:
            album = os.path.dirname(path) if options.split_by == "folder" else ""
            return album or path

        split_of = split_groups(
            map(group_of, files[name]),
            options,
        )
        clips += [
            Clip(
                clip_id=text(f"{name}/{path}"),
                path=f"{name}/{path}",
                split=split_of[group_of(path)],
                group=text(f"{name}/{group_of(path)}"),
                labels=(number,),
                wants_stems=split_of[group_of(path)] in options.stem_splits,
            )
            for path in files[name]
        ]
    reason = "not in a folder that names its class"
    failures = named_failures(dict.fromkeys(beside, reason)) + folder_failures(listing)
    remarks = [*listing.remarks()]
    empty = [name for name in folders if not files[name]]
    if empty:
        remarks.append(
            f"left out: folders without audio: {', '.join(map(text, empty))}"
        )
    return DatasetIndex(
        tuple(clips),
        tuple(map(text, class_names)),
        failures,
        remarks=tuple(remarks),
    )


LAYOUT = "<dataset_dir>/<class>/**/<any name>.<wav, flac, ogg, mp3, ...>"
DATASET = Dataset(
    name="labelled_folder",
    task_type="multiclass",
    stems="optional",
    options=("split_by", "validation_share", "test_share", "stem_splits"),
    max_clips_per_shard=64,
    index=index,
    citation="Your own collection.",
    licence="Your own collection's.",
    layout=LAYOUT,
    test_share=0.2,
)
