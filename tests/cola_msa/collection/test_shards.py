"""Folders of shards: the same bytes by whichever runner, after kills, at addresses."""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import time

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from cola_msa.collection import embed as embed_lib
from cola_msa.collection import inputs as inputs_lib
from cola_msa.collection.embed import embed_files
from cola_msa.collection.inputs import list_inputs
from cola_msa.collection.shards import beam as beam_lib
from cola_msa.collection.shards import build, output, plan, run
from cola_msa.collection.table.read import load_embeddings
from cola_msa.collection.table.write import OutputError
from cola_msa.hub.loading import open_model
from cola_msa.remote import addresses, beam
from cola_msa.system.errors import RunError, UsageError
from tests.cola_msa.audio.test_clip_windows import make_sound
from tests.helpers.buckets import get, put, scratch_left
from tests.helpers.commands import Command, run_fresh, run_module

IN_MEMORY = "--direct_running_mode=in_memory"


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> pathlib.Path:
    """Eleven files, two of which are no sound: four shards of three."""
    folder = tmp_path_factory.mktemp("shards") / "music"
    (folder / "album").mkdir(parents=True)
    for number in range(9):
        sound = 0.3 * make_sound(16000 * (1 + number % 3), number)
        name = f"album/{number}.wav" if number % 2 else f"{number}.flac"
        soundfile.write(folder / name, sound, 16000)
    (folder / "bad.wav").write_text("no sound")
    (folder / "empty.mp3").touch()
    return folder


@pytest.fixture(scope="module")
def has_beam():
    """The extra; without it tests are skipped, but in CI they fail."""
    try:
        return beam.import_beam()
    except beam.BeamError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the extra: {error}")
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def closed_models():
    yield
    build._opened.cache_clear()


def job_of(finished_run, target, **fields) -> build.Job:
    return build.Job(str(target), str(finished_run), batch_size=7, **fields)


def make(finished_run, source, target, size=3, beam_args=None, **fields):
    """Embeds a folder, an address or what `list_inputs` gave."""
    given = source
    if not isinstance(source, inputs_lib.Inputs):
        given = list_inputs(source)
    options = {k: fields.pop(k) for k in ("retries", "log") if k in fields}
    engine = None
    if beam_args is not None:
        engine = functools.partial(_by_beam, beam_args=beam_args)
    return run.make_dataset(
        job_of(finished_run, target, **fields),
        given,
        size,
        is_quiet=True,
        engine=engine,
        **{"log": lambda line: None, **options},
    )


def _by_beam(job, shards, forced, on_shard, beam_args):
    return beam_lib.run(job, shards, forced, 1, on_shard, beam_args)


def digests(folder) -> dict[str, str]:
    """Every file of a dataset and its failures, by name."""
    return {
        f"{place}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for place in ("", ".failures")
        for path in sorted(pathlib.Path(f"{folder}{place}").glob("*"))
    }


def times(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(finished_run, music, tmp_path_factory) -> pathlib.Path:
    """The dataset of the music, made at once."""
    target = tmp_path_factory.mktemp("whole") / "songs"
    make(finished_run, music, target)
    return target


# The table ---------------------------------------------------------------------------


def test_rows_are_those_of_a_single_file(finished_run, music, whole, tmp_path):
    single = tmp_path / "songs.parquet"
    paths = list_inputs(music).paths
    embed_files(paths, single, open_model(finished_run), batch_size=7, is_quiet=True)
    ours, theirs = load_embeddings(whole), load_embeddings(single)
    assert ours.paths == theirs.paths and ours.sha256 == theirs.sha256
    np.testing.assert_array_equal(ours.seconds, theirs.seconds)
    # Other windows share their batches.
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, rtol=1e-4, atol=1e-6)
    with open(f"{single}.failures.csv", newline="") as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    table = parquet.read_table(f"{whole}.failures").to_pydict()
    assert dict(zip(table["path"], table["reason"], strict=True)) == listed
    assert len(listed) == 2


def test_the_folder_holds_shards_alone_and_no_work_is_left(whole):
    assert [path.name for path in sorted(whole.iterdir())] == [
        plan.shard_name(number, 4) for number in range(4)
    ]
    assert sorted(path.name for path in whole.parent.iterdir()) == [
        "songs",
        "songs.failures",
    ]
    table = parquet.read_table(whole)
    assert table.num_rows == 9
    assert table.column_names == ["path", "sha256", "start", "seconds", "embedding"]


