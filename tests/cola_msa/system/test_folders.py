import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from cola_msa.system import files, folders
from cola_msa.system.errors import FileError
from cola_msa.system.files import temporary_folder
from tests.helpers import trees

LISTED = {"list", "sub/a"}


def listing(folder):
    return LISTED if (folder / "list").exists() else None


def fill(folder, content):
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "list").write_text(content)
    (folder / "sub" / "a").write_text(content)


def put(target, content):
    with temporary_folder(target) as folder:
        fill(folder, content)
        folders.replace_folder(folder, target, listing, "an output")


@pytest.mark.parametrize("before", ["absent", "empty", "earlier", "link"])
def test_what_may_be_replaced_is(tmp_path, before):
    target = tmp_path / "models"
    if before == "empty":
        target.mkdir()
    elif before == "earlier":
        put(target, "old")
    elif before == "link":
        put(tmp_path / "real", "old")
        target.symlink_to("real")
    put(target, "new")
    assert trees.files_of(target) == {"list": b"new", "sub/a": b"new"}
    names = {"real", "models"} if before == "link" else {"models"}
    assert set(os.listdir(tmp_path)) == names
    assert target.is_symlink() == (before == "link")


@pytest.mark.parametrize(
    "victims",
    [
        {"thesis.tex": b"\\begin"},
        {"list": b"old", "sub/a": b"old", "sub/thesis.tex": b"x"},
        {"list": b"old", "sub/a": b"old", ".hidden": b"x"},
        {"sub/a": b"without its list"},
    ],
)
def test_anything_else_is_refused_and_stays(tmp_path, victims):
    target = tmp_path / "models"
    for name, content in victims.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    with pytest.raises(FileError, match="nothing there is replaced"):
        folders.check_replaceable(target, listing, "an output")
    with pytest.raises(FileError, match="nothing there is replaced"):
        put(target, "new")
    assert trees.files_of(target) == victims and os.listdir(tmp_path) == ["models"]


@pytest.mark.parametrize("named", ["../thesis.tex", "sub/../../thesis.tex", None])
def test_a_list_that_names_files_elsewhere_removes_none(tmp_path, monkeypatch, named):
    """Metadata may come from somebody else; None stands for an absolute path."""
    (tmp_path / "thesis.tex").write_text("years")
    put(tmp_path / "models", "old")
    listed = {*LISTED, named or str(tmp_path / "thesis.tex")}
    monkeypatch.setattr("tests.cola_msa.system.test_folders.LISTED", listed)
    put(tmp_path / "models", "new")
    assert (tmp_path / "thesis.tex").read_text() == "years"
    assert trees.files_of(tmp_path / "models") == {"list": b"new", "sub/a": b"new"}


def test_a_linked_folder_within_is_not_ours(tmp_path):
    put(tmp_path / "models", "old")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("x")
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "mine")
    with pytest.raises(FileError, match="'linked'"):
        put(tmp_path / "models", "new")
    assert (tmp_path / "mine" / "a").read_text() == "x"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "models").write_text("x")
    with pytest.raises(FileError, match="is a file"):
        folders.check_replaceable(tmp_path / "models", listing, "an output")


def test_a_target_that_became_a_file_is_refused_by_that_name(tmp_path):
    with pytest.raises(FileError, match="models is a file: name a new folder"):
        with temporary_folder(tmp_path / "models") as folder:
            fill(folder, "new")
            (tmp_path / "models").write_text("mine")
            folders.replace_folder(folder, tmp_path / "models", listing, "an output")
    assert (tmp_path / "models").read_text() == "mine"


def test_what_is_being_replaced_is_nobodys_to_remove(tmp_path, monkeypatch):
    target = tmp_path / "out"
    fill(target, "old")
    exchange = folders._rename

    def exchange_late(source, place, flag):
        (target / "notes.txt").write_text("mine")  # after the last check
        exchange(source, place, flag)
        files.remove_stale(target)  # another process begins to write there

    monkeypatch.setattr(folders, "_rename", exchange_late)
    put(target, "new")
    assert (target / "list").read_text() == "new"
    assert [path.read_text() for path in tmp_path.rglob("notes.txt")] == ["mine"]


