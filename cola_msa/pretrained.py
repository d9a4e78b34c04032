"""Pretrained folders: an encoder as it is handed on, without the run it came from.

config.json        configuration, front end, step, what it was trained on, scores, and
                   the SHA-256 of every other file
model.weights.h5   the ContrastiveModel's variables by number and name, with batch-norm
                   statistics of mixtures
statistics.h5      re-estimated batch-norm statistics: of `anchors` (mixtures) and of
                   `pairs` (mixtures and stems, what the pretext task sees)
README.md          the model card

No file is a pickle: opening a folder from somebody else runs none of its code.
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from cola_msa import checkpoints
from cola_msa.batch_statistics import BatchStatistics
from cola_msa.config import Config, from_dict, to_dict
from cola_msa.encoder_info import encoder_info
from cola_msa.model import ContrastiveModel
from cola_msa.model_card import read_scores, render_card
from cola_msa.storage import RunError, write_json
from cola_msa.system import folders
from cola_msa.system.files import file_sha256, temporary_folder

FORMAT = "cola_msa pretrained encoder"
FORMAT_VERSION = 1
WEIGHTS_NAME = "model.weights.h5"
STATISTICS_NAME = "statistics.h5"
CARD_NAME = "README.md"
STATISTICS = ("anchors", "pairs")
_FILES = (WEIGHTS_NAME, STATISTICS_NAME)
_FIELDS = ("name", "data", "step", "statistics", "encoder_key")


def is_pretrained(path: str | os.PathLike) -> bool:
    """Whether a folder's config.json says that it is a pretrained folder."""
    try:
        content = json.loads((pathlib.Path(path) / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def save_pretrained(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None = None,
    *,
    name: str | None = None,
    licence: str = "not stated",
    check: Callable[[pathlib.Path], Any] = lambda folder: None,
) -> dict[str, Any]:
    """Writes a pretrained folder of a run's encoder, head and similarity.

    Args:
        run_dir: The run.
        output_dir: The folder: absent, empty, or an earlier pretrained folder and
            nothing else, which is replaced in one step once the new one stands.
        step: A kept step, `best`, or None for the last.
        name: The model's name; default the folder's.
        licence: Licence of the weights, for the model card.
        check: Called with the finished folder before it takes its name.

    Returns:
        The content of config.json.

    Raises:
        RunError: If the run has no such checkpoint.
        FileError: If `output_dir` holds anything else than a pretrained folder;
            nothing there is touched then.
    """
    run_dir, output_dir = pathlib.Path(run_dir), pathlib.Path(output_dir)
    folders.check_replaceable(output_dir, listed_files, "a pretrained folder")
    model = checkpoints.load_model(run_dir, step)
    kept = checkpoints.kept_path(run_dir, step)
    arrays = checkpoints.read_arrays(kept)
    run, config = checkpoints.load_run(run_dir), checkpoints.load_config(run_dir)
    info = encoder_info(run_dir, step, "trained")
    with temporary_folder(output_dir) as temporary:
        _write_weights(temporary / WEIGHTS_NAME, model)
        layers = len(model.batch_norm_layers())
        with h5py.File(temporary / STATISTICS_NAME, "w") as file:
            for inputs in STATISTICS:
                found = checkpoints.read_statistics(kept, arrays, inputs, layers)
                for number in range(layers):
                    group = file.create_group(f"{inputs}/{number:04d}")
                    group["mean"] = found.means[number]
                    group["variance"] = found.variances[number]
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": name or output_dir.resolve().name,
            "licence": licence,
            "config": to_dict(config),
            # Where the data lay is nobody else's business.
            "data": {k: v for k, v in run["data"].items() if k != "data_dir"},
            "step": info.step,
            "updates": info.updates,
            "pairs": info.pairs,
            "num_replicas": run.get("num_replicas", 1),
            "embedding_dim": int(model.encoder.output_shape[-1]),
            "statistics": config.train.statistics_inputs,
            "encoder_key": checkpoints.encoder_key(run_dir, step),
            "scores": read_scores(run_dir, info.step),
            "versions": run.get("versions", {}),
            "git_commit": run.get("git_commit"),
            "source": run.get("source"),
            "files": {name: file_sha256(temporary / name) for name in _FILES},
        }
        (temporary / CARD_NAME).write_text(render_card(content))
        write_json(temporary / "config.json", content)
        check(temporary)
        folders.replace_folder(
            temporary, output_dir, listed_files, "a pretrained folder"
        )
    return content


def listed_files(folder: pathlib.Path) -> list[str] | None:
    """A pretrained folder's files by its own config.json; None where it is none."""
    try:
        content = json.loads((folder / "config.json").read_text())
        if content["format"] != FORMAT:
            return None
        return [*map(str, dict(content["files"])), CARD_NAME, "config.json"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a pretrained folder's config.json.

    Raises:
        RunError: If it is no pretrained folder, is damaged, or of a later version.
    """
    path = pathlib.Path(path) / "config.json"
    try:
        content = json.loads(path.read_text())
        version = int(content["format_version"])
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        if version <= FORMAT_VERSION:
            from_dict(Config, content["config"])
            for name in _FIELDS:
                content[name]
            for name in _FILES:
                content["files"][name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: no pretrained folder, or damaged ({error!r}); get it again"
        ) from error
    if version > FORMAT_VERSION:
        raise RunError(
            f"{path}: format version {version}, and this cola_msa reads up to "
            f"{FORMAT_VERSION}; upgrade it"
        )
    return content


def load_model(
    path: str | os.PathLike, statistics: str | None = None
) -> ContrastiveModel:
    """Rebuilds the model of a pretrained folder.

    Args:
        path: The folder.
        statistics: `anchors` (for mixtures) or `pairs` (for mixtures and stems); None
            is what its configuration names for its encoder.

    Returns:
        ContrastiveModel, ready for inference.

    Raises:
        RunError: If the folder is damaged, or does not fit its configuration.
    """
    path = pathlib.Path(path)
    content = read_config(path)
    check_files(path, content["files"])
    config: Config = from_dict(Config, content["config"])
    model = ContrastiveModel(
        config.model,
        config.frontend,
        content["data"]["log_mel_mean"],
        content["data"]["log_mel_std"],
        config.train.seed,
    )
    try:
        _read_weights(path / WEIGHTS_NAME, model)
    except (RunError, OSError) as error:
        raise RunError(
            f"{path / WEIGHTS_NAME}: does not fit its config.json ({error})"
        ) from error
    checkpoints.model_normalization(model).finalize_state()
    read_statistics(path, statistics or content["statistics"]).assign_to(model)
    return model


def _write_weights(path: pathlib.Path, model: ContrastiveModel) -> None:
    """Writes every variable under its name in checkpoints.

    Not Keras's `save_weights`: its names follow the classes of layers, and those
    differ between CPU and GPU.
    """
    with h5py.File(path, "w") as file:
        for number, variable in enumerate(model.variables):
            name = checkpoints.array_name("model", number, variable)
            file[name] = np.array(variable)


def _read_weights(path: pathlib.Path, model: ContrastiveModel) -> None:
    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    values = checkpoints.fitting_values("model", model.variables, arrays)
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def read_statistics(path: str | os.PathLike, inputs: str) -> BatchStatistics:
    """Batch-norm statistics of a pretrained folder: of `anchors` or of `pairs`.

    Raises:
        RunError: If it has none.
    """
    path = pathlib.Path(path) / STATISTICS_NAME
    try:
        with h5py.File(path, "r") as file:
            layers = [file[inputs][name] for name in sorted(file[inputs])]
            return BatchStatistics(
                tuple(np.array(layer["mean"]) for layer in layers),
                tuple(np.array(layer["variance"]) for layer in layers),
            )
    except (OSError, KeyError) as error:
        raise RunError(f"{path}: no batch-norm statistics {inputs}") from error


def check_files(path: pathlib.Path, hashes: dict[str, str]) -> None:
    """Compares files with the SHA-256 that config.json or metadata.json names.

    Raises:
        RunError: If a file is missing or is another; the message names it.
    """
    for name, expected in hashes.items():
        if not (path / name).is_file():
            raise RunError(f"{path / name} is missing; get the folder again")
        if file_sha256(path / name) != expected:
            raise RunError(
                f"{path / name}: damaged or not the original (its SHA-256 is not the "
                "recorded one); get the folder again"
            )