def test_summary_and_lines(finished_run, music, tmp_path):
    target = tmp_path / "songs"
    summary = make(finished_run, music, target)
    assert (summary.num_files, summary.num_embedded, summary.num_rows) == (11, 9, 9)
    assert (summary.num_shards, summary.num_made) == (4, 4)
    assert sorted(map(os.path.basename, summary.failures)) == ["bad.wav", "empty.mp3"]
    lines = "\n".join(run.describe_dataset(summary, str(target)))
    assert "embedded 9 files" in lines and "9 rows in 4 shards" in lines
    assert f"2 files failed; {target}.failures names each" in lines
    again = make(finished_run, music, target)
    assert (again.num_embedded, again.num_earlier, again.num_made) == (0, 9, 0)
    assert again.failures == summary.failures and again.num_rows == 9


def test_windows(finished_run, music, tmp_path):
    make(finished_run, music, tmp_path / "songs", per="window", hop_seconds=0.5)
    found = load_embeddings(tmp_path / "songs", per_clip=False)
    assert len(found.paths) > 9 and found.metadata["per"] == "window"
    assert found.starts.max() > 1


def test_a_shard_of_failures_alone_has_no_row(finished_run, music, tmp_path):
    """And folders that hold nothing but such ones are said to be empty."""
    make(finished_run, music, tmp_path / "songs", size=1)
    assert parquet.read_table(tmp_path / "songs").num_rows == 9
    assert len(load_embeddings(tmp_path / "songs").paths) == 9
    bad = inputs_lib.Inputs([str(music / "bad.wav")], {})
    assert make(finished_run, bad, tmp_path / "none").num_rows == 0


def test_folders_that_could_not_be_searched_are_failures(finished_run, music, tmp_path):
    given = list_inputs(music)
    given = dataclasses.replace(given, failures={"music/locked": "cannot be read: x"})
    summary = make(finished_run, given, tmp_path / "songs")
    assert summary.failures["music/locked"] == "cannot be read: x"
    assert len(parquet.read_table(tmp_path / "songs.failures")) == 3
    assert "music/locked" not in make(finished_run, music, tmp_path / "songs").failures


# Going on ----------------------------------------------------------------------------


def test_finished_shards_are_not_made_again(finished_run, music, whole, tmp_path):
    target = tmp_path / "songs"
    shutil.copytree(whole, target)
    shutil.copytree(f"{whole}.failures", f"{target}.failures")
    (target / plan.shard_name(1, 4)).unlink()
    before = times(target)
    summary = make(finished_run, music, target)
    assert summary.num_made == 1
    after = times(target)
    assert {name: after[name] for name in before} == before
    assert digests(target) == digests(whole)


@pytest.mark.parametrize("count", [1, 3, 4, 10])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    finished_run, music, whole, tmp_path, monkeypatch, count
):
    decode = embed_lib.decode_clip
    seen = []

    def stop(path, *arguments):
        seen.append(path)
        if len(seen) == count:
            raise KeyboardInterrupt
        return decode(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(embed_lib, "decode_clip", stop)
        with pytest.raises(KeyboardInterrupt):
            make(finished_run, music, tmp_path / "songs", num_workers=1)
    assert not list(tmp_path.glob("songs.work/*.tmp"))
    make(finished_run, music, tmp_path / "songs")
    assert digests(tmp_path / "songs") == digests(whole)
    assert not (tmp_path / "songs.work").exists()


@pytest.mark.slow
def test_kills_at_random_change_no_byte(finished_run, music, tmp_path):
    random = np.random.default_rng(0)
    flags = [f"--model={finished_run}", "--files_per_shard=1", "--output=songs"]
    command = ["cola_msa.embed", *flags, "--input=music"]
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "music").symlink_to(music)
    found = run_module(*command, cwd=tmp_path / "once")
    assert found.returncode == 0, found.stderr
    target = tmp_path / "killed/songs"
    for num_shards in (1, 4, 8):
        process = Command(*command, cwd=tmp_path / "killed")
        end = time.monotonic() + 120
        while len(list(target.glob("*"))) < num_shards:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.wait(60)
    assert run_module(*command, cwd=tmp_path / "killed").returncode == 0
    assert digests(target) == digests(tmp_path / "once/songs")
    assert not (tmp_path / "killed/songs.work").exists()


