"""Resume, processes, and what the runner refuses."""

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from cola_msa.audio import decode
from cola_msa.records import index as index_lib
from data_prep.datasets import folder
from data_prep.datasets.base import DatasetError, IndexOptions
from data_prep.pipeline import jobs, manifest, runner
from data_prep.pipeline import plan as plan_lib
from data_prep.stems import clip
from tests.helpers import trees

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = plan_lib.PrepConfig(
    dataset="folder", clips_per_shard=5, options=IndexOptions(split_by="clip")
)


@pytest.fixture(scope="module")
def many_clips(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """200 clips, by hard links to four files."""
    root = tmp_path_factory.mktemp("many")
    originals = [
        trees.write_wav(root / "x" / f"{k}.wav", trees.chirp(8, seed=k))
        for k in range(4)
    ]
    for number in range(196):
        os.link(originals[number % 4], root / "x" / f"link{number:03d}.wav")
    return root


@pytest.fixture(scope="module")
def undisturbed(many_clips, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("undisturbed")
    _prepare(many_clips, output)
    return output


def _prepare(root: pathlib.Path, output: pathlib.Path, config=CONFIG, num_workers=1):
    return runner.prepare(
        folder.DATASET, config, root, output, num_workers, show_progress=False
    )


def digests(output: pathlib.Path) -> dict[str, str]:
    """SHA-256 of everything that a preparation leaves behind, but the lock."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.iterdir()
        if path.name != ".lock"
    }


def _start(root: pathlib.Path, output: pathlib.Path, *more: str) -> subprocess.Popen:
    """Starts the command and returns when three shards are finished."""
    command = [sys.executable, "-m", "data_prep.folder", "--split_by=clip", *more]
    command += ["--clips_per_shard=5", f"--dataset_dir={root}"]
    process = subprocess.Popen(
        [*command, f"--output_dir={output}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A background shell job would hand down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(list(output.glob("*.tfrecord"))) < 3:
        assert process.poll() is None, "ended before it could be disturbed"
        time.sleep(0.005)
    return process


def _go_on(root: pathlib.Path, output: pathlib.Path) -> None:
    """Prepares the rest; finished shards must not be touched."""
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.tfrecord")}
    assert 3 <= len(finished) < 40
    assert not (output / "manifest.json").exists()
    _prepare(root, output)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_ctrl_c_with_two_workers(many_clips, undisturbed, tmp_path):
    process = _start(many_clips, tmp_path, "--num_workers=2")
    # As a terminal does: to the whole group, workers included.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped; the same command goes on" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("*.tmp"))
    _go_on(many_clips, tmp_path)
    # Which also says that the number of workers does not change the bytes.
    assert digests(tmp_path) == digests(undisturbed)


def test_a_killed_run_goes_on(many_clips, undisturbed, tmp_path):
    process = _start(many_clips, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    _go_on(many_clips, tmp_path)
    assert digests(tmp_path) == digests(undisturbed)


def test_a_finished_output_is_reused(many_clips, undisturbed, monkeypatch):
    def forbid(*_: object) -> None:
        raise AssertionError("nothing is to be decoded")

    monkeypatch.setattr(decode, "AudioReader", forbid)
    before = digests(undisturbed)
    assert _prepare(many_clips, undisturbed)["num_clips_planned"] == 200
    assert digests(undisturbed) == before


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff", b"[" * 10**5, b"null", None, "no hash", "a mean"]
)
def test_a_damaged_manifest_is_written_anew(tmp_path, content):
    trees.write_folder(tmp_path / "raw")
    output = tmp_path / "out"
    config = plan_lib.PrepConfig(dataset="folder")
    _prepare(tmp_path / "raw", output, config)
    path, before = output / "manifest.json", digests(output)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is None:
        path.unlink()
        path.symlink_to(path.name)
    else:
        manifest = json.loads(path.read_text())
        del manifest["content_sha256"]
        if content == "no hash":
            del manifest["config_hash"]
        else:
            manifest["log_mel_mean"] = 100
        path.write_text(json.dumps(manifest))
    lines = []
    runner.prepare(
        folder.DATASET,
        config,
        tmp_path / "raw",
        output,
        show_progress=False,
        log=lines.append,
    )
    assert digests(output) == before and not path.is_symlink()
    said = [line for line in lines if "written anew" in line]
    assert len(said) == (content not in (None, "no hash"))
    assert all("manifest.json" in line and "\n" not in line for line in said)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 10**5, b'{"config": 3}'])
def test_a_damaged_state_is_one_line(tmp_path, content):
    trees.write_folder(tmp_path / "raw")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "preparation.json").write_bytes(content)
    with pytest.raises(jobs.PreparationError, match=r"preparation\.json: damaged"):
        _prepare(tmp_path / "raw", tmp_path / "out", plan_lib.PrepConfig("folder"))


def test_a_changed_index_of_a_shard_is_built_again(tmp_path):
    trees.write_folder(tmp_path / "raw")
    output = tmp_path / "out"
    config = plan_lib.PrepConfig(dataset="folder")
    _prepare(tmp_path / "raw", output, config)
    before = digests(output)
    path = next(output.glob("*.idx.npz"))
    index = index_lib.Index.load(path)
    index.segment = index.segment + 1
    index.save(path)
    (output / "manifest.json").unlink()
    _prepare(tmp_path / "raw", output, config)
    assert digests(output) == before


def test_failures_survive_a_resume(tmp_path: pathlib.Path):
    root = trees.write_folder(tmp_path / "raw")
    (root / "x" / "bad.wav").write_text("no audio")
    output = tmp_path / "out"
    before = _prepare(root, output)
    (output / "manifest.json").unlink()
    assert _prepare(root, output) == before
    assert [f["path"] for f in before["failures"]] == ["x/bad.wav"]


def test_a_damaged_sidecar_or_missing_index_is_built_again(tmp_path: pathlib.Path):
    root = trees.write_folder(tmp_path / "raw")
    output = tmp_path / "out"
    _prepare(root, output)
    before = digests(output)
    next(output.glob("train-*.json")).write_text("{")
    next(output.glob("validation-*.idx.npz")).unlink()
    _prepare(root, output)
    assert digests(output) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips_per_shard": 6}, "clips_per_shard: 5 != 6"),
        ({"silence_threshold": 0.02}, "silence_threshold: 0.01 != 0.02"),
        ({"options": IndexOptions(seed=1, split_by="clip")}, "options.seed: 0 != 1"),
    ],
)
def test_another_configuration_is_refused(many_clips, undisturbed, change, message):
    before = digests(undisturbed)
    with pytest.raises(jobs.PreparationError, match="another configuration") as error:
        _prepare(many_clips, undisturbed, dataclasses.replace(CONFIG, **change))
    assert message in str(error.value)
    assert digests(undisturbed) == before


def test_a_changed_dataset_is_refused(tmp_path: pathlib.Path):
    root = trees.write_folder(tmp_path / "raw")
    _prepare(root, tmp_path / "out")
    trees.write_wav(root / "x" / "new.wav", trees.chirp(2))
    with pytest.raises(jobs.PreparationError, match="4 clips then, 5 now"):
        _prepare(root, tmp_path / "out")


def test_shards_of_unknown_origin_are_refused(tmp_path: pathlib.Path):
    root = trees.write_folder(tmp_path / "raw")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-00000-of-00001.tfrecord").write_bytes(b"")
    with pytest.raises(jobs.PreparationError, match="unknown origin"):
        _prepare(root, tmp_path / "out")


def test_a_second_run_at_a_time_is_refused(tmp_path: pathlib.Path):
    root = trees.write_folder(tmp_path / "raw")
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(jobs.PreparationError, match="another preparation"):
            _prepare(root, tmp_path / "out")


def test_ctrl_c_leaves_no_half_written_shard(tmp_path, monkeypatch):
    root = trees.write_folder(tmp_path / "raw")
    load = clip.load_clip
    seen = []

    def interrupt(*arguments, **keywords):
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return load(*arguments, **keywords)

    monkeypatch.setattr(clip, "load_clip", interrupt)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        _prepare(root, output)
    assert not list(output.glob("*.tmp"))
    assert _prepare(root, output)["failures"] == []


def test_a_dataset_without_usable_clips_says_why(tmp_path: pathlib.Path):
    with pytest.raises(DatasetError, match="no audio file"):
        _prepare(tmp_path, tmp_path / "out")
    with pytest.raises(DatasetError, match="is not a folder"):
        _prepare(tmp_path / "nowhere", tmp_path / "out")


def test_manifest_is_plain_json_without_machine_paths(undisturbed, many_clips):
    text = (undisturbed / "manifest.json").read_text()
    assert str(many_clips) not in text and str(undisturbed) not in text
    assert json.loads(text)["versions"].keys() >= {"tensorflow", "soxr"}


def test_a_vanished_dataset_stops_the_run(tmp_path, monkeypatch):
    root = trees.write_folder(tmp_path / "raw")
    load = clip.load_clip

    def vanish(*arguments, **keywords):
        if root.exists():
            root.rename(tmp_path / "elsewhere")
        return load(*arguments, **keywords)

    monkeypatch.setattr(clip, "load_clip", vanish)
    with pytest.raises(FileNotFoundError, match="has vanished"):
        _prepare(root, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tfrecord"))


def test_shards_of_different_weights_are_not_joined(tmp_path: pathlib.Path):
    root = trees.write_folder(tmp_path / "raw")
    output = tmp_path / "out"
    _prepare(root, output)
    config = dataclasses.replace(CONFIG, sources=("bass",), stems="separator")
    plan = plan_lib.make_plan(folder.index(root, config.options).clips, config)
    for number, path in enumerate(sorted(output.glob("*-of-*.json"))):
        sidecar = json.loads(path.read_text()) | {"weights_sha256": str(number)}
        sidecar["stem_correlation"] = {"bass": [0.5, 1]}
        path.write_text(json.dumps(sidecar))
    found = folder.index(root, config.options)
    with pytest.raises(manifest.ResumeError, match="different weights"):
        manifest.write(folder.DATASET, found, plan, config, output)
