"""Builds shards with Apache Beam, on this machine or on a cluster.

apache-beam is an extra: it is imported inside functions. What runs in a worker are
functions of this module, so that they are sent by name.
"""

import contextlib
import functools
import logging
import os
import pathlib
import re
import shlex
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from cola_msa.system.errors import UserError, hide_logins
from cola_msa.system.processes import environment
from data_prep.pipeline import jobs, plan, processes, runner, shards
from data_prep.remote import addresses
from data_prep.stems import separator

_POLL_SECONDS = 0.5
_ROOT = str(pathlib.Path(__file__).resolve().parents[2])
_RUNNER_FLAG = re.compile(r"--runner(=|$)")
_FAILURE = re.compile(r"^(?:[\w.]+\.)?UserFailureError: (.+)$", re.M)
# Of a traceback that came from a worker.
_WORKER = re.compile(r'data_prep/pipeline/beam\.py", line \d+, in build$', re.M)
_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.M)


class UserFailureError(Exception):
    """What a worker's user can mend; engines hand on an error's name and text alone."""


def import_beam() -> Any:
    """The module apache_beam.

    Raises:
        PreparationError: If the extra is missing; the message names the pip command.
    """
    try:
        import apache_beam
        import google_crc32c  # noqa: F401 (TFRecord checksums; slow without it)
    except ImportError as error:
        raise jobs.PreparationError(
            f"--runner=beam needs an extra ({error}): pip install 'cola_msa[beam]'"
        ) from error
    return apache_beam


def build(shard: plan.Shard, job: jobs.Job) -> str:
    """The work of a Beam worker: one shard, unless it is finished already.

    Args:
        shard: The shard.
        job: What every worker needs to know; its folders must be the same to all.

    Returns:
        The shard's name.

    Raises:
        UserFailureError: If a file or a folder cannot be used; all else is a defect.
    """
    processes.limit_threads()
    try:
        if not runner.is_finished(shard, job):
            runner.build(job, shard, _separator(job), lambda has_failed, seconds: None)
    except (UserError, OSError) as error:
        raise UserFailureError(str(error)) from error
    return shard.name


@functools.lru_cache(maxsize=1)
def _separator(job: jobs.Job) -> separator.Separator | None:
    """Loaded once a worker."""
    return job.load_separator()


def run(
    job: jobs.Job,
    left: Sequence[plan.Shard],
    num_workers: int,
    advance: runner.Advance,
    refresh: runner.Refresh = lambda: None,
    beam_args: str = "",
) -> None:
    """Builds all shards that are left, and returns when they are finished.

    Args:
        job: What every worker needs to know.
        left: The shards to build.
        num_workers: Processes, where Beam works on this machine.
        advance: Called with clips done, clips failed, seconds of audio, now and then.
        refresh: Brings job.output_dir up to date, where it is a stand-in.
        beam_args: Beam's own flags, as on a command line. Without `--runner` among
            them Beam works on this machine, in processes of its own.

    Raises:
        PreparationError: If the extra is missing, or the pipeline failed.
    """
    beam = import_beam()
    if not left:
        return
    # A missing extra or a download must not come to light in the workers.
    _separator(job)
    arguments = shlex.split(beam_args)
    engine = None
    if not any(_RUNNER_FLAG.match(argument) for argument in arguments):
        # Not DirectRunner by name: that may download a runner in another language.
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        engine = FnApiRunner()
        if not any(a.startswith("--direct_running_mode") for a in arguments):
            arguments.append("--direct_running_mode=multi_processing")
        if not any(a.startswith("--direct_num_workers") for a in arguments):
            arguments.append(f"--direct_num_workers={num_workers}")
        # Beam's workers tell of every connection.
        arguments.append("--default_sdk_harness_log_level=WARNING")
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    options = beam.options.pipeline_options.PipelineOptions(arguments)
    pipeline = beam.Pipeline(runner=engine, options=options)
    # Reshuffled, so that an engine does not fuse all shards into one bundle.
    _ = (
        pipeline
        | "Shards" >> beam.Create(list(left))
        | "Spread" >> beam.Reshuffle()
        | "Build" >> beam.Map(build, job)
    )
    # Worker processes of this machine find the package where it is not installed.
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    with environment("PYTHONPATH", path), _watch(job, left, advance, refresh):
        try:
            result = pipeline.run()
            result.wait_until_finish()
        # Engines raise errors of their own; a worker's is quoted in their text.
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            if _WORKER.search(told) and not _FAILURE.search(told):
                raise  # a defect of ours, which is shown whole
            raise jobs.PreparationError(
                f"the Beam pipeline failed: {_reason(error, told)}; finished shards "
                "are kept: run the same command again once that is mended"
            ) from error
    refresh()
    missing = [shard.name for shard in left if not runner.is_finished(shard, job)]
    if missing:
        raise jobs.PreparationError(
            f"the Beam pipeline ended as {result.state}, but {len(missing)} shards are "
            f"not in {hide_logins(job.output_url or str(job.output_dir))}, first "
            f"{missing[0]}: do its workers see the same folders?"
        )


def _reason(error: Exception, told: str) -> str:
    found = [("", message) for message in _FAILURE.findall(told)]
    found = found or _ERROR_LINE.findall(str(error))
    if not found:
        return next(iter(str(error).splitlines()), type(error).__name__)
    kind, message = found[-1]
    return re.sub(r" \[while running .*", "", message) or kind


@contextlib.contextmanager
def _watch(
    job: jobs.Job,
    left: Sequence[plan.Shard],
    advance: runner.Advance,
    refresh: runner.Refresh,
) -> Iterator[None]:
    """Tells of finished shards by looking at the output, whatever the engine."""
    waiting = {shard.name: shard for shard in left}
    counts, seconds = [0, 0], [0.0]
    stop = threading.Event()

    def look() -> float:
        began = time.monotonic()
        refresh()
        refresh_seconds = time.monotonic() - began
        for name, shard in list(waiting.items()):
            path = job.output_dir / name
            if path.exists() and runner.is_finished(shard, job):
                sidecar = shards.read_sidecar(path, jobs.PreparationError, "")
                counts[0] += len(shard.clips)
                counts[1] += len(sidecar["failures"])
                seconds[0] += sidecar["seconds"]
                del waiting[name]
        advance(counts[0], counts[1], seconds[0])
        return refresh_seconds

    def poll() -> None:
        pause = _POLL_SECONDS
        while not stop.wait(pause):
            # A listing that fails now may do so no longer at the end.
            with contextlib.suppress(addresses.RemoteError):
                # Listings of a bucket cost time and money: a twentieth of it at most.
                pause = max(_POLL_SECONDS, 20 * look())

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(addresses.RemoteError):
            look()
