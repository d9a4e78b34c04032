"""Makes shards with Apache Beam, on this machine or on a cluster.

What runs in a worker are functions of this module, so that they are sent by name. An
element holds no paths: they lie in a file beside the output, of which a worker reads
its part. So ten million files make no large pipeline.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence

from cola_msa.collection.embed import text
from cola_msa.collection.shards.build import Job, build
from cola_msa.collection.shards.output import INPUTS, Output
from cola_msa.collection.shards.plan import Shard, names_digest
from cola_msa.collection.table.write import OutputError
from cola_msa.remote import beam
from cola_msa.system.processes import limit_threads


@dataclasses.dataclass(frozen=True)
class Element:
    """A shard without its paths.

    Attributes:
        shard: The shard.
        start: Where its paths begin in the file of inputs, in bytes.
        stop: Where they end.
        is_forced: Whether it is made again where it is there.
    """

    shard: Shard
    start: int
    stop: int
    is_forced: bool


def make(element: Element, job: Job) -> str:
    """The work of a Beam worker: one shard, unless it is finished already.

    Args:
        element: The shard.
        job: What every worker needs to know; its places must be the same to all.

    Returns:
        The shard's name.

    Raises:
        UserFailureError: If something cannot be used; all else is a defect.
    """
    limit_threads()
    shard = element.shard
    with beam.told_by_workers():
        output = Output(job.output)
        if element.is_forced or not output.has(shard.name, shard.digest):
            content = output.read_work(INPUTS, element.start, element.stop)
            shard = dataclasses.replace(shard, paths=_paths(content, shard))
            build(job, shard, is_again=element.is_forced)
    return shard.name


def _paths(content: bytes, shard: Shard) -> tuple[str, ...]:
    """A shard's files, from its part of the file of inputs.

    Raises:
        OutputError: If they are others: a cluster may work on after its command was
            killed, and by then the file may be a later command's.
    """
    try:
        paths = tuple(json.loads(content))
        if names_digest(map(text, paths)) == shard.digest:
            return paths
    except (ValueError, TypeError, AttributeError):  # cut elsewhere
        pass
    raise OutputError(
        f"{shard.name}: its list of files is another run's by now; stop the earlier "
        "run's job, and run the command again"
    )


def run(
    job: Job,
    shards: Sequence[Shard],
    forced: Sequence[Shard],
    num_workers: int,
    on_shard: Callable[[Shard], None],
    beam_args: str = "",
) -> str:
    """Makes shards, and returns when they are finished.

    Args:
        job: What every worker needs to know.
        shards: Shards that are not there.
        forced: Shards that are made again.
        num_workers: Processes, where Beam works on this machine.
        on_shard: Called with each that has become there.
        beam_args: As `remote.beam.run`.

    Returns:
        How the pipeline ended, in Beam's word.

    Raises:
        BeamError: If the extra is missing, or the pipeline failed.
    """
    beam.import_beam()
    output = Output(job.output)
    elements, parts, stop = [], [], 0
    for is_forced, some in ((False, shards), (True, forced)):
        for shard in some:
            parts.append(json.dumps(shard.paths).encode())
            start, stop = stop, stop + len(parts[-1])
            bare = dataclasses.replace(shard, paths=())
            elements.append(Element(bare, start, stop, is_forced))
    output.put_work(INPUTS, b"".join(parts))
    waiting = {shard.name: shard for shard in shards}

    def look() -> float:
        seconds = beam.timed(lambda: names.update(output.names()))
        for name in waiting.keys() & names:
            on_shard(waiting.pop(name))
        return seconds if output.is_remote else 0.0

    names: set[str] = set()
    try:
        return beam.run(make, elements, job, num_workers, look, beam_args)
    finally:
        with contextlib.suppress(OSError):
            output.remove_work(INPUTS)