def test_a_collection_that_has_grown_adds_shards(finished_run, music, tmp_path):
    grown = tmp_path / "music"
    shutil.copytree(music, grown)
    lines = []
    make(finished_run, grown, tmp_path / "songs")
    failed = tmp_path / "songs.failures" / plan.shard_name(3, 4)
    assert failed.exists()
    for name in ("00.wav", "album/new.wav"):
        shutil.copy(grown / "album/1.wav", grown / name)
    summary = make(finished_run, grown, tmp_path / "songs", log=lines.append)
    assert (summary.num_made, summary.num_shards, summary.num_rows) == (1, 5, 11)
    assert len(summary.failures) == 2 and not failed.exists()
    assert any("4 shards are renamed, as of 5 now" in line for line in lines)
    names = load_embeddings(tmp_path / "songs").paths
    assert [os.path.basename(name) for name in names[-2:]] == ["00.wav", "new.wav"]
    (grown / "00.wav").unlink()
    lines.clear()
    summary = make(finished_run, grown, tmp_path / "songs", log=lines.append)
    assert summary.num_made == 0 and summary.num_rows == 11
    assert summary.num_earlier == 10  # neither the failures nor the file that is gone
    assert any("1 files of" in line and "their rows stay" in line for line in lines)


def test_failures_are_tried_again_where_that_is_asked(finished_run, music, tmp_path):
    mended = tmp_path / "music"
    shutil.copytree(music, mended)
    make(finished_run, mended, tmp_path / "songs")
    before = times(tmp_path / "songs")
    shutil.copy(mended / "album/1.wav", mended / "bad.wav")
    assert make(finished_run, mended, tmp_path / "songs").num_rows == 9
    summary = make(finished_run, mended, tmp_path / "songs", retries=True)
    assert summary.num_rows == 10 and list(summary.failures) == [
        str(mended / "empty.mp3")
    ]
    changed = {n for n, t in times(tmp_path / "songs").items() if before[n] != t}
    assert changed == {plan.shard_name(3, 4)}
    assert (summary.num_embedded, summary.num_earlier) == (1, 9)
    os.remove(mended / "empty.mp3")
    shutil.copy(mended / "album/3.wav", mended / "empty.mp3")
    assert not make(finished_run, mended, tmp_path / "songs", retries=True).failures
    assert not (tmp_path / "songs.failures").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_a_stop_while_a_shard_is_made_again_loses_no_file(
    finished_run, music, tmp_path, monkeypatch, count
):
    """Each is a row or a failure at any time."""
    mended = tmp_path / "music"
    shutil.copytree(music, mended)
    target = tmp_path / "songs"
    make(finished_run, mended, target)
    shutil.copy(mended / "album/1.wav", mended / "bad.wav")
    real, puts = output.Output._put, []

    def stop(self, *arguments):
        puts.append(arguments)
        if len(puts) == count:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "_put", stop)
        with pytest.raises(KeyboardInterrupt):
            make(finished_run, mended, target, retries=True)
    rows = parquet.read_table(target).column("path").to_pylist()
    failed = parquet.read_table(f"{target}.failures").column("path").to_pylist()
    assert {*rows, *failed} == set(list_inputs(mended).paths)
    make(finished_run, mended, target, retries=True)
    assert parquet.read_table(target).num_rows == 10


def test_failures_of_a_killed_run_with_another_plan_go(finished_run, music, tmp_path):
    target = tmp_path / "songs"
    make(finished_run, music, target)
    stale = tmp_path / "songs.failures" / plan.shard_name(6, 9)
    shutil.copy(tmp_path / "songs.failures" / plan.shard_name(3, 4), stale)
    make(finished_run, music, target)
    assert len(parquet.read_table(f"{target}.failures")) == 2 and not stale.exists()


