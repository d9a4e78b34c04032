"""Encoder and head trained together on labels: fine-tuning, and supervised training.

Training windows are drawn as `Segments.draw` says: one a segment, anew each time. Few
labelled clips would make epochs of few updates, and patience would end before anything
is learned: an epoch is as many draws as give `min_updates`.
The network is in training mode: batch normalization uses the mini-batch's statistics,
and stochastic depth is on. Moving statistics with a momentum of 0.99 would lag behind
weights that move this fast, so before every validation batch-norm statistics are
re-estimated, as exact averages over mini-batches of the epoch's last draw, and the best
epoch's are kept with its weights.

Source: COLA (Saeed et al. 2021), which compares a frozen encoder, a fine-tuned one and
    one trained with labels alone.
"""

import dataclasses
import os
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cola_msa.config.schema import MULTILABEL, Checked, FrontendConfig
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
from cola_msa.evaluation.probes.tuned_file import read_model, save_model
from cola_msa.model.contrastive import PairModel
from cola_msa.model.statistics import StatisticsEstimator
from cola_msa.records.reader import even_bounds, fixed_bounds, open_windows
from cola_msa.records.stored import read_type
from cola_msa.records.windows import Draw, Segments, WindowPlan
from cola_msa.system.console import progress_bar
from cola_msa.system.errors import RunError
from cola_msa.values.fields import within

MODES = ("finetuned", "supervised")
DEFAULT_RATES = {"finetuned": 1e-4, "supervised": 1e-3}
_EVALUATION_WINDOWS = 256


@dataclasses.dataclass(frozen=True)
class TuneConfig(Checked):
    """How encoder and head are trained together.

    Attributes:
        mode: `finetuned` (from the run's weights) or `supervised` (from fresh ones).
        head: The head and its rate, patience and mini-batches.
        encoder_rate: Adam's rate for the encoder.
        statistics_batches: Mini-batches that batch-norm statistics are estimated over.
        min_updates: An epoch has at least so many updates.
    """

    mode: str
    head: ProbeConfig
    encoder_rate: float = within(dataclasses.MISSING, 0.0)
    statistics_batches: int = within(32, 1)
    min_updates: int = within(50, 0)


@dataclasses.dataclass(frozen=True)
class LabelledWindows:
    """All windows of some clips with the clips' labels.

    Attributes:
        plan: The windows.
        labels: float32 [C, K].
    """

    plan: WindowPlan
    labels: np.ndarray

    def window_clips(self) -> np.ndarray:
        """Each window's clip, int64 [V]."""
        return np.repeat(np.arange(len(self.labels)), np.diff(self.plan.clip_splits))


@dataclasses.dataclass(frozen=True)
class TunedModel:
    """An encoder and a head with their best epoch's weights.

    Attributes:
        model: float32 [batch, frames, mels, 1] -> logits [batch, K].
        is_tags: Whether probabilities are sigmoids.
        row: What results.json says of it.
    """

    model: keras.Model
    is_tags: bool
    row: dict[str, Any]

    def member(self) -> Member:
        """The head's weights, to be kept."""
        return member_of(self.model.layers[-1].layers)

    def score_clips(
        self, clips: LabelledWindows, frontend: FrontendConfig
    ) -> np.ndarray:
        """A clip's score: the mean of its windows' probabilities, float32 [C, K]."""
        shape = (frontend.window_frames, frontend.num_mels)

        @tf.function(
            input_signature=[tf.TensorSpec([None, *shape], read_type(frontend))],
            autograph=False,
        )
        def probabilities(windows: tf.Tensor) -> tf.Tensor:
            logits = self.model(_as_input(windows), training=False)
            return to_probabilities(logits, self.is_tags)

        sums = np.zeros(clips.labels.shape, np.float64)
        owners = clips.window_clips()
        size = frontend.at_once(_EVALUATION_WINDOWS)
        bounds = fixed_bounds(len(owners), size)
        with open_windows(clips.plan, shape, bounds) as batches:
            for start, windows in zip(bounds[:-1], batches, strict=True):
                part = owners[start : start + len(windows)]
                np.add.at(sums, part, probabilities(windows).numpy())
        counts = np.diff(clips.plan.clip_splits)[:, np.newaxis]
        return (sums / counts).astype(np.float32)


def save_tuned(tuned: TunedModel, path: str | os.PathLike) -> None:
    """Writes a model for `load_tuned`, whole or not at all.

    Raises:
        FileError: If it cannot be written.
    """
    save_model(tuned.model, path)


def load_tuned(path: str | os.PathLike) -> tuple[keras.Model, keras.Model]:
    """Loads what `save_tuned` wrote.

    Args:
        path: `tuned-seed-0.keras` in an evaluation's output folder.

    Returns:
        The encoder, float32 [batch, frames, mels, 1] -> [batch, D], and the head,
        [batch, D] -> logits [batch, K]. Call them with training=False.

    Raises:
        RunError: If there is no such file, it is damaged, or larger than a model is.
    """
    layers = read_model(path).layers
    if len(layers) != 3:
        raise RunError(f"{path}: no encoder with a head, but {len(layers)} layers")
    return layers[1], layers[2]


def _as_input(windows: tf.Tensor) -> tf.Tensor:
    return tf.cast(windows, tf.float32)[..., tf.newaxis]


