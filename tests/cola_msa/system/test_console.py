"""What a command does with an error: one line for a user's, a traceback for ours."""

import errno
import pathlib

import pytest

from cola_msa.system import console


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
