"""Which files below a folder are audio, and what else lies there.

Nothing is left out in silence: links to folders are followed, and what is not listed is
counted by its suffix, or named with its reason.
"""

import collections
import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Collection

from cola_msa.values.names import escape

_SOUND = (
    ".3ga .aac .ac3 .adts .aif .aifc .aiff .alac .amr .ape .au .bwf .caf .dff .dsf "
    ".dts .eac3 .flac .gsm .ircam .m4a .m4b .m4r .mka .mp1 .mp2 .mp3 .mpc .mpga .nist "
    ".oga .ogg .oma .opus .ra .rf64 .rm .sf .snd .sph .spx .tak .tta .voc .w64 .wav "
    ".wave .weba .wma .wv"
)
_PICTURE = (
    ".3g2 .3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogm .ogv .vob "
    ".webm .wmv"
)
VIDEO_SUFFIXES = frozenset(_PICTURE.split())
# What libsndfile or ffmpeg decode.
AUDIO_SUFFIXES = frozenset(_SOUND.split()) | VIDEO_SUFFIXES
_SHOWN = 8


def is_audio_name(name: str) -> bool:
    """Whether a file's suffix is one of audio, whatever its case."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies below a folder; paths begin with the folder's own, and are sorted.

    Attributes:
        paths: Audio files by their suffix, each once.
        folders: Folders without audio files whose name has such a suffix.
        unreadable: Reason by folder that could not be searched.
        repeated: Links to folders that are listed under another path.
        left_out: Number of other files by suffix in lower case; `hidden` are those
            and folders that begin with a dot.
    """

    paths: tuple[str, ...]
    folders: tuple[str, ...]
    unreadable: dict[str, str]
    repeated: tuple[str, ...]
    left_out: dict[str, int]

    def remarks(self) -> tuple[str, ...]:
        """What is left out, a line each."""
        lines = []
        if self.left_out:
            lines.append(f"left out: {_one_line(count_text(self.left_out))}")
        for names, what in (
            (tuple(self.unreadable), "folders that cannot be read"),
            (self.repeated, "links to folders that are listed already"),
        ):
            if names:
                more = f", and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
                shown = ", ".join(map(_one_line, names[:_SHOWN]))
                lines.append(f"left out: {len(names)} {what}: {shown}{more}")
        return tuple(lines)


def _one_line(name: str) -> str:
    return escape(name).replace("\n", "\\n")


def count_text(counts: dict[str, int]) -> str:
    """`12 .jpg, 3 .txt`, the most frequent first."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in order)


def list_audio(root: str | os.PathLike, skipped: Collection[str] = ()) -> Listing:
    """Lists the audio files below a folder at any depth.

    Links to folders are followed; each folder is listed once, under its own path where
    it has one below `root`, so that loops end.

    Args:
        root: The folder.
        skipped: Normalised paths of folders that are not searched.

    Returns:
        Listing.
    """
    paths: list[str] = []
    suspects: list[str] = []
    unreadable: dict[str, str] = {}
    repeated: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    visited: set[tuple[int, int]] = set()
    waiting, links = [os.fspath(root)], list[str]()
    while waiting or links:
        # Links last: a folder's own path is the one that counts.
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                repeated.append(folder)
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            unreadable[folder] = f"cannot be read: {error.strerror or error}"
            continue
        for entry in found:
            path = os.path.join(folder, entry.name)
            is_directory = is_folder(entry)
            if is_directory and os.path.normpath(path) in skipped:
                continue
            if entry.name.startswith("."):
                left_out["hidden"] += 1
                continue
            is_audio = is_audio_name(entry.name)
            if is_directory:
                (links if entry.is_symlink() else waiting).append(path)
                suspects += [path] if is_audio else []
            elif is_audio:
                paths.append(path)
            else:
                suffix = os.path.splitext(entry.name)[1].lower()
                left_out[suffix or "without a suffix"] += 1
    # An album may be called anything, also x.mp3.
    above = {parent for path in paths for parent in _parents(path)}
    return Listing(
        tuple(sorted(paths)),
        tuple(sorted(path for path in suspects if path not in above)),
        dict(sorted(unreadable.items())),
        tuple(sorted(repeated)),
        dict(left_out),
    )


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or below a folder without permission
        return False


def _parents(path: str) -> list[str]:
    parents = []
    while (parent := os.path.dirname(path)) and parent != path:
        parents.append(parent)
        path = parent
    return parents


def same_name(name: str) -> str:
    """What names are compared by where their case does not matter."""
    return unicodedata.normalize("NFC", name).casefold()


def find_audio(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The audio file `<folder>/<name>.<any audio suffix>`; case does not matter.

    Of several the one of this very case, then sound before video, then the first by
    name.
    """
    try:
        entries = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = []
    for entry in entries:
        stem, suffix = os.path.splitext(entry)
        if same_name(stem) == same_name(name) and suffix.lower() in AUDIO_SUFFIXES:
            is_video = suffix.lower() in VIDEO_SUFFIXES
            found.append((stem != name, is_video, entry))
    return folder / min(found)[2] if found else None
