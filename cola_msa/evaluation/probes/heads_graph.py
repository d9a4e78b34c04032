"""Kept heads as TensorFlow operations, for graphs that leave this package."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig
from cola_msa.evaluation.probes.heads import to_probabilities
from cola_msa.evaluation.probes.kept_heads import OUTPUTS, TINY, Heads, Member
from cola_msa.records.stored import FULL_SCALE


def to_half_and_back(values: tf.Tensor) -> tf.Tensor:
    """Values as half precision holds them, float32 of any shape.

    Records of log-mels and cached embeddings are in half precision, so that heads know
    nothing else.
    """
    # Flat in between: of two casts side by side tf2onnx makes none.
    flat = tf.reshape(tf.cast(values, tf.float16), [-1])
    rounded = tf.reshape(tf.cast(flat, tf.float32), tf.shape(values))
    rounded.set_shape(values.shape)
    return rounded


def to_stored_and_back(windows: tf.Tensor, frontend: FrontendConfig) -> tf.Tensor:
    """Windows as records hold them, as `records.stored.round_to_stored` in NumPy.

    Args:
        windows: float32 [n, frames, num_mels, 1].
        frontend: Their FrontendConfig.
    """
    if not frontend.is_waveform:
        return to_half_and_back(windows)
    steps = tf.round(windows * FULL_SCALE)
    return tf.clip_by_value(steps, -FULL_SCALE, FULL_SCALE - 1) / FULL_SCALE


class HeadsGraph(tf.Module):
    """What `Heads.score_windows` computes."""

    def __init__(self, heads: Heads, is_single: bool = False):
        """Takes the weights over.

        Args:
            heads: The heads.
            is_single: Whether all is in single precision, a ridge's weights too, which
                TFLite needs.
        """
        super().__init__()
        self._heads = heads

        def hold(values: np.ndarray) -> tf.Variable:
            kind = np.float32 if is_single else values.dtype
            return tf.Variable(values.astype(kind), trainable=False)

        self._members = [self._hold_member(member, hold) for member in heads.members]

    @staticmethod
    def _hold_member(
        member: Member, hold: Callable[[np.ndarray], tf.Variable]
    ) -> tuple[list, list]:
        scaling = []
        if member.mean is not None and member.deviation is not None:
            scaling = [hold(member.mean), hold(np.maximum(member.deviation, TINY))]
        return scaling, [(hold(kernel), hold(bias)) for kernel, bias in member.layers]

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Scores embeddings.

        Args:
            embeddings: float32 [n, D], of windows, or of clips where the heads are of
                those.

        Returns:
            float32 [n, K]: probabilities, or a ridge's outputs.
        """
        features = to_half_and_back(embeddings)
        scores = []
        for scaling, layers in self._members:
            hidden = features
            if scaling:
                mean, deviation = scaling
                hidden = (tf.cast(hidden, mean.dtype) - mean) / deviation
            for number, (kernel, bias) in enumerate(layers):
                if number:
                    hidden = tf.nn.relu(hidden)
                hidden = tf.matmul(tf.cast(hidden, kernel.dtype), kernel) + bias
            if self._heads.outputs != OUTPUTS:
                hidden = to_probabilities(hidden, self._heads.is_tags)
            scores.append(hidden)
        total = tf.add_n(scores) / len(scores) if len(scores) > 1 else scores[0]
        return tf.cast(total, tf.float32)
