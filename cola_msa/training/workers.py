"""The devices and processes that train one model together: on one machine, or several.

On several, every worker runs the same loop in the same order; what only one may do
(writing files, validating) is the chief's, and what it finds out is shared. They read
each other's state through TensorFlow's collective operations alone, and the run
directory, which must be the same folder on a file system that all of them see.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.model import replicas
from cola_msa.system import signals
from cola_msa.system.errors import RunError, UserError
from cola_msa.values.reading import FIELD_ERRORS

T = TypeVar("T")

_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


class WorkerError(UserError):
    """The workers cannot train together."""


def parse_tf_config(text: str | None) -> tuple[int, int]:
    """Reads TF_CONFIG.

    Args:
        text: The variable's value; None where it is not set.

    Returns:
        This worker's number, and how many workers there are.

    Raises:
        WorkerError: If it does not name the workers and this one among them.
    """
    example = (
        '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise WorkerError(
            "--distribution=multi_worker needs the environment variable TF_CONFIG, "
            f"for example {example}, with another index on every machine"
        )
    try:
        values = json.loads(text)
        jobs, task = values["cluster"], values["task"]
        if set(jobs) - {"chief", "worker"}:
            raise ValueError(f"jobs {', '.join(jobs)}; only chief and worker train")
        number = int(task["index"])
        addresses = jobs[task["type"]]
        if not 0 <= number < len(addresses):
            raise ValueError(f"no {task['type']} {number} among {addresses}")
        jobs = {name: list(values) for name, values in jobs.items()}
    except (*FIELD_ERRORS, RecursionError) as error:
        raise WorkerError(
            f"TF_CONFIG={text:.300}: {error!r}; it must look like {example}"
        ) from error
    chiefs = len(jobs.get("chief", []))
    is_after_chief = task["type"] == "worker"
    return number + chiefs * is_after_chief, chiefs + len(jobs.get("worker", []))


def multi_worker_strategy() -> tf.distribute.Strategy:
    """Joins the workers that TF_CONFIG names; waits until all of them are there.

    Call it before TensorFlow does anything else.

    Raises:
        WorkerError: If TF_CONFIG is missing or wrong, or the workers do not meet.
    """
    number, count = parse_tf_config(os.environ.get("TF_CONFIG"))
    logging.info("worker %d of %d: waiting for the others", number, count)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise WorkerError(
            f"the {count} workers of TF_CONFIG did not meet ({error.message}): start "
            "the same command on all of them, each with its own index"
        ) from error
    logging.info("worker %d of %d: all are there", number, count)
    return strategy


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
        return multi_worker_strategy()
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


class Workers:
    """This process among those that train one model.

    Attributes:
        count: How many there are; 1 without MultiWorkerMirroredStrategy.
        is_chief: Whether this one writes files and validates.
        first_replica: Number of its first replica among those of all workers.
        num_local_replicas: How many replicas it has.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        """Reads the strategy; nothing is sent yet."""
        self._strategy = strategy
        self.count, number = 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            number, self.count = parse_tf_config(os.environ.get("TF_CONFIG"))
        self.is_chief = number == 0
        self.num_local_replicas = strategy.num_replicas_in_sync // self.count
        self.first_replica = number * self.num_local_replicas
        self._sum = tf.function(self._sum_over_replicas)
        self._gather = tf.function(self._gather_over_replicas)

    def share(self, values: Sequence[float]) -> list[float]:
        """Sums numbers over the workers; every one must call it, with as many.

        Raises:
            WorkerError: If a worker is lost.
        """
        if self.count == 1:
            return [float(value) for value in values]
        with self.noticing_losses():
            own = tf.constant([float(value) for value in values], tf.float64)
            total = self._sum(own / self.num_local_replicas)
            return [float(value) for value in total.numpy()]

    def _sum_over_replicas(self, values: tf.Tensor) -> tf.Tensor:
        per_replica = self._strategy.run(tf.identity, args=(values,))
        return self._strategy.reduce("SUM", per_replica, axis=None)

    def share_chiefs(self, values: Sequence[float]) -> list[float]:
        """The chief's numbers, on all workers; every one must call it, with as many."""
        return self.share([value if self.is_chief else 0.0 for value in values])

    def chief_first(self, action: Callable[[], T]) -> T:
        """Runs an action on the chief, then on the others; all go on, or none does.

        Raises:
            RunError: What the action raised here, or that it failed on another worker.
        """
        result: Any = None
        for is_chiefs_turn in (True, False):
            error: RunError | None = None
            if self.is_chief == is_chiefs_turn:
                try:
                    result = action()
                except RunError as found:
                    error = found
            num_failed = self.share([error is not None])[0]
            if error:
                raise error
            if num_failed:
                raise RunError("another worker cannot go on: its own message says why")
        return result

    def replica_values(self, variables: Sequence[Any]) -> list[list[np.ndarray]]:
        """Every replica's value of every variable; every worker must call it.

        Returns:
            For each variable one value a replica, over all workers; of variables that
            cannot differ by worker those of this worker's replicas.

        Raises:
            WorkerError: If a worker is lost.
        """
        local = [replicas.replica_values(variable) for variable in variables]
        if self.count == 1:
            return local
        # Moving statistics are each replica's own; all else is equal everywhere.
        numbers = [n for n, v in enumerate(variables) if "/moving_" in v.path]
        if not numbers:
            return local
        with self.noticing_losses():
            own = [variables[number] for number in numbers]
            gathered = self._gather(own).numpy()
        sizes = np.cumsum([local[number][0].size for number in numbers])[:-1]
        for number, part in zip(numbers, np.split(gathered, sizes, 1), strict=True):
            shape = local[number][0].shape
            local[number] = [values.reshape(shape) for values in part]
        return local

    def _gather_over_replicas(self, variables: Sequence[Any]) -> tf.Tensor:
        def flatten() -> tf.Tensor:
            parts = [tf.reshape(tf.convert_to_tensor(v), [-1]) for v in variables]
            context = tf.distribute.get_replica_context()
            return context.all_gather(tf.concat(parts, 0)[tf.newaxis], axis=0)

        per_replica = self._strategy.run(flatten)
        return self._strategy.experimental_local_results(per_replica)[0]

    @contextlib.contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """Turns TensorFlow's errors about a lost worker into a WorkerError."""
        try:
            yield
        except _LOST as error:
            if self.count == 1:
                raise
            lines = [x for x in str(error.message).splitlines() if x.strip()]
            reason = next((x for x in lines if "abort" in x.lower()), lines[0])
            reason = re.sub(r"\{\{.*?\}\} ?", "", reason).rstrip(" :")
            raise WorkerError(
                f"another worker is lost ({reason[:300]}). Start the same command on "
                "all workers again: they go on from the last checkpoint"
            ) from error


