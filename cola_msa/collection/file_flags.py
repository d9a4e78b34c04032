"""Flags of the commands that go through many audio files, and how these end."""

import dataclasses
import os
from typing import Any, TypeVar

from absl import flags

from cola_msa.collection.embed import GRANULARITIES, Summary
from cola_msa.collection.inputs import InputError
from cola_msa.collection.shards import beam
from cola_msa.collection.shards.build import Job
from cola_msa.collection.shards.run import Engine, absolute
from cola_msa.hub.embedder import BATCH_SIZE
from cola_msa.remote import engines
from cola_msa.system.errors import UsageError
from cola_msa.values.numbers import define_float

_Job = TypeVar("_Job", bound=Job)
SHARD_FLAGS = ("files_per_shard", "retry_failures", "runner", "beam_args")

# A flag belongs to the command that asks for it, whose --help shows it.
flags.disclaim_key_flags()


def define_file_flags() -> None:
    """Defines what decides windows, threads and the failures that are borne."""
    flags.DEFINE_enum(
        "per", "clip", GRANULARITIES, "One row a clip (mean over windows), or a window."
    )
    define_float(
        "hop_seconds",
        None,
        "From one window to the next; default: windows touch (0.98; of waveforms "
        "2.68).",
        lower_bound=1e-6,
        upper_bound=86400.0,
    )
    flags.DEFINE_string(
        "checkpoint_step", None, "A run's kept step, or best; default its last."
    )
    flags.DEFINE_integer(
        "batch_size", BATCH_SIZE, "Windows in one forward pass.", lower_bound=1
    )
    flags.DEFINE_integer(
        "num_workers",
        0,
        "Threads that decode, or processes of --runner=beam; 0 for one a core.",
        lower_bound=0,
    )
    define_float(
        "max_failures",
        1.0,
        "Share of files that may fail before the command ends with an error.",
        lower_bound=0.0,
        upper_bound=1.0,
    )


def define_shard_flags() -> None:
    """Defines how a folder of shards is made."""
    flags.DEFINE_integer(
        "files_per_shard",
        0,
        "Of an output folder: files of a shard; 0: about eight shards, of 8 to 1,000 "
        "files (100 with --per=window).",
        lower_bound=0,
    )
    flags.DEFINE_bool(
        "retry_failures", False, "Makes shards in which files failed again."
    )
    flags.DEFINE_enum(
        "runner", "local", ["local", "beam"], "What makes an output folder's shards."
    )
    flags.DEFINE_string(
        "beam_args",
        "",
        "Apache Beam's own flags in one string, e.g. '--runner=FlinkRunner ...'; "
        "without --runner among them it works on this machine, in --num_workers "
        "processes.",
    )


def engine_of(options: flags.FlagValues, is_dataset: bool) -> Engine | None:
    """What makes the shards; None for this process.

    Args:
        options: Parsed flags.
        is_dataset: Whether the output is a folder of shards.

    Raises:
        UsageError: If a flag of folders is given for a file, or one of Beam without it,
            or Beam's are wrong.
        BeamError: If an extra is missing.
    """
    if not is_dataset:
        for name in SHARD_FLAGS:
            if options[name].present:
                raise UsageError(
                    f"--{name} is of a folder of shards: name one by --output, without "
                    "a suffix"
                )
    if options.runner == "local":
        if options.beam_args:
            raise UsageError("--beam_args is for --runner=beam")
        return None
    engines.Engine(options.beam_args)  # wrong flags are told before anything is done
    num_workers = options.num_workers or len(os.sched_getaffinity(0))

    def engine(job: Job, *parts: Any) -> str:
        job = dataclasses.replace(job, num_workers=1)  # parallel work is by processes
        shards, forced, on_shard = parts
        return beam.run(job, shards, forced, num_workers, on_shard, options.beam_args)

    return engine


def job_of(options: flags.FlagValues, kind: type[_Job], **fields: Any) -> _Job:
    """The job that the flags ask for.

    Args:
        options: Parsed flags.
        kind: Its class.
        **fields: What the flags do not say.
    """
    return kind(
        output=absolute(options.output, is_there=False),
        per=options.per,
        hop_seconds=options.hop_seconds,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        **fields,
    )


def check_failures(summary: Summary, most: float, output: object) -> None:
    """Ends a command of whose files too many failed.

    Args:
        summary: What became of them.
        most: Share that may fail.
        output: Where the others are.

    Raises:
        InputError: If so, or if there is none at all.
    """
    num_failed = len(summary.failures)
    if not summary.num_rows:
        raise InputError(f"none of {summary.num_files} files could be embedded")
    if num_failed > most * summary.num_files:
        raise InputError(
            f"{num_failed} of {summary.num_files} files failed, more than "
            f"--max_failures={most:g}; all others are in {output}"
        )
