"""The encoder (EfficientNetB0, global pooling) and the projection head.

The backbone is `keras.applications`' own graph. Some of its layers are replaced by
ones that compute the same function: batch normalization by TensorFlow's fused operation
(Keras 3 does not fuse it on the CPU), stochastic depth by one whose masks differ by
replica, and on CPUs convolutions and activations by those of `cpu_layers`.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig, ModelConfig
from cola_msa.model.cpu_layers import KERNELS, cpu_layer, default_kernels
from cola_msa.model.embedding import LEVELS, BoundedFeatures, LevelStatistics
from cola_msa.system.keras_settings import check_loaded

_EFFICIENTNET_DROP_RATE = 0.2  # what keras.applications builds into EfficientNetB0
PIXEL_SCALE = 255.0  # its Rescaling(1 / 255), which precedes its Normalization
_BAND_RANGE = 1.7  # as deviations go: about that of evenly spread values
# As keras.applications calls them; of levels the pooling is our own.
_POOLINGS = {"max": "max", "mean": "avg", "levels": None}
_collecting = threading.local()


@contextlib.contextmanager
def collect_batch_statistics() -> Iterator[list[tuple[tf.Tensor, tf.Tensor]]]:
    """Makes batch normalization use, and report, the statistics of its input.

    Inside, every `FusedBatchNormalization` that is called with training=False
    normalizes by the batch's own mean and variance and appends both to the list that
    is yielded, in order of the calls; moving statistics stay as they are.

    Yields:
        A list of (mean [channels], biased variance [channels]).
    """
    _collecting.found = []
    try:
        yield _collecting.found
    finally:
        _collecting.found = None


@keras.saving.register_keras_serializable(package="cola_msa")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over NHWC by TensorFlow's fused operation.

    Same function, weights and moving statistics as Keras's layer; it cannot
    synchronise over replicas.
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
    ) -> tf.Tensor:
        """Normalizes [batch, height, width, channels]."""
        collected = getattr(_collecting, "found", None)
        scale = tf.convert_to_tensor(self.gamma)
        offset = tf.convert_to_tensor(self.beta)
        if not (training and self.trainable) and collected is None:
            output, _, _ = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                scale,
                offset,
                mean=tf.convert_to_tensor(self.moving_mean),
                variance=tf.convert_to_tensor(self.moving_variance),
                epsilon=self.epsilon,
                is_training=False,
            )
            return output
        output, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, epsilon=self.epsilon, is_training=True
        )
        # The operation reports the unbiased variance; Keras keeps the biased one.
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), variance.dtype)
        variance = variance * ((count - 1.0) / count)
        if collected is not None:
            collected.append((mean, variance))
            return output
        for moving, current in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            kept = tf.convert_to_tensor(moving) * self.momentum
            moving.assign(kept + tf.stop_gradient(current) * (1.0 - self.momentum))
        return output


@keras.saving.register_keras_serializable(package="cola_msa")
class SynchronizedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's own layer with statistics over all replicas; reports them on request."""

    def __init__(self, **kwargs: Any):
        """Takes Keras's arguments; `synchronized` is always True."""
        super().__init__(**{**kwargs, "synchronized": True})

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
    ) -> tf.Tensor:
        """Normalizes [batch, height, width, channels]."""
        collected = getattr(_collecting, "found", None)
        if collected is None:
            return super().call(inputs, training=training, mask=mask)
        exact = tf.cast(inputs, self.variable_dtype)
        mean, variance = tf.nn.moments(exact, [0, 1, 2])
        collected.append((mean, variance))
        output = tf.nn.batch_normalization(
            exact, mean, variance, self.beta, self.gamma, self.epsilon
        )
        return tf.cast(output, inputs.dtype)


