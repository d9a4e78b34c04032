import os
import signal
import subprocess
import sys
import time

import pytest

from cola_msa.reproduction.demo import DemoError, _Command, _side_by_side

WRITER = """
import sys, time
name, code = sys.argv[1:]
for n in range(3):
    print("\\r%s %d/3" % (name, n + 1), end="", file=sys.stderr)
    time.sleep(0.1)
print(file=sys.stderr)
print(name, "has ended")
sys.exit(int(code))
"""


@pytest.fixture
def writer(tmp_path, monkeypatch):
    (tmp_path / "writer.py").write_text(WRITER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, code, done=None: _Command("writer", (name, str(code)), done)


def test_two_commands_run_at_a_time_and_both_are_seen(writer, capfd):
    _side_by_side(writer("first", 0), writer("second", 0))
    text = capfd.readouterr().out
    for name in ("first", "second"):
        assert f"$ python -m writer {name} 0" in text
        assert f"{name} has ended" in text
    # Of the second one's bar there is what it showed last.
    assert "second 3/3" in text
    assert "second 1/3" not in text


@pytest.mark.parametrize("codes", [(3, 0), (0, 3)])
def test_the_one_that_failed_is_named_when_both_have_ended(writer, capfd, codes):
    failed = "first" if codes[0] else "second"
    with pytest.raises(DemoError, match=f"writer {failed} 3` failed"):
        _side_by_side(writer("first", codes[0]), writer("second", codes[1]))
    assert "second has ended" in capfd.readouterr().out


def test_what_was_done_before_is_not_run(writer, tmp_path, capfd):
    done = tmp_path / "results.json"
    done.write_text("{}")
    _side_by_side(writer("first", 3, done), writer("second", 0))
    text = capfd.readouterr().out
    assert "first has ended" not in text
    assert f"done before: {done}" in text
    assert "second has ended" in text


def test_ctrl_c_ends_both(tmp_path):
    """The children outlive no parent, even those that sleep."""
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    script = (
        "from cola_msa.reproduction.demo import _Command, _side_by_side\n"
        "_side_by_side(*(_Command('sleeper', (n,)) for n in ('a.pid', 'b.pid')))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A background shell job would hand down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    paths = [tmp_path / "a.pid", tmp_path / "b.pid"]
    while not all(path.exists() and path.read_text() for path in paths):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    for path in paths:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
