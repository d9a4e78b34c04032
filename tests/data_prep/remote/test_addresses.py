"""Addresses as input and output: the same bytes as of folders, resume."""

import shutil

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cola_msa.remote import addresses
from cola_msa.system.errors import UsageError
from data_prep.pipeline import cli, runner
from data_prep.remote import copy, inputs, places
from tests.data_prep.datasets.test_datasets import (
    NAMES,
    dataset_of,
    default_options,
    execute,
    parse,
    write_tree,
)
from tests.data_prep.pipeline.test_runner import digests
from tests.helpers import trees
from tests.helpers.buckets import FOLDER_FLAGS, get, one_line, put, scratch_left


@pytest.fixture
def four_shards(bucket, tmp_path):
    root = trees.write_folder(tmp_path / "raw")
    assert execute("folder", root, tmp_path / "local", *FOLDER_FLAGS) == 0
    return put(bucket, root, "raw")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_as_of_a_folder(bucket, tmp_path, name):
    root = write_tree(name, tmp_path / "raw")
    assert execute(name, root, tmp_path / "local") == 0
    data = put(bucket, root, f"bucket/{name}")
    assert execute(name, data, "memory://bucket/out") == 0
    found = get(bucket, "bucket/out", tmp_path / "got")
    assert digests(found) == digests(tmp_path / "local")
    assert not scratch_left(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_stand_in_gives_the_same_index(bucket, tmp_path, name):
    root = write_tree(name, tmp_path / "raw")
    folder = addresses.open_folder(put(bucket, root, f"a/b/{name}"))
    dataset = dataset_of(name)
    stand_in = inputs.make_stand_in(folder, dataset.metadata, tmp_path / "stand_in")
    options = default_options(name)
    assert dataset.index(stand_in, options) == dataset.index(root, options)
    audio_bytes = sum(
        path.stat().st_size
        for path in stand_in.rglob("*")
        if path.suffix in (".wav", ".mp3", ".flac", ".ogg")
    )
    assert audio_bytes == 0


def test_split_files_at_another_address_or_in_a_folder(bucket, tmp_path):
    root = trees.write_gtzan(tmp_path / "raw")
    assert execute("gtzan", root, tmp_path / "local") == 0
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in root.glob("*.txt"):
        shutil.move(path, lists)
    data = put(bucket, root, "bucket/gtzan")
    remote_lists = put(bucket, lists, "bucket/lists")
    for number, split_dir in enumerate((remote_lists, lists)):
        output = f"memory://out{number}"
        assert execute("gtzan", data, output, f"--split_dir={split_dir}") == 0
        found = get(bucket, output.removeprefix("memory://"), tmp_path / output[9:])
        shards = {k: v for k, v in digests(found).items() if k.endswith("tfrecord")}
        assert shards and shards.items() <= digests(tmp_path / "local").items()


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_stems_at_an_address(bucket, tmp_path, place):
    root = trees.write_folder(tmp_path / "raw")
    stems = root / "stems" if place == "inside" else tmp_path / "stems"
    for name in ("x/1", "x/2", "y/deep/1", "y/deep/2"):
        trees.write_wav(stems / name / "bass.wav", trees.chirp(5))
        trees.write_wav(stems / name / "kazoo.wav", trees.chirp(5))
    assert execute("folder", root, tmp_path / "local", f"--stems_dir={stems}") == 0
    data = put(bucket, root, "bucket/raw")
    address = (
        f"{data}/stems" if place == "inside" else put(bucket, stems, "bucket/stems")
    )
    more = (f"--stems_dir={address}",)
    assert execute("folder", data, "memory://bucket/out", *more) == 0
    found = get(bucket, "bucket/out", tmp_path / "got")
    assert digests(found) == digests(tmp_path / "local")


def test_a_folder_to_an_address_and_back(bucket, tmp_path):
    root = trees.write_folder(tmp_path / "raw")
    assert execute("folder", root, tmp_path / "local") == 0
    assert execute("folder", root, "memory://out") == 0
    assert digests(get(bucket, "out", tmp_path / "got")) == digests(tmp_path / "local")
    assert execute("folder", put(bucket, root, "raw"), tmp_path / "other") == 0
    assert digests(tmp_path / "other") == digests(tmp_path / "local")


def test_two_processes_that_share_a_file_system(bucket, tmp_path):
    root = trees.write_folder(tmp_path / "raw")
    assert execute("folder", root, tmp_path / "local", *FOLDER_FLAGS) == 0
    more = (*FOLDER_FLAGS, "--num_workers=2")
    assert execute("folder", f"file://{root}", f"file://{tmp_path}/out", *more) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "local")
    assert not scratch_left(tmp_path)


@pytest.mark.parametrize(
    ("direct", "is_slow"),
    [
        ("--direct_running_mode=in_memory", False),
        pytest.param("", True, marks=pytest.mark.slow),
    ],
)
def test_beam_reads_and_writes_addresses(bucket, tmp_path, direct, is_slow):
    pytest.importorskip("apache_beam")
    root = trees.write_folder(tmp_path / "raw")
    assert execute("folder", root, tmp_path / "local", *FOLDER_FLAGS) == 0
    more = (*FOLDER_FLAGS, "--runner=beam", f"--beam_args={direct}")
    more += (f"--num_workers={1 + is_slow}",)
    assert execute("folder", f"file://{root}", f"file://{tmp_path}/out", *more) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "local")
    assert not list((tmp_path / "out").glob(".*.tmp"))


# Resume ------------------------------------------------------------------------------


def uploads_of(bucket, monkeypatch) -> list[str]:
    seen: list[str] = []
    real = addresses.RemoteFolder.upload

    def upload(self, source, name):
        real(self, source, name)
        seen.append(name)

    monkeypatch.setattr(addresses.RemoteFolder, "upload", upload)
    return seen


