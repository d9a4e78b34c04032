"""Writes an encoder as a SavedModel, TFLite, ONNX or pretrained folder, checked."""

import os
import pathlib
from typing import Any

import tensorflow as tf

from cola_msa.audio.frontend_numpy import FORMULA
from cola_msa.config.schema import to_dict
from cola_msa.hub import pretrained
from cola_msa.hub.check import check_export, check_file, check_pretrained
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import ExportError, OpenedModel
from cola_msa.hub.portable import write_onnx, write_tflite
from cola_msa.hub.saved_model import SIGNATURES, ExportModule
from cola_msa.system import folders, versions
from cola_msa.system.errors import FileError, RunError
from cola_msa.system.files import MARKER, file_sha256, temporary_folder
from cola_msa.values import arrays
from cola_msa.values.reading import read_json

METADATA_NAME = "metadata.json"
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
        arrays.write_json(temporary / METADATA_NAME, metadata)
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
        "versions": versions.package_versions(),
    }
