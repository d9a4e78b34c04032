"""An encoder with folded batch normalization against the encoder itself."""

import keras
import numpy as np
import pytest

from cola_msa.config.schema import ModelConfig
from cola_msa.evaluation.probes import features
from cola_msa.model.encoder import build_encoder
from cola_msa.model.folding import fold_batch_normalization


def _trained(**fields):
    """An encoder whose batch normalizations do something, channel by channel."""
    encoder = build_encoder(ModelConfig(**fields), log_mel_mean=-6.0, log_mel_std=3.0)
    random = np.random.default_rng(0)
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.gamma.assign(random.uniform(0.5, 1.5, shape))
            layer.beta.assign(random.normal(0, 0.3, shape))
            layer.moving_mean.assign(random.normal(0, 0.3, shape))
            layer.moving_variance.assign(random.uniform(0.3, 3.0, shape))
    return encoder


def _windows(count=5, frames=98):
    shape = (count, frames, 64, 1)
    return np.random.default_rng(1).normal(-6, 3, shape).astype(np.float32)


def _relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "tiny"},
        {"backbone": "efficientnetb0"},
        {"backbone": "efficientnetb0", "fused_batch_norm": False},
        {"backbone": "efficientnetb0", "sync_batch_norm": True},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_folded_encoder_equals_the_encoder(fields):
    encoder = _trained(**fields)
    folded = fold_batch_normalization(encoder)
    assert not any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers
    )
    for frames in (98, 197):
        windows = _windows(frames=frames)
        expected = encoder(windows, training=False).numpy()
        assert _relative(folded(windows, training=False).numpy(), expected) < 1e-5


def test_the_encoder_stays_as_it_is_and_its_copy_too():
    encoder = _trained(backbone="tiny")
    windows = _windows()
    expected = encoder(windows, training=False).numpy()
    before = [w.copy() for w in encoder.get_weights()]
    folded = fold_batch_normalization(encoder)
    for was, now in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    encoder.set_weights([w + 0.1 for w in before])
    assert _relative(folded(windows, training=False).numpy(), expected) < 1e-5


def test_convolutions_that_round_elsewhere_are_left_alone():
    inputs = keras.Input((None, 64, 1))
    hidden = keras.layers.Conv2D(4, 3, activation="relu")(inputs)  # before the norm
    hidden = keras.layers.BatchNormalization()(hidden)
    branched = keras.layers.Conv2D(4, 3, use_bias=True)(hidden)
    hidden = keras.layers.BatchNormalization()(branched)
    half = keras.layers.Conv2D(4, 3, dtype="mixed_float16")(hidden)
    half = keras.layers.BatchNormalization()(half)
    alone = keras.layers.Conv2D(4, 3, use_bias=True)(hidden)
    alone = keras.layers.BatchNormalization()(alone)
    outputs = [
        keras.layers.GlobalMaxPooling2D()(x) for x in (branched, half, alone, hidden)
    ]
    encoder = keras.Model(inputs, outputs)
    folded = fold_batch_normalization(encoder)
    kept = [
        layer
        for layer in folded.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(kept) == 3
    windows = _windows()
    for found, expected in zip(folded(windows), encoder(windows), strict=True):
        # Half precision rounds by 1e-3, and by the same in both.
        assert _relative(found.numpy(), expected.numpy()) < 1e-4


def test_a_split_is_embedded_by_the_folded_network():
    encoder = _trained(backbone="tiny")
    embed = features.embed_function(encoder, 98, 64)
    windows = _windows()[..., 0].astype(np.float16)
    expected = encoder(windows[..., np.newaxis].astype(np.float32), training=False)
    np.testing.assert_allclose(embed(windows), expected, rtol=2e-3, atol=1e-3)
    operations = {o.type for o in embed.get_concrete_function().graph.get_operations()}
    assert not any("BatchNorm" in name for name in operations)
