"""The encoder in inference mode as a plain function of arrays.

Keras takes seconds to build EfficientNetB0, to fold its batch normalization and to
trace it: half of what it takes to embed one file. This computes the same from a
checkpoint's arrays, with the same operations in the same order.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from cola_msa.config.schema import ModelConfig
from cola_msa.model.embedding import (
    LEVELS,
    bound_features,
    describe_maps,
    level_embedding,
)
from cola_msa.model.encoder import PIXEL_SCALE, scale_input

SEED_NAME = "seed_generator/seed_generator_state"  # of stochastic depth
_BATCH_NORM_EPSILON = 1e-3  # Keras's default
_STEM, _TOP = 32, 1280
_LEVELS = LEVELS["efficientnetb0"]
_LEVEL_NORM = "level_bn"
_BATCH_NORM_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


class Variable(NamedTuple):
    """A variable of the network: its name, shape and type."""

    name: str
    shape: tuple[int, ...]
    kind: str


@dataclasses.dataclass(frozen=True)
class _Block:
    """One inverted residual block, as keras.applications names it."""

    name: str
    kernel: int
    channels_in: int
    channels_out: int
    expansion: int
    stride: int

    @property
    def width(self) -> int:
        return self.channels_in * self.expansion

    @property
    def is_residual(self) -> bool:
        return self.stride == 1 and self.channels_in == self.channels_out


def _list_blocks() -> tuple[_Block, ...]:
    """EfficientNetB0's. Source: Tan and Le 2019, table 1; keras.applications."""
    blocks = []
    for stage, (kernel, repeats, first, channels, expansion, stride) in enumerate(
        (
            (3, 1, 32, 16, 1, 1),
            (3, 2, 16, 24, 6, 2),
            (5, 2, 24, 40, 6, 2),
            (3, 3, 40, 80, 6, 2),
            (5, 3, 80, 112, 6, 1),
            (5, 4, 112, 192, 6, 2),
            (3, 1, 192, 320, 6, 1),
        ),
        1,
    ):
        for number in range(repeats):
            name = f"block{stage}{chr(ord('a') + number)}_"
            if number:
                first, stride = channels, 1
            blocks.append(_Block(name, kernel, first, channels, expansion, stride))
    return tuple(blocks)


_BLOCKS = _list_blocks()


