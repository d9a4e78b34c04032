"""Makes a dataset of many files, or what is left of it."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cola_msa.collection.embed import LISTED, Summary, describe_work, speed, text
from cola_msa.collection.inputs import Inputs
from cola_msa.collection.shards.build import Job, build, opened
from cola_msa.collection.shards.output import INPUT_FAILURES, Output
from cola_msa.collection.shards.plan import (
    Found,
    Plan,
    Shard,
    default_size,
    make_plan,
    names_digest,
    parse_name,
)
from cola_msa.collection.table.write import OutputError
from cola_msa.remote import addresses
from cola_msa.system.console import progress_bar, tell

Log = Callable[[str], None]
# (job, shards, shards to be made again, on_shard) -> how it ended: see `beam.run`.
Engine = Callable[[Job, Sequence[Shard], Sequence[Shard], Callable], str]


@dataclasses.dataclass(frozen=True)
class DatasetSummary(Summary):
    """What a run did; seconds of audio are known of what this process made alone.

    Attributes:
        num_shards: Shards of the dataset.
        num_made: Of these, made now.
    """

    num_shards: int = 0
    num_made: int = 0


def make_dataset(
    job: Job,
    inputs: Inputs,
    size: int = 0,
    retries: bool = False,
    is_quiet: bool = False,
    engine: Engine | None = None,
    log: Log = tell,
) -> DatasetSummary:
    """Makes a dataset, or what is left of it; goes on where an earlier call was.

    Files are cut into shards of `size` in their order, and each shard is there whole
    or not at all. One that is there is not made again. With more files than before,
    shards are added behind those that are there.

    Args:
        job: What to make, and where.
        inputs: The files.
        size: Files of a shard; 0 for about eight shards, of 8 to 1,000 files.
        retries: Whether shards in which files failed are made again.
        is_quiet: Whether there is no progress bar.
        engine: Makes the shards in place of this process.
        log: Takes one line.

    Returns:
        DatasetSummary; its failures are those of the whole dataset.

    Raises:
        OutputError: If the output cannot be written, or holds something else.
        UserError, OSError: As `embed_files`; finished shards are kept.
    """
    output = Output(job.output)
    output.check()
    model = opened(job)
    job = dataclasses.replace(job, key=job.key_of(model), root=inputs.root)
    begin = time.monotonic()
    with output.locked():
        found = _check_settings(output, job.settings(model))
        size = size or default_size(len(inputs.paths), job.per)
        plan = make_plan(inputs.paths, text, size, found, output.files_of, output.shown)
        forced, remarks = _to_retry(output, plan, inputs.paths) if retries else ([], [])
        for line in (*_describe_plan(output, plan, len(inputs.paths)), *remarks):
            log(line)
        output.remove(plan.doubles)
        output.rename(plan.renamed)
        num_earlier = _count_earlier(output, plan, forced)
        work = _Work(job, plan, forced, is_quiet)
        ended = work.run(engine)
        with output.scratch("inputs") as folder:
            failures = {text(path): why for path, why in inputs.failures.items()}
            output.put_failures(folder, INPUT_FAILURES, failures)
        there = {shard.name: shard for shard, _ in output.find()}
        _check_whole(output, plan, there, ended)
        output.forget_failures(there.keys())
        return DatasetSummary(
            num_files=len(inputs.paths) + len(inputs.failures),
            num_embedded=work.num_embedded,
            num_earlier=num_earlier + work.num_earlier,
            failures=output.failures(sorted(there)),
            num_rows=sum(shard.num_rows for shard in there.values()),
            audio_seconds=work.audio_seconds,
            wall_seconds=time.monotonic() - begin,
            num_shards=plan.total,
            num_made=len(plan.shards) + len(forced),
        )


def _check_settings(output: Output, settings: dict[str, Any]) -> list[Found]:
    """The shards that are there; refuses those that were made with other settings."""
    shards = []
    for found, content in output.find():
        names = [name for name in settings if content.get(name) != settings[name]]
        if names:
            raise OutputError(
                f"{output.shown}/{found.name} was made with another "
                f"{', '.join(names)}; name another --output, or delete that one"
            )
        shards.append(found)
    return shards


def _describe_plan(output: Output, plan: Plan, num_files: int) -> Iterator[str]:
    yield (
        f"{output.shown}: {num_files:,} files, {plan.total:,} shards, "
        f"{len(plan.kept):,} finished"
    )
    if plan.renamed:
        yield f"{len(plan.renamed):,} shards are renamed, as of {plan.total:,} now"
    if plan.gone:
        yield (
            f"{len(plan.gone):,} files of {output.shown} are not named by --input any "
            "more; their rows stay"
        )


def _to_retry(
    output: Output, plan: Plan, paths: Sequence[str]
) -> tuple[list[Shard], list[str]]:
    """Finished shards with failures, and remarks on those that cannot be made again."""
    names = {new: old for old, new in plan.renamed.items()}
    failed = output.failed_names()
    found, remarks = [], []
    place: dict[str, int] = {}
    for name, shard in plan.kept.items():
        if names.get(name, name) not in failed:
            continue
        place = place or {text(path): number for number, path in enumerate(paths)}
        # In the list's order, as they were cut from it.
        known = [place[file] for file in output.files_of(shard) if file in place]
        files = tuple(paths[number] for number in sorted(known))
        if names_digest(map(text, files)) != shard.digest:
            remarks.append(
                f"{output.shown}/{name} is not made again: --input does not name all "
                "of its files, or in another order"
            )
            continue
        number, total = parse_name(name) or (0, 0)
        found.append(Shard(number, total, files, shard.digest, shard.begin))
    return found, remarks


def _count_earlier(output: Output, plan: Plan, forced: Sequence[Shard]) -> int:
    """Files of the list that finished shards have rows of, where they stay."""
    again = {shard.name for shard in forced}
    stay = {name: found for name, found in plan.kept.items() if name not in again}
    without: set[str] = set(plan.gone)
    for name in output.failed_names() & stay.keys():
        without |= output.failures_of(name).keys()
    return sum(found.num_files for found in stay.values()) - len(without)


class _Work:
    """The shards that are left, made in this process or by an engine."""

    def __init__(self, job: Job, plan: Plan, forced: Sequence[Shard], is_quiet: bool):
        self._job = job
        self._plan = plan
        self._forced = forced
        self._is_quiet = is_quiet
        again = sum(len(shard.paths) for shard in forced)
        self._kept = sum(s.num_files for s in plan.kept.values()) - again
        self._total = self._kept + again
        self._total += sum(len(shard.paths) for shard in plan.shards)
        self.num_embedded = self.num_earlier = 0
        self.audio_seconds = 0.0

    def run(self, engine: Engine | None) -> str:
        """Makes all shards; returns how it ended, in the engine's word."""
        if not self._plan.shards and not self._forced:
            return "DONE"
        with progress_bar(
            self._total, "embedding", "file", not self._is_quiet
        ) as self._bar:
            self._bar.update(self._kept)
            if engine is not None:
                return engine(
                    self._job,
                    self._plan.shards,
                    self._forced,
                    lambda shard: self._bar.update(len(shard.paths)),
                )
            self._begin = time.monotonic()
            todo = [(shard, False) for shard in self._plan.shards]
            for shard, is_again in (*todo, *((shard, True) for shard in self._forced)):
                summary = build(self._job, shard, self._on_file, is_again)
                self.num_embedded += summary.num_embedded
                self.num_earlier += summary.num_earlier
                self.audio_seconds += summary.audio_seconds
        return "DONE"

    def _on_file(self, shard_seconds: float) -> None:
        audio, wall = self.audio_seconds + shard_seconds, time.monotonic() - self._begin
        self._bar.set_postfix_str(speed(audio, wall), refresh=False)
        self._bar.update()


