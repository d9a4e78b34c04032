"""Batch-norm statistics: exact averages over batches, apart from the moving ones."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.encoder import (
    FusedBatchNormalization,
    SynchronizedBatchNormalization,
    collect_batch_statistics,
)


@dataclasses.dataclass(frozen=True)
class BatchStatistics:
    """Means and variances for every batch normalization layer, in order."""

    means: tuple[np.ndarray, ...]
    variances: tuple[np.ndarray, ...]

    def assign_to(self, model: ContrastiveModel) -> None:
        """Makes the model's inference mode use these statistics."""
        layers = model.batch_norm_layers()
        for layer, mean, variance in zip(
            layers, self.means, self.variances, strict=True
        ):
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)

    def fits(self, model: ContrastiveModel) -> bool:
        """Whether a model has as many layers, with as many channels each."""
        shapes = [tuple(layer.moving_mean.shape) for layer in model.batch_norm_layers()]
        return all(
            [value.shape for value in values] == shapes
            and all(value.dtype == np.float32 for value in values)
            for values in (self.means, self.variances)
        )

    @classmethod
    def of(cls, model: ContrastiveModel) -> "BatchStatistics":
        """The model's moving statistics as they are."""
        layers = model.batch_norm_layers()
        return cls(
            tuple(np.array(layer.moving_mean) for layer in layers),
            tuple(np.array(layer.moving_variance) for layer in layers),
        )


class StatisticsEstimator:
    """Re-estimates batch-norm statistics as exact averages over batches.

    Moving statistics with a momentum of 0.99 lag behind the weights for hundreds of
    updates, so that inference mode computes another function than training did.
    """

    def __init__(self, model: ContrastiveModel):
        """Traces nothing yet; the first `estimate` does.

        Raises:
            ValueError: If the model was built without fused batch normalization.
        """
        layers = model.batch_norm_layers()
        kinds = (FusedBatchNormalization, SynchronizedBatchNormalization)
        if not all(isinstance(layer, kinds) for layer in layers):
            raise ValueError("re-estimation needs fused_batch_norm=True")
        self._model = model
        frontend = model.frontend
        self._function = tf.function(
            self._collect,
            input_signature=[
                tf.TensorSpec([None, None, frontend.num_mels, 1], tf.float32)
            ],
        )

    def _collect(self, windows: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        with collect_batch_statistics() as found:
            self._model.encoder(windows, training=False)
        return list(found)

    def estimate(self, batches: Any) -> BatchStatistics:
        """Averages over batches of windows.

        Args:
            batches: Iterable of float32 [batch, frames, num_mels, 1], equal in size.

        Returns:
            BatchStatistics: mean of means, and the variance about it.

        Raises:
            ValueError: If there is no batch.
        """
        found = [
            [(mean.numpy(), variance.numpy()) for mean, variance in self._function(b)]
            for b in batches
        ]
        if not found:
            raise ValueError("no batch to estimate batch-norm statistics from")
        means, variances = [], []
        for layer in zip(*found, strict=True):
            batch_means = np.stack([mean for mean, _ in layer]).astype(np.float64)
            batch_variances = np.stack([v for _, v in layer]).astype(np.float64)
            means.append(batch_means.mean(0).astype(np.float32))
            # Law of total variance: within batches plus between their means.
            total = batch_variances.mean(0) + batch_means.var(0)
            variances.append(total.astype(np.float32))
        return BatchStatistics(tuple(means), tuple(variances))
