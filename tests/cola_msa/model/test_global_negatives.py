"""Two replicas with `global_negatives` are one device with the joint batch."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import ModelConfig, TrainConfig
from cola_msa.model import losses
from cola_msa.model.acceleration import dtype_policy
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.pairs.sampler import PairSampler
from tests.cola_msa.model.test_contrastive import make_batch
from tests.cola_msa.model.test_losses import random_batch
from tests.helpers.commands import run_script

ROWS, DIM = 12, 8
# Which of the joint batch's rows are silent; replica 0 holds the first half.
SILENT = {
    "none": [],
    "some": [1, 4, 7, 11],
    "of one replica": [0, 1, 2, 3, 4, 5],
    "of the other alone": [8, 9],
    "all": list(range(ROWS)),
}


def given_projections(case: str):
    anchor, positive, is_active, kernel = random_batch(ROWS, DIM, 0.0)
    is_active[SILENT[case]] = False
    return anchor, positive, is_active, kernel


def joint_batch(size: int = 16):
    """One device's batch; the replicas have its halves."""
    return make_batch(size, seed=3, num_silent=5)


def build_model(
    backbone: str,
    is_synchronized: bool,
    global_negatives: bool,
    is_frozen: bool = False,
    policy: str = "float32",
):
    """Plain SGD; frozen means that moving statistics normalize."""
    config = ModelConfig(
        backbone=backbone,
        projection_dim=32,
        drop_connect_rate=0.0,
        kernel_scale=0.05,
        sync_batch_norm=is_synchronized,
        # TensorFlow's fused operation knows no double precision.
        fused_batch_norm=policy != "float64",
    )
    # Depthwise kernels are drawn from the global seed.
    keras.utils.set_random_seed(1)
    with dtype_policy(policy):
        model = ContrastiveModel(
            config,
            log_mel_mean=0.5,
            log_mel_std=2.0,
            seed=1,
            global_negatives=global_negatives,
            kernels="keras" if policy == "float64" else None,
        )
    if is_frozen:
        for layer in model.batch_norm_layers():
            layer.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    return model


# Logical devices are fixed at TensorFlow's start: two need a process of their own.
TWO_REPLICAS = """
import sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cola_msa.model import losses
from cola_msa.config.schema import TrainConfig
from cola_msa.training.updates import Updater
from tests.cola_msa.model import test_global_negatives as cases

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = {}

def halves(array):
    parts = np.split(np.asarray(array), 2)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group]))

def local(values):
    return [v.numpy() for v in strategy.experimental_local_results(values)]

output, backbone, policy = sys.argv[1:]
if backbone == "tiny":
    for case in cases.SILENT:
        *arrays, kernel = cases.given_projections(case)

        def replica_step(anchor, positive, is_active):
            kernel_copy = tf.constant(kernel)
            with tf.GradientTape() as tape:
                tape.watch([anchor, positive, kernel_copy])
                candidates, activity, first_row = losses.gather_candidates(
                    positive, is_active)
                logits, labels = losses.silent_centroid_logits(
                    anchor, candidates, activity,
                    lambda a, b: a @ kernel_copy @ tf.transpose(b), 0.2, first_row)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
                scaled = loss / 2
            return loss, tape.gradient(scaled, [anchor, positive, kernel_copy])

        loss, gradients = tf.function(
            lambda *values: strategy.run(replica_step, values)
        )(*map(halves, arrays))
        found[f"{case}/loss"] = np.mean(local(loss))
        found[f"{case}/anchor"] = np.concatenate(local(gradients[0]))
        found[f"{case}/positive"] = np.concatenate(local(gradients[1]))
        found[f"{case}/kernel"] = np.sum(local(gradients[2]), axis=0)

batch = {name: halves(v) for name, v in cases.joint_batch().items()}
with strategy.scope():
    model = cases.build_model(backbone, True, True, policy=policy)
step = tf.function(lambda data: strategy.run(model.train_step, args=(data,)))
found["model/loss"] = np.mean(local(step(batch)["loss"]))
for number, variable in enumerate(model.variables):
    found[f"model/{number}"] = np.array(variable)

if backbone == "tiny":
    # Each replica's half in two parts, contrasted with both replicas' positives.
    with strategy.scope():
        model = cases.build_model("tiny", False, True, is_frozen=True)
    train = TrainConfig(batch_size=8, micro_batch=4, global_negatives=True)
    Updater(model, strategy, train)(batch)
    for number, variable in enumerate(model.variables):
        found[f"cached/{number}"] = np.array(variable)
np.savez(output, **found)
"""


