"""What a dataset module gives: clips, classes, failures. No TensorFlow here."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from cola_msa.audio.files import Listing, list_audio
from cola_msa.config.schema import Checked
from cola_msa.system.errors import UsageError, UserError
from cola_msa.values import names
from cola_msa.values.fields import MAX_SEED, within

SPLITS = ("train", "validation", "test")


class DatasetError(UserError):
    """A dataset that cannot be prepared at all; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One audio file (or one folder of stems) and what is known about it.

    Attributes:
        clip_id: Unique within the dataset.
        path: The mixture, relative to the dataset's root, with forward slashes; the
            folder where the mixture is the sum of its stems.
        split: `train`, `validation`, `test`, or one of them with `_extra`.
        group: Song, artist or folder; a group never lies in two splits that the
            project itself makes.
        labels: Class numbers, ascending.
        stem_paths: Pairs of source and path, relative like `path`.
        wants_stems: Whether stems are needed for this clip.
        is_sum: There is no mixture on disk: it is the sum of the stems.
        expected_seconds: Duration by the dataset's metadata; None where unknown.
    """

    clip_id: str
    path: str
    split: str
    group: str
    labels: tuple[int, ...] = ()
    stem_paths: tuple[tuple[str, str], ...] = ()
    wants_stems: bool = False
    is_sum: bool = False
    expected_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A clip that could not be prepared, and why."""

    clip_id: str
    path: str
    split: str
    reason: str


@dataclasses.dataclass(frozen=True)
class DatasetIndex:
    """A dataset's clips in a stable order, its classes, and what is amiss in it.

    `is_published`: the metadata is the published one, whose counts were compared.
    `remarks`: what was left out, a line each.
    """

    clips: tuple[Clip, ...]
    class_names: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    is_published: bool = False
    remarks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class IndexOptions(Checked):
    """What a user may choose about a dataset; each module names those it uses.

    Attributes:
        seed: Seed of the splits that the project itself makes.
        stem_splits: Splits whose clips get stems.
        sources: Sources in order.
        stem_names: Pairs of source (or `mixture`) and file name without suffix, where
            the file's name is not the source's.
        split_by: `folder` or `clip`: what is never divided between two splits.
        validation_share: Share of groups that become the validation split.
        test_share: Share of groups that become the test split.
        stems_dir: Folder of stems, relative to the dataset's root, or None.
        split_dir: Folder of published split files, relative like it, or None.
    """

    seed: int = within(0, 0, MAX_SEED)
    stem_splits: tuple[str, ...] = ("train", "validation")
    sources: tuple[str, ...] = ()
    stem_names: tuple[tuple[str, str], ...] = ()
    split_by: str = "folder"
    validation_share: float = within(0.15, 0.0, 1.0)
    test_share: float = within(0.0, 0.0, 1.0)
    stems_dir: str | None = None
    split_dir: str | None = None


