"""Makes a run of weights that come without one.

    python -m cola_msa.import_weights --pretrained=starter --output_dir=runs/starter
    python -m cola_msa.import_weights --checkpoint=models/multi-source/checkpoint-10 ...

Of a pretrained folder, or of the authors' released weights with the authors' own
settings. The run directory holds encoder, projection head and similarity, so that eval,
retrieve, export and fine-tuning work with it as with any run.
"""

from absl import flags

from cola_msa.config.schema import SOURCES
from cola_msa.hub import loading, pretrained, released
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values.paths import define_path

# What a pretrained folder says of itself.
_OF_CHECKPOINTS = ("source", "step", "dataset")


def define_flags() -> None:
    """Defines the command's flags."""
    define_path(
        "checkpoint",
        None,
        "Prefix of a TensorFlow checkpoint in the authors' layout, or its folder.",
    )
    define_path("pretrained", None, "A pretrained folder, its address or its name.")
    define_path("output_dir", None, "The run directory.", required=True)
    flags.DEFINE_enum(
        "source", "multi", ["multi", *SOURCES], "What it was trained with."
    )
    flags.DEFINE_integer(
        "step",
        None,
        "Its step; default: the number in its name, in thousands.",
        lower_bound=1,
    )
    flags.DEFINE_string("dataset", "mtat", "What it was trained on.")


def main(options: flags.FlagValues) -> None:
    """Runs the command.

    Raises:
        UsageError: If flags are missing, or contradict one another.
        RunError: If the weights do not fit.
    """
    if (options.checkpoint is None) == (options.pretrained is None):
        raise UsageError("name either a --checkpoint or a --pretrained folder")
    if options.pretrained is not None:
        strange = [name for name in _OF_CHECKPOINTS if options[name].present]
        if strange:
            raise UsageError(
                f"--{strange[0]} is for --checkpoint: a pretrained folder has its own"
            )
        folder = loading.find_pretrained(options.pretrained)
        found = pretrained.make_run(folder, options.output_dir)
    else:
        found = released.import_weights(
            options.checkpoint,
            options.output_dir,
            options.source,
            options.step,
            options.dataset,
        )
    console.tell(
        f"assigned {found['tensors']} of {found['tensors']} tensors; the run "
        f"{found['run_dir']} has step {found['step']}, key {found['encoder_key']}"
    )
    if found.get("heads"):
        heads = ", ".join(found["heads"])
        console.tell(f"with heads, for python -m cola_msa.tag: {heads}")


if __name__ == "__main__":
    console.start(main, define_flags)
