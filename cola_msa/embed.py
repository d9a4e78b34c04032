"""Embeds audio files.

    python -m cola_msa.embed --input=music --output=songs.parquet
    python -m cola_msa.embed --input=gs://bucket/music --output=gs://bucket/songs \
        --runner=beam

An --output without a suffix is a folder of Parquet files, one table for whatever reads
Parquet: for more songs than one file should hold, or one machine embed.

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
from cola_msa.collection.file_flags import (
    check_failures,
    define_file_flags,
    define_shard_flags,
    engine_of,
    job_of,
)
from cola_msa.collection.inputs import list_inputs
from cola_msa.collection.shards.build import Job, opened
from cola_msa.collection.shards.output import Output, is_dataset
from cola_msa.collection.shards.run import absolute, describe_dataset, make_dataset
from cola_msa.collection.table.write import (
    SUFFIXES,
    check_output,
)
from cola_msa.hub.embedder import hop_to_frames
from cola_msa.hub.loading import default_model, open_model
from cola_msa.runs import directory
from cola_msa.system import console, signals
from cola_msa.system.errors import of_flags
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
        "An audio file, a folder of them, a pattern, or a list (.txt, .m3u, .pls, "
        ".csv); or the address of one (gs://, s3:// and so on).",
        required=True,
    )
    define_path(
        "output",
        None,
        f"A file that ends in {', '.join(SUFFIXES)}; or a folder, or its address.",
        required=True,
    )
    define_file_flags()
    define_shard_flags()


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    signals.install()
    step = directory.parse_step(options.checkpoint_step)
    is_folder = is_dataset(options.output)
    engine = engine_of(options, is_folder)
    if is_folder:
        Output(options.output).check()
    else:
        check_output(pathlib.Path(options.output))
    inputs = list_inputs(options.input)
    name = options.model or _default()
    job = job_of(options, Job, model=absolute(name), checkpoint_step=step)
    model = opened(job) if is_folder else open_model(name, step)
    with of_flags():
        hop_to_frames(options.hop_seconds, model.frontend)
    console.tell(*inputs.remarks, f"{len(inputs.paths)} files; {model.description}")
    if is_folder:
        made = make_dataset(
            job, inputs, options.files_per_shard, options.retry_failures, engine=engine
        )
        console.tell(*describe_dataset(made, job.output))
        check_failures(made, options.max_failures, options.output)
        return
    output = pathlib.Path(options.output)
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
    console.tell(*describe_summary(summary, output, row_dim(model, options.per)))
    check_failures(summary, options.max_failures, output)


def _default() -> str:
    name, remark = default_model()
    console.tell(remark)
    return name


if __name__ == "__main__":
    console.start(main, define_flags)
