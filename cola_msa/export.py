"""Exports an encoder: python -m cola_msa.export --run_dir=... --output_dir=...

`--format=saved_model` needs TensorFlow alone to be used, takes waveforms, and scores
mixtures against stems; its signatures stand in metadata.json. `tflite` and `onnx` take
log-mel windows, which `cola_msa.audio.frontend_numpy` makes without TensorFlow.
`pretrained` is a folder to hand on, with a model card and the run's heads, which this
package opens. With --head the others give probabilities, too.
"""

import json

from absl import flags

from cola_msa.hub.export import FORMATS, describe_heads, export_encoder
from cola_msa.hub.pretrained import WEIGHT_TYPES
from cola_msa.runs import directory
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags."""
    define_path(
        "run_dir",
        None,
        "A run, or a pretrained folder or its address; default the newest in runs/.",
    )
    define_path("output_dir", None, "Folder of the export.", required=True)
    flags.DEFINE_enum("format", "saved_model", FORMATS, "What to write.")
    flags.DEFINE_string(
        "licence", "not stated", "Licence of the weights, for a pretrained folder."
    )
    flags.DEFINE_enum(
        "weights",
        "float32",
        WEIGHT_TYPES,
        "How a pretrained folder stores them; float16: in half the space, rounded.",
    )
    define_path(
        "head",
        None,
        "Heads to give probabilities by: a task's name, or a file or folder of heads. "
        "A pretrained folder holds all of the run's, or these, or none.",
    )
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    step = directory.parse_step(options.checkpoint_step)
    for name in ("licence", "weights"):
        if options[name].present and options.format != "pretrained":
            raise UsageError(
                f"--{name} is for --format=pretrained, not for {options.format}"
            )
    # Not as a path, which an address is not.
    run_dir = options.run_dir or directory.choose_run(None)
    metadata = export_encoder(
        run_dir,
        options.output_dir,
        step,
        options.format,
        options.licence,
        options.weights,
        options.head,
    )
    console.tell(
        f"exported step {metadata['step']} of {run_dir} to "
        f"{options.output_dir}; "
        f"reloaded in a fresh process: relative difference "
        f"{metadata['relative_difference']:.1e}"
    )
    console.tell(*describe_heads(metadata))
    content = {k: list(metadata[k]) for k in ("signatures", "inputs") if k in metadata}
    print(json.dumps(content))


if __name__ == "__main__":
    console.start(main, define_flags)
