"""A warm start: a run's first weights are another run's, or a pretrained folder's.

What another run learned is a fine start for training on an own collection. Optimizer,
schedule and pairs begin anew. The run keeps the weights that it started from as
`kept/init.npz`; its step 0 stays a network with fresh random weights, so that
`untrained` means the same for every run.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import numpy as np
from absl import logging

from cola_msa.config.schema import Config
from cola_msa.hub import loading, pretrained
from cola_msa.model.contrastive import PairModel
from cola_msa.runs import kept, network
from cola_msa.system.errors import RunError
from cola_msa.values.arrays import read_arrays

KEPT_NAME = "init"  # kept/init.npz


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Weights to start from.

    Attributes:
        path: The kept checkpoint, or the pretrained folder.
        fingerprint: 16 hexadecimal digits that stand for the weights.
        weights: By name within the model, float arrays.
    """

    path: pathlib.Path
    fingerprint: str
    weights: dict[str, np.ndarray]

    def describe(self) -> dict[str, Any]:
        """What config.json says about it."""
        return {"path": str(self.path.resolve()), "fingerprint": self.fingerprint}


def read_warm_start(source: str | os.PathLike) -> WarmStart:
    """Reads what `--init_from` names.

    Args:
        source: A run directory (its last kept encoder), one kept/*.npz of it, or a
            pretrained folder, its URL or its name.

    Raises:
        RunError: If it is none of them, or damaged.
    """
    path = loading.resolve(source)
    if pretrained.is_pretrained(path):
        variables = pretrained.load_model(path).variables
        arrays = {
            network.array_name("model", number, variable): np.array(variable)
            for number, variable in enumerate(variables)
        }
    else:
        path = _kept_file(path)
        arrays = read_arrays(path)
    digest = hashlib.sha256()
    weights: dict[str, np.ndarray] = {}
    for name, value in sorted(arrays.items()):
        # Seed generators are integers; the new run has its own.
        parts = name.split("/", 2)
        if parts[0] == "model" and len(parts) == 3 and value.dtype.kind == "f":
            weights[parts[2]] = value
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    if not weights:
        raise RunError(f"--init_from={path}: holds no weights of a model")
    return WarmStart(path, digest.hexdigest()[:16], weights)


def _kept_file(path: pathlib.Path) -> pathlib.Path:
    if (path / "config.json").exists():
        return kept.kept_path(path)
    if path.is_dir() or path.suffix != ".npz" or not path.exists():
        held = "it holds no config.json" if path.is_dir() else "there is no such file"
        raise RunError(
            f"--init_from={path}: must name a run directory, one of its kept/*.npz or "
            f"a pretrained folder; {held}"
        )
    return path


def checked(start: WarmStart | None, config: Config) -> WarmStart | None:
    """The start, if it is the configuration's and fits its network.

    Raises:
        RunError: If the configuration asks for another start, or for none, or if
            `assign` would refuse it: nothing has been written yet.
    """
    if config.train.init_from != (start.fingerprint if start else ""):
        raise RunError(
            f"the configuration starts from {config.train.init_from or 'fresh weights'}"
            f", not from {start.fingerprint if start else 'fresh weights'}"
        )
    if start:
        moments = {"log_mel_mean": 0.0, "log_mel_std": 1.0}
        _match(network.build_network(config, moments), start)
    return start


def assign(model: PairModel, start: WarmStart) -> list[str]:
    """Gives a model the weights that fit; the whole encoder must.

    The input normalization comes along: the first layers were trained behind it.

    Args:
        model: With fresh weights; every replica gets the same.
        start: From `read_warm_start`.

    Returns:
        Names of the head's weights that keep their fresh values, for want of fitting
        ones (a similarity or a silence of another kind).

    Raises:
        RunError: If a weight of the encoder is missing or has another shape; then
            nothing is assigned.
    """
    found, fresh = _match(model, start)
    network.put_weights(model, found)
    if fresh:
        logging.warning("--init_from: fresh weights for %s", ", ".join(fresh))
    return fresh


def _match(
    model: PairModel, start: WarmStart
) -> tuple[list[tuple[Any, np.ndarray]], list[str]]:
    """Variables with their new values, and names of those that keep their own."""
    encoder = {id(variable) for variable in model.encoder.variables}
    found, fresh = [], []
    for variable in model.variables:
        if np.dtype(variable.dtype).kind != "f":
            continue
        name = network.plain_path(variable)
        value = start.weights.get(name)
        if value is not None and tuple(value.shape) == tuple(variable.shape):
            found.append((variable, value))
        elif id(variable) in encoder:
            is_shape = "is not there" if value is None else f"is {value.shape} there"
            raise RunError(
                f"--init_from={start.path}: belongs to another network: of this run's "
                f"encoder {name}, of shape {tuple(variable.shape)}, {is_shape}; start "
                "from a run of the same --framework, --backbone and --pooling"
            )
        else:
            fresh.append(name)
    return found, fresh
