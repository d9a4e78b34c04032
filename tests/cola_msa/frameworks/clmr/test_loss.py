"""NT-Xent against independent loops, its gradients, and over two replicas."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.frameworks.clmr.loss import nt_xent
from tests.helpers.commands import run_script

PAIRS, DIM = 6, 5


def projections(seed=0, size=PAIRS):
    random = np.random.default_rng(seed)
    anchor = random.normal(size=(size, DIM))
    # Some pairs are found, some are not.
    positive = anchor * random.uniform(-0.5, 1.0, (size, 1)) + random.normal(
        size=(size, DIM)
    )
    return anchor, positive


def loop(anchor, positive, temperature, rows=None):
    """Each row's loss, and whether its own other crop is the nearest; in order."""
    crops = [*anchor, *positive]
    losses, found = [], []
    for i in range(len(crops)) if rows is None else rows:
        own = (i + len(anchor)) % len(crops)
        logits = {}
        for k, other in enumerate(crops):
            if k != i:
                product = sum(a * b for a, b in zip(crops[i], other, strict=True))
                lengths = np.sqrt(sum(crops[i] ** 2)) * np.sqrt(sum(other**2))
                logits[k] = product / lengths / temperature
        total = sum(np.exp(logit) for logit in logits.values())
        losses.append(np.log(total) - logits[own])
        found.append(max(logits, key=lambda k: logits[k]) == own)
    return np.array(losses), np.array(found)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_the_loops(temperature, seed):
    anchor, positive = projections(seed)
    losses, found = loop(anchor, positive, temperature)
    scores = nt_xent(
        tf.constant(anchor, tf.float32), tf.constant(positive, tf.float32), temperature
    )
    np.testing.assert_allclose(
        scores.row_loss, losses.reshape(2, -1).mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(scores.is_correct, found.reshape(2, -1).mean(0))
    assert float(scores.columns) == 2 * PAIRS - 1


def numeric_gradient(anchor, positive, temperature):
    """By central differences of the loop's mean, in double precision."""
    gradients = []
    for values in (anchor, positive):
        gradient = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            means = []
            for change in (1e-5, -1e-5):
                kept = values[place]
                values[place] = kept + change
                means.append(loop(anchor, positive, temperature)[0].mean())
                values[place] = kept
            gradient[place] = (means[0] - means[1]) / 2e-5
        gradients.append(gradient)
    return gradients


def test_its_gradients_are_the_loops():
    anchor, positive = projections()
    given = [tf.constant(z, tf.float32) for z in (anchor, positive)]
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_mean(nt_xent(*given, 0.5).row_loss)
    found = tape.gradient(loss, given)
    expected = numeric_gradient(anchor, positive, 0.5)
    for mine, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs).max() > 0.01
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_what_is_all_the_same_is_chance():
    same = tf.ones([4, 3])
    scores = nt_xent(same, same, 0.5)
    np.testing.assert_allclose(scores.row_loss, np.log(7), rtol=1e-6)


def test_a_projection_of_zeros_leaves_loss_and_gradient_finite():
    anchor, positive = tf.zeros([3, 4]), tf.ones([3, 4])
    with tf.GradientTape() as tape:
        tape.watch(anchor)
        loss = tf.reduce_mean(nt_xent(anchor, positive, 0.5).row_loss)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, anchor)).all()


# Logical devices are fixed at TensorFlow's start: two need a process of their own.
TWO_REPLICAS = """
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cola_msa.frameworks.clmr.loss import nt_xent
from tests.cola_msa.frameworks.clmr import test_loss as cases

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
anchor, positive = cases.projections()

def halves(array):
    parts = np.split(array.astype(np.float32), 2)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group]))

def replica_step(anchor, positive):
    with tf.GradientTape() as tape:
        tape.watch([anchor, positive])
        scores = nt_xent(anchor, positive, 0.5, over_replicas=True)
        loss = tf.reduce_mean(scores.row_loss) / 2
    gradients = tape.gradient(loss, [anchor, positive])
    return scores.row_loss, scores.is_correct, scores.columns, gradients

found = tf.function(lambda a, p: strategy.run(replica_step, args=(a, p)))(
    halves(anchor), halves(positive))

def joined(values):
    return np.concatenate([
        v.numpy() for v in strategy.experimental_local_results(values)])

losses, is_nearest = cases.loop(anchor, positive, 0.5)
np.testing.assert_allclose(joined(found[0]), losses.reshape(2, -1).mean(0), rtol=1e-5)
np.testing.assert_allclose(joined(found[1]), is_nearest.reshape(2, -1).mean(0))
columns = strategy.experimental_local_results(found[2])
assert [float(c) for c in columns] == [2 * cases.PAIRS - 1] * 2
for mine, theirs in zip(
        found[3], cases.numeric_gradient(anchor, positive, 0.5), strict=True):
    np.testing.assert_allclose(joined(mine), theirs, atol=1e-5)
"""


def test_two_replicas_are_one_with_all_their_pairs(tmp_path):
    run_script(TWO_REPLICAS, cwd=tmp_path)
