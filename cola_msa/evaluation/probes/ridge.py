"""Ridge regression on embeddings: the probe in closed form.

Targets are the labels themselves, 0 and 1 (a class as one column of each), features
are standardised over the training windows, and the intercept is not penalised. The
normal equations are accumulated chunk by chunk, so that the windows need never lie in
memory together; one eigendecomposition then serves every strength.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from absl import logging

from cola_msa.config.schema import MULTILABEL
from cola_msa.evaluation.probes.features import EmbeddedSplit
from cola_msa.evaluation.probes.heads import LOSS, ProbeError
from cola_msa.evaluation.probes.kept_heads import Member
from cola_msa.evaluation.probes.linear import CachedWindows, TrainingWindows
from cola_msa.records.schema import DataError
from cola_msa.system.console import progress_bar

# Penalties as multiples of the number of windows: what scikit-learn calls alpha is
# strength x windows.
STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-6, 3.5, 0.5))
_MIN_VARIANCE = 1e-10


@dataclasses.dataclass(frozen=True)
class RidgeConfig:
    """How a ridge is fitted.

    Attributes:
        task_type: `multilabel` or `multiclass`.
        monitor: By what the strength is chosen over the validation windows:
            `validation loss` (mean squared error) or `validation accuracy` (tags: a
            decision at 0.5). Of equals the strongest penalty is taken.
        strengths: What is tried, rising.
        standardize: Always; the penalty means the same for every feature.
    """

    task_type: str
    monitor: str = LOSS
    strengths: tuple[float, ...] = STRENGTHS
    standardize: bool = True


@dataclasses.dataclass(frozen=True)
class RidgeHead:
    """A fitted ridge: scores are windows @ kernel + bias.

    Attributes:
        kernel: float64 [D, K], for features as they are.
        bias: float64 [K].
        strength: The chosen one.
        validation_loss: Mean squared error over validation windows and classes, a
            strength.
        validation_accuracy: The same of the accuracy.
        config: How it was fitted.
        num_windows: Training windows.
        seconds: Wall-clock time.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    validation_loss: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    config: RidgeConfig
    num_windows: int
    seconds: float

    def scorer(self) -> Callable[[np.ndarray], np.ndarray]:
        """Windows float16 [N, D] -> the regression's outputs, float64 [N, K]."""
        return lambda windows: windows.astype(np.float64) @ self.kernel + self.bias

    def member(self) -> Member:
        """Its weights, to be kept."""
        return Member(((self.kernel, self.bias),))

    def row(self) -> dict[str, Any]:
        """What results.json says of it; a closed form has no epochs."""
        chosen = self.config.strengths.index(self.strength)
        return {
            "epochs": None,
            "best_epoch": None,
            "strength": self.strength,
            "validation_loss": self.validation_loss[chosen],
            "validation_accuracy": self.validation_accuracy[chosen],
            "train_windows": self.num_windows,
            "seconds": round(self.seconds, 2),
        }


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Sums over windows, centred: D features, K targets.

    Attributes:
        count: Windows.
        mean: Of the features, [D].
        target_mean: [K].
        gram: Sum of products of centred features, [D, D].
        cross: Sum of products of centred features and targets, [D, K].
    """

    count: int
    mean: np.ndarray
    target_mean: np.ndarray
    gram: np.ndarray
    cross: np.ndarray


def _accumulate(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> _Moments:
    """One pass over windows and labels, in float64.

    Sums are taken about the first chunk's mean and moved to the true one at the end:
    about 0 they would lose digits where a feature's mean is large.
    """
    shift: np.ndarray | None = None
    for windows, labels in batches:
        part, targets = windows.astype(np.float64), labels.astype(np.float64)
        if not np.isfinite(part).all():
            raise ProbeError("the training embeddings are not finite")
        if shift is None:
            shift = part.mean(axis=0)
            total, targets_total = np.zeros(len(shift)), np.zeros(targets.shape[1])
            gram = np.zeros((len(shift), len(shift)))
            cross = np.zeros((len(shift), targets.shape[1]))
            count = 0
        part -= shift
        total += part.sum(axis=0)
        targets_total += targets.sum(axis=0)
        gram += part.T @ part
        cross += part.T @ targets
        count += len(part)
    if shift is None:
        raise DataError("the training split holds no clips")
    gram -= np.outer(total, total) / count
    cross -= np.outer(total, targets_total) / count
    return _Moments(count, shift + total / count, targets_total / count, gram, cross)


def _solve(
    moments: _Moments, strengths: Iterable[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Kernels [S, D, K] and biases [S, K] for features as they are."""
    variance = np.diag(moments.gram) / moments.count
    # A feature that never changes tells nothing: it becomes 0.
    scale = np.where(variance > _MIN_VARIANCE, np.sqrt(np.maximum(variance, 0)), np.inf)
    gram = moments.gram / scale / scale[:, np.newaxis] / moments.count
    cross = moments.cross / scale[:, np.newaxis] / moments.count
    eigenvalues, vectors = np.linalg.eigh(gram)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    rotated = vectors.T @ cross
    kernels = np.stack(
        [
            vectors @ (rotated / (eigenvalues + strength)[:, np.newaxis])
            for strength in strengths
        ]
    )
    kernels /= scale[:, np.newaxis]
    return kernels, moments.target_mean - moments.mean @ kernels