def list_variables(config: ModelConfig, num_mels: int) -> tuple[Variable, ...]:
    """Names, shapes and types of `ContrastiveModel`'s variables, in their order.

    Args:
        config: ModelConfig.
        num_mels: Mel bands.

    Returns:
        The variables, named as `runs.network.plain_path` does; none for a network that
        this module does not compute.
    """
    if config.backbone != "efficientnetb0":
        return ()
    variables: list[Variable] = []

    def add(name: str, *shape: int, kind: str = "float32") -> None:
        variables.append(Variable(name, shape, kind))

    def norm(name: str, channels: int) -> None:
        for part in _BATCH_NORM_PARTS:
            add(f"{name}/{part}", channels)

    if config.scales_input:
        add("input_scaling/mean", num_mels)
        add("input_scaling/deviation", num_mels)
    depth = 2 if config.band_channel else 1
    add("normalization/mean", depth)
    add("normalization/variance", depth)
    add("normalization/count", kind="int64")
    add("stem_conv/kernel", 3, 3, depth, _STEM)
    norm("stem_bn", _STEM)
    for block in _used_blocks(config):
        name, width = block.name, block.width
        if block.expansion > 1:
            add(f"{name}expand_conv/kernel", 1, 1, block.channels_in, width)
            norm(f"{name}expand_bn", width)
        add(f"{name}dwconv/kernel", block.kernel, block.kernel, width, 1)
        norm(f"{name}bn", width)
        squeezed = max(1, block.channels_in // 4)
        add(f"{name}se_reduce/kernel", 1, 1, width, squeezed)
        add(f"{name}se_reduce/bias", squeezed)
        add(f"{name}se_expand/kernel", 1, 1, squeezed, width)
        add(f"{name}se_expand/bias", width)
        add(f"{name}project_conv/kernel", 1, 1, width, block.channels_out)
        norm(f"{name}project_bn", block.channels_out)
        if block.is_residual and config.drop_connect_rate > 0:
            add(SEED_NAME, 2, kind="int64")
    pooled = _TOP
    if config.pooling == "levels":
        pooled = _level_dim(num_mels)
        norm(_LEVEL_NORM, pooled)
    else:
        add("top_conv/kernel", 1, 1, _BLOCKS[-1].channels_out, _TOP)
        norm("top_bn", _TOP)
    if config.embedding == "levels":
        dim = _level_dim(num_mels)
        add("level_embedding/mean", dim)
        add("level_embedding/deviation", dim)
        add("level_embedding/magnitude")
    dim = config.projection_dim
    add("projector/projection/kernel", pooled, dim)
    add("projector/projection/bias", dim)
    add("projector/projection_norm/gamma", dim)
    add("projector/projection_norm/beta", dim)
    if config.similarity == "bilinear":
        add("similarity/kernel", dim, dim)
    if config.silence == "learned":
        add("silent_projection/vector", dim)
    return tuple(variables)


def batch_norm_names(variables: Iterable[Variable]) -> list[str]:
    """Names of the batch normalization layers, in the order of their statistics."""
    ending = "/moving_mean"
    names = (variable.name for variable in variables)
    return [name.removesuffix(ending) for name in names if name.endswith(ending)]


def plain_encoder(
    config: ModelConfig, weights: Mapping[str, np.ndarray]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """What `ContrastiveModel.embedder` computes, with folded batch normalization.

    Args:
        config: ModelConfig, of `efficientnetb0`.
        weights: Arrays by the names of `list_variables`; moving statistics and the
            embedding's moments are those to use.

    Returns:
        A function to trace, float32 [n, frames, num_mels, 1] -> [n, dim].
    """
    constants = {
        name: tf.constant(value, tf.float32)
        for name, value in _fold(weights).items()
        if not name.startswith(("projector/", "similarity/", "silent_projection/"))
    }

    def embed(windows: tf.Tensor) -> tf.Tensor:
        if config.embedding == "raw":
            return _pool(config, constants, windows)
        return level_embedding(
            windows,
            _maps(config, constants, windows, _LEVELS),
            constants["level_embedding/mean"],
            constants["level_embedding/deviation"],
            constants["level_embedding/magnitude"],
            config.embedding_scale,
        )

    return embed


def _fold(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels and biases of convolutions that took in their batch normalization."""
    folded = {
        name: value
        for name, value in weights.items()
        if name.rpartition("/")[2] not in _BATCH_NORM_PARTS
    }
    for name in weights:
        layer, _, part = name.rpartition("/")
        if part != "moving_mean":
            continue
        gamma, beta, mean, variance = (
            weights[f"{layer}/{part}"].astype(np.float64) for part in _BATCH_NORM_PARTS
        )
        factor = 1.0 / np.sqrt(variance + _BATCH_NORM_EPSILON)
        factor *= gamma
        bias = -mean * factor
        bias += beta
        if layer == _LEVEL_NORM:  # no convolution comes before it
            folded |= {f"{layer}/factor": factor, f"{layer}/offset": bias}
            continue
        # block2a_bn follows block2a_dwconv, every other x_bn follows x_conv.
        before = layer.removesuffix("bn")
        is_depthwise = f"{before}dwconv/kernel" in weights
        convolution = f"{before}{'dwconv' if is_depthwise else 'conv'}"
        kernel = weights[f"{convolution}/kernel"].astype(np.float64)
        shape = kernel.shape[2:] if is_depthwise else (-1,)
        folded[f"{convolution}/kernel"] = kernel * factor.reshape(shape)
        folded[f"{convolution}/bias"] = bias
    return folded


def embedding_dim(config: ModelConfig, num_mels: int) -> int:
    """Values of an embedding."""
    if config.embedding == "raw" and config.pooling != "levels":
        return _TOP
    return _level_dim(num_mels)


def _level_dim(num_mels: int) -> int:
    """Values that describe the levels: two a channel and place in frequency."""
    places, dim = -(-num_mels // 2), 0
    for block in _BLOCKS:
        places = -(-places // block.stride)
        if f"{block.name}add" in _LEVELS:
            dim += 2 * places * block.channels_out
    return dim


def _used_blocks(config: ModelConfig) -> tuple[_Block, ...]:
    """The blocks that the network has: none behind the last level."""
    if config.pooling != "levels":
        return _BLOCKS
    last = [f"{block.name}add" for block in _BLOCKS].index(_LEVELS[-1])
    return _BLOCKS[: last + 1]


def _pool(
    config: ModelConfig, constants: Mapping[str, tf.Tensor], windows: tf.Tensor
) -> tf.Tensor:
    """The pooled output, float32 [n, 1280], or the levels' statistics."""
    if config.pooling == "levels":
        found = describe_maps(_maps(config, constants, windows, _LEVELS))
        found = found * constants[f"{_LEVEL_NORM}/factor"]
        found = found + constants[f"{_LEVEL_NORM}/offset"]
        return bound_features(found[:, tf.newaxis, tf.newaxis])
    (hidden,) = _maps(config, constants, windows, ("top_activation",))
    if config.pooling == "max":
        return tf.reduce_max(hidden, [1, 2])
    return tf.reduce_mean(hidden, [1, 2])


def _maps(
    config: ModelConfig,
    constants: Mapping[str, tf.Tensor],
    windows: tf.Tensor,
    wanted: Sequence[str],
) -> list[tf.Tensor]:
    """Outputs of layers, by their names in keras.applications; no later one is run."""
    found: list[tf.Tensor] = []

    def weight(layer: str) -> tuple[tf.Tensor, tf.Tensor]:
        return constants[f"{layer}/kernel"], constants[f"{layer}/bias"]

    def pointwise(inputs: tf.Tensor, layer: str) -> tf.Tensor:
        kernel, bias = weight(layer)
        shape = tf.shape(inputs)
        rows = tf.matmul(
            tf.reshape(inputs, [-1, kernel.shape[2]]),
            tf.reshape(kernel, kernel.shape[2:]),
        )
        rows = tf.nn.bias_add(rows, bias)
        outputs = tf.reshape(rows, tf.concat([shape[:3], kernel.shape[3:]], 0))
        outputs.set_shape([*inputs.shape[:3], kernel.shape[3]])
        return outputs

    def swish(inputs: tf.Tensor) -> tf.Tensor:
        return inputs * tf.sigmoid(inputs)

    def pad(inputs: tf.Tensor, kernel: int) -> tf.Tensor:
        # With a length that is not known Keras pads so, whatever the length.
        margin = [kernel // 2 - 1, kernel // 2]
        return tf.pad(inputs, [[0, 0], margin, margin, [0, 0]])

    if config.scales_input:
        hidden = scale_input(
            windows,
            constants["input_scaling/mean"],
            constants["input_scaling/deviation"],
            config.input_clip,
            config.band_channel,
        )
    else:
        hidden = windows * (1.0 / PIXEL_SCALE)
    deviation = tf.sqrt(constants["normalization/variance"])
    deviation = tf.maximum(deviation, keras.backend.epsilon())
    hidden = (hidden - constants["normalization/mean"]) / deviation
    kernel, bias = weight("stem_conv")
    hidden = tf.nn.convolution(pad(hidden, 3), kernel, strides=2, padding="VALID")
    hidden = swish(tf.nn.bias_add(hidden, bias))
    for block in _BLOCKS:
        name, inputs = block.name, hidden
        if block.expansion > 1:
            hidden = swish(pointwise(hidden, f"{name}expand_conv"))
        kernel, bias = weight(f"{name}dwconv")
        is_strided = block.stride > 1
        hidden = tf.nn.depthwise_conv2d(
            pad(hidden, block.kernel) if is_strided else hidden,
            kernel,
            [1, block.stride, block.stride, 1],
            "VALID" if is_strided else "SAME",
        )
        hidden = swish(tf.nn.bias_add(hidden, bias))
        squeezed = tf.reduce_mean(hidden, [1, 2], keepdims=True)
        squeezed = swish(pointwise(squeezed, f"{name}se_reduce"))
        hidden *= tf.sigmoid(pointwise(squeezed, f"{name}se_expand"))
        hidden = pointwise(hidden, f"{name}project_conv")
        if block.is_residual:
            hidden += inputs
        if f"{name}add" in wanted:
            found.append(hidden)
            if len(found) == len(wanted):
                return found
    return [swish(pointwise(hidden, "top_conv"))]
