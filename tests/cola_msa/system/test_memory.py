"""Tests of the kept memory: page faults of repeated large operations."""

import subprocess
import sys

import pytest

from cola_msa.system import memory

_CODE = """
import resource, sys
import numpy as np
from cola_msa.system import memory

if sys.argv[1] == "kept":
    assert memory.keep_freed_memory() and memory.keep_freed_memory()

def work():
    blocks = [np.ones(megabytes << 17) for megabytes in (8, 48, 100)]
    return sum(block.sum() for block in blocks)

first = work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert [work() for _ in range(5)] == 5 * [first]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(name: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", _CODE, name], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_large_blocks_are_reused():
    # 156 MB five times: at least a fault a huge page where they are given back.
    plain, kept = _page_faults("plain"), _page_faults("kept")
    assert plain > 300
    assert kept < 0.1 * plain


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory.__wrapped__() is False