def test_a_renaming_at_an_address_that_was_killed(finished_run, music, bucket):
    """A copy, then the old name goes: a kill between leaves both."""
    some = inputs_lib.Inputs(list_inputs(music).paths[:7], {})
    target = "memory://bucket/songs"
    make(finished_run, some, target)
    for ending in ("", ".failures"):
        for old in bucket.find(f"/bucket/songs{ending}"):
            if "part-00000" in old or ending:
                bucket.copy(old, old.replace("-of-00003", "-of-00005"))
    summary = make(finished_run, music, target)
    assert (summary.num_rows, summary.num_shards, summary.num_made) == (9, 5, 2)
    assert len(summary.failures) == 2
    for ending in ("", ".failures"):
        names = bucket.find(f"/bucket/songs{ending}")
        assert names and all(name.endswith("-of-00005.parquet") for name in names)


# What is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"per": "window"}, "another per"), ({"hop_seconds": 0.5}, "another hop_seconds")],
)
def test_other_settings_are_refused(
    finished_run, music, whole, tmp_path, fields, message
):
    before = times(whole)
    with pytest.raises(OutputError, match=f"part-00000-of-00004.* {message}"):
        make(finished_run, music, whole, **fields)
    assert times(whole) == before


def test_a_folder_with_other_files_is_refused(finished_run, music, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="'notes.txt', which is no shard"):
        make(finished_run, music, tmp_path)


def test_somebodys_folder_where_failures_would_go_is_kept(
    finished_run, music, whole, tmp_path
):
    shutil.copytree(whole, tmp_path / "songs.failures")
    with pytest.raises(OutputError, match="is no table of failures"):
        make(finished_run, music, tmp_path / "songs")
    assert times(tmp_path / "songs.failures").keys() == times(whole).keys()


def test_the_folders_name_need_not_be_utf_8(finished_run, music, whole, tmp_path):
    target = tmp_path / "s\udcff"
    make(finished_run, music, target)
    assert digests(target) == digests(whole)


def test_a_link_to_a_folder_stays_one(finished_run, music, whole, tmp_path):
    (tmp_path / "disk/real").mkdir(parents=True)
    (tmp_path / "songs").symlink_to(tmp_path / "disk/real")
    summary = make(finished_run, music, tmp_path / "songs")
    assert (tmp_path / "songs").is_symlink()
    assert digests(tmp_path / "disk/real") == digests(whole)
    lines = "\n".join(run.describe_dataset(summary, str(tmp_path / "songs")))
    assert f"{tmp_path}/disk/real.failures names each" in lines
    assert [path.name for path in tmp_path.glob("songs*")] == ["songs"]


def test_shards_of_another_program_are_refused(finished_run, music, whole, tmp_path):
    target = tmp_path / "songs"
    target.mkdir()
    table = parquet.read_table(whole).replace_schema_metadata({})
    parquet.write_table(table, target / plan.shard_name(0, 1))
    with pytest.raises(OutputError, match="does not say which files"):
        make(finished_run, music, target)


def test_a_shard_beyond_its_total_is_refused(finished_run, music, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "songs")
    name = plan.shard_name(9, 4)
    os.rename(tmp_path / "songs" / plan.shard_name(2, 4), tmp_path / "songs" / name)
    with pytest.raises(OutputError, match=f"holds '{name}', which is no shard"):
        make(finished_run, music, tmp_path / "songs")


@pytest.mark.parametrize(
    "mark",
    [
        {"begin": 10**13},
        {"begin": -1},
        {"begin": 3},
        {"num_files": float("inf")},
        {"num_files": 10**30},
        {"num_files": True},
        {"sha256": ["x"]},
    ],
)
def test_what_a_shard_cannot_say_of_itself_is_refused(
    finished_run, music, whole, tmp_path, mark
):
    target = tmp_path / "songs"
    shutil.copytree(whole, target)
    change_shard(target / plan.shard_name(2, 4), mark)
    with pytest.raises(OutputError, match=r"part-00002.* does not say which files"):
        make(finished_run, music, target)


@pytest.mark.parametrize("paths", [[["a"], ["b"]], [None, None]])
def test_a_shard_whose_paths_are_no_text_is_refused(
    finished_run, music, whole, tmp_path, paths
):
    target = tmp_path / "songs"
    shutil.copytree(whole, target)
    change_shard(target / plan.shard_name(0, 4), {"sha256": "x"}, paths)
    with pytest.raises(OutputError, match=r"part-00000.*path is not all text"):
        make(finished_run, music, target)


