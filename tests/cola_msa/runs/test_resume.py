"""A run that was stopped ends with the weights of one that never was, bit for bit."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cola_msa.runs import kept as kept_lib
from cola_msa.runs import resume
from cola_msa.runs.scalars import read_metrics
from cola_msa.training.trainer import Trainer
from cola_msa.values import arrays as arrays_lib
from tests.cola_msa.runs.test_kept import read_events
from tests.conftest import tiny_config, write_prepared
from tests.helpers.commands import Command, run_module, run_script

# Checkpoints, validations and kept steps fall on different steps, so that a kill can
# come between any two of them.
TINY = (
    "--preset=smoke",
    "--steps=24",
    "--deterministic",
    "--threads=1",
    "--batch_size=4",
    "--updates_per_step=10",
    "--warmup_updates=20",
    "--halve_at_step=12",
    "--checkpoint_every_steps=2",
    "--validate_every_steps=3",
    "--statistics_batches=2",
    "--keep_steps=3,8",
)
STRATEGIES = {
    "mixed": ("--source=multi", "--batches=mixed"),
    "vocals": ("--source=vocals", "--batches=active"),
    "cola": ("--source=none",),
    "cola_mws": ("--source=none", "--augment=mws"),
    "uniform": ("--source=multi", "--batches=uniform"),
    "active_any": ("--source=multi", "--batches=active_any"),
    "averaged": ("--source=multi", "--average_decay=0.9"),
    "in_parts": ("--source=multi", "--accumulate=2", "--micro_batch=2"),
}
TIMEOUT_SECONDS = 500


def train_arguments(data_dir, run_dir, *arguments) -> list[str]:
    """The command, for a fork."""
    given = [f"--data_dir={data_dir}", f"--run_dir={run_dir}"]
    return ["cola_msa.train", *given, *arguments]


def train_command(data_dir, run_dir, *arguments) -> list[str]:
    """The same for a fresh process."""
    return [sys.executable, "-m", *train_arguments(data_dir, run_dir, *arguments)]


def newest_update(run_dir: pathlib.Path) -> int:
    names = [path.stem for path in (run_dir / "checkpoints").glob("update-*.npz")]
    return max((int(name[-8:]) for name in names), default=-1)


def train_until(start, run_dir, first_update, delay_seconds, number) -> int:
    """Sends a signal some time after a checkpoint of `first_update` or later.

    Before the first checkpoint (-1) the untrained encoder must have been kept.

    Args:
        start: Given a log file's path, starts the command.
        run_dir: Where it trains.
        first_update: Of the checkpoint that is waited for.
        delay_seconds: From that to the signal, unless the next checkpoint is sooner.
        number: The signal.

    Returns:
        The command's exit code.
    """
    path = run_dir.with_suffix(".log")
    kept = run_dir / "kept" / "step-00000000.npz"
    before = newest_update(run_dir)
    if before >= 0:  # a fast machine may have gone further: this process must begin
        first_update = max(first_update, before + 1)
    process = start(path)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while newest_update(run_dir) < first_update or not kept.exists():
        assert process.poll() is None, path.read_text()
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.02)
    # A fast machine may train to the end within the delay.
    seen, end = newest_update(run_dir), time.monotonic() + delay_seconds
    while newest_update(run_dir) == seen and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(TIMEOUT_SECONDS)


def forked(*arguments):
    """Starts the command in a fork."""
    return lambda log: Command(*arguments, log=log)


def fresh(*arguments):
    """Starts the command in a process of another hash seed."""

    def start(log):
        with open(log, "ab") as file:
            command = [sys.executable, "-m", *arguments]
            return subprocess.Popen(command, stdout=file, stderr=file)

    return start


def without_times(row: dict) -> dict:
    return {k: v for k, v in row.items() if "second" not in k}


def assert_equal_arrays(found: pathlib.Path, expected: pathlib.Path) -> None:
    first, second = arrays_lib.read_arrays(found), arrays_lib.read_arrays(expected)
    states = [json.loads(str(arrays.pop("state"))) for arrays in (first, second)]
    for state in states:
        for name in ("seconds", "step_seconds"):
            state.get("loop", state).pop(name, None)
    assert states[0] == states[1]
    assert set(first) == set(second)
    for name in second:
        assert first[name].dtype == second[name].dtype
        assert first[name].tobytes() == second[name].tobytes(), f"{expected}: {name}"


def assert_equal_runs(found: pathlib.Path, expected: pathlib.Path) -> None:
    """Compares checkpoints, kept encoders, scalars and events of two runs."""
    names = sorted(path.relative_to(expected) for path in expected.rglob("*.npz"))
    assert names == sorted(path.relative_to(found) for path in found.rglob("*.npz"))
    for name in names:
        assert_equal_arrays(found / name, expected / name)
    lines = (found / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [
        row["step"] for row in read_metrics(expected)
    ]
    for row, other in zip(read_metrics(found), read_metrics(expected), strict=True):
        assert without_times(row) == without_times(other)
    events = [(step, without_times(v)) for step, v in read_events(found)]
    assert events == [(step, without_times(v)) for step, v in read_events(expected)]
    assert not list(found.rglob("*.tmp"))


@pytest.fixture(scope="module")
def uninterrupted(prepared_dir, tmp_path_factory):
    """Gives the run of some arguments that nothing stopped; each is made once."""
    made = {}

    def make(*arguments) -> pathlib.Path:
        if arguments not in made:
            run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
            result = run_module(*train_arguments(prepared_dir, run_dir, *arguments))
            assert result.returncode == 0, result.stderr
            made[arguments] = run_dir
        return made[arguments]

    return make


def stop_three_times(start, run_dir, number, seed, moments) -> None:
    """Trains to the end, but for three signals; the same command every time."""
    drawn = random.Random(seed)
    for first_update, longest_delay in moments:
        delay = drawn.uniform(0, longest_delay)
        code = train_until(start, run_dir, first_update, delay, number)
        expected = -number if number == signal.SIGKILL else 130
        assert code == expected, run_dir.with_suffix(".log").read_text()
        assert not (run_dir / "done.json").exists()
    log = run_dir.with_suffix(".last.log")
    assert start(log).wait() == 0, log.read_text()
    assert "going on at update" in log.read_text()


def cases():
    for number, strategy in enumerate(STRATEGIES):
        for devices in (1, 2):
            for name in ("SIGKILL", "SIGINT"):
                is_fast = strategy == "mixed" and devices == 2
                if name == "SIGINT" and not is_fast:
                    continue
                if strategy == "in_parts" and devices == 1:
                    continue
                yield pytest.param(
                    strategy,
                    devices,
                    getattr(signal, name),
                    10 * number + devices,
                    id=f"{strategy}-{devices}-{name}",
                    marks=[] if is_fast else [pytest.mark.slow],
                )


@pytest.mark.parametrize(("strategy", "devices", "number", "seed"), cases())
def test_stopped_three_times_the_weights_are_equal(
    prepared_dir, tmp_path, uninterrupted, strategy, devices, number, seed
):
    arguments = (*TINY, *STRATEGIES[strategy], f"--cpu_devices={devices}")
    expected = uninterrupted(*arguments)
    # The first may come while the graph is built, the others between or in updates.
    moments = [(-1, 0.5), (40, 0.1), (100, 0.1)]
    start = forked(*train_arguments(prepared_dir, tmp_path / "run", *arguments))
    stop_three_times(start, tmp_path / "run", number, seed, moments)
    assert_equal_runs(tmp_path / "run", expected)


@pytest.fixture(scope="module")
def two_folders(prepared_dir, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "data"
    splits = {"train": 9, "validation": 3}
    write_prepared(other, splits, first=300, sources=("drums", "bass"))
    return f"{prepared_dir},{other}"


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_killed_on_two_folders_the_weights_are_equal(two_folders, tmp_path, devices):
    arguments = (*TINY, "--source=multi", "--data_weights=2,1", "--steps=6")
    arguments += (f"--cpu_devices={devices}",)
    expected, found = tmp_path / "uninterrupted", tmp_path / "run"
    result = run_module(*train_arguments(two_folders, expected, *arguments))
    assert result.returncode == 0, result.stderr
    start = forked(*train_arguments(two_folders, found, *arguments))
    stop_three_times(start, found, signal.SIGKILL, devices, [(20, 0.1)])
    assert_equal_runs(found, expected)


@pytest.mark.slow
def test_efficientnet_killed_three_times_ends_with_equal_weights(
    prepared_dir, tmp_path, uninterrupted
):
    arguments = (
        *("--preset=default", "--deterministic", "--threads=2", "--batch_size=4"),
        *("--steps=12", "--updates_per_step=2", "--checkpoint_every_steps=1"),
        *("--validate_every_steps=0", "--statistics_batches=2", "--keep_steps=4"),
    )
    expected = uninterrupted(*arguments)
    moments = [(2, 1.0), (6, 1.0), (12, 1.0)]
    start = fresh(*train_arguments(prepared_dir, tmp_path / "run", *arguments))
    stop_three_times(start, tmp_path / "run", signal.SIGKILL, 0, moments)
    assert_equal_runs(tmp_path / "run", expected)


# Whole runs in this process ----------------------------------------------------------


def stop_in(trainer, name, at_update):
    """Makes a method of the trainer send SIGTERM to this process once."""
    method = getattr(trainer, name)

    def stopping(*arguments):
        if trainer.update == at_update:
            os.kill(os.getpid(), signal.SIGTERM)
        return method(*arguments)

    setattr(trainer, name, stopping)


@pytest.mark.parametrize(
    ("method", "at_update"),
    [
        ("_one_update", 5),  # the last update of step 2, which validates and keeps
        ("_end_step", 6),  # between that update and the validation
        ("validate", 6),
        ("_one_update", 11),  # the last update
        ("_finish", 12),
        ("estimate_statistics", 0),  # before the untrained encoder is kept
    ],
)
def test_a_stop_skips_nothing(prepared, finished_run, tmp_path, method, at_update):
    run_dir = tmp_path / "run"
    trainer = Trainer(tiny_config(), prepared, run_dir)
    stop_in(trainer, method, at_update)
    assert trainer.run() == "interrupted"
    assert Trainer(tiny_config(), prepared, run_dir).run() == "finished"
    assert kept_lib.kept_steps(run_dir) == kept_lib.kept_steps(finished_run)
    expected = read_metrics(finished_run)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [set(row) for row in expected]
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    first = read_metrics(run_dir)[1]
    for name in ("active_share", "loss", "validation/loss"):
        assert first[name] == pytest.approx(expected[1][name], rel=1e-3)


class KilledError(Exception):
    """Stands for SIGKILL: nothing after it runs."""


def kill_at(monkeypatch, target, name, call):
    """Makes the nth call of a function fail before it does anything."""
    function = getattr(target, name)
    calls = []

    def dying(*arguments, **named):
        calls.append(arguments)
        if len(calls) == call:
            raise KilledError
        return function(*arguments, **named)

    monkeypatch.setattr(target, name, dying)


def test_death_between_a_kept_encoder_and_its_checkpoint_is_harmless(
    prepared, tmp_path, monkeypatch
):
    run_dir = tmp_path / "run"
    trainer = Trainer(tiny_config(), prepared, run_dir)
    with monkeypatch.context() as patch:
        kill_at(patch, resume, "save_training", 2)  # after step 2's row, best and kept
        with pytest.raises(KilledError):
            trainer.run()
    assert kept_lib.kept_steps(run_dir) == [0, 2]
    assert [row["step"] for row in read_metrics(run_dir)] == [1, 2]
    # As if the updates that were lost had gone another way.
    kept = run_dir / "kept" / "step-00000002.npz"
    kept.write_bytes(b"another")
    again = Trainer(tiny_config(), prepared, run_dir)
    assert again.update == 3
    assert again.run() == "finished"
    assert int(np.load(kept)["statistics/anchors/0000/mean"].size) == 16
    steps = [json.loads(x)["step"] for x in open(run_dir / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    assert kept_lib.best_step(run_dir) == again.state["best"][0]


def test_a_best_encoder_of_lost_updates_does_not_stay(prepared, tmp_path):
    run_dir = tmp_path / "run"
    config = tiny_config(steps=6, max_to_keep=9)
    Trainer(config, prepared, run_dir).run()
    # Back to step 5, with a best.npz from a later step and a better loss.
    (run_dir / "done.json").unlink()
    newest = run_dir / "checkpoints" / "update-00000018.npz"
    newest.write_bytes(newest.read_bytes()[:-2000])
    model = kept_lib.load_model(run_dir)
    kept_lib.save_kept(run_dir, model, {}, 6, "best")
    kept_lib.save_kept(run_dir, model, {}, 8)
    again = Trainer(config, prepared, run_dir)
    assert again.state["best"][0] < 6
    assert again.run() == "finished"
    assert again.state["best"] == again.state["validation"][-1]
    assert kept_lib.best_step(run_dir) == 6
    assert np.load(run_dir / "kept" / "best.npz")["statistics/pairs/0000/mean"].any()
    assert kept_lib.kept_steps(run_dir)[-1] == 6


def test_death_after_early_stopping_does_not_train_on(prepared, tmp_path, monkeypatch):
    config = tiny_config(
        steps=30, validate_every_steps=1, patience_steps=2, learning_rate=1e-12
    )
    run_dir = tmp_path / "run"
    trainer = Trainer(config, prepared, run_dir)
    with monkeypatch.context() as patch:
        kill_at(patch, trainer, "_finish", 1)
        with pytest.raises(KilledError):
            trainer.run()
    stopped_at = trainer.update
    assert 12 <= stopped_at < 90
    again = Trainer(config, prepared, run_dir)
    assert again.run() == "stopped early"
    assert again.update == stopped_at
    assert len(read_metrics(run_dir)) == stopped_at // 3
    # Once it has ended, the same command says how and does nothing.
    assert Trainer(config, prepared, run_dir).run() == "stopped early"


# Two replicas need their own process: logical devices are fixed at TensorFlow's start.
TWO_REPLICAS = """
import dataclasses, pathlib, sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cola_msa.model import replicas
from cola_msa.runs import kept as kept_lib, resume
from cola_msa.records.prepared import PreparedData
from cola_msa.training.trainer import Trainer
from tests.conftest import tiny_config
from tests.helpers.commands import Command, run_module, run_script

