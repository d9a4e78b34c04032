"""Shallow heads on frozen embeddings: training, early stopping, clip scores.

A head is trained on single windows, each with its clip's labels; a clip's score is
the mean of its windows' probabilities. Windows pass through one compiled loop of many
mini-batches a call. What is validated and tested are all windows of every clip, under
both protocols; they differ in the windows of training and in what patience watches.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from cola_msa.config.schema import MULTILABEL
from cola_msa.evaluation.probes.features import EmbeddedSplit, check_finite
from cola_msa.evaluation.probes.heads import (
    BestEpoch,
    ProbeConfig,
    build_head,
    member_of,
    to_probabilities,
    window_accuracies,
    window_losses,
)
from cola_msa.evaluation.probes.kept_heads import Member
from cola_msa.records.reader import fixed_bounds, open_windows, read_ahead
from cola_msa.records.schema import DataError
from cola_msa.records.windows import Draw, Segments
from cola_msa.system.console import progress_bar

Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]
Arrays = Iterator[tuple[np.ndarray, np.ndarray]]

# Below this a split is read once; above, in shuffled blocks, a chunk at a time.
_RESIDENT_BYTES = 1_250_000_000
_CHUNK_BYTES = 400_000_000
_BLOCK_WINDOWS = 1024
_READ_WINDOWS = 4096  # read at once, where the order does not matter
EMBED_WINDOWS = 256  # a forward pass


class TrainingWindows(Protocol):
    """What a head is trained on."""

    @property
    def num_windows(self) -> int:
        """Windows an epoch."""

    @property
    def dim(self) -> int:
        """Width of the embeddings, D."""

    @property
    def num_classes(self) -> int:
        """K."""

    @property
    def call_batches(self) -> int:
        """Mini-batches that one call of the training loop should get."""

    def epoch(self, seed: int, epoch: int, size: int) -> Batches:
        """Yields an epoch as float16 [<= size, D] and labels float32 [<= size, K]."""

    def once(self, seed: int) -> Arrays:
        """Yields windows once as arrays of the same shapes, for closed forms."""


class CachedWindows:
    """Windows of an embedded split with their labels; see TrainingWindows."""

    call_batches = 32  # a mini-batch costs less than a call does

    def __init__(self, split: EmbeddedSplit):
        """Reads the split into memory where it is small enough."""
        self._split = split
        self._clips = split.window_clips()
        self.num_windows = split.num_windows
        self.dim = split.dim
        self.num_classes = split.labels.shape[1]
        is_resident = split.num_bytes <= _RESIDENT_BYTES
        self._resident = split.read(0, split.num_windows) if is_resident else None

    def _read(self, start: int, stop: int) -> np.ndarray:
        if self._resident is not None:
            return self._resident[start:stop]
        return self._split.read(start, stop)

    def in_order(self, size: int) -> Arrays:
        """Yields windows float16 [<= size, D] and labels float32 [<= size, K]."""
        for start in range(0, self.num_windows, size):
            stop = min(start + size, self.num_windows)
            yield (
                self._read(start, stop),
                self._split.labels[self._clips[start:stop]],
            )

    def once(self, seed: int) -> Arrays:
        """Yields every window, in order; the seed has no part in it."""
        del seed
        return self.in_order(_READ_WINDOWS)

    def epoch(self, seed: int, epoch: int, size: int) -> Batches:
        """Yields every window in an order that seed and epoch decide.

        Resident splits are permuted as a whole. Larger ones are read in blocks drawn
        without replacement, and permuted within chunks of such blocks, so that the
        disk is read in long runs; every window still comes once an epoch.
        """
        random = np.random.default_rng([seed, epoch])
        for windows, clips in self._chunks(random):
            order = random.permutation(len(clips))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                yield (
                    tf.constant(windows.take(rows, axis=0)),
                    tf.constant(self._split.labels[clips[rows]]),
                )

    def _chunks(self, random: np.random.Generator) -> Arrays:
        if self._resident is not None:
            yield self._resident, self._clips
            return
        total = self.num_windows
        blocks = random.permutation(-(-total // _BLOCK_WINDOWS))
        chunk_blocks = max(1, _CHUNK_BYTES // (_BLOCK_WINDOWS * self.dim * 2))
        for first in range(0, len(blocks), chunk_blocks):
            starts = blocks[first : first + chunk_blocks] * _BLOCK_WINDOWS
            spans = [(int(s), min(int(s) + _BLOCK_WINDOWS, total)) for s in starts]
            chunk = np.empty((sum(b - a for a, b in spans), self.dim), np.float16)
            position = 0
            for a, b in spans:
                chunk[position : position + b - a] = self._split.read(a, b)
                position += b - a
            yield chunk, np.concatenate([self._clips[a:b] for a, b in spans])


@dataclasses.dataclass(frozen=True)
class SampledWindows:
    """One random window a segment and epoch; see TrainingWindows.

    Attributes:
        embed: float16 [batch, frames, mels] -> float16 [batch, D], of
            `embeddings.embed_function`: in inference mode.
        dim: D.
        shape: Frames and mels of a window.
        segments: The training clips' segments.
        labels: float32 [C, K], of the clips that the segments are numbered by.
        call_batches: As `TrainingWindows` has it.
        forward_windows: Windows a forward pass.

    Source: section 4; differs: the encoder is in inference mode, where the authors'
        code leaves stochastic depth on.
    """

    embed: Callable[[np.ndarray], tf.Tensor]
    dim: int
    shape: tuple[int, int]
    segments: Segments
    labels: np.ndarray
    call_batches: int = 4  # embedding is what costs; short calls stop soon at Ctrl-C
    forward_windows: int = EMBED_WINDOWS

    @property
    def num_windows(self) -> int:
        """Windows an epoch: one a segment."""
        return self.segments.num_segments

    @property
    def num_classes(self) -> int:
        """K."""
        return self.labels.shape[1]

    def _embedded(self, draw: Draw, size: int) -> Arrays:
        bounds = fixed_bounds(draw.num_windows, self.forward_windows)
        with open_windows(draw, self.shape, bounds) as batches:
            kept = np.zeros((0, self.dim), np.float16)
            position = 0
            for windows in batches:
                found = check_finite(self.embed(windows).numpy(), "train")
                kept = np.concatenate([kept, found])
                while len(kept) >= size:
                    yield kept[:size], self.labels[draw.clip[position:][:size]]
                    kept, position = kept[size:], position + size
            if len(kept):
                yield kept, self.labels[draw.clip[position:]]

    def once(self, seed: int) -> Arrays:
        """Yields the windows of epoch 0."""
        return self._embedded(self.segments.draw(seed, 0), EMBED_WINDOWS)

    def epoch(self, seed: int, epoch: int, size: int) -> Batches:
        """Yields windows that seed and epoch decide, in random order."""
        for windows, labels in self._embedded(self.segments.draw(seed, epoch), size):
            yield tf.constant(windows), tf.constant(labels)


_EVALUATION_WINDOWS = 8192


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A head with its best epoch's weights.

    Attributes:
        model: float32 [batch, D] -> logits [batch, K].
        config: How it was trained.
        train_loss: Mean loss over each epoch's mini-batches.
        validation_loss: Mean loss over validation windows after each epoch.
        validation_accuracy: The same of the accuracy.
        best_epoch: Whose weights the model has, from 0.
        num_windows: Training windows an epoch.
        seconds: Wall-clock time of training.
    """

    model: keras.Model
    config: ProbeConfig
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    best_epoch: int
    num_windows: int
    seconds: float

    def scorer(self) -> Callable[[np.ndarray], np.ndarray]:
        """Compiles windows float16 [N, D] -> probabilities float32 [N, K]."""
        is_tags = self.config.task_type == MULTILABEL

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, self.model.input_shape[-1]], tf.float16)
            ],
            autograph=False,
        )
        def probabilities(windows: tf.Tensor) -> tf.Tensor:
            return to_probabilities(self.model(tf.cast(windows, tf.float32)), is_tags)

        return lambda windows: probabilities(windows).numpy()

    def member(self) -> Member:
        """Its weights, to be kept."""
        return member_of(self.model.layers)

    def row(self) -> dict[str, Any]:
        """What results.json says of it."""
        return {
            "epochs": len(self.validation_loss),
            "best_epoch": self.best_epoch,
            "validation_loss": self.validation_loss[self.best_epoch],
            "validation_accuracy": self.validation_accuracy[self.best_epoch],
            "train_windows": self.num_windows,
            "seconds": round(self.seconds, 2),
        }


