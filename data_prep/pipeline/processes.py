"""Units of work in this process or in several."""

import concurrent.futures
import dataclasses
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from cola_msa.system import processes
from data_prep.pipeline import shards
from data_prep.pipeline.jobs import Job, PreparationError
from data_prep.pipeline.progress import Progress
from data_prep.stems import separator as separator_lib

_POLL_SECONDS = 0.2


class _StoppedError(Exception):
    """A worker was asked to stop."""


class _Tally:
    """Totals of clips, failures and seconds; a clip at work counts as far as it is."""

    def __init__(self, add: Callable[[int, bool, float], None]):
        self._add = add
        self._counted = 0.0  # Seconds of the clip at work that are in the total.

    def on_seconds(self, seconds: float) -> None:
        """So many seconds of the clip at work are done."""
        more, self._counted = seconds - self._counted, seconds
        self._add(0, False, more)

    def on_clip(self, has_failed: bool, seconds: float) -> None:
        """The clip at work is done, and has so many seconds."""
        more, self._counted = seconds - self._counted, 0.0
        self._add(1, has_failed, more)


# Work on one item: (job, item, separator, on_clip). A function of a module.
Work = Callable[[Job, Any, "separator_lib.Separator | None", shards.OnClip], None]


def run_items(
    job: Job, items: Sequence[Any], work: Work, num_workers: int, progress: Progress
) -> None:
    """Works on all items, in this process or in several.

    Args:
        job: What every worker needs to know.
        items: Units of work; they are sent to the processes.
        work: What to do with one.
        num_workers: Processes; 1 works in this one.
        progress: Where to show how it goes.

    Raises:
        PreparationError: If a worker died, or work raises it.
        SeparatorError: If the separator cannot be loaded.
        OSError: If work raises it.
    """
    if num_workers <= 1:
        _run_here(job, items, work, progress)
    elif items:
        _run_processes(job, items, work, num_workers, progress)


def _run_here(job: Job, items: Sequence[Any], work: Work, progress: Progress) -> None:
    processes.limit_threads()
    separator = job.load_separator() if items else None
    counts: list[float] = [0, 0, 0.0]

    def add(num_clips: int, has_failed: bool, seconds: float) -> None:
        counts[0] += num_clips
        counts[1] += has_failed
        counts[2] += seconds
        progress.advance(int(counts[0]), int(counts[1]), counts[2])

    tally = _Tally(add)
    if separator is not None:
        separator.on_seconds = tally.on_seconds
    for item in items:
        work(job, item, separator, tally.on_clip)


def _run_processes(
    job: Job, items: Sequence[Any], work: Work, num_workers: int, progress: Progress
) -> None:
    # Loaded here once too: a missing extra, or a download by all workers at a time,
    # must not come to light in the workers.
    job.load_separator()
    context = multiprocessing.get_context("spawn")  # as that of `worker_pool`
    counts = context.Array("d", 3)
    stop = context.Event()
    died = PreparationError(
        "a worker process died, perhaps for lack of memory; finished shards are "
        "kept: run the same command again, with fewer --num_workers"
    )
    with processes.worker_pool(
        min(num_workers, len(items)), died, _start_worker, (job, counts, stop)
    ) as submit:
        try:
            waiting = {submit(_work, work, item) for item in items}
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
                )
                num_done, num_failed, seconds = counts[:]
                progress.advance(int(num_done), int(num_failed), seconds)
                for future in done:
                    future.result()
        finally:
            stop.set()


@dataclasses.dataclass
class _Worker:
    job: Job
    counts: Any
    stop: Any
    separator: separator_lib.Separator | None = None
    has_separator: bool = False

    def __post_init__(self) -> None:
        self.tally = _Tally(self._add)

    def _add(self, num_clips: int, has_failed: bool, seconds: float) -> None:
        with self.counts.get_lock():
            self.counts[0] += num_clips
            self.counts[1] += has_failed
            self.counts[2] += seconds
        if self.stop.is_set():
            raise _StoppedError


_worker: _Worker | None = None


def start_worker() -> None:
    """Sets up a process of a pool."""
    processes.follow_parent()
    processes.limit_threads()


def _start_worker(job: Job, counts: Any, stop: Any) -> None:
    global _worker
    start_worker()
    _worker = _Worker(job, counts, stop)


def _work(work: Work, item: Any) -> None:
    worker = _worker
    assert worker is not None
    if worker.stop.is_set():
        raise _StoppedError
    if not worker.has_separator:
        worker.separator = worker.job.load_separator()
        worker.has_separator = True
        if worker.separator is not None:
            worker.separator.on_seconds = worker.tally.on_seconds
    work(worker.job, item, worker.separator, worker.tally.on_clip)
