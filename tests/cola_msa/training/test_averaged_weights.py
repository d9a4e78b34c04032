import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.model.optimizers import averaged_weights, build_optimizer
from cola_msa.runs import kept as kept_lib
from cola_msa.training.trainer import Trainer
from tests.cola_msa.model.test_contrastive import make_batch, make_model
from tests.conftest import tiny_config
from tests.helpers.commands import run_script

# Two replicas need their own process: logical devices are fixed at TensorFlow's start.
TWO_REPLICAS = """
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cola_msa.model import replicas
from cola_msa.config.schema import TrainConfig
from cola_msa.model.optimizers import averaged_weights, build_optimizer
from tests.cola_msa.model.test_contrastive import make_batch, make_model

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = make_model()
    model.compile(optimizer=build_optimizer(TrainConfig(average_decay=0.5)))
    model.optimizer.build(model.trainable_variables)
step = tf.function(lambda data: strategy.run(model.train_step, args=(data,)))
weights = []
for number in range(3):
    batches = [make_batch(seed=number), make_batch(seed=10 + number)]
    step(strategy.experimental_distribute_values_from_function(
        lambda context: batches[context.replica_id_in_sync_group]))
    weights.append([np.array(v) for v in model.trainable_variables])
with averaged_weights(model):
    for number, variable in enumerate(model.trainable_variables):
        average = weights[0][number]
        for update, decay in ((1, 0.1), (2, 2 / 11)):
            average = decay * average + (1 - decay) * weights[update][number]
        copies = replicas.replica_values(variable)
        assert len(copies) == 2
        for copy in copies:
            np.testing.assert_allclose(copy, average, rtol=1e-5, atol=1e-6)
for variable, expected in zip(model.trainable_variables, weights[-1], strict=True):
    for copy in replicas.replica_values(variable):
        np.testing.assert_array_equal(copy, expected)
print("equal on both")
"""


def averages_by_hand(history, decay):
    average = history[0]
    for update, weights in enumerate(history[1:], start=1):
        kept = min(decay, update / (update + 9))
        average = [
            kept * a + (1 - kept) * w for a, w in zip(average, weights, strict=True)
        ]
    return average


@pytest.mark.parametrize("has_loss_scale", [False, True])
def test_the_average_is_that_of_a_loop(has_loss_scale):
    model = make_model()
    train = TrainConfig(average_decay=0.4, learning_rate=0.01)
    model.compile(optimizer=build_optimizer(train, has_loss_scale))
    model.optimizer.build(model.trainable_variables)
    history = []
    for number in range(12):  # from update 6 on the decay is 0.4
        model.train_step(make_batch(seed=number))
        history.append([np.array(v) for v in model.trainable_variables])
    own = [np.array(v) for v in model.variables]
    expected = averages_by_hand(history, 0.4)
    with averaged_weights(model):
        for variable, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(np.array(variable), value, rtol=1e-4, atol=1e-5)
        moved = [
            np.abs(np.array(v) - last).max()
            for v, last in zip(model.trainable_variables, history[-1], strict=True)
        ]
        assert max(moved) > 1e-3
    for variable, value in zip(model.variables, own, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


def test_training_is_the_same_with_and_without_an_average():
    weights = []
    for decay in (0.0, 0.9):
        model = make_model()
        model.compile(optimizer=build_optimizer(TrainConfig(average_decay=decay)))
        for number in range(3):
            model.train_step(make_batch(seed=number))
        weights.append([np.array(v) for v in model.variables])
    for first, second in zip(*weights, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_weights_come_back_when_something_is_raised_inside():
    model = make_model()
    model.compile(optimizer=build_optimizer(TrainConfig(average_decay=0.9)))
    for number in range(2):
        model.train_step(make_batch(seed=number))
    before = [np.array(v) for v in model.trainable_variables]
    with pytest.raises(KeyboardInterrupt), averaged_weights(model):
        raise KeyboardInterrupt
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


def test_both_replicas_hold_the_average(tmp_path):
    result = run_script(TWO_REPLICAS, cwd=tmp_path)
    assert "equal on both" in result.stdout, result.stderr


def test_a_run_keeps_and_validates_the_average(prepared, tmp_path):
    """What is kept is the optimizer's average, and the checkpoint's own weights not."""
    run_dir = tmp_path / "run"
    trainer = Trainer(tiny_config(average_decay=0.9), prepared, run_dir)
    seen = []
    validate = trainer.validate

    def watched(statistics):
        seen.append(np.array(trainer.model.trainable_variables[0]))
        return validate(statistics)

    trainer.validate = watched
    assert trainer.run() == "finished"
    averages = trainer.model.optimizer.averages
    kept = kept_lib.load_model(run_dir, None, "pairs")
    differences = []
    for variable, average, own in zip(
        kept.trainable_variables,
        averages,
        trainer.model.trainable_variables,
        strict=True,
    ):
        np.testing.assert_array_equal(np.array(variable), np.array(average))
        differences.append(np.abs(np.array(average) - np.array(own)).max())
    assert max(differences) > 1e-4
    assert seen  # and it validated what it kept
    np.testing.assert_array_equal(seen[-1], np.array(averages[0]))


def test_the_untrained_network_is_kept_as_it_is(prepared, tmp_path):
    run_dir = tmp_path / "run"
    trainer = Trainer(tiny_config(average_decay=0.9), prepared, run_dir)
    before = [np.array(v) for v in trainer.model.trainable_variables]
    trainer.run()
    kept = kept_lib.load_model(run_dir, 0, "pairs")
    for variable, value in zip(kept.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match="average_decay is"):
        build_optimizer(TrainConfig(average_decay=decay))


def test_the_optimizer_is_rebuilt_from_its_configuration():
    optimizer = build_optimizer(TrainConfig(average_decay=0.75, kernel_rate=0.5))
    text = json.dumps(keras.optimizers.serialize(optimizer))
    again = keras.optimizers.deserialize(json.loads(text))
    assert (again.average_decay, again.kernel_rate) == (0.75, 0.5)
    again.build([keras.Variable(tf.ones([2]))])
    assert len(again.averages) == 1
