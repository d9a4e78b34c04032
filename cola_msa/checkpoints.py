"""The run directory: what ran, checkpoints to resume from, encoders to keep.

config.json              the Config, package versions, git commit, data
checkpoints/step-*.npz   every variable of model and optimizer, and the state of
                         the loop: what a resumed run starts from
kept/step-*.npz          the model's variables and re-estimated batch-norm
                         statistics at kept steps; step 0 is the untrained network
kept/best.npz            the same at the lowest validation loss
metrics.jsonl, logs/     losses as lines of JSON and as TensorBoard scalars
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import zipfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.config import Config, from_dict
from cola_msa.model import BatchStatistics, ContrastiveModel

_PACKAGES = ("cola_msa", "tensorflow", "keras", "numpy")
_STATE = "state"
DONE_NAME = "done.json"  # written when a run has ended: outcome, step, pairs, seconds


class RunError(ValueError):
    """A run directory that cannot be used; the message says why and what to do."""


def package_versions() -> dict[str, str]:
    """Versions of this package and of those that decide its numbers."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_commit() -> str | None:
    """The checkout's commit that this package runs from; None outside of one."""
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or None


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Writes JSON under a temporary name, then renames it."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(temporary, path)


def load_run(run_dir: str | os.PathLike) -> dict[str, Any]:
    """Reads a run's config.json.

    Raises:
        RunError: If there is none.
    """
    path = pathlib.Path(run_dir) / "config.json"
    if not path.exists():
        raise RunError(
            f"{path} does not exist: --run_dir must name a training run "
            "(python -m cola_msa.train writes one)"
        )
    return json.loads(path.read_text())


def load_config(run_dir: str | os.PathLike) -> Config:
    """The Config that a run was trained with."""
    return from_dict(Config, load_run(run_dir)["config"])


def newest_run(root: str | os.PathLike = "runs") -> pathlib.Path | None:
    """The run under `root` that was started last; None where there is none."""
    runs = list(pathlib.Path(root).glob("*/config.json"))
    return max(runs, key=lambda path: path.stat().st_mtime).parent if runs else None


def choose_run(given: str | None) -> pathlib.Path:
    """The run that a command was given, or the newest one.

    Raises:
        RunError: If there is none.
    """
    run_dir = pathlib.Path(given) if given else newest_run()
    if run_dir is None:
        raise RunError(
            "there is no run under runs/: train one by python -m cola_msa.train, or "
            "name one by --run_dir"
        )
    if not given:
        logging.info("no --run_dir: the newest run, %s", run_dir)
    return run_dir


def parse_step(given: str | None) -> int | str | None:
    """Turns `--checkpoint_step` into a kept step.

    Raises:
        RunError: If it is neither a number nor `best`.
    """
    if given is None or given == "best":
        return given
    if not given.isdigit():
        raise RunError(f"--checkpoint_step must be a number or best, not {given!r}")
    return int(given)


def _write_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub: names
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: damaged checkpoint ({error})") from error


def _variable_arrays(prefix: str, variables: list) -> dict[str, np.ndarray]:
    # Keras counts seed generators up within a process: their number says nothing.
    return {
        f"{prefix}/{number:04d}/" + re.sub(r"_\d+/", "/", variable.path): np.array(
            variable
        )
        for number, variable in enumerate(variables)
    }


def _assign(prefix: str, variables: list, arrays: dict[str, np.ndarray]) -> None:
    """Assigns every variable, and refuses a set that does not fit exactly."""
    found = {
        int(name.split("/")[1]): (name, value)
        for name, value in arrays.items()
        if name.startswith(f"{prefix}/")
    }
    if len(found) != len(variables):
        raise RunError(
            f"the checkpoint holds {len(found)} variables of the {prefix}, "
            f"which has {len(variables)}: it belongs to another configuration"
        )
    for number, variable in enumerate(variables):
        name, value = found[number]
        if tuple(value.shape) != tuple(variable.shape):
            raise RunError(
                f"{name}: shape {value.shape} in the checkpoint, "
                f"{tuple(variable.shape)} in the model"
            )
        variable.assign(value)


def save_training(
    run_dir: str | os.PathLike,
    model: ContrastiveModel,
    state: dict[str, Any],
    step: int,
    max_to_keep: int,
) -> None:
    """Writes what a resumed run starts from, and removes the oldest of its kind.

    Args:
        run_dir: The run.
        model: Compiled model; seed generators and optimizer slots are included.
        state: JSON values: update counter, early stopping.
        step: Step that has ended.
        max_to_keep: How many of these checkpoints stay.
    """
    folder = pathlib.Path(run_dir) / "checkpoints"
    arrays = _variable_arrays("model", model.variables)
    arrays |= _variable_arrays("optimizer", model.optimizer.variables)
    arrays[_STATE] = np.array(json.dumps(state))
    _write_npz(folder / f"step-{step:08d}.npz", arrays)
    for path in sorted(folder.glob("step-*.npz"))[:-max_to_keep]:
        path.unlink()


def restore_training(
    run_dir: str | os.PathLike, model: ContrastiveModel
) -> dict[str, Any] | None:
    """Loads the newest undamaged checkpoint into the model and its optimizer.

    Returns:
        The loop's state; None where the run has no checkpoint.

    Raises:
        RunError: If a checkpoint does not fit the model.
    """
    folder = pathlib.Path(run_dir) / "checkpoints"
    for path in sorted(folder.glob("step-*.npz"), reverse=True):
        try:
            arrays = _read_npz(path)
            state = json.loads(str(arrays.pop(_STATE)))
        except RunError as error:
            logging.warning("%s; going back to the one before", error)
            continue
        model.optimizer.build(model.trainable_variables)
        _assign("model", model.variables, arrays)
        _assign("optimizer", model.optimizer.variables, arrays)
        model_normalization(model).finalize_state()
        return state
    return None


