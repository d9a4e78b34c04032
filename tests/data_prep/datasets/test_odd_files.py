"""A folder of good and bad files, prepared by the command as a user runs it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from cola_msa.records import prepared as prepared_lib
from tests.helpers import trees

ROOT = pathlib.Path(__file__).parents[3]
LONG_NAME = "n" * 196 + ".wav"
# Names of bytes that are not UTF-8, as clip ids; the third is the id of a file whose
# own name is the second's id.
NOT_UTF8, TWIN, OTHER = "caf\\udce9.wav", "twin\\udce9.wav", "twin\\\\udce9.wav"
GOOD = (
    "3s.wav",
    "12 channels.wav",
    "8kHz.wav",
    "192kHz.wav",
    "float.wav",
    "24bit.wav",
    "silence.wav",
    "really-ogg.mp3",
    NOT_UTF8,
    TWIN,
    OTHER,
    LONG_NAME,
    *(f"whole.{suffix}" for suffix in ("wav", "mp3", "flac", "ogg")),
)
FRAMES = 298  # of 3 s: 1 + (48000 - 400) // 160
BAD = {
    "empty.wav": "0 bytes",
    **{
        f"{kind}.{suffix}": "not readable|damaged"
        for kind in ("zeros", "text", "page", "random")
        for suffix in ("wav", "mp3", "flac", "ogg")
    },
    **{
        f"cut{percent}.{suffix}": "truncated|damaged|not readable"
        for suffix in ("wav", "mp3", "flac", "ogg")
        for percent in (1, 50, 99)
    },
    "garbage.mp3": "damaged",
    "garbage.flac": "damaged",
    "garbage.ogg": "damaged",
    "nan.wav": "not a number",
    "infinite.wav": "infinite",
    "0samples.wav": "no samples",
    "1sample.wav": "too short",
    "0.2s.wav": "too short",
    "dangling.wav": "dangling link",
    "directory.mp3": "a directory",
    "pipe.wav": "a named pipe",
}


def _write(root: pathlib.Path) -> None:
    root.mkdir()
    chirp = trees.chirp(3)
    stereo = np.stack([trees.chirp(3, 44100)] * 2, 1)
    for name in ("3s.wav", "float.wav", LONG_NAME):
        trees.write_wav(root / name, chirp)
    trees.write_wav(root / "12 channels.wav", np.stack([chirp] * 12, 1))
    trees.write_wav(root / "8kHz.wav", trees.chirp(3, 8000), 8000)
    trees.write_wav(root / "192kHz.wav", trees.chirp(3, 192000), 192000)
    soundfile.write(root / "24bit.wav", stereo, 44100, subtype="PCM_24")
    trees.write_wav(root / "silence.wav", np.zeros(48000, np.float32))
    soundfile.write(root / "really-ogg.mp3", chirp, 16000, format="OGG")
    data = (root / "3s.wav").read_bytes()
    for name in (b"caf\xe9.wav", b"twin\xe9.wav", b"twin\\udce9.wav"):
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(data)
    (root / "empty.wav").touch()
    random = np.random.default_rng(0)
    for suffix in ("wav", "mp3", "flac", "ogg"):
        (root / f"zeros.{suffix}").write_bytes(bytes(50000))
        (root / f"text.{suffix}").write_text("no music " * 1000)
        page = "<!DOCTYPE html><html>404</html>" * 50
        (root / f"page.{suffix}").write_text(page)
        (root / f"random.{suffix}").write_bytes(random.bytes(50000))
        path = root / f"whole.{suffix}"
        soundfile.write(path, stereo, 44100)
        whole = path.read_bytes()
        for percent in (1, 50, 99):
            cut = whole[: len(whole) * percent // 100]
            (root / f"cut{percent}.{suffix}").write_bytes(cut)
        if suffix != "wav":  # any bytes are samples there
            middle = len(whole) // 2
            damaged = whole[:middle] + random.bytes(3000) + whole[middle + 3000 :]
            (root / f"garbage.{suffix}").write_bytes(damaged)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = chirp.copy()
        samples[20000] = value
        trees.write_wav(root / f"{name}.wav", samples)
    for name, num_samples in (("0samples", 0), ("1sample", 1), ("0.2s", 3200)):
        trees.write_wav(root / f"{name}.wav", chirp[:num_samples])
    (root / "dangling.wav").symlink_to(root / "nowhere.wav")
    (root / "directory.mp3").mkdir()
    os.mkfifo(root / "pipe.wav")


def _run(folder: pathlib.Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data_prep.folder", "--split_by=clip", *more]
    command += [f"--dataset_dir={folder / 'raw'}", f"--output_dir={folder / 'out'}"]
    # A tenth of this is needed; what waits for a pipe's writer never ends.
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    _write(folder / "raw")
    return _run(folder), folder / "out"


def test_the_exit_code_says_that_too_many_failed(finished):
    found, _ = finished
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert f"{len(BAD)} of {len(GOOD) + len(BAD)} clips failed" in found.stderr


def test_as_many_failures_as_allowed_are_no_error(finished):
    manifest = finished[1] / "manifest.json"
    before = manifest.read_bytes()
    found = _run(finished[1].parent, "--max_failures=1")
    assert found.returncode == 0
    assert "failed, more than" not in found.stderr
    assert "already prepared" in found.stdout
    assert manifest.read_bytes() == before


def test_every_good_file_is_in_the_shards(finished):
    data = prepared_lib.PreparedData(finished[1])
    seen = {
        str(clip_id): data.mixture(split, *map(int, np.flatnonzero(index.clip == k)))
        for split in data.splits
        for index in [data.index(split)]
        for k, clip_id in enumerate(index.clip_ids)
    }
    assert set(seen) == set(GOOD)
    # An MP3 also holds what its encoder appended.
    assert {len(mel) for name, mel in seen.items() if name != "whole.mp3"} == {FRAMES}
    assert FRAMES <= len(seen["whole.mp3"]) <= FRAMES + 10
    assert all(mel.shape[1] == 64 and np.isfinite(mel).all() for mel in seen.values())
    np.testing.assert_allclose(seen["silence.wav"], np.log(1e-5), atol=0.01)
    for name in ("float.wav", "12 channels.wav", NOT_UTF8, TWIN, OTHER, LONG_NAME):
        np.testing.assert_allclose(seen[name], seen["3s.wav"], atol=0.01)


def test_every_file_is_accounted_for_once(finished):
    manifest = json.loads((finished[1] / "manifest.json").read_text())
    assert manifest["num_clips_planned"] == len(GOOD) + len(BAD)
    assert len(manifest["failures"]) == len(BAD)
    assert {f["clip_id"] for f in manifest["failures"]} == set(BAD)


@pytest.mark.parametrize("name", BAD)
def test_every_bad_file_is_in_the_manifest(finished, name):
    failures = json.loads((finished[1] / "manifest.json").read_text())["failures"]
    (reason,) = (f["reason"] for f in failures if f["clip_id"] == name)
    assert "\n" not in reason
    pattern = BAD[name].split("|")
    assert any(part in reason for part in pattern), reason
