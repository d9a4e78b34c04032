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

from cola_msa.collection.embed import describe_summary, embed_files, row_dim
from cola_msa.collection.file_flags import check_failures, define_file_flags
from cola_msa.collection.inputs import list_inputs
from cola_msa.collection.table.write import (
    SUFFIXES,
    check_output,
)
from cola_msa.hub.embedder import hop_to_frames
from cola_msa.hub.loading import default_model, open_model
from cola_msa.hub.opened import OpenedModel
from cola_msa.runs import directory
from cola_msa.system import console, signals
from cola_msa.system.errors import of_flags
from cola_msa.values.names import escape
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags."""
    define_path(
        "model",
        None,
        "A run, an export, a pretrained folder or a name; default the newest run in "
        "runs/, else starter, the package's own weights. A SavedModel can read and "
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
    define_file_flags()


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
    for line in describe_summary(summary, output, row_dim(model, options.per)):
        print(line)
    check_failures(summary, options.max_failures, output)


def _open(given: str | None, step: int | str | None) -> OpenedModel:
    if given is not None:
        return open_model(given, step)
    path, remark = default_model()
    print(remark)
    return open_model(path, step)


if __name__ == "__main__":
    console.start(main, define_flags)
