"""Accumulated and cached gradients against plain ones, computed another way."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.model import losses
from cola_msa.pairs.sampler import PairSampler
from cola_msa.training.trainer import Trainer
from cola_msa.training.updates import UpdateError, Updater, num_parts
from tests.cola_msa.model.test_contrastive import make_batch, make_model
from tests.conftest import tiny_config

RATE = 0.1


def build(is_frozen=False, **fields):
    """The tiny network with plain SGD; frozen means moving statistics normalize."""
    model = make_model(**{"kernel_scale": 0.05, **fields})
    if is_frozen:
        for layer in model.batch_norm_layers():
            layer.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    model.optimizer.build(model.trainable_variables)
    return model


def updater(model, **fields):
    train = TrainConfig(**fields)
    return Updater(model, tf.distribute.get_strategy(), train, ("a", "b"))


def values(model):
    return {v.path: np.array(v) for v in model.variables}


def assert_same_state(found, expected, start, tolerance=1e-5):
    """Compares what an update changed; integers (seeds) must be equal."""
    moved, wanted = [], []
    for (path, a), b, c in zip(
        values(found).items(), values(expected).values(), start.values(), strict=True
    ):
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b, err_msg=path)
            continue
        moved.append((a - c).ravel())
        wanted.append((b - c).ravel())
    moved, wanted = np.concatenate(moved), np.concatenate(wanted)
    assert np.linalg.norm(wanted) > 1e-3
    assert np.linalg.norm(moved - wanted) < tolerance * np.linalg.norm(wanted)


def apply_by_hand(model, gradients):
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign(np.array(variable) - RATE * np.asarray(gradient))


def test_accumulation_is_the_mean_of_the_mini_batches_gradients():
    """With batch statistics and stochastic depth, each mini-batch has its own."""
    batches = [make_batch(seed=n, num_silent=n) for n in range(3)]
    model, other = (build(drop_connect_rate=0.5) for _ in range(2))
    start = values(model)
    scalars = updater(model, accumulate=3, batch_size=8)(batches)
    found = [other.pair_gradients(batch) for batch in batches]
    apply_by_hand(
        other, [np.mean(g, 0) for g in zip(*(g for g, _ in found), strict=True)]
    )
    assert_same_state(model, other, start)
    loss = np.mean([float(row["loss"]) for _, row in found])
    assert float(scalars["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(scalars["count/a"]) == 1 and float(scalars["loss/b"]) == 0


def test_accumulation_equals_one_large_batch_that_contrasts_within_blocks():
    """Without batch statistics the only difference left is who is compared to whom."""
    batches = [make_batch(seed=n, num_silent=2) for n in range(2)]
    large = {name: tf.concat([b[name] for b in batches], 0) for name in batches[0]}
    model, other = (build(is_frozen=True) for _ in range(2))
    start = values(model)
    updater(model, accumulate=2, batch_size=8)(batches)
    with tf.GradientTape() as tape:
        anchor, positive = other.project_pairs(large, training=True)
        parts = zip(
            tf.split(anchor, 2),
            tf.split(positive, 2),
            tf.split(large["is_active"], 2),
            strict=True,
        )
        loss = tf.add_n(
            [losses.silent_centroid_loss(*p, other.similarity, 0.2) / 2 for p in parts]
        )
    apply_by_hand(
        other, tape.gradient(loss, [v.value for v in other.trainable_variables])
    )
    assert_same_state(model, other, start)
    whole = build(is_frozen=True)
    whole.train_step(large)
    with pytest.raises(AssertionError):
        assert_same_state(model, whole, start, tolerance=0.1)


@pytest.mark.parametrize("micro_batch", [2, 8])
@pytest.mark.parametrize(
    "fields", [{}, {"similarity": "cosine"}, {"silence": "learned"}]
)
def test_cached_gradients_are_the_whole_batchs(micro_batch, fields):
    """Without batch statistics and stochastic depth nothing else differs."""
    batch = make_batch(8, num_silent=3)
    model, whole = (build(is_frozen=True, **fields) for _ in range(2))
    start = values(model)
    found = updater(model, micro_batch=micro_batch, batch_size=8)(batch)
    expected = whole.train_step(batch)
    assert_same_state(model, whole, start)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4), name


def test_both_passes_see_one_network():
    """With batch statistics and stochastic depth: one tape over all parts' passes."""
    batch = make_batch(8, num_silent=3)
    model, other = (build(drop_connect_rate=0.5) for _ in range(2))
    start = values(model)
    found = updater(model, micro_batch=2, batch_size=8)(batch)
    with tf.GradientTape() as tape:
        parts = [
            other.project_pairs(
                {name: value[first : first + 2] for name, value in batch.items()},
                training=True,
            )
            for first in range(0, 8, 2)
        ]
        anchor, positive = (tf.concat(p, 0) for p in zip(*parts, strict=True))
        loss = losses.silent_centroid_loss(
            anchor, positive, batch["is_active"], other.similarity, 0.2
        )
    apply_by_hand(
        other, tape.gradient(loss, [v.value for v in other.trainable_variables])
    )
    assert float(found["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert_same_state(model, other, start)


def test_accumulated_cached_gradients():
    batches = [make_batch(seed=n) for n in range(2)]
    model, other = (build(is_frozen=True) for _ in range(2))
    start = values(model)
    updater(model, accumulate=2, micro_batch=4, batch_size=8)(batches)
    found = [other.pair_gradients(batch)[0] for batch in batches]
    apply_by_hand(other, [np.mean(g, 0) for g in zip(*found, strict=True)])
    assert_same_state(model, other, start)


def test_parts_must_divide_the_batch(prepared, tmp_path):
    assert num_parts(TrainConfig(batch_size=12, micro_batch=4)) == 3
    with pytest.raises(UpdateError, match="--micro_batch=5 must divide --batch_size=8"):
        Trainer(tiny_config(micro_batch=5), prepared, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("replicas", "first"), [(1, 0), (2, 4)])
def test_micro_batches_are_drawn_in_order(prepared, replicas, first):
    config = TrainConfig(batch_size=4, seed=5, source="none", augment="mws")
    sampler = PairSampler(prepared, config)
    elements = list(sampler.dataset(7, 2, replicas, 3, first))
    assert len(elements) == 2 * replicas * 3
    seen = set()
    for number, element in enumerate(elements):
        update, rest = 7 + number // (3 * replicas), number % (3 * replicas)
        micro_batch, replica = rest // replicas, first + rest % replicas
        plain = {
            name: tf.cast(v, tf.float32) if v.dtype == np.float16 else tf.constant(v)
            for name, v in sampler.batch(update, replica, micro_batch).items()
        }
        expected = sampler.augment(
            plain,
            *(tf.constant(n, tf.int64) for n in (update, replica, micro_batch)),
        )
        for name, value in expected.items():
            np.testing.assert_array_equal(element[name], value)
        seen.add(element["anchor"].numpy().tobytes())
    assert len(seen) == len(elements)


def test_the_first_micro_batch_is_what_there_was_before(prepared):
    """Runs that were started without --accumulate go on with the same pairs."""
    sampler = PairSampler(prepared, TrainConfig(batch_size=4, seed=5))
    first = next(iter(sampler.dataset(3, 1, num_micro_batches=2)))
    np.testing.assert_array_equal(first["anchor"], sampler.batch(3)["anchor"])


def test_a_run_counts_all_pairs(prepared, tmp_path):
    config = tiny_config(steps=1, updates_per_step=2, accumulate=3, micro_batch=4)
    assert Trainer(config, prepared, tmp_path / "run").run() == "finished"
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert (done["updates"], done["pairs"]) == (2, 2 * 3 * 8)
