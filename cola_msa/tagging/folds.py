"""Which clips are held out together: never a part of an album."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from cola_msa.tagging.labels import ClipLabels

FOLDER, CONTENT = "folder", "content"
MOST_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Folds:
    """A division of n clips.

    Attributes:
        of: int64 [n], each clip's fold; they are `count`.
        count: Folds; 0 where nothing can be held out.
        groups: int64 [n], each clip's group, which lies in one fold.
        by: What a group is, FOLDER or CONTENT.
        is_scored: bool [K], classes and tags that have clips in two folds at least, so
            that they can be learnt from some and asked of others.
    """

    of: np.ndarray
    count: int
    groups: np.ndarray
    by: str
    is_scored: np.ndarray


def make_folds(
    labels: ClipLabels, paths: Sequence[str], by_content: bool = False, seed: int = 0
) -> Folds:
    """Deals groups of clips to folds that have alike shares of every class.

    A group is a folder, as far as classes then still lie on both sides: two of them
    (or one tag) must, with half of the clips. Otherwise each clip is its own.

    Args:
        labels: Of n clips of different content, all known.
        paths: Their n paths.
        by_content: Never take folders.
        seed: Of the order in which equal groups are dealt.

    Returns:
        Folds, at most MOST_FOLDS.
    """
    cells = _cells(labels)
    numbers: dict[str, int] = {}
    parents = [str(pathlib.PurePath(path).parent) for path in paths]
    folders = np.array([numbers.setdefault(p, len(numbers)) for p in parents], int)
    groups, by = np.arange(len(paths)), CONTENT
    if not by_content and _can_divide(labels, cells, folders):
        groups, by = folders, FOLDER
    counts = _sum_groups(cells, groups)
    most = int(_groups_of(labels, counts).max(initial=0))
    count = min(MOST_FOLDS, most) if most > 1 else 0
    if not count:
        scored = np.zeros(len(labels.class_names), bool)
        return Folds(np.zeros(len(paths), int), 0, groups, by, scored)
    of = _deal(counts, np.bincount(groups), count, np.random.default_rng(seed))[groups]
    is_scored = _groups_of(labels, _sum_groups(cells, of)) > 1
    return Folds(of, count, groups, by, is_scored)


def _cells(labels: ClipLabels) -> np.ndarray:
    """Bool [n, M]: a column a class; of tags those with it, and those without."""
    if labels.is_tags:
        return np.concatenate([labels.values == 1, labels.values == 0], axis=1)
    return labels.values[:, np.newaxis] == np.arange(len(labels.class_names))


def _sum_groups(cells: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Float32 [G, M]: how many clips of each column a group has."""
    counts = np.zeros((int(groups.max()) + 1, cells.shape[1]), np.float32)
    np.add.at(counts, groups, cells)
    return counts


def _groups_of(labels: ClipLabels, counts: np.ndarray) -> np.ndarray:
    """int64 [K]: in how many groups a class is; of a tag the fewer of both sides."""
    number = (counts > 0).sum(axis=0)
    num_classes = len(labels.class_names)
    if labels.is_tags:
        return np.minimum(number[:num_classes], number[num_classes:])
    return number


def _can_divide(labels: ClipLabels, cells: np.ndarray, folders: np.ndarray) -> bool:
    """Whether enough classes have clips in two folders."""
    has_two = _groups_of(labels, _sum_groups(cells, folders)) > 1
    if labels.is_tags:
        return bool(has_two.any())
    sizes = cells.sum(axis=0)
    return bool(has_two.sum() > 1 and 2 * sizes[has_two].sum() >= sizes.sum())


def _deal(
    counts: np.ndarray, sizes: np.ndarray, num_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """int64 [G]: each group's fold; the largest and rarest are dealt first.

    A group goes where the fewest clips of its classes are, by their share of each; of
    equal folds to the smallest.
    """
    weights = 1 / np.maximum(counts.sum(axis=0, dtype=np.float64), 1) ** 2
    order = rng.permutation(len(counts))
    largeness = (counts.astype(np.float64) ** 2) @ weights
    order = order[np.argsort(-largeness[order], kind="stable")]
    held = np.zeros((num_folds, counts.shape[1]))
    held_sizes = np.zeros(num_folds)
    of = np.zeros(len(counts), np.int64)
    for group in order:
        costs = held @ (weights * counts[group])
        fold = int(np.lexsort((held_sizes, costs))[0])
        of[group] = fold
        held[fold] += counts[group]
        held_sizes[fold] += sizes[group]
    return of
