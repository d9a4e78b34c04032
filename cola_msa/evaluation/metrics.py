"""Scores over clips, their bootstrap intervals, and paired comparisons.

Everything is computed under weights: a resample of the clips is a count a clip, and
the plain score is the one under weights of 1. So intervals need no sorting anew, and
each resample gives exactly what scikit-learn gives with `sample_weight`.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

# Weights are held as [clips, resamples] blocks of at most this many numbers.
_BLOCK_NUMBERS = 8_000_000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its 95 % bootstrap interval.

    Attributes:
        value: On all clips.
        low: 2.5th percentile over resamples of the clips.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float


def counted_tags(labels: np.ndarray) -> np.ndarray:
    """Which tags have positives and negatives.

    Args:
        labels: [C, K] of 0 and 1.

    Returns:
        bool [K].
    """
    positives = (np.asarray(labels) > 0).sum(axis=0)
    return (positives > 0) & (positives < len(labels))


def _tag_scores(
    is_positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ROC-AUC and average precision of one tag under each column of weights.

    With clips sorted by falling score, let all(i) and pos(i) be the weight of all
    clips and of positives down to the end of i's group of equal scores. Then average
    precision is the weighted mean over positives of pos(i) / all(i), and ROC-AUC that
    of the weight of negatives below i's group plus half of those within it.

    Args:
        is_positive: bool [C].
        scores: float [C].
        weights: int32 [C, R].

    Returns:
        Two float64 [R]; NaN where the weights leave no positive or no negative.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores, sorted_positive = scores[order], is_positive[order]
    is_start = np.append(True, sorted_scores[1:] != sorted_scores[:-1])
    starts = np.flatnonzero(is_start)
    ends = np.append(starts[1:], len(order)) - 1
    rows = np.flatnonzero(sorted_positive)
    group = (np.cumsum(is_start) - 1)[rows]

    ordered = weights[order]
    num_resamples = weights.shape[1]
    nothing = np.zeros((1, num_resamples), np.int32)
    positive_weights = ordered[rows]
    positives_to = np.concatenate(
        [nothing, np.cumsum(positive_weights, axis=0, dtype=np.int32)]
    )
    cumulative = np.cumsum(ordered, axis=0, dtype=np.int32)
    all_to_end = cumulative[ends[group]]
    # Where a group starts, the weight above it is the cumulative one a row before.
    above = np.where(
        starts[group][:, np.newaxis] > 0, cumulative[starts[group] - 1], nothing
    )
    pos_to_end = positives_to[np.searchsorted(rows, ends[group], side="right")]
    pos_above = positives_to[np.searchsorted(rows, starts[group], side="left")]

    num_pos = positives_to[-1].astype(np.float64)
    num_neg = cumulative[-1] - num_pos
    neg_to_end = all_to_end - pos_to_end
    neg_above = above - pos_above
    wins = num_neg - 0.5 * (neg_to_end + neg_above)
    precision = pos_to_end / np.maximum(all_to_end, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        roc_auc = (positive_weights * wins).sum(axis=0) / (num_pos * num_neg)
        pr_auc = (positive_weights * precision).sum(axis=0) / num_pos
    is_defined = (num_pos > 0) & (num_neg > 0)
    return np.where(is_defined, roc_auc, np.nan), np.where(is_defined, pr_auc, np.nan)


def tag_scores(labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """ROC-AUC and PR-AUC (average precision) of each tag.

    Args:
        labels: [C, K] of 0 and 1.
        scores: float [C, K].

    Returns:
        `roc_auc` and `pr_auc`, float64 [K]; NaN for tags without positives or
        without negatives.
    """
    result = np.full((2, labels.shape[1]), np.nan)
    ones = np.ones((len(labels), 1), np.int32)
    for tag in np.flatnonzero(counted_tags(labels)):
        pair = _tag_scores(labels[:, tag] > 0, scores[:, tag], ones)
        result[:, tag] = pair[0][0], pair[1][0]
    return {"roc_auc": result[0], "pr_auc": result[1]}


def _weighted_scores(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """All scores of a task under each column of weights, float64 [R] a score."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if labels.ndim == 2:
            tags = np.flatnonzero(counted_tags(labels))
            if not len(tags):
                raise ValueError("no tag has positives and negatives among the clips")
            totals = np.zeros((2, weights.shape[1]))
            counts = np.zeros(weights.shape[1])
            for tag in tags:
                pair = np.stack(
                    _tag_scores(labels[:, tag] > 0, scores[:, tag], weights)
                )
                # A tag that a resample leaves without positives does not count in it.
                counts += ~np.isnan(pair[0])
                totals += np.nan_to_num(pair)
            roc_auc, pr_auc = totals / counts
            return {"roc_auc": roc_auc, "pr_auc": pr_auc}
        is_right = scores.argmax(axis=1) == labels
        right_weights = weights * is_right[:, np.newaxis]
        classes = np.unique(labels)
        membership = (labels == classes[:, np.newaxis]).astype(np.float32)
        totals = membership @ weights.astype(np.float32)
        recalls = membership @ right_weights.astype(np.float32) / totals
        return {
            "accuracy": right_weights.sum(axis=0) / weights.sum(axis=0),
            "balanced_accuracy": np.nanmean(recalls, axis=0, dtype=np.float64),
        }


