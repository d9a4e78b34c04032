"""Logistic regression of standardised features, and scores of clips it never saw."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax

from cola_msa.tagging.folds import Folds

# Of C, times the number of features: what weights may weigh in all.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
DEFAULT_STRENGTH = 10.0  # where too few clips are there to choose
MOST_FOR_CHOICE = 1500  # clips that the strength is chosen on
_LEAST_OF_CLASS = 20  # clips of a class that are among them
_ITERATIONS = 200
_TINY = 1e-6
_SMALL = 1 << 23  # numbers, of which one processor is quicker than several


class Linear(NamedTuple):
    """Logits are features @ kernel + bias.

    Attributes:
        kernel: float32 [D, K].
        bias: float32 [K]; -inf for a class that was not there to learn.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def probabilities(self, features: np.ndarray, is_tags: bool) -> np.ndarray:
        """Float32 [n, D] -> [n, K]."""
        logits = features @ self.kernel + self.bias
        return expit(logits) if is_tags else softmax(logits, axis=1)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What standardises features.

    Attributes:
        mean: float32 [D].
        deviation: float32 [D]; 1 for a feature that does not change.
    """

    mean: np.ndarray
    deviation: np.ndarray

    def apply(self, features: np.ndarray) -> None:
        """Standardises float32 [n, D] in place."""
        features -= self.mean
        features /= self.deviation


@dataclasses.dataclass(frozen=True)
class Validated:
    """What cross-validation found.

    Attributes:
        probabilities: float32 [n, K] of each clip by a regression that saw no clip of
            its group, with a strength that was chosen without them, too.
        fold_strengths: The strength that each fold got.
        strength: The one for all clips.
        num_chosen_on: Clips that strengths were chosen on; 0 where none was.
    """

    probabilities: np.ndarray
    fold_strengths: tuple[float, ...]
    strength: float
    num_chosen_on: int


@contextlib.contextmanager
def suited_threads(size: int) -> Iterator[None]:
    """Inside, small regressions take one processor.

    On a busy machine, threads that wait for each other make a quarter of a minute of
    one second.

    Args:
        size: Numbers that are computed with.
    """
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    with threadpool_limits(1 if size < _SMALL else None):
        yield


def find_scaling(features: np.ndarray) -> Scaling:
    """Mean and deviation of each feature, float32 [n, D]; in bounded memory."""
    mean = features.mean(axis=0, dtype=np.float64)
    squares = np.zeros(features.shape[1])
    for first in range(0, len(features), 4096):
        squares += ((features[first : first + 4096] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / len(features))
    # Heads divide by no less than 1e-7.
    is_constant = deviation <= np.maximum(_TINY * np.abs(mean), 1e-7)
    deviation[is_constant] = 1.0
    return Scaling(mean.astype(np.float32), deviation.astype(np.float32))


def turn(features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Turns few rows into the directions that they span.

    A regression on them is the same function: weights beyond these directions only
    cost. So it is as quick as there are few clips.

    Args:
        features: float32 [n, D].

    Returns:
        float32 [n, m], and basis float32 [D, m]: features are `turned @ basis.T`, and
        a kernel of theirs is `basis @ kernel`; or the features and None where they
        are not many more than the rows.
    """
    if 2 * len(features) > features.shape[1]:
        return features, None
    basis, coordinates = np.linalg.qr(features.T)
    return np.ascontiguousarray(coordinates.T), basis


def fit_path(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    strengths: Iterable[float],
) -> Iterator[Linear]:
    """Fits a regression for each strength, each from the one before.

    Args:
        features: float32 [n, D], standardised.
        labels: Class numbers [n], or tags float [n, K] of 0, 1 and NaN.
        num_classes: K.
        strengths: C of each, rising.

    Yields:
        A Linear a strength.
    """
    if labels.ndim == 2:
        parts = []
        for column in labels.T:
            rows = ~np.isnan(column)
            # Most tags are known of all clips: no copy then.
            known = features if rows.all() else features[rows]
            parts.append([*_fit_classes(known, column[rows].astype(int), strengths)])
        for fitted in zip(*parts, strict=True):
            columns = [_tag_column(*part) for part in fitted]
            kernels, biases = zip(*columns, strict=True)
            yield Linear(np.stack(kernels, axis=1), np.array(biases, np.float32))
        return
    for classes, kernel, bias, _ in _fit_classes(features, labels, strengths):
        whole = np.zeros((features.shape[1], num_classes), np.float32)
        biases = np.full(num_classes, -np.inf, np.float32)
        if len(classes) == 2:  # one column, which says the second class
            kernel = np.concatenate([-kernel / 2, kernel / 2], axis=1)
            bias = np.concatenate([-bias / 2, bias / 2])
        whole[:, classes], biases[classes] = kernel, bias
        yield Linear(whole, biases)


