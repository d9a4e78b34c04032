"""What is done to the network's activations before they leave as an embedding.

`raw` is the pooled output of the network's last layer, which the pretext task sees.
`levels` are statistics of three maps within the network: what sounds is told best by
its middle, whose features are still of sounds and places in the spectrum; its end has
turned to what tells songs apart. Of every channel at every place in frequency the mean
and the deviation over time are standardized by moments of training music, bounded, and
scaled to one length, so that clips can be compared by the cosine and no window
outweighs the others of its clip; a window far below the usual level, as of padding or
of a note's last breath, counts for less. The length is such that the values' root mean
square is 1: what learns from embeddings without standardizing them, with its usual
penalty, hardly sees values of 0.02, as earlier models have them, of length 1.

Source: several levels of a network as features, Lee and Nam 2017, "Multi-level and
multi-scale feature aggregation using pretrained convolutional neural networks for music
auto-tagging"; docs/measurements.md has what was compared.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Layers whose outputs are described, by backbone.
LEVELS = {
    "efficientnetb0": ("block2b_add", "block3b_add", "block4c_add"),
    "tiny": ("add",),
}
# Levels in decibels above which a window counts in full, and below which for least.
_FULL_DECIBELS, _LEAST_DECIBELS = -20.0, -60.0
_LEAST_WEIGHT = 0.1
_BOUND = 2.0  # deviations
_OUTLIER = 5.0  # deviations
_TINY = 1e-9
_DECIBELS = 20.0 / math.log(10.0)


def window_magnitudes(windows: tf.Tensor) -> tf.Tensor:
    """Mean mel magnitude of log-mel windows.

    Args:
        windows: float32 [batch, frames, num_mels, 1].

    Returns:
        float32 [batch].
    """
    return tf.reduce_mean(tf.exp(tf.cast(windows, tf.float32)), axis=[1, 2, 3])


def describe_maps(maps: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean and deviation over time of every channel at every place in frequency.

    Args:
        maps: float32 [batch, time, frequency, channels] each.

    Returns:
        float32 [batch, dim]: for each map its means, then its deviations.
    """
    parts = []
    for values in maps:
        values = tf.cast(values, tf.float32)
        mean = tf.reduce_mean(values, axis=1)
        variance = tf.reduce_mean(tf.square(values - mean[:, tf.newaxis]), axis=1)
        size = values.shape[2] * values.shape[3]
        for part in (mean, tf.sqrt(variance)):
            parts.append(tf.reshape(part, [-1, size]))
    return tf.concat(parts, axis=1)


def bound_features(features: tf.Tensor) -> tf.Tensor:
    """Standardized features without outliers, [batch, 1, 1, dim] -> [batch, dim]."""
    size = features.shape[3]
    return tf.clip_by_value(tf.reshape(features, [-1, size]), -_OUTLIER, _OUTLIER)


def level_embedding(
    windows: tf.Tensor,
    maps: Sequence[tf.Tensor],
    mean: tf.Tensor,
    deviation: tf.Tensor,
    magnitude: tf.Tensor,
    scale: str = "length",
) -> tf.Tensor:
    """Standardizes, bounds, scales to one length, and weighs by level.

    Args:
        windows: float32 [batch, frames, num_mels, 1].
        maps: As `describe_maps` takes them.
        mean: Of the training music, float32 [dim].
        deviation: Its deviation, float32 [dim].
        magnitude: Its mean mel magnitude, float32 [].
        scale: `length` for length 1, `rms` for a root mean square of 1.

    Returns:
        float32 [batch, dim].
    """
    values = (describe_maps(maps) - mean) / deviation
    values = tf.tanh(values / _BOUND)
    norm = tf.sqrt(tf.reduce_sum(tf.square(values), axis=-1, keepdims=True))
    ratio = window_magnitudes(windows) / magnitude
    decibels = tf.math.log(tf.maximum(ratio, _TINY)) * _DECIBELS
    span = _FULL_DECIBELS - _LEAST_DECIBELS
    weight = tf.clip_by_value((decibels - _LEAST_DECIBELS) / span, _LEAST_WEIGHT, 1)
    if scale == "rms":
        weight *= math.sqrt(values.shape[1])
    return values / tf.maximum(norm, _TINY) * weight[:, tf.newaxis]