def change_shard(path, mark, paths=None):
    table = parquet.read_table(path)
    metadata = json.loads(table.schema.metadata[b"metadata"])
    metadata[output.MARK] |= mark
    if paths is not None:
        column = pyarrow.array([paths[k % 2] for k in range(len(table))])
        table = table.set_column(0, "path", column)
    text = json.dumps(metadata)
    parquet.write_table(table.replace_schema_metadata({"metadata": text}), path)


def test_a_damaged_shard_is_named(finished_run, music, whole, tmp_path):
    target = tmp_path / "songs"
    shutil.copytree(whole, target)
    shard = target / plan.shard_name(2, 4)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(OutputError, match="part-00002.*: damaged.*delete it, and"):
        make(finished_run, music, target)
    shard.unlink()
    make(finished_run, music, target)
    assert digests(target).items() <= digests(whole).items()


def test_a_second_run_is_refused(finished_run, music, tmp_path):
    with output.Output(tmp_path / "songs").locked():
        with pytest.raises(OutputError, match="another process writes there"):
            make(finished_run, music, tmp_path / "songs")


def test_a_file_and_a_bucket_are_no_folder(tmp_path, bucket):
    (tmp_path / "songs").touch()
    with pytest.raises(OutputError, match="is a file"):
        output.Output(tmp_path / "songs").check()
    with pytest.raises(UsageError, match="is a bucket; name a folder in it"):
        output.Output("memory://songs")


@pytest.mark.parametrize(
    ("name", "is_dataset"),
    [("songs", True), ("a.b/", True), ("a.parquet", False), ("x.csv", False)],
)
def test_which_outputs_are_folders(tmp_path, monkeypatch, name, is_dataset):
    monkeypatch.chdir(tmp_path)
    assert output.is_dataset(name) == is_dataset
    (tmp_path / name).mkdir()
    assert output.is_dataset(name)


def test_a_file_at_an_address_is_refused():
    with pytest.raises(UsageError, match="a folder of shards is written: name one"):
        output.is_dataset("gs://user:secret@bucket/songs.parquet")


def test_a_lost_disk_fails_no_file(finished_run, music, tmp_path, monkeypatch):
    lost = tmp_path / "music"
    shutil.copytree(music, lost)
    given = list_inputs(lost)
    real = build.build

    def lose(job, shard, *arguments):
        if shard.number == 2:
            lost.rename(tmp_path / "elsewhere")
        return real(job, shard, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run, "build", lose)
        with pytest.raises(RunError, match="music has vanished"):
            make(finished_run, given, tmp_path / "songs")
    assert len(list((tmp_path / "songs").iterdir())) == 2
    (tmp_path / "elsewhere").rename(lost)
    assert make(finished_run, given, tmp_path / "songs").num_rows == 9


# Addresses ---------------------------------------------------------------------------


def test_an_address_as_output_holds_the_same_bytes(
    finished_run, music, whole, bucket, tmp_path
):
    summary = make(finished_run, music, "memory://bucket/songs")
    assert summary.num_rows == 9 and len(summary.failures) == 2
    for name in ("songs", "songs.failures"):
        get(bucket, f"bucket/{name}", tmp_path / "got" / name)
    assert digests(tmp_path / "got/songs") == digests(whole)
    assert not bucket.find("/bucket/songs.work") and not scratch_left(tmp_path)
    # And a run goes on there.
    bucket.rm(f"/bucket/songs/{plan.shard_name(1, 4)}")
    again = make(finished_run, music, "memory://bucket/songs")
    assert (again.num_made, again.num_rows) == (1, 9)
    get(bucket, "bucket/songs", tmp_path / "got/songs")
    assert digests(tmp_path / "got/songs") == digests(whole)


def test_growth_at_an_address(finished_run, music, bucket):
    some = list_inputs(music).paths
    make(finished_run, inputs_lib.Inputs(some[:7], {}), "memory://bucket/songs")
    summary = make(finished_run, music, "memory://bucket/songs")
    assert (summary.num_made, summary.num_shards, summary.num_rows) == (2, 5, 9)
    assert sorted(os.path.basename(n) for n in bucket.find("/bucket/songs")) == [
        plan.shard_name(number, 5) for number in range(5)
    ]


