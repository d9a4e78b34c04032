"""CLMR's network and loss as one Keras model."""

from typing import Any

import keras
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig, ModelConfig, from_dict, to_dict
from cola_msa.frameworks.clmr.loss import nt_xent
from cola_msa.frameworks.clmr.network import build_projector, build_sample_cnn
from cola_msa.model.acceleration import dtype_policy
from cola_msa.model.contrastive import Batch, PairModel
from cola_msa.model.losses import CosineSimilarity


@keras.saving.register_keras_serializable(package="cola_msa")
class ClmrModel(PairModel):
    """SampleCNN and a projection head, trained by NT-Xent on crops of clips."""

    def __init__(
        self,
        config: ModelConfig | dict[str, Any],
        frontend: FrontendConfig | dict[str, Any],
        seed: int = 0,
        global_negatives: bool = False,
        encoder_policy: str | None = None,
        **kwargs: Any,
    ):
        """Builds the network with fresh weights.

        Args:
            config: ModelConfig, or its `to_dict`.
            frontend: FrontendConfig, or its `to_dict`.
            seed: Seed of initial weights.
            global_negatives: Contrast training batches over all replicas.
            encoder_policy: Keras's dtype policy of the encoder; default: the global.
            **kwargs: Keras's own.
        """
        super().__init__(**kwargs)
        if not isinstance(config, ModelConfig):
            config = from_dict(ModelConfig, config)
        if not isinstance(frontend, FrontendConfig):
            frontend = from_dict(FrontendConfig, frontend)
        assert isinstance(config, ModelConfig) and isinstance(frontend, FrontendConfig)
        self.config, self.frontend = config, frontend
        self.global_negatives = global_negatives
        self._arguments = {
            "seed": seed,
            "global_negatives": global_negatives,
            "encoder_policy": encoder_policy,
        }
        with dtype_policy(encoder_policy):
            self.encoder = build_sample_cnn(config, frontend, seed)
        self.projector = build_projector(
            self.encoder.output_shape[-1], config.projection_dim, seed
        )
        self.similarity = CosineSimilarity(name="similarity")
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the model."""
        return {
            **super().get_config(),
            "config": to_dict(self.config),
            "frontend": to_dict(self.frontend),
            **self._arguments,
        }

    def score_projections(
        self,
        anchor: tf.Tensor,
        positive: tf.Tensor,
        is_active: tf.Tensor,
        training: bool = False,
    ) -> Batch:
        """NT-Xent of projections float32 [B, D]; see `PairModel.score_pairs`."""
        over_replicas = training and self.global_negatives
        scores = nt_xent(anchor, positive, self.config.temperature, over_replicas)
        return {
            "loss": tf.reduce_mean(scores.row_loss),
            **scores._asdict(),
            # Of directions, as nothing else is compared.
            "deviation": tf.reduce_mean(
                tf.math.reduce_std(tf.math.l2_normalize(anchor, axis=-1), axis=0)
            ),
        }
