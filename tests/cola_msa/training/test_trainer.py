import dataclasses
import json
import os
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import ModelConfig, TrainConfig
from cola_msa.evaluation.retrieval import retrieval_draws
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.optimizers import build_optimizer
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import kept as kept_lib
from cola_msa.runs.scalars import read_metrics
from cola_msa.system import errors
from cola_msa.training.progress import has_stalled
from cola_msa.training.trainer import Trainer, TrainingError
from tests.conftest import tiny_config
from tests.helpers.commands import Command, run_module, run_script

# Two replicas need their own process: logical devices are fixed at TensorFlow's start.
TWO_REPLICAS = """
import sys
import numpy as np
import tensorflow as tf
import keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cola_msa.model import replicas
from cola_msa.config.schema import ModelConfig
from cola_msa.model.contrastive import ContrastiveModel
from tests.cola_msa.model.test_contrastive import make_batch

config = ModelConfig(
    backbone="tiny", projection_dim=32, drop_connect_rate=0.0, kernel_scale=0.05)
batches = [make_batch(seed=1, num_silent=0), make_batch(seed=2, num_silent=3)]

def build():
    model = ContrastiveModel(config, log_mel_mean=0.5, log_mel_std=2.0, seed=1)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    return model

# One by one, from equal weights: gradients and moving statistics of each batch.
gradients, statistics = [], []
for batch in batches:
    single = build()
    with tf.GradientTape() as tape:
        loss = single.score_pairs(batch, training=True)["loss"]
    gradients.append(tape.gradient(loss, [v.value for v in single.trainable_variables]))
    statistics.append([np.array(v) for v in single.non_trainable_variables
                       if "moving" in v.path])
start = [np.array(v) for v in single.trainable_variables]

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = build()
stacked = strategy.experimental_distribute_values_from_function(
    lambda context: batches[context.replica_id_in_sync_group])
step = tf.function(lambda data: strategy.run(model.train_step, args=(data,)))
step(stacked)
for v, before, a, b in zip(model.trainable_variables, start, *gradients):
    expected = before - 0.1 * (np.asarray(a) + np.asarray(b)) / 2
    np.testing.assert_allclose(np.array(v), expected, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(np.array(v), before) or not np.any(a + b), v.path
moving = [v for v in model.non_trainable_variables if "moving" in v.path]
for v, *expected in zip(moving, *statistics):
    for copy, value in zip(replicas.replica_values(v), expected, strict=True):
        np.testing.assert_allclose(copy, value, rtol=1e-4, atol=1e-6)
assert any(not np.allclose(a, b) for a, b in zip(*statistics))
"""


def test_two_replicas_make_the_update_of_the_mean_gradient(tmp_path):
    run_script(TWO_REPLICAS, cwd=tmp_path)


def test_a_run_leaves_what_it_promises(finished_run):
    assert kept_lib.kept_steps(finished_run) == [0, 2, 4]
    rows = read_metrics(finished_run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"loss", "loss_above_chance", "active_accuracy", "deviation"} <= set(rows[0])
    assert "validation/loss" in rows[1] and "validation/loss" not in rows[0]
    assert any(name.startswith("loss/") for name in rows[0])
    references = ("chance_top1", "untrained_top1", "no_learning_top1")
    assert all(0 <= rows[1][f"validation/{name}"] <= 1 for name in references)
    assert len({rows[n]["validation/no_learning_top1"] for n in (1, 3)}) == 1
    run = json.loads((finished_run / "config.json").read_text())
    assert run["versions"]["tensorflow"] == tf.__version__
    assert run["data"]["manifest_hash"]
    done = json.loads((finished_run / "done.json").read_text())
    assert (done["updates"], done["pairs"]) == (12, 96)


def test_event_files_hold_the_scalars(finished_run):
    found = {}
    for path in (finished_run / "logs").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[event.step, value.tag] = value.simple_value
    rows = read_metrics(finished_run)
    for row in rows:
        assert found[row["step"], "loss"] == pytest.approx(row["loss"], rel=1e-5)


def test_load_model_uses_the_re_estimated_statistics(finished_run):
    windows = np.random.default_rng(0).normal(2, 1.5, (3, 98, 64, 1)).astype(np.float32)
    encoder = kept_lib.load_model(finished_run).encoder
    assert encoder(windows).shape == (3, 64)
    with np.load(kept_lib.kept_path(finished_run)) as arrays:
        kept = arrays["statistics/anchors/0000/mean"]
        lagging = next(
            arrays[n] for n in arrays if n.startswith("model/") and "bn0/moving_m" in n
        )
    np.testing.assert_array_equal(encoder.get_layer("bn0").moving_mean, kept)
    assert not np.allclose(kept, lagging)


