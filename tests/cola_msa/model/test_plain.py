"""The encoder as a plain function of arrays against Keras's layers."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.presets import PRESETS
from cola_msa.config.schema import FrontendConfig, ModelConfig
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.folding import fold_batch_normalization
from cola_msa.model.plain import batch_norm_names, list_variables, plain_encoder
from cola_msa.runs.network import plain_path

NUM_MELS = FrontendConfig().num_mels
CONFIGS = {
    "default": PRESETS["default"].model,
    "paper": PRESETS["paper"].model,  # with stochastic depth
    "levels, embeddings raw": ModelConfig(
        pooling="levels", input_normalization="bands", similarity="cosine"
    ),
    "levels": ModelConfig(pooling="levels", embedding="levels", embedding_scale="rms"),
    "learned silence, mean pooling": ModelConfig(
        silence="learned", pooling="mean", input_clip=2.0, projection_dim=64
    ),
}


def spread(model):
    """Gives batch normalization, and moments, values as training leaves them."""
    rng = np.random.default_rng(0)
    for variable in model.encoder.variables:
        name = variable.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance", "deviation"):
            variable.assign(rng.uniform(0.9, 1.2, variable.shape))
        elif name in ("beta", "moving_mean", "mean", "bias"):
            variable.assign(rng.normal(0, 0.05, variable.shape))
    if (level := model.level_embedding) is not None:
        level.mean.assign(rng.normal(0, 0.1, 2048))
        level.deviation.assign(rng.uniform(0.5, 2, 2048))
        level.magnitude.assign(0.02)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    built = ContrastiveModel(CONFIGS[request.param], log_mel_mean=-4.0, log_mel_std=3.0)
    spread(built)
    return built


def weights_of(model):
    return {plain_path(v): np.array(v) for v in model.variables}


def test_names_and_shapes_are_those_of_the_network(model):
    found = list_variables(model.config, NUM_MELS)
    assert found == tuple(
        (plain_path(v), tuple(v.shape), v.dtype) for v in model.variables
    )
    names = [layer.name for layer in model.batch_norm_layers()]
    assert batch_norm_names(list_variables(model.config, NUM_MELS)) == names


def test_the_tiny_network_is_left_to_keras():
    assert list_variables(ModelConfig(backbone="tiny"), NUM_MELS) == ()


@pytest.mark.parametrize("frames", [98, 61])
def test_embeddings_equal_those_of_the_folded_network(model, frames):
    rng = np.random.default_rng(1)
    windows = rng.normal(-4, 3, (3, frames, NUM_MELS, 1)).astype(np.float32)
    windows[2] -= 7.0
    expected = np.array(
        fold_batch_normalization(model.embedder())(windows, training=False)
    )
    embed = tf.function(plain_encoder(model.config, weights_of(model)))
    found = embed(tf.constant(windows)).numpy()
    assert np.linalg.norm(found) > 0
    # With weights drawn at random, rounding grows from layer to layer.
    difference = np.linalg.norm(found - expected, axis=1)
    assert np.all(difference < 3e-4 * np.linalg.norm(expected, axis=1))
