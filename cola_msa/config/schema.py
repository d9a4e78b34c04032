"""Configuration: frozen dataclasses, presets, JSON round trip and hash.

Flags live in the command modules; they are parsed once into one `Config`, and
library functions take the part that they need. The `Config` that ran is written
into the run directory, so that every later command reads it back.
"""

import dataclasses
import hashlib
import json
from typing import Any

from cola_msa.system.errors import UserError
from cola_msa.values.fields import (
    MAX_SEED,
    check_fields,
    plain_fields,
    setting,
    within,
)

AUGMENTATIONS = (
    "none",
    "mws",
    "gain",
    "transpose",
    "remix",
    "specaugment",
    "cutout",
)
WAVEFORM_AUGMENTATIONS = ("none", "clmr")
BATCHES = ("mixed", "active", "uniform", "active_any")
PAIR_SPANS = ("segment", "clip")
SILENCES = ("zeros", "floor", "mean", "learned")
STATISTICS = ("anchors", "pairs")  # what batch-norm statistics come from
JIT_COMPILE = ("auto", "on", "off")
MIXED_PRECISION = ("auto", "none", "bfloat16", "float16")
SOURCES = ("vocals", "drums", "bass", "other")
LOG_MEL, WAVEFORM = "log_mel", "waveform"  # what a front end's frames hold
FRONTEND_KINDS = (LOG_MEL, WAVEFORM)
MULTILABEL, MULTICLASS = "multilabel", "multiclass"  # what a task asks of a clip
MAX_STEP = 999_999_999


class ConfigError(UserError):
    """A configuration that was read and cannot be meant."""


class Checked:
    """A frozen dataclass whose fields are checked when it is made, see `fields`."""

    def __post_init__(self) -> None:
        """Refuses what cannot be meant, by ConfigError."""
        check_fields(self, ConfigError)


