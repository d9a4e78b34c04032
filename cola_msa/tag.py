"""Labels music.

    python -m cola_msa.tag --task=fma --input=music --output=tags.csv

By the heads that `python -m cola_msa.eval` keeps beside its results, that a
pretrained folder holds, or that `tag fit` makes of labels of your own (--head).
--embeddings instead of --input needs no audio.

Exit codes are those of `cola_msa.embed`; the same command goes on where it was.
"""

import os
import pathlib

# Before TensorFlow: its remarks about the processor are no news to a user.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from cola_msa.collection.embed import describe_summary
from cola_msa.collection.file_flags import check_failures, define_file_flags
from cola_msa.collection.inputs import list_inputs
from cola_msa.hub.embedder import hop_to_frames
from cola_msa.hub.loading import default_model, open_model
from cola_msa.runs import directory
from cola_msa.system import console, signals
from cola_msa.system.errors import UsageError, of_flags
from cola_msa.tagging.files import (
    SUFFIXES,
    check_tags_output,
    describe_labels,
    scores_path,
    tag_embeddings,
    tag_files,
    write_labels,
)
from cola_msa.tagging.tagger import find_heads, open_heads, open_tagging_model
from cola_msa.values.names import escape
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags."""
    define_path(
        "model",
        None,
        "A run, an export, a pretrained folder or a name; default as in embed.",
    )
    flags.DEFINE_string("task", None, "Which of the model's heads; default the one.")
    define_path("head", None, "A folder or file of heads instead of the model's own.")
    define_path("input", None, "An audio file, a folder of them, or a list.")
    define_path("embeddings", None, "A table of the encoder's embeddings, no audio.")
    define_path(
        "output", None, f"A file that ends in {', '.join(SUFFIXES)}.", required=True
    )
    flags.DEFINE_integer(
        "top", 0, "Labels a row; 0: tags above their thresholds, or the best class.", 0
    )
    define_file_flags()


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    signals.install()
    if (options.input is None) == (options.embeddings is None):
        raise UsageError("name either --input (audio) or --embeddings (a table)")
    output = pathlib.Path(options.output)
    check_tags_output(output)
    if options.embeddings is not None:
        _tag_table(options, output)
        return
    inputs = list_inputs(options.input)
    step = directory.parse_step(options.checkpoint_step)
    model = open_tagging_model(_model(options), options.task, options.head, step)
    with of_flags():
        hop_to_frames(options.hop_seconds, model.frontend)
    for remark in inputs.remarks:
        print(escape(remark))
    print(f"{len(inputs.paths)} files; {model.description}", flush=True)
    summary, found = tag_files(
        inputs.paths,
        output,
        model,
        options.per,
        top=options.top,
        hop_seconds=options.hop_seconds,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        failures=inputs.failures,
    )
    for line in describe_summary(summary, scores_path(output, options.per), model.dim):
        print(line)
    if found is None:
        check_failures(summary, options.max_failures, output)
        return
    for line in describe_labels(found):
        print(line)
    print(f"{output}: {len(found.table.paths)} rows")
    check_failures(summary, options.max_failures, output)


def _model(options: flags.FlagValues) -> str | None:
    if options.model is not None:
        return options.model
    if options.head is not None and open_heads(options.head)[1].details.get("tuned"):
        return None
    path, remark = default_model()
    print(remark)
    return path


def _tag_table(options: flags.FlagValues, output: pathlib.Path) -> None:
    """Labels a table of embeddings."""
    if options.head is not None:
        _, heads = open_heads(options.head)
    else:
        step = directory.parse_step(options.checkpoint_step)
        model = open_model(_model(options) or "", step)
        _, heads = find_heads(model.path, model.key, options.task)
    found = tag_embeddings(options.embeddings, heads, options.per)
    write_labels(output, found, options.top)
    for line in describe_labels(found):
        print(line)
    print(f"{output}: {len(found.table.paths)} rows")


if __name__ == "__main__":
    console.start(main, define_flags)
