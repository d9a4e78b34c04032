"""Layers for the CPU against Keras's own: values, gradients, whole updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import ModelConfig
from cola_msa.model import cpu_layers
from cola_msa.model.acceleration import dtype_policy
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.encoder import build_encoder

MODES = ("eager", "graph")
# Kernel, stride, padding, height, width; the last two are narrower than the kernel.
DEPTHWISE = [
    (5, 1, "same", 13, 8),
    (5, 2, "valid", 17, 12),
    (7, 1, "same", 7, 4),
    (5, 1, "same", 4, 2),
    (5, 1, "same", 1, 3),
]


def _relative(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def _values_and_gradients(layer, inputs, upstream, mode, **options):
    """(output, gradients of sum(output * upstream): inputs' and weights')."""

    def compute(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layer(inputs, **options)
            score = tf.reduce_sum(output * upstream)
        weights = [v.value for v in layer.trainable_variables]
        return [output, *tape.gradient(score, [inputs, *weights])]

    compute = compute if mode == "eager" else tf.function(compute)
    return compute(tf.constant(inputs), tf.constant(upstream))


def _compare(layer, replaced, inputs, mode, **options):
    layer.build(inputs.shape)
    replaced.build(inputs.shape)
    replaced.set_weights(layer.get_weights())
    random = np.random.default_rng(1)
    upstream = random.normal(size=layer(inputs).shape).astype(np.float32)
    expected = _values_and_gradients(layer, inputs, upstream, mode, **options)
    found = _values_and_gradients(replaced, inputs, upstream, mode, **options)
    assert len(found) == len(expected)
    for ours, keras_own in zip(found, expected, strict=True):
        assert ours.shape == keras_own.shape
        assert _relative(ours, keras_own) < 1e-5


def _inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "stride", "padding", "height", "width"), DEPTHWISE)
def test_depthwise_convolution_equals_keras(size, stride, padding, height, width, mode):
    layer = keras.layers.DepthwiseConv2D(
        size, strides=stride, padding=padding, use_bias=False
    )
    replaced = cpu_layers.cpu_layer(layer)
    assert replaced is cpu_layers.CpuDepthwiseConv2D
    replaced = replaced.from_config(layer.get_config())
    _compare(layer, replaced, _inputs(3, height, width, 6), mode)


def _clone(model):
    return keras.models.clone_model(
        model,
        clone_function=lambda old: cpu_layers.cpu_layer(old).from_config(
            old.get_config()
        ),
    )


def _padded(size, padding, height):
    inputs = keras.Input((height, 8, 6))
    padded = keras.layers.ZeroPadding2D(padding)(inputs)
    layer = keras.layers.DepthwiseConv2D(size, strides=2, use_bias=False)
    return keras.Model(inputs, layer(padded))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(
    ("size", "padding"),
    [(3, ((0, 1), (0, 1))), (5, ((1, 2), (1, 2))), (5, ((2, 2), (1, 2)))],
)
@pytest.mark.parametrize("height", [13, 12, 3])
def test_strided_convolution_that_pads_on_its_own_equals_keras(
    height, size, padding, is_training, mode
):
    layer = _padded(size, padding, height)
    replaced = _clone(layer)
    assert [type(part) for part in replaced.layers[1:]] == [
        cpu_layers.CpuZeroPadding2D,
        cpu_layers.CpuDepthwiseConv2D,
    ]
    inputs = _inputs(3, height, 8, 6)
    _compare(layer, replaced, inputs, mode, training=is_training)
    if mode == "graph":
        graph = tf.function(lambda x: replaced(x, training=is_training))
        concrete = graph.get_concrete_function(tf.constant(inputs))
        kinds = {operation.type for operation in concrete.graph.get_operations()}
        assert ("Pad" in kinds) != is_training


def test_padding_that_another_layer_sees_stays_as_it_is():
    layer = _padded(3, 1, 12)
    padded = layer.layers[1].output
    both = keras.Model(layer.inputs, [layer.output, keras.layers.ReLU()(padded)])
    assert type(_clone(both).layers[1]) is keras.layers.ZeroPadding2D
    inputs = _inputs(2, 12, 8, 6)
    clone = _clone(both)
    clone.set_weights(both.get_weights())
    for found, expected in zip(
        clone(inputs, training=True), both(inputs, training=True), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", [None, "swish", "sigmoid"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_pointwise_convolution_equals_keras(use_bias, activation, mode):
    layer = keras.layers.Conv2D(
        7, 1, use_bias=use_bias, activation=activation, bias_initializer="normal"
    )
    replaced = cpu_layers.cpu_layer(layer)
    assert replaced is cpu_layers.CpuPointwiseConv2D
    replaced = replaced.from_config(layer.get_config())
    _compare(layer, replaced, _inputs(3, 5, 4, 6), mode)


@pytest.mark.parametrize("mode", MODES)
def test_swish_equals_keras_and_its_formula(mode):
    layer = keras.layers.Activation("swish")
    assert cpu_layers.cpu_layer(layer) is cpu_layers.CpuSwish
    # Far out, where exp overflows if it is used carelessly.
    inputs = np.concatenate([_inputs(500), [-200, -90, 0, 90, 200]]).astype(np.float32)
    _compare(layer, cpu_layers.CpuSwish("swish"), inputs, mode)
    _, gradient = _values_and_gradients(
        cpu_layers.CpuSwish("swish"), inputs, np.ones_like(inputs), mode
    )
    sigmoid = 1 / (1 + np.exp(-inputs.astype(np.float64)))
    expected = sigmoid + inputs * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def _gate(activation, average):
    inputs = keras.Input((None, 4, 3))
    active = activation(inputs)
    gate = keras.layers.Reshape((1, 1, 3))(average(active))
    return keras.Model(inputs, keras.layers.multiply([active, gate]))


@pytest.mark.parametrize("mode", MODES)
def test_swish_with_its_mean_equals_keras(mode):
    layer = _gate(
        keras.layers.Activation("swish"), keras.layers.GlobalAveragePooling2D()
    )
    replaced = _clone(layer)
    kinds = {type(part) for part in replaced.layers}
    assert {cpu_layers.CpuSwishAndMean, cpu_layers.CpuGlobalAverage} <= kinds
    _compare(layer, replaced, _inputs(2, 5, 4, 3), mode)


def test_global_average_of_another_tensor_is_its_own():
    inputs = _inputs(2, 5, 4, 3)
    found = cpu_layers.CpuGlobalAverage()(inputs)
    np.testing.assert_allclose(found, inputs.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        keras.layers.DepthwiseConv2D(3, strides=2, use_bias=False),
        keras.layers.ZeroPadding2D(1),
        keras.layers.DepthwiseConv2D(5, strides=2, padding="same", use_bias=False),
        keras.layers.DepthwiseConv2D(5, padding="same"),
        keras.layers.DepthwiseConv2D(5, padding="same", dilation_rate=2),
        keras.layers.DepthwiseConv2D((5, 3), padding="same", use_bias=False),
        keras.layers.Conv2D(4, 3),
        keras.layers.Conv2D(4, 1, strides=2),
        keras.layers.Conv2D(4, 1, groups=2),
        keras.layers.Conv2D(4, 1, data_format="channels_first"),
        keras.layers.Activation("relu"),
        keras.layers.Dense(3),
    ],
)
def test_other_layers_stay_as_they_are(layer):
    assert cpu_layers.cpu_layer(layer) is type(layer)


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match="kernels"):
        build_encoder(ModelConfig(backbone="tiny"), kernels="fpga")


def test_a_gpu_keeps_keras_own_kernels(monkeypatch):
    assert cpu_layers.default_kernels() == "cpu"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert cpu_layers.default_kernels() == "keras"


def _pairs(num_pairs):
    random = np.random.default_rng(3)
    shape = (num_pairs, 98, 64, 1)
    return {
        "anchor": tf.constant(random.normal(-3, 2, shape), tf.float32),
        "positive": tf.constant(random.normal(-3, 2, shape), tf.float32),
        "is_active": tf.constant(np.arange(num_pairs) % 4 > 0),
        "source": tf.zeros(num_pairs, tf.int32),
    }


def _train(backbone, is_ours, start=None):
    """Three updates of SGD: outputs, first gradients, variables afterwards, names."""
    keras.utils.set_random_seed(0)
    config = ModelConfig(
        backbone=backbone, fused_batch_norm=is_ours, drop_connect_rate=0.0
    )
    # Well-conditioned, or rounding grows to percents within three updates: normalized
    # inputs, and a rate that fits gradients of norm 100.
    model = ContrastiveModel(
        config,
        log_mel_mean=-3.0,
        log_mel_std=2.0,
        kernels="cpu" if is_ours else "keras",
    )
    model.optimizer = keras.optimizers.SGD(1e-4)
    model.optimizer.build(model.trainable_variables)
    batch = _pairs(16)

    start = start or [v.numpy() for v in model.variables]
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)

    @tf.function(autograph=False)
    def update():
        with tf.GradientTape() as tape:
            scores = model.score_pairs(batch, training=True)
        weights = model.trainable_variables
        slopes = tape.gradient(scores["loss"], [v.value for v in weights])
        model.optimizer.apply_gradients(zip(slopes, weights, strict=True))
        return scores["row_loss"], slopes

    outputs, slopes = update()
    for _ in range(2):
        update()
    inference = model(batch["anchor"], training=False)
    return {
        "outputs": [outputs, inference],
        "gradients": slopes,
        "start": start,
        "variables": [v.numpy() for v in model.variables],
        "paths": [v.path.split("/", 1)[-1] for v in model.variables],
        "moving": ["moving" in v.path for v in model.variables],
    }


# The real network multiplies rounding: where its inputs change by 1e-7, Keras's own
# layers move the weights by 9e-4 of the way that they go in three updates, and where a
# maximum over positions changes its place, a gradient jumps (5e-4 was seen without
# AVX-512). Double precision, below, tells a wrong gradient from a rounded one.
@pytest.mark.parametrize(
    ("backbone", "limit"),
    [
        ("tiny", 1e-4),
        pytest.param("efficientnetb0", 1e-3, marks=pytest.mark.slow),
    ],
)
def test_whole_model_equals_keras_own(backbone, limit):
    plain = _train(backbone, False)
    ours = _train(backbone, True, plain["start"])
    assert ours["paths"] == plain["paths"]
    for found, expected in zip(ours["outputs"], plain["outputs"], strict=True):
        assert _relative(found, expected) < 1e-4
    flat = [
        np.concatenate([np.ravel(g) for g in r["gradients"]]) for r in (ours, plain)
    ]
    assert np.linalg.norm(flat[1]) > 0
    assert _relative(*flat) < limit

    def moves(run, is_moving):
        chosen = zip(run["variables"], run["start"], run["moving"], strict=True)
        return np.concatenate(
            [np.ravel(v - s) for v, s, m in chosen if m == is_moving and v.size]
        )

    for is_moving in (True, False):
        expected = moves(plain, is_moving)
        assert np.linalg.norm(expected) > 0
        found = _relative(moves(ours, is_moving), expected)
        assert found < (1e-4 if is_moving else limit)


@pytest.mark.slow
def test_efficientnetb0_has_keras_gradients_in_double_precision():
    """All layers but the fused batch normalization, which knows float32 alone."""
    config = ModelConfig(
        backbone="efficientnetb0", fused_batch_norm=False, drop_connect_rate=0.0
    )
    random = np.random.default_rng(3)
    windows = tf.constant(random.normal(0, 1, (8, 98, 64, 1)), tf.float64)
    start, found = [], {}
    for kernels in ("keras", "cpu"):
        keras.utils.set_random_seed(0)
        with dtype_policy("float64"):
            encoder = build_encoder(config, kernels=kernels)
        start = start or [v.numpy() for v in encoder.variables]
        for variable, value in zip(encoder.variables, start, strict=True):
            variable.assign(value)
        weights = [v.value for v in encoder.trainable_variables]

        @tf.function(autograph=False)
        def slopes(encoder=encoder, weights=weights):
            with tf.GradientTape() as tape:
                embeddings = encoder(windows, training=True)
                loss = tf.reduce_sum(embeddings**2)
            return embeddings, tape.gradient(loss, weights)

        embeddings, gradients = slopes()
        assert embeddings.dtype == tf.float64
        found[kernels] = embeddings, np.concatenate([np.ravel(g) for g in gradients])
    for ours, plain in zip(found["cpu"], found["keras"], strict=True):
        assert np.linalg.norm(plain) > 0
        assert _relative(ours, plain) < 1e-12
    # Other operations ran, or nothing was compared.
    assert not np.array_equal(found["cpu"][1], found["keras"][1])


def test_gradients_are_traced_where_sizes_are_not_known():
    """What saving an export does with every custom gradient."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 4], tf.float32)])
    def gradient(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, mean = cpu_layers.swish_and_mean(inputs)
            loss = tf.reduce_sum(outputs**2) + tf.reduce_sum(mean**3)
        return tape.gradient(loss, inputs)

    inputs = tf.random.stateless_normal([2, 5, 3, 4], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = inputs * tf.sigmoid(inputs)
        mean = tf.reduce_mean(outputs, [1, 2], keepdims=True)
        loss = tf.reduce_sum(outputs**2) + tf.reduce_sum(mean**3)
    expected = tape.gradient(loss, inputs)
    np.testing.assert_allclose(gradient(inputs), expected, rtol=1e-4, atol=1e-5)
