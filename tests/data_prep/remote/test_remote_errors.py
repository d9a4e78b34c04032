"""Addresses: what goes wrong, and copies of them."""

import dataclasses
import importlib
import os
import pathlib
import shutil
import sys

import pytest
from absl import flags
from fsspec.implementations.memory import MemoryFileSystem

from cola_msa.audio.errors import MissingError
from cola_msa.remote import addresses
from cola_msa.system import console
from data_prep import copy
from data_prep.checks import prepared
from data_prep.datasets.base import IndexOptions
from data_prep.remote import inputs
from tests.cola_msa.audio.test_files import forbid
from tests.data_prep.datasets.test_datasets import (
    dataset_of,
    execute,
)
from tests.data_prep.pipeline.test_runner import digests
from tests.helpers import trees
from tests.helpers.buckets import (
    FOLDER_FLAGS,
    failures_at,
    get,
    one_line,
    put,
    scratch_left,
)


@pytest.fixture
def four_shards(bucket, tmp_path):
    root = trees.write_folder(tmp_path / "raw")
    assert execute("folder", root, tmp_path / "local", *FOLDER_FLAGS) == 0
    return put(bucket, root, "raw")


# What goes wrong ---------------------------------------------------------------------


def test_a_clip_that_cannot_be_downloaded_is_counted(
    bucket, four_shards, tmp_path, monkeypatch
):
    real = MemoryFileSystem.get_file
    tried = []

    def get_file(self, source, target, **keywords):
        if source == "/raw/x/1.wav":
            tried.append(source)
            raise ConnectionResetError("reset by peer\nand more")
        if source == "/raw/x/2.flac":
            raise FileNotFoundError(source)
        if source == "/raw/y/deep/1.ogg":
            pathlib.Path(target).write_bytes(b"half")
            return None
        return real(self, source, target, **keywords)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    more = (*FOLDER_FLAGS, "--max_failures=1")
    assert execute("folder", four_shards, "memory://out", *more) == 0
    failures = failures_at(bucket, "out")
    place = "could not be downloaded: memory://raw/"
    assert failures["x/1.wav"] == (
        f"{place}x/1.wav cannot be read: ConnectionResetError: reset by peer"
    )
    assert len(tried) == 3
    assert "x/2.flac cannot be read: FileNotFoundError" in failures["x/2.flac"]
    assert "bytes arrived" in failures["y/deep/1.ogg"]
    assert len(failures) == 3 and not scratch_left(tmp_path)


def test_a_network_that_recovers_fails_nothing(bucket, four_shards, monkeypatch):
    real = MemoryFileSystem.get_file
    tried = []

    def get_file(self, source, target, **keywords):
        tried.append(source)
        if source.startswith("/raw") and tried.count(source) == 1:
            raise TimeoutError("no answer")
        return real(self, source, target, **keywords)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 0
    assert failures_at(bucket, "out") == {}


