"""COLA, and musical source association on top of it: log-mels, EfficientNetB0.

Source: Saeed et al. 2021, "Contrastive Learning of General-Purpose Audio
Representations"; Garoufis, Zlatintsi and Maragos 2023.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cola_msa.config import published
from cola_msa.config.schema import LOG_MEL, Config, FrontendConfig, TrainConfig
from cola_msa.frameworks.base import Framework
from cola_msa.model import plain
from cola_msa.model.contrastive import ContrastiveModel, PairModel
from cola_msa.model.encoder import set_input_normalization
from cola_msa.pairs import augment
from cola_msa.pairs.draws import silence_value
from cola_msa.pairs.sampler import PairSampler


class Cola(Framework):
    """Windows of log-mels, a similarity of projections, silence as a class."""

    name = "cola"
    title = "COLA"
    method = "musical source association (Garoufis, Zlatintsi and Maragos, SMC 2023)"
    frontend_kind = LOG_MEL
    backbones = ("efficientnetb0", "tiny")
    presets = {"data": "default", "demo": "demo", "smoke": "smoke"}
    yardstick = published.PAPER

    def check(self, config: Config) -> None:
        """Refuses augmentations that there are not, or that do not go together."""
        super().check(config)
        _, rest = augment.split_remix(config.train.augment, config.train.source)
        augment.augmentation_names(rest)

    def describe_pairs(self, train: TrainConfig) -> str:
        """Its sources and batches; see `Framework`."""
        augment = "" if train.augment == "none" else f", augmented by {train.augment}"
        if train.source == "none":
            return f"two windows of a {train.pair_span}'s mixture{augment}"
        return f"mixture and {train.source}, {train.batches} batches{augment}"

    def hears_stems(self, source: str) -> bool:
        """Where it has a source; see `Framework`."""
        return source != "none"

    def run_name(self, train: TrainConfig) -> str:
        """Its sources."""
        if train.source == "none":
            return self.name
        return train.source.replace(",", "-")

    def build_network(
        self,
        config: Config,
        data: dict[str, Any],
        seed: int,
        encoder_policy: str | None = None,
    ) -> ContrastiveModel:
        """Encoder, projection head and similarity; see `Framework`."""
        return ContrastiveModel(
            config.model,
            config.frontend,
            data["log_mel_mean"],
            data["log_mel_std"],
            seed,
            config.train.global_negatives,
            encoder_policy=encoder_policy,
        )

    def build_augmentation(
        self, train: TrainConfig, frontend: FrontendConfig
    ) -> augment.Augment | None:
        """Of log-mels, without `remix`, which is the sampler's; see `Framework`."""
        return augment.log_mel_augmentation(train, frontend)

    def silent_value(self, config: Config, mean: float) -> float:
        """A constant log-mel, as `ModelConfig.silence` says."""
        return silence_value(config.model.silence, config.frontend.log_floor, mean)

    def measure_input(self, model: PairModel, sampler: PairSampler) -> None:
        """Normalizes each band by its own moments, where the configuration says so."""
        if model.config.input_normalization == "bands":
            set_input_normalization(model.encoder, *sampler.band_moments())

    def copy_input(self, model: PairModel, trained: Callable[[], PairModel]) -> None:
        """Takes over the bands' moments."""
        if model.config.input_normalization == "bands":
            scaling = trained().encoder.get_layer("input_scaling")
            moments = np.array(scaling.mean), np.array(scaling.deviation)
            set_input_normalization(model.encoder, *moments)

    def plain_variables(self, config: Config) -> tuple[plain.Variable, ...]:
        """Those of EfficientNetB0; none of the tiny network."""
        return plain.list_variables(config.model, config.frontend.num_mels)
