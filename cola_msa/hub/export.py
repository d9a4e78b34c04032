"""Writes an encoder as a SavedModel, TFLite, ONNX or pretrained folder, checked."""

import os
import pathlib
from typing import Any

import tensorflow as tf

from cola_msa.audio.frontend_numpy import formula
from cola_msa.config.schema import to_dict
from cola_msa.evaluation.probes.held_heads import (
    TagError,
    check_encoder,
    choose_heads,
    list_heads,
    name_of_file,
    summarize,
    write_heads,
)
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.hub import pretrained
from cola_msa.hub.formats.checks import (
    HALF_TOLERANCE,
    TOLERANCE,
    check_carried,
    check_export,
    check_file,
    check_pretrained,
    check_tags,
)
from cola_msa.hub.formats.portable import PROBABILITIES, write_onnx, write_tflite
from cola_msa.hub.formats.saved_model import (
    TAG_SIGNATURE,
    ExportModule,
    describe_signatures,
    tag_signature,
)
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import ExportError, OpenedModel
from cola_msa.system import folders, versions
from cola_msa.system.errors import FileError, RunError
from cola_msa.system.files import MARKER, file_sha256, temporary_folder
from cola_msa.values import arrays
from cola_msa.values.names import escape
from cola_msa.values.reading import read_json

METADATA_NAME = "metadata.json"
NO_HEADS = "none"
FORMATS = ("saved_model", "tflite", "onnx", "pretrained")
# What TensorFlow makes of a full disk, and of a read-only one.
_DISK_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.FailedPreconditionError)
OUTPUTS = {"embedding": "float32 [batch, embedding_dim]"}
TAGGER_OUTPUTS = {PROBABILITIES: "float32 [batch, classes]"}


def export_encoder(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None = None,
    file_format: str = "saved_model",
    licence: str = "not stated",
    weights: str = "float32",
    head: str | None = None,
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
        head: Heads that the export gives probabilities by: a task's name, or a file or
            folder of heads. Of a pretrained folder the only ones that it holds, where
            None is all of the run's for this encoder, and `none` is none.

    Returns:
        The metadata, with the largest relative difference that was found; `head` says
        how far probabilities were apart.

    Raises:
        RunError: If the run has no such checkpoint.
        TagError: If there are no such heads, or they are another encoder's.
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
        return _export_pretrained(run_dir, output_dir, step, licence, weights, head)
    folders.check_replaceable(output_dir, listed_files, "an export")
    model = open_model(run_dir, step)
    if model.kind == "export":
        raise RunError(f"{run_dir} is an export already: name the run it was made of")
    heads = None if head in (None, NO_HEADS) else _heads_of(model, head, file_format)
    with temporary_folder(output_dir) as temporary:
        if file_format == "saved_model":
            found = _write_saved_model(model, heads, temporary, output_dir)
        else:
            write = write_tflite if file_format == "tflite" else write_onnx
            inputs = describe_signatures(model)["embed_log_mel"]["inputs"]
            path = write(model, temporary)
            found = {"file": path.name, "inputs": inputs, "outputs": OUTPUTS}
            found["relative_difference"] = check_file(path, model)
        if heads is not None:
            summary = summarize(heads)
            if file_format == "saved_model":
                summary["difference"] = check_tags(temporary, model, heads)
            else:
                path = write(model, temporary, heads)
                summary["tagger"] = {
                    "file": path.name,
                    "inputs": inputs,
                    "outputs": TAGGER_OUTPUTS,
                }
                summary["difference"] = check_tags(path, model, heads)
            (name,) = write_heads(temporary, {name_of_file(heads): heads}, model.key)
            found["head"] = {**summary, "file": name}
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


def _write_saved_model(
    model: OpenedModel,
    heads: Heads | None,
    folder: pathlib.Path,
    output_dir: str | os.PathLike,
) -> dict[str, Any]:
    try:
        ExportModule(model, heads).save(folder)
    except _DISK_ERRORS as error:
        raise ExportError(
            f"{output_dir}: cannot be written ({error.message}); once that is "
            "mended the same command goes on"
        ) from error
    signatures = describe_signatures(model)
    if heads is not None:
        signatures[TAG_SIGNATURE] = tag_signature(heads)
    found: dict[str, Any] = {"signatures": signatures}
    found["relative_difference"] = check_export(folder, model)
    return found


def _heads_of(model: OpenedModel, head: str, file_format: str) -> Heads:
    """The heads that an export holds.

    Raises:
        TagError: If there are none, or they do not fit the encoder or the format.
        RunError: If they are damaged.
    """
    if model.kind == "pretrained":
        pretrained.check_heads(model.path, head)
    file, heads = choose_heads(model.path, model.key, head)
    if heads.are_tuned:
        raise TagError(
            f"{file}: heads of encoders that were fine-tuned with them, which no "
            "export holds: name heads of the frozen encoder, which "
            "python -m cola_msa.eval makes without --finetune"
        )
    check_encoder(heads, model.path, model.key, model.dim, model.clip_dim)
    if heads.are_of_clips and file_format in ("tflite", "onnx"):
        raise TagError(
            f"{file}: heads on embeddings of whole clips, and --format={file_format} "
            "knows windows alone: use --format=saved_model, or heads of "
            "python -m cola_msa.eval"
        )
    return heads


def _export_pretrained(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None,
    licence: str,
    weights: str,
    head: str | None,
) -> dict[str, Any]:
    """Writes a pretrained folder that takes its name once it has been checked."""
    if "://" in os.fspath(run_dir):
        raise RunError(
            f"{run_dir}: --format=pretrained is made of a run, and this is a folder of "
            "that kind already: python -m cola_msa.import_weights --pretrained makes a "
            "run of it"
        )
    found: dict[str, float] = {}

    def check(folder: pathlib.Path) -> None:
        tolerance = TOLERANCE if weights == "float32" else HALF_TOLERANCE
        model = open_model(run_dir, step)
        found["relative_difference"] = check_pretrained(folder, model, tolerance)
        heads = list(list_heads(folder)[0].values())
        if heads:
            found["difference"] = check_carried(folder, model, heads, weights)

    heads = None
    if head == NO_HEADS:
        heads = {}
    elif head is not None:
        chosen = _heads_of(open_model(run_dir, step), head, "pretrained")
        heads = {name_of_file(chosen): chosen}
    content = pretrained.save_pretrained(
        run_dir,
        output_dir,
        step,
        licence=licence,
        weights=weights,
        heads=heads,
        check=check,
    )
    return {**content, **found}


def describe_heads(metadata: dict[str, Any]) -> list[str]:
    """A line on each of the heads that an export holds, for people."""
    heads = metadata.get("heads", [])
    if "head" in metadata:
        heads = [metadata["head"]]
    difference = metadata.get("head", metadata).get("difference")
    apart = "" if difference is None else f" (up to {difference:.1e} apart)"
    return [
        escape(
            f"{one['file']}: {one['task']}, {len(one['class_names'])} labels, "
            f"probabilities compared with NumPy's{apart}"
        )
        for one in heads
    ]


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
        "frontend_formula": formula(frontend),
        **model.details,
        "encoder_key": model.key,
        "versions": versions.package_versions(),
    }
