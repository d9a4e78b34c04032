"""Builds shards with Apache Beam, on this machine or on a cluster.

What runs in a worker are functions of this module, so that they are sent by name.
"""

import functools
from collections.abc import Sequence

from cola_msa.remote import beam
from cola_msa.system.errors import hide_logins
from cola_msa.system.processes import limit_threads
from data_prep.pipeline import jobs, plan, runner, shards
from data_prep.stems import separator

UserFailureError = beam.UserFailureError


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
    limit_threads()
    with beam.told_by_workers():
        if not runner.is_finished(shard, job):
            runner.build(job, shard, _separator(job), lambda has_failed, seconds: None)
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
        beam_args: Beam's own flags, see `engines.Engine`.

    Raises:
        PreparationError: If an extra is missing, or the pipeline failed.
        UsageError: If Beam's flags are wrong.
    """
    if not left:
        return
    # A missing extra or a download must not come to light in the workers.
    _separator(job)
    waiting = {shard.name: shard for shard in left}
    counts, audio_seconds = [0, 0], [0.0]

    def look() -> float:
        """Tells of finished shards by looking at the output, whatever the engine."""
        listing_seconds = beam.timed(refresh)
        for name, shard in list(waiting.items()):
            path = job.output_dir / name
            if path.exists() and runner.is_finished(shard, job):
                sidecar = shards.read_sidecar(path, jobs.PreparationError, "")
                counts[0] += len(shard.clips)
                counts[1] += len(sidecar["failures"])
                audio_seconds[0] += sidecar["seconds"]
                del waiting[name]
        advance(counts[0], counts[1], audio_seconds[0])
        return listing_seconds

    try:
        state = beam.run(build, left, job, num_workers, look, beam_args)
    except beam.BeamError as error:
        raise jobs.PreparationError(str(error)) from error
    refresh()
    missing = [shard.name for shard in left if not runner.is_finished(shard, job)]
    if missing:
        raise jobs.PreparationError(
            f"the Beam pipeline ended as {state}, but {len(missing)} shards are "
            f"not in {hide_logins(job.output_url or str(job.output_dir))}, first "
            f"{missing[0]}: do its workers see the same folders?"
        )
