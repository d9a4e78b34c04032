"""One folder a clip, with its stems. `python -m data_prep.multitrack --help`."""

import contextlib
import os
import pathlib

from cola_msa.audio.ffmpeg import STEMS_ADVICE, is_stems_file
from cola_msa.audio.files import find_audio, list_audio
from cola_msa.system.errors import FileError, UsageError
from cola_msa.values.reading import read_json
from data_prep.datasets.base import (
    Clip,
    Dataset,
    DatasetError,
    DatasetIndex,
    Failure,
    IndexOptions,
    folder_failures,
    relative_listing,
    split_groups,
    text,
)

_MIXTURE = "mixture"


def _piece(folder: pathlib.Path) -> str | None:
    """The song's name, where a meta.json gives one."""
    with contextlib.suppress(FileError):
        return read_json(folder / "meta.json", check=lambda meta: str(meta["piece"]))
    return None


def stem_files(options: IndexOptions) -> dict[str, str]:
    """The name, without suffix, of each source's file, and of the mixture's.

    Raises:
        UsageError: If a name in `stem_names` is not a source, or two have one file.
    """
    names = {s: s for s in (_MIXTURE, *options.sources)} | dict(options.stem_names)
    unknown = sorted(set(names) - {_MIXTURE, *options.sources})
    if unknown:
        raise UsageError(
            f"--stem_names: {', '.join(unknown)} is neither mixture nor one of the "
            f"sources {', '.join(options.sources)}"
        )
    role_of: dict[str, str] = {}
    for role, name in names.items():
        if (other := role_of.setdefault(name, role)) != role:
            raise UsageError(
                f"--stem_names: {other} and {role} are both the file {name}; each "
                "needs its own"
            )
    return names


def index(dataset_dir: pathlib.Path, options: IndexOptions) -> DatasetIndex:
    """Lists folders of stems; whole songs go to one split.

    Args:
        dataset_dir: Holds, at any depth, one folder a clip.
        options: `sources`, `stem_names`, `validation_share`, `test_share`, `seed`.

    Returns:
        The DatasetIndex; folders without any of the sources are failures.

    Raises:
        UsageError: If a name in `stem_names` is not a source, or two have one file.
        DatasetError: If no folder holds any of the sources.
    """
    names = stem_files(options)
    found: list[tuple[str, str, str | None, tuple[tuple[str, str], ...]]] = []
    listing = relative_listing(list_audio(dataset_dir), dataset_dir)
    failures = [
        Failure(text(path), text(path), "", STEMS_ADVICE)
        for path in listing.paths
        if is_stems_file(path)
    ]
    stems_files = len(failures)
    failures += folder_failures(listing)
    folders = {
        os.path.dirname(path) or "."
        for path in listing.paths
        if not is_stems_file(path)
    }
    for name in sorted(folders):
        folder = dataset_dir / name

        def path_of(role: str, folder: pathlib.Path = folder) -> str | None:
            path = find_audio(folder, names[role])
            return path.relative_to(dataset_dir).as_posix() if path else None

        stems = tuple((s, p) for s in options.sources if (p := path_of(s)))
        if not stems:
            wanted = ", ".join(names[s] for s in options.sources)
            failures.append(
                Failure(text(name), text(name), "", f"holds none of the stems {wanted}")
            )
            continue
        found.append((name, _piece(folder) or name, path_of(_MIXTURE), stems))
    if not found and stems_files:
        raise DatasetError(
            f"{dataset_dir}: no folder of stems, but {stems_files} files like "
            f"{failures[0].path}: {STEMS_ADVICE}"
        )
    if not found:
        raise DatasetError(
            f"{dataset_dir}: no folder with a stem named "
            f"{', '.join(names[s] for s in options.sources)}; name the sources with "
            f"--sources=a,b or --stem_names=source=file; expected layout: {LAYOUT}"
        )
    split_of = split_groups(
        (group for _, group, _, _ in found),
        options,
    )
    clips = tuple(
        Clip(
            clip_id=text(name),
            path=mixture or name,
            split=split_of[group],
            group=text(group),
            stem_paths=stems,
            wants_stems=True,
            is_sum=mixture is None,
        )
        for name, group, mixture, stems in found
    )
    return DatasetIndex(clips, (), tuple(failures), remarks=listing.remarks())


LAYOUT = (
    "<dataset_dir>/<clip>/mixture.<suffix> (without it the sum of the stems is used) "
    "and one <source>.<suffix> a source, of which some may be missing; meta.json with "
    '{"piece": song} is optional'
)
DATASET = Dataset(
    name="multitrack",
    task_type=None,
    stems="folder",
    options=("sources", "stem_names", "validation_share", "test_share"),
    max_clips_per_shard=64,
    index=index,
    citation="Your own collection.",
    licence="Your own collection's.",
    layout=LAYOUT,
    metadata=("*meta.json",),
)
