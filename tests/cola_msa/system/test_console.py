"""What a command does with an error: one line for a user's, a traceback for ours."""

import errno
import gc
import pathlib
import sys

import pytest

from cola_msa.system import console
from cola_msa.system.errors import UserError, one_line
from tests.helpers.commands import run_script


@pytest.mark.parametrize("kind", ["name", "path", "link"])
def test_a_path_that_no_file_can_have_is_one_line(tmp_path, capsys, kind):
    path = {
        "name": tmp_path / ("x" * 300),
        "path": pathlib.Path("/".join(["x" * 100] * 50)),
        "link": tmp_path / "link" / "file",
    }[kind]
    (tmp_path / "link").symlink_to("link")

    assert console.run(path.stat) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(path) in line


def test_an_error_of_ours_is_not_the_users(capsys):
    def main():
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file"):
        console.run(main)
    assert capsys.readouterr().err == ""


# A line break, one that only Python takes for one, a terminal's colour, a letter that
# turns what follows around, and half a letter.
HOSTILE = "a\nb\u2028c\x1b[31md\u202ee\udcff"
SHOWN = r"a\u000ab\u2028c\u001b[31md\u202ee\udcff"


def test_hostile_names_are_one_line_in_errors_and_in_what_is_told(capsys):
    def main():
        raise UserError(f"{HOSTILE}: is no file")

    assert console.run(main) == 1
    console.tell(f"failed: {HOSTILE}", "https://me:secret@host/x: gone")
    found = capsys.readouterr()
    assert found.err == f"error: {SHOWN}: is no file\n"
    assert found.out == f"failed: {SHOWN}\nhttps://***@host/x: gone\n"


def test_hostile_names_are_one_line_in_the_log(tmp_path):
    found = run_script(
        "from absl import logging\n"
        "from cola_msa.system import console\n"
        f"def main(_):\n    logging.warning('read %s', {HOSTILE!a})\n"
        "console.start(main, lambda: None)\n",
        cwd=tmp_path,
    )
    # That flags were parsed is a line of its own.
    lines = [line for line in found.stderr.split("\n") if "read a" in line]
    assert len(lines) == 1 and lines[0].endswith(f"] read {SHOWN}")


@pytest.mark.parametrize("what", ["['--help']", "[]"])
def test_a_reader_that_has_gone_is_no_defect(tmp_path, what):
    """As behind `| head`: the pipe's other end is closed."""
    found = run_script(
        "import os, sys\n"
        "from cola_msa.system import console\n"
        "ends = os.pipe()\n"
        "os.dup2(ends[1], 1)\n"
        "os.close(ends[0])\n"
        f"sys.argv = ['x', *{what}]\n"
        "try:\n    console.start(lambda _: print('a line'), lambda: None)\n"
        "except SystemExit as end:\n    assert end.code == 1\n",
        cwd=tmp_path,
    )
    assert "Error" not in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize("name", ["Ärger/été.wav", "日本語 – “x”.mp3", "a\\nb"])
def test_other_names_are_shown_as_they_are(name):
    assert one_line(name) == name


def test_a_progress_bar_is_one_line(capsys):
    with console.progress_bar(1, "reading a\nb.parquet", "row") as bar:
        bar.update()
    assert r"reading a\u000ab.parquet" in capsys.readouterr().err


def test_a_ctrl_c_within_a_bars_constructor_says_nothing_else(monkeypatch):
    """Tqdm's own destructor fails there, and Python prints what it fails with."""
    printed: list = []

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(console.ProgressBar, "_get_free_pos", stop)
    # Of what would be printed; pytest's own hook makes warnings of it.
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    with pytest.raises(KeyboardInterrupt):
        console.progress_bar(3, "reading", "row")
    gc.collect()
    assert not printed
