"""Layers that compute Keras's own functions in less time on the CPU.

Each is the Keras layer of the same weights, names and configuration; only the
operations differ, and only where a CPU is faster by them:

- `CpuDepthwiseConv2D`: the filter's gradient of kernels of 5 x 5 and larger by
  TensorFlow's own kernel instead of oneDNN's, which reorders its inputs there.
- `CpuZeroPadding2D`: in training the strided convolution after it pads on its own,
  which saves a copy of its input and one of its gradient.
- `CpuPointwiseConv2D`: convolutions of 1 x 1 as matrix products.
- `CpuSwish`: the gradient x -> s + x s (1 - s), s = sigmoid(x), compiled into one pass
  over memory instead of six.

On a GPU, cuDNN's and Keras's own are kept: `default_kernels` chooses once, when a
model is built.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

KERNELS = ("keras", "cpu")
_ONEDNN_FILTER_LIMIT = 3  # the largest kernel whose filter gradient oneDNN is fast at


def default_kernels() -> str:
    """`keras` where TensorFlow sees a GPU, otherwise `cpu`."""
    return "keras" if tf.config.list_physical_devices("GPU") else "cpu"


@tf.function(jit_compile=True, autograph=False)
def _swish_gradient(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    sigmoid = tf.sigmoid(inputs)
    return upstream * (sigmoid * (1.0 + inputs * (1.0 - sigmoid)))


@tf.function(jit_compile=True, autograph=False)
def _swish_and_mean_gradient(
    inputs: tf.Tensor, upstream: tf.Tensor, upstream_mean: tf.Tensor
) -> tf.Tensor:
    # Not the static shape: an export traces this with sizes that are not known.
    shape = tf.shape(inputs)
    size = tf.cast(shape[1] * shape[2], inputs.dtype)
    sigmoid = tf.sigmoid(inputs)
    upstream += upstream_mean / size
    return upstream * (sigmoid * (1.0 + inputs * (1.0 - sigmoid)))


@tf.custom_gradient
def swish(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes inputs * sigmoid(inputs); keeps nothing but the inputs for the gradient.

    Args:
        inputs: Floating point, any shape.

    Returns:
        The same shape.
    """

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # One compilation for each number of elements, not for each shape.
        flat = _swish_gradient(tf.reshape(inputs, [-1]), tf.reshape(upstream, [-1]))
        return tf.reshape(flat, tf.shape(inputs))

    return inputs * tf.sigmoid(inputs), gradient


@tf.custom_gradient
def swish_and_mean(inputs: tf.Tensor) -> Any:
    """Swish and its mean over height and width, whose gradients are one pass too.

    Args:
        inputs: Floating point [batch, height, width, channels].

    Returns:
        The same shape, and [batch, 1, 1, channels].
    """

    def gradient(upstream: tf.Tensor, upstream_mean: tf.Tensor) -> tf.Tensor:
        return _swish_and_mean_gradient(inputs, upstream, upstream_mean)

    outputs = inputs * tf.sigmoid(inputs)
    return (outputs, tf.reduce_mean(outputs, [1, 2], keepdims=True)), gradient


def _within_reach(kernel: tf.Tensor, sizes: Sequence[int | None]) -> tf.Tensor:
    """The part of an odd kernel that `SAME` padding ever lays upon the input.

    The outer columns of 5 x 5 see nothing but padding where the input is 2 wide.
    """
    slices = []
    for length, size in zip(kernel.shape[:2], sizes, strict=True):
        margin = length // 2
        unused = 0 if size is None else max(0, margin - (size - 1))
        slices.append(slice(unused, length - unused))
    return kernel[tuple(slices)]


def depthwise_conv(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    stride: int,
    padding: str,
    margins: Sequence[int] = (),
) -> tf.Tensor:
    """Depthwise convolution whose filter gradient takes the faster kernel.

    Args:
        inputs: float32 [batch, height, width, channels].
        kernel: float32 [size, size, channels, 1]; an odd size.
        stride: Of both axes.
        padding: `VALID`, or with stride 1 `SAME`.
        margins: With `VALID`: zeros to lay around the inputs first, at top, bottom,
            left and right.

    Returns:
        float32 [batch, out height, out width, channels].
    """
    strides = [1, stride, stride, 1]
    own: dict[str, Any] = {"padding": padding}
    if padding == "SAME":
        kernel = _within_reach(kernel, inputs.shape[1:3])
        explicit = [size // 2 for size in kernel.shape[:2] for _ in range(2)]
    else:
        explicit = list(margins) or [0, 0, 0, 0]
    by_number = {
        "padding": "EXPLICIT",
        "explicit_paddings": [0, 0, *explicit, 0, 0],
    }
    if margins:
        own = by_number

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            to_inputs = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(inputs),
                filter=kernel,
                out_backprop=upstream,
                strides=strides,
                **own,
            )
            # The same numbers of rows and columns as `padding`, said one by one: so
            # the operation is not handed to oneDNN.
            to_kernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=inputs,
                filter_sizes=tf.shape(kernel),
                out_backprop=upstream,
                strides=strides,
                **by_number,
            )
            return to_inputs, to_kernel

        outputs = tf.raw_ops.DepthwiseConv2dNative(
            input=inputs, filter=kernel, strides=strides, **own
        )
        return outputs, gradient

    return convolve(inputs, kernel)


