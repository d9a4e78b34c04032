"""Checkpoints in the authors' layout, with random weights, for tests."""

import numpy as np
import tensorflow as tf

from cola_msa.hub import released
from cola_msa.model.contrastive import ContrastiveModel

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
ENCODER = "embedding_model/layer_with_weights-0/layer_with_weights-"
KERNEL = f"_similarity_layer/bilinear_product_weight{SUFFIX}"


def make_variables():
    """Each key of the layout with its variable."""
    config = released.released_config()
    return released.released_variables(ContrastiveModel(config.model, config.frontend))


def make_tensors(variables):
    """Random weights of small activations, with batch-norm statistics of their own."""
    random = np.random.default_rng(7)
    found = {}
    for key, variable in variables.items():
        shape, name = tuple(variable.shape), key.split("/")[-3]
        if name in ("gamma", "variance", "moving_variance"):
            value = random.uniform(0.5, 1.5, shape)
        elif "kernel" in name:
            value = random.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape)
        else:
            value = random.normal(0, 0.1, shape)
        dtype = np.int64 if name == "count" else np.float32
        found[key] = np.asarray(value, dtype)
    return found


def write_checkpoint(folder, tensors, name="checkpoint-3"):
    """As the authors' optimizer leaves it: with keys that are no weights."""
    some = ENCODER + "1/kernel"
    tensors = {
        **tensors,
        f"save_counter{SUFFIX}": np.int64(3),
        f"optimizer/iter{SUFFIX}": np.int64(64000),
        f"{some}/.OPTIMIZER_SLOT/optimizer/m{SUFFIX}": np.zeros((3, 3, 1, 32)),
    }
    prefix = str(folder / name)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return prefix