def test_untrained_and_trained_encoders_differ(finished_run):
    keys = {kept_lib.encoder_key(finished_run, s) for s in (0, 2, 4, None)}
    assert len(keys) == 3


def test_a_missing_step_lists_those_there_are(finished_run):
    with pytest.raises(errors.RunError, match="no kept checkpoint of step 3; .*4"):
        kept_lib.load_model(finished_run, 3)


def test_another_configuration_is_refused_by_field(finished_run, prepared):
    with pytest.raises(errors.RunError, match=r"train.learning_rate: 0.001 != 0.5"):
        Trainer(tiny_config(learning_rate=0.5), prepared, finished_run)


@pytest.mark.parametrize("stop_after", [2, 5])
def test_a_stopped_run_ends_with_the_same_weights(
    prepared, finished_run, tmp_path, stop_after
):
    run_dir = tmp_path / "run"
    trainer = Trainer(tiny_config(), prepared, run_dir)
    update = trainer._one_update

    def stopping(batch):
        if trainer.update + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(batch)

    trainer._one_update = stopping
    assert trainer.run() == "interrupted"
    assert trainer.update == stop_after
    again = Trainer(tiny_config(), prepared, run_dir)
    assert again.update == stop_after
    assert again.run() == "finished"
    with (
        np.load(kept_lib.kept_path(finished_run)) as expected,
        np.load(kept_lib.kept_path(run_dir)) as found,
    ):
        assert set(expected) == set(found)
        for name in expected:
            if name != "state":
                np.testing.assert_allclose(
                    found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name
                )


def test_validation_leaves_the_moving_statistics_alone(prepared, tmp_path):
    trainer = Trainer(tiny_config(), prepared, tmp_path / "run")
    before = [np.array(v) for v in trainer.model.variables]
    found = trainer.validate(trainer.estimate_statistics()["pairs"])
    assert {"loss", "top1", "mrr"} <= set(found)
    for a, v in zip(before, trainer.model.variables, strict=True):
        np.testing.assert_array_equal(a, np.array(v))


def test_the_first_update_waits_for_a_thousand_pairs_at_most(
    prepared, tmp_path, monkeypatch
):
    config = tiny_config()
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, statistics_batches=300)
    )
    trainer = Trainer(config, prepared, tmp_path / "run")
    batches, batch = [], PairSampler.batch
    monkeypatch.setattr(
        PairSampler,
        "batch",
        lambda self, *place: batches.append(place) or batch(self, *place),
    )
    trainer.estimate_statistics(is_first=True)
    # Once for mixtures, once for whole batches.
    assert len(batches) == 2 * 1024 / config.train.batch_size
    batches.clear()
    trainer.estimate_statistics()
    assert len(batches) == 2 * 300


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([3, 2, 1, 0.9], False), ([3, 2, 2, 3], True), ([3, 3], False), ([], False)],
)
def test_early_stopping_compares_running_averages(losses, expected):
    validation = [[10 * (n + 1), loss] for n, loss in enumerate(losses)]
    assert has_stalled(validation, 20) is expected


def test_early_stopping_over_a_long_run_equals_a_loop():
    """Stops at the first validation whose last window is no better than before."""
    steps = np.arange(10, 5001, 10)
    losses = 1 + np.exp(-steps / 200) + 0.02 * np.random.default_rng(0).normal(size=500)
    window = 1000 // 10
    expected = next(
        number
        for number in range(2 * window, 501)
        if sum(losses[number - window : number])
        >= sum(losses[number - 2 * window : number - window])
    )
    validation: list[list[float]] = []
    for step, loss in zip(steps, losses, strict=True):
        validation.append([int(step), float(loss)])
        if has_stalled(validation, 1000):
            break
    assert len(validation) == expected
    assert 2000 < validation[-1][0] < 5000


@pytest.mark.parametrize("preset", ["paper", "authors", "default"])
def test_the_schedule_is_the_papers(preset):
    train = get_preset(preset).train
    assert (train.steps, train.updates_per_step, train.batch_size) == (10000, 64, 128)
    assert (train.validate_every_steps, train.patience_steps) == (10, 1000)
    assert train.keep_steps == (100, 300, *range(1000, 10001, 1000))
    rate = build_optimizer(train)._learning_rate
    last, first = (float(rate(5000 * 64 + n)) for n in (-1, 0))
    assert last == pytest.approx(1e-3)
    # The authors' code does not halve it.
    assert first == pytest.approx(1e-3 if preset == "authors" else 5e-4)


