"""Exports an encoder: python -m cola_msa.export --run_dir=... --output_dir=...

`--format=saved_model` needs TensorFlow alone to be used, takes waveforms, and scores
mixtures against stems; its signatures stand in `cola_msa.hub.saved_model` and in
metadata.json. `tflite` and `onnx` take log-mel windows, which `cola_msa.audio.frontend_numpy`
makes without TensorFlow. `pretrained` is a folder to hand on, with a model card, which
this package opens.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from cola_msa.audio.frontend_numpy import FORMULA
from cola_msa.config.schema import to_dict
from cola_msa.hub import pretrained
from cola_msa.hub.check import (
    TOLERANCE,
    ExportError,
    check_waveforms,
    reference_mel,
    reference_windows,
    relative_difference,
    tolerance_of,
)
from cola_msa.hub.formats import run_file, write_onnx, write_tflite
from cola_msa.hub.loading import OpenedModel, open_model
from cola_msa.hub.saved_model import SIGNATURES, ExportModule, run_exported
from cola_msa.runs import kept
from cola_msa.runs.arrays import RunError
from cola_msa.system import folders
from cola_msa.system.console import run_command
from cola_msa.system.errors import FileError
from cola_msa.system.files import MARKER, file_sha256, temporary_folder
from cola_msa.values.reading import read_json

METADATA_NAME = "metadata.json"
FORMATS = ("saved_model", "tflite", "onnx", "pretrained")
FILE_TOLERANCES = {".tflite": 1e-3, ".onnx": 1e-4}
# What TensorFlow makes of a full disk, and of a read-only one.
_DISK_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.FailedPreconditionError)
INPUTS = {"log_mel": "float32 [batch, frames, num_mels, 1]"}
OUTPUTS = {"embedding": "float32 [batch, embedding_dim]"}


def export_encoder(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None = None,
    file_format: str = "saved_model",
    licence: str = "not stated",
) -> dict[str, Any]:
    """Writes an encoder and `metadata.json`, and checks it in a fresh process.

    Args:
        run_dir: A run or a pretrained folder.
        output_dir: Folder of the export: absent, empty, or an earlier export and
            nothing else, which is replaced in one step once the new one stands.
        step: Of a run: a kept step, `best`, or None for the last.
        file_format: `saved_model`, `tflite`, `onnx`, or `pretrained` (see
            `cola_msa.hub.pretrained`; of a run alone).
        licence: Of the weights, for the model card of a pretrained folder.

    Returns:
        The metadata, with the largest relative difference that was found.

    Raises:
        RunError: If the run has no such checkpoint.
        FileError: If `output_dir` holds anything else than an export; nothing there
            is touched then.
        ExportError: If the reloaded export differs from the encoder, or the format
            needs an extra.
    """
    if file_format not in FORMATS:
        raise ExportError(
            f"--format={file_format}: must be one of {', '.join(FORMATS)}"
        )
    if file_format == "pretrained":
        return _export_pretrained(run_dir, output_dir, step, licence)
    folders.check_replaceable(output_dir, listed_files, "an export")
    model = open_model(run_dir, step)
    if model.kind == "export":
        raise RunError(f"{run_dir} is an export already: name the run it was made of")
    with temporary_folder(output_dir) as temporary:
        if file_format == "saved_model":
            try:
                ExportModule(model).save(temporary)
            except _DISK_ERRORS as error:
                raise ExportError(
                    f"{output_dir}: cannot be written ({error.message}); once that is "
                    "mended the same command goes on"
                ) from error
            found: dict[str, Any] = {"signatures": SIGNATURES}
            found["relative_difference"] = check_export(temporary, model)
        else:
            write = write_tflite if file_format == "tflite" else write_onnx
            path = write(model, temporary)
            found = {"file": path.name, "inputs": INPUTS, "outputs": OUTPUTS}
            found["relative_difference"] = check_file(path, model)
        metadata = {
            "format": file_format,
            **describe(model),
            **found,
            "files": {
                path.relative_to(temporary).as_posix(): file_sha256(path)
                for path in sorted(temporary.rglob("*"))
                if path.is_file() and path.name != MARKER
            },
        }
        kept.write_json(temporary / METADATA_NAME, metadata)
        folders.replace_folder(temporary, output_dir, listed_files, "an export")
    return metadata


def _export_pretrained(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None,
    licence: str,
) -> dict[str, Any]:
    """Writes a pretrained folder that takes its name once it has been checked."""
    found: dict[str, float] = {}

    def check(folder: pathlib.Path) -> None:
        found["relative_difference"] = check_pretrained(
            folder, open_model(run_dir, step)
        )

    content = pretrained.save_pretrained(
        run_dir, output_dir, step, licence=licence, check=check
    )
    return {**content, **found}


def listed_files(folder: pathlib.Path) -> list[str] | None:
    """An export's unchanged files by its own metadata.json; None where it is none."""
    try:
        files = read_json(folder / METADATA_NAME, check=_files_of_export)
    except FileError:
        return None
    unchanged = [
        name
        for name, digest in files.items()
        if (folder / name).is_file() and file_sha256(folder / name) == digest
    ]
    return [*unchanged, METADATA_NAME]


