"""Scores of cross-validated answers, with intervals over groups of clips."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cola_msa.evaluation.metrics import chance_scores, mean_scores
from cola_msa.tagging.folds import Folds
from cola_msa.tagging.labels import ClipLabels

_BLOCK_NUMBERS = 8_000_000  # of weights [clips, resamples] at once
Scores = dict[str, np.ndarray]


def resampled(
    labels: ClipLabels,
    probabilities: np.ndarray,
    folds: Folds,
    num_resamples: int,
    seed: int = 0,
) -> tuple[Scores, list[Scores]]:
    """Scores on all clips, and on resamples of their groups.

    What no fold could learn and another ask of is left out: clips of such classes, and
    such tags. A tag is scored on the clips that it is known of.

    Args:
        labels: Of n clips, all known.
        probabilities: float [n, K].
        folds: Their folds; some class or tag is scored.
        num_resamples: Resamples R.
        seed: Of the resamples.

    Returns:
        float64 [1 + R] a score, the first on all clips; and of each tag that is scored
        the same (of classes an empty list).
    """
    blocks: list[Scores] = []
    tags: list[list[Scores]] = [[] for _ in np.flatnonzero(folds.is_scored)]
    if not labels.is_tags:
        rows = scored_rows(labels, folds)
        for weights in _weights(folds.groups[rows], num_resamples, seed):
            blocks.append(
                mean_scores(labels.values[rows], probabilities[None, rows], weights)
            )
        return _join(blocks), []
    for weights in _weights(folds.groups, num_resamples, seed):
        for found, tag in zip(tags, np.flatnonzero(folds.is_scored), strict=True):
            rows = ~np.isnan(labels.values[:, tag])
            found.append(
                mean_scores(
                    labels.values[rows, tag : tag + 1],
                    probabilities[None, rows, tag : tag + 1],
                    weights[rows],
                )
            )
    joined = [_join(found) for found in tags]
    means = {}
    for name in joined[0]:
        values = np.stack([found[name] for found in joined])
        # A tag that a resample leaves without positives does not count in it.
        count = (~np.isnan(values)).sum(axis=0)
        with np.errstate(invalid="ignore"):
            means[name] = np.nansum(values, axis=0) / np.where(count, count, np.nan)
    return means, joined


def scored_rows(labels: ClipLabels, folds: Folds) -> np.ndarray:
    """Bool [n]: clips that a score is over."""
    if labels.is_tags:
        return (~np.isnan(labels.values[:, folds.is_scored])).any(axis=1)
    return folds.is_scored[labels.values]


def chance_of(labels: ClipLabels, folds: Folds) -> dict[str, float]:
    """What knows nothing but the shares gets, as `metrics.chance_scores`."""
    if not labels.is_tags:
        return chance_scores(labels.values[scored_rows(labels, folds)])
    share = np.nanmean(labels.values[:, folds.is_scored], axis=0)
    return {"roc_auc": 0.5, "pr_auc": float(share.mean())}


def estimate(values: np.ndarray) -> dict[str, float]:
    """Value, low and high (95 %) of [1 + R]."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def class_rows(
    labels: ClipLabels,
    probabilities: np.ndarray | None,
    folds: Folds,
    tags: list[Scores],
) -> list[dict[str, Any]]:
    """A row a class or tag: its clips, and how well it is found.

    Args:
        labels: Of n clips, all known.
        probabilities: float [n, K]; None where nothing could be held out.
        folds: Their folds.
        tags: From `resampled`.
    """
    rows: list[dict[str, Any]] = []
    of_tag = dict(zip(np.flatnonzero(folds.is_scored), tags, strict=False))
    for number, name in enumerate(labels.class_names):
        column = labels.values[:, number] if labels.is_tags else labels.values
        has = column == (1 if labels.is_tags else number)
        row: dict[str, Any] = {
            "name": name,
            "clips": int(has.sum()),
            "groups": len(np.unique(folds.groups[has])),
            "is_scored": bool(folds.is_scored[number]),
        }
        if labels.is_tags:
            row["clips_without"] = int((column == 0).sum())
        rows.append(row)
        if probabilities is None or not row["is_scored"]:
            continue
        if labels.is_tags:
            row |= {score: estimate(v) for score, v in of_tag[np.intp(number)].items()}
            continue
        asked = scored_rows(labels, folds)
        is_found = (probabilities.argmax(axis=1) == number) & asked
        right = int((is_found & has).sum())
        row["recall"] = right / row["clips"]
        row["precision"] = right / int(is_found.sum()) if is_found.any() else None
    return rows


def _weights(groups: np.ndarray, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields int32 [n, block]: ones, then how often each resample draws a clip."""
    yield np.ones((len(groups), 1), np.int32)
    number = np.unique(groups, return_inverse=True)[1]
    count = int(number.max()) + 1
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // len(groups))
    for first in range(0, num_resamples, block):
        size = min(block, num_resamples - first)
        drawn = np.empty((count, size), np.int32)
        for column in range(size):
            draws = rng.integers(0, count, count)
            drawn[:, column] = np.bincount(draws, minlength=count)
        yield drawn[number]


def _join(blocks: list[Scores]) -> Scores:
    return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
