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
from cola_msa.frameworks.base import Framework, Unused
from cola_msa.frameworks.clmr.augment import build_chain
from cola_msa.frameworks.clmr.model import ClmrModel
from cola_msa.frameworks.clmr.network import SHAPES
from cola_msa.model.contrastive import PairModel
from cola_msa.pairs.augment import Augment
from cola_msa.pairs.sampler import PairSampler

_CROPS = "a pair is two crops of one mixture, and no stem is heard"
_SAMPLES = "samples enter the network as they are"
_OUTPUT = "an embedding is the network's output, its last map averaged over time"
_COSINE = "NT-Xent compares by the cosine, which has no kernel"
_DEFAULT_MODEL, _DEFAULT_TRAIN = ModelConfig(), TrainConfig()


def _unused() -> dict[str, Unused]:
    """See `Framework.unused`; where no value is named here, the default's."""
    return {
        "drop_connect_rate": Unused(0.0, "SampleCNN has no stochastic depth"),
        "input_normalization": Unused("none", _SAMPLES),
        "input_clip": Unused(_DEFAULT_MODEL.input_clip, _SAMPLES),
        "band_channel": Unused(_DEFAULT_MODEL.band_channel, "samples have no bands"),
        "pooling": Unused(_DEFAULT_MODEL.pooling, _OUTPUT),
        "embedding": Unused(_DEFAULT_MODEL.embedding, _OUTPUT),
        "embedding_scale": Unused(_DEFAULT_MODEL.embedding_scale, _OUTPUT),
        "similarity": Unused("cosine", _COSINE),
        "kernel_init": Unused(_DEFAULT_MODEL.kernel_init, _COSINE),
        "kernel_scale": Unused(_DEFAULT_MODEL.kernel_scale, _COSINE),
        "kernel_rate": Unused(_DEFAULT_TRAIN.kernel_rate, _COSINE),
        "silence": Unused(_DEFAULT_MODEL.silence, _CROPS),
        "source": Unused("none", _CROPS),
        "batches": Unused(_DEFAULT_TRAIN.batches, _CROPS),
        "remix_share": Unused(_DEFAULT_TRAIN.remix_share, _CROPS),
    }


class Clmr(Framework):
    """Two crops of a clip's waveform, both augmented, SampleCNN and NT-Xent."""

    name = "clmr"
    title = "CLMR"
    method = "CLMR (Spijkervet and Burgoyne, ISMIR 2021)"
    frontend_kind = WAVEFORM
    backbones = tuple(SHAPES)
    presets = {"data": "clmr", "demo": "clmr_demo", "smoke": "clmr_smoke"}
    yardstick = published.CLMR
    unused = _unused()

    def check(self, config: Config) -> None:
        """Refuses what is of log-mels, sources or another similarity."""
        super().check(config)
        if config.train.augment not in WAVEFORM_AUGMENTATIONS:
            raise ConfigError(
                f"--augment={config.train.augment} does not go with "
                f"--framework={self.name}, which "
                f"changes waveforms by {' or '.join(WAVEFORM_AUGMENTATIONS)}"
            )
        samples = config.frontend.window_frames * config.frontend.num_mels
        if samples < (least := SHAPES[config.model.backbone].stride):
            raise ConfigError(
                f"--backbone={config.model.backbone} needs windows of at least "
                f"{least:,} samples, and the front end's have {samples:,}"
            )

    def describe_pairs(self, train: TrainConfig) -> str:
        """Both views of a clip; see `Framework`."""
        changed = "" if train.augment == "none" else ", augmented by its chain"
        return f"{self.title}: two crops of a {train.pair_span}{changed}"

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
