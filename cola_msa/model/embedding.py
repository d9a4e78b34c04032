"""What is done to the network's output before it leaves as an embedding.

`raw` is the pooled output itself. `unit` standardizes each of its values by moments of
training music and scales a window to length 1, so that clips can be compared by the
cosine and no window outweighs the others of its clip; a window far below the usual
level, as of padding or of a note's last breath, counts for less.
"""

import math
from typing import Any

import keras
import tensorflow as tf

# Levels in decibels above which a window counts in full, and below which for least.
_FULL_DECIBELS, _LEAST_DECIBELS = -10.0, -40.0
_LEAST_WEIGHT = 0.1
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


def unit_embedding(
    windows: tf.Tensor,
    pooled: tf.Tensor,
    mean: tf.Tensor,
    deviation: tf.Tensor,
    magnitude: tf.Tensor,
) -> tf.Tensor:
    """Standardizes, scales to length 1, and weighs by level.

    Args:
        windows: float32 [batch, frames, num_mels, 1].
        pooled: float32 [batch, dim].
        mean: Of the training music, float32 [dim].
        deviation: Its deviation, float32 [dim].
        magnitude: Its mean mel magnitude, float32 [].

    Returns:
        float32 [batch, dim].
    """
    values = (tf.cast(pooled, tf.float32) - mean) / deviation
    norm = tf.sqrt(tf.reduce_sum(tf.square(values), axis=-1, keepdims=True))
    ratio = window_magnitudes(windows) / magnitude
    decibels = tf.math.log(tf.maximum(ratio, _TINY)) * _DECIBELS
    span = _FULL_DECIBELS - _LEAST_DECIBELS
    weight = tf.clip_by_value((decibels - _LEAST_DECIBELS) / span, _LEAST_WEIGHT, 1)
    return values / tf.maximum(norm, _TINY) * weight[:, tf.newaxis]


@keras.saving.register_keras_serializable(package="cola_msa")
class UnitEmbedding(keras.layers.Layer):
    """Standardized, of length 1 or, where a window is soft, of less.

    What it standardizes by are weights; they are estimated when an encoder is kept, see
    `statistics.BatchStatistics`, and never trained.
    """

    def __init__(self, **kwargs: Any):
        """Takes Keras's own arguments."""
        super().__init__(trainable=False, dtype="float32", **kwargs)

    def build(self, input_shape: Any) -> None:
        """Makes `mean` and `deviation`, float32 [dim], and `magnitude`, float32 []."""
        size = (input_shape[1][-1],)
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
        """[batch, frames, num_mels, 1] and [batch, dim] -> [batch, dim]."""
        windows, pooled = inputs
        return unit_embedding(
            windows, pooled, self.mean, self.deviation, self.magnitude
        )

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """That of the pooled output."""
        return tuple(input_shape[1])

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the layer."""
        base = super().get_config()
        base.pop("trainable", None)
        base.pop("dtype", None)
        return base