def test_the_optimizer_follows_the_schedule():
    """A constant gradient moves Adam's variable by the rate in every update."""
    train = TrainConfig(
        learning_rate=0.1,
        warmup_updates=4,
        halve_at_step=3,
        updates_per_step=3,
        kernel_rate=0.5,
    )
    model = ContrastiveModel(ModelConfig(backbone="tiny", projection_dim=4))
    kernel = model.similarity.kernel
    other = model.projector.trainable_variables[0]
    optimizer = build_optimizer(train)
    optimizer.build([kernel, other])
    for update in range(14):
        before = [np.array(kernel), np.array(other)]
        optimizer.apply([tf.ones(v.shape) for v in (kernel, other)])
        rate = 0.1 * min(1, (update + 1) / 4) * (0.5 if update >= 3 * 3 else 1)
        moved = [a - np.array(v) for a, v in zip(before, (kernel, other), strict=True)]
        np.testing.assert_allclose(moved[0], rate * 0.5, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(moved[1], rate, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [{"source": "none"}, {"batches": "mixed"}, {"batches": "active_any"}]
)
def test_every_seed_validates_on_the_same_whole_split(prepared, fields):
    samplers = [
        PairSampler(prepared, tiny_config(seed=seed, **fields).train, "validation")
        for seed in (1, 2)
    ]
    draws = [s.validation_draws() + retrieval_draws(s) for s in samplers]
    batches = [
        [s.read(draw) for draw in d] for s, d in zip(samplers, draws, strict=True)
    ]
    assert len(batches[0]) == len(batches[1]) > 0
    for first, second in zip(*batches, strict=True):
        for name, value in first.items():
            np.testing.assert_array_equal(value, second[name])
    index = samplers[0].index
    num_usable = int(np.sum(~index.is_tail & (index.num_frames >= 98)))
    rows = np.concatenate([draw.rows for draw in samplers[0].validation_draws()])
    assert len(rows) >= num_usable == 24
    if fields.get("source") == "none":
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(~index.is_tail))


def test_the_command_is_stopped_by_ctrl_c_and_goes_on(prepared_dir, tmp_path):
    command = [
        "cola_msa.train",
        f"--data_dir={prepared_dir}",
        f"--run_dir={tmp_path / 'run'}",
        "--preset=demo",
        "--backbone=tiny",
        "--batch_size=8",
        "--steps=20",
        "--updates_per_step=50",
        "--validate_every_steps=0",
        "--statistics_batches=2",
    ]
    process = Command(*command)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 500
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130, stderr
    assert "the same command goes on" in stderr
    result = run_module(*command)
    assert result.returncode == 0, result.stderr
    assert "going on at update" in result.stderr
    assert "finished: 1000 updates" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--source=guitar"], 1, "the data has no source guitar"),
        (["--source=vocals,vocals"], 2, "name each source once"),
        (["--batch_size=500"], 1, "--batch_size=500"),
        (["--preset=huge"], 2, "preset"),
        (["--data_dir=nowhere"], 1, "does not exist"),
        (["extra"], 2, "unknown argument"),
    ],
)
def test_wrong_input_is_a_clear_line(prepared_dir, tmp_path, arguments, code, message):
    result = run_module(
        "cola_msa.train",
        f"--data_dir={prepared_dir}",
        f"--run_dir={tmp_path / 'run'}",
        "--backbone=tiny",
        *arguments,
    )
    assert result.returncode == code
    assert message in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_efficientnet_trains_and_reloads(prepared_dir, tmp_path):
    data = PreparedData(prepared_dir)
    config = tiny_config(steps=1, updates_per_step=3, validate_every_steps=1)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, backbone="efficientnetb0")
    )
    run_dir = tmp_path / "run"
    assert Trainer(config, data, run_dir).run() == "finished"
    windows = np.zeros((2, 98, 64, 1), np.float32)
    assert kept_lib.load_model(run_dir).encoder(windows).shape == (2, 1280)


def test_the_command_trains_on_two_logical_cpus(prepared_dir, tmp_path):
    result = run_module(
        "cola_msa.train",
        f"--data_dir={prepared_dir}",
        f"--run_dir={tmp_path / 'run'}",
        "--preset=smoke",
        "--cpu_devices=2",
    )
    assert result.returncode == 0, result.stderr
    assert "20 updates of 2 x 4 pairs to go, 160 pairs in all" in result.stderr
    assert (
        "pairs/s on /job" in result.stderr and "at this rate the end" in result.stderr
    )
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert done["pairs"] == 160


def test_a_loss_that_is_not_finite_stops_the_run(prepared, tmp_path):
    trainer = Trainer(tiny_config(), prepared, tmp_path / "run")
    trainer._update = lambda batch: {"loss": tf.constant(float("nan"))}
    with pytest.raises(TrainingError, match="the loss is nan at update 0"):
        trainer.run()
