"""Flags of the commands that go through many audio files, and how these end."""

from absl import flags

from cola_msa.collection.embed import GRANULARITIES, Summary
from cola_msa.collection.inputs import InputError
from cola_msa.hub.embedder import BATCH_SIZE
from cola_msa.values.numbers import define_float

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
        "From one window to the next; default: windows touch (0.98).",
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
        "num_workers", 0, "Threads that decode; 0 for one a core.", lower_bound=0
    )
    define_float(
        "max_failures",
        1.0,
        "Share of files that may fail before the command ends with an error.",
        lower_bound=0.0,
        upper_bound=1.0,
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
