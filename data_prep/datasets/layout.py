"""Files at the places of a published dataset's layout; what else lies there is said."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterable

from cola_msa.audio.files import AUDIO_SUFFIXES, Listing, list_audio
from data_prep.datasets.base import Clip, Failure, named_failures, relative_listing


@dataclasses.dataclass(frozen=True)
class LaidOut:
    """What a layout's folders hold.

    Attributes:
        paths: Audio files, relative to the dataset's root, sorted; what only looks
            like one by its name fails when it is read.
        unreadable: Reason by folder that could not be searched.
        remarks: What was left out, a line each.
    """

    paths: tuple[str, ...]
    unreadable: dict[str, str]
    remarks: tuple[str, ...]

    def failures(self) -> tuple[Failure, ...]:
        """The folders that cannot be read."""
        return named_failures(self.unreadable)

    def remarks_of(self, clips: Iterable[Clip], others: str) -> tuple[str, ...]:
        """The remarks, and how many files no clip has, `others` by their metadata."""
        count = len(set(self.paths) - {clip.path for clip in clips})
        if not count:
            return self.remarks
        return (*self.remarks, f"left out: {count} files of audio that {others}")

    def why_missing(self, path: str, metadata: str) -> str:
        """Why a file that the metadata name is not among the paths."""
        for folder, reason in self.unreadable.items():
            if path.startswith(f"{folder}/"):
                return f"its folder {folder} {reason}"
        return f"the file does not exist, but {metadata} names it"


def list_layout(
    dataset_dir: pathlib.Path,
    folders: Iterable[str],
    suffixes: Collection[str] = AUDIO_SUFFIXES,
    depth: int = 1,
) -> LaidOut:
    """Lists the audio files of a layout's folders, through links to folders.

    Args:
        dataset_dir: The dataset's root.
        folders: Relative to it, with forward slashes; those that exist are searched.
        suffixes: The layout's, in lower case; those of files may have any.
        depth: How far below their folder the files lie; 1 is in the folder itself.

    Returns:
        LaidOut.
    """
    paths: list[str] = []
    unreadable: dict[str, str] = {}
    repeated: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    for folder in folders:
        # Of a table's absolute path nothing is listed: it is not in the dataset.
        if os.path.isabs(folder) or not (dataset_dir / folder).is_dir():
            continue
        found = relative_listing(list_audio(dataset_dir / folder), dataset_dir)
        unreadable |= found.unreadable
        repeated += found.repeated
        left_out.update(found.left_out)
        for path in (*found.paths, *found.folders):
            below = len(pathlib.PurePath(path).relative_to(folder).parts)
            suffix = os.path.splitext(path)[1].lower()
            if below != depth:
                left_out["of audio at another depth"] += 1
            elif suffix not in suffixes:
                left_out[suffix] += 1
            else:
                paths.append(path)
    listing = Listing((), (), {}, tuple(repeated), dict(left_out))
    return LaidOut(tuple(sorted(paths)), unreadable, listing.remarks())


def without_case(paths: Iterable[str]) -> dict[str, str]:
    """Paths by themselves with the suffix in lower case; the first of several."""
    found: dict[str, str] = {}
    for path in paths:
        stem, suffix = os.path.splitext(path)
        found.setdefault(stem + suffix.lower(), path)
    return found