def test_a_stopped_run_goes_on(bucket, four_shards, tmp_path, monkeypatch, capsys):
    real = MemoryFileSystem.put_file
    refused = []

    def put_file(self, source, target, **keywords):
        if target.endswith("00002-of-00004.json"):
            refused.append(target)
            raise PermissionError("Forbidden")
        return real(self, source, target, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", put_file)
        assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 1
    error = one_line(capsys.readouterr().err)
    assert "memory://out/train-00002-of-00004.json cannot be written" in error
    assert "PermissionError: Forbidden (check the credentials for memory://" in error
    assert "finished shards are kept" in error
    # Another attempt would not help.
    assert len(refused) == 1 and not bucket.exists("/out/manifest.json")
    seen = uploads_of(bucket, monkeypatch)
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 0
    built = [name for name in seen if name.endswith(".tfrecord")]
    assert built == [f"train-0000{k}-of-00004.tfrecord" for k in (2, 3)]
    assert seen[-1] == "manifest.json"
    assert digests(get(bucket, "out", tmp_path / "got")) == digests(tmp_path / "local")
    seen.clear()
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 0
    assert not seen and "memory://out is already prepared" in capsys.readouterr().out


def _cut(bucket, path: str) -> None:
    bucket.pipe_file(path, bucket.cat_file(path)[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda bucket: bucket.rm_file("/out/train-00001-of-00004.tfrecord"),
        lambda bucket: bucket.rm_file("/out/train-00001-of-00004.idx.npz"),
        lambda bucket: bucket.rm_file("/out/train-00001-of-00004.json"),
        lambda bucket: _cut(bucket, "/out/train-00001-of-00004.tfrecord"),
        lambda bucket: _cut(bucket, "/out/train-00001-of-00004.json"),
    ],
    ids=["no shard", "no index", "no sidecar", "short shard", "short sidecar"],
)
def test_what_is_damaged_there_is_built_again(
    bucket, four_shards, tmp_path, monkeypatch, damage
):
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 0
    damage(bucket)
    seen = uploads_of(bucket, monkeypatch)
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 0
    built = [name for name in seen if name.endswith(".tfrecord")]
    assert built == ["train-00001-of-00004.tfrecord"]
    assert digests(get(bucket, "out", tmp_path / "got")) == digests(tmp_path / "local")


def test_another_configuration_is_refused(bucket, four_shards, capsys):
    assert execute("folder", four_shards, "memory://out", *FOLDER_FLAGS) == 0
    more = (*FOLDER_FLAGS, "--level=l2")
    assert execute("folder", four_shards, "memory://out", *more) == 1
    error = one_line(capsys.readouterr().err)
    assert "memory://out was prepared with another configuration" in error
    assert "frontend.level: rms != l2" in error


def test_a_state_that_changes_is_seen(bucket, tmp_path):
    bucket.pipe_file("/out/a.json", b"1")
    bucket.pipe_file("/out/train-0.tfrecord", b"12345")
    bucket.pipe_file("/out/.hidden.json", b"1")
    output = tmp_path / "output"
    output.mkdir()
    found = places.Places(tmp_path, output, None, "memory://out")
    found.refresh()
    assert (output / "a.json").read_text() == "1"
    assert (output / "train-0.tfrecord").stat().st_size == 5
    assert (output / "train-0.tfrecord").stat().st_blocks == 0
    bucket.pipe_file("/out/a.json", b"2")
    bucket.rm_file("/out/train-0.tfrecord")
    found.refresh()
    assert [path.name for path in output.iterdir()] == ["a.json"]
    assert (output / "a.json").read_text() == "2"


def test_the_engine_is_asked_to_look_again(bucket, tmp_path):
    """What a run at an address gives its engine brings the stand-in up to date."""
    root = trees.write_folder(tmp_path / "raw")
    values = parse("folder", f"--dataset_dir={root}", "--output_dir=memory://out")
    seen = []

    def engine(job, left, num_workers, advance, refresh):
        for shard in left:
            runner.build(job, shard, None, lambda has_failed, seconds: None)
            refresh()
            seen.append(runner.is_finished(shard, job))

    config = cli.parse_config(dataset_of("folder"), values)
    with places.open_places(str(root), "memory://out") as opened:
        runner.prepare(
            dataset_of("folder"),
            config,
            opened.dataset_dir,
            opened.output_dir,
            show_progress=False,
            engine=engine,
            places=opened,
        )
    assert seen and all(seen)


@pytest.mark.parametrize(
    "address",
    [
        "memory://user:s3cret@nowhere/x",
        "http://user:s3cret@host/x",
        "nosuch://user:s3c/ret@host/x",
        "ftp://user:s3cret@127.0.0.1:1/x",
    ],
)
def test_no_message_has_the_password(tmp_path, capsys, monkeypatch, address):
    monkeypatch.setattr(addresses, "_PAUSE_SECONDS", 0.0)
    assert execute("folder", address, tmp_path / "out") in (1, 2)
    told = one_line(capsys.readouterr().err)
    assert "***@" in told and "s3c" not in told and "ret@" not in told
    with pytest.raises(UsageError) as caught:
        copy.check_local("data_dir", address)
    assert "***@" in str(caught.value) and "s3c" not in str(caught.value)


def test_no_file_has_the_password(bucket, tmp_path, capsys):
    root = trees.write_folder(tmp_path / "raw")
    (root / "bad.wav").write_text("no audio")
    address = put(bucket, root, "user:s3cret@bucket/raw")
    more = ("--max_failures=1", "--split_by=clip")
    assert execute("folder", address, tmp_path / "out", *more) == 0
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes()
    assert "s3cret" not in "".join(capsys.readouterr())
