"""SampleCNN, an encoder of waveforms, and the projection head behind it.

A waveform passes through as [batch, 1, samples, channels], with kernels [1, 3]: so the
batch normalization that is fused or synchronized, the re-estimation of its statistics
and its folding into convolutions are those of all other networks. Samples by 1 would
take CPUs a quarter longer.
"""

from typing import Any, NamedTuple

import keras

from cola_msa.config.schema import FrontendConfig, ModelConfig
from cola_msa.model.encoder import (
    FusedBatchNormalization,
    SynchronizedBatchNormalization,
)
from cola_msa.system.keras_settings import check_loaded

_EPSILON = 1e-5  # of batch normalization, and 0.1 of the new statistics an update:
_MOMENTUM = 0.9  # PyTorch's, which the published code leaves as they are


class Shape(NamedTuple):
    """The sizes of a SampleCNN.

    Attributes:
        stem: Kernel and stride of the first convolution, in samples.
        channels: Of the first convolution.
        blocks: Of each block's convolution.
        pool: Kernel and stride of each block's pooling, in steps.
        last: Channels of the last convolution, and values of an embedding.
    """

    stem: int
    channels: int
    blocks: tuple[int, ...]
    pool: int
    last: int

    @property
    def stride(self) -> int:
        """Samples a step of the last map: the shortest waveform that it takes."""
        return self.stem * self.pool ** len(self.blocks)


SHAPES = {
    # 3^10 = 59,049 samples become one step.
    "samplecnn": Shape(3, 128, (128, 128, 256, 256, 256, 256, 256, 256, 512), 3, 512),
    "tiny": Shape(27, 8, (16, 32), 9, 32),
}


def build_sample_cnn(
    config: ModelConfig, frontend: FrontendConfig, seed: int = 0
) -> keras.Model:
    """Builds the encoder with fresh weights.

    Args:
        config: Backbone, fused_batch_norm and sync_batch_norm are used.
        frontend: Of waveforms.
        seed: Of the weights.

    Returns:
        keras.Model, float32 [batch, frames, frame_samples, 1] -> [batch, 512]; the
        samples of a window are those of its frames, one after the other.

    Source: Lee et al. 2018, "SampleCNN: End-to-End Deep Convolutional Neural Networks
        Using Very Small Filters for Music Classification", as CLMR's published code
        has it: a strided convolution of 3; nine blocks of convolution 3, batch
        normalization, ReLU and max-pooling 3; a convolution of 3. Dropout is the
        supervised network's alone. differs: of a waveform longer than 59,049 samples
        the last map's steps are averaged, where the published network cannot be
        computed; weights begin as Keras's Glorot, not PyTorch's uniform, values.
    """
    check_loaded()
    shape = SHAPES[config.backbone]
    numbers = iter(range(1, 100))

    def convolve(hidden: Any, channels: int, kernel: int, name: str, **options: Any):
        initializer = keras.initializers.GlorotUniform(seed * 100003 + next(numbers))
        hidden = keras.layers.Conv2D(
            channels,
            (1, kernel),
            kernel_initializer=initializer,
            name=f"{name}_conv",
            **options,
        )(hidden)
        hidden = _normalization(config)(
            momentum=_MOMENTUM, epsilon=_EPSILON, name=f"{name}_bn"
        )(hidden)
        return keras.layers.Activation("relu", name=f"{name}_relu")(hidden)

    windows = keras.Input((None, frontend.num_mels, 1))
    hidden = keras.layers.Reshape((1, -1, 1), name="samples")(windows)
    hidden = convolve(
        hidden, shape.channels, shape.stem, "stem", strides=(1, shape.stem)
    )
    for number, channels in enumerate(shape.blocks, 1):
        hidden = convolve(hidden, channels, 3, f"block{number}", padding="same")
        hidden = keras.layers.MaxPooling2D((1, shape.pool), name=f"block{number}_pool")(
            hidden
        )
    hidden = convolve(hidden, shape.last, 3, "last", padding="same")
    hidden = keras.layers.GlobalAveragePooling2D(name="mean_pool")(hidden)
    return keras.Model(windows, hidden, name=config.backbone)


def _normalization(config: ModelConfig) -> type[keras.layers.BatchNormalization]:
    if config.sync_batch_norm:
        return SynchronizedBatchNormalization
    if config.fused_batch_norm:
        return FusedBatchNormalization
    return keras.layers.BatchNormalization


def build_projector(
    embedding_dim: int, projection_dim: int = 64, seed: int = 0
) -> keras.Sequential:
    """Builds the projection head: two layers without bias, a ReLU between them.

    Args:
        embedding_dim: Values of an embedding, and of the layer between.
        projection_dim: Values of a projection.
        seed: Of the weights.

    Returns:
        keras.Model, float32 [batch, embedding_dim] -> [batch, projection_dim].

    Source: Chen et al. 2020 (SimCLR), section 2.1; CLMR's published code.
    """

    def dense(width: int, name: str, number: int) -> keras.layers.Dense:
        initializer = keras.initializers.GlorotUniform(seed * 100003 + number)
        return keras.layers.Dense(
            width, use_bias=False, kernel_initializer=initializer, name=name
        )

    return keras.Sequential(
        [
            keras.Input((embedding_dim,)),
            dense(embedding_dim, "hidden", 101),
            keras.layers.Activation("relu", name="hidden_relu"),
            dense(projection_dim, "projection", 102),
        ],
        name="projector",
    )