run_dir, data = pathlib.Path(sys.argv[1]), PreparedData(sys.argv[2])
config = tiny_config(steps=2)
model = dataclasses.replace(config.model, drop_connect_rate=0.2)
config = dataclasses.replace(config, model=model)

def copies(trainer):
    variables = trainer.model.variables + trainer.model.optimizer.variables
    return [(v.path, replicas.replica_values(v)) for v in variables]

def assert_equal(found, expected):
    for (path, a), (_, b) in zip(found, expected, strict=True):
        assert len(a) == len(b) == 2, path
        for first, second in zip(a, b):
            np.testing.assert_array_equal(first, second, err_msg=path)

trainer = Trainer(config, data, run_dir)
assert trainer.run() == "finished"
trained = copies(trainer)
differing = {path for path, (a, b) in trained if not np.array_equal(a, b)}
assert differing and all("moving" in path for path in differing), differing
seed = next(values for path, values in trained if "seed_generator" in path)
assert seed[0][1] >= 6, seed  # it moved in every update

# Neither validating nor keeping nor saving changes what is trained.
trainer.validate(trainer.estimate_statistics()["pairs"])
trainer._keep(1)
trainer._save()
assert_equal(copies(trainer), trained)

# Kept are the means, and a fresh process' model takes every replica's own.
with np.load(kept_lib.kept_path(run_dir, 1)) as kept:
    for number, (path, (a, b)) in enumerate(trained[:len(trainer.model.variables)]):
        (name,) = [n for n in kept if n.startswith(f"model/{number:04d}/")]
        expected = (a + b) / 2 if path in differing else a
        np.testing.assert_allclose(kept[name], expected, rtol=1e-6)
(run_dir / "done.json").unlink()
again = Trainer(config, data, run_dir)
assert again.update == trainer.update
assert_equal(copies(again), trained)
"""


def test_two_replicas_keep_their_own_moving_statistics(prepared_dir, tmp_path):
    run_script(TWO_REPLICAS, tmp_path / "run", prepared_dir, cwd=tmp_path)