def test_two_that_replace_one_folder_wait_for_each_other(tmp_path, monkeypatch):
    target = tmp_path / "out"
    fill(target, "old")
    descriptor = os.open(target, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    worker = threading.Thread(target=put, args=(target, "new"))
    worker.start()
    worker.join(0.5)
    assert worker.is_alive() and (target / "list").read_text() == "old"
    # The other's folder is there now, and what was there is free.
    fill(tmp_path / "other", "other")
    folders._rename(tmp_path / "other", target, folders._RENAME_EXCHANGE)
    os.close(descriptor)
    worker.join(60)
    assert (target / "list").read_text() == "new"
    assert (tmp_path / "other" / "list").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_who_holds_a_folder_for_long_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    fill(tmp_path / "out", "old")
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    put(tmp_path / "out", "new")
    os.close(descriptor)
    assert (tmp_path / "out" / "list").read_text() == "new"


def test_without_an_exchange_the_old_one_stays(tmp_path, monkeypatch):
    put(tmp_path / "models", "old")

    def fail(source, target, flag):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(folders, "_rename", fail)
    with pytest.raises(FileError, match="cannot exchange two folders"):
        put(tmp_path / "models", "new")
    assert trees.files_of(tmp_path / "models") == {"list": b"old", "sub/a": b"old"}


def is_ours(path):
    return path.read_bytes().startswith(b"ours")


@pytest.mark.parametrize("before", [None, b"", b"ours, earlier"])
def test_a_file_that_may_be_written_over(tmp_path, before):
    if before is not None:
        (tmp_path / "page").write_bytes(before)
    folders.check_file(tmp_path / "page", is_ours, "a page")


@pytest.mark.parametrize("before", ["thesis", "folder", "pipe", "link to nothing"])
def test_a_file_that_may_not(tmp_path, before):
    path = tmp_path / "page"
    if before == "thesis":
        path.write_bytes(b"mine")
    elif before == "folder":
        path.mkdir()
    elif before == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(FileError, match="nothing is written over it|no regular file"):
        folders.check_file(path, is_ours, "a page")


@pytest.mark.parametrize("taken", ["page", "parts/1"])
def test_names_that_are_taken_need_a_proof(tmp_path, taken):
    patterns = ("page", "parts/*", "proof")

    def has_proof(folder):
        return (folder / "proof").exists()

    folders.check_names(tmp_path / "absent", patterns, has_proof, "ours")
    (tmp_path / "notes").touch()
    folders.check_names(tmp_path, patterns, has_proof, "ours")
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_bytes(b"mine")
    with pytest.raises(FileError, match=f"holds '{taken}', and is not ours"):
        folders.check_names(tmp_path, patterns, has_proof, "ours")
    (tmp_path / "proof").touch()
    folders.check_names(tmp_path, patterns, has_proof, "ours")
    with pytest.raises(FileError, match="is a file: name a new folder"):
        folders.check_names(tmp_path / "notes", patterns, has_proof, "ours")


KILLED = """
import os, sys
from cola_msa.system import files, folders
from tests.cola_msa.system.test_folders import put
left = [int(sys.argv[2])]
def dying(real):
    def call(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return real(*args, **options)
    return call
for name in ("unlink", "rmdir", "rename", "mkdir", "fsync"):
    setattr(os, name, dying(getattr(os, name)))
folders._rename = dying(folders._rename)
put(sys.argv[1], "new")
"""


@pytest.mark.parametrize("before", ["absent", "earlier"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path, before):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    old = {"list": b"old", "sub/a": b"old"}
    new = {"list": b"new", "sub/a": b"new"}
    codes = []
    for step in range(60):
        target = tmp_path / str(step) / "models"
        if before == "earlier":
            put(target, "old")
        command = [sys.executable, "-c", KILLED, str(target), str(step)]
        codes.append(subprocess.run(command, cwd=root).returncode)
        found = trees.files_of(target) if target.exists() else {}
        found.pop(".cola_msa-unfinished", None)
        assert found in ((old, new) if before == "earlier" else ({}, new)), step
        put(target, "new")
        assert trees.files_of(target) == new
        assert os.listdir(target.parent) == ["models"], "nothing is left over"
        if codes[-1] == 0:
            break
    assert codes[-1] == 0 and codes.count(9) > 10
