"""Similarities and the silent-centroid softmax loss.

Source: Garoufis, Zlatintsi and Maragos, "Multi-source contrastive learning from
musical audio" (SMC 2023), section 3.3; the bilinear similarity is COLA's.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Finite, so that a masked column has probability 0 and a gradient of 0, never NaN.
_MASKED = -1e9

Similarity = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable(package="cola_msa")
class BilinearSimilarity(keras.layers.Layer):
    """s(a, b) = a^T (kernel b), with one weight `kernel` [dim, dim]."""

    def __init__(
        self,
        dim: int,
        kernel_init: str = "identity",
        kernel_scale: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ):
        """Creates the kernel.

        Args:
            dim: Width of the projections.
            kernel_init: `identity` or `normal`.
            kernel_scale: Factor of the identity, or the normal's deviation.
            seed: Seed of the normal.
            **kwargs: Keras's own.

        Raises:
            ValueError: If `kernel_init` is neither `identity` nor `normal`.
        """
        super().__init__(**kwargs)
        if kernel_init == "identity":
            initializer = keras.initializers.Identity(gain=kernel_scale)
        elif kernel_init == "normal":
            initializer = keras.initializers.RandomNormal(0.0, kernel_scale, seed=seed)
        else:
            raise ValueError(
                f"kernel_init must be 'identity' or 'normal', not {kernel_init!r}"
            )
        self._arguments = {
            "dim": dim,
            "kernel_init": kernel_init,
            "kernel_scale": kernel_scale,
            "seed": seed,
        }
        self.kernel = self.add_weight(
            name="kernel", shape=(dim, dim), initializer=initializer
        )
        self.built = True

    def call(self, anchors: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """Compares every anchor with every candidate.

        Args:
            anchors: float32 [B, dim].
            candidates: float32 [C, dim].

        Returns:
            float32 [B, C].
        """
        transformed = tf.matmul(candidates, self.kernel, transpose_b=True)
        return tf.matmul(anchors, transformed, transpose_b=True)

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the layer."""
        return {**super().get_config(), **self._arguments}


@keras.saving.register_keras_serializable(package="cola_msa")
class CosineSimilarity(keras.layers.Layer):
    """s(a, b) = cosine of the angle between a and b; no weight."""

    def __init__(self, **kwargs: Any):
        """Takes Keras's own arguments alone."""
        super().__init__(**kwargs)
        self.built = True

    def call(self, anchors: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """Compares [B, D] with [C, D] -> [B, C]."""
        return tf.matmul(
            tf.math.l2_normalize(anchors, axis=-1),
            tf.math.l2_normalize(candidates, axis=-1),
            transpose_b=True,
        )


def silent_centroid_logits(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    is_active: tf.Tensor,
    similarity: Similarity,
    temperature: float,
    first_row: int | tf.Tensor = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Compares anchors with active positives and with the silent positives' centroid.

    Anchors may be a part of the rows: those of one replica, against all replicas'
    positives (`gather_candidates`).

    Args:
        anchor: float32 [B, D], projections of the mixtures' windows.
        positive: float32 [C, D], projections of the sources' windows, C >= B.
        is_active: bool [C]; False where the positive is silent.
        similarity: (anchors [B, D], candidates [C, D]) -> [B, C].
        temperature: Divides the similarities.
        first_row: Anchor i belongs to positive first_row + i.

    Returns:
        logits: float32 [B, C + 1]; column C is the centroid's. Columns of silent
            positives, and the centroid's where none is silent, hold -1e9.
        labels: int32 [B]; an active row's own column, a silent row's C.

    Source: section 3.3; differs: static shapes with masked columns instead of the
        authors' ragged selection (equal numbers).
    """
    is_active = tf.cast(is_active, tf.bool)
    is_silent = tf.cast(tf.logical_not(is_active), positive.dtype)
    num_silent = tf.reduce_sum(is_silent)
    centroid = tf.linalg.matvec(positive, is_silent, transpose_a=True)
    centroid = centroid / tf.maximum(num_silent, 1.0)
    candidates = tf.concat([positive, centroid[tf.newaxis]], axis=0)
    logits = tf.cast(similarity(anchor, candidates), tf.float32) / temperature
    is_column = tf.concat([is_active, [num_silent > 0]], axis=0)
    logits = tf.where(is_column[tf.newaxis], logits, _MASKED)
    own_column = first_row + tf.range(tf.shape(anchor)[0])
    is_active_row = tf.gather(is_active, own_column)
    labels = tf.where(is_active_row, own_column, tf.shape(positive)[0])
    return logits, labels


def gather_candidates(
    positive: tf.Tensor, is_active: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gathers positives and their activity over all replicas, in a replica context.

    Gradients flow back: what every replica's loss says of a positive is summed where
    the positive was made. With each replica's loss the mean over its own rows, divided
    by the number of replicas, the gradients' sum over replicas is that of the mean
    over the rows of all.

    Args:
        positive: float32 [B, D], this replica's.
        is_active: bool [B], this replica's.

    Returns:
        positive: float32 [R B, D], replica by replica.
        is_active: bool [R B].
        first_row: int32 scalar, where this replica's rows begin.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return positive, is_active, tf.constant(0)
    first_row = context.replica_id_in_sync_group * tf.shape(positive)[0]
    gathered = context.all_gather(positive, axis=0)
    # Numbers, as not every collective operation takes booleans.
    activity = context.all_gather(tf.cast(is_active, tf.float32), axis=0)
    return gathered, activity > 0.5, first_row


def silent_centroid_loss(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    is_active: tf.Tensor,
    similarity: Similarity,
    temperature: float,
) -> tf.Tensor:
    """Softmax cross-entropy of `silent_centroid_logits`, mean over the rows.

    Args:
        anchor: float32 [B, D].
        positive: float32 [B, D].
        is_active: bool [B].
        similarity: (anchors [B, D], candidates [C, D]) -> [B, C].
        temperature: Divides the similarities.

    Returns:
        float32 scalar.

    Source: equation 3; differs: the mean over rows instead of the sum, and the
        positive is part of the denominator, as in the authors' code.
    """
    logits, labels = silent_centroid_logits(
        anchor, positive, is_active, similarity, temperature
    )
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )
