"""Ctrl-C during an evaluation; signals that come while a finalizer runs."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.cola_msa.evaluation.test_judge import (
    ROOT,
    fma,  # noqa: F401 (a fixture)
    run_dir,  # noqa: F401 (a fixture)
)
from tests.helpers.commands import run_script

_SCRIPT = """
import os, signal, sys
from cola_msa.system import signals
from cola_msa.records.reader import read_ahead

class Finalizer:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        sum(range(1000))  # the handler runs in here, and its exception is dropped

signals.install()
count = 0
try:
    for number in read_ahead(iter(range(10))):
        count += 1
        if number == 3:
            Finalizer()
except KeyboardInterrupt:
    print("stopped after", count)
else:
    print("ended after", count)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_finalizer_stops_the_loop(number, tmp_path):
    result = run_script(_SCRIPT, int(number), cwd=tmp_path)
    assert result.stdout == "stopped after 4\n", result.stderr[-2000:]


def test_ctrl_c_leaves_no_results(run_dir, fma, tmp_path):  # noqa: F811
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cola_msa.eval",
            "--task=fma",
            f"--run_dir={run_dir}",
            f"--data_dir={fma.data_dir}",
            "--protocol=paper",
            "--seeds=500",
            f"--output_dir={tmp_path / 'out'}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert process.stderr is not None
    text = ""
    while "head 2/500" not in text and process.poll() is None:
        text += process.stderr.read(200)
    process.send_signal(signal.SIGINT)
    text += process.communicate(timeout=120)[1]
    assert process.returncode == 130, text[-3000:]
    assert "stopped; the same command goes on" in text
    assert "Traceback" not in text
    heads = [int(number) for number in re.findall(r"head (\d+)/500", text)]
    assert 2 <= max(heads) < 500, "it stops before its end"
    assert not (tmp_path / "out" / "results.json").exists()
