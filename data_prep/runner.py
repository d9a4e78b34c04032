"""Runs a plan on this machine: resume, processes, progress, manifest."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import multiprocessing
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tensorflow as tf

from cola_msa import record_index, records
from cola_msa.config import config_hash, differing_fields, from_dict, to_dict
from data_prep import manifest, separation, shards, workers
from data_prep.clips import Dataset, DatasetError
from data_prep.progress import Progress

_STATE_NAME = "preparation.json"
_LOCK_NAME = ".lock"
_POLL_SECONDS = 0.2


class PreparationError(RuntimeError):
    """The run cannot begin or go on; finished shards are kept."""


class _StoppedError(Exception):
    """A worker was asked to stop."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    config: shards.PrepConfig
    plan_hash: str
    dataset_dir: pathlib.Path
    output_dir: pathlib.Path
    stems_cache: pathlib.Path | None = None

    def load_separator(self) -> separation.Separator | None:
        """The separator, where stems come from one."""
        name = self.config.separator
        if self.config.stems != "separator" or name is None:
            return None
        separator = separation.Separator(
            name,
            self.dataset_dir / name,
            self.config.niter,
            self.config.options.seed,
            dtype=self.config.separator_dtype,
            chunking=self.config.chunking,
        )
        if self.stems_cache is not None:
            rate_hz = self.config.frontend.sample_rate_hz
            separator.use_cache(self.stems_cache, rate_hz)
        return separator


# (job, shards to build, workers, advance): see `beam_runner.run`.
Advance = Callable[[int, int, float], None]
Engine = Callable[[Job, list[shards.Shard], int, Advance], None]


