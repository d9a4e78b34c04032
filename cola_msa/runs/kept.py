"""The run directory: what ran, and the encoders that are kept.

config.json              the Config, package versions, git commit, data
checkpoints/update-*.npz every variable of model and optimizer, and the state of
                         the loop: what a resumed run starts from (see `runs`)
kept/step-*.npz          the model's variables and re-estimated batch-norm
                         statistics at kept steps; step 0 is the untrained network
kept/best.npz            the same at the lowest validation loss
kept/init.npz            the same of the weights that a warm start began with
metrics.jsonl, logs/     losses as lines of JSON and as TensorBoard scalars
done.json                outcome, step, pairs and seconds of a run that has ended
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from cola_msa.config.checks import check_moments
from cola_msa.config.schema import ModelConfig
from cola_msa.frameworks.choose import framework_of
from cola_msa.model import plain, replicas
from cola_msa.model.contrastive import PairModel
from cola_msa.model.statistics import BatchStatistics, embedding_shapes
from cola_msa.runs import network
from cola_msa.runs.directory import DONE_NAME, NAMED_STEPS, load_config, load_run
from cola_msa.system.errors import RunError
from cola_msa.values.arrays import parse_state, read_arrays, write_arrays
from cola_msa.values.reading import read_json

EMBEDDING_NAME = "level_embedding"  # of the moments among a checkpoint's statistics
# Of the network's function, but not to be seen in its weights.
_WEIGHTLESS_FIELDS = ("input_clip", "pooling", "embedding_scale", "clip_embedding")
_KEPT_NAME = re.compile(r"step-([0-9]{8,12})\.npz")


def read_done(run_dir: str | os.PathLike) -> dict[str, Any]:
    """What a run that has ended says of it: outcome, step, updates, pairs, seconds.

    Raises:
        RunError: If it has not ended, or the file is damaged.
    """
    return read_json(
        pathlib.Path(run_dir) / DONE_NAME,
        RunError,
        "delete it and train with the same command: it writes it again",
        check=_checked_done,
    )


def _checked_done(done: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(done["outcome"], str):
        raise ValueError("outcome is no text")
    for name in ("step", "updates", "pairs"):
        if type(done.get(name, 0)) is not int or not 0 <= done.get(name, 0) < 1 << 62:
            raise ValueError(f"{name} is {done[name]!r:.40}")
    seconds = done.get("training_seconds", 0.0)
    if type(seconds) not in (int, float) or not 0 <= seconds < 1e12:
        raise ValueError(f"training_seconds is {seconds!r:.40}")
    return done


def _mean_arrays(
    prefix: str, variables: list, values: Sequence[Sequence[np.ndarray]]
) -> dict[str, np.ndarray]:
    """The variables with moving statistics that are the replicas' mean."""
    arrays = {}
    for number, variable in enumerate(variables):
        first, *others = values[number]
        # The mean of equal copies may differ from them in the last bit.
        if first.dtype.kind == "f" and any((first != v).any() for v in others):
            first = np.mean([first, *others], axis=0, dtype=first.dtype)
        arrays[network.array_name(prefix, number, variable)] = first
    return arrays


def save_kept(
    run_dir: str | os.PathLike,
    model: PairModel,
    statistics: dict[str, BatchStatistics],
    step: int,
    name: str | None = None,
    values: Sequence[Sequence[np.ndarray]] | None = None,
) -> pathlib.Path:
    """Keeps a model's variables with re-estimated batch-norm statistics beside them.

    Of variables that differ by replica (moving statistics) the mean is kept; the
    model's own stay as they are, so that keeping never changes the training.

    Args:
        run_dir: The run.
        model: The model.
        statistics: Re-estimated from `anchors` (mixtures alone, what probes see) and
            from `pairs` (whole batches, what the pretext task sees).
        step: The model's age.
        name: File name without suffix; default `step-<step>`.
        values: Every replica's value of each of the model's variables; default: those
            of this process's replicas.

    Returns:
        The file.
    """
    if values is None:
        values = [replicas.replica_values(variable) for variable in model.variables]
    arrays = _mean_arrays("model", model.variables, values)
    for inputs, found in statistics.items():
        for number, (mean, variance) in enumerate(
            zip(found.means, found.variances, strict=True)
        ):
            arrays[f"statistics/{inputs}/{number:04d}/mean"] = mean
            arrays[f"statistics/{inputs}/{number:04d}/variance"] = variance
        for part, value in found.embedding.items():
            arrays[f"statistics/{inputs}/{EMBEDDING_NAME}/{part}"] = value
    path = pathlib.Path(run_dir) / "kept" / f"{name or f'step-{step:08d}'}.npz"
    write_arrays(path, arrays, {"step": step})
    return path