def test_addresses_as_input(finished_run, music, whole, bucket, tmp_path):
    url = put(bucket, music, "bucket/music")
    make(finished_run, url, tmp_path / "songs")
    ours, theirs = load_embeddings(tmp_path / "songs"), load_embeddings(whole)
    np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
    assert ours.sha256 == theirs.sha256
    short = [name.removeprefix(f"{music}/") for name in theirs.paths]
    assert list(ours.paths) == [f"{url}/{name}" for name in short]
    table = parquet.read_table(tmp_path / "songs.failures").to_pydict()
    assert table["path"] == [f"{url}/bad.wav", f"{url}/empty.mp3"]
    assert not any("scratch" in reason for reason in table["reason"])
    assert not scratch_left(tmp_path)


def test_one_file_that_cannot_be_fetched_fails_alone(
    finished_run, music, bucket, tmp_path, monkeypatch
):
    url = put(bucket, music, "bucket/music")
    real = type(bucket).get_file

    def get_file(self, source, target, **keywords):
        if source.endswith("2.flac"):
            raise ConnectionResetError("reset by peer")
        return real(self, source, target, **keywords)

    monkeypatch.setattr(type(bucket), "get_file", get_file)
    summary = make(finished_run, url, tmp_path / "songs")
    assert summary.num_rows == 8
    reason = summary.failures[f"{url}/2.flac"]
    assert reason.startswith("could not be downloaded") and "reset by peer" in reason


@pytest.mark.parametrize("what", ["gone", "silent"])
def test_a_lost_bucket_fails_no_file(
    finished_run, music, bucket, tmp_path, monkeypatch, what
):
    url = put(bucket, music, "bucket/music")
    given = list_inputs(url)

    def get_file(self, source, target, **keywords):
        raise PermissionError("token expired")

    def isdir(self, path):
        if what == "silent":
            raise PermissionError("token expired")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "get_file", get_file)
        patch.setattr(type(bucket), "isdir", isdir)
        expected = RunError if what == "gone" else addresses.RemoteError
        with pytest.raises(expected, match="vanished|token expired"):
            make(finished_run, given, tmp_path / "songs")
    assert not list(tmp_path.glob("songs/*"))
    assert make(finished_run, given, tmp_path / "songs").num_rows == 9


def test_a_login_is_in_no_table_and_no_message(
    finished_run, music, bucket, tmp_path, monkeypatch
):
    put(bucket, music, "bucket/music")
    monkeypatch.setattr(
        type(bucket),
        "_strip_protocol",
        classmethod(
            lambda cls, path: "/" + path.partition("@")[2] if "@" in path else path
        ),
    )
    lines = []
    url = "memory://user:secret@bucket/music"
    summary = make(finished_run, url, tmp_path / "songs", log=lines.append)
    assert summary.num_rows == 9
    assert (
        load_embeddings(tmp_path / "songs").paths[0].startswith("memory://***@bucket/")
    )
    for path in (*tmp_path.glob("songs/*"), *tmp_path.glob("songs.failures/*")):
        assert b"secret" not in path.read_bytes()
    assert "secret" not in "\n".join([*lines, *map(str, summary.failures.items())])


def test_a_model_at_an_address(finished_run, music, whole, bucket, tmp_path):
    url = put(bucket, finished_run, f"bucket/{finished_run.name}")
    (job_dir,) = {path.parent for path in finished_run.glob("config.json")}
    assert job_dir == finished_run
    make(url, music, tmp_path / "songs")
    assert digests(tmp_path / "songs") == digests(whole)
    fetched = {p.name for p in pathlib.Path(os.environ["COLA_MSA_CACHE"]).rglob("*")}
    assert "kept" in fetched and "checkpoints" not in fetched


def test_an_address_without_a_model(bucket, tmp_path):
    bucket.pipe_file("/bucket/empty/notes.txt", b"x")
    with pytest.raises(RunError, match="no run and no pretrained folder there"):
        open_model("memory://bucket/empty")


