"""XLA and mixed precision: what is chosen, and that both train."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import ModelConfig, TrainConfig
from cola_msa.model import acceleration
from cola_msa.model.acceleration import AccelerationError, choose_acceleration
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.optimizers import build_optimizer
from cola_msa.runs import kept
from cola_msa.system import errors
from cola_msa.training.trainer import Trainer
from tests.cola_msa.model.test_contrastive import make_batch
from tests.conftest import tiny_config


@pytest.mark.parametrize("has_gpu", [True, False])
def test_auto_is_off_and_says_why(has_gpu):
    found = choose_acceleration(TrainConfig(), False, has_gpu)
    assert (found.jit_compile, found.policy) == (False, "float32")
    assert ("measured" if has_gpu else "on a CPU") in str(found)


def test_what_was_asked_for_is_said():
    train = TrainConfig(jit_compile="on", mixed_precision="bfloat16")
    assert str(choose_acceleration(train, False, True)) == "XLA on, mixed_bfloat16"


@pytest.mark.parametrize(
    ("fields", "is_synchronized", "flag"),
    [
        ({"global_negatives": True}, False, "--global_negatives"),
        ({"micro_batch": 4}, False, "--micro_batch"),
        ({}, True, "--sync_batch_norm"),
    ],
)
def test_xla_is_refused_where_it_cannot_work(fields, is_synchronized, flag):
    train = TrainConfig(jit_compile="on", **fields)
    with pytest.raises(AccelerationError, match=f"does not go with {flag}"):
        choose_acceleration(train, is_synchronized)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_gradients_in_half_precision_are_near_those_in_full(precision):
    config = ModelConfig(backbone="tiny", projection_dim=32, drop_connect_rate=0.0)
    batch, gradients = make_batch(), {}
    for policy in ("float32", f"mixed_{precision}"):
        keras.utils.set_random_seed(1)
        model = ContrastiveModel(config, None, 0.5, 2.0, 1, encoder_policy=policy)
        has_scale = policy == "mixed_float16"
        model.compile(optimizer=build_optimizer(TrainConfig(), has_scale))
        model.optimizer.build(model.trainable_variables)
        found, scalars = model.pair_gradients(batch)
        scale = float(model.optimizer.scale_loss(tf.constant(1.0)))
        assert (scale > 1000) == has_scale
        gradients[policy] = np.concatenate([np.ravel(g) / scale for g in found])
        assert scalars["loss"].dtype == tf.float32
        assert all(v.dtype == "float32" for v in model.trainable_variables)
        assert model.encoder.get_layer("conv1").compute_dtype == policy.removeprefix(
            "mixed_"
        )
    assert keras.config.dtype_policy().name == "float32"
    full, half = gradients.values()
    assert 0 < np.linalg.norm(full - half) < 0.1 * np.linalg.norm(full)


@pytest.mark.parametrize(
    "fields",
    [
        {"mixed_precision": "float16"},
        {"mixed_precision": "bfloat16"},
        {"jit_compile": "on"},
    ],
)
def test_a_run_trains_keeps_and_resumes(prepared, tmp_path, fields, finished_run):
    run_dir = tmp_path / "run"
    config = tiny_config(**fields)
    first = Trainer(config, prepared, run_dir)
    assert first.run() == "finished"
    rows = [json.loads(line) for line in open(run_dir / "metrics.jsonl")]
    expected = [json.loads(line) for line in open(finished_run / "metrics.jsonl")]
    assert rows[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.05)
    # Whatever the training computed in, the kept encoder is in float32.
    windows = np.random.default_rng(0).normal(2, 1.5, (3, 98, 64, 1)).astype(np.float32)
    embeddings = kept.load_model(run_dir).encoder(windows)
    assert embeddings.dtype == tf.float32
    (run_dir / "done.json").unlink()
    again = Trainer(config, prepared, run_dir)
    assert again.update == first.update
    for a, b in zip(
        again.model.optimizer.variables, first.model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    assert again.run() == "finished"  # which lets others into the run directory
    with pytest.raises(errors.RunError, match="train.mixed_precision|train.jit"):
        Trainer(tiny_config(), prepared, run_dir)


def test_the_policy_is_put_back_after_an_error():
    with pytest.raises(KeyError), acceleration.dtype_policy("mixed_bfloat16"):
        raise KeyError
    assert keras.config.dtype_policy().name == "float32"