def kept_steps(run_dir: str | os.PathLike) -> list[int]:
    """Steps whose encoder was kept, in rising order; 0 is the untrained network."""
    folder = pathlib.Path(run_dir) / "kept"
    found = (_KEPT_NAME.fullmatch(path.name) for path in folder.glob("step-*.npz"))
    return sorted(int(name[1]) for name in found if name)


def kept_step(path: str | os.PathLike) -> int:
    """The step of a kept checkpoint, whatever its file is called.

    Raises:
        RunError: If it is damaged.
    """
    path = pathlib.Path(path)
    if name := _KEPT_NAME.fullmatch(path.name):
        return int(name[1])
    step = parse_state(path, read_arrays(path)).get("step")
    if type(step) is not int or not 0 <= step < 1 << 40:
        raise RunError(f"{path}: damaged checkpoint (its step is {step!r:.40})")
    return step


def best_step(run_dir: str | os.PathLike) -> int | None:
    """The step of kept/best.npz; None where there is none, or it is damaged."""
    try:
        return kept_step(pathlib.Path(run_dir) / "kept" / "best.npz")
    except RunError:
        return None


def remove_kept_after(run_dir: str | os.PathLike, step: int) -> None:
    """Removes encoders of later steps than the one that a run ended with.

    They were kept by a process that went further before it was killed.
    """
    for later in kept_steps(run_dir):
        if later > step:
            path = pathlib.Path(run_dir) / "kept" / f"step-{later:08d}.npz"
            logging.warning("%s: the run ended with step %d; removed", path, step)
            path.unlink()


def kept_path(
    run_dir: str | os.PathLike, step: int | str | None = None
) -> pathlib.Path:
    """The kept checkpoint of a step; None means the last, `best` the best.

    `init` is what a warm start began with.

    Raises:
        RunError: If there is none.
    """
    run = load_run(run_dir)
    steps = kept_steps(run_dir)
    if not steps and "format" in run:
        raise RunError(f"{run_dir}: a pretrained folder, where this needs a run")
    if not steps:
        raise RunError(f"{run_dir}: the run has kept no checkpoint yet")
    if step in NAMED_STEPS:
        path = pathlib.Path(run_dir) / "kept" / f"{step}.npz"
    else:
        step = steps[-1] if step is None else step
        path = pathlib.Path(run_dir) / "kept" / f"step-{step:08d}.npz"
    if not path.exists():
        raise RunError(
            f"{run_dir}: no kept checkpoint of step {step}; there are "
            f"{', '.join(map(str, steps))}"
        )
    return path


def read_statistics(
    path: pathlib.Path,
    arrays: dict[str, np.ndarray],
    inputs: str,
    model: PairModel,
) -> BatchStatistics:
    """Batch-norm statistics of a kept checkpoint.

    Args:
        path: The checkpoint, for messages.
        arrays: Its arrays.
        inputs: `anchors` (for mixtures) or `pairs` (for mixtures and stems).
        model: Whose encoder they are for.

    Raises:
        RunError: If it holds none, or they are another network's.
    """
    prefix = f"statistics/{inputs}"
    layers = range(len(model.batch_norm_layers()))
    try:
        found = BatchStatistics(
            tuple(arrays[f"{prefix}/{n:04d}/mean"] for n in layers),
            tuple(arrays[f"{prefix}/{n:04d}/variance"] for n in layers),
            {
                name: arrays[f"{prefix}/{EMBEDDING_NAME}/{name}"]
                for name in embedding_shapes(model)
            },
        )
    except KeyError as error:
        raise RunError(f"{path}: no batch-norm statistics {prefix}") from error
    if not found.fits(model):
        raise RunError(f"{path}: batch-norm statistics {prefix} of another network")
    return found


