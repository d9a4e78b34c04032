"""What a head is: its configuration, network, loss, accuracy, and when to stop."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.config.schema import MULTICLASS, MULTILABEL, Checked
from cola_msa.evaluation.probes.kept_heads import Member
from cola_msa.evaluation.tasks import TaskSpec
from cola_msa.system.errors import UserError
from cola_msa.values.fields import within

PROTOCOLS = ("cached", "paper")
PROBES = ("linear", "mlp", "ridge")
LOSS, ACCURACY = "validation loss", "validation accuracy"
_MONITORS = {"cached": LOSS, "paper": ACCURACY}
_MLP_UNITS = (512,)


class ProbeError(UserError):
    """Embeddings that no head can be trained on."""


def own_probe(task: TaskSpec) -> str:
    """The paper's probe for a task: `linear` or `mlp`."""
    return "mlp" if task.hidden_units else "linear"


def monitor_of(protocol: str) -> str:
    """What patience watches, and by what a ridge is chosen.

    Source: docs/architecture.md (the authors' code watches the accuracy).

    Raises:
        ProbeError: If there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ProbeError(
            f"--protocol must be {' or '.join(PROTOCOLS)}, not {protocol!r}"
        )
    return _MONITORS[protocol]


@dataclasses.dataclass(frozen=True)
class ProbeConfig(Checked):
    """How a head is trained. Source: the paper, section 5; docs/architecture.md.

    Attributes:
        task_type: `multilabel` or `multiclass`.
        hidden_units: Widths of hidden layers (relu).
        learning_rate: Adam's rate.
        batch_size: Windows a mini-batch.
        patience_epochs: Training stops after so many epochs in a row without a better
            value of the monitor; the best epoch's weights are restored.
        max_epochs: Upper limit.
        standardize: Scale every feature by its mean and deviation over the training
            windows first; the paper does not. Without it an untrained network's large
            features defeat the optimizer on small data.
        monitor: `validation loss` or `validation accuracy`, over windows. Of tags it
            is the share of right decisions at 0.5 over all windows and tags, as
            Keras's.
    """

    task_type: str
    hidden_units: tuple[int, ...]
    learning_rate: float = within(dataclasses.MISSING, 1e-12, 10.0)
    batch_size: int = within(128, 1)
    patience_epochs: int = within(5, 1)
    max_epochs: int = within(200, 1)
    standardize: bool = False
    monitor: str = LOSS

    @classmethod
    def of_task(
        cls, task: TaskSpec, probe: str | None = None, protocol: str = "cached"
    ) -> "ProbeConfig":
        """The head for a task, at the task's learning rate.

        Args:
            task: The task.
            probe: `linear`, `mlp`, or None for the paper's.
            protocol: `cached` or `paper`.

        Raises:
            ProbeError: If probe or protocol has no such head.
        """
        hidden = {None: task.hidden_units, "linear": (), "mlp": _MLP_UNITS}
        if probe not in hidden:
            raise ProbeError(f"--probe must be one of linear, mlp, not {probe!r}")
        return cls(
            task.task_type,
            hidden[probe],
            task.learning_rate,
            monitor=monitor_of(protocol),
        )


class BestEpoch:
    """Follows the monitor: keeps the best epoch's weights, says when to stop.

    Attributes:
        losses: Validation loss after each epoch.
        accuracies: Validation accuracy after each epoch.
        epoch: The best epoch, from 0.
        weights: Its weights.
    """

    def __init__(self, config: ProbeConfig):
        """Starts before the first epoch."""
        self._config = config
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.epoch = 0
        self.weights: list[np.ndarray] = []

    def add(
        self,
        loss: float,
        accuracy: float,
        get_weights: Callable[[], list[np.ndarray]],
    ) -> bool:
        """Takes an epoch's values.

        Args:
            loss: Validation loss.
            accuracy: Validation accuracy.
            get_weights: Copies the weights; called where the epoch is the best.

        Returns:
            Whether training should stop.

        Raises:
            ProbeError: If the loss is not finite.
        """
        if not np.isfinite(loss):
            raise ProbeError(f"the head's validation loss is {loss}")
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        number = len(self.losses) - 1
        if self._config.monitor == LOSS:
            is_better = loss < self.losses[self.epoch]
        else:
            is_better = accuracy > self.accuracies[self.epoch]
        if number == 0 or is_better:
            self.epoch, self.weights = number, get_weights()
        return number - self.epoch >= self._config.patience_epochs

    def warn(self, title: str, epoch_updates: int) -> None:
        """Says so where no epoch was better than the first.

        Args:
            title: Of the training.
            epoch_updates: Updates an epoch.
        """
        if self.epoch == 0 and len(self.losses) > 1:
            logging.warning(
                "%s: the %s was never better than after the first epoch, of %d "
                "updates: what it gives is hardly trained",
                title,
                self._config.monitor,
                epoch_updates,
            )

    def describe(self) -> str:
        """The last epoch's values, for a progress bar."""
        return (
            f"epoch {len(self.losses)}, val. loss {self.losses[-1]:.4f}, "
            f"accuracy {self.accuracies[-1]:.4f}"
        )


