"""Every benchmark runs in small and prints its table; figures are hardly tested."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import cola_msa
from data_prep.datasets import fma, nsynth
from data_prep.datasets.base import IndexOptions
from tests.helpers.soundfonts import needs_fluidsynth, write_soundfont

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
SCRIPTS = sorted(path.name for path in FOLDER.glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmark_prints_a_table(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), "--quick"],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) >= 3  # a header, its rule, and a row
    assert "nan" not in done.stdout
    recalls = [row.split("|")[2] for row in rows if row.startswith("| recall@")]
    assert all(float(recall) > 0.9 for recall in recalls)
    assert bool(recalls) == (name == "bench_search.py")


@pytest.mark.slow
def test_a_killed_worker_of_a_dask_cluster_changes_no_byte(has_dask):
    """Preparation and embedding; the study itself compares the files."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "study_engine.py"), "--quick"],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    killed = [line for line in done.stdout.splitlines() if "one killed with" in line]
    assert len(killed) == 2
    assert "killed with 0" not in done.stdout


@pytest.mark.slow
@needs_fluidsynth
def test_the_starter_is_made_from_nothing_at_a_hundredth_and_goes_on(tmp_path):
    """Music, records, training, folder: stopped in training, and started again."""
    font = write_soundfont(tmp_path / "sine.sf2")
    work = tmp_path / "work"
    command = [sys.executable, str(FOLDER / "make_starter.py"), f"--work_dir={work}"]
    command += [f"--soundfont={font}", "--scale=0.01", "--pairs=40000", "--threads=1"]
    command += ["--batch_size=16", "--augment=remix", "--remix_share=0.5"]
    environment = {**os.environ, **_ENVIRONMENT}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    metrics = work / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 400
    try:
        while not metrics.exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = work / "starter"
    size = (folder / "model.weights.h5").stat().st_size
    assert 2.5e6 < size < 3.5e6  # half precision
    content = json.loads((folder / "config.json").read_text())
    assert content["config"]["preset"] == "default" and content["pairs"] >= 400
    waveform = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    embedding = cola_msa.Embedder.from_pretrained(folder)(waveform, 16000)
    assert embedding.shape == (4096,) and np.isfinite(embedding).all()
    # Mean and deviation of windows whose values have a mean square of at most 1.
    assert 0 < np.linalg.norm(embedding) <= 1.0001 * 2048**0.5


@pytest.mark.slow
@needs_fluidsynth
def test_unseen_music_is_made_in_the_layouts_that_the_study_reads(tmp_path):
    """Copies of one noise stand in for the games' packages."""
    packages, music = tmp_path / "packages", tmp_path / "music"
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 16000 * 101)
    soundfile.write(tmp_path / "noise.ogg", noise, 16000)
    (packages / "first").mkdir(parents=True)
    (packages / "second").mkdir()
    for number in range(9):
        shutil.copy(tmp_path / "noise.ogg", packages / "first" / f"track {number}.ogg")
        shutil.copy(tmp_path / "noise.ogg", packages / "second" / f"{number}.ogg")
    shutil.copy(tmp_path / "noise.ogg", packages / "second" / "rain.ogg")  # no music
    font = write_soundfont(tmp_path / "sine.sf2")
    code = (
        "import sys, make_unseen\nfrom cola_msa.system import console\n"
        "make_unseen.PACKAGES = {'one': ('first',), 'two': ('second',)}\n"
        "make_unseen.FAMILIES = {'bass': (32, 33), 'vocal': (52, 53, 54)}\n"
        "console.start(make_unseen.main, make_unseen.define_flags)"
    )
    command = [sys.executable, "-c", code, f"--packages_dir={packages}"]
    command += [f"--output_dir={music}", f"--soundfont={font}"]
    environment = {
        **os.environ,
        **_ENVIRONMENT,
        "PYTHONPATH": f"{FOLDER}:{FOLDER.parent}",
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith(": 36 excerpts of soundtracks, 30 notes\n")
    index = fma.DATASET.index(music / "fma", IndexOptions())
    assert index.class_names == ("one", "two") and len(index.clips) == 36
    assert len({clip.group for clip in index.clips}) > 1
    made = [soundfile.info(music / "fma" / clip.path) for clip in index.clips]
    assert all(29.9 < info.duration < 30.2 for info in made)
    notes = nsynth.DATASET.index(music / "nsynth", IndexOptions())
    assert notes.class_names == ("bass", "vocal") and len(notes.clips) == 30
    assert len({clip.group for clip in notes.clips}) == 5
    study = [sys.executable, str(FOLDER / "study_embeddings.py"), "--divisions=2"]
    done = subprocess.run(
        [*study, f"--music_dir={music}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| fma, accuracy |" in done.stdout and "mtat" not in done.stdout
    shutil.rmtree(packages / "second")
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "second have 0 tracks" in done.stderr
