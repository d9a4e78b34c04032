import os
import platform
import subprocess
import sys

import pytest

SCRIPT = "import cola_msa.model.losses, os; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"


def run(**environment) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**inherited, "TF_CPP_MIN_LOG_LEVEL": "0", **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there TensorFlow logs")
def test_tensorflows_onednn_kernels_are_on_on_every_processor():
    result = run()
    assert result.stdout.split() == ["1"]
    assert "oneDNN custom operations are on" in result.stderr


def test_who_switched_them_off_keeps_them_off():
    result = run(TF_ENABLE_ONEDNN_OPTS="0")
    assert result.stdout.split() == ["0"]
    assert "oneDNN custom operations are on" not in result.stderr
