"""Embeds audio files.

    python -m cola_msa.embed --input=music --output=songs.parquet

Exit codes: 0 done (failures are listed), 1 nothing could be embedded, more than
--max_failures of the files failed, or the run could not end, 2 wrong usage, 130
interrupted. The same command goes on after an interruption.
"""

import os
import pathlib
import sys
from typing import NoReturn

# Before TensorFlow: its remarks about the processor are no news to a user.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from cola_msa.collection.embed import GRANULARITIES, describe_summary, embed_files
from cola_msa.collection.inputs import InputError, list_inputs
from cola_msa.collection.table.store import StoreError
from cola_msa.collection.table.write import (
    SUFFIXES,
    OutputError,
    check_output,
)
from cola_msa.hub.embedder import BATCH_SIZE, hop_to_frames
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import OpenedModel
from cola_msa.runs import directory
from cola_msa.system import signals
from cola_msa.system.console import run_command
from cola_msa.system.errors import RunError
from cola_msa.values.names import escape
from cola_msa.values.numbers import define_float
from cola_msa.values.paths import define_path

_FAILED, _USAGE = 1, 2


def _define_flags() -> None:
    flags.DEFINE_string(
        "model",
        None,
        "A run, an export or a pretrained folder; default the newest run in runs/. A "
        "SavedModel can read and write files: name only one that you trust.",
    )
    define_path(
        "input",
        None,
        "An audio file, a folder of them, or a list (.txt, .m3u, .pls, .csv).",
        required=True,
    )
    flags.DEFINE_string(
        "output", None, f"A file that ends in {', '.join(SUFFIXES)}.", required=True
    )
    flags.DEFINE_enum(
        "per", "clip", GRANULARITIES, "One row a clip (mean over windows), or a window."
    )
    define_float(
        "hop_seconds",
        None,
        "From one window to the next; default: windows touch (0.98).",
        lower_bound=0.0,
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


def main(argv: list[str]) -> None:
    """Runs the command."""
    values = flags.FLAGS
    if len(argv) > 1:
        _stop(f"unknown argument {argv[1]!r}; flags begin with --", _USAGE)
    signals.install()
    output = pathlib.Path(values.output)
    try:
        check_output(output)
        inputs = list_inputs(values.input)
        model = _open(values.model, values.checkpoint_step)
        hop_to_frames(values.hop_seconds, model.frontend)
    except (OutputError, InputError, RunError, ValueError) as error:
        _stop(str(error), _USAGE)
    for remark in inputs.remarks:
        print(escape(remark))
    print(f"{len(inputs.paths)} files; {model.description}", flush=True)
    try:
        summary = embed_files(
            inputs.paths,
            output,
            model,
            per=values.per,
            hop_seconds=values.hop_seconds,
            batch_size=values.batch_size,
            num_workers=values.num_workers,
            failures=inputs.failures,
        )
    except (OutputError, StoreError) as error:
        _stop(str(error), _FAILED)
    for line in describe_summary(summary, output, model.dim):
        print(line)
    num_failed = len(summary.failures)
    if not summary.num_rows:
        _stop(f"none of {summary.num_files} files could be embedded", _FAILED)
    if num_failed > values.max_failures * summary.num_files:
        _stop(
            f"{num_failed} of {summary.num_files} files failed, more than "
            f"--max_failures={values.max_failures:g}; all others are in {output}",
            _FAILED,
        )


def _open(given: str | None, step: str | None) -> OpenedModel:
    path = given
    if path is None:
        newest = directory.newest_run()
        if newest is None:
            raise RunError(
                "there is no run under runs/: train one by python -m cola_msa.train, "
                "or name a run, an export or a pretrained folder by --model"
            )
        print(f"no --model: the newest run, {newest}")
        path = str(newest)
    return open_model(path, directory.parse_step(step))


def _stop(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main))
