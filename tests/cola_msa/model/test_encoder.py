import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import ConfigError, ModelConfig
from cola_msa.model.encoder import (
    FusedBatchNormalization,
    InputScaling,
    StochasticDepth,
    build_encoder,
    collect_batch_statistics,
    normalization_layer,
    set_input_normalization,
)

TINY = ModelConfig(backbone="tiny", drop_connect_rate=0.0)


@pytest.fixture
def images():
    return tf.constant(
        np.random.default_rng(0).normal(2.0, 3.0, (6, 5, 4, 3)), tf.float32
    )


def norm_pair(images):
    layers = [FusedBatchNormalization(), keras.layers.BatchNormalization()]
    random = np.random.default_rng(1)
    weights = [random.uniform(0.5, 2.0, 3) for _ in range(4)]
    for layer in layers:
        layer.build(images.shape)
        layer.set_weights(weights)
    return layers


@pytest.mark.parametrize("training", [True, False])
def test_fused_batch_norm_equals_keras(images, training):
    outputs, gradients = [], []
    fused, plain = norm_pair(images)
    for layer in (fused, plain):
        with tf.GradientTape() as tape:
            tape.watch(images)
            output = layer(images, training=training)
            loss = tf.reduce_sum(tf.sin(output))
        outputs.append(output)
        variables = [v.value for v in layer.trainable_variables]
        gradients.append(tape.gradient(loss, [images, *variables]))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_collected_statistics_are_the_batchs_own(images):
    layer, _ = norm_pair(images)
    before = layer.get_weights()
    with collect_batch_statistics() as found:
        output = layer(images, training=False)
    [(mean, variance)] = found
    np.testing.assert_allclose(mean, images.numpy().mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, images.numpy().var((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(output, layer(images, training=True).numpy(), atol=1e-5)
    assert not np.allclose(output, layer(images, training=False).numpy())
    np.testing.assert_array_equal(before[0], layer.get_weights()[0])


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    layer = StochasticDepth(0.25, noise_shape=(None, 1, 1, 1), seed=3)
    output = layer(tf.ones([4000, 2, 2, 1]), training=True).numpy()
    per_example = output.reshape(4000, -1)
    assert (per_example == per_example[:, :1]).all()
    assert set(np.round(np.unique(output), 5)) == {0.0, np.float32(1.33333)}
    assert (per_example[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(layer(tf.ones([3, 2, 2, 1]), training=False), 1.0)


def test_seed_decides_the_initial_weights():
    def weights(seed):
        return build_encoder(TINY, seed=seed).get_weights()

    for a, b in zip(weights(1), weights(1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(weights(1)[3], weights(2)[3])


def test_input_normalization_uses_the_datas_mean_and_deviation():
    encoder = build_encoder(TINY, log_mel_mean=-3.0, log_mel_std=2.5)
    layer = normalization_layer(encoder)
    head = keras.Model(encoder.input, layer.output)
    mel = np.random.default_rng(0).normal(-3.0, 2.5, (2, 98, 64, 1))
    np.testing.assert_allclose(head(mel), (mel + 3.0) / 2.5, rtol=1e-3, atol=1e-4)


def test_no_input_normalization_leaves_the_division_alone():
    config = dataclasses.replace(TINY, input_normalization="none")
    encoder = build_encoder(config, log_mel_mean=-3.0, log_mel_std=2.5)
    head = keras.Model(encoder.input, normalization_layer(encoder).output)
    mel = np.full((1, 98, 64, 1), 51.0, np.float32)
    np.testing.assert_allclose(head(mel), 0.2, rtol=1e-5)


BANDS = dataclasses.replace(TINY, input_normalization="bands")


@pytest.mark.parametrize("clip", [0.0, 1.5])
@pytest.mark.parametrize("band_channel", [False, True])
def test_input_scaling_equals_a_loop(clip, band_channel):
    config = dataclasses.replace(BANDS, input_clip=clip, band_channel=band_channel)
    encoder = build_encoder(config)
    random = np.random.default_rng(0)
    mean, std = random.normal(-4, 1, 64), random.uniform(0.5, 3, 64)
    set_input_normalization(encoder, mean, std)
    head = keras.Model(encoder.input, normalization_layer(encoder).output)
    mel = random.normal(-4, 3, (2, 5, 64, 1)).astype(np.float32)
    found = head(mel).numpy()
    assert found.shape == (2, 5, 64, 1 + band_channel)
    for band in range(64):
        expected = (mel[:, :, band, 0] - mean[band]) / std[band]
        if clip:
            expected = np.minimum(np.maximum(expected, -clip), clip)
        np.testing.assert_allclose(found[:, :, band, 0], expected, atol=1e-5)
        if band_channel:
            place = -1.7 + 3.4 * band / 63
            np.testing.assert_allclose(found[:, :, band, 1], place, atol=1e-5)


def test_input_scaling_takes_the_datas_moments_and_is_not_trained():
    config = dataclasses.replace(TINY, input_clip=2.0)
    encoder = build_encoder(config, log_mel_mean=-3.0, log_mel_std=2.5)
    head = keras.Model(encoder.input, normalization_layer(encoder).output)
    mel = np.array([-11.5, -3.0, -0.5, 5.0], np.float32).reshape(1, 4, 1, 1)
    found = head(np.tile(mel, (1, 1, 64, 1))).numpy()[0, :, 7, 0]
    np.testing.assert_allclose(found, [-2.0, 0.0, 1.0, 2.0], atol=1e-5)
    names = [v.path for v in encoder.trainable_variables]
    assert not [name for name in names if "input_scaling" in name]
    kept = {v.path for v in encoder.variables}
    assert {"input_scaling/mean", "input_scaling/deviation"} <= kept


def test_new_input_options_leave_other_encoders_as_they_were():
    encoder = build_encoder(TINY)
    assert not [layer for layer in encoder.layers if isinstance(layer, InputScaling)]
    with pytest.raises(ConfigError, match="input_normalization"):
        dataclasses.replace(TINY, input_normalization="none", input_clip=3.0)


@pytest.mark.parametrize(
    ("field", "value"), [("backbone", "resnet"), ("input_normalization", "batch")]
)
def test_unknown_names_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        build_encoder(dataclasses.replace(TINY, **{field: value}))


def test_efficientnet_equals_the_released_layout(shared_reference):
    import json

    folder = shared_reference / "released_layout_checkpoint"
    expected = np.load(folder / "expected.npz")
    reader = tf.train.load_checkpoint(str(folder / "checkpoint-1"))
    config = ModelConfig(input_normalization="none")
    encoder = build_encoder(config)
    assigned = 0
    for key, (layer, weight, shape) in json.loads(
        (folder / "key_map.json").read_text()
    ).items():
        if not layer.startswith("encoder/"):
            continue
        target = encoder.get_layer(layer.split("/")[1])
        variables = [v for v in target.variables if v.name == weight]
        assert len(variables) == 1, (layer, weight, [v.name for v in target.variables])
        value = reader.get_tensor(key)
        assert list(value.shape) == shape
        variables[0].assign(value.reshape(variables[0].shape))
        assigned += 1
    assert assigned == len(encoder.variables) - sum(
        "seed_generator" in v.path for v in encoder.variables
    )
    normalization_layer(encoder).finalize_state()
    for size in ("98", "392"):
        found = encoder.predict(expected[f"x{size}"], verbose=0)
        difference = np.linalg.norm(found - expected[f"enc{size}"])
        assert difference < 1e-4 * np.linalg.norm(expected[f"enc{size}"])