@keras.saving.register_keras_serializable(package="cola_msa")
class StochasticDepth(keras.layers.Dropout):
    """Drops whole examples of a residual branch; every replica draws its own."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Scales or zeroes [batch, height, width, channels] example by example."""
        if not training or self.rate == 0:
            return inputs
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        context = tf.distribute.get_replica_context()
        if context is not None:
            replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
            # The generator moves its second word by 1 a call: stay clear of it.
            seed += tf.stack([replica * 7919, tf.zeros_like(replica)])
        shape = tf.stack([tf.shape(inputs)[0], 1, 1, 1])
        uniform = tf.random.stateless_uniform(shape, seed)
        keep = tf.cast(uniform >= self.rate, inputs.dtype)
        return inputs * (keep / (1.0 - self.rate))


def scale_input(
    windows: tf.Tensor,
    mean: tf.Tensor,
    deviation: tf.Tensor,
    clip: float,
    band_channel: bool,
) -> tf.Tensor:
    """What `InputScaling` computes, of moments float32 [num_mels]."""
    shape = [1, 1, -1, 1]
    scaled = tf.cast(windows, mean.dtype) - tf.reshape(mean, shape)
    scaled /= tf.reshape(deviation, shape)
    if clip:
        scaled = tf.clip_by_value(scaled, -clip, clip)
    if band_channel:
        place = tf.linspace(-_BAND_RANGE, _BAND_RANGE, mean.shape[0])
        place = tf.reshape(tf.cast(place, scaled.dtype), shape)
        scaled = tf.concat([scaled, tf.zeros_like(scaled) + place], axis=-1)
    return scaled


