"""Two worker processes on this machine train as one."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cola_msa.training.workers import WorkerError, build_strategy, parse_tf_config
from cola_msa.values import arrays
from tests.cola_msa.runs.test_resume import (
    TIMEOUT_SECONDS,
    TINY,
    assert_equal_runs,
    newest_update,
    train_command,
)

# The command itself, which then writes down this worker's own weights.
WORKER = """
import os, sys
import numpy as np
from cola_msa import train
from cola_msa.runs import resume
from cola_msa.system import console
from cola_msa.training.trainer import Trainer

path, run = sys.argv.pop(1), Trainer.run

def run_and_dump(self, *arguments):
    outcome = run(self, *arguments)
    variables = resume.saved_variables(self.model)
    arrays = {f"{n}/{v.path}": np.array(v) for n, v in enumerate(variables)}
    np.savez(path, **arrays)
    return outcome

Trainer.run = run_and_dump
console.start(train.main, train.define_flags)
"""


def tf_config(ports, index: int) -> str:
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": workers}, "task": task})


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def two_workers(commands, log_dir):
    """Starts a command each; inside, both run. None is left over."""
    ports = free_ports(2)
    with contextlib.ExitStack() as stack:
        processes = []
        for index, command in enumerate(commands):
            log = stack.enter_context(open(log_dir / f"worker{index}.log", "ab"))
            environment = {**os.environ, "TF_CONFIG": tf_config(ports, index)}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def read_log(log_dir, index: int) -> str:
    return (log_dir / f"worker{index}.log").read_text()


def finish(commands, log_dir) -> None:
    with two_workers(commands, log_dir) as processes:
        codes = [process.wait(TIMEOUT_SECONDS) for process in processes]
    assert codes == [0, 0], read_log(log_dir, 0) + read_log(log_dir, 1)


def wait_for_update(run_dir, update: int, processes) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while newest_update(run_dir) < update:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def assert_equal_weights(prepared_dir, run_dir, log_dir, *arguments) -> None:
    """Trains with two workers, and compares what each of them ends with."""
    command = train_command(prepared_dir, run_dir, *arguments)[3:]
    script = [sys.executable, "-c", WORKER]
    finish(
        [
            [*script, str(path), *command, "--distribution=multi_worker"]
            for path in (log_dir / "0.npz", log_dir / "1.npz")
        ],
        log_dir,
    )
    with np.load(log_dir / "0.npz") as first, np.load(log_dir / "1.npz") as second:
        assert set(first) == set(second)
        for name in first:
            if "/moving_" not in name:  # each replica's own
                np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        own = [not np.array_equal(first[n], second[n]) for n in first if "moving_" in n]
        assert any(own) != ("--sync_batch_norm" in arguments)


def test_two_workers_train_as_two_devices_of_one_machine(prepared_dir, tmp_path):
    """20 updates: both workers' weights are equal, and those of MirroredStrategy."""
    arguments = ("--preset=smoke", "--threads=1", "--deterministic")
    together = tmp_path / "together"
    assert_equal_weights(prepared_dir, together, tmp_path, *arguments)
    alone = tmp_path / "alone"
    subprocess.run(
        train_command(prepared_dir, alone, *arguments, "--cpu_devices=2"),
        check=True,
        capture_output=True,
    )
    name = "checkpoints/update-00000020.npz"
    found, expected = (arrays.read_arrays(p / name) for p in (together, alone))
    found.pop("state"), expected.pop("state")
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-5, err_msg=key)
    done = json.loads((together / "done.json").read_text())
    assert done["pairs"] == 20 * 2 * 4