@keras.saving.register_keras_serializable(package="cola_msa")
class CpuSwish(keras.layers.Activation):
    """Keras's Activation("swish")."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Activates any shape."""
        return swish(inputs)


@keras.saving.register_keras_serializable(package="cola_msa")
class CpuSwishAndMean(keras.layers.Activation):
    """Keras's Activation("swish"), whose output a `CpuGlobalAverage` follows."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Activates [batch, height, width, channels]; the mean hangs on the result."""
        outputs, mean = swish_and_mean(inputs)
        # As Keras hangs a mask on a tensor: whoever gets another tensor finds none.
        outputs._cola_msa_mean = mean
        return outputs


@keras.saving.register_keras_serializable(package="cola_msa")
class CpuGlobalAverage(keras.layers.GlobalAveragePooling2D):
    """Keras's GlobalAveragePooling2D; takes the mean that its input brings along."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Averages [batch, height, width, channels]."""
        mean = getattr(inputs, "_cola_msa_mean", None)
        if mean is None:
            return super().call(inputs)
        return mean if self.keepdims else tf.squeeze(mean, [1, 2])


@keras.saving.register_keras_serializable(package="cola_msa")
class CpuZeroPadding2D(keras.layers.ZeroPadding2D):
    """Keras's ZeroPadding2D before a `CpuDepthwiseConv2D`, to which it leaves its task.

    In training what comes out is not padded yet.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pads [batch, height, width, channels]; the margins may hang on the result."""
        if not training:
            return super().call(inputs)
        outputs = tf.identity(inputs)
        outputs._cola_msa_margins = [n for axis in self.padding for n in axis]
        return outputs


@keras.saving.register_keras_serializable(package="cola_msa")
class CpuDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras's DepthwiseConv2D."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves [batch, height, width, channels]."""
        return depthwise_conv(
            inputs,
            tf.convert_to_tensor(self.kernel),
            self.strides[0],
            self.padding.upper(),
            getattr(inputs, "_cola_msa_margins", ()),
        )


@keras.saving.register_keras_serializable(package="cola_msa")
class CpuPointwiseConv2D(keras.layers.Conv2D):
    """Keras's Conv2D with a kernel of 1 x 1."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Mixes the channels of [batch, height, width, channels]."""
        kernel = tf.convert_to_tensor(self.kernel)
        shape = tf.shape(inputs)
        rows = tf.reshape(inputs, [-1, kernel.shape[2]])
        outputs = tf.matmul(rows, tf.reshape(kernel, kernel.shape[2:]))
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(self.bias))
        outputs = tf.reshape(outputs, tf.concat([shape[:3], kernel.shape[3:]], 0))
        outputs.set_shape([*inputs.shape[:3], self.filters])
        return outputs if self.activation is None else self.activation(outputs)


def _feeds_average(layer: keras.layers.Layer) -> bool:
    return any(
        isinstance(node.operation, keras.layers.GlobalAveragePooling2D)
        for node in layer._outbound_nodes
    )


def _takes_padding(layer: keras.layers.Layer) -> bool:
    """Whether it is a strided convolution of what was padded for it."""
    return layer.strides[0] > 1 and any(
        isinstance(parent.operation, keras.layers.ZeroPadding2D)
        for node in layer._inbound_nodes
        for parent in node.parent_nodes
    )


def _leaves_padding(layer: keras.layers.ZeroPadding2D) -> bool:
    """Whether every layer after it is a convolution that can pad on its own."""
    following = [node.operation for node in layer._outbound_nodes]
    return bool(following) and all(
        isinstance(other, keras.layers.DepthwiseConv2D)
        and other.padding == "valid"
        and cpu_layer(other) is CpuDepthwiseConv2D
        for other in following
    )


def cpu_layer(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The class that computes `layer` in less time on a CPU; its own if none does."""
    channels_last = getattr(layer, "data_format", None) == "channels_last"
    if isinstance(layer, keras.layers.Activation):
        if layer.activation in (keras.activations.silu, keras.activations.swish):
            return CpuSwishAndMean if _feeds_average(layer) else CpuSwish
    elif isinstance(layer, keras.layers.GlobalAveragePooling2D):
        if channels_last:
            return CpuGlobalAverage
    elif isinstance(layer, keras.layers.ZeroPadding2D):
        if channels_last and _leaves_padding(layer):
            return CpuZeroPadding2D
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        size, stride = layer.kernel_size[0], layer.strides[0]
        if (
            channels_last
            and layer.kernel_size == (size, size)
            and layer.strides == (stride, stride)
            and layer.dilation_rate == (1, 1)
            and layer.depth_multiplier == 1
            and not layer.use_bias
            and layer.activation in (None, keras.activations.linear)
            and size % 2
            and (size > _ONEDNN_FILTER_LIMIT or _takes_padding(layer))
            and (layer.padding == "valid" or stride == 1)
        ):
            return CpuDepthwiseConv2D
    elif type(layer) is keras.layers.Conv2D:
        if (
            channels_last
            and layer.kernel_size == (1, 1)
            and layer.strides == (1, 1)
            and layer.groups == 1
        ):
            return CpuPointwiseConv2D
    return type(layer)