def model_normalization(model: ContrastiveModel) -> keras.layers.Normalization:
    """The encoder's Normalization layer, which must be finalized after a load."""
    from cola_msa.encoder import normalization_layer

    return normalization_layer(model.encoder)


def save_kept(
    run_dir: str | os.PathLike,
    model: ContrastiveModel,
    statistics: dict[str, BatchStatistics],
    step: int,
    name: str | None = None,
) -> pathlib.Path:
    """Keeps a model's variables with re-estimated batch-norm statistics beside them.

    Args:
        run_dir: The run.
        model: The model.
        statistics: Re-estimated from `anchors` (mixtures alone, what probes see) and
            from `pairs` (whole batches, what the pretext task sees).
        step: The model's age.
        name: File name without suffix; default `step-<step>`.

    Returns:
        The file.
    """
    arrays = _variable_arrays("model", model.variables)
    for inputs, found in statistics.items():
        for number, (mean, variance) in enumerate(
            zip(found.means, found.variances, strict=True)
        ):
            arrays[f"statistics/{inputs}/{number:04d}/mean"] = mean
            arrays[f"statistics/{inputs}/{number:04d}/variance"] = variance
    arrays[_STATE] = np.array(json.dumps({"step": step}))
    path = pathlib.Path(run_dir) / "kept" / f"{name or f'step-{step:08d}'}.npz"
    _write_npz(path, arrays)
    return path


def kept_steps(run_dir: str | os.PathLike) -> list[int]:
    """Steps whose encoder was kept, in rising order; 0 is the untrained network."""
    folder = pathlib.Path(run_dir) / "kept"
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("step-*.npz"))


def kept_path(
    run_dir: str | os.PathLike, step: int | str | None = None
) -> pathlib.Path:
    """The kept checkpoint of a step; None means the last, `best` the best.

    Raises:
        RunError: If there is none.
    """
    load_run(run_dir)
    steps = kept_steps(run_dir)
    if not steps:
        raise RunError(f"{run_dir}: the run has kept no checkpoint yet")
    if step == "best":
        path = pathlib.Path(run_dir) / "kept" / "best.npz"
    else:
        step = steps[-1] if step is None else step
        path = pathlib.Path(run_dir) / "kept" / f"step-{step:08d}.npz"
    if not path.exists():
        raise RunError(
            f"{run_dir}: no kept checkpoint of step {step}; there are "
            f"{', '.join(map(str, steps))}"
        )
    return path


def load_model(
    run_dir: str | os.PathLike,
    step: int | str | None = None,
    statistics: str | None = None,
) -> ContrastiveModel:
    """Rebuilds a run's model at a kept step, with its re-estimated statistics.

    Args:
        run_dir: The run.
        step: A kept step, `best`, or None for the last.
        statistics: `anchors` (for mixtures) or `pairs` (for mixtures and stems); None
            is what the run's configuration names for its encoder.

    Returns:
        ContrastiveModel, ready for inference.

    Raises:
        RunError: If the run, the step or a variable is missing.
    """
    run = load_run(run_dir)
    config = from_dict(Config, run["config"])
    model = ContrastiveModel(
        config.model,
        config.frontend,
        run["data"]["log_mel_mean"],
        run["data"]["log_mel_std"],
        config.train.seed,
    )
    arrays = _read_npz(kept_path(run_dir, step))
    _assign("model", model.variables, arrays)
    model_normalization(model).finalize_state()
    prefix = f"statistics/{statistics or config.train.statistics_inputs}"
    layers = range(len(model.batch_norm_layers()))
    try:
        BatchStatistics(
            tuple(arrays[f"{prefix}/{n:04d}/mean"] for n in layers),
            tuple(arrays[f"{prefix}/{n:04d}/variance"] for n in layers),
        ).assign_to(model)
    except KeyError as error:
        raise RunError(
            f"{kept_path(run_dir, step)}: no batch-norm statistics {prefix}"
        ) from error
    return model


def load_encoder(
    path: str | os.PathLike,
    step: int | str | None = None,
    statistics: str | None = None,
) -> keras.Model:
    """Loads a run's encoder for inference.

    Args:
        path: A run directory.
        step: A kept step, `best`, or None for the last; 0 is the untrained network.
        statistics: Batch-norm statistics, see `load_model`.

    Returns:
        keras.Model, float32 [batch, frames, 64, 1] -> [batch, 1280], with
        re-estimated batch-norm statistics.

    Raises:
        RunError: If there is no such run or step.
    """
    return load_model(path, step, statistics).encoder


def encoder_key(
    run_dir: str | os.PathLike,
    step: int | str | None = None,
    statistics: str | None = None,
) -> str:
    """16 hexadecimal digits that stand for what `load_encoder` computes."""
    inputs = statistics or load_config(run_dir).train.statistics_inputs
    digest = hashlib.sha256()
    arrays = _read_npz(kept_path(run_dir, step))
    for name in sorted(arrays):
        if name.startswith(("model/", f"statistics/{inputs}/")):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]


def aggregate_moving_statistics(model: ContrastiveModel) -> None:
    """Replaces every replica's moving statistics by the replicas' mean.

    Under MirroredStrategy each replica moves its own, and only the first one's would
    be saved.
    """
    for layer in model.batch_norm_layers():
        for variable in (layer.moving_mean, layer.moving_variance):
            value = variable.value
            if isinstance(value, tf.distribute.DistributedValues):
                copies = [copy.numpy() for copy in value.values]
                variable.assign(np.mean(copies, axis=0))