def load_model(
    run_dir: str | os.PathLike,
    step: int | str | None = None,
    statistics: str | None = None,
) -> PairModel:
    """Rebuilds a run's model at a kept step, with its re-estimated statistics.

    Args:
        run_dir: The run.
        step: A kept step, `best`, or None for the last.
        statistics: `anchors` (for mixtures) or `pairs` (for mixtures and stems); None
            is what the run's configuration names for its encoder.

    Returns:
        PairModel, ready for inference.

    Raises:
        RunError: If the run, the step or a variable is missing.
    """
    path = kept_path(run_dir, step)
    arrays = read_arrays(path)
    model = network.fresh_network(run_dir)
    try:
        values = network.fitting_values("model", model.variables, arrays)
    except RunError as error:
        raise RunError(f"{path}: {error}") from error
    inputs = statistics or load_config(run_dir).train.statistics_inputs
    found = read_statistics(path, arrays, inputs, model)
    return network.put_weights(model, values, found)


def plain_weights(
    run_dir: str | os.PathLike, step: int | str | None = None
) -> dict[str, np.ndarray] | None:
    """What `model.plain` computes a run's encoder of, without building the network.

    Args:
        run_dir: The run.
        step: A kept step, `best`, or None for the last.

    Returns:
        Arrays by name; None where the network is another, or an array is not as it
        must be: `load_model` says what is wrong.

    Raises:
        RunError: If the run or the step is missing, or the file is damaged.
    """
    config = load_config(run_dir)
    arrays = read_arrays(kept_path(run_dir, step))
    try:
        check_moments(load_run(run_dir)["data"])
    except (KeyError, TypeError, ValueError):
        return None
    weights = {}
    variables = framework_of(config).plain_variables(config)
    if not variables or sum(name.startswith("model/") for name in arrays) != len(
        variables
    ):
        return None
    for number, variable in enumerate(variables):
        value = arrays.get(f"model/{number:04d}/{variable.name}")
        if value is None or (value.shape, str(value.dtype)) != variable[1:]:
            return None
        weights[variable.name] = value
    prefix = f"statistics/{config.train.statistics_inputs}"
    moments = {
        f"{layer}/moving_{part}": f"{prefix}/{number:04d}/{part}"
        for number, layer in enumerate(plain.batch_norm_names(variables))
        for part in ("mean", "variance")
    }
    moments |= {
        name: f"{prefix}/{name}"
        for name in weights
        if name.startswith(f"{EMBEDDING_NAME}/")
    }
    return replace_statistics(weights, {k: arrays.get(v) for k, v in moments.items()})


def replace_statistics(
    weights: dict[str, np.ndarray], found: Mapping[str, np.ndarray | None]
) -> dict[str, np.ndarray] | None:
    """Weights with other moments; None where one is missing, or of another shape."""
    for name, value in found.items():
        if (
            value is None
            or value.shape != weights[name].shape
            or value.dtype != weights[name].dtype
        ):
            return None
        weights[name] = value
    return weights


def encoder_key(
    run_dir: str | os.PathLike,
    step: int | str | None = None,
    statistics: str | None = None,
) -> str:
    """16 hexadecimal digits that stand for what `load_model`'s encoder computes."""
    config = load_config(run_dir)
    inputs = statistics or config.train.statistics_inputs
    digest = hashlib.sha256()
    for name in _WEIGHTLESS_FIELDS:
        value = getattr(config.model, name)
        if value != getattr(ModelConfig, name):
            digest.update(f"{name}={value}".encode())
    arrays = read_arrays(kept_path(run_dir, step))
    for name in sorted(arrays):
        if name.startswith(("model/", f"statistics/{inputs}/")):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]