@keras.saving.register_keras_serializable(package="cola_msa")
class InputScaling(keras.layers.Layer):
    """Log-mels normalized band by band, bounded, and beside them each band's place.

    What it normalizes by are weights, which are kept and restored with the network's
    own and are never trained.
    """

    def __init__(self, clip: float = 0.0, band_channel: bool = False, **kwargs: Any):
        """Starts with mean 0 and deviation 1.

        Args:
            clip: Bound on either side, in deviations; 0 bounds nothing.
            band_channel: Whether to add the second channel.
            **kwargs: Keras's own.
        """
        super().__init__(trainable=False, **kwargs)
        self.clip, self.band_channel = clip, band_channel

    def build(self, input_shape: Any) -> None:
        """Makes the weights: `mean` and `deviation`, float32 [num_mels]."""
        size = (input_shape[2],)
        self.mean = self.add_weight(
            shape=size, initializer="zeros", trainable=False, name="mean"
        )
        self.deviation = self.add_weight(
            shape=size, initializer="ones", trainable=False, name="deviation"
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[batch, frames, num_mels, 1] -> the same, or with two channels."""
        scaled = scale_input(
            inputs,
            tf.convert_to_tensor(self.mean),
            tf.convert_to_tensor(self.deviation),
            self.clip,
            self.band_channel,
        )
        return tf.cast(scaled, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """As `call` gives them."""
        return (*input_shape[:3], 2 if self.band_channel else 1)

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the layer."""
        own = {"clip": self.clip, "band_channel": self.band_channel}
        base = super().get_config()
        base.pop("trainable", None)
        return {**base, **own}


def build_encoder(
    config: ModelConfig = ModelConfig(),
    frontend: FrontendConfig = FrontendConfig(),
    log_mel_mean: float = 0.0,
    log_mel_std: float = 1.0,
    seed: int = 0,
    kernels: str | None = None,
) -> keras.Model:
    """Builds the encoder with fresh weights.

    Args:
        config: ModelConfig.
        frontend: FrontendConfig.
        log_mel_mean: Mean of the training data's log-mels; used where
            config.input_normalization is `dataset`. With `bands`, whose moments are
            weights, `set_input_normalization` or restored weights follow.
        log_mel_std: Their standard deviation.
        seed: Seed of initial weights and of stochastic depth.
        kernels: Whose operations convolutions and activations run: `keras`, or `cpu`
            for `cpu_layers`; None is `cpu_layers.default_kernels`. Weights, names
            and the function are the same.

    Returns:
        keras.Model, float32 [batch, frames, num_mels, 1] -> [batch, 1280]; with the
        pooling `levels` as many values as the levels have, and no layer behind them.

    Raises:
        ValueError: If the configuration names something unknown.
        KerasSettingsError: If Keras has another backend, layout or precision.

    Source: section 3.2 (EfficientNetB0, global max pooling, no top).
    """
    check_loaded()
    input_shape = (None, frontend.num_mels, 2 if config.band_channel else 1)
    if config.backbone == "efficientnetb0":
        # Frames stay unknown, as in the authors' model: with a known length the
        # built-in graph pads its strided convolutions differently.
        with warnings.catch_warnings():
            # Two channels are one more than a grey picture's, and meant.
            warnings.filterwarnings("ignore", "This model usually expects 1 or 3")
            backbone = keras.applications.EfficientNetB0(
                include_top=False,
                weights=None,
                input_shape=input_shape,
                pooling=_POOLINGS[config.pooling],
            )
    elif config.backbone == "tiny":
        backbone = _tiny_backbone(input_shape, config.pooling)
    else:
        raise ValueError(
            f"backbone must be 'efficientnetb0' or 'tiny', not {config.backbone!r}"
        )
    kernels = default_kernels() if kernels is None else kernels
    if kernels not in KERNELS:
        raise ValueError(f"kernels must be one of {KERNELS}, not {kernels!r}")
    layer_number = [0]

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        layer_number[0] += 1
        values = layer.get_config()
        # Keras counts these up within a process; checkpoints want fixed names.
        if isinstance(layer, keras.layers.Normalization):
            values["name"] = "normalization"
        elif isinstance(layer, keras.layers.Rescaling):
            if config.scales_input:
                return InputScaling(
                    config.input_clip, config.band_channel, name="input_scaling"
                )
            values["name"] = "rescaling"
        if isinstance(layer, keras.layers.BatchNormalization):
            if config.sync_batch_norm:
                return SynchronizedBatchNormalization.from_config(values)
            if config.fused_batch_norm:
                return FusedBatchNormalization.from_config(values)
            return layer.__class__.from_config(values)
        if isinstance(layer, keras.layers.Dropout):
            values["rate"] *= config.drop_connect_rate / _EFFICIENTNET_DROP_RATE
            values["seed"] = seed * 100003 + layer_number[0]
            return StochasticDepth.from_config(values)
        if "kernel_initializer" in values:
            initializer = keras.initializers.get(values["kernel_initializer"])
            if hasattr(initializer, "seed"):
                initializer.seed = seed * 100003 + layer_number[0]
                values["kernel_initializer"] = initializer
        layer_class = cpu_layer(layer) if kernels == "cpu" else layer.__class__
        return layer_class.from_config(values)

    # Whatever the network's first layers take, users hand in one channel.
    windows = keras.Input((None, frontend.num_mels, 1))
    encoder = keras.models.clone_model(
        backbone,
        input_tensors=windows if config.scales_input else None,
        clone_function=clone,
    )
    if config.pooling == "levels":
        encoder = _describe_levels(encoder, config)
    if config.input_normalization == "dataset":
        set_input_normalization(encoder, log_mel_mean, log_mel_std)
    elif config.input_normalization not in ("bands", "none"):
        raise ValueError(
            "input_normalization must be 'dataset', 'bands' or 'none', not "
            f"{config.input_normalization!r}"
        )
    return encoder


def _describe_levels(encoder: keras.Model, config: ModelConfig) -> keras.Model:
    """The network up to its last level; its output are standardized statistics."""
    levels = [encoder.get_layer(name).output for name in LEVELS[config.backbone]]
    hidden = LevelStatistics(name="level_statistics")(levels)
    kind: type[keras.layers.BatchNormalization] = keras.layers.BatchNormalization
    if config.sync_batch_norm:
        kind = SynchronizedBatchNormalization
    elif config.fused_batch_norm:
        kind = FusedBatchNormalization
    hidden = kind(name="level_bn", dtype="float32")(hidden)
    features = BoundedFeatures(name="level_features")(hidden)
    return keras.Model(encoder.inputs[0], features, name=encoder.name)


def normalization_layer(encoder: keras.Model) -> keras.layers.Normalization:
    """The backbone's own Normalization layer."""
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.Normalization):
            return layer
    raise ValueError("the encoder has no Normalization layer")