def _fit_classes(
    features: np.ndarray, labels: np.ndarray, strengths: Iterable[float]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Yields (classes, kernel [D, m], bias [m], clips) a strength; m = 1 for two."""
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) < 2:
        for _ in strengths:
            kernel = np.zeros((features.shape[1], len(classes)), np.float32)
            yield classes, kernel, np.zeros(len(classes), np.float32), len(labels)
        return
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    for strength in strengths:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            # Of steps that single precision ends early, and of many classes for few
            # clips: the scores tell what it is worth.
            warnings.simplefilter("ignore")
            model.fit(features, labels)
        kernel = model.coef_.T.astype(np.float32)
        yield classes, kernel, model.intercept_.astype(np.float32), len(labels)


def _tag_column(
    classes: np.ndarray, kernel: np.ndarray, bias: np.ndarray, num_clips: int
) -> tuple[np.ndarray, float]:
    """Kernel [D] and bias of a tag; of one that never changes its smoothed share."""
    if len(classes) == 2:
        return kernel[:, 0], float(bias[0])
    odds = np.log(2 * num_clips + 1)
    bias_of = {(): 0.0, (0,): -odds, (1,): odds}
    return np.zeros(len(kernel), np.float32), bias_of[tuple(classes.tolist())]


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    dim: int,
    folds: Folds,
    seed: int = 0,
) -> Validated:
    """Scores each clip by a regression that knows nothing of its group.

    Nested: the strength for a fold is chosen by the log loss on the other folds, each
    of which is held out in turn together with it. So a regression without folds i
    and j serves twice, and all of them choose the strength for all clips. Classes count
    as frequent as they are among all clips.

    Args:
        features: float32 [n, D], standardised.
        labels: Class numbers [n], or tags float [n, K] of 0, 1 and NaN.
        num_classes: K.
        dim: How many features there were before `turn`; strengths are by it.
        folds: At least two.
        seed: Of the clips that strengths are chosen on, where there are many.

    Returns:
        Validated.
    """
    strengths = np.array(STRENGTHS) / dim
    default = DEFAULT_STRENGTH / dim
    chosen, strength, num_chosen_on = [default] * folds.count, default, 0
    if folds.count > 2:
        rows = _rows_for_choice(labels, num_classes, seed)
        part = features[rows]
        with suited_threads(part.size):
            losses = _losses(
                part, labels[rows], num_classes, folds.of[rows], folds, strengths
            )
        num_chosen_on = len(rows)
        chosen = [float(strengths[k]) for k in losses.sum(axis=2).argmin(axis=0)]
        strength = float(strengths[losses.sum(axis=(1, 2)).argmin()])
    probabilities = np.zeros((len(features), num_classes), np.float32)
    for fold, chosen_strength in enumerate(chosen):
        is_held = folds.of == fold
        rows = ~is_held
        with suited_threads(features.size):
            (fitted,) = fit_path(
                features[rows], labels[rows], num_classes, [chosen_strength]
            )
        fitted = _with_shares(fitted, labels[rows], labels)
        probabilities[is_held] = fitted.probabilities(
            features[is_held], labels.ndim == 2
        )
    return Validated(probabilities, tuple(chosen), strength, num_chosen_on)


def _with_shares(fitted: Linear, learnt: np.ndarray, labels: np.ndarray) -> Linear:
    """Answers as if classes were as frequent among `learnt` as among all `labels`.

    What is often in a fold is seldom without it: else answers that know nothing but
    how frequent classes are would be wrong more often than chance.
    """

    def log_odds(known: np.ndarray) -> np.ndarray:
        if labels.ndim == 2:
            has, has_not = (known == 1).sum(axis=0), (known == 0).sum(axis=0)
            return np.log(np.maximum(has, 0.5) / np.maximum(has_not, 0.5))
        counts = np.bincount(known, minlength=len(fitted.bias))
        return np.log(np.maximum(counts, 0.5) / len(known))

    shift = (log_odds(labels) - log_odds(learnt)).astype(np.float32)
    return Linear(fitted.kernel, fitted.bias + shift)


def _rows_for_choice(labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """At most MOST_FOR_CHOICE clips or so; a class's first 20 are among them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    if len(order) <= MOST_FOR_CHOICE:
        return np.arange(len(order))
    is_first = np.zeros(len(order), bool)
    for number in range(num_classes):
        column = labels[order]
        has = column[:, number] == 1 if labels.ndim == 2 else column == number
        is_first[np.flatnonzero(has)[:_LEAST_OF_CLASS]] = True
    order = order[np.argsort(~is_first, kind="stable")]
    return np.sort(order[: max(MOST_FOR_CHOICE, int(is_first.sum()))])


def _losses(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    of: np.ndarray,
    folds: Folds,
    strengths: np.ndarray,
) -> np.ndarray:
    """Log losses, float64 [S, i, j], of fold j's clips without i and j."""
    features, _ = turn(features)
    losses = np.zeros((len(strengths), folds.count, folds.count))
    for i in range(folds.count):
        for j in range(i):
            rows = (of != i) & (of != j)
            if not rows.any():
                continue
            path = fit_path(features[rows], labels[rows], num_classes, strengths)
            for number, fitted in enumerate(path):
                for away, asked in ((i, j), (j, i)):
                    is_asked = of == asked
                    answers = fitted.probabilities(features[is_asked], labels.ndim == 2)
                    losses[number, away, asked] = _log_loss(
                        labels[is_asked], answers, labels[rows]
                    )
    return losses


def _log_loss(
    labels: np.ndarray, probabilities: np.ndarray, learnt: np.ndarray
) -> float:
    """Sum over what is known and could be learnt."""
    if labels.ndim == 2:
        is_known = ~np.isnan(labels)
        right = np.where(labels == 1, probabilities, 1 - probabilities)[is_known]
    else:
        is_known = np.isin(labels, learnt)
        right = probabilities[np.arange(len(labels)), labels][is_known]
    return float(-np.log(np.maximum(right, _TINY)).sum())
