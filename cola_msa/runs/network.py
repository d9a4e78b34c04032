"""The run's network: built as config.json describes it, and weights put into it.

Everything that holds a run's weights comes here: kept encoders, the state of training,
pretrained folders, warm starts, imported checkpoints.
"""

import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from cola_msa.config.checks import check_moments
from cola_msa.config.schema import Config, from_dict
from cola_msa.frameworks.choose import framework_of
from cola_msa.model import replicas
from cola_msa.model.contrastive import PairModel
from cola_msa.model.statistics import BatchStatistics
from cola_msa.runs import directory
from cola_msa.system.errors import RunError
from cola_msa.values.reading import damage_as


def build_network(
    config: Config,
    data: dict[str, Any],
    seed: int | None = None,
    encoder_policy: str | None = None,
) -> PairModel:
    """The network of a configuration, with fresh weights.

    Args:
        config: Of the run.
        data: What config.json says of the data, checked; `log_mel_mean` and
            `log_mel_std` are used.
        seed: Of the weights; None is the configuration's.
        encoder_policy: Keras's dtype policy of the encoder, for training; None is
            float32.
    """
    seed = config.train.seed if seed is None else seed
    return framework_of(config).build_network(config, data, seed, encoder_policy)


def fresh_network(run_dir: str | os.PathLike, seed: int | None = None) -> PairModel:
    """A run's network with fresh weights.

    Args:
        run_dir: The run.
        seed: Of the weights; None is the run's.

    Raises:
        RunError: If there is no such run, or its config.json is damaged.
    """
    run = directory.load_run(run_dir)
    path = pathlib.Path(run_dir) / "config.json"
    with damage_as(RunError, path, "put it back from a copy"):
        check_moments(run["data"])
    return build_network(from_dict(Config, run["config"]), run["data"], seed)


def array_name(prefix: str, number: int, variable: Any) -> str:
    """Name of a variable in a checkpoint: the same in every process.

    Keras counts seed generators up within a process: their number says nothing.
    """
    return f"{prefix}/{number:04d}/{plain_path(variable)}"


def plain_path(variable: Any) -> str:
    """A variable's path within the model, without the numbers that Keras counts up."""
    return re.sub(r"_\d+/", "/", variable.path)


def fitting_values(
    prefix: str, variables: list, arrays: dict[str, np.ndarray]
) -> list[tuple[Any, np.ndarray]]:
    """Every variable with its value; a set that does not fit exactly is refused.

    Raises:
        RunError: If a value is missing, superfluous or of another shape or type.
    """
    found = {
        int(parts[1]): (name, value)
        for name, value in arrays.items()
        if (parts := name.split("/"))[0] == prefix and parts[1].isdecimal()
    }
    if sorted(found) != list(range(len(variables))):
        raise RunError(
            f"the checkpoint holds {len(found)} variables of the {prefix}, "
            f"which has {len(variables)}: it belongs to another configuration"
        )
    values = []
    for number, variable in enumerate(variables):
        name, value = found[number]
        if tuple(value.shape) != tuple(variable.shape):
            raise RunError(
                f"{name}: shape {value.shape} in the checkpoint, "
                f"{tuple(variable.shape)} in the model"
            )
        if value.dtype != np.dtype(variable.dtype):
            raise RunError(
                f"{name}: type {value.dtype} in the checkpoint, {variable.dtype} in "
                "the model"
            )
        values.append((variable, value))
    return values


def put_weights(
    model: PairModel,
    values: Iterable[tuple[Any, np.ndarray | list[np.ndarray]]],
    statistics: BatchStatistics | None = None,
) -> PairModel:
    """Gives variables of a model, and of its optimizer, their values.

    Args:
        model: The model.
        values: A variable, and its value or, in a list, each replica's.
        statistics: Batch-norm statistics that take the place of those among the values.

    Returns:
        The model; it normalizes its input by what it was given.
    """
    for variable, value in values:
        if not isinstance(value, list):
            value = [value] * len(replicas.replica_values(variable))
        replicas.assign_replicas(variable, value)
    model.settle()
    if statistics is not None:
        statistics.assign_to(model)
    return model