class _Steps:
    """The compiled functions of one training, and the model that they change."""

    def __init__(
        self, start: PairModel, num_classes: int, config: TuneConfig, seed: int
    ):
        self.encoder = start.encoder
        frontend = start.frontend
        self.shape = (frontend.window_frames, frontend.num_mels)
        self.evaluation_windows = frontend.at_once(_EVALUATION_WINDOWS)
        head = build_head(config.head, self.encoder.output_shape[-1], num_classes, seed)
        inputs = keras.Input((None, frontend.num_mels, 1))
        self.model = keras.Model(inputs, head(self.encoder(inputs)))
        self.estimator = StatisticsEstimator(start)
        self._start = start
        self._task_type = config.head.task_type
        self._parts = [
            (part.trainable_variables, keras.optimizers.Adam(rate))
            for part, rate in (
                (self.encoder, config.encoder_rate),
                (head, config.head.learning_rate),
            )
        ]
        for variables, optimizer in self._parts:
            optimizer.build(variables)
        signature = [
            tf.TensorSpec([None, *self.shape], read_type(frontend)),
            tf.TensorSpec([None, num_classes], tf.float32),
        ]
        self.train = tf.function(
            self._train, input_signature=signature, autograph=False
        )
        self.validate = tf.function(
            self._validate, input_signature=signature, autograph=False
        )

    def _train(self, windows: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """One update; the windows' summed loss."""
        with tf.GradientTape() as tape:
            logits = self.model(_as_input(windows), training=True)
            losses = window_losses(self._task_type, labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [variables for variables, _ in self._parts])
        for (variables, optimizer), found in zip(self._parts, gradients, strict=True):
            optimizer.apply(found, variables)
        return tf.reduce_sum(losses)

    def _validate(self, windows: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Summed loss and summed accuracy in inference mode."""
        logits = self.model(_as_input(windows), training=False)
        losses = window_losses(self._task_type, labels, logits)
        accuracies = window_accuracies(self._task_type, labels, logits)
        return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(accuracies)])

    def estimate_statistics(self, draw: Draw, bounds: list[int]) -> None:
        """Gives inference mode exact statistics of a draw's mini-batches.

        Training mode never reads them, so nothing is fed back.
        """
        with open_windows(draw, self.shape, bounds) as batches:
            statistics = self.estimator.estimate(_as_input(w) for w in batches)
        statistics.assign_to(self._start)


def tune(
    start: PairModel,
    train: Segments,
    train_labels: np.ndarray,
    validation: LabelledWindows,
    config: TuneConfig,
    seed: int = 0,
    *,
    title: str = "tune",
    show_progress: bool = True,
) -> TunedModel:
    """Trains encoder and head with early stopping by the validation windows.

    Args:
        start: Its encoder is where training starts from, and is changed.
        train: Segments of the training clips.
        train_labels: float32 [C, K], of the clips that segments are numbered by.
        validation: All windows of the validation clips.
        config: TuneConfig.
        seed: Of the head's initial weights and the windows.
        title: Of the progress bar.
        show_progress: Whether to show a progress bar.

    Returns:
        The best epoch's encoder and head.

    Raises:
        ProbeError: If the loss is not finite.
    """
    begin = time.monotonic()
    steps = _Steps(start, train_labels.shape[1], config, seed)
    best = BestEpoch(config.head)
    bounds = even_bounds(train.num_segments, config.head.batch_size)
    num_draws = -(-config.min_updates // (len(bounds) - 1))
    train_losses: list[float] = []
    with progress_bar(None, title, " windows", show_progress) as bar:
        for epoch in range(config.head.max_epochs):
            total = 0.0
            for number in range(epoch * num_draws, (epoch + 1) * num_draws):
                draw = train.draw(seed, number)
                with open_windows(draw, steps.shape, bounds) as batches:
                    for first, windows in zip(bounds[:-1], batches, strict=True):
                        clips = draw.clip[first : first + len(windows)]
                        total += float(steps.train(windows, train_labels[clips]))
                        bar.update(len(windows))
            train_losses.append(total / (num_draws * train.num_segments))
            steps.estimate_statistics(draw, bounds[: config.statistics_batches + 1])
            loss, accuracy = _validate(steps, validation)
            is_over = best.add(loss, accuracy, steps.model.get_weights)
            bar.set_postfix_str(best.describe(), refresh=False)
            if is_over:
                break
    best.warn(title, num_draws * (len(bounds) - 1))
    steps.model.set_weights(best.weights)
    row = {
        "epochs": len(best.losses),
        "best_epoch": best.epoch,
        "train_loss": train_losses[best.epoch],
        "validation_loss": best.losses[best.epoch],
        "validation_accuracy": best.accuracies[best.epoch],
        "train_windows": train.num_segments,
        "draws_per_epoch": num_draws,
        "seconds": round(time.monotonic() - begin, 2),
    }
    return TunedModel(steps.model, config.head.task_type == MULTILABEL, row)


def _validate(steps: _Steps, clips: LabelledWindows) -> tuple[float, float]:
    """Mean loss and accuracy over windows."""
    sums, owners = np.zeros(2), clips.window_clips()
    bounds = fixed_bounds(len(owners), steps.evaluation_windows)
    with open_windows(clips.plan, steps.shape, bounds) as batches:
        for start, windows in zip(bounds[:-1], batches, strict=True):
            part = clips.labels[owners[start : start + len(windows)]]
            sums += steps.validate(windows, part).numpy()
    loss, accuracy = (sums / len(owners)).tolist()
    return loss, accuracy