def _validate(
    kernels: np.ndarray, biases: np.ndarray, split: EmbeddedSplit, task_type: str
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared errors and accuracies over windows, float64 [S] each."""
    errors, right = np.zeros(len(kernels)), np.zeros(len(kernels))
    for windows, labels in CachedWindows(split).once(seed=0):
        part = windows.astype(np.float64)
        for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            outputs = part @ kernel + bias
            errors[number] += np.square(outputs - labels).mean(axis=1).sum()
            if task_type == MULTILABEL:
                is_right = (outputs > 0.5) == (labels > 0.5)
                right[number] += is_right.mean(axis=1).sum()
            else:
                right[number] += (outputs.argmax(1) == labels.argmax(1)).sum()
    return errors / split.num_windows, right / split.num_windows


def fit_ridge(
    train: TrainingWindows,
    validation: EmbeddedSplit,
    config: RidgeConfig,
    seed: int = 0,
    *,
    title: str = "fit ridge",
    show_progress: bool = True,
) -> RidgeHead:
    """Fits a ridge for every strength and takes the one that validates best.

    Args:
        train: Training windows; of sampled ones, those of epoch 0.
        validation: All windows of the validation clips.
        config: RidgeConfig.
        seed: Of sampled windows; cached ones do not depend on it.
        title: Of the progress bar.
        show_progress: Whether to show a progress bar.

    Raises:
        DataError: If a split is empty.
        ProbeError: If the embeddings are not finite.
    """
    if not validation.num_windows:
        raise DataError("the validation split holds no clips")
    begin = time.monotonic()
    with progress_bar(train.num_windows, title, " windows", show_progress) as bar:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for windows, labels in train.once(seed):
                yield windows, labels
                bar.update(len(windows))

        moments = _accumulate(counted())
    kernels, biases = _solve(moments, config.strengths)
    losses, accuracies = _validate(kernels, biases, validation, config.task_type)
    quality = -losses if config.monitor == LOSS else accuracies
    # Strengths rise: the last of equals is the strongest.
    chosen = len(quality) - 1 - int(np.argmax(quality[::-1]))
    if chosen in (0, len(quality) - 1):
        logging.warning(
            "ridge: the best strength, %g, is the first or last one tried",
            config.strengths[chosen],
        )
    return RidgeHead(
        kernel=kernels[chosen],
        bias=biases[chosen],
        strength=config.strengths[chosen],
        validation_loss=tuple(losses.tolist()),
        validation_accuracy=tuple(accuracies.tolist()),
        config=config,
        num_windows=moments.count,
        seconds=time.monotonic() - begin,
    )
