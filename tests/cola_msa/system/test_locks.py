import subprocess
import sys

import pytest

from cola_msa.system.locks import Lock, LockedError

HOLD = """
import sys, time
from cola_msa.system.locks import Lock
with Lock(sys.argv[1], "held"):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_until_it_ends(tmp_path):
    path = tmp_path / "folder" / ".lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(LockedError, match="somebody trains there"):
            Lock(path, "somebody trains there")
        process.kill()
        process.wait()
    with Lock(path, "somebody trains there"):
        pass
    with Lock(path, "free again"):
        pass


def test_the_error_can_be_the_callers_own(tmp_path):
    with Lock(tmp_path / "x", ""), pytest.raises(KeyError):
        Lock(tmp_path / "x", "", KeyError)