@dataclasses.dataclass(frozen=True)
class FrontendConfig(Checked):
    """Waveform to windows, of log-mels or of the waveform itself.

    A waveform's frames are its samples, one frame after the other: `window_samples`,
    `hop_samples` and `num_mels` are one number, and everything that counts frames,
    windows and segments is as for log-mels. See `waveform_frontend`.

    Source: COLA section 3 (log-mels); docs/architecture.md.

    Attributes:
        sample_rate_hz: Rate of every waveform that enters the front end.
        window_samples: STFT window, in samples (25 ms).
        hop_samples: STFT hop, in samples (10 ms).
        fft_size: FFT length, in samples.
        num_mels: Values a frame: mel bands, or a waveform's samples.
        low_hz: Lower edge of the lowest band.
        high_hz: Upper edge of the highest band.
        log_floor: Mel magnitudes are clipped from below before the logarithm.
        log_ceiling: Mel magnitudes are clipped from above before the logarithm.
        window_frames: Frames that the encoder sees (about 1 s).
        segment_frames: Frames that a record stores (3.92 s, four windows).
        level: `rms` (independent of length) or `l2` (the authors' rule); a waveform
            stays as it was decoded, which is `none`.
        kind: What a frame holds: `log_mel`, or `waveform`. FFT, bands and clipping
            are log-mels' alone.
    """

    sample_rate_hz: int = within(16000, 1000, 768_000)
    window_samples: int = within(400, 1, 1 << 16)
    hop_samples: int = within(160, 1, 1 << 16)
    fft_size: int = within(1024, 2, 1 << 16)
    num_mels: int = within(64, 1, 1024)
    low_hz: float = within(60.0, 0.0)
    high_hz: float = within(7800.0, 0.0)
    log_floor: float = within(1e-5, 1e-30)
    log_ceiling: float = within(1e8, 1e-30)
    window_frames: int = within(98, 1, 1 << 14)
    segment_frames: int = within(392, 1, 1 << 16)
    level: str = setting("rms", "", choices=("rms", "l2", "none"))
    kind: str = setting(LOG_MEL, "", choices=FRONTEND_KINDS, is_later=True)

    def __post_init__(self) -> None:
        """Refuses what cannot be meant, by ConfigError."""
        super().__post_init__()
        for name, low, high in (
            ("low_hz", self.low_hz, self.high_hz),
            ("high_hz", self.high_hz, self.sample_rate_hz / 2 + 1e-9),
            ("log_floor", self.log_floor, self.log_ceiling),
            ("window_samples", self.window_samples, self.fft_size + 1),
            ("window_frames", self.window_frames, self.segment_frames + 1),
        ):
            if not low < high:
                raise ConfigError(
                    f"FrontendConfig: {name} is {low}, which is too large"
                )
        if self.is_waveform != (self.level == "none"):
            raise ConfigError(
                f"FrontendConfig: level is {self.level!r:.40}, kind {self.kind!r:.40}; "
                "it must be none of a waveform, and rms or l2 of log-mels"
            )
        sizes = {self.window_samples, self.hop_samples, self.num_mels}
        if self.is_waveform and len(sizes) > 1:
            raise ConfigError(
                "FrontendConfig: window_samples, hop_samples and num_mels of a "
                f"waveform must be equal, not {self.window_samples}, "
                f"{self.hop_samples} and {self.num_mels}"
            )

    @property
    def is_waveform(self) -> bool:
        """Whether a frame holds samples as they were decoded, not a log-mel."""
        return self.kind == WAVEFORM

    def seconds(self, num_frames: int) -> float:
        """How far apart frames are that so many steps lie between."""
        return num_frames * self.hop_samples / self.sample_rate_hz

    @property
    def window_seconds(self) -> float:
        """Length of the sound that a window's frames are made of."""
        hops = (self.window_frames - 1) * self.hop_samples
        return (self.window_samples + hops) / self.sample_rate_hz

    def at_once(self, num_windows: int) -> int:
        """How many windows to put through a network where so many log-mels would go.

        A waveform's window has nine times the values, and maps of 30 MB.
        """
        return max(1, num_windows // 8) if self.is_waveform else num_windows

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples`; 0 below one STFT window."""
        if num_samples < self.window_samples:
            return 0
        return 1 + (num_samples - self.window_samples) // self.hop_samples


def waveform_frontend() -> FrontendConfig:
    """The front end of encoders that hear samples: 22,050 Hz, windows of 59,049.

    A window is 243 frames of 243 samples (3^10, 2.7 s), a segment four windows.

    Source: CLMR (Spijkervet and Burgoyne 2021), published configuration.
    """
    frame = 3**5
    return FrontendConfig(
        sample_rate_hz=22050,
        window_samples=frame,
        hop_samples=frame,
        num_mels=frame,
        window_frames=frame,
        segment_frames=4 * frame,
        level="none",
        kind=WAVEFORM,
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig(Checked):
    """Encoder, projection head and loss.

    Attributes:
        backbone: `efficientnetb0`, `samplecnn` (of waveforms, for CLMR), or `tiny` (a
            few layers, for tests).
        projection_dim: Width of the projection.
        drop_connect_rate: Stochastic depth of the backbone's last block.
        fused_batch_norm: Use TensorFlow's fused operation (same function, faster).
        sync_batch_norm: Normalize by statistics of all replicas' parts of a batch,
            with Keras's own layer, which is not fused.
        input_normalization: `dataset` (mean and deviation of the training log-mels
            go into the backbone's own Normalization layer), `bands` (each mel band by
            its own, over mixtures and stems) or `none`.
        input_clip: Normalized log-mels are bounded by so many deviations on either
            side, so that near-silence is not far from everything; 0 leaves them.
        band_channel: Give the network a second channel, which holds the band's place
            (-1.7 for the lowest, 1.7 for the highest): after its global pooling it
            cannot tell otherwise at which frequency something happens.
        pooling: How the network's maps become one vector, which the projection head
            sees: `max` over time and frequency of the last one, as the paper has it,
            `mean`, or `levels`: mean and deviation over time at each place in
            frequency of maps within it, standardized by a batch normalization; what
            lies behind the last of these is left out, see `model.embedding`.
        embedding: What leaves the encoder: `raw`, its pooled output, or `levels`, of
            maps within it, see `model.embedding`. The pretext task sees the raw one.
        embedding_scale: Of a window in `levels`: `length`, 1, or `rms`, a root mean
            square of 1, for what learns from embeddings without standardizing them.
        clip_embedding: How a clip's windows become its embedding: their `mean`, or
            `moments`: their mean and, behind it, their deviation.
        similarity: `bilinear` or `cosine`.
        temperature: Divides the similarities.
        kernel_init: `identity` or `normal`: the bilinear kernel's initial value.
        kernel_scale: Factor of the identity, or the normal's deviation.
        silence: Positive window of a silent source: `zeros`, `floor` (the log-mel
            floor), `mean` (the training data's mean), or `learned` (a learned
            projection; such positives do not pass through the network).
    """

    backbone: str = setting(
        "efficientnetb0",
        "Network; tiny is for tests.",
        choices=("efficientnetb0", "samplecnn", "tiny"),
    )
    projection_dim: int = within(512, 1, 1 << 12)
    drop_connect_rate: float = setting(0.2, "Stochastic depth.", 0.0, 0.99)
    fused_batch_norm: bool = True
    sync_batch_norm: bool = setting(
        False, "Batch statistics over all replicas (slower)."
    )
    input_normalization: str = setting(
        "dataset", "Of the log-mels.", choices=("dataset", "bands", "none")
    )
    input_clip: float = setting(
        0.0, "Bounds normalized log-mels, in deviations; 0: off.", 0.0, 1e3
    )
    band_channel: bool = setting(False, "A second channel with each band's place.")
    pooling: str = setting(
        "max",
        "Of the network's last map, to a vector, or of levels within it.",
        choices=("max", "mean", "levels"),
    )
    embedding: str = setting(
        "raw",
        "What leaves the encoder; levels: of maps within it, of one length.",
        choices=("raw", "levels"),
    )
    embedding_scale: str = setting(
        "length",
        "Of levels' windows: length 1, or a root mean square of 1.",
        choices=("length", "rms"),
    )
    clip_embedding: str = setting(
        "mean",
        "Of a clip's windows: their mean, or their mean and deviation.",
        choices=("mean", "moments"),
    )
    similarity: str = setting(
        "bilinear", "Similarity of projections.", choices=("bilinear", "cosine")
    )
    temperature: float = setting(0.2, "Divides similarities.", 1e-4, 1e4)
    kernel_init: str = setting(
        "identity", "The kernel's initial value.", choices=("identity", "normal")
    )
    kernel_scale: float = setting(
        0.01, "Factor of the identity, or the normal's deviation.", 0.0, 1e6
    )
    silence: str = setting(
        "zeros", "Positive window of a silent source.", choices=SILENCES
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be meant, by ConfigError."""
        super().__post_init__()
        if self.scales_input and self.input_normalization == "none":
            raise ConfigError(
                "ModelConfig: input_clip and band_channel count in deviations, so that "
                "they need input_normalization dataset or bands"
            )

    @property
    def scales_input(self) -> bool:
        """Whether the encoder begins with a layer of our own, see `InputScaling`."""
        by_band = self.input_normalization == "bands"
        return by_band or self.input_clip > 0 or self.band_channel


@dataclasses.dataclass(frozen=True)
class TrainConfig(Checked):
    """Pairs, schedule and stop of the pretext task.

    An update is one optimizer update; a step is `updates_per_step` updates.

    Attributes:
        source: `multi`, one source, a comma list of sources, or `none` (COLA).
        batches: `mixed`, `active`, `uniform` or `active_any`.
        augment: `none`, `mws`, `gain`, `transpose`, `remix`, `specaugment` or
            `cutout`, or several with `+` between them, of both windows of a pair;
            `remix` mixes stems of the mini-batch's songs and comes first. Of
            waveforms `none` or `clmr`, the chain of that framework.
        remix_share: Share of mini-batches that `remix` mixes anew; the others keep
            their songs' own mixtures.
        pair_span: `segment` (both windows of a pair come from one segment) or `clip`
            (the positive comes from anywhere in the anchor's clip).
        batch_size: Pairs a mini-batch and replica.
        global_negatives: Contrast over the mini-batches of all replicas, which then
            draw one source and mode; else each replica's own is all that it sees.
        accumulate: Mini-batches an update and replica, each contrasted alone; the
            update takes the mean of their gradients.
        micro_batch: Pairs that go through the network at a time, by cached gradients;
            0 means the whole mini-batch. It must divide batch_size.
        steps: Length of the run, in steps.
        updates_per_step: Updates a step.
        learning_rate: Adam's rate.
        warmup_updates: Updates over which the rate rises linearly from 0.
        halve_at_step: The rate is halved from this step on; 0 means never.
        rate_decay: `cosine`: after the warm-up the rate falls along half a cosine, to 0
            at the run's end; or `none`.
        kernel_rate: The similarity kernel's rate, as a multiple of the network's.
        average_decay: Decay an update of the weights' running average, which is then
            what is validated, kept and exported; 0 means the last weights.
        validate_every_steps: Distance of pretext validations; 0 means never.
        patience_steps: Window of the running average of the validation loss, in
            steps; training stops when the average no longer improves.
        statistics_batches: Training batches over which batch-norm statistics are
            re-estimated for validation, kept checkpoints and export; before the first
            update as many as a thousand pairs need, if that is fewer.
        statistics_inputs: What the encoder's are estimated from: `anchors` (mixtures
            alone) or `pairs` (whole batches; the pretext task always uses these).
        checkpoint_every_steps: Distance of the checkpoints that a resumed run
            starts from.
        max_to_keep: How many of those are kept.
        keep_steps: Steps whose encoder is kept for ever.
        seed: Seed of initial weights, pairs and stochastic depth.
        init_from: Fingerprint of a warm start, see `training.warm_start`; empty
            where training begins with fresh ones.
        distribution: `mirrored` (all local devices) or `multi_worker` (those of all
            machines in TF_CONFIG).
        deterministic: Deterministic kernels, at a cost.
        jit_compile: XLA: `on`, `off`, or `auto`, see `model.acceleration`.
        mixed_precision: What the encoder computes in: `none` (float32), `bfloat16`,
            `float16` (with loss scaling), or `auto`.
    """

    source: str = setting("multi", "multi, one source, a,b or none (COLA).")
    batches: str = setting("mixed", "Composition of batches.", choices=BATCHES)
    augment: str = setting(
        "none",
        f"Of both windows of a pair: {', '.join(AUGMENTATIONS)}, or several as a+b; "
        f"of waveforms {' or '.join(WAVEFORM_AUGMENTATIONS)}.",
    )
    remix_share: float = setting(
        1.0, "Share of mini-batches that remix mixes anew.", 0.0, 1.0
    )
    pair_span: str = setting(
        "segment", "Whether a pair shares its segment or its clip.", choices=PAIR_SPANS
    )
    batch_size: int = setting(128, "Pairs a mini-batch and replica.", 1)
    global_negatives: bool = setting(
        False, "Contrast over the batches of all replicas."
    )
    accumulate: int = setting(1, "Mini-batches an update, each contrasted alone.", 1)
    micro_batch: int = setting(
        0,
        "Pairs that go through the network at a time, by cached gradients; 0: all.",
        0,
    )
    steps: int = setting(10000, "Length in steps.", 1)
    updates_per_step: int = setting(64, "Updates a step.", 1)
    learning_rate: float = setting(1e-3, "Adam's rate.", 1e-12, 10.0)
    warmup_updates: int = setting(0, "Updates of linear warm-up.", 0)
    halve_at_step: int = setting(
        5000, "Step from which the rate is halved; 0: never.", 0
    )
    rate_decay: str = setting(
        "none", "Of the rate, down to 0 at the run's end.", choices=("none", "cosine")
    )
    kernel_rate: float = setting(
        1.0, "The similarity kernel's rate, as a multiple.", 0.0, 1e6
    )
    average_decay: float = setting(
        0.0,
        "Decay of the weights' running average, which is validated and kept; 0: none.",
        0.0,
        0.99999,
    )
    validate_every_steps: int = setting(10, "Distance of validations; 0: none.", 0)
    patience_steps: int = setting(
        1000, "Window of early stopping, in steps; 0: none.", 0
    )
    statistics_batches: int = setting(
        32, "Batches that batch-norm statistics are re-estimated from.", 1
    )
    statistics_inputs: str = setting(
        "anchors",
        "What the encoder's statistics come from: mixtures or whole batches.",
        choices=STATISTICS,
    )
    checkpoint_every_steps: int = setting(10, "Distance of checkpoints.", 1)
    max_to_keep: int = setting(3, "Checkpoints to resume from that stay.", 1)
    keep_steps: tuple[int, ...] = setting(
        (100, 300, *range(1000, 10001, 1000)),
        "Steps whose encoder is kept for ever.",
        0,
        MAX_STEP,
    )
    seed: int = setting(0, "Seed.", 0, MAX_SEED)
    init_from: str = ""
    distribution: str = setting(
        "mirrored",
        "All devices of this machine, or of the machines in TF_CONFIG.",
        choices=("mirrored", "multi_worker"),
    )
    deterministic: bool = setting(False, "Deterministic operations (slower).")
    jit_compile: str = setting(
        "auto", "XLA; auto: off, as it loses on CPUs.", choices=JIT_COMPILE
    )
    mixed_precision: str = setting(
        "auto", "What the encoder computes in; auto: float32.", choices=MIXED_PRECISION
    )

    def pairs_per_update(self, num_replicas: int) -> int:
        """Pairs of an update, all replicas and accumulated mini-batches together."""
        return num_replicas * self.batch_size * self.accumulate


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Everything that decides a run's result, but for the data.

    Attributes:
        preset: Name of the preset that it started from.
        frontend: The front end.
        model: The network and its loss.
        train: Pairs, schedule and stop.
        strategy: Name of the paper's strategy, see `strategies`; empty where none
            was named.
        framework: Name of the method, see `cola_msa.frameworks`.
    """

    preset: str = "default"
    frontend: FrontendConfig = FrontendConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    strategy: str = ""
    framework: str = setting("cola", "", is_later=True)


def to_dict(config: Any) -> dict[str, Any]:
    """Turns a (nested) configuration into plain JSON types, see `plain_fields`."""
    return json.loads(json.dumps(plain_fields(config)))


def config_hash(config: Any) -> str:
    """Returns 16 hexadecimal digits that stand for every field's value."""
    text = json.dumps(plain_fields(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Rebuilds a configuration from `to_dict`'s result.

    Args:
        cls: `Config` or one of its parts.
        values: Field names and values; missing fields take their default.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: If `values` names a field that this version does not know, has an
            object where there is none, or a value that its field does not take.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{cls.__name__} is no object")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        listed = " ".join(", ".join(unknown).split())
        raise ConfigError(
            f"{cls.__name__} has no field {listed:.200}: the configuration was written "
            "by another version of cola_msa"
        )
    kwargs = {}
    for name, value in values.items():
        if isinstance(value, dict):
            part = type(fields[name].default)
            if not dataclasses.is_dataclass(part):
                raise ConfigError(f"{cls.__name__}.{name} is an object")
            value = from_dict(part, value)
        elif isinstance(value, list):
            value = tuple(value)
        kwargs[name] = value
    return cls(**kwargs)


def unequal_fields(first: Any, second: Any) -> list[tuple[str, Any, Any]]:
    """Names, `part.field`, and both values of what two configurations differ in."""

    def flatten(config: Any) -> dict[str, Any]:
        flat = {}
        for name, value in json.loads(json.dumps(dataclasses.asdict(config))).items():
            if isinstance(value, dict):
                flat.update({f"{name}.{key}": item for key, item in value.items()})
            else:
                flat[name] = value
        return flat

    a, b = flatten(first), flatten(second)
    return [
        (name, a.get(name), b.get(name))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def differing_fields(first: Any, second: Any) -> list[str]:
    """Lists `part.field: a != b` for the fields in which two configurations differ."""
    return [f"{name}: {a} != {b}" for name, a, b in unequal_fields(first, second)]