class StopRequestedError(Exception):
    """A signal came; what was being computed can be computed again."""


class Stops:
    """Notes signals, and stops where every worker does."""

    def __init__(self, workers: Workers):
        """Catches nothing yet."""
        self._workers = workers
        self._is_asked = False

    @contextlib.contextmanager
    def caught_signals(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM are noted instead of ending the process."""

        def note(number: int, _: Any) -> None:
            self._is_asked = True

        self._is_asked = False
        with signals.handled_by(note):
            yield

    def stop_if_asked(self) -> None:
        """For what runs inside `on_chief`, between its parts.

        Raises:
            StopRequestedError: If a signal has come to this process.
        """
        if self._is_asked:
            raise StopRequestedError

    def stop_together(self) -> None:
        """Stops all workers if any of them was asked to; every one must call it.

        Raises:
            StopRequestedError: If a signal has come to one of them.
        """
        if self._workers.share([self._is_asked])[0]:
            raise StopRequestedError

    def on_chief(self, compute: Callable[[], T]) -> T | None:
        """Computes on the chief alone; a signal that stops it there stops all.

        Returns:
            The result; None on the others.

        Raises:
            StopRequestedError: On all workers, if the computation was stopped.
        """
        result, is_stopped = None, False
        if self._workers.is_chief:
            try:
                result = compute()
            except StopRequestedError:
                is_stopped = True
        if self._workers.share([is_stopped])[0]:
            raise StopRequestedError
        return result
