"""CLMR behind the frameworks' interface."""

from collections.abc import Callable
from typing import Any

from cola_msa.config import published
from cola_msa.config.schema import (
    WAVEFORM,
    WAVEFORM_AUGMENTATIONS,
    Config,
    ConfigError,
    FrontendConfig,
    ModelConfig,
    TrainConfig,
)
from cola_msa.frameworks.base import Framework, refuse_changed
from cola_msa.frameworks.clmr.augment import build_chain
from cola_msa.frameworks.clmr.model import ClmrModel
from cola_msa.frameworks.clmr.network import SHAPES
from cola_msa.model.contrastive import PairModel
from cola_msa.pairs.augment import Augment
from cola_msa.pairs.sampler import PairSampler

_MODEL = ModelConfig(
    drop_connect_rate=0.0, input_normalization="none", similarity="cosine"
)
_MODEL_FIELDS = (
    "backbone",
    "projection_dim",
    "fused_batch_norm",
    "sync_batch_norm",
    "clip_embedding",
    "temperature",
)
_TRAIN = TrainConfig(source="none")
# Whatever else a TrainConfig says is of schedule, devices and checkpoints.
_OTHER_TRAIN_FIELDS = ("source", "batches", "remix_share", "kernel_rate")


class Clmr(Framework):
    """Two crops of a clip's waveform, both augmented, SampleCNN and NT-Xent."""

    name = "clmr"
    title = "CLMR"
    method = "CLMR (Spijkervet and Burgoyne, ISMIR 2021)"
    frontend_kind = WAVEFORM
    backbones = tuple(SHAPES)
    presets = {"data": "clmr", "demo": "clmr_demo", "smoke": "clmr_smoke"}
    yardstick = published.CLMR

    def check(self, config: Config) -> None:
        """Refuses what is of log-mels, sources or another similarity."""
        super().check(config)
        flag = f"--framework={self.name}"
        refuse_changed(
            config.model,
            _MODEL,
            _MODEL_FIELDS,
            flag,
            "it has one network of waveforms and compares by the cosine",
        )
        names = set(vars(_TRAIN)) - set(_OTHER_TRAIN_FIELDS)
        refuse_changed(
            config.train, _TRAIN, names, flag, "its pairs are crops of mixtures"
        )
        if config.train.augment not in WAVEFORM_AUGMENTATIONS:
            raise ConfigError(
                f"--augment={config.train.augment} does not go with {flag}, which "
                f"changes waveforms by {' or '.join(WAVEFORM_AUGMENTATIONS)}"
            )
        samples = config.frontend.window_frames * config.frontend.num_mels
        if samples < (least := SHAPES[config.model.backbone].stride):
            raise ConfigError(
                f"--backbone={config.model.backbone} needs windows of at least "
                f"{least:,} samples, and the front end's have {samples:,}"
            )

    def build_network(
        self,
        config: Config,
        data: dict[str, Any],
        seed: int,
        encoder_policy: str | None = None,
    ) -> ClmrModel:
        """SampleCNN, which takes samples as they are, and the projection head."""
        return ClmrModel(
            config.model,
            config.frontend,
            seed,
            config.train.global_negatives,
            encoder_policy=encoder_policy,
        )

    def build_augmentation(
        self, train: TrainConfig, frontend: FrontendConfig
    ) -> Augment | None:
        """The published chain, or nothing; see `Framework`."""
        if train.augment == "none":
            return None
        return build_chain(frontend.sample_rate_hz)

    def measure_input(self, model: PairModel, sampler: PairSampler) -> None:
        """Nothing: the network takes samples as they are."""

    def copy_input(self, model: PairModel, trained: Callable[[], PairModel]) -> None:
        """Nothing, as `measure_input`."""
