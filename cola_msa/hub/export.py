"""Writes an encoder as a SavedModel, TFLite, ONNX or pretrained folder, checked."""

import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.audio.frontend import exact_log_mel
from cola_msa.audio.frontend_numpy import FORMULA, split_windows
from cola_msa.config.schema import FrontendConfig, to_dict
from cola_msa.hub import pretrained
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import ExportError, OpenedModel
from cola_msa.hub.portable import run_file, write_onnx, write_tflite
from cola_msa.hub.saved_model import SIGNATURES, ExportModule, run_exported
from cola_msa.model.embedding import ClipPooling
from cola_msa.system import folders, versions
from cola_msa.system.errors import FileError, RunError
from cola_msa.system.files import MARKER, file_sha256, temporary_folder
from cola_msa.values import arrays
from cola_msa.values.reading import read_json

METADATA_NAME = "metadata.json"
TOLERANCE = 1e-4  # relative difference between export and encoder
HALF_TOLERANCE = 3e-2  # of weights rounded to float16
_ROUNDINGS = 10  # a network rounds more often than once
_HIGHEST_TOLERANCE = 1e-2  # beyond it an export is of no use, rounding or not
FILE_TOLERANCES = {".tflite": 1e-3, ".onnx": 1e-4}
FORMATS = ("saved_model", "tflite", "onnx", "pretrained")
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
    weights: str = "float32",
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
        weights: How a pretrained folder stores them: `float32`, or `float16`.

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
        return _export_pretrained(run_dir, output_dir, step, licence, weights)
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
        arrays.write_json(temporary / METADATA_NAME, metadata)
        folders.replace_folder(temporary, output_dir, listed_files, "an export")
    return metadata


def _export_pretrained(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None,
    licence: str,
    weights: str,
) -> dict[str, Any]:
    """Writes a pretrained folder that takes its name once it has been checked."""
    found: dict[str, float] = {}

    def check(folder: pathlib.Path) -> None:
        tolerance = TOLERANCE if weights == "float32" else HALF_TOLERANCE
        found["relative_difference"] = check_pretrained(
            folder, open_model(run_dir, step), tolerance
        )

    content = pretrained.save_pretrained(
        run_dir, output_dir, step, licence=licence, weights=weights, check=check
    )
    return {**content, **found}


def listed_files(folder: pathlib.Path) -> list[str] | None:
    """An export's unchanged files by its own metadata.json; None where it is none."""
    try:
        files = read_json(folder / METADATA_NAME, check=_files_of_export)
    except FileError:
        return None
    return [*folders.unchanged_files(folder, files), METADATA_NAME]


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
        "window_hop_seconds": frontend.seconds(frontend.window_frames),
        "embedding_dim": model.dim,
        "clip_embedding": model.clip_embedding,
        "clip_dim": model.clip_dim,
        "frontend": to_dict(frontend),
        "frontend_formula": FORMULA,
        **model.details,
        "encoder_key": model.key,
        "versions": versions.package_versions(),
    }


def check_waveforms(frontend: FrontendConfig) -> tuple[np.ndarray, np.ndarray]:
    """Clips of 0.3, 2.5 and 11 s.

    Returns:
        waveform float32 [3, samples], padded with zeros, and lengths int32 [3].
    """
    random = np.random.default_rng(0)
    rate = frontend.sample_rate_hz
    lengths = np.array([int(0.3 * rate), int(2.5 * rate), 11 * rate], np.int32)
    waveform = np.zeros((3, lengths.max()), np.float32)
    for row, length in enumerate(lengths):
        # Tones that come and go over noise: far from what one window's mean shows.
        time = np.arange(length) / rate
        tone = np.sin(2 * np.pi * (220 + 110 * row) * time) * (np.sin(3 * time) > 0)
        waveform[row, :length] = 0.1 * tone + 0.01 * random.standard_normal(length)
    return waveform, lengths


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the expected norm; infinite where NaN is found."""
    difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return difference if np.isfinite(difference) else float("inf")


def tolerance_of(windows: np.ndarray, model: OpenedModel) -> float:
    """How far an export may be from the encoder on these windows.

    Where an encoder multiplies rounding, no export can be nearer: on a window that is
    padding for the most part, one of 200 updates moved by 2.5e-4 where its input moved
    by float32's last bit.

    Args:
        windows: float32 [W, frames, num_mels, 1].
        model: The encoder.

    Returns:
        A relative difference: TOLERANCE, or where it is more, ten times what the
        input's last bit does; never more than 0.01.
    """
    noise = np.random.default_rng(0).choice([-1.0, 1.0], windows.shape)
    changed = (windows * (1.0 + 2.0**-23 * noise)).astype(np.float32)
    rounding = relative_difference(model.embed(changed), model.embed(windows))
    return min(max(TOLERANCE, _ROUNDINGS * rounding), _HIGHEST_TOLERANCE)


def reference_mel(waveform: np.ndarray, frontend: FrontendConfig) -> np.ndarray:
    """Windows of one clip: float32 [samples] -> [W, frames, num_mels, 1]."""
    if frontend.num_frames(len(waveform)) > 0:
        mel = exact_log_mel(waveform, frontend).numpy()
    else:
        mel = np.zeros((0, frontend.num_mels), np.float32)
    missing = max(0, frontend.window_frames - len(mel))
    mel = np.pad(
        mel, ((0, missing), (0, 0)), constant_values=np.log(frontend.log_floor)
    )
    return split_windows(mel, frontend).astype(np.float32)


def reference_windows(waveform: np.ndarray, model: OpenedModel) -> np.ndarray:
    """What a probe sees of one clip: float32 [samples] -> [W, dim]."""
    windows = reference_mel(waveform, model.frontend)
    return np.concatenate(
        [model.embed(windows[i : i + 256]) for i in range(0, len(windows), 256)]
    )


def check_export(export_dir: pathlib.Path, model: OpenedModel) -> float:
    """Compares the export, loaded by a process without cola_msa, with the encoder.

    Args:
        export_dir: The SavedModel.
        model: What it was made from.

    Returns:
        Largest relative difference over clips of 0.3, 2.5 and 11 s: of windows, clips,
        and the scores of one clip's windows against another's.

    Raises:
        ExportError: If windows or clips exceed what `tolerance_of` allows, or scores
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
        pooling = ClipPooling(model.clip_embedding)
        pooling.add(expected)
        compared.append((exported["clip"][row], pooling.result(), tolerance))
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


def check_pretrained(
    folder: str | os.PathLike, model: OpenedModel, tolerance: float = TOLERANCE
) -> float:
    """Compares a pretrained folder, opened by a fresh process, with its run.

    Raises:
        ExportError: If it differs by more than `tolerance`.
    """
    waveform, lengths = check_waveforms(model.frontend)
    mel = reference_mel(waveform[-1, : lengths[-1]], model.frontend)
    with tempfile.TemporaryDirectory() as check:
        path = pathlib.Path(check) / "mel.npy"
        np.save(path, mel)
        command = [sys.executable, "-c", _PRETRAINED_SCRIPT, str(folder), str(path)]
        subprocess.run(command, check=True)
        difference = relative_difference(np.load(path), model.embed(mel))
    if not difference < tolerance:
        raise ExportError(
            f"{folder} differs from its run by {difference:.2g} (relative), more than "
            f"{tolerance:g}"
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
