"""Labels music, by heads on an encoder's embeddings.

    python -m cola_msa.tag --task=fma --input=music --output=tags.csv
    python -m cola_msa.tag fit --embeddings=music.parquet --labels=labels.csv \
        --output=head
    python -m cola_msa.tag suggest --embeddings=music.parquet --output=to_label.csv

Heads are those that `python -m cola_msa.eval` keeps beside its results, that a
pretrained folder holds, or that `fit` makes of labels of your own (--head).
--embeddings instead of --input needs no audio. `suggest` names the clips whose labels
would help most.

Exit codes are those of `cola_msa.embed`; the same command goes on where it was.
"""

import os

# Before TensorFlow: its remarks about the processor are no news to a user.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from cola_msa.collection.file_flags import (
    SHARD_FLAGS,
    define_file_flags,
    define_shard_flags,
)
from cola_msa.system import console, signals
from cola_msa.system.errors import UsageError
from cola_msa.tagging.files import SUFFIXES
from cola_msa.tagging.run import run_fit, run_suggest, run_tag
from cola_msa.values.paths import define_path

_LABELLED = ("labels", "column")
# The actions' own flags: the others are of tagging alone.
ACTIONS = {
    "fit": ("embeddings", "output", "labels_from_folders", "baseline", *_LABELLED),
    "suggest": ("embeddings", "output", "head", "num", *_LABELLED),
    "": ("model", "task", "head", "input", "embeddings", "output", "top", "per", "plot")
    + ("hop_seconds", "checkpoint_step", "batch_size", "num_workers", "max_failures")
    + SHARD_FLAGS,
}


def define_flags() -> None:
    """Defines the command's flags."""
    define_path(
        "model",
        None,
        "A run, an export, a pretrained folder or a name; default as in embed. A "
        "SavedModel can read and write files: name only one that you trust.",
    )
    flags.DEFINE_string("task", None, "Which of the model's heads; default the one.")
    define_path("head", None, "A folder or file of heads, instead of the model's.")
    define_path("input", None, "Audio: as in embed.")
    define_path(
        "embeddings",
        None,
        "The encoder's embeddings, a file or a folder of Parquet files; no audio.",
    )
    define_path(
        "output",
        None,
        f"A file that ends in {', '.join(SUFFIXES)}, or a folder of Parquet files, or "
        "its address; fit: a folder; suggest: a .csv.",
        required=True,
    )
    flags.DEFINE_integer(
        "top", 0, "Labels a row; 0: tags above their thresholds, or the best class.", 0
    )
    define_path("plot", None, "Folder of pictures over time; with --per=window.")
    define_file_flags()
    define_shard_flags()
    flags.DEFINE_list(
        "labels", [], "fit, suggest: CSV or .parquet with a column `path`."
    )
    flags.DEFINE_string("column", None, "fit, suggest: which column holds the class.")
    flags.DEFINE_bool("labels_from_folders", False, "fit: a folder is a class.")
    flags.DEFINE_bool(
        "baseline", True, "fit: compare with log-mel statistics, of up to 500 clips."
    )
    flags.DEFINE_integer("num", 10, "suggest: how many clips.", lower_bound=1)


def main(options: flags.FlagValues, action: str = "") -> None:
    """Runs the command."""
    signals.install()
    if action not in ACTIONS:
        raise UsageError(f"say fit, suggest, or nothing before the flags, not {action}")
    known = {name for names in ACTIONS.values() for name in names}
    for name in sorted(known - set(ACTIONS[action])):
        if options[name].present:
            raise UsageError(f"--{name} is no flag of tag {action}".rstrip())
    {"fit": run_fit, "suggest": run_suggest, "": run_tag}[action](options)


if __name__ == "__main__":
    console.start(main, define_flags, most_arguments=1)
