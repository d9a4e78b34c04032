"""Models of pairs: ordinary Keras models with their own train_step.

`PairModel` is what every framework's network is: training, validation, statistics,
checkpoints and devices know nothing else. `ContrastiveModel` is COLA's, and that of
musical source association.
"""

import abc
from typing import Any

import keras
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig, ModelConfig, from_dict, to_dict

# Importing `optimizers` registers it: a .keras file that was compiled with it reloads.
from cola_msa.model import losses, optimizers  # noqa: F401
from cola_msa.model.acceleration import dtype_policy
from cola_msa.model.embedding import LEVELS, LevelEmbedding
from cola_msa.model.encoder import (
    StochasticDepth,
    build_encoder,
    build_projector,
    normalization_layer,
)

Batch = dict[str, tf.Tensor]


class PairModel(keras.Model, abc.ABC):
    """An encoder and a projection head that learn from pairs of windows.

    A subclass makes the attributes in its constructor, in the order in which their
    variables are to lie in checkpoints, and says what the loss of projections is.

    Attributes:
        config: ModelConfig.
        frontend: FrontendConfig of the windows.
        encoder: keras.Model, [batch, frames, num_mels, 1] -> [batch, dim].
        projector: keras.Model, [batch, dim] -> [batch, projection_dim].
        similarity: Layer, (anchors [B, projection_dim], candidates [C,
            projection_dim]) -> [B, C].
        level_embedding: Layer that makes embeddings of maps within the encoder; None
            where they are its output.
        global_negatives: Whether training batches are contrasted over all replicas.
    """

    config: ModelConfig
    frontend: FrontendConfig
    encoder: keras.Model
    projector: keras.Model
    similarity: keras.layers.Layer
    level_embedding: LevelEmbedding | None = None
    global_negatives: bool = False

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to build: every weight exists from the start."""
        self.built = True

    def call(self, windows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Projects windows.

        Args:
            windows: float32 [batch, frames, num_mels, 1].
            training: Whether to use batch statistics and stochastic depth.

        Returns:
            float32 [batch, projection_dim].
        """
        return self.projector(
            self.encoder(windows, training=training), training=training
        )

    def embedder(self) -> keras.Model:
        """The encoder as users have it.

        Returns:
            keras.Model, float32 [batch, frames, num_mels, 1] -> [batch, dim], which
            shares the weights; call it with training=False.
        """
        return self.encoder

    def settle(self) -> None:
        """Takes in what weights were assigned, where a layer computes with a copy."""

    def level_maps(self) -> keras.Model:
        """What `level_embedding` describes; asked of models that have one."""
        raise NotImplementedError(f"{type(self).__name__} has no level embedding")

    def project_pairs(
        self, batch: Batch, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Projects anchors and positives in one pass through the network.

        Args:
            batch: `anchor` and `positive` float32 [B, frames, num_mels, 1],
                `is_active` bool [B].
            training: As in `call`.

        Returns:
            Anchors' and positives' projections, float32 [B, projection_dim] each.
        """
        windows = tf.concat([batch["anchor"], batch["positive"]], axis=0)
        anchor, positive = tf.split(self(windows, training=training), 2, axis=0)
        return anchor, positive

    def score_pairs(self, batch: Batch, training: bool = False) -> Batch:
        """Loss and measures of one batch.

        Args:
            batch: As `project_pairs`.
            training: As in `call`; with `global_negatives` a training batch is
                contrasted with all replicas' positives.

        Returns:
            `loss` scalar; `row_loss` [B], of each pair; `is_correct` [B], whether a
            pair is found, bool, or where it is looked for from both ends the share;
            `columns` scalar, how many candidates there are to choose from;
            `deviation` scalar, the standard deviation of the projections over the
            batch, mean over dimensions: near 0 it has collapsed.
        """
        anchor, positive = self.project_pairs(batch, training)
        return self.score_projections(anchor, positive, batch["is_active"], training)

    @abc.abstractmethod
    def score_projections(
        self,
        anchor: tf.Tensor,
        positive: tf.Tensor,
        is_active: tf.Tensor,
        training: bool = False,
    ) -> Batch:
        """Loss and measures of projections float32 [B, D]; see `score_pairs`."""

    def summarize(self, batch: Batch, scores: Batch) -> Batch:
        """What `train_step` returns, from `score_pairs`'s result."""
        is_active = tf.cast(batch["is_active"], tf.float32)
        is_correct = tf.cast(scores["is_correct"], tf.float32)
        return {
            "loss": scores["loss"],
            "loss_above_chance": scores["loss"]
            - tf.math.log(tf.maximum(scores["columns"], 1.0)),
            "accuracy": tf.reduce_mean(is_correct),
            "active_accuracy": tf.math.divide_no_nan(
                tf.reduce_sum(is_correct * is_active), tf.reduce_sum(is_active)
            ),
            "active_share": tf.reduce_mean(is_active),
            "deviation": scores["deviation"],
        }

    def train_step(self, data: Batch) -> Batch:
        """One optimizer update on one mini-batch a replica.

        Args:
            data: `anchor`, `positive`, `is_active` and `source`, see `pairs`.

        Returns:
            Scalars of this replica: `loss`, `loss_above_chance` (loss minus the
            logarithm of the number of columns), `accuracy`, `active_accuracy`,
            `active_share`, `deviation`.
        """
        gradients, scalars = self.pair_gradients(data)
        self.apply_gradients(gradients)
        return scalars

    def pair_gradients(self, data: Batch) -> tuple[list[tf.Tensor], Batch]:
        """Gradients by the trainable variables, not yet applied.

        Args:
            data: As `train_step`.

        Returns:
            This replica's share of the gradients, in the variables' order, and
            `train_step`'s scalars.
        """
        with tf.GradientTape() as tape:
            scores = self.score_pairs(data, training=True)
            scaled_loss = self.scale_loss(scores["loss"])
        gradients = tape.gradient(
            scaled_loss,
            [v.value for v in self.trainable_variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return gradients, self.summarize(data, scores)

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """What to differentiate: gradients are summed over replicas, not averaged.

        With float16 the optimizer's scale against underflow comes on top.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return self.optimizer.scale_loss(loss / replicas)

    def apply_gradients(self, gradients: list[tf.Tensor]) -> None:
        """Sums gradients over replicas and updates the weights by them."""
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def seed_states(self) -> list[keras.Variable]:
        """States of stochastic depth's seed generators, in order."""
        return [
            layer.seed_generator.state
            for layer in self.encoder.layers
            if isinstance(layer, StochasticDepth) and layer.rate > 0
        ]

    def test_step(self, data: Batch) -> Batch:
        """Scores one mini-batch in inference mode; returns what `train_step` does."""
        return self.summarize(data, self.score_pairs(data, training=False))

    def batch_norm_layers(self) -> list[keras.layers.BatchNormalization]:
        """The encoder's batch normalization layers, in order."""
        return [
            layer
            for layer in self.encoder.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]


@keras.saving.register_keras_serializable(package="cola_msa")
class _SilentProjection(keras.layers.Layer):
    """One learned projection that stands for every silent positive."""

    def __init__(self, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim = dim
        self.vector = self.add_weight(name="vector", shape=(dim,), initializer="zeros")
        self.built = True

    def call(self, positive: tf.Tensor, is_active: tf.Tensor) -> tf.Tensor:
        return tf.where(is_active[:, tf.newaxis], positive, tf.tanh(self.vector))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim}


@keras.saving.register_keras_serializable(package="cola_msa")
class ContrastiveModel(PairModel):
    """Encoder, projection head and similarity, trained on pairs of windows.

    Attributes:
        silent_projection: Layer that learns what stands for a silent positive; None
            where a constant window does.
    """

    def __init__(
        self,
        config: ModelConfig | dict[str, Any] | None = None,
        frontend: FrontendConfig | dict[str, Any] | None = None,
        log_mel_mean: float = 0.0,
        log_mel_std: float = 1.0,
        seed: int = 0,
        global_negatives: bool = False,
        kernels: str | None = None,
        encoder_policy: str | None = None,
        **kwargs: Any,
    ):
        """Builds the network with fresh weights.

        Args:
            config: ModelConfig, or its `to_dict`.
            frontend: FrontendConfig, or its `to_dict`.
            log_mel_mean: Mean of the training data's log-mels.
            log_mel_std: Their standard deviation.
            seed: Seed of initial weights and of stochastic depth.
            global_negatives: Contrast training batches over all replicas.
            kernels: As in `build_encoder`; a saved model chooses anew.
            encoder_policy: Keras's dtype policy of the encoder; default: the global.
            **kwargs: Keras's own.
        """
        super().__init__(**kwargs)
        if not isinstance(config, ModelConfig):
            config = from_dict(ModelConfig, config or {})
        if not isinstance(frontend, FrontendConfig):
            frontend = from_dict(FrontendConfig, frontend or {})
        assert isinstance(config, ModelConfig) and isinstance(frontend, FrontendConfig)
        self.config = config
        self.frontend = frontend
        self._arguments = {
            "log_mel_mean": log_mel_mean,
            "log_mel_std": log_mel_std,
            "seed": seed,
            "global_negatives": global_negatives,
            "encoder_policy": encoder_policy,
        }
        self.global_negatives = global_negatives
        if encoder_policy not in (None, "float32"):
            kernels = "keras"  # the others are for float32
        with dtype_policy(encoder_policy):
            self.encoder = build_encoder(
                config, frontend, log_mel_mean, log_mel_std, seed, kernels
            )
        self.level_embedding = None
        if config.embedding == "levels":
            self.level_embedding = LevelEmbedding(
                config.embedding_scale, name="level_embedding"
            )
            maps = [self.encoder.inputs[0], *self._level_outputs()]
            self.level_embedding.build([tensor.shape for tensor in maps])
        elif config.embedding != "raw":
            raise ValueError(
                f"embedding must be 'raw' or 'levels', not {config.embedding!r}"
            )
        self.projector = build_projector(
            self.encoder.output_shape[-1], config.projection_dim, seed
        )
        if config.similarity == "bilinear":
            self.similarity = losses.BilinearSimilarity(
                config.projection_dim,
                config.kernel_init,
                config.kernel_scale,
                seed,
                name="similarity",
            )
        elif config.similarity == "cosine":
            self.similarity = losses.CosineSimilarity(name="similarity")
        else:
            raise ValueError(
                f"similarity must be 'bilinear' or 'cosine', not {config.similarity!r}"
            )
        self.silent_projection = None
        if config.silence == "learned":
            self.silent_projection = _SilentProjection(
                config.projection_dim, name="silent_projection"
            )
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the model."""
        return {
            **super().get_config(),
            "config": to_dict(self.config),
            "frontend": to_dict(self.frontend),
            **self._arguments,
        }

    def embedder(self) -> keras.Model:
        """The encoder as users have it: what the configuration's `embedding` says.

        Returns:
            keras.Model, float32 [batch, frames, num_mels, 1] -> [batch, dim], which
            shares the weights; call it with training=False.
        """
        if self.level_embedding is None:
            return self.encoder
        windows = self.encoder.inputs[0]
        embedding = self.level_embedding([windows, *self._level_outputs()])
        return keras.Model(windows, embedding, name=self.encoder.name)

    def settle(self) -> None:
        """Normalizes the input by the moments that were assigned."""
        normalization_layer(self.encoder).finalize_state()

    def level_maps(self) -> keras.Model:
        """What `LevelEmbedding` describes: [batch, frames, num_mels, 1] -> maps."""
        return keras.Model(self.encoder.inputs[0], self._level_outputs())

    def _level_outputs(self) -> list[Any]:
        names = LEVELS[self.config.backbone]
        return [self.encoder.get_layer(name).output for name in names]

    def project_pairs(
        self, batch: Batch, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `PairModel` does; silent positives may have a learned projection."""
        anchor, positive = batch["anchor"], batch["positive"]
        if self.silent_projection is not None:
            # Silent rows still need an input of the batch's shape; the anchor's window
            # leaves the batch statistics those of music, and its output is not used.
            is_active = batch["is_active"][:, tf.newaxis, tf.newaxis, tf.newaxis]
            positive = tf.where(is_active, positive, anchor)
        projections = self(tf.concat([anchor, positive], axis=0), training=training)
        anchor, positive = tf.split(projections, 2, axis=0)
        if self.silent_projection is not None:
            positive = self.silent_projection(positive, batch["is_active"])
        return anchor, positive

    def score_projections(
        self,
        anchor: tf.Tensor,
        positive: tf.Tensor,
        is_active: tf.Tensor,
        training: bool = False,
    ) -> Batch:
        """Loss and measures of projections float32 [B, D]; see `score_pairs`."""
        first_row: int | tf.Tensor = 0
        if training and self.global_negatives:
            positive, is_active, first_row = losses.gather_candidates(
                positive, is_active
            )
        logits, labels = losses.silent_centroid_logits(
            anchor,
            positive,
            is_active,
            self.similarity,
            self.config.temperature,
            first_row,
        )
        row_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        num_active = tf.reduce_sum(tf.cast(is_active, tf.float32))
        has_silent = tf.cast(tf.logical_not(tf.reduce_all(is_active)), tf.float32)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return {
            "loss": tf.reduce_mean(row_loss),
            "row_loss": row_loss,
            "is_correct": tf.equal(predicted, labels),
            "columns": num_active + has_silent,
            "deviation": tf.reduce_mean(tf.math.reduce_std(anchor, axis=0)),
        }


def project_function(model: PairModel) -> Any:
    """One graph for [N, frames, num_mels, 1] -> projections, in inference mode."""
    mels = model.frontend.num_mels
    return tf.function(
        lambda windows: model(windows, training=False),
        input_signature=[tf.TensorSpec([None, None, mels, 1], tf.float32)],
    )
