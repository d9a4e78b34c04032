"""Shallow heads on frozen embeddings: training, early stopping, clip scores.

A head is trained on single windows, each with its clip's labels; a clip's score is
the mean of its windows' probabilities. Windows pass through one compiled loop of many
mini-batches a call, because a mini-batch costs less than a call does.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cola_msa.embeddings import EmbeddedSplit, progress_bar, read_ahead
from cola_msa.records import DataError
from cola_msa.tasks import MULTICLASS, MULTILABEL, TaskSpec

_CALL_BATCHES = 32
_EVALUATION_WINDOWS = 8192
# Below this a split is read once; above, in shuffled blocks, a chunk at a time.
_RESIDENT_BYTES = 1_250_000_000
_CHUNK_BYTES = 400_000_000
_BLOCK_WINDOWS = 1024


_MOMENT_WINDOWS = 4096  # read at once


class ProbeError(ValueError):
    """Embeddings that no head can be trained on."""


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """How a head is trained. Source: the paper, section 4; DESIGN section 8.

    Attributes:
        task_type: `multilabel` or `multiclass`.
        hidden_units: Widths of hidden layers (relu).
        learning_rate: Adam's rate.
        batch_size: Windows a mini-batch.
        patience_epochs: Training stops after so many epochs in a row without a lower
            validation loss; the best epoch's weights are restored.
        max_epochs: Upper limit.
        standardize: Scale every feature by its mean and deviation over the training
            windows first; the paper does not. Without it an untrained network's large
            features defeat the optimizer on small data.
    """

    task_type: str
    hidden_units: tuple[int, ...]
    learning_rate: float
    batch_size: int = 128
    patience_epochs: int = 5
    max_epochs: int = 200
    standardize: bool = False

    @classmethod
    def of_task(cls, task: TaskSpec) -> "ProbeConfig":
        """The paper's head for a task."""
        return cls(task.task_type, task.hidden_units, task.learning_rate)


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A head with its best epoch's weights.

    Attributes:
        model: float32 [batch, D] -> logits [batch, K].
        config: How it was trained.
        train_loss: Mean loss over each epoch's mini-batches.
        validation_loss: Mean loss over validation windows after each epoch.
        best_epoch: Whose weights the model has, from 0.
        seconds: Wall-clock time of training.
    """

    model: keras.Model
    config: ProbeConfig
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int
    seconds: float


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


def feature_moments(split: EmbeddedSplit) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each feature over a split's windows, float32 [D] each.

    A feature that never changes gets variance 1, so that it becomes 0.
    """
    total, squares = np.zeros(split.dim), np.zeros(split.dim)
    for start in range(0, split.num_windows, _MOMENT_WINDOWS):
        part = split.read(start, min(start + _MOMENT_WINDOWS, split.num_windows))
        part = part.astype(np.float64)
        total += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
    mean = total / split.num_windows
    variance = np.maximum(squares / split.num_windows - np.square(mean), 0.0)
    variance[variance < 1e-10] = 1.0
    return mean.astype(np.float32), variance.astype(np.float32)


