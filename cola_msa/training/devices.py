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


def set_up_cpu(num_devices: int = 1, num_threads: int = 0) -> None:
    """Divides the CPU, before TensorFlow does anything else.

    Args:
        num_devices: Logical CPUs, which replicas may have one each.
        num_threads: Threads of one operation; 0 lets TensorFlow choose.
    """
    if num_devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
        )
    if num_threads:
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(num_threads)