@pytest.mark.parametrize("what", ["gone", "silent"])
def test_a_lost_bucket_fails_no_clip(
    bucket, four_shards, tmp_path, monkeypatch, capsys, what
):
    real, real_isdir = MemoryFileSystem.get_file, MemoryFileSystem.isdir

    def num_finished() -> int:
        return sum(path.endswith(".tfrecord") for path in bucket.store)

    def get_file(self, source, target, **keywords):
        if source.startswith("/raw") and num_finished() == 2:
            raise PermissionError("token expired")
        return real(self, source, target, **keywords)

    def isdir(self, path):
        if path == "/raw" and num_finished() == 2:
            if what == "silent":
                raise PermissionError("token expired")
            return False
        return real_isdir(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", get_file)
        patch.setattr(MemoryFileSystem, "isdir", isdir)
        assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 1
    error = one_line(capsys.readouterr().err)
    reason = "has vanished" if what == "gone" else "cannot be read: PermissionError"
    assert f"memory://raw {reason}" in error and "finished shards are kept" in error
    assert num_finished() == 2
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 0
    assert digests(get(bucket, "out", tmp_path / "got")) == digests(tmp_path / "local")


def test_a_full_local_disk_fails_no_clip(bucket, four_shards, monkeypatch, capsys):
    def get_file(self, source, target, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 1
    assert "No space left on device: '" in one_line(capsys.readouterr().err)


def test_a_missing_dataset(bucket, tmp_path, capsys):
    assert execute("folder", "memory://nowhere/x", tmp_path / "out") == 1
    error = one_line(capsys.readouterr().err)
    assert "memory://nowhere/x does not exist, or is empty" in error
    assert not (tmp_path / "out").exists()


def test_a_message_about_metadata_names_the_address(bucket, tmp_path, capsys):
    data = put(bucket, trees.write_folder(tmp_path / "raw"), "bucket/no mtat")
    assert execute("mtat", data, tmp_path / "out") == 1
    error = one_line(capsys.readouterr().err)
    assert "memory://bucket/no mtat/annotations_final.csv does not exist" in error
    assert "scratch" not in error


@pytest.mark.parametrize(
    ("url", "module", "command"),
    [
        ("gs://bucket/raw", "gcsfs", "pip install gcsfs"),
        ("s3://bucket/raw", "s3fs", "pip install s3fs"),
        ("abfs://bucket/raw", "adlfs", "pip install adlfs"),
        ("sftp://host/raw", "paramiko", "pip install paramiko"),
    ],
)
@pytest.mark.parametrize("flag", ["dataset_dir", "output_dir"])
def test_a_missing_package(
    bucket, tmp_path, capsys, monkeypatch, url, module, command, flag
):
    monkeypatch.setitem(sys.modules, module, None)
    root = trees.write_folder(tmp_path / "raw")
    given = {"dataset_dir": root, "output_dir": tmp_path / "out", flag: url}
    assert execute("folder", given["dataset_dir"], given["output_dir"]) == 1
    error = one_line(capsys.readouterr().err)
    assert url in error and error.endswith(command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://x/y", "Protocol not known: nonsense"),
        ("https://host/raw", "download the files"),
    ],
)
def test_an_address_that_cannot_serve(bucket, tmp_path, capsys, url, message):
    assert execute("folder", url, tmp_path / "out") == 2
    assert message in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("flags", "expected", "message"),
    [
        (["--stems_dir={root}/x"], 2, "copy it there"),
        (["--stems_dir=memory://nowhere"], 1, "is not a folder"),
        (["--stems_dir=file://{root}/x"], 2, "another file system"),
        (["--separator=memory://weights"], 2, "must lie on a local disk"),
        (["--separator=random", "--stems_cache=memory://c"], 2, "name a local one"),
    ],
)
def test_flags_that_cannot_be_addresses(
    bucket, tmp_path, capsys, flags, expected, message
):
    root = trees.write_folder(tmp_path / "raw")
    data = put(bucket, root, "raw")
    given = [flag.format(root=root) for flag in flags]
    code = execute("folder", data, tmp_path / "out", *given)
    assert code == expected
    assert message in one_line(capsys.readouterr().err)


def test_an_address_of_stems_beside_a_folder_is_refused(bucket, tmp_path, capsys):
    root = trees.write_folder(tmp_path / "raw")
    address = put(bucket, root, "raw")
    assert execute("folder", root, tmp_path / "out", f"--stems_dir={address}") == 2
    assert "copy it to a local disk" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("name", ["../x.wav", "a//x.wav", "./x.wav"])
def test_names_that_would_leave_the_scratch_folder(bucket, tmp_path, monkeypatch, name):
    def find(self, path, **keywords):
        return {f"{path}/{name}": {"name": f"{path}/{name}", "type": "file", "size": 1}}

    bucket.pipe_file("/raw/x.wav", b"1")
    monkeypatch.setattr(MemoryFileSystem, "find", find)
    with pytest.raises(addresses.AddressError, match="rename it"):
        inputs.make_stand_in(addresses.open_folder("memory://raw"), (), tmp_path)


def test_metadata_that_would_leave_the_scratch_folder(bucket, tmp_path):
    bucket.pipe_file("/raw/x.wav", b"1")
    found = dataset_of("folder").index(
        trees.write_folder(tmp_path / "raw"), IndexOptions()
    )
    clip = dataclasses.replace(found.clips[0], path="../../../../etc/x.wav")
    source = inputs.Inputs(tmp_path, url="memory://raw")
    with pytest.raises(MissingError, match="outside of memory://raw"):
        with source.files_of(clip, ()):
            pass


def test_a_named_pipe_and_a_folder_at_an_address(bucket, tmp_path):
    root = trees.write_folder(tmp_path / "raw")
    os.mkfifo(root / "pipe.wav")
    (root / "empty.mp3").mkdir()
    more = (*FOLDER_FLAGS, "--max_failures=1")
    assert execute("folder", f"file://{root}", "memory://out", *more) == 0
    failures = failures_at(bucket, "out")
    assert "no regular file" in failures.pop("pipe.wav")
    assert failures == {"empty.mp3": "not a regular file, but a directory"}


