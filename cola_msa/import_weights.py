"""Makes a run of the authors' released weights.

    python -m cola_msa.import_weights --checkpoint=models/multi-source/checkpoint-10 ...

The run directory holds encoder, projection head and similarity with the authors' own
settings, so that eval, export, embed and fine-tuning work with it as with any run.
"""

from absl import flags

from cola_msa.config.schema import SOURCES
from cola_msa.hub.released import (
    import_weights,
)
from cola_msa.system import console
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags."""
    define_path(
        "checkpoint",
        None,
        "Prefix of a TensorFlow checkpoint in the authors' layout, or its folder.",
        required=True,
    )
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
    """Runs the command."""
    found = import_weights(
        options.checkpoint,
        options.output_dir,
        options.source,
        options.step,
        options.dataset,
    )
    print(
        f"assigned {found['tensors']} of {found['tensors']} tensors; the run "
        f"{found['run_dir']} has step {found['step']}, key {found['encoder_key']}"
    )


if __name__ == "__main__":
    console.start(main, define_flags)
