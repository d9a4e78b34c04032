"""Adam with a schedule, and a rate of its own for the similarity's kernel."""

from typing import Any

import keras
import tensorflow as tf

from cola_msa.config import TrainConfig


@keras.saving.register_keras_serializable(package="cola_msa")
class WarmupHalving(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to `rate` over the warm-up, then halves once."""

    def __init__(self, rate: float, warmup_updates: int = 0, halve_at_update: int = 0):
        """Creates the schedule.

        Args:
            rate: The full rate.
            warmup_updates: Updates until the full rate is reached.
            halve_at_update: From this update on half of it; 0 means never.
        """
        self.rate = rate
        self.warmup_updates = warmup_updates
        self.halve_at_update = halve_at_update

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate of update `step`, counted from 0."""
        update = tf.cast(step, tf.float32)
        rate = tf.constant(self.rate, tf.float32)
        if self.warmup_updates:
            rate *= tf.minimum(1.0, (update + 1.0) / self.warmup_updates)
        if self.halve_at_update:
            rate *= tf.where(update >= self.halve_at_update, 0.5, 1.0)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the schedule."""
        return {
            "rate": self.rate,
            "warmup_updates": self.warmup_updates,
            "halve_at_update": self.halve_at_update,
        }


@keras.saving.register_keras_serializable(package="cola_msa")
class KernelRateAdam(keras.optimizers.Adam):
    """Adam whose rate for the bilinear kernel is a multiple of the network's.

    Adam moves every entry of the 512 x 512 kernel by about the rate in one update; on
    projections that are nearly constant over a batch that is tens in the logits.
    """

    def __init__(self, *args: Any, kernel_rate: float = 1.0, **kwargs: Any):
        """Takes Adam's arguments and `kernel_rate`, the multiple."""
        super().__init__(*args, **kwargs)
        self.kernel_rate = kernel_rate

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies one variable's gradient."""
        index = self._get_variable_index(variable)
        if self._trainable_variables[index].path.endswith("similarity/kernel"):
            learning_rate = learning_rate * self.kernel_rate
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration of the optimizer."""
        return {**super().get_config(), "kernel_rate": self.kernel_rate}


def build_optimizer(
    config: TrainConfig, has_loss_scale: bool = False
) -> keras.optimizers.Optimizer:
    """Builds the pretext task's optimizer.

    Args:
        config: Rates and schedule.
        has_loss_scale: Scale the loss, by a factor that adapts itself, so that
            gradients do not vanish in float16.

    Source: section 5 (Adam, 0.001, halved after 5,000 steps); differs: warm-up and
        the kernel's own rate, both off in the presets `paper` and `authors`.
    """
    schedule = WarmupHalving(
        config.learning_rate,
        config.warmup_updates,
        config.halve_at_step * config.updates_per_step,
    )
    optimizer = KernelRateAdam(schedule, kernel_rate=config.kernel_rate)
    if has_loss_scale:
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