class ClipPooling:
    """A clip's embedding of its windows', which may come a few at a time."""

    def __init__(self, kind: str):
        """Begins a clip.

        Args:
            kind: `mean`, or `moments` for the mean and the deviation behind it: how
                much a clip changes tells what its mean does not.
        """
        self._kind = kind
        self._count = 0
        self._sum: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Takes embeddings of windows, float [n, dim]."""
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0, dtype=np.float64)
        if self._kind == "moments":
            squares = np.square(rows, dtype=np.float64)
            self._squares = self._squares + squares.sum(axis=0)

    def result(self) -> np.ndarray:
        """float32 [clip_dim] of what was added."""
        mean = np.asarray(self._sum / self._count)
        if self._kind == "moments":
            variance = self._squares / self._count - np.square(mean)
            mean = np.concatenate([mean, np.sqrt(np.maximum(variance, 0.0))])
        return mean.astype(np.float32)


def clip_dim(kind: str, dim: int) -> int:
    """Values of a clip's embedding of windows' with `dim`."""
    return 2 * dim if kind == "moments" else dim


@keras.saving.register_keras_serializable(package="cola_msa")
class LevelEmbedding(keras.layers.Layer):
    """`level_embedding` with its moments as weights.

    They are estimated when an encoder is kept, see `statistics.BatchStatistics`, and
    never trained.
    """

    def __init__(self, scale: str = "length", **kwargs: Any):
        """Takes `level_embedding`'s scale, and Keras's own arguments."""
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self._scale = scale

    def build(self, input_shape: Any) -> None:
        """Makes `mean` and `deviation`, float32 [dim], and `magnitude`, float32 []."""
        size = (_size(input_shape[1:]),)
        for name, shape, start in (
            ("mean", size, "zeros"),
            ("deviation", size, "ones"),
            ("magnitude", (), "ones"),
        ):
            weight = self.add_weight(
                shape=shape, initializer=start, trainable=False, name=name
            )
            setattr(self, name, weight)
        self.built = True

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """[batch, frames, num_mels, 1] and maps -> [batch, dim]."""
        windows, *maps = inputs
        moments = (self.mean, self.deviation, self.magnitude)
        return level_embedding(windows, maps, *moments, self._scale)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """[batch, dim]."""
        return (input_shape[0][0], _size(input_shape[1:]))

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the layer."""
        base = super().get_config()
        base.pop("trainable", None)
        base.pop("dtype", None)
        if self._scale != "length":  # of which earlier versions know nothing
            base["scale"] = self._scale
        return base


@keras.saving.register_keras_serializable(package="cola_msa")
class LevelStatistics(keras.layers.Layer):
    """`describe_maps` as a layer: maps -> [batch, 1, 1, dim], for a batch norm."""

    def __init__(self, **kwargs: Any):
        """Takes Keras's own arguments."""
        super().__init__(dtype="float32", **kwargs)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Describes maps [batch, time, frequency, channels]."""
        return describe_maps(inputs)[:, tf.newaxis, tf.newaxis]

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """[batch, 1, 1, dim]."""
        return (input_shape[0][0], 1, 1, _size(input_shape))

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the layer."""
        base = super().get_config()
        base.pop("dtype", None)
        return base


@keras.saving.register_keras_serializable(package="cola_msa")
class BoundedFeatures(keras.layers.Layer):
    """`bound_features` as a layer."""

    def __init__(self, **kwargs: Any):
        """Takes Keras's own arguments."""
        super().__init__(dtype="float32", **kwargs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[batch, 1, 1, dim] -> [batch, dim]."""
        return bound_features(inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """[batch, dim]."""
        return (input_shape[0], input_shape[3])

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the layer."""
        base = super().get_config()
        base.pop("dtype", None)
        return base


def _size(map_shapes: Sequence[Sequence[int | None]]) -> int:
    return sum(2 * (shape[2] or 0) * (shape[3] or 0) for shape in map_shapes)
