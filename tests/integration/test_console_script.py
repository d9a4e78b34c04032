import pathlib
import subprocess
import sys

import cola_msa
from cola_msa.__main__ import commands, main
from tests.helpers.commands import ROOT


def test_every_command_is_listed_with_a_line(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    folder = pathlib.Path(cola_msa.__file__).parent
    doors = {p.stem for p in folder.glob("*.py")} - {"__init__", "__main__", "hear"}
    assert set(commands()) == doors
    for name, line in commands().items():
        assert len(line) > 10 and "python" not in line
        assert f"{name} " in shown and line in shown


def test_an_unknown_command_is_wrong_usage(capsys):
    assert main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error == "error: there is no command 'trian'; cola-msa lists all\n"


def test_a_command_runs_as_by_its_module():
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )

    ours = run("cola_msa", "search", "sideways")
    own = run("cola_msa.search", "sideways")
    assert ours.returncode == own.returncode == 2
    assert ours.stderr.splitlines()[-1] == own.stderr.splitlines()[-1]
    assert "say python -m cola_msa.search build" in ours.stderr
