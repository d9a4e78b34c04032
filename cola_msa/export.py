"""Exports an encoder: python -m cola_msa.export --run_dir=... --output_dir=...

`saved_model` needs TensorFlow alone to be used, takes waveforms, and scores mixtures
against stems; its signatures stand in `cola_msa.saved_model` and in metadata.json.
"""

import json
import os
import pathlib
import shutil
from typing import Any

from absl import app, flags

from cola_msa import checkpoints, pretrained
from cola_msa.config import to_dict
from cola_msa.console import run_command
from cola_msa.export_check import (
    TOLERANCE,
    ExportError,
    check_waveforms,
    reference_mel,
    reference_windows,
    relative_difference,
)
from cola_msa.loading import OpenedModel, open_model
from cola_msa.saved_model import SIGNATURES, ExportModule, run_exported
from cola_msa.storage import RunError


def export_encoder(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None = None,
) -> dict[str, Any]:
    """Writes a SavedModel and `metadata.json`, and checks both in a fresh process.

    Args:
        run_dir: A run or a pretrained folder.
        output_dir: Folder of the SavedModel; replaced only once the new one stands.
        step: Of a run: a kept step, `best`, or None for the last.

    Returns:
        The metadata, with the largest relative difference that was found.

    Raises:
        RunError: If the run has no such checkpoint.
        ExportError: If the reloaded export differs from the encoder.
    """
    model = open_model(run_dir, step)
    if model.kind == "export":
        raise RunError(f"{run_dir} is an export already: name the run it was made of")
    output_dir = pathlib.Path(output_dir)
    temporary = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    ExportModule(model).save(temporary)
    metadata = {
        **describe(model),
        "signatures": SIGNATURES,
        "relative_difference": check_export(temporary, model),
        "files": {
            path.relative_to(temporary).as_posix(): pretrained.file_hash(path)
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        },
    }
    checkpoints.write_json(temporary / "metadata.json", metadata)
    shutil.rmtree(output_dir, ignore_errors=True)
    os.replace(temporary, output_dir)
    return metadata


def describe(model: OpenedModel) -> dict[str, Any]:
    """What metadata.json says of an encoder, whatever its format."""
    frontend = model.frontend
    return {
        "sample_rate_hz": frontend.sample_rate_hz,
        "level": frontend.level,
        "hop_samples": frontend.hop_samples,
        "window_frames": frontend.window_frames,
        "window_hop_seconds": frontend.window_frames
        * frontend.hop_samples
        / frontend.sample_rate_hz,
        "embedding_dim": model.dim,
        "frontend": to_dict(frontend),
        **model.details,
        "encoder_key": model.key,
        "versions": checkpoints.package_versions(),
    }


def check_export(export_dir: pathlib.Path, model: OpenedModel) -> float:
    """Compares the export, loaded by a process without cola_msa, with the encoder.

    Args:
        export_dir: The SavedModel.
        model: What it was made from.

    Returns:
        Largest relative difference over clips of 0.3, 2.5 and 11 s: of windows, their
        means, and the scores of one clip's windows against another's.

    Raises:
        ExportError: If it exceeds TOLERANCE.
    """
    waveform, lengths = check_waveforms(model.frontend)
    clips = [waveform[row, :length] for row, length in enumerate(lengths)]
    stems, mixtures = (reference_mel(clip, model.frontend) for clip in clips[1:])
    inputs = {"waveform": waveform, "lengths": lengths}
    inputs |= {"mixture_windows": mixtures, "stem_windows": stems}
    exported = run_exported(export_dir, inputs)
    assert model.matcher is not None
    scores = model.matcher.score(
        model.matcher.project(mixtures), model.matcher.project(stems)
    )
    worst = relative_difference(exported["scores"], scores)
    for row, clip in enumerate(clips):
        expected = reference_windows(clip, model)
        got = exported["windows"][row, : len(expected)]
        if exported["num_windows"][row] != len(expected):
            raise ExportError(
                f"the export gives {exported['num_windows'][row]} windows for a clip "
                f"of {len(clip)} samples instead of {len(expected)}"
            )
        for a, b in ((got, expected), (exported["clip"][row], expected.mean(0))):
            worst = max(worst, relative_difference(a, b))
    if not worst < TOLERANCE:
        raise ExportError(
            f"the export in {export_dir} differs from the encoder by {worst:.2g} "
            f"(relative), more than {TOLERANCE:g}"
        )
    return worst


def _define_flags() -> None:
    flags.DEFINE_string(
        "run_dir", None, "A run or a pretrained folder; default the newest in runs/."
    )
    flags.DEFINE_string("output_dir", None, "SavedModel folder.", required=True)
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    run_dir = checkpoints.choose_run(flags.FLAGS.run_dir)
    metadata = export_encoder(
        run_dir,
        flags.FLAGS.output_dir,
        checkpoints.parse_step(flags.FLAGS.checkpoint_step),
    )
    print(
        f"exported step {metadata['step']} of {run_dir} to {flags.FLAGS.output_dir}; "
        f"reloaded in a fresh process: relative difference "
        f"{metadata['relative_difference']:.1e}"
    )
    print(json.dumps({"signatures": list(SIGNATURES)}))


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main))
