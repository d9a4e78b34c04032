import errno
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from cola_msa.system import files
from cola_msa.system.errors import FileError

KILLED = """
import os, sys
from cola_msa.system import files
real, left = getattr(os, {name!r}), [int(sys.argv[2])]
def dying(*args, **options):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    return real(*args, **options)
setattr(os, {name!r}, dying)
files.write_bytes(sys.argv[1], b"new" * 1000)
"""


@pytest.mark.parametrize("name", ["open", "fsync", "replace", "unlink", "close"])
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path, name):
    path = tmp_path / "file"
    outcomes = set()
    for calls in range(6):
        path.write_bytes(b"old")
        command = [sys.executable, "-c", KILLED.format(name=name), path, str(calls)]
        code = subprocess.run(command).returncode
        assert path.read_bytes() in (b"old", b"new" * 1000)
        outcomes.add(code)
        if code == 0:
            break
    assert 9 in outcomes
    files.write_bytes(path, b"again")
    assert path.read_bytes() == b"again"
    assert os.listdir(tmp_path) == ["file"], "what the killed left is gone"


def test_a_users_files_of_like_names_stay(tmp_path):
    names = ["file.tmp", "file.0123456789abcdef.tmp.txt", "other.0123456789abcdef.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    folder = tmp_path / "file.fedcba9876543210.tmp"  # no marker: not ours
    folder.mkdir()
    (folder / "thesis").write_bytes(b"mine")
    files.write_bytes(tmp_path / "file", b"x")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, folder.name, "file"])
    assert (folder / "thesis").read_bytes() == b"mine"


def test_a_file_that_is_being_written_is_not_taken_for_abandoned(tmp_path):
    with files.written_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"slow")
        files.write_bytes(tmp_path / "file", b"quick")
        assert temporary.read_bytes() == b"slow"
    assert (tmp_path / "file").read_bytes() == b"slow"
    assert os.listdir(tmp_path) == ["file"]


def _write_often(path, content):
    for _ in range(50):
        files.write_bytes(path, content)


def test_processes_that_write_one_file_do_not_mix(tmp_path):
    path = tmp_path / "file"
    context = multiprocessing.get_context("spawn")
    contents = [bytes([65 + number]) * 10000 for number in range(4)]
    workers = [context.Process(target=_write_often, args=(path, c)) for c in contents]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_written_is_one_line_and_leaves_the_old(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left on device.*goes on"):
        files.write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_folder_that_fails_is_removed_and_the_lock_ends(tmp_path):
    with pytest.raises(ZeroDivisionError), files.temporary_folder(tmp_path / "x") as f:
        (f / "part").touch()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_a_folder_that_another_thread_fills_stays(tmp_path):
    ready, done = threading.Event(), threading.Event()

    def fill():
        with files.temporary_folder(tmp_path / "x") as folder:
            (folder / "part").touch()
            ready.set()
            done.wait()
            assert (folder / "part").exists()

    worker = threading.Thread(target=fill)
    worker.start()
    ready.wait()
    files.remove_stale(tmp_path / "x")
    assert len(os.listdir(tmp_path)) == 1
    done.set()
    worker.join()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["é" * 120, "x" * 255, "a\nb", "\udcff"])
def test_any_name_can_be_written(tmp_path, name):
    files.write_bytes(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"
    assert len(list(pathlib.Path(tmp_path).iterdir())) == 1


def test_abandoned_files_of_a_folder(tmp_path):
    mine = ["notes.tmp", "a.0123456789abcdeg.tmp", "config.json.tmp"]
    for name in [*mine, "a.0123456789abcdef.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.tmp").mkdir()
    files.remove_abandoned(tmp_path, ["config.json.tmp"])
    assert sorted(os.listdir(tmp_path)) == sorted([*mine[:2], "folder.tmp"])


def test_a_folder_that_goes_as_it_is_looked_at_ends_nothing(tmp_path, monkeypatch):
    left = tmp_path / "kept" / "a.0123456789abcdef.tmp"
    for path in (left, tmp_path / "mine" / "b"):
        path.parent.mkdir()
        path.touch()
    scan = os.scandir

    def scan_late(path=".", *arguments):
        if str(path).endswith("mine"):
            shutil.rmtree(path)  # another process has put it in its place
        return scan(path, *arguments)

    monkeypatch.setattr(os, "scandir", scan_late)
    files.remove_abandoned(tmp_path)
    assert not (tmp_path / "mine").exists() and not left.exists()


def test_a_link_stays_one_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/file")
    files.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]
    assert os.listdir(tmp_path / "far") == ["file"]


def test_pipes_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="no regular file"):
        files.write_bytes(tmp_path / "pipe", b"x")
    assert os.listdir(tmp_path) == ["pipe"]


def test_errors_of_what_is_read_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        files.write_file(tmp_path / "a", lambda _: open(tmp_path / "in" / "missing"))
    with pytest.raises(OSError, match="the bucket has vanished"):
        with files.written_path(tmp_path / "a"):
            raise OSError("the bucket has vanished")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_folder_on_a_full_disk_is_one_line(tmp_path, code):
    with pytest.raises(FileError, match=f"x: cannot be written .{os.strerror(code)}"):
        with files.temporary_folder(tmp_path / "x"):
            raise OSError(code, os.strerror(code))
    assert os.listdir(tmp_path) == []


@pytest.mark.timeout(30)
def test_a_folder_where_nothing_can_be_made_ends_it():
    """Not for ever in the belief that another process has removed what was made."""
    with pytest.raises(FileError, match="/proc"), files.temporary_folder("/proc/x"):
        pass
    with pytest.raises(FileError, match="/proc"):
        files.write_file("/proc/x", lambda file: None, FileError)
