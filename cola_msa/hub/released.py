"""Checkpoints in the layout of the authors' released ones, read by name.

The authors save `tf.train.Checkpoint(model)` of Keras 2, whose keys follow the object
graph: the encoder's layers that have weights are numbered in their order, then comes
the projection head; the similarity's kernel stands for itself. Keras 3 cannot restore
such a checkpoint (`tf.train.Checkpoint.restore` restores nothing of it, silently), so
every tensor is found by its key, and what was found is counted.

Source: https://github.com/cgaroufis/MSCOL_SMC23, `models/`.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import SOURCES, Config
from cola_msa.config.strategies import STRATEGIES
from cola_msa.model.contrastive import PairModel
from cola_msa.model.losses import BilinearSimilarity
from cola_msa.model.statistics import BatchStatistics
from cola_msa.runs import directory, kept, network
from cola_msa.system import folders
from cola_msa.system.errors import RunError
from cola_msa.system.files import temporary_folder
from cola_msa.values import arrays

NUM_TENSORS = 317
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_ENCODER = "embedding_model/layer_with_weights-0/layer_with_weights-"
_HEAD = "embedding_model/layer_with_weights-"
_KERNEL = f"_similarity_layer/bilinear_product_weight{_SUFFIX}"
# Keys that are no weights of the network.
_BOOKKEEPING = ("_CHECKPOINTABLE_OBJECT_GRAPH", f"save_counter{_SUFFIX}")
_OPTIMIZER = "optimizer/"
_OPTIMIZER_SLOT = "/.OPTIMIZER_SLOT/"
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError)
# Names in Keras 3 that differ from those in Keras 2.
_NORMALIZATION_NAMES = {"adapt_mean": "mean", "adapt_variance": "variance"}


def released_variables(model: PairModel) -> dict[str, Any]:
    """Each key of the authors' layout with the variable that it belongs to.

    Args:
        model: EfficientNetB0 with the bilinear similarity.

    Returns:
        317 keys and variables, in the network's order.

    Raises:
        RunError: If the model is another network.
    """
    variables: dict[str, Any] = {}
    layers = [layer for layer in model.encoder.layers if _weights(layer)]
    for number, layer in enumerate(layers):
        for name, variable in _weights(layer).items():
            variables[f"{_ENCODER}{number}/{name}{_SUFFIX}"] = variable
    head = [layer for layer in model.projector.layers if _weights(layer)]
    for number, layer in enumerate(head, start=1):
        for name, variable in _weights(layer).items():
            variables[f"{_HEAD}{number}/{name}{_SUFFIX}"] = variable
    if isinstance(model.similarity, BilinearSimilarity):
        variables[_KERNEL] = model.similarity.kernel
    if len(variables) != NUM_TENSORS:
        raise RunError(
            f"the authors' layout has {NUM_TENSORS} tensors, and this model "
            f"{len(variables)}: it must be efficientnetb0 with the bilinear similarity"
        )
    return variables


def _weights(layer: keras.Layer) -> dict[str, Any]:
    """A layer's variables by their names in Keras 2, without seed generators."""
    names: dict[str, str] = {}
    if isinstance(layer, keras.layers.Normalization):
        names = _NORMALIZATION_NAMES
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        names = {"kernel": "depthwise_kernel"}
    return {names.get(v.name, v.name): v for v in layer.weights}


def find_prefix(path: str | os.PathLike) -> str:
    """The prefix of a checkpoint that a prefix, its index file or a folder names.

    Raises:
        RunError: If there is none, or if its data file is missing.
    """
    text = os.fspath(path).removesuffix(".index")
    if pathlib.Path(text).is_dir():
        found = tf.train.latest_checkpoint(text)
        if found is None:
            raise RunError(f"--checkpoint={path}: this folder holds no checkpoint")
        text = found
    folder, name = pathlib.Path(text).parent, pathlib.Path(text).name
    if not pathlib.Path(f"{text}.index").exists():
        raise RunError(
            f"--checkpoint={path}: {text}.index does not exist; give the prefix of a "
            "TensorFlow checkpoint, such as models/multi-source/checkpoint-10"
        )
    if not list(folder.glob(f"{name}.data-*-of-*")):
        raise RunError(
            f"--checkpoint={path}: {text}.data-00000-of-00001 is missing beside its "
            "index; download both files"
        )
    return text


