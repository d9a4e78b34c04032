import pathlib
import signal

import pytest

import cola_msa
from cola_msa.__main__ import commands, main
from tests.cola_msa.system.test_processes import wait_for
from tests.helpers.commands import Command, run_fresh, run_module


def test_every_command_is_listed_with_a_line(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    folder = pathlib.Path(cola_msa.__file__).parent
    doors = {p.stem for p in folder.glob("*.py")}
    assert set(commands()) == doors - {"__init__", "__main__", "hear", "mteb"}
    for name, line in commands().items():
        assert len(line) > 10 and "python" not in line
        assert f"{name} " in shown and line in shown


def test_an_unknown_command_is_wrong_usage(capsys):
    assert main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error == "error: there is no command 'trian'; cola-msa lists all\n"


def test_a_command_runs_as_by_its_module():
    ours = run_fresh("cola_msa", "search", "sideways")
    own = run_fresh("cola_msa.search", "sideways")
    assert ours.returncode == own.returncode == 2
    assert ours.stderr.splitlines()[-1] == own.stderr.splitlines()[-1]
    assert "say python -m cola_msa.search build" in ours.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("cola_msa.search", "sideways"),
        ("cola_msa.search", "--help"),
        ("cola_msa.search", "--nonsense"),
        ("cola_msa.nonsense",),
        ("json.tool", "nowhere.json"),
    ],
)
def test_a_fork_runs_a_command_as_a_fresh_process_does(arguments, tmp_path):
    """As far as a test sees: most tests of commands run them in forks."""
    forked = run_module(*arguments, cwd=tmp_path)
    fresh = run_fresh(*arguments, cwd=tmp_path)
    assert forked.returncode == fresh.returncode
    assert forked.stdout == fresh.stdout
    # Of an error the end: it begins with the interpreter's name, or the error's class.
    told = [found.stderr.rstrip()[-30:] for found in (forked, fresh)]
    assert told[0] == told[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_fork_is_a_process_to_be_signalled(number, tmp_path):
    (tmp_path / "script.py").write_text(
        "import pathlib, time; pathlib.Path('begun').touch(); time.sleep(600)"
    )
    command = Command("script", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "begun").exists())
    assert command.poll() is None
    command.send_signal(number)
    assert command.wait(60) == -number
