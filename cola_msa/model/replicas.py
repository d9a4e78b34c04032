"""Variables under TensorFlow's distribution: each replica's copy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def replica_values(variable: Any) -> list[np.ndarray]:
    """A variable's value on every replica; one value without a distribution.

    Under MirroredStrategy most variables are equal on all replicas. Moving statistics
    are not: each replica moves its own by its own part of the batch.
    """
    value = variable.value
    if isinstance(value, tf.distribute.DistributedValues):
        return [copy.numpy() for copy in value.values]
    return [np.array(variable)]


def assign_replicas(variable: Any, values: Sequence[np.ndarray]) -> None:
    """Gives every replica's copy of a variable its own value, in their order."""
    value = variable.value
    if not isinstance(value, tf.distribute.DistributedValues):
        (only,) = values
        variable.assign(only)
        return
    for copy, found in zip(value.values, values, strict=True):
        copy.assign(found)