def two_replicas(path: pathlib.Path, backbone: str, policy: str = "float32") -> dict:
    run_script(TWO_REPLICAS, path, backbone, policy, cwd=path.parent)
    with np.load(path) as found:
        return dict(found)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("replicas") / "found.npz"
    return two_replicas(path, "tiny")


def relative_distance(found, expected) -> float:
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / scale) if scale else 0.0


@pytest.mark.parametrize("case", list(SILENT))
def test_loss_and_gradients_of_given_projections_are_the_joint_batchs(found, case):
    anchor, positive, is_active, kernel = given_projections(case)
    tensors = [tf.constant(a) for a in (anchor, positive, kernel)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        anchor, positive, kernel = tensors
        loss = losses.silent_centroid_loss(
            anchor,
            positive,
            is_active,
            lambda a, b: a @ kernel @ tf.transpose(b),
            0.2,
        )
    expected = tape.gradient(loss, tensors)
    assert float(found[f"{case}/loss"]) == pytest.approx(float(loss), rel=1e-5)
    for name, gradient in zip(("anchor", "positive", "kernel"), expected, strict=True):
        distance = np.linalg.norm(found[f"{case}/{name}"] - gradient.numpy())
        assert distance <= 1e-5 * np.linalg.norm(gradient.numpy()) + 1e-8, name


def assert_joint_update(found, prefix, model):
    """Compares an SGD update of the whole model with one device's."""
    start = [np.array(v) for v in model.variables]
    scalars = tf.function(model.train_step)(joint_batch())
    moved, expected = [], []
    for number, (variable, before) in enumerate(
        zip(model.variables, start, strict=True)
    ):
        if "normalization/" in variable.path or "seed_generator" in variable.path:
            continue
        moved.append((found[f"{prefix}/{number}"] - before).ravel())
        expected.append((np.array(variable) - before).ravel())
    assert np.linalg.norm(np.concatenate(expected)) > 0
    distance = relative_distance(np.concatenate(moved), np.concatenate(expected))
    assert distance < 1e-3
    return scalars


def test_the_whole_models_update_is_the_joint_batchs(found):
    scalars = assert_joint_update(found, "model", build_model("tiny", False, False))
    assert float(found["model/loss"]) == pytest.approx(float(scalars["loss"]), rel=1e-4)


# In float32, rounding alone moves this update by 0.003; what is shown here is the
# algebra: all layers, from windows to similarities, in double precision.
@pytest.mark.slow
def test_efficientnets_update_is_the_joint_batchs(tmp_path):
    found = two_replicas(tmp_path / "found.npz", "efficientnetb0", "float64")
    model = build_model("efficientnetb0", False, False, policy="float64")
    assert_joint_update(found, "model", model)


def test_cached_gradients_over_two_replicas_are_the_joint_batchs(found):
    model = build_model("tiny", False, False, is_frozen=True)
    assert_joint_update(found, "cached", model)


# Pairs -------------------------------------------------------------------------------


def sampler(data, batch_size, num_replicas=1, **fields):
    config = TrainConfig(batch_size=batch_size, seed=5, **fields)
    return PairSampler(data, config, num_replicas=num_replicas)


@pytest.mark.parametrize(
    "fields",
    [
        {"batches": "mixed"},
        {"batches": "active_any"},
        {"source": "none"},
        {"batches": "uniform", "pair_span": "clip"},
    ],
)
@pytest.mark.parametrize("update", [0, 3])
def test_replicas_share_the_draw_of_one_device(prepared, fields, update):
    shared = sampler(prepared, 4, 3, global_negatives=True, **fields)
    batches = [shared.batch(update, replica, micro_batch=1) for replica in range(3)]
    joint = sampler(prepared, 12, **fields)
    for name, value in joint.batch(update, micro_batch=1).items():
        parts = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(parts, value)
    rows = np.concatenate([shared.draw(update, replica).rows for replica in range(3)])
    assert len(set(rows)) == 12


def test_without_the_flag_replicas_draw_their_own_source(prepared):
    alone = sampler(prepared, 4, 2)
    sources = [[alone.draw(n, r).source[0] for r in (0, 1)] for n in range(40)]
    assert any(a != b for a, b in sources)


def test_too_few_segments_for_all_replicas_are_refused(prepared):
    with pytest.raises(ValueError, match=r"--batch_size=16 x 8 replicas"):
        sampler(prepared, 16, 8, global_negatives=True)
