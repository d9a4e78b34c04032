"""Embeds audio files.

    python -m cola_msa.embed --input=music --output=songs.parquet

Exit codes: 0 done (failures are listed), 1 nothing could be embedded, more than
--max_failures of the files failed, or the run could not end, 2 wrong usage, 130
interrupted. The same command goes on after an interruption.
"""

import os
import pathlib

# Before TensorFlow: its remarks about the processor are no news to a user.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from cola_msa.collection.embed import GRANULARITIES, describe_summary, embed_files
from cola_msa.collection.inputs import InputError, list_inputs
from cola_msa.collection.table.write import (
    SUFFIXES,
    check_output,
)
from cola_msa.hub.embedder import BATCH_SIZE, hop_to_frames
from cola_msa.hub.loading import default_model, open_model
from cola_msa.hub.opened import OpenedModel
from cola_msa.runs import directory
from cola_msa.system import console, signals
from cola_msa.system.errors import of_flags
from cola_msa.values.names import escape
from cola_msa.values.numbers import define_float
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags."""
    define_path(
        "model",
        None,
        "A run, an export, a pretrained folder or a name; default the newest run in "
        "runs/, else starter, where the package has it. A SavedModel can read and "
        "write files: name only one that you trust.",
    )
    define_path(
        "input",
        None,
        "An audio file, a folder of them, or a list (.txt, .m3u, .pls, .csv).",
        required=True,
    )
    define_path(
        "output", None, f"A file that ends in {', '.join(SUFFIXES)}.", required=True
    )
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


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    signals.install()
    output = pathlib.Path(options.output)
    step = directory.parse_step(options.checkpoint_step)
    check_output(output)
    inputs = list_inputs(options.input)
    model = _open(options.model, step)
    with of_flags():
        hop_to_frames(options.hop_seconds, model.frontend)
    for remark in inputs.remarks:
        print(escape(remark))
    print(f"{len(inputs.paths)} files; {model.description}", flush=True)
    summary = embed_files(
        inputs.paths,
        output,
        model,
        per=options.per,
        hop_seconds=options.hop_seconds,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        failures=inputs.failures,
    )
    for line in describe_summary(summary, output, model.dim):
        print(line)
    num_failed = len(summary.failures)
    if not summary.num_rows:
        raise InputError(f"none of {summary.num_files} files could be embedded")
    if num_failed > options.max_failures * summary.num_files:
        raise InputError(
            f"{num_failed} of {summary.num_files} files failed, more than "
            f"--max_failures={options.max_failures:g}; all others are in {output}"
        )


def _open(given: str | None, step: int | str | None) -> OpenedModel:
    if given is not None:
        return open_model(given, step)
    path, remark = default_model()
    print(remark)
    return open_model(path, step)


if __name__ == "__main__":
    console.start(main, define_flags)