def _window_losses(task_type: str, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Loss of each window, float32 [batch]; over tags the mean, as Keras's is."""
    if task_type == MULTILABEL:
        tags = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(tags, axis=-1)
    if task_type == MULTICLASS:
        return tf.nn.softmax_cross_entropy_with_logits(labels, logits)
    raise ValueError(f"task_type must be multilabel or multiclass, not {task_type!r}")


class _Windows:
    """Windows of a split with their labels, in order or in a new order each epoch."""

    def __init__(self, split: EmbeddedSplit):
        self._split = split
        self._clips = split.window_clips()
        is_resident = split.num_bytes <= _RESIDENT_BYTES
        self._resident = split.read(0, split.num_windows) if is_resident else None

    def _read(self, start: int, stop: int) -> np.ndarray:
        if self._resident is not None:
            return self._resident[start:stop]
        return self._split.read(start, stop)

    def in_order(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields windows float16 [<= size, D] and labels float32 [<= size, K]."""
        for start in range(0, self._split.num_windows, size):
            stop = min(start + size, self._split.num_windows)
            yield (
                self._read(start, stop),
                self._split.labels[self._clips[start:stop]],
            )

    def shuffled(
        self, size: int, rng: np.random.Generator
    ) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Yields the same as tensors, in an order that `rng` draws.

        Resident splits are permuted as a whole. Larger ones are read in blocks drawn
        without replacement, and permuted within chunks of such blocks, so that the
        disk is read in long runs; every window still comes once an epoch.
        """
        for windows, clips in self._chunks(rng):
            order = rng.permutation(len(clips))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                yield (
                    tf.constant(windows.take(rows, axis=0)),
                    tf.constant(self._split.labels[clips[rows]]),
                )

    def _chunks(
        self, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self._resident is not None:
            yield self._resident, self._clips
            return
        total, dim = self._split.num_windows, self._split.dim
        blocks = rng.permutation(-(-total // _BLOCK_WINDOWS))
        chunk_blocks = max(1, _CHUNK_BYTES // (_BLOCK_WINDOWS * dim * 2))
        for first in range(0, len(blocks), chunk_blocks):
            starts = blocks[first : first + chunk_blocks] * _BLOCK_WINDOWS
            spans = [(int(s), min(int(s) + _BLOCK_WINDOWS, total)) for s in starts]
            chunk = np.empty((sum(b - a for a, b in spans), dim), np.float16)
            position = 0
            for a, b in spans:
                chunk[position : position + b - a] = self._split.read(a, b)
                position += b - a
            yield chunk, np.concatenate([self._clips[a:b] for a, b in spans])


def _step_functions(model: keras.Model, config: ProbeConfig) -> tuple[Any, Any]:
    """Compiled `train(windows, labels)` and `validate(...)`: summed loss of windows."""
    optimizer = keras.optimizers.Adam(config.learning_rate)
    optimizer.build(model.trainable_variables)
    size = config.batch_size
    signature = [
        tf.TensorSpec([None, model.input_shape[-1]], tf.float16),
        tf.TensorSpec([None, model.output_shape[-1]], tf.float32),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def train(windows: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        num_windows = tf.shape(windows)[0]

        def update(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = tf.cast(windows[start : start + size], tf.float32)
            with tf.GradientTape() as tape:
                losses = _window_losses(
                    config.task_type, labels[start : start + size], model(batch)
                )
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            return start + size, total + tf.reduce_sum(losses)

        return tf.while_loop(
            lambda start, _: start < num_windows,
            update,
            [tf.constant(0), tf.constant(0.0)],
            parallel_iterations=1,
        )[1]

    @tf.function(input_signature=signature, autograph=False)
    def validate(windows: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        logits = model(tf.cast(windows, tf.float32))
        return tf.reduce_sum(_window_losses(config.task_type, labels, logits))

    return train, validate


def train_head(
    train: EmbeddedSplit,
    validation: EmbeddedSplit,
    config: ProbeConfig,
    seed: int = 0,
    *,
    title: str = "train head",
    show_progress: bool = True,
) -> TrainedHead:
    """Trains one head with early stopping on the validation loss over windows.

    Args:
        train: Training windows.
        validation: Validation windows.
        config: The head and its training.
        seed: Of initial weights and order; equal seeds give equal heads.
        title: Of the progress bar.
        show_progress: Whether to show a progress bar.

    Returns:
        The head with its best epoch's weights.

    Raises:
        DataError: If a split is empty.
        ProbeError: If the loss is not finite.
    """
    for name, split in (("training", train), ("validation", validation)):
        if not split.num_windows:
            raise DataError(f"the {name} split holds no clips")
    begin = time.monotonic()
    num_classes = train.labels.shape[1]
    moments = feature_moments(train) if config.standardize else None
    model = build_head(config, train.dim, num_classes, seed, moments)
    run_train, run_validate = _step_functions(model, config)
    train_windows, validation_windows = _Windows(train), _Windows(validation)
    train_losses: list[float] = []
    losses: list[float] = []
    best_weights, best_epoch = model.get_weights(), 0
    # The bar's length is unknown before training stops; it counts windows.
    with progress_bar(0, title, " windows", show_progress) as bar:
        bar.total = None
        for epoch in range(config.max_epochs):
            rng = np.random.default_rng([seed, epoch])
            total = 0.0
            call_windows = config.batch_size * _CALL_BATCHES
            for windows, labels in read_ahead(
                train_windows.shuffled(call_windows, rng)
            ):
                total += float(run_train(windows, labels))
                bar.update(int(windows.shape[0]))
            train_losses.append(total / train.num_windows)
            total = sum(
                float(run_validate(windows, labels))
                for windows, labels in validation_windows.in_order(_EVALUATION_WINDOWS)
            )
            losses.append(total / validation.num_windows)
            if not np.isfinite(losses[-1]):
                raise ProbeError(f"the head's validation loss is {losses[-1]}")
            if epoch == 0 or losses[-1] < losses[best_epoch]:
                best_weights, best_epoch = model.get_weights(), epoch
            bar.set_postfix_str(
                f"epoch {epoch + 1}, val. loss {losses[-1]:.4f}", refresh=False
            )
            if epoch - best_epoch >= config.patience_epochs:
                break
    model.set_weights(best_weights)
    return TrainedHead(
        model=model,
        config=config,
        train_loss=tuple(train_losses),
        validation_loss=tuple(losses),
        best_epoch=best_epoch,
        seconds=time.monotonic() - begin,
    )


def score_clips(head: TrainedHead, split: EmbeddedSplit) -> np.ndarray:
    """A clip's score: the mean of its windows' probabilities.

    Args:
        head: A trained head.
        split: Embedded clips, each of at least one window.

    Returns:
        float32 [C, K]; sigmoids for tags, softmax for classes.
    """
    is_tags = head.config.task_type == MULTILABEL
    signature = [tf.TensorSpec([None, split.dim], tf.float16)]

    @tf.function(input_signature=signature, autograph=False)
    def probabilities(windows: tf.Tensor) -> tf.Tensor:
        logits = head.model(tf.cast(windows, tf.float32))
        return tf.sigmoid(logits) if is_tags else tf.nn.softmax(logits)

    sums = np.zeros(split.labels.shape, np.float64)
    clips = split.window_clips()
    for start in range(0, split.num_windows, _EVALUATION_WINDOWS):
        stop = min(start + _EVALUATION_WINDOWS, split.num_windows)
        values = probabilities(split.read(start, stop)).numpy()
        np.add.at(sums, clips[start:stop], values)
    return (sums / np.diff(split.clip_splits)[:, np.newaxis]).astype(np.float32)
