"""Children that end with their parent, and folders that belong to one process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cola_msa.system import locks, processes
from tests.helpers.commands import ROOT

_CHILD = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
count = 0
def stop(number, frame):
    global count
    count += 1
    (folder / "signals").write_text(f"{signal.Signals(number).name} {count}")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
(folder / "started").touch()
while not count:
    time.sleep(0.05)
time.sleep(0.5)
(folder / "ended").touch()
"""
_PARENT = """
import pathlib, sys
from cola_msa.system import locks, processes, signals
folder = pathlib.Path(sys.argv[1])
with locks.exclusive_folder(folder, 5) as lock, signals.stop_on_signals():
    processes.run_child([sys.executable, sys.argv[2], str(folder)], lock)
"""


@pytest.fixture
def parent(tmp_path):
    """A process that runs a child in a locked folder."""
    (tmp_path / "child.py").write_text(_CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path), str(tmp_path / "child.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: (tmp_path / "started").exists())
    yield process
    process.kill()
    process.wait()


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_asks_the_child_once_and_waits(parent, tmp_path, number):
    parent.send_signal(number)
    parent.wait(120)
    assert (tmp_path / "signals").read_text() == "SIGINT 1"
    assert (tmp_path / "ended").exists()


def test_a_killed_parent_leaves_no_child_and_no_lock(parent, tmp_path):
    with pytest.raises(processes.ProcessError, match="another process works there"):
        with locks.exclusive_folder(tmp_path, 0.0):
            pass
    parent.kill()
    parent.wait()
    # The lock is the child's too: whoever gets it knows that the child has ended.
    with locks.exclusive_folder(tmp_path, 120.0):
        assert (tmp_path / "signals").read_text() == "SIGTERM 1"
        assert (tmp_path / "ended").exists()
