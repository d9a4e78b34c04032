"""What befalls a night's run: kills, full and read-only disks, vanished folders."""

import errno
import hashlib
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from data_prep.datasets import folder
from data_prep.datasets.base import IndexOptions
from data_prep.pipeline import plan as plan_lib
from data_prep.stems import clip, waveforms
from tests.data_prep.datasets.test_datasets import execute
from tests.data_prep.pipeline.test_runner import digests
from tests.helpers import trees

ROOT = pathlib.Path(__file__).parents[3]
NUM_CLIPS = 6
# Every clip is a shard of its own.
FLAGS = ("--split_by=clip", "--validation_share=0", "--clips_per_shard=1")


def _write(root: pathlib.Path) -> list[str]:
    """A tree of clips with a bass beside them; their paths in the plan's order."""
    for k in range(NUM_CLIPS):
        trees.write_wav(root / f"music/{k}.wav", trees.chirp(4, seed=k))
        trees.write_wav(root / f"stems/music/{k}/bass.wav", trees.chirp(4, seed=k))
    options = IndexOptions(split_by="clip", validation_share=0, stems_dir="stems")
    config = plan_lib.PrepConfig(dataset="folder", clips_per_shard=1, options=options)
    plan = plan_lib.make_plan(folder.index(root, options).clips, config)
    return [clip.path for shard in plan.shards for clip in shard.clips]


def _prepare(root: pathlib.Path, output: pathlib.Path) -> int:
    return execute("folder", root, output, f"--stems_dir={root / 'stems'}", *FLAGS)


def _state(output: pathlib.Path) -> dict[str, tuple[int, str]]:
    """Time and content of the finished shards."""
    return {
        path.name: (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in output.glob("*.tfrecord")
    }


def _assert_ends_as_undisturbed(root: pathlib.Path, output: pathlib.Path) -> None:
    """Two shards are finished and stay; the rest comes as if nothing had been."""
    before = _state(output)
    assert len(before) == 2
    assert not (output / "manifest.json").exists()
    assert not list(output.glob("*.tfrecord.tmp"))
    assert _prepare(root, output) == 0
    after = _state(output)
    assert len(after) == NUM_CLIPS
    assert {name: after[name] for name in before} == before
    undisturbed = output.with_name("undisturbed")
    assert _prepare(root, undisturbed) == 0
    assert digests(output) == digests(undisturbed)


def _one_line(text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert "Traceback" not in text
    return line


def test_a_disk_that_takes_no_more(tmp_path: pathlib.Path):
    root, output = tmp_path / "raw", tmp_path / "out"
    third = root / _write(root)[2]
    stem = root / "stems" / "music" / third.stem / "bass.wav"
    usual = {path: path.read_bytes() for path in (third, stem)}
    for path in usual:
        trees.write_wav(path, trees.chirp(40))
    command = [sys.executable, "-m", "data_prep.folder", *FLAGS]
    command += [f"--dataset_dir={root}", f"--output_dir={output}"]
    found = subprocess.run(
        [*command, f"--stems_dir={root / 'stems'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
        # Between a shard of 4 s and one of 40 s: a real error of the system.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (250_000,) * 2),
    )
    assert found.returncode == 1
    line = _one_line(found.stderr)
    assert "train-00002-of-00006.tfrecord could not be written" in line
    assert "File too large" in line and "finished shards are kept" in line
    for path, content in usual.items():
        path.write_bytes(content)
    _assert_ends_as_undisturbed(root, output)


@pytest.mark.parametrize(
    ("module", "name", "code", "place"),
    [
        # The folder itself, when the second shard has just taken its name.
        (os, "fsync", errno.ENOSPC, "train-00001-of-00006.tfrecord"),
        (os, "replace", errno.EROFS, "train-00002-of-00006.idx.npz"),
        (tempfile, "TemporaryFile", errno.ENOSPC, "(TMPDIR)"),
    ],
)
def test_writing_fails_in_mid_run(
    tmp_path, monkeypatch, capsys, module, name, code, place
):
    root, output = tmp_path / "raw", tmp_path / "out"
    _write(root)
    real = getattr(module, name)

    def fail(*arguments, **keywords):
        # Such errors name no file.
        if len(list(output.glob("*.tfrecord"))) == 2:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(waveforms, "_MEMORY_BYTES", 1000)
        patch.setattr(module, name, fail)
        assert _prepare(root, output) == 1
    line = _one_line(capsys.readouterr().err)
    assert os.strerror(code) in line and "finished shards are kept" in line
    assert place in line
    _assert_ends_as_undisturbed(root, output)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_where_nothing_can_be_written(tmp_path, capsys, place):
    root = tmp_path / "raw"
    _write(root)
    (tmp_path / "file").write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    assert _prepare(root, tmp_path / place) == 1
    assert str(tmp_path / place) in _one_line(capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("what", ["gone", "unmounted", "stems"])
def test_an_input_folder_vanishes(tmp_path, monkeypatch, capsys, what):
    root, output = tmp_path / "raw", tmp_path / "out"
    _write(root)
    away = tmp_path / "away"
    lost = root / "stems" if what == "stems" else root
    load = clip.load_clip

    def vanish(*arguments, **keywords):
        if len(list(output.glob("*.tfrecord"))) == 2 and not away.exists():
            lost.rename(away)
            if what == "unmounted":
                lost.mkdir()
        return load(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(clip, "load_clip", vanish)
        assert _prepare(root, output) == 1
    line = _one_line(capsys.readouterr().err)
    assert ("is empty now" if what == "unmounted" else "has vanished") in line
    assert str(lost) in line and "finished shards are kept" in line
    if what == "unmounted":
        lost.rmdir()
    away.rename(lost)
    _assert_ends_as_undisturbed(root, output)


@pytest.mark.slow
def test_three_kills_at_random_moments(openunmix, tmp_path: pathlib.Path):
    root, output = tmp_path / "raw", tmp_path / "out"
    lines = ['"clip_id"\t"slow"\t"rock"\t"mp3_path"']
    num_clips = 16
    for k in range(num_clips):
        path = f"{k:x}/a-b-{k:02d}-x-0-3.mp3"
        trees.write_mp3(root / path, trees.chirp(3, 44100, seed=k), 44100)
        lines.append(f'"{k}"\t"{k % 2}"\t"1"\t"{path}"')
    (root / "annotations_final.csv").write_text("\n".join(lines) + "\n")
    more = ("--separator=random", "--niter=0", "--clips_per_shard=1")
    command = [sys.executable, "-m", "data_prep.mtat", *more]
    command += [f"--dataset_dir={root}", f"--output_dir={output}"]
    moments = []
    for _ in range(3):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        num_before = len(list(output.glob("*.tfrecord")))
        while len(list(output.glob("*.tfrecord"))) == num_before:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        # About the time that a shard takes; a fast machine makes several in it.
        end = time.monotonic() + random.uniform(0, 0.4)
        while time.monotonic() < end:
            if len(list(output.glob("*.tfrecord"))) >= num_before + 4:
                break
            time.sleep(0.002)
        assert process.poll() is None, "ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        moments.append(sorted(path.name for path in output.iterdir()))
    finished = _state(output)
    assert 3 <= len(finished) < num_clips and not (output / "manifest.json").exists()
    assert execute("mtat", root, output, *more) == 0
    after = _state(output)
    assert {name: after[name] for name in finished} == finished
    undisturbed = tmp_path / "undisturbed"
    assert execute("mtat", root, undisturbed, *more) == 0
    assert digests(output) == digests(undisturbed), moments
