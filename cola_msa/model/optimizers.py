"""Adam with a schedule, a rate of its own for the kernel, and averaged weights."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.model import replicas


@keras.saving.register_keras_serializable(package="cola_msa")
class RateSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to `rate` over the warm-up, then halves once, or falls to 0."""

    def __init__(
        self,
        rate: float,
        warmup_updates: int = 0,
        halve_at_update: int = 0,
        zero_at_update: int = 0,
    ):
        """Creates the schedule.

        Args:
            rate: The full rate.
            warmup_updates: Updates until the full rate is reached.
            halve_at_update: From this update on half of it; 0 means never.
            zero_at_update: After the warm-up it falls along half a cosine, to 0 at
                this update; 0 means never.
        """
        self.rate = rate
        self.warmup_updates = warmup_updates
        self.halve_at_update = halve_at_update
        self.zero_at_update = zero_at_update

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate of update `step`, counted from 0."""
        update = tf.cast(step, tf.float32)
        rate = tf.constant(self.rate, tf.float32)
        if self.warmup_updates:
            rate *= tf.minimum(1.0, (update + 1.0) / self.warmup_updates)
        if self.halve_at_update:
            rate *= tf.where(update >= self.halve_at_update, 0.5, 1.0)
        if self.zero_at_update:
            length = max(1, self.zero_at_update - self.warmup_updates)
            part = tf.clip_by_value((update - self.warmup_updates) / length, 0.0, 1.0)
            rate *= 0.5 * (1.0 + tf.cos(math.pi * part))
        return rate

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the schedule."""
        return {
            "rate": self.rate,
            "warmup_updates": self.warmup_updates,
            "halve_at_update": self.halve_at_update,
            "zero_at_update": self.zero_at_update,
        }


@keras.saving.register_keras_serializable(package="cola_msa")
class KernelRateAdam(keras.optimizers.Adam):
    """Adam whose rate for the bilinear kernel is a multiple of the network's.

    Adam moves every entry of the 512 x 512 kernel by about the rate in one update; on
    projections that are nearly constant over a batch that is tens in the logits.

    With `average_decay` it keeps a running average of the weights beside them. Over
    the first updates the decay is smaller, n / (n + 9) after n, so that the weights of
    the untrained network leave no trace, which is what Keras's own `use_ema`, whose
    decay is constant, does not do: of 200 updates at 0.99 it keeps 13 % of the first.
    """

    def __init__(
        self,
        *args: Any,
        kernel_rate: float = 1.0,
        average_decay: float = 0.0,
        **kwargs: Any,
    ):
        """Takes Adam's arguments, the kernel's multiple and the average's decay."""
        super().__init__(*args, **kwargs)
        self.kernel_rate = kernel_rate
        self.average_decay = average_decay
        self.averages: list = []

    def build(self, variables: list) -> None:
        """Makes the slots of the variables to train."""
        was_built = self.built
        super().build(variables)
        if self.average_decay and not was_built:
            self.averages = self.add_optimizer_variables(variables, "average")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies one variable's gradient."""
        index = self._get_variable_index(variable)
        if self._trainable_variables[index].path.endswith("similarity/kernel"):
            learning_rate = learning_rate * self.kernel_rate
        super().update_step(gradient, variable, learning_rate)
        if self.average_decay:
            done = tf.cast(self.iterations, tf.float32)
            decay = tf.minimum(self.average_decay, done / (done + 9.0))
            average, value = self.averages[index], tf.convert_to_tensor(variable)
            change = (1.0 - decay) * (value - tf.convert_to_tensor(average))
            self.assign_add(average, change)

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the optimizer."""
        own = {"kernel_rate": self.kernel_rate, "average_decay": self.average_decay}
        return {**super().get_config(), **own}


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """The model with its weights' running average in their place.

    Inside, the trainable variables hold the average; after it their own values again,
    bit for bit, on every replica. Nothing changes where no average is kept, or before
    the first update.

    Args:
        model: Compiled with `build_optimizer`'s result, which is built.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    averages = getattr(optimizer, "averages", [])
    if not averages or not replicas.replica_values(optimizer.iterations)[0]:
        yield
        return
    own = [replicas.replica_values(variable) for variable in model.trainable_variables]
    try:
        for variable, average in zip(model.trainable_variables, averages, strict=True):
            replicas.assign_replicas(variable, replicas.replica_values(average))
        yield
    finally:
        for variable, values in zip(model.trainable_variables, own, strict=True):
            replicas.assign_replicas(variable, values)


def build_optimizer(
    config: TrainConfig, has_loss_scale: bool = False
) -> keras.optimizers.Optimizer:
    """Builds the pretext task's optimizer.

    Args:
        config: Rates and schedule.
        has_loss_scale: Scale the loss, by a factor that adapts itself, so that
            gradients do not vanish in float16.

    Raises:
        ValueError: If the average's decay is not at least 0 and below 1.

    Source: section 5 (Adam, 0.001, halved after 5,000 steps); differs: warm-up, decay
        of the rate (Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts),
        the kernel's own rate and averaged weights, all off in the presets `paper` and
        `authors`.
    """
    num_updates = config.steps * config.updates_per_step
    schedule = RateSchedule(
        config.learning_rate,
        config.warmup_updates,
        config.halve_at_step * config.updates_per_step,
        num_updates if config.rate_decay == "cosine" else 0,
    )
    if not 0.0 <= config.average_decay < 1.0:
        raise ValueError(
            f"--average_decay={config.average_decay}: give 0 (the last weights) or a "
            "decay below 1, as 0.99"
        )
    optimizer = KernelRateAdam(
        schedule,
        kernel_rate=config.kernel_rate,
        average_decay=config.average_decay,
    )
    if has_loss_scale:
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