def set_input_normalization(
    encoder: keras.Model, mean: float | np.ndarray, std: float | np.ndarray
) -> None:
    """Makes the encoder normalize log-mels by `mean` and `std`.

    The backbone's own Normalization layer follows a division by 255, and ignores
    assigned values until `finalize_state`. Set it before any function that calls it is
    traced.

    Args:
        encoder: From `build_encoder`.
        mean: Of all log-mels, or, where the encoder has an `InputScaling`, float
            [num_mels], of each band.
        std: Their standard deviations.

    Raises:
        ValueError: If a deviation is not positive.
    """
    if not np.all(np.asarray(std) > 0):
        raise ValueError(f"log-mel deviation must be positive, not {std}")
    for layer in encoder.layers:
        if isinstance(layer, InputScaling):
            layer.mean.assign(np.broadcast_to(mean, layer.mean.shape))
            layer.deviation.assign(np.broadcast_to(std, layer.deviation.shape))
            return
    layer = normalization_layer(encoder)
    layer.adapt_mean.assign([mean / PIXEL_SCALE])
    layer.adapt_variance.assign([(std / PIXEL_SCALE) ** 2])
    layer.finalize_state()


def _tiny_backbone(input_shape: tuple, pooling: str) -> keras.Model:
    """A few layers of the same kinds as EfficientNet's, for tests."""
    inputs = keras.Input(input_shape)
    hidden = keras.layers.Rescaling(1.0 / PIXEL_SCALE)(inputs)
    hidden = keras.layers.Normalization(axis=-1)(hidden)
    for stage, filters in enumerate((16, 64)):
        hidden = keras.layers.Conv2D(
            filters, 5, strides=4, padding="same", use_bias=False, name=f"conv{stage}"
        )(hidden)
        hidden = keras.layers.BatchNormalization(name=f"bn{stage}")(hidden)
        hidden = keras.layers.Activation("swish", name=f"act{stage}")(hidden)
    branch = keras.layers.Conv2D(64, 1, use_bias=False, name="branch_conv")(hidden)
    branch = keras.layers.BatchNormalization(name="branch_bn")(branch)
    branch = keras.layers.Dropout(
        _EFFICIENTNET_DROP_RATE, noise_shape=(None, 1, 1, 1), name="branch_drop"
    )(branch)
    hidden = keras.layers.Add(name="add")([hidden, branch])
    if pooling == "max":
        hidden = keras.layers.GlobalMaxPooling2D(name="max_pool")(hidden)
    elif pooling == "mean":
        hidden = keras.layers.GlobalAveragePooling2D(name="mean_pool")(hidden)
    return keras.Model(inputs, hidden, name="tiny")


def build_projector(
    embedding_dim: int, projection_dim: int = 512, seed: int = 0
) -> keras.Sequential:
    """Builds the projection head: Dense, layer normalization, tanh.

    Returns:
        keras.Model, float32 [batch, embedding_dim] -> [batch, projection_dim].

    Source: section 3.2.
    """
    return keras.Sequential(
        [
            keras.Input((embedding_dim,)),
            keras.layers.Dense(
                projection_dim,
                name="projection",
                kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
            ),
            keras.layers.LayerNormalization(name="projection_norm"),
            keras.layers.Activation("tanh", name="projection_tanh"),
        ],
        name="projector",
    )