def mean_scores(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """A task's scores for each way of weighting the clips, averaged over heads.

    Args:
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].
        scores: float [S, C, K], S heads over the same clips.
        weights: int32 [C, R], how often each of R resamples draws each clip.

    Returns:
        float64 [R] for each score, named as in `clip_scores`.
    """
    heads = [_weighted_scores(labels, head, weights) for head in scores]
    return {name: np.mean([head[name] for head in heads], axis=0) for name in heads[0]}


def clip_scores(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The scores of a task.

    Args:
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].
        scores: float [C, K].

    Returns:
        `roc_auc` and `pr_auc`, the means over tags that have positives and negatives;
        or `accuracy` (the paper's WA, over clips) and `balanced_accuracy`, the mean
        of the recalls of the classes that have clips.

    Raises:
        ValueError: If no tag has positives and negatives, or there are no clips.
    """
    if not len(labels):
        raise ValueError("no clips to score")
    ones = np.ones((len(labels), 1), np.int32)
    return {n: float(v[0]) for n, v in _weighted_scores(labels, scores, ones).items()}


def resample_blocks(
    num_clips: int, num_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yields int32 [C, block]: how often each resample draws each clip."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // num_clips)
    for first in range(0, num_resamples, block):
        size = min(block, num_resamples - first)
        weights = np.empty((size, num_clips), np.int32)
        for row in range(size):
            draws = rng.integers(0, num_clips, num_clips)
            weights[row] = np.bincount(draws, minlength=num_clips)
        yield np.ascontiguousarray(weights.T)


def resampled_scores(
    labels: np.ndarray, scores: np.ndarray, num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """A task's scores on all clips, and then on each resample, averaged over heads.

    Args:
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].
        scores: float [S, C, K], S heads over the same clips.
        num_resamples: Resamples R.
        seed: Of the resamples.

    Returns:
        float64 [1 + R] for each score, named as in `clip_scores`.
    """
    ones = np.ones((len(labels), 1), np.int32)
    blocks = [
        mean_scores(labels, scores, weights)
        for weights in (ones, *resample_blocks(len(labels), num_resamples, seed))
    ]
    return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}


def bootstrap(
    labels: np.ndarray, scores: np.ndarray, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Scores with 95 % percentile intervals over resamples of the clips.

    Args:
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].
        scores: float [C, K], or [S, C, K] for S heads over the same clips: the score
            is then the mean over heads, and a resample is the same for all.
        num_resamples: Resamples.
        seed: Of the resamples.

    Returns:
        An Estimate a score, as in `clip_scores`.

    Raises:
        ValueError: As in `clip_scores`.
    """
    scores = scores[np.newaxis] if scores.ndim == 2 else scores
    if not len(labels):
        raise ValueError("no clips to score")
    found = resampled_scores(labels, scores, num_resamples, seed)
    return {name: _estimate(float(row[0]), row[1:]) for name, row in found.items()}


def paired_bootstrap(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Difference first - second, with intervals over resamples of the same clips.

    Args:
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].
        first: Scores [C, K] or [S, C, K], clips in the labels' order.
        second: The same of the other; the number of heads may differ.
        num_resamples: Resamples.
        seed: Of the resamples.

    Returns:
        An Estimate of the difference a score. An interval above 0 says that `first`
        is better beyond the choice of clips.

    Raises:
        ValueError: If the shapes do not fit, or as in `clip_scores`.
    """
    first = first[np.newaxis] if first.ndim == 2 else first
    second = second[np.newaxis] if second.ndim == 2 else second
    if first.shape[1:] != second.shape[1:] or first.shape[1] != len(labels):
        raise ValueError(
            f"scores of {first.shape[1:]} and {second.shape[1:]} (clips, classes) are "
            f"not over the same {len(labels)} clips"
        )
    a, b = (
        resampled_scores(labels, scores, num_resamples, seed)
        for scores in (first, second)
    )
    return {
        name: _estimate(float(a[name][0] - b[name][0]), a[name][1:] - b[name][1:])
        for name in a
    }


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def confusion_matrix(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Counts of clips: int64 [K true classes, K predicted classes].

    Args:
        labels: Class numbers [C].
        scores: float [C, K].
    """
    num_classes = scores.shape[1]
    cells = np.asarray(labels, np.int64) * num_classes + scores.argmax(axis=1)
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def chance_scores(labels: np.ndarray) -> dict[str, float]:
    """What knows nothing but the test set's class shares gets.

    Args:
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].

    Returns:
        Tags: ROC-AUC 0.5, and PR-AUC the mean share of positives. Classes: the
        largest class's share, and 1 / (classes that have clips).
    """
    if labels.ndim == 2:
        share = labels[:, counted_tags(labels)].mean(axis=0)
        return {"roc_auc": 0.5, "pr_auc": float(share.mean())}
    counts = np.unique(labels, return_counts=True)[1]
    return {
        "accuracy": float(counts.max() / counts.sum()),
        "balanced_accuracy": 1.0 / len(counts),
    }
