"""Scores of mixtures' windows against stems' windows: projection and similarity.

The pretext task sees mixtures and stems in one batch, so its batch-norm statistics are
those of whole batches (`pairs`), while an encoder of mixtures uses those of mixtures.
One set of weights serves both: `projection_network` shares every layer but batch
normalization with the model that it is made from.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from cola_msa.model.contrastive import PairModel
from cola_msa.model.statistics import BatchStatistics


def projection_network(model: PairModel, statistics: BatchStatistics) -> keras.Model:
    """Encoder and projection head with other batch-norm statistics than the model's.

    Args:
        model: Its weights are shared, but for those of batch normalization, which are
            copied; it stays as it is.
        statistics: For every batch normalization layer, in order.

    Returns:
        keras.Model, float32 [batch, frames, num_mels, 1] -> [batch, projection_dim].
        Call it with training=False.
    """
    copies: list[tuple[keras.Layer, keras.Layer]] = []

    def clone(layer: keras.Layer) -> keras.Layer:
        if not isinstance(layer, keras.layers.BatchNormalization):
            return layer
        copies.append((layer, layer.__class__.from_config(layer.get_config())))
        return copies[-1][1]

    encoder = keras.models.clone_model(model.encoder, clone_function=clone)
    order = {layer.name: number for number, (layer, _) in enumerate(copies)}
    for number, layer in enumerate(model.batch_norm_layers()):
        original, copy = copies[order[layer.name]]
        copy.gamma.assign(original.gamma)
        copy.beta.assign(original.beta)
        copy.moving_mean.assign(statistics.means[number])
        copy.moving_variance.assign(statistics.variances[number])
    inputs = keras.Input((None, model.frontend.num_mels, 1))
    return keras.Model(inputs, model.projector(encoder(inputs)), name="projection")


def inference_graph(
    network: Callable[..., tf.Tensor], num_mels: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A network in inference mode as a tf.function, for any windows and frames.

    Args:
        network: float32 [n, frames, num_mels, 1] -> [n, dim].
        num_mels: Mel bands.
    """
    options = {"training": False} if isinstance(network, keras.Layer) else {}
    return tf.function(
        lambda windows: network(windows, **options),
        input_signature=[tf.TensorSpec([None, None, num_mels, 1], tf.float32)],
        autograph=False,
    )


class Matcher:
    """Which stem belongs to which mixture: s(a, p) = a^T W p of projections."""

    def __init__(
        self,
        make_projection: Callable[[], Callable[..., tf.Tensor]],
        similarity: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        num_mels: int,
    ):
        """Builds nothing yet; the first `project` does.

        Args:
            make_projection: Gives the network, float32 [n, frames, num_mels, 1] ->
                [n, projection_dim]: a keras.Model, or a function.
            similarity: (anchors [A, D], candidates [P, D]) -> [A, P].
            num_mels: Mel bands.
        """
        self._make_projection = make_projection
        self.similarity = similarity
        self._num_mels = num_mels

    @functools.cached_property
    def network(self) -> Callable[..., tf.Tensor]:
        """The projection: a keras.Model, or an export's function."""
        return self._make_projection()

    @functools.cached_property
    def graph(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The projection as a tf.function, for any number of windows and frames."""
        return inference_graph(self.network, self._num_mels)

    def project(self, windows: np.ndarray) -> np.ndarray:
        """Projects windows of mixtures or of stems.

        Args:
            windows: float32 [n, frames, num_mels, 1], log-mel.

        Returns:
            float32 [n, projection_dim].
        """
        return self.graph(tf.convert_to_tensor(windows, tf.float32)).numpy()

    def score(self, mixtures: np.ndarray, stems: np.ndarray) -> np.ndarray:
        """Compares projections of mixtures' windows with those of stems' windows.

        Args:
            mixtures: float32 [A, projection_dim].
            stems: float32 [P, projection_dim].

        Returns:
            float32 [A, P], higher where they belong together; no temperature.
        """
        scores = self.similarity(
            tf.convert_to_tensor(mixtures), tf.convert_to_tensor(stems)
        )
        return scores.numpy()