def prepare(
    dataset: Dataset,
    config: shards.PrepConfig,
    dataset_dir: pathlib.Path,
    output_dir: pathlib.Path,
    num_workers: int = 1,
    show_progress: bool = True,
    log: Callable[[str], None] = print,
    stems_cache: pathlib.Path | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Prepares a dataset, or what is left of it.

    Args:
        dataset: The dataset module.
        config: PrepConfig.
        dataset_dir: The dataset's root.
        output_dir: Where shards, indices and the manifest go.
        num_workers: Processes; 1 works in this one. Shards do not depend on it.
        show_progress: Whether to draw a progress bar.
        log: Takes one line.
        stems_cache: Where separated stems are kept, or None. Shards do not depend on
            it.
        engine: Builds the shards in place of this machine's processes.

    Returns:
        The manifest.

    Raises:
        DatasetError: If the dataset is not what it should be.
        PreparationError: If the folder holds another preparation, or a worker died.
        SeparatorError: If the separator cannot be loaded.
        OSError: If the output cannot be written.
    """
    if not dataset_dir.is_dir():
        raise DatasetError(f"--dataset_dir={dataset_dir} is not a folder")
    found = dataset.index(dataset_dir, config.options)
    plan = shards.make_plan(found.clips, config)
    if not plan.shards:
        raise DatasetError(
            f"{dataset_dir}: none of {len(found.failures)} clips can be used, first: "
            + (
                f"{found.failures[0].path}: {found.failures[0].reason}"
                if found.failures
                else "there are no clips"
            )
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    job = Job(config, plan.hash, dataset_dir, output_dir, stems_cache)
    with lock(output_dir):
        _check_state(job, len(found.clips))
        if (done := _finished_manifest(job, plan)) is not None:
            log(f"{output_dir} is already prepared with this configuration")
            return done
        left = [shard for shard in plan.shards if not is_finished(shard, job)]
        log(
            f"{dataset.name}: {len(found.clips)} clips of {dataset_dir}, "
            f"{len(plan.shards)} shards, {len(plan.shards) - len(left)} finished"
        )
        with contextlib.suppress(FileNotFoundError):
            (output_dir / records.MANIFEST_NAME).unlink()
        num_clips = sum(len(shard.clips) for shard in left)
        with Progress(num_clips, len(found.failures), show_progress) as progress:
            if engine is not None:
                engine(job, left, num_workers, progress.advance)
            else:
                run_items(job, left, build, num_workers, progress)
        return manifest.write(dataset, found, plan, config, output_dir)


def failed_share(content: dict[str, Any]) -> float:
    """Share of a manifest's planned clips that failed."""
    return len(content["failures"]) / max(1, content["num_clips_planned"])


@contextlib.contextmanager
def lock(output_dir: pathlib.Path) -> Iterator[None]:
    """Keeps a second run out of the folder; a killed run's lock vanishes with it."""
    with open(output_dir / _LOCK_NAME, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PreparationError(
                f"another preparation is writing to {output_dir}"
            ) from error
        yield


def _check_state(job: Job, num_clips: int) -> None:
    """Refuses a folder that holds something else; else notes what it holds."""
    path = job.output_dir / _STATE_NAME
    if path.exists():
        state = json.loads(path.read_text())
        advice = "use another --output_dir, or delete this one"
        try:
            before = from_dict(shards.PrepConfig, state["config"])
        except (ValueError, KeyError) as error:
            raise PreparationError(f"{path}: {error}; {advice}") from error
        if fields := differing_fields(before, job.config):
            raise PreparationError(
                f"{job.output_dir} was prepared with another configuration (before != "
                f"now): {'; '.join(fields)}; {advice}"
            )
        if state["plan_hash"] != job.plan_hash:
            raise PreparationError(
                f"{job.output_dir}: the dataset's files or metadata have changed since "
                f"({state['num_clips']} clips then, {num_clips} now); {advice}"
            )
        return
    if any(job.output_dir.glob("*.tfrecord")):
        raise PreparationError(
            f"{job.output_dir} holds shards of unknown origin; use another --output_dir"
        )
    content = {
        "config": to_dict(job.config),
        "plan_hash": job.plan_hash,
        "num_clips": num_clips,
    }
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def is_finished(shard: shards.Shard, job: Job) -> bool:
    """Whether shard, index and a sidecar of this very job exist, at full length."""
    path = job.output_dir / shard.name
    try:
        sidecar = json.loads(shards.sidecar_path(path).read_text())
        index = record_index.Index.load(record_index.index_path(path))
        if path.stat().st_size != index.shard_bytes[0]:
            return False
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
    return (sidecar.get("config_hash"), sidecar.get("plan_hash")) == (
        config_hash(job.config),
        job.plan_hash,
    )


def _finished_manifest(job: Job, plan: shards.Plan) -> dict[str, Any] | None:
    path = job.output_dir / records.MANIFEST_NAME
    if not path.exists() or not all(is_finished(s, job) for s in plan.shards):
        return None
    content = json.loads(path.read_text())
    if content["config_hash"] != config_hash(job.config):
        return None
    return content if content["plan"]["hash"] == plan.hash else None


def limit_threads() -> None:
    """One TensorFlow thread a process, no GPU: parallel work is by processes."""
    with contextlib.suppress(RuntimeError):  # TensorFlow already runs in this process
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")


# Work on one item: (job, item, separator, on_clip). A function of a module.
Work = Callable[[Job, Any, "separation.Separator | None", shards.OnClip], None]


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
    limit_threads()
    separator = job.load_separator() if items else None
    counts: list[float] = [0, 0, 0.0]

    def on_clip(has_failed: bool, seconds: float) -> None:
        counts[0] += 1
        counts[1] += has_failed
        counts[2] += seconds
        progress.advance(int(counts[0]), int(counts[1]), counts[2])

    for item in items:
        work(job, item, separator, on_clip)


def build(
    job: Job,
    shard: shards.Shard,
    separator: separation.Separator | None,
    on_clip: shards.OnClip,
) -> None:
    """One unit of work: builds a shard; leaves nothing half written where it fails.

    Args:
        job: What every worker needs to know.
        shard: The shard.
        separator: A loaded separator, where stems come from one.
        on_clip: Called after every clip with whether it failed, and its seconds.

    Raises:
        PreparationError: If TensorFlow could not write it.
        OSError: If something else could not.
    """
    path = job.output_dir / shard.name
    try:
        shards.build_shard(
            shard,
            job.plan_hash,
            job.config,
            job.dataset_dir,
            job.output_dir,
            separator,
            on_clip,
        )
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.with_name(path.name + ".tmp").unlink()
        if isinstance(error, tf.errors.OpError):
            raise PreparationError(
                f"{path} could not be written: {error.message}; finished shards are "
                "kept: run the same command again once that is mended"
            ) from None
        if isinstance(error, OSError) and error.errno and not error.filename:
            # What a full disk raises says nothing of where.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _run_processes(
    job: Job, items: Sequence[Any], work: Work, num_workers: int, progress: Progress
) -> None:
    # Loaded here once too: a missing extra, or a download by all workers at a time,
    # must not come to light in the workers.
    job.load_separator()
    # Never fork: TensorFlow's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    counts = context.Array("d", 3)
    stop = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(items)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(job, counts, stop),
    )
    try:
        waiting = {pool.submit(_work, work, item) for item in items}
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            num_done, num_failed, seconds = counts[:]
            progress.advance(int(num_done), int(num_failed), seconds)
            for future in done:
                future.result()
    except BrokenProcessPool as error:
        raise PreparationError(
            "a worker process died, perhaps for lack of memory; finished shards are "
            "kept: run the same command again, with fewer --num_workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass
class _Worker:
    job: Job
    counts: Any
    stop: Any
    separator: separation.Separator | None = None
    has_separator: bool = False

    def on_clip(self, has_failed: bool, seconds: float) -> None:
        with self.counts.get_lock():
            self.counts[0] += 1
            self.counts[1] += has_failed
            self.counts[2] += seconds
        if self.stop.is_set():
            raise _StoppedError


_worker: _Worker | None = None


def start_worker() -> None:
    """Sets up a process of a pool."""
    workers.follow_parent()
    limit_threads()


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
    work(worker.job, item, worker.separator, worker.on_clip)
