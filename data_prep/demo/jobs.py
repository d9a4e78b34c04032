"""Runs jobs over processes, so that a stopped run continues where it was."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import soundfile

from cola_msa.system.console import ProgressBar
from cola_msa.system.files import temporary_path
from cola_msa.values.reading import read_json
from data_prep.demo.config import DemoConfig

_FORMATS: dict[str, dict[str, Any]] = {
    # Encoding is half of all the work; this rate is the fastest that sounds clean.
    ".mp3": {
        "format": "MP3",
        "subtype": "MPEG_LAYER_III",
        "bitrate_mode": "VARIABLE",
        "compression_level": 0.6,
    },
    ".flac": {"format": "FLAC", "subtype": "PCM_24", "compression_level": 0.0},
    ".wav": {"format": "WAV", "subtype": "PCM_16"},
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One unit of work: a song, or an instrument.

    Attributes:
        tree: "mtat", "nsynth" or "fma".
        index: number within the tree; with the seed it determines the result.
        split: "train", "valid" or "test".
        label: style or family, as an index.
        index_in_split: number within split and label, or within the split.
    """

    tree: str
    index: int
    split: str
    label: int
    index_in_split: int


JobFunction = Callable[[pathlib.Path, DemoConfig, Job], Any]


def make_rng(seed: int, stream: int, index: int) -> np.random.Generator:
    """Makes the generator of one job.

    Args:
        seed: the music's seed.
        stream: number of the tree, so that trees share no song.
        index: the job's index.

    Returns:
        A generator that depends on these three alone.
    """
    return np.random.default_rng([seed, stream, index])


@contextlib.contextmanager
def _renamed(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary name, renamed in the end.

    Not `files.written_path`, which waits for the disk: here are thousands of files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all; csv text brings its own line ends."""
    with _renamed(path) as temporary:
        temporary.write_bytes(text.encode())


def write_audio(path: pathlib.Path, waveform: np.ndarray, sample_rate_hz: int) -> None:
    """Writes audio, whole or not at all.

    Args:
        path: ends in .mp3, .flac (24 bit) or .wav (16 bit).
        waveform: float [samples] or [samples, channels], within -1 to 1.
        sample_rate_hz: its rate.
    """
    with _renamed(path) as temporary:
        soundfile.write(
            str(temporary), waveform, sample_rate_hz, **_FORMATS[path.suffix]
        )


def _row_path(work_dir: pathlib.Path, job: Job) -> pathlib.Path:
    return work_dir / job.tree / f"{job.index:06d}.json"


def _run_job(
    arguments: tuple[JobFunction, pathlib.Path, pathlib.Path, DemoConfig, Job],
) -> None:
    function, output_dir, work_dir, config, job = arguments
    row = function(output_dir, config, job)
    # The row comes after the audio: where it stands, the job is done.
    write_text(_row_path(work_dir, job), json.dumps(row))


def run_jobs(
    function: JobFunction,
    jobs: Sequence[Job],
    output_dir: pathlib.Path,
    work_dir: pathlib.Path,
    config: DemoConfig,
    submit: Callable[..., concurrent.futures.Future] | None,
    title: str,
) -> list[Any]:
    """Runs the jobs that are not done yet.

    Args:
        function: writes a job's files below output_dir and returns a JSON row.
        jobs: all jobs of a tree.
        output_dir: root of the trees.
        work_dir: where rows are kept until the whole music is done.
        config: the music's options.
        submit: from `processes.worker_pool`; None runs in this process.
        title: of the progress bar.

    Returns:
        The rows of all jobs, in their order.
    """
    todo = [job for job in jobs if not _row_path(work_dir, job).exists()]
    arguments = [(function, output_dir, work_dir, config, job) for job in todo]
    results: Iterable[Any] = map(_run_job, arguments)
    if submit:
        futures = [submit(_run_job, argument) for argument in arguments]
        results = (f.result() for f in concurrent.futures.as_completed(futures))
    with ProgressBar(
        total=len(jobs), initial=len(jobs) - len(todo), desc=title, unit="job"
    ) as progress:
        for _ in results:
            progress.update()
    advice = "delete it and give the command again: it makes this part anew"
    paths = [_row_path(work_dir, job) for job in jobs]
    return [read_json(path, advice=advice, kind=object) for path in paths]