def feature_moments(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each feature over windows, float32 [D] each.

    A feature that never changes gets variance 1, so that it becomes 0.

    Args:
        batches: Windows [N, D] and labels, as `TrainingWindows.once` yields them.
        dim: D.
    """
    total, squares, count = np.zeros(dim), np.zeros(dim), 0
    for windows, _ in batches:
        part = windows.astype(np.float64)
        total += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
        count += len(part)
    mean = total / count
    variance = np.maximum(squares / count - np.square(mean), 0.0)
    variance[variance < 1e-10] = 1.0
    return mean.astype(np.float32), variance.astype(np.float32)


def _step_functions(model: keras.Model, config: ProbeConfig) -> tuple[Any, Any]:
    """Compiles training and validation.

    Returns:
        `train(windows, labels)`, the windows' summed loss, and `validate(...)`, their
        summed loss and summed accuracy.
    """
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
                losses = window_losses(
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
        losses = window_losses(config.task_type, labels, logits)
        accuracies = window_accuracies(config.task_type, labels, logits)
        return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(accuracies)])

    return train, validate


def train_head(
    train: TrainingWindows,
    validation: EmbeddedSplit,
    config: ProbeConfig,
    seed: int = 0,
    *,
    title: str = "train head",
    show_progress: bool = True,
) -> TrainedHead:
    """Trains one head with early stopping by its validation windows.

    Args:
        train: Training windows.
        validation: All windows of the validation clips.
        config: The head and its training.
        seed: Of initial weights and windows; equal seeds give equal heads.
        title: Of the progress bar.
        show_progress: Whether to show a progress bar.

    Returns:
        The head with its best epoch's weights.

    Raises:
        DataError: If a split is empty.
        ProbeError: If the loss is not finite.
    """
    for name, part in (("training", train), ("validation", validation)):
        if not part.num_windows:
            raise DataError(f"the {name} split holds no clips")
    begin = time.monotonic()
    moments = None
    if config.standardize:
        moments = feature_moments(train.once(seed), train.dim)
    model = build_head(config, train.dim, train.num_classes, seed, moments)
    run_train, run_validate = _step_functions(model, config)
    validation_windows = CachedWindows(validation)
    train_losses: list[float] = []
    best = BestEpoch(config)
    call_windows = config.batch_size * train.call_batches
    # The bar's length is unknown before training stops; it counts windows.
    with progress_bar(None, title, " windows", show_progress) as bar:
        for epoch in range(config.max_epochs):
            total = 0.0
            with contextlib.closing(
                read_ahead(train.epoch(seed, epoch, call_windows))
            ) as batches:
                for windows, labels in batches:
                    total += float(run_train(windows, labels))
                    bar.update(int(windows.shape[0]))
            train_losses.append(total / train.num_windows)
            sums = np.zeros(2)
            for windows, labels in validation_windows.in_order(_EVALUATION_WINDOWS):
                sums += run_validate(windows, labels).numpy()
            loss, accuracy = (sums / validation.num_windows).tolist()
            is_over = best.add(loss, accuracy, model.get_weights)
            bar.set_postfix_str(best.describe(), refresh=False)
            if is_over:
                break
    best.warn(title, -(-train.num_windows // config.batch_size))
    model.set_weights(best.weights)
    return TrainedHead(
        model=model,
        config=config,
        train_loss=tuple(train_losses),
        validation_loss=tuple(best.losses),
        validation_accuracy=tuple(best.accuracies),
        best_epoch=best.epoch,
        num_windows=train.num_windows,
        seconds=time.monotonic() - begin,
    )


class Scorable(Protocol):
    """A head that scores windows."""

    def scorer(self) -> Callable[[np.ndarray], np.ndarray]:
        """Compiles windows float16 [N, D] -> scores [N, K]."""


def score_clips(head: Scorable, split: EmbeddedSplit) -> np.ndarray:
    """A clip's score: the mean of its windows' scores.

    Args:
        head: A trained head; its scores are probabilities, or a ridge's outputs.
        split: Embedded clips, each of at least one window.

    Returns:
        float32 [C, K].
    """
    scorer = head.scorer()
    sums = np.zeros(split.labels.shape, np.float64)
    clips = split.window_clips()
    for start in range(0, split.num_windows, _EVALUATION_WINDOWS):
        stop = min(start + _EVALUATION_WINDOWS, split.num_windows)
        np.add.at(sums, clips[start:stop], scorer(split.read(start, stop)))
    return (sums / np.diff(split.clip_splits)[:, np.newaxis]).astype(np.float32)
