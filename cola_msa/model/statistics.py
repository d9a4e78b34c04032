"""Statistics of batches: exact averages, apart from training's moving ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.model.contrastive import PairModel
from cola_msa.model.embedding import describe_maps, window_magnitudes
from cola_msa.model.encoder import (
    FusedBatchNormalization,
    SynchronizedBatchNormalization,
    collect_batch_statistics,
)

_LEAST_DEVIATION, _LARGE = 1e-6, 1e30


@dataclasses.dataclass(frozen=True)
class BatchStatistics:
    """Means and variances for every batch normalization layer, in order.

    Attributes:
        means: float32 [channels] for each layer.
        variances: The same.
        embedding: What `LevelEmbedding` standardizes by, its weights by name; empty for
            a model whose embeddings are raw.
    """

    means: tuple[np.ndarray, ...]
    variances: tuple[np.ndarray, ...]
    embedding: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def assign_to(self, model: PairModel) -> None:
        """Makes the model's inference mode use these statistics."""
        for name, value in self.embedding.items():
            getattr(model.level_embedding, name).assign(value)
        layers = model.batch_norm_layers()
        for layer, mean, variance in zip(
            layers, self.means, self.variances, strict=True
        ):
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)

    def fits(self, model: PairModel) -> bool:
        """Whether a model has as many layers, with as many channels each."""
        shapes = [tuple(layer.moving_mean.shape) for layer in model.batch_norm_layers()]
        wanted = [(shapes, self.means), (shapes, self.variances)]
        if self.embedding or model.level_embedding is not None:
            weights = embedding_shapes(model)
            if self.embedding.keys() != weights.keys():
                return False
            wanted.append((list(weights.values()), tuple(self.embedding.values())))
        return all(
            [value.shape for value in values] == shapes
            and all(value.dtype == np.float32 for value in values)
            for shapes, values in wanted
        )

    @classmethod
    def of(cls, model: PairModel) -> "BatchStatistics":
        """The model's moving statistics as they are."""
        layers = model.batch_norm_layers()
        return cls(
            tuple(np.array(layer.moving_mean) for layer in layers),
            tuple(np.array(layer.moving_variance) for layer in layers),
            {
                name: np.array(getattr(model.level_embedding, name))
                for name in embedding_shapes(model)
            },
        )


def embedding_shapes(model: PairModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `BatchStatistics.embedding`; none where it is raw."""
    if model.level_embedding is None:
        return {}
    weights = model.level_embedding.weights
    return {weight.name: tuple(weight.shape) for weight in weights}


class StatisticsEstimator:
    """Re-estimates batch-norm statistics as exact averages over batches.

    Moving statistics with a momentum of 0.99 lag behind the weights for hundreds of
    updates, so that inference mode computes another function than training did.
    """

    def __init__(self, model: PairModel):
        """Traces nothing yet; the first `estimate` does.

        Raises:
            ValueError: If the model was built without fused batch normalization.
        """
        layers = model.batch_norm_layers()
        kinds = (FusedBatchNormalization, SynchronizedBatchNormalization)
        if not all(isinstance(layer, kinds) for layer in layers):
            raise ValueError("re-estimation needs fused_batch_norm=True")
        self._model = model
        windows = [tf.TensorSpec([None, None, model.frontend.num_mels, 1], tf.float32)]
        self._function = tf.function(self._collect, input_signature=windows)
        self._maps = None if model.level_embedding is None else model.level_maps()
        self._moments = tf.function(self._measure, input_signature=windows)

    def _collect(self, windows: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        with collect_batch_statistics() as found:
            self._model.encoder(windows, training=False)
        return list(found)

    def _measure(self, windows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        assert self._maps is not None
        maps = self._maps(windows, training=False)
        values = describe_maps(maps if isinstance(maps, list) else [maps])
        mean, variance = tf.nn.moments(values, [0])
        return mean, variance, tf.reduce_mean(window_magnitudes(windows))

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
        moments = [_pool_moments(layer) for layer in zip(*found, strict=True)]
        return BatchStatistics(
            tuple(mean for mean, _ in moments), tuple(var for _, var in moments)
        )

    def embedding_moments(self, batches: Any) -> dict[str, np.ndarray]:
        """What `LevelEmbedding` standardizes by, of the model in inference mode.

        Args:
            batches: As `estimate`'s.

        Returns:
            `BatchStatistics.embedding`.
        """
        found = [[value.numpy() for value in self._moments(b)] for b in batches]
        mean, variance = _pool_moments([(mean, var) for mean, var, _ in found])
        deviation = np.sqrt(variance.astype(np.float64))
        # A value that never changes says nothing: it becomes 0, not noise.
        deviation = np.where(deviation > _LEAST_DEVIATION, deviation, _LARGE)
        magnitude = np.mean([float(value) for _, _, value in found])
        return {
            "mean": mean,
            "deviation": deviation.astype(np.float32),
            "magnitude": np.array(magnitude, np.float32),
        }


def _pool_moments(
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over batches of equal size, from each batch's own."""
    means = np.stack([mean for mean, _ in batches]).astype(np.float64)
    variances = np.stack([variance for _, variance in batches]).astype(np.float64)
    # Law of total variance: within batches plus between their means.
    total = variances.mean(0) + means.var(0)
    return means.mean(0).astype(np.float32), total.astype(np.float32)