# Beam --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["folder", "memory://bucket/songs"])
def test_beam_gives_the_same_bytes(
    finished_run, music, whole, has_beam, bucket, tmp_path, target
):
    place = tmp_path / "songs" if target == "folder" else target
    summary = make(finished_run, music, place, beam_args=IN_MEMORY)
    assert (summary.num_rows, summary.num_made) == (9, 4)
    assert len(summary.failures) == 2
    if target != "folder":
        for name in ("songs", "songs.failures"):
            get(bucket, f"bucket/{name}", tmp_path / name)
        assert not bucket.find("/bucket/songs.work")
    assert digests(tmp_path / "songs") == digests(whole)


def test_dask_gives_the_same_bytes(finished_run, music, whole, dask_flags, tmp_path):
    """Its two workers are threads here, as with --nthreads=2."""
    make(finished_run, music, tmp_path / "songs", beam_args=dask_flags)
    assert digests(tmp_path / "songs") == digests(whole)


def test_beam_goes_on_where_the_local_runner_was(
    finished_run, music, whole, has_beam, tmp_path
):
    target = tmp_path / "songs"
    shutil.copytree(whole, target)
    shutil.copytree(f"{whole}.failures", f"{target}.failures")
    (target / plan.shard_name(3, 4)).unlink()
    before = times(target)
    make(finished_run, music, target, beam_args=IN_MEMORY)
    assert times(target).items() >= before.items()
    assert digests(target) == digests(whole)


def test_beam_tries_failures_again(finished_run, music, has_beam, tmp_path):
    mended = tmp_path / "music"
    shutil.copytree(music, mended)
    make(finished_run, mended, tmp_path / "songs")
    for name in ("bad.wav", "empty.mp3"):
        shutil.copy(mended / "album/1.wav", mended / name)
    summary = make(
        finished_run, mended, tmp_path / "songs", retries=True, beam_args=IN_MEMORY
    )
    assert summary.num_rows == 11 and not summary.failures


def test_what_a_beam_worker_cannot_use_is_one_line(
    finished_run, music, has_beam, tmp_path, monkeypatch
):
    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device", "songs")

    monkeypatch.setattr(beam_lib, "build", fail)
    with pytest.raises(beam.BeamError, match="No space left on device") as caught:
        make(finished_run, music, tmp_path / "songs", beam_args=IN_MEMORY)
    assert "\n" not in str(caught.value)


def test_a_defect_in_a_beam_worker_is_shown_whole(
    finished_run, music, has_beam, tmp_path, monkeypatch
):
    def fail(*arguments, **keywords):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(beam_lib, "build", fail)
    with pytest.raises(ZeroDivisionError):
        make(finished_run, music, tmp_path / "songs", beam_args=IN_MEMORY)


def test_a_beam_worker_that_opens_another_model_ends_the_run(
    finished_run, music, has_beam, tmp_path, monkeypatch
):
    keys = iter("abcd")
    monkeypatch.setattr(build.Job, "key_of", lambda job, model: next(keys))
    with pytest.raises(beam.BeamError, match="is another model"):
        make(finished_run, music, tmp_path / "songs", beam_args=IN_MEMORY)


def test_elements_of_beam_hold_no_paths(finished_run, music, monkeypatch, tmp_path):
    """A pipeline of ten million files would be too large for any engine."""
    seen = []
    monkeypatch.setattr(beam, "import_beam", lambda: None)

    def note(work, elements, job, num_workers, look, beam_args):
        seen.extend(elements)
        for element in elements:
            work(element, job)
        return "DONE"

    monkeypatch.setattr(beam, "run", note)
    make(finished_run, music, tmp_path / "songs", beam_args="")
    assert len(seen) == 4
    assert not any("music" in json.dumps(dataclasses.asdict(e)) for e in seen)


@pytest.mark.slow
def test_processes_of_beam_give_the_same_bytes(finished_run, music, has_beam, tmp_path):
    (tmp_path / "music").symlink_to(music)
    flags = [f"--model={finished_run}", "--input=music", "--files_per_shard=3"]
    more = ["--runner=beam", "--num_workers=2"]
    for name, added in (("local", []), ("beam", more)):
        found = run_fresh(
            "cola_msa.embed", *flags, f"--output={name}", *added, cwd=tmp_path
        )
        assert found.returncode == 0, found.stderr
    assert digests(tmp_path / "beam") == digests(tmp_path / "local")
