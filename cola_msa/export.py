"""Exports an encoder: python -m cola_msa.export --run_dir=... --output_dir=...

`--format=saved_model` needs TensorFlow alone to be used, takes waveforms, and scores
mixtures against stems; its signatures stand in `cola_msa.hub.saved_model` and in
metadata.json. `tflite` and `onnx` take log-mel windows, which
`cola_msa.audio.frontend_numpy` makes without TensorFlow. `pretrained` is a folder to
hand on, with a model card, which this package opens.
"""

import json

from absl import app, flags

from cola_msa.hub.export import FORMATS, export_encoder
from cola_msa.runs import directory
from cola_msa.system.console import run_command
from cola_msa.values.paths import define_path


def _define_flags() -> None:
    flags.DEFINE_string(
        "run_dir", None, "A run or a pretrained folder; default the newest in runs/."
    )
    define_path("output_dir", None, "Folder of the export.", required=True)
    flags.DEFINE_string("format", "saved_model", f"One of {', '.join(FORMATS)}.")
    flags.DEFINE_string(
        "licence", "not stated", "Licence of the weights, for a pretrained folder."
    )
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    run_dir = directory.choose_run(flags.FLAGS.run_dir)
    metadata = export_encoder(
        run_dir,
        flags.FLAGS.output_dir,
        directory.parse_step(flags.FLAGS.checkpoint_step),
        flags.FLAGS.format,
        flags.FLAGS.licence,
    )
    print(
        f"exported step {metadata['step']} of {run_dir} to {flags.FLAGS.output_dir}; "
        f"reloaded in a fresh process: relative difference "
        f"{metadata['relative_difference']:.1e}"
    )
    content = {k: list(metadata[k]) for k in ("signatures", "inputs") if k in metadata}
    print(json.dumps(content))


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main))
