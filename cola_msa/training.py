"""The training loop: one loop around `model.train_step` for every distribution."""

import math
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from cola_msa import checkpoints, retrieval
from cola_msa.config import Config
from cola_msa.model import (
    BatchStatistics,
    ContrastiveModel,
    StatisticsEstimator,
    project_function,
)
from cola_msa.optimizers import build_optimizer
from cola_msa.pairs import PairSampler, silence_value
from cola_msa.prepared import PreparedData
from cola_msa.records import manifest_hash
from cola_msa.runs import (
    claim_run_dir,
    default_strategy,
    describe_run,
    has_stalled,
)
from cola_msa.scalars import ScalarWriter

# Updates whose pairs serve batch-norm statistics; no training update reaches them.
_STATISTICS_UPDATE = 2**40
_RATE_UPDATES = 3  # updates that the expected end is reckoned from


class TrainingError(RuntimeError):
    """Training cannot go on."""


class Trainer:
    """Trains one model on prepared data, into one run directory."""

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        run_dir: str | os.PathLike,
        strategy: tf.distribute.Strategy | None = None,
    ):
        """Builds or restores the run.

        Args:
            config: What to train.
            data: Prepared data, with the configuration's front end.
            run_dir: Run directory; one that exists is gone on with.
            strategy: TensorFlow's distribution; default MirroredStrategy over all
                GPUs, or all logical CPUs where there is no GPU.

        Raises:
            RunError: If the run directory holds another configuration.
            PairError: If the data cannot give the batches.
        """
        self.config = config
        self.data = data
        self.run_dir = pathlib.Path(run_dir)
        self.strategy = strategy or default_strategy()
        self.num_replicas = self.strategy.num_replicas_in_sync
        manifest = data.manifest
        mean, std = manifest["log_mel_mean"], manifest["log_mel_std"]
        silent = silence_value(config.model.silence, data.frontend.log_floor, mean)
        self.sampler = PairSampler(data, config.train, "train", silent)
        self.validation: PairSampler | None = None
        if config.train.validate_every_steps and "validation" in data.splits:
            self.validation = PairSampler(data, config.train, "validation", silent)
        self._claim_run_dir(mean, std)
        keras.utils.set_random_seed(config.train.seed)
        if config.train.deterministic:
            tf.config.experimental.enable_op_determinism()
        with self.strategy.scope():
            self.model = ContrastiveModel(
                config.model, config.frontend, mean, std, config.train.seed
            )
            self.model.compile(optimizer=build_optimizer(config.train))
            self.model.optimizer.build(self.model.trainable_variables)
            state = checkpoints.restore_training(self.run_dir, self.model)
        self.state: dict[str, Any] = state or {
            "update": 0,
            "seconds": 0.0,
            "validation": [],
            "best": None,
        }
        self._estimator = StatisticsEstimator(self.model)
        self._update = tf.function(self._distributed_update)
        self._project = project_function(self.model)
        self._test = tf.function(self.model.test_step, reduce_retracing=True)
        self._stop_signal: int | None = None
        self._first_times: list[float] = []
        if state:
            logging.info("going on at update %d of %d", self.update, self.num_updates)

    def _claim_run_dir(self, mean: float, std: float) -> None:
        """Writes config.json, or checks that the one there is ours."""
        description = describe_run(
            self.config,
            {
                "data_dir": str(self.data.data_dir.resolve()),
                "manifest_hash": manifest_hash(self.data.data_dir),
                "dataset": self.data.manifest["dataset"],
                "sources": list(self.data.sources),
                "log_mel_mean": mean,
                "log_mel_std": std,
            },
            self.num_replicas,
        )
        claim_run_dir(self.run_dir, description)

    @property
    def update(self) -> int:
        """Updates done so far."""
        return self.state["update"]

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.train.steps * self.config.train.updates_per_step

    def _distributed_update(self, batch: Any) -> dict[str, tf.Tensor]:
        names = self.data.sources
        has_one_source = self.config.train.batches != "active_any" and names

        def replica_update(data: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            scalars = self.model.train_step(data)
            if has_one_source:
                for number, name in enumerate(names):
                    chosen = tf.cast(tf.equal(data["source"][0], number), tf.float32)
                    scalars[f"count/{name}"] = chosen
                    scalars[f"loss/{name}"] = chosen * scalars["loss"]
            return scalars

        per_replica = self.strategy.run(replica_update, args=(batch,))
        return {
            name: self.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
            for name, value in per_replica.items()
        }

    def run(
        self, on_step: Callable[[int, dict[str, float]], None] | None = None
    ) -> str:
        """Trains to the end, to early stopping, or until a signal asks for a stop.

        Args:
            on_step: Called after every step with its number and scalars.

        Returns:
            `finished`, `stopped early` or `interrupted`; in each case a checkpoint
            stands, and the same command goes on after an interruption.
        """
        train = self.config.train
        if self.update == 0 and 0 not in checkpoints.kept_steps(self.run_dir):
            self._keep(0)
        if (self.run_dir / checkpoints.DONE_NAME).exists():
            return "finished"
        dataset = self.sampler.dataset(
            self.update, self.num_updates - self.update, self.num_replicas
        )
        if self.num_replicas > 1:
            batches = iter(
                self.strategy.distribute_datasets_from_function(lambda _: dataset)
            )
        else:
            batches = iter(dataset)
        writer = ScalarWriter(self.run_dir)
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._say_extent()
        outcome = "finished"
        started = time.monotonic()
        try:
            with tqdm(
                total=self.num_updates,
                initial=self.update,
                desc="train",
                unit="update",
                mininterval=1.0,
            ) as bar:
                rows: list[dict[str, float]] = []
                while self.update < self.num_updates:
                    rows.append(self._one_update(next(batches)))
                    self.state["update"] += 1
                    bar.update()
                    bar.set_postfix(loss=f"{rows[-1]['loss']:.3f}", refresh=False)
                    self._say_expected_end()
                    if self._stop_signal is not None:
                        outcome = "interrupted"
                        break
                    if self.update % train.updates_per_step:
                        continue
                    step = self.update // train.updates_per_step
                    now = time.monotonic()
                    self.state["seconds"] += now - started
                    scalars = self._summarize(rows, now - started)
                    rows, started = [], now
                    is_over = self._end_step(step, scalars)
                    writer.write(step, scalars)
                    if on_step is not None:
                        on_step(step, scalars)
                    started = time.monotonic()
                    if is_over:
                        outcome = "stopped early"
                        break
            self._save()
            if outcome != "interrupted":
                self._finish(outcome)
        finally:
            writer.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return outcome

    def _finish(self, outcome: str) -> None:
        """Keeps the last weights and marks the run as ended."""
        step = self.update // self.config.train.updates_per_step
        if step not in checkpoints.kept_steps(self.run_dir):
            self._keep(step)
        checkpoints.write_json(
            self.run_dir / checkpoints.DONE_NAME,
            {
                "outcome": outcome,
                "step": step,
                "updates": self.update,
                "pairs": self.update * self.config.train.batch_size * self.num_replicas,
                "training_seconds": round(self.state["seconds"], 1),
            },
        )

    def _on_signal(self, number: int, _: Any) -> None:
        self._stop_signal = number

    def _one_update(self, batch: Any) -> dict[str, float]:
        scalars = {name: float(v) for name, v in self._update(batch).items()}
        if not math.isfinite(scalars["loss"]):
            raise TrainingError(
                f"the loss is {scalars['loss']} at update {self.update}; lower "
                f"--learning_rate, or go on from a checkpoint in {self.run_dir}"
            )
        return scalars

    def _say_extent(self) -> None:
        train = self.config.train
        left = self.num_updates - self.update
        logging.info(
            "%s, %s batches: %d updates of %d x %d pairs to go, %d pairs in all",
            train.source,
            train.batches,
            left,
            self.num_replicas,
            train.batch_size,
            left * train.batch_size * self.num_replicas,
        )

    def _say_expected_end(self) -> None:
        """After the fourth update: the rate since the first, which built the graph."""
        self._first_times.append(time.monotonic())
        if len(self._first_times) != _RATE_UPDATES + 1:
            return
        rate = _RATE_UPDATES / (self._first_times[-1] - self._first_times[0])
        seconds = (self.num_updates - self.update) / rate
        logging.info(
            "%.1f pairs/s on %s: at this rate the end is %s away",
            rate * self.config.train.batch_size * self.num_replicas,
            ", ".join(self.strategy.extended.worker_devices),
            f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h",
        )

    def _summarize(
        self, rows: list[dict[str, float]], seconds: float
    ) -> dict[str, float]:
        sums = {name: sum(row[name] for row in rows) for name in rows[0]}
        scalars = {
            name: value / len(rows)
            for name, value in sums.items()
            if not name.startswith(("count/", "loss/"))
        }
        for name in self.data.sources:
            if sums.get(f"count/{name}"):
                scalars[f"loss/{name}"] = sums[f"loss/{name}"] / sums[f"count/{name}"]
        pairs = len(rows) * self.config.train.batch_size * self.num_replicas
        scalars["pairs_per_second"] = pairs / max(seconds, 1e-9)
        scalars["learning_rate"] = float(self.model.optimizer.learning_rate)
        return scalars

    def _end_step(self, step: int, scalars: dict[str, float]) -> bool:
        """Validates, keeps and saves where due; returns whether to stop early."""
        train = self.config.train
        is_over = False
        statistics: dict[str, BatchStatistics] | None = None
        if self.validation and step % train.validate_every_steps == 0:
            statistics = self.estimate_statistics()
            found = self.validate(statistics["pairs"])
            scalars.update({f"validation/{k}": v for k, v in found.items()})
            self.state["validation"].append([step, found["loss"]])
            if self.state["best"] is None or found["loss"] < self.state["best"]:
                self.state["best"] = found["loss"]
                checkpoints.save_kept(
                    self.run_dir, self.model, statistics, step, "best"
                )
            is_over = has_stalled(self.state["validation"], train.patience_steps)
        if step in train.keep_steps:
            self._keep(step, statistics)
        if step % train.checkpoint_every_steps == 0:
            self._save()
        return is_over

    def _save(self) -> None:
        checkpoints.aggregate_moving_statistics(self.model)
        checkpoints.save_training(
            self.run_dir,
            self.model,
            self.state,
            self.update,
            self.config.train.max_to_keep,
        )

    def _keep(
        self, step: int, statistics: dict[str, BatchStatistics] | None = None
    ) -> None:
        checkpoints.aggregate_moving_statistics(self.model)
        if statistics is None:
            statistics = self.estimate_statistics()
        checkpoints.save_kept(self.run_dir, self.model, statistics, step)

    def estimate_statistics(self) -> dict[str, BatchStatistics]:
        """Batch-norm statistics of the weights as they are, from training pairs.

        Returns:
            Those of `anchors`, for an encoder that sees mixtures, and of `pairs`, for
            the pretext task, which sees stems too.
        """

        def batches(has_positives: bool) -> Any:
            for number in range(self.config.train.statistics_batches):
                pair = self.sampler.batch(_STATISTICS_UPDATE + number)
                windows = pair["anchor"]
                if has_positives:
                    windows = np.concatenate([windows, pair["positive"]])
                yield tf.constant(windows, tf.float32)

        return {
            "anchors": self._estimator.estimate(batches(False)),
            "pairs": self._estimator.estimate(batches(True)),
        }

    def validate(self, statistics: BatchStatistics) -> dict[str, float]:
        """Scores the validation split in inference mode.

        Args:
            statistics: Batch-norm statistics to use; the model's own come back after.

        Returns:
            Means over the fixed validation batches of what `test_step` returns, and
            retrieval's `top1` and `mrr`.
        """
        assert self.validation is not None
        checkpoints.aggregate_moving_statistics(self.model)
        own = BatchStatistics.of(self.model)
        statistics.assign_to(self.model)
        try:
            rows, sizes = [], []
            for draw in self.validation.validation_draws():
                batch = self.validation.read(draw)
                tensors = {
                    "anchor": tf.constant(batch["anchor"], tf.float32),
                    "positive": tf.constant(batch["positive"], tf.float32),
                    "is_active": tf.constant(batch["is_active"]),
                }
                rows.append({k: float(v) for k, v in self._test(tensors).items()})
                sizes.append(len(draw.rows))
            found = {
                name: float(np.average([row[name] for row in rows], weights=sizes))
                for name in rows[0]
            }
            draws = retrieval.retrieval_draws(self.validation, num_rounds=1)
            if draws:
                result = retrieval.retrieve(
                    self.validation, draws, self._project, self.model.similarity
                )
                scores = result.scores()
                found |= {"top1": scores["top1"], "mrr": scores["mrr"]}
        finally:
            own.assign_to(self.model)
        return found
