"""Labelled music in two layouts, and runs that were judged on it."""

import csv
import pathlib
import shutil

import numpy as np

from data_prep.datasets import labelled_folder, mtat
from data_prep.datasets.base import IndexOptions
from tests.helpers.commands import run_module
from tests.helpers.trees import chirp, write_mp3, write_wav

TASKS = {"folder": labelled_folder, "mtat": mtat}
TAGS = ("slow", "rock", "with, comma")


def run(module, *arguments, cwd=None):
    found = run_module(module, *arguments, cwd=cwd or pathlib.Path.cwd())
    assert found.returncode == 0, found.stderr
    return found


def write_labelled(root):
    """Three classes of albums with two files each, of several formats and rates."""
    for number, name in enumerate(("calm", "loud", "ünruhig")):
        for k in range(12):
            path = root / name / f"album{k // 2}" / f"{k}.wav"
            rate = (16000, 44100)[k % 2]
            write_wav(path, chirp(4 + k / 3, rate, 20 * number + k), rate)


def write_tagged(root):
    """MagnaTagATune's layout: clips in folders that decide their split."""
    random = np.random.default_rng(0)
    rows = [["clip_id", *TAGS, "mp3_path"]]
    for k, folder in enumerate("0123456789abcccdefff"):
        path = f"{folder}/artist{k}-album-{k:02}-title-0-5.mp3"
        flags = random.integers(0, 2, len(TAGS))
        flags[k % len(TAGS)] = 1
        if folder == "f":  # positives and negatives of each tag
            flags = np.roll([1, 0, 0], k)
        rows.append([str(k), *map(str, flags), path])
        write_mp3(root / path, chirp(5 + k / 7, seed=k))
    with open(root / "annotations_final.csv", "w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows(rows)


WRITERS = {"folder": write_labelled, "mtat": write_tagged}
MODULES = {"folder": "data_prep.labelled_folder", "mtat": "data_prep.mtat"}


def judge(task, finished_run, root):
    """A run with kept heads for a task, beside the music that it was judged on.

    Returns:
        (task, run, music, expected scores by path).
    """
    WRITERS[task](root / "music")
    arguments = [f"--dataset_dir={root / 'music'}", f"--output_dir={root / 'data'}"]
    arguments += ["--validation_share=0.2", "--test_share=0.3"] * (task == "folder")
    run(MODULES[task], *arguments, "--num_workers=1")
    shutil.copytree(finished_run, root / "run")
    shutil.rmtree(root / "run" / "eval", ignore_errors=True)
    arguments = [f"--task={task}", f"--run_dir={root / 'run'}"]
    run("cola_msa.eval", *arguments, f"--data_dir={root / 'data'}", "--seeds=2")
    options = {"validation_share": 0.2, "test_share": 0.3} if task == "folder" else {}
    clips = TASKS[task].index(root / "music", IndexOptions(**options)).clips
    paths = {clip.clip_id: str(root / "music" / clip.path) for clip in clips}
    arrays = np.load(root / "run" / "eval" / task / "clip_scores.npz")
    scores = arrays["scores"].mean(axis=0)
    ids = [str(clip) for clip in arrays["clip_ids"]]
    return (
        task,
        root / "run",
        root / "music",
        {paths[clip]: row for clip, row in zip(ids, scores, strict=True)},
    )
