"""SampleCNN against the published sizes, and against a loop over its layers."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest

from cola_msa.config.presets import get_preset
from cola_msa.frameworks.clmr.network import build_projector, build_sample_cnn
from cola_msa.model.encoder import (
    FusedBatchNormalization,
    SynchronizedBatchNormalization,
)
from cola_msa.model.folding import fold_batch_normalization

CLMR = get_preset("clmr")
# Of the published code: what goes in and comes out of each of the nine blocks.
CHANNELS = [128, 128, 128, 256, 256, 256, 256, 256, 256, 512]


@pytest.fixture(scope="module")
def encoder():
    return build_sample_cnn(CLMR.model, CLMR.frontend, seed=3)


def randomized(encoder, seed=0):
    """Weights and moving statistics that are not what a fresh network has."""
    random = np.random.default_rng(seed)
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.gamma.assign(random.uniform(0.5, 1.5, size))
            layer.beta.assign(random.normal(0, 0.2, size))
            layer.moving_mean.assign(random.normal(0, 0.2, size))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, size))
        elif isinstance(layer, keras.layers.Conv2D):
            layer.bias.assign(random.normal(0, 0.1, layer.bias.shape))
    return encoder


def test_each_map_has_the_published_shape(encoder):
    steps, found = 59049 // 3, []
    shapes = [(steps, 128)]
    for channels in CHANNELS[1:]:
        steps //= 3
        shapes.append((steps, channels))
    names = ["stem_relu", *(f"block{n}_pool" for n in range(1, 10))]
    windows = np.zeros((1, 243, 243, 1), np.float32)
    outputs = [encoder.get_layer(name).output for name in names]
    for values in keras.Model(encoder.inputs, outputs)(windows):
        found.append((values.shape[2], values.shape[3]))
    assert found == shapes
    assert encoder.get_layer("last_relu").output.shape[3] == 512
    assert encoder(windows).shape == (1, 512)


def test_it_has_the_published_number_of_weights(encoder):
    sizes = [(3, 1, 128), *((3, a, b) for a, b in itertools.pairwise(CHANNELS))]
    sizes.append((3, 512, 512))
    # Kernel, bias, and the factor and offset of batch normalization.
    expected = sum(kernel * a * b + 3 * b for kernel, a, b in sizes)
    assert expected == 2_368_512
    assert sum(np.prod(v.shape) for v in encoder.trainable_variables) == expected
    projector = build_projector(512, 64)
    assert [tuple(v.shape) for v in projector.variables] == [(512, 512), (512, 64)]


def convolve(values, layer, stride=1):
    """[steps, channels] with a kernel of 3, padded where it does not stride."""
    kernel, bias = (np.asarray(w) for w in layer.weights)
    if stride == 1:
        values = np.pad(values, [(1, 1), (0, 0)])
    steps = (len(values) - 3) // stride + 1
    rows = np.stack([values[stride * n : stride * n + 3].ravel() for n in range(steps)])
    return rows @ kernel.reshape(-1, kernel.shape[-1]) + bias


def normalize(values, layer):
    gamma, beta, mean, variance = (np.asarray(w) for w in layer.weights)
    values = (values - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    return np.maximum(values, 0)


def test_it_computes_what_its_layers_say():
    encoder = randomized(build_sample_cnn(CLMR.model, CLMR.frontend, seed=3))
    window = np.random.default_rng(1).uniform(-1, 1, (243, 243)).astype(np.float32)
    part = encoder.get_layer

    values = window.reshape(-1, 1)  # frame by frame, and sample by sample
    values = normalize(convolve(values, part("stem_conv"), 3), part("stem_bn"))
    for number in range(1, 10):
        block = f"block{number}"
        values = convolve(values, part(f"{block}_conv"))
        values = normalize(values, part(f"{block}_bn"))
        values = values.reshape(-1, 3, values.shape[1]).max(axis=1)
    values = normalize(convolve(values, part("last_conv")), part("last_bn"))
    assert values.shape == (1, 512) and (values > 0).mean() > 0.1
    windows = window[np.newaxis, :, :, np.newaxis]
    found = np.asarray(encoder(windows, training=False))
    scale = np.abs(values).max()
    np.testing.assert_allclose(found / scale, values / scale, atol=1e-5)
    folded = fold_batch_normalization(encoder)(windows, training=False)
    assert not [w for w in folded if np.isnan(w).any()]
    np.testing.assert_allclose(folded / scale, values / scale, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, FusedBatchNormalization),
        ({"sync_batch_norm": True}, SynchronizedBatchNormalization),
        ({"fused_batch_norm": False}, keras.layers.BatchNormalization),
    ],
)
def test_its_batch_normalization_is_the_configurations(fields, kind):
    config = dataclasses.replace(CLMR.model, backbone="tiny", **fields)
    encoder = build_sample_cnn(config, CLMR.frontend)
    found = [
        layer
        for layer in encoder.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(found) == 4 and {type(layer) for layer in found} == {kind}


def test_a_seed_gives_its_weights():
    config = dataclasses.replace(CLMR.model, backbone="tiny")
    first, same, other = (
        build_sample_cnn(config, CLMR.frontend, seed).get_weights()
        for seed in (1, 1, 2)
    )
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [n for n, w in enumerate(first) if w.ndim == 4]
    assert len(kernels) == 4
    assert all((first[n] != other[n]).any() for n in kernels)
    # No two layers begin alike.
    assert len({float(first[n].ravel()[0]) for n in kernels}) == 4
