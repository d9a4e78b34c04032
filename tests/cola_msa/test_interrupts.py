"""Signals that come while a finalizer runs are not lost."""

import os
import signal
import subprocess
import sys

import pytest

_SCRIPT = """
import os, signal, sys
from cola_msa import interrupts
from cola_msa.window_reader import read_ahead

class Finalizer:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        sum(range(1000))  # the handler runs in here, and its exception is dropped

interrupts.install()
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
def test_a_signal_in_a_finalizer_stops_the_loop(number):
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(int(number))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert result.stdout == "stopped after 4\n", result.stderr[-2000:]
