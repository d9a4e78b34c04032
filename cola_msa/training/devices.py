"""The devices of a run: one, several of a machine, or several machines."""

import tensorflow as tf

from cola_msa.training import workers


def default_strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all GPUs, or over all logical CPUs without a GPU."""
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if devices:
            return tf.distribute.MirroredStrategy([device.name for device in devices])
    raise RuntimeError("TensorFlow found no device")


def build_strategy(distribution: str) -> tf.distribute.Strategy:
    """TensorFlow's strategy of `--distribution`; call it before anything else runs.

    Raises:
        WorkerError: If the workers of `multi_worker` are not named or do not meet.
    """
    if distribution == "multi_worker":
        return workers.multi_worker_strategy()
    return default_strategy()
