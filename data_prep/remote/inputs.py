"""Where clips' files come from: a folder, or an address, one clip at a time."""

import contextlib
import dataclasses
import fnmatch
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from cola_msa.audio import errors
from cola_msa.audio.files import is_audio_name, same_name
from cola_msa.remote import addresses
from data_prep.datasets.base import Clip, DatasetError


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A dataset's files, as one worker sees them.

    Attributes:
        dataset_dir: The dataset's root, where it lies on this machine.
        stems_dir: Folder of stems relative to it, or None.
        url: The root's address, where it does not.
    """

    dataset_dir: pathlib.Path
    stems_dir: str | None = None
    url: str | None = None

    @contextlib.contextmanager
    def files_of(self, clip: Clip, sources: Sequence[str]) -> Iterator[pathlib.Path]:
        """The dataset's root, as long as a clip's files are needed.

        Args:
            clip: The clip.
            sources: Sources that may have stems.

        Yields:
            The root; of an address a temporary one with this clip's files alone.

        Raises:
            AudioError: If a file cannot be downloaded.
            OSError: If the whole dataset has vanished, or this machine's disk is full.
        """
        if self.url is None:
            yield self.dataset_dir
            return
        folder = addresses.open_folder(self.url)
        with tempfile.TemporaryDirectory(prefix=addresses.SCRATCH_PREFIX) as scratch:
            root = pathlib.Path(scratch, folder.path)
            try:
                for name in self._names(folder, clip, sources):
                    folder.download(name, pathlib.Path(os.path.normpath(root / name)))
            except addresses.RemoteError as error:
                self._check_address(folder, error)
                reason = f"could not be downloaded: {error}"
                if error.is_missing:
                    raise errors.MissingError(reason) from error
                raise errors.UnreadableError(reason) from error
            root.mkdir(parents=True, exist_ok=True)
            yield root

    def _names(
        self, folder: addresses.RemoteFolder, clip: Clip, sources: Sequence[str]
    ) -> list[str]:
        """What to download for a clip, relative to the root."""
        names = [] if clip.is_sum else [clip.path]
        if clip.is_sum or (clip.wants_stems and sources):
            names += [path for _, path in clip.stem_paths]
            if self.stems_dir is not None:
                stems = f"{self.stems_dir}/{os.path.splitext(clip.path)[0]}"
                found = folder.list(stems)
                if not found and not folder.list(self.stems_dir):
                    raise FileNotFoundError(f"{folder.shown}/{self.stems_dir} is gone")
                for name in found:
                    source = os.path.splitext(name)[0]
                    wanted = map(same_name, sources)
                    if same_name(source) in wanted and is_audio_name(name):
                        names.append(f"{stems}/{name}")
        for name in names:
            # Paths come from metadata, and must not lead out of the scratch folder.
            if os.path.normpath(f"{folder.path}/{name}").startswith(".."):
                raise errors.MissingError(f"{name} lies outside of {folder.shown}")
        return names

    def check_presence(self, error: errors.AudioError) -> None:
        """Tells a lost disk from a lost clip.

        Args:
            error: What is wrong with a clip.

        Raises:
            FileNotFoundError: If a folder is gone or empty: an unmounted disk is no
                reason to fail a clip.
        """
        if self.url is not None:  # asked where the download failed
            return
        for name in (".", self.stems_dir):
            if name is not None:
                folder = self.dataset_dir / name
                what = None if folder.is_dir() else "has vanished"
                if what is None and next(folder.iterdir(), None) is None:
                    what = "is empty now: is its disk still mounted?"
                if what is not None:
                    shown = os.path.normpath(folder)
                    raise FileNotFoundError(f"{shown} {what}") from error

    def _check_address(
        self, folder: addresses.RemoteFolder, error: addresses.RemoteError
    ) -> None:
        try:
            is_there = folder.is_there()
        except addresses.RemoteError as other:
            raise other from error
        if not is_there:
            raise FileNotFoundError(f"{folder.shown} has vanished") from error


def make_stand_in(
    folder: addresses.RemoteFolder,
    metadata: Sequence[str],
    scratch: pathlib.Path,
    unreadable: dict[str, str] | None = None,
) -> pathlib.Path:
    """A tree as at an address: metadata real, of all other files the name alone.

    Args:
        folder: The address.
        metadata: Patterns of the metadata's paths, see `base.Dataset`.
        scratch: Where the tree goes, at the path that it has on its file system, so
            that paths from one folder to another hold.
        unreadable: Takes a reason by folder that could not be listed.

    Returns:
        The folder within `scratch`.

    Raises:
        DatasetError: If there is no such folder.
        OSError: If it cannot be read, or this machine's disk is full.
    """
    if not folder.is_there():
        raise DatasetError(f"{folder.shown} does not exist, or is empty")
    root = scratch / folder.path
    root.mkdir(parents=True, exist_ok=True)
    for name, entry in folder.walk().items():
        path = root / name
        if entry.reason and unreadable is not None:
            unreadable[name] = entry.reason
        if entry.same_as is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(os.path.relpath(root / entry.same_as, path.parent))
        elif entry.is_folder:
            path.mkdir(parents=True, exist_ok=True)
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in metadata):
            folder.download(name, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root