def check_stem_splits(splits: Iterable[str]) -> None:
    """Refuses splits that no clip can be in, by UsageError."""
    known = (*SPLITS, *(f"{split}_extra" for split in SPLITS))
    for split in splits:
        if split not in known:
            raise UsageError(
                f"--stem_splits: there is no split {split!r}; there are "
                f"{', '.join(known)}"
            )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset module, as the commands and the contract test see it.

    Attributes:
        name: The module's name.
        task_type: `multilabel`, `multiclass`, or None where there are no labels.
        stems: Where stems may come from: `none`, `optional` (`--stems_dir` or
            `--separator`), or `folder` (the clip's own folder).
        options: Fields of IndexOptions that the dataset uses, beside the seed.
        max_clips_per_shard: Shards hold at most this many clips by default.
        index: (dataset_dir, options) -> DatasetIndex.
        citation: What to cite.
        licence: Under which terms the dataset is given away.
        layout: What lies where under the dataset's root.
        homepage: Where to get it.
        download: What to download and unpack.
        test_share: Default share of groups for testing, of own splits.
        known_broken: Clips that are broken in the published archive: what they are,
            by path.
        metadata: Patterns (`fnmatch`) of the paths of the files that `index` reads,
            below the root or `--split_dir`; of all others it uses the names alone.
    """

    name: str
    task_type: str | None
    stems: str
    options: tuple[str, ...]
    max_clips_per_shard: int
    index: Callable[[pathlib.Path, IndexOptions], DatasetIndex]
    citation: str
    licence: str
    layout: str
    homepage: str = ""
    download: str = ""
    test_share: float = 0.0
    known_broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metadata: tuple[str, ...] = ()


def split_groups(groups: Iterable[str], options: IndexOptions) -> dict[str, str]:
    """Assigns whole groups to splits, by a seeded permutation of their sorted names.

    Args:
        groups: Names; repetitions do not count.
        options: `validation_share` of groups, 0 to 1, of which above 0 there is at
            least one, `test_share` likewise, and the permutation's `seed`.

    Returns:
        Split by group; train always has a group.

    Raises:
        UsageError: If the shares leave no training data.
    """
    ordered = sorted(set(groups))
    validation_share, test_share = options.validation_share, options.test_share
    check_shares(validation_share, test_share)
    order = np.random.default_rng(options.seed).permutation(len(ordered))
    left = len(ordered) - 1
    splits = {name: "train" for name in ordered}
    position = 0
    for split, share in (("validation", validation_share), ("test", test_share)):
        wanted = max(1, round(share * len(ordered))) if share > 0 else 0
        count = min(wanted, left)
        for number in order[position : position + count]:
            splits[ordered[number]] = split
        position += count
        left -= count
    return splits


def check_shares(validation_share: float, test_share: float) -> None:
    """Refuses shares that leave no training data, by UsageError."""
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise UsageError(
            f"--validation_share={validation_share} and --test_share={test_share} must "
            "not be negative, and their sum must be below 1"
        )


def text(path: pathlib.PurePath | str) -> str:
    """A path as UTF-8 text, see `system.names`; no two paths have the same."""
    return names.escape(path if isinstance(path, str) else path.as_posix())


def relative_listing(listing: Listing, root: pathlib.Path) -> Listing:
    """A listing whose paths are relative to a folder, with forward slashes."""

    def short(path: str) -> str:
        return pathlib.Path(path).relative_to(root).as_posix()

    return Listing(
        tuple(sorted(map(short, listing.paths))),
        tuple(sorted(map(short, listing.folders))),
        {short(path): reason for path, reason in listing.unreadable.items()},
        tuple(map(short, listing.repeated)),
        listing.left_out,
    )


def list_own(dataset_dir: pathlib.Path, stems_dir: str | None) -> Listing:
    """Audio below a user's folder, relative to it; stems beside it are no mixtures."""
    skipped = (os.path.normpath(dataset_dir / stems_dir),) if stems_dir else ()
    return relative_listing(list_audio(dataset_dir, skipped), dataset_dir)


def folder_failures(listing: Listing) -> tuple[Failure, ...]:
    """Folders that look like files of audio, and those that cannot be read."""
    reasons = {name: "not a regular file, but a directory" for name in listing.folders}
    return named_failures({**reasons, **listing.unreadable})


def named_failures(reasons: Mapping[str, str]) -> tuple[Failure, ...]:
    """Failures of files or folders that belong to no clip, from reasons by path."""
    return tuple(
        Failure(text(name), text(name), "", reason) for name, reason in reasons.items()
    )


def require(path: pathlib.Path, layout: str) -> pathlib.Path:
    """Returns `path`.

    Raises:
        DatasetError: If it does not exist; the message shows the expected layout.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist; expected layout: {layout}")
    return path


def check_counts(name: str, found: dict[str, int], expected: dict[str, int]) -> None:
    """Compares counts of the real metadata with the published ones.

    Raises:
        DatasetError: If they differ.
    """
    wrong = [
        f"{key}: {found.get(key, 0)} instead of {count}"
        for key, count in expected.items()
        if found.get(key, 0) != count
    ]
    if wrong:
        raise DatasetError(
            f"the metadata looks like the real {name}, but its counts differ "
            f"({'; '.join(wrong)}): the metadata file is damaged or another version"
        )


def unlabelled(
    files: Iterable[str], known: Iterable[str], reason: str
) -> tuple[Failure, ...]:
    """Failures for audio files that no label row names, in sorted order."""
    unknown: Sequence[str] = sorted(set(files) - set(known))
    return tuple(Failure(text(name), text(name), "", reason) for name in unknown)