def build_head(
    config: ProbeConfig,
    dim: int,
    num_classes: int,
    seed: int,
    moments: tuple[np.ndarray, np.ndarray] | None = None,
) -> keras.Model:
    """Builds an untrained head.

    Args:
        config: ProbeConfig.
        dim: Width of the embeddings.
        num_classes: Width of the logits.
        seed: Of the initial weights.
        moments: Mean and variance of each feature, [dim]; None leaves features alone.

    Returns:
        keras.Model, [batch, dim] -> logits [batch, num_classes].
    """
    widths = (*config.hidden_units, num_classes)
    layers = [
        keras.layers.Dense(
            width,
            activation="relu" if number < len(config.hidden_units) else None,
            kernel_initializer=keras.initializers.GlorotUniform(
                seed=1000 * seed + number
            ),
        )
        for number, width in enumerate(widths)
    ]
    if moments is not None:
        mean, variance = moments
        layers.insert(0, keras.layers.Normalization(mean=mean, variance=variance))
    return keras.Sequential([keras.Input((dim,)), *layers])


def member_of(layers: Sequence[keras.layers.Layer]) -> Member:
    """The weights of `build_head`'s layers, to be kept."""
    scaling = [x for x in layers if isinstance(x, keras.layers.Normalization)]
    moments: list[np.ndarray] = []
    if scaling:
        variance = np.asarray(scaling[0].variance).reshape(-1)
        moments = [np.asarray(scaling[0].mean).reshape(-1), np.sqrt(variance)]
    dense = [x for x in layers if isinstance(x, keras.layers.Dense)]
    weights = [(np.array(x.kernel), np.array(x.bias)) for x in dense]
    return Member(tuple(weights), *moments)


def to_probabilities(logits: tf.Tensor, is_tags: bool) -> tf.Tensor:
    """Sigmoids for tags, softmax for classes."""
    return tf.sigmoid(logits) if is_tags else tf.nn.softmax(logits)


def window_losses(task_type: str, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Loss of each window, float32 [batch]; over tags the mean, as Keras's is."""
    if task_type == MULTILABEL:
        tags = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(tags, axis=-1)
    if task_type == MULTICLASS:
        return tf.nn.softmax_cross_entropy_with_logits(labels, logits)
    raise ValueError(f"task_type must be multilabel or multiclass, not {task_type!r}")


def window_accuracies(
    task_type: str, labels: tf.Tensor, logits: tf.Tensor
) -> tf.Tensor:
    """Accuracy of each window, float32 [batch].

    Of tags the share of right decisions at a probability of 0.5 (Keras's binary
    accuracy), of classes 1 where the largest logit is the right one.
    """
    if task_type == MULTILABEL:
        is_right = tf.equal(logits > 0.0, labels > 0.5)
        return tf.reduce_mean(tf.cast(is_right, tf.float32), axis=-1)
    is_right = tf.equal(tf.argmax(logits, axis=-1), tf.argmax(labels, axis=-1))
    return tf.cast(is_right, tf.float32)