def read_released(
    prefix: str, variables: dict[str, Any]
) -> list[tuple[Any, np.ndarray]]:
    """Reads every tensor of a checkpoint, and refuses one that does not fit exactly.

    Args:
        prefix: The checkpoint's.
        variables: From `released_variables`.

    Returns:
        Each variable with its value; nothing is assigned.

    Raises:
        RunError: If a tensor is missing, left over, of another shape, not finite or
            damaged; the message names each. Optimizer state is not read.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
    except _READ_ERRORS as error:
        raise RunError(f"{prefix}: no TensorFlow checkpoint ({error})") from error
    weights = {key for key in shapes if not _is_bookkeeping(key)}
    problems = [f"missing: {key}" for key in variables if key not in weights]
    problems += [f"left over: {key}" for key in sorted(weights - set(variables))]
    dtypes = reader.get_variable_to_dtype_map()
    problems += [
        f"{key}: type {dtypes[key].name} instead of numbers"
        for key in variables
        if key in weights and not (dtypes[key].is_floating or dtypes[key].is_integer)
    ]
    problems += [
        f"{key}: shape {list(shapes[key])} instead of {list(variable.shape)}"
        for key, variable in variables.items()
        if key in weights and tuple(shapes[key]) != tuple(variable.shape)
    ]
    _refuse(prefix, problems)
    found = []
    for key, variable in variables.items():
        try:
            value = np.asarray(reader.get_tensor(key))
        except (*_READ_ERRORS, IndexError) as error:
            raise RunError(f"{prefix}: {key} cannot be read ({error})") from error
        if not np.isfinite(value).all():
            problems.append(f"{key}: holds values that are not finite")
        found.append((variable, value))
    _refuse(prefix, problems)
    return found


def _is_bookkeeping(key: str) -> bool:
    return key in _BOOKKEEPING or key.startswith(_OPTIMIZER) or _OPTIMIZER_SLOT in key


def _refuse(prefix: str, problems: Sequence[str]) -> None:
    if problems:
        shown = problems[:8]
        more = f"; and {len(problems) - len(shown)} more" if problems[8:] else ""
        raise RunError(
            f"{prefix}: not in the layout of the authors' checkpoints "
            f"({NUM_TENSORS} tensors): {'; '.join(shown)}{more}"
        )


# The authors' script saves once in so many of its steps (64 updates of 128 pairs).
_STEPS_PER_SAVE = 1000


def released_config(source: str = "multi") -> Config:
    """The authors' settings: L2 level, no input normalization, T = 1, a 512 kernel.

    Args:
        source: `multi`, or the one source that the model was trained with.

    Raises:
        RunError: If there is no such source.
    """
    name = "msa" if source == "multi" else f"msa_{source}"
    if source != "multi" and source not in SOURCES:
        raise RunError(f"--source={source}: must be one of multi, {', '.join(SOURCES)}")
    return STRATEGIES[name].apply(get_preset("authors"))


def import_weights(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    source: str = "multi",
    step: int | None = None,
    dataset: str = "mtat",
) -> dict[str, Any]:
    """Writes a run directory from a checkpoint in the authors' layout.

    Args:
        checkpoint: Its prefix, its index file, or its folder.
        output_dir: The run directory; it must not exist, or be empty.
        source: `multi`, or the one source that the model was trained with.
        step: The authors' step that it was saved at; None takes the number in its
            name in thousands, which is how their script counts.
        dataset: What it was trained on.

    Returns:
        `tensors` assigned, `step`, `run_dir` and `encoder_key`.

    Raises:
        RunError: If any of the 317 tensors is missing, left over or of another shape;
            nothing is written then.
        FileError: If `output_dir` holds anything.
    """
    output_dir = pathlib.Path(output_dir)
    folders.check_replaceable(output_dir, _never_ours, "an empty folder")
    config = released_config(source)
    prefix = find_prefix(checkpoint)
    step = _step_of(prefix) if step is None else step
    if step < 1:
        raise RunError(f"--step={step}: must be 1 or more; 0 is an untrained network")
    data = {
        "data_dir": "",
        "manifest_hash": None,
        "dataset": dataset,
        "sources": list(SOURCES) if source == "multi" else [source],
        "separator": None,
        "log_mel_mean": 0.0,
        "log_mel_std": 1.0,
    }
    model = network.build_network(config, data)
    values = read_released(prefix, released_variables(model))
    network.put_weights(model, values)
    # The authors' moving statistics stand for both kinds of input.
    statistics = BatchStatistics.of(model)
    updates = step * config.train.updates_per_step
    done = {
        "outcome": "imported",
        "step": step,
        "updates": updates,
        "pairs": updates * config.train.pairs_per_update(1),
        "training_seconds": 0.0,
    }
    origin = f"the checkpoint {pathlib.Path(prefix).name}, in the authors' layout"
    with temporary_folder(output_dir) as temporary:
        kept.save_kept(
            temporary, model, {"anchors": statistics, "pairs": statistics}, step
        )
        arrays.write_json(temporary / directory.DONE_NAME, done)
        arrays.write_json(
            temporary / "config.json",
            {**directory.describe_run(config, data, 1), "source": origin},
        )
        folders.replace_folder(temporary, output_dir, _never_ours, "an empty folder")
    return {
        "tensors": len(values),
        "step": step,
        "run_dir": str(output_dir),
        "encoder_key": kept.encoder_key(output_dir),
    }


def _never_ours(folder: pathlib.Path) -> None:
    """A run is never replaced: training may have gone on in it."""


def _step_of(prefix: str) -> int:
    number = re.search(r"-(\d+)$", prefix)
    if number is None or int(number[1]) < 1:
        raise RunError(
            f"--checkpoint={prefix}: its name has no number to take the step from; "
            "give it by --step"
        )
    return int(number[1]) * _STEPS_PER_SAVE