# What two workers exchange differs by flag. With global negatives alone, replicas
# share one draw; synchronised statistics leave no moving ones of a worker's own.
EXCHANGES = {
    "global_negatives": ("--global_negatives",),
    "sync_batch_norm": ("--sync_batch_norm",),
    "accumulate": ("--accumulate=2",),
    "micro_batch": ("--micro_batch=2",),
    "augment": ("--augment=gain",),
    "all": (
        "--global_negatives",
        "--sync_batch_norm",
        "--accumulate=2",
        "--micro_batch=2",
        "--augment=gain",
    ),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == "all" else pytest.mark.slow)
        for case in EXCHANGES
    ],
)
def test_two_workers_with_other_flags_end_with_equal_weights(
    case, prepared_dir, tmp_path
):
    run_dir = tmp_path / "run"
    arguments = ("--preset=smoke", "--threads=1", "--steps=1", "--updates_per_step=2")
    arguments = (*arguments, *EXCHANGES[case])
    assert_equal_weights(prepared_dir, run_dir, tmp_path, *arguments)
    done = json.loads((run_dir / "done.json").read_text())
    assert done["updates"] == 2


MULTI = (*TINY, "--source=multi", "--batches=mixed", "--distribution=multi_worker")


@pytest.fixture(scope="module")
def uninterrupted(prepared_dir, tmp_path_factory):
    """The run of two workers that nothing stopped."""
    folder = tmp_path_factory.mktemp("workers")
    finish([train_command(prepared_dir, folder / "run", *MULTI)] * 2, folder)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_sigterm_at_one_worker_stops_both_in_order(
    index, prepared_dir, uninterrupted, tmp_path
):
    """Both write the same checkpoint and go on as if nothing had been."""
    run_dir = tmp_path / "found"
    commands = [train_command(prepared_dir, run_dir, *MULTI)] * 2
    with two_workers(commands, tmp_path) as processes:
        wait_for_update(run_dir, 60, processes)
        processes[index].send_signal(signal.SIGTERM)
        codes = [process.wait(TIMEOUT_SECONDS) for process in processes]
    logs = [read_log(tmp_path, number) for number in range(2)]
    assert codes == [130, 130], "".join(logs)
    stopped = {re.search(r"stopped at update (\d+) of 240", log)[1] for log in logs}
    assert stopped == {str(newest_update(run_dir))}
    assert not any("Traceback" in log for log in logs)
    assert not (run_dir / "done.json").exists()
    finish(commands, tmp_path)
    message = f"going on at update {stopped.pop()}"
    assert all(message in read_log(tmp_path, number) for number in range(2))
    assert_equal_runs(run_dir, uninterrupted)


@pytest.mark.slow
def test_a_killed_worker_goes_on_exactly(prepared_dir, uninterrupted, tmp_path):
    """It ends the other, with a message; both then end as if nothing had been."""
    found = tmp_path / "found"
    commands = [train_command(prepared_dir, found, *MULTI)] * 2
    with two_workers(commands, tmp_path) as (chief, victim):
        wait_for_update(found, 60, (chief, victim))
        victim.kill()
        codes = [process.wait(TIMEOUT_SECONDS) for process in (chief, victim)]
    survivor = read_log(tmp_path, 0)
    assert codes == [1, -signal.SIGKILL], survivor
    assert "another worker is lost" in survivor
    assert "Traceback" not in survivor
    assert not (found / "done.json").exists()
    finish(commands, tmp_path)
    assert "going on at update" in read_log(tmp_path, 1)
    assert_equal_runs(found, uninterrupted)
    # Once it has ended, the same command says so on both.
    finish(commands, tmp_path)


@pytest.mark.parametrize(
    ("jobs", "task", "expected"),
    [
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), (1, 2)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, ("chief", 0), (0, 3)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, ("worker", 1), (2, 3)),
    ],
)
def test_workers_are_numbered_chief_first(jobs, task, expected):
    text = json.dumps({"cluster": jobs, "task": {"type": task[0], "index": task[1]}})
    assert parse_tf_config(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "needs the environment variable TF_CONFIG"),
        ("{", "it must look like"),
        ('{"cluster": {"worker": ["a:1"]}}', "'task'"),
        (tf_config([1, 2], 2), "no worker 2 among"),
        (
            '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
            "only chief and worker train",
        ),
    ],
)
def test_a_wrong_tf_config_is_explained(monkeypatch, text, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(WorkerError, match=message):
        build_strategy("multi_worker")