def _files_of_export(content: dict[str, Any]) -> dict[str, str]:
    """Hashes by the names of its files; raises where it is no export's metadata."""
    if content["format"] not in FORMATS or "encoder_key" not in content:
        raise ValueError("no export's")
    files = content["files"]
    for name in files:
        path = pathlib.PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ValueError(f"file {name!r:.60} is not in the folder")
    return dict(files)


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
        "frontend_formula": FORMULA,
        **model.details,
        "encoder_key": model.key,
        "versions": kept.package_versions(),
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
        ExportError: If windows or means exceed what `tolerance_of` allows, or scores
            TOLERANCE.
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
    compared = [(exported["scores"], scores, TOLERANCE)]
    for row, clip in enumerate(clips):
        expected = reference_windows(clip, model)
        got = exported["windows"][row, : len(expected)]
        if exported["num_windows"][row] != len(expected):
            raise ExportError(
                f"the export gives {exported['num_windows'][row]} windows for a clip "
                f"of {len(clip)} samples instead of {len(expected)}"
            )
        tolerance = tolerance_of(reference_mel(clip, model.frontend), model)
        compared.append((got, expected, tolerance))
        compared.append((exported["clip"][row], expected.mean(0), tolerance))
    worst = 0.0
    for found, expected, tolerance in compared:
        difference = relative_difference(found, expected)
        if not difference < tolerance:
            raise ExportError(
                f"the export in {export_dir} differs from the encoder by "
                f"{difference:.2g} (relative), more than {tolerance:.2g}"
            )
        worst = max(worst, difference)
    return worst


def check_pretrained(folder: str | os.PathLike, model: OpenedModel) -> float:
    """Compares a pretrained folder, opened by a fresh process, with its run.

    Raises:
        ExportError: If it differs by more than TOLERANCE.
    """
    waveform, lengths = check_waveforms(model.frontend)
    mel = reference_mel(waveform[-1, : lengths[-1]], model.frontend)
    with tempfile.TemporaryDirectory() as check:
        path = pathlib.Path(check) / "mel.npy"
        np.save(path, mel)
        command = [sys.executable, "-c", _PRETRAINED_SCRIPT, str(folder), str(path)]
        subprocess.run(command, check=True)
        difference = relative_difference(np.load(path), model.embed(mel))
    if not difference < TOLERANCE:
        raise ExportError(
            f"{folder} differs from its run by {difference:.2g} (relative), more than "
            f"{TOLERANCE:g}"
        )
    return difference


_PRETRAINED_SCRIPT = """
import sys
import numpy as np
import cola_msa
model = cola_msa.from_pretrained(sys.argv[1])
np.save(sys.argv[2], model.embed(np.load(sys.argv[2])))
"""


def check_file(path: pathlib.Path, model: OpenedModel) -> float:
    """Compares a TFLite or ONNX file, run by a fresh process, with the encoder.

    Args:
        path: The file.
        model: What it was made from.

    Returns:
        Largest relative difference over the windows of clips of 2.5 and 11 s, and over
        one window of twice the length. None is padded: on a window of 0.3 s of sound
        an encoder of 20 updates moved by 7e-5 where its input did by 1e-6, so that
        the order in which a runtime adds shows there.

    Raises:
        ExportError: If it exceeds the format's tolerance, or a value is not finite.
    """
    waveform, lengths = check_waveforms(model.frontend)
    batches = [
        reference_mel(waveform[row, :length], model.frontend)
        for row, length in enumerate(lengths)
        if model.frontend.num_frames(int(length)) >= model.frontend.window_frames
    ]
    longest = batches[-1]
    batches.append(np.concatenate([longest[:1], longest[1:2]], axis=1))
    tolerance = FILE_TOLERANCES[path.suffix]
    worst = 0.0
    for windows, got in zip(batches, run_file(path, batches), strict=True):
        worst = max(worst, relative_difference(got, model.embed(windows)))
    if not worst < tolerance:
        raise ExportError(
            f"{path} differs from the encoder by {worst:.2g} (relative), more than "
            f"{tolerance:g}"
        )
    return worst


def _define_flags() -> None:
    flags.DEFINE_string(
        "run_dir", None, "A run or a pretrained folder; default the newest in runs/."
    )
    flags.DEFINE_string("output_dir", None, "Folder of the export.", required=True)
    flags.DEFINE_string("format", "saved_model", f"One of {', '.join(FORMATS)}.")
    flags.DEFINE_string(
        "licence", "not stated", "Licence of the weights, for a pretrained folder."
    )
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    run_dir = kept.choose_run(flags.FLAGS.run_dir)
    metadata = export_encoder(
        run_dir,
        flags.FLAGS.output_dir,
        kept.parse_step(flags.FLAGS.checkpoint_step),
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