def _check_whole(
    output: Output, plan: Plan, there: dict[str, Found], ended: str
) -> None:
    """Refuses an end at which a shard is missing, or there is one of no plan."""
    missing = [
        shard.name
        for shard in plan.shards
        if shard.name not in there or there[shard.name].digest != shard.digest
    ]
    if missing:
        raise OutputError(
            f"the work ended as {ended}, but {len(missing):,} shards are not in "
            f"{output.shown}, first {missing[0]}: do its workers see the same folders?"
        )
    foreign = there.keys() - plan.kept.keys() - {shard.name for shard in plan.shards}
    if foreign:
        raise OutputError(
            f"{output.shown}/{min(foreign)} came from another run while this one "
            "worked, perhaps a job of a killed command: once nothing else writes "
            "there the same command goes on"
        )


def describe_dataset(summary: DatasetSummary, output: str) -> Iterator[str]:
    """What became of the files, as lines for a terminal.

    Args:
        summary: From `make_dataset`.
        output: The dataset.
    """
    places = Output(output)
    if summary.audio_seconds:
        yield describe_work(summary)
    elif summary.num_made:
        yield f"made {summary.num_made:,} shards in {summary.wall_seconds:.1f} s"
    if summary.num_earlier:
        yield f"skipped {summary.num_earlier:,} files that were done before"
    for path, reason in list(summary.failures.items())[:LISTED]:
        yield f"failed: {path}: {reason}"
    if summary.failures:
        yield (
            f"{len(summary.failures):,} files failed; {places.failures_shown()} names "
            "each; --retry_failures tries them again"
        )
    if summary.num_rows:
        yield (
            f"{places.shown}: {summary.num_rows:,} rows in {summary.num_shards:,} "
            "shards"
        )


def absolute(path: str, is_there: bool = True) -> str:
    """A local path as it holds in other processes; an address or a name as it is.

    Args:
        path: The path, address or name.
        is_there: Whether only a path that is there is one, and no name.
    """
    local = addresses.local_path(path)
    is_name = is_there and not os.path.exists(local)
    return path if is_name or addresses.is_address(local) else os.path.abspath(local)