def test_links_at_an_address_are_followed_and_loops_end(bucket, tmp_path, capsys):
    root = trees.write_folder(tmp_path / "raw")
    (tmp_path / "disk").mkdir()
    shutil.move(root / "y", tmp_path / "disk" / "y")
    (root / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(root)
    (root / "x" / "again").symlink_to(root / "x")
    (root / "self").symlink_to(root / "self")
    assert execute("folder", str(root), tmp_path / "local", *FOLDER_FLAGS) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert execute("folder", f"file://{root}", "memory://out", *FOLDER_FLAGS) == 0
    found = get(bucket, "out", tmp_path / "got")
    assert digests(found) == digests(tmp_path / "local")
    out = capsys.readouterr().out
    assert "listed already: linked/back, x/again" in out
    assert all(line in out for line in said)


def test_a_folder_without_permission_at_an_address_is_named(
    bucket, tmp_path, monkeypatch
):
    root = trees.write_folder(tmp_path / "raw")
    forbid(monkeypatch, root / "y" / "deep")
    more = (*FOLDER_FLAGS, "--max_failures=1")
    assert execute("folder", f"file://{root}", "memory://out", *more) == 0
    (failure,) = failures_at(bucket, "out").items()
    assert failure[0] == "y/deep" and "Permission denied" in failure[1]
    forbid(monkeypatch, root)
    assert execute("folder", f"file://{root}", "memory://none", *more) != 0


def test_a_file_system_that_does_not_say_where_links_lead(tmp_path, monkeypatch):
    root = trees.write_folder(tmp_path / "raw")
    (root / "linked").symlink_to(root)
    monkeypatch.setattr(addresses, "_LOCAL", ())
    folder = addresses.open_folder.__wrapped__(f"file://{root}")
    unreadable: dict[str, str] = {}
    stand_in = inputs.make_stand_in(folder, (), tmp_path / "scratch", unreadable)
    assert list(unreadable) == ["linked"] and "not followed" in unreadable["linked"]
    assert len([p for p in stand_in.rglob("*") if p.is_file()]) == 5


# Copies ------------------------------------------------------------------------------


def copy_values(url: str, output: pathlib.Path) -> flags.FlagValues:
    values = flags.FlagValues()
    copy.define_flags(values)
    values(["command", f"--data_dir={url}", f"--output_dir={output}"])
    return values


def test_copied_data_can_be_verified(bucket, tmp_path, monkeypatch, capsys):
    root = trees.write_folder(tmp_path / "raw")
    assert execute("folder", root, "memory://bucket/out") == 0
    target = tmp_path / "copy"
    assert console.run(copy.main, copy_values("memory://bucket/out", target)) == 0
    _, findings = prepared.verify(target, 1)
    assert not findings
    got = get(bucket, "bucket/out", tmp_path / "got")
    assert digests(target) == digests(got)
    # Again: the manifest alone; a file that was cut comes anew.
    next(target.glob("*.tfrecord")).write_bytes(b"cut")
    capsys.readouterr()
    assert console.run(copy.main, copy_values("memory://bucket/out", target)) == 0
    assert capsys.readouterr().out.startswith("2 files copied")
    assert digests(target) == digests(got)


def test_the_manifest_is_copied_last(bucket, tmp_path, monkeypatch, capsys):
    root = trees.write_folder(tmp_path / "raw")
    assert execute("folder", root, "memory://out") == 0
    real = MemoryFileSystem.get_file

    def get_file(self, source, target, **keywords):
        if source.endswith("validation-00000-of-00001.tfrecord"):
            raise PermissionError("Forbidden")
        return real(self, source, target, **keywords)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    target = tmp_path / "copy"
    assert console.run(copy.main, copy_values("memory://out", target)) == 1
    assert "PermissionError: Forbidden" in one_line(capsys.readouterr().err)
    assert list(target.iterdir()) and not (target / "manifest.json").exists()
    assert not list(target.glob(".*"))


@pytest.mark.parametrize(
    ("url", "output", "code", "message"),
    [
        ("folder", "out", 2, "--data_dir=folder must be an address"),
        (
            "memory://a",
            "memory://b",
            2,
            "--output_dir=memory://b must be a local folder",
        ),
        ("memory://nowhere", "out", 1, "does not exist, or is empty"),
    ],
)
def test_copies_that_make_no_sense(bucket, capsys, url, output, code, message):
    assert console.run(copy.main, copy_values(url, output)) == code
    assert message in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "flag", "more"),
    [
        ("verify", "data_dir", []),
        ("inspect", "data_dir", ["--output=x.png"]),
        ("validate", "dataset_dir", ["--dataset=mtat"]),
    ],
)
def test_commands_that_read_local_files_say_how(bucket, capsys, name, flag, more):
    command = importlib.import_module(f"data_prep.{name}")
    values = flags.FlagValues()
    command.define_flags(values)
    values(["command", f"--{flag}=gs://bucket/x", *more])
    assert console.run(command.main, values) == 2
    error = one_line(capsys.readouterr().err)
    assert "python -m data_prep.copy --data_dir=gs://bucket/x" in error
