"""The training loop: one loop around `model.train_step` for every distribution."""

import contextlib
import json
import math
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from cola_msa import checkpoints, resume, runs, warm_start
from cola_msa.config import Config
from cola_msa.model import BatchStatistics, ContrastiveModel
from cola_msa.optimizers import build_optimizer
from cola_msa.pairs import PairSampler, silence_value
from cola_msa.prepared import PreparedData
from cola_msa.records import manifest_hash
from cola_msa.scalars import ScalarWriter
from cola_msa.validation import Validator

_RATE_UPDATES = 3  # updates that the expected end is reckoned from


class TrainingError(RuntimeError):
    """Training cannot go on."""


class _StopRequestedError(Exception):
    """A signal came while something was computed that can be computed again."""


class Trainer:
    """Trains one model on prepared data, into one run directory."""

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        run_dir: str | os.PathLike,
        strategy: tf.distribute.Strategy | None = None,
        start: warm_start.WarmStart | None = None,
    ):
        """Builds or restores the run.

        Args:
            config: What to train.
            data: Prepared data, with the configuration's front end.
            run_dir: Run directory; one that exists is gone on with.
            strategy: TensorFlow's distribution; default MirroredStrategy over all
                GPUs, or all logical CPUs where there is no GPU.
            start: Weights to start from; `config` holds their fingerprint.

        Raises:
            RunError: If the run directory holds another configuration.
            PairError: If the data cannot give the batches.
        """
        self.config = config
        self.data = data
        self.run_dir = pathlib.Path(run_dir)
        self.strategy = strategy or runs.default_strategy()
        self.num_replicas = self.strategy.num_replicas_in_sync
        self._start = warm_start.checked(start, config)
        manifest = data.manifest
        mean, std = manifest["log_mel_mean"], manifest["log_mel_std"]
        silent = silence_value(config.model.silence, data.frontend.log_floor, mean)
        self.sampler = PairSampler(
            data, config.train, "train", silent, self.num_replicas
        )
        self.validation: PairSampler | None = None
        if config.train.validate_every_steps and "validation" in data.splits:
            self.validation = PairSampler(data, config.train, "validation", silent)
        self._claim_run_dir(mean, std)
        keras.utils.set_random_seed(config.train.seed)
        if config.train.deterministic:
            tf.config.experimental.enable_op_determinism()
        with self.strategy.scope():
            self.model = ContrastiveModel(
                config.model,
                config.frontend,
                mean,
                std,
                config.train.seed,
                config.train.global_negatives,
            )
            self.model.compile(optimizer=build_optimizer(config.train))
            self.model.optimizer.build(self.model.trainable_variables)
        restored = resume.restore_training(self.run_dir, self.model)
        self.state: dict[str, Any] = restored or {
            "update": 0,
            "step": 0,  # steps that have ended
            "rows": [],  # scalars of the updates since then
            "step_seconds": 0.0,
            "seconds": 0.0,
            "validation": [],
            "best": None,  # [step, loss]
        }
        self._validator = Validator(
            self.model, self.sampler, self.validation, config.train.statistics_batches
        )
        self._update = tf.function(self._distributed_update)
        self._stop_signal: int | None = None
        self._kept_step: int | None = None
        self._first_times: list[float] = []
        if restored:
            logging.info("going on at update %d of %d", self.update, self.num_updates)

    def _claim_run_dir(self, mean: float, std: float) -> None:
        """Writes config.json, or checks that the one there is ours."""
        description = runs.describe_run(
            self.config,
            {
                "data_dir": str(self.data.data_dir.resolve()),
                "manifest_hash": manifest_hash(self.data.data_dir),
                "dataset": self.data.manifest["dataset"],
                "sources": list(self.data.sources),
                "separator": self.data.manifest.get("separator"),
                "log_mel_mean": mean,
                "log_mel_std": std,
            },
            self.num_replicas,
        )
        if self._start:
            description["init"] = self._start.describe()
        runs.claim_run_dir(self.run_dir, description)

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
        if (self.run_dir / checkpoints.DONE_NAME).exists():
            done = json.loads((self.run_dir / checkpoints.DONE_NAME).read_text())
            return done["outcome"]
        with resume.exclusive(self.run_dir), self._caught_signals():
            resume.drop_scalars_after(self.run_dir, self.state["step"])
            self._forget_lost_best()
            writer = ScalarWriter(self.run_dir)
            try:
                if self.update == 0:
                    self._keep_first()
                outcome = self._train(writer, on_step or (lambda step, scalars: None))
                self._save()
                self._finish(outcome)
            except _StopRequestedError:
                outcome = "interrupted"
                self._save()
            finally:
                writer.close()
        return outcome

    def _keep_first(self) -> None:
        """Keeps the fresh network as step 0, then takes the weights to start from."""
        if 0 not in checkpoints.kept_steps(self.run_dir):
            self._keep(0)
        if self._start is not None:
            warm_start.assign(self.model, self._start)
            self._validator.forget_graphs()
            self._keep(0, name=warm_start.KEPT_NAME)

    def _train(
        self, writer: ScalarWriter, on_step: Callable[[int, dict[str, float]], None]
    ) -> str:
        """The loop; its state is whole at the top of every round."""
        train, state = self.config.train, self.state
        batches = self._batches()
        self._say_extent()
        with tqdm(
            total=self.num_updates,
            initial=self.update,
            desc="train",
            unit="update",
            mininterval=1.0,
        ) as bar:
            while True:
                self._stop_if_asked()
                if state["rows"] and self.update % train.updates_per_step == 0:
                    step, scalars = self._end_step(writer)
                    on_step(step, scalars)
                    continue
                # Asked here, so that a run that died at its end does not go on.
                if not state["rows"] and runs.has_stalled(
                    state["validation"], train.patience_steps
                ):
                    return "stopped early"
                if self.update == self.num_updates:
                    return "finished"
                started = time.monotonic()
                row = self._one_update(next(batches))
                state["update"] += 1
                state["rows"].append(row)
                state["step_seconds"] += time.monotonic() - started
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                self._say_expected_end()

    def _batches(self) -> Iterator[Any]:
        """The pairs of the updates that are left, replica by replica."""
        dataset = self.sampler.dataset(
            self.update, self.num_updates - self.update, self.num_replicas
        )
        if self.num_replicas == 1:
            return iter(dataset)
        return iter(self.strategy.distribute_datasets_from_function(lambda _: dataset))

    @contextlib.contextmanager
    def _caught_signals(self) -> Iterator[None]:
        """Turns Ctrl-C and SIGTERM into a stop at the next safe place."""

        def note(number: int, _: Any) -> None:
            self._stop_signal = number

        self._stop_signal = None
        caught = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, note) for number in caught}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop_if_asked(self) -> None:
        if self._stop_signal is not None:
            raise _StopRequestedError

    def _forget_lost_best(self) -> None:
        """Forgets the best loss where best.npz is not of its step.

        A process that is killed between writing a new best and the checkpoint, or
        whose newest checkpoint is damaged, leaves a best.npz from updates that are
        made again: the validations among them decide anew.
        """
        best = self.state["best"]
        if best and checkpoints.best_step(self.run_dir) != best[0]:
            self.state["best"] = None

    def _finish(self, outcome: str) -> None:
        """Keeps the last weights and marks the run as ended."""
        step = self.state["step"]
        if self._kept_step != step:
            self._keep(step)
        checkpoints.remove_kept_after(self.run_dir, step)
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
        if len(self._first_times) > _RATE_UPDATES:
            return
        self._first_times.append(time.monotonic())
        if len(self._first_times) <= _RATE_UPDATES:
            return
        rate = _RATE_UPDATES / (self._first_times[-1] - self._first_times[0])
        seconds = (self.num_updates - self.update) / rate
        logging.info(
            "%.1f pairs/s on %s: at this rate the end is %s away",
            rate * self.config.train.batch_size * self.num_replicas,
            ", ".join(self.strategy.extended.worker_devices),
            f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h",
        )

    def _end_step(self, writer: ScalarWriter) -> tuple[int, dict[str, float]]:
        """Validates, writes scalars, keeps and saves where due.

        What can be stopped comes first and leaves the state as it is; a resumed run
        then does all of it. The checkpoint comes last: whatever is on the disk before
        it is written again if it does not get there.

        Returns:
            The step's number and its scalars.
        """
        train, state = self.config.train, self.state
        step = self.update // train.updates_per_step
        scalars = self._step_scalars()
        is_kept = step in train.keep_steps
        is_validated = bool(
            self.validation
            and train.validate_every_steps
            and step % train.validate_every_steps == 0
        )
        statistics: dict[str, BatchStatistics] = {}
        if is_kept or is_validated:
            statistics = self.estimate_statistics()
        if is_validated:
            found = self.validate(statistics["pairs"])
            scalars |= {f"validation/{name}": value for name, value in found.items()}
            state["validation"].append([step, found["loss"]])
            if state["best"] is None or found["loss"] < state["best"][1]:
                state["best"] = [step, found["loss"]]
                self._keep(step, statistics, "best")
        writer.write(step, scalars)
        if is_kept:
            self._keep(step, statistics)
        state["seconds"] += state["step_seconds"]
        state |= {"step": step, "rows": [], "step_seconds": 0.0}
        if step % train.checkpoint_every_steps == 0:
            self._save()
        return step, scalars

    def _step_scalars(self) -> dict[str, float]:
        rows = self.state["rows"]
        scalars = runs.summarize_updates(rows, self.data.sources)
        pairs = len(rows) * self.config.train.batch_size * self.num_replicas
        scalars["pairs_per_second"] = pairs / max(self.state["step_seconds"], 1e-9)
        scalars["learning_rate"] = float(self.model.optimizer.learning_rate)
        return scalars

    def _save(self) -> None:
        resume.save_training(
            self.run_dir,
            self.model,
            self.state,
            self.update,
            self.config.train.max_to_keep,
        )

    def _keep(
        self,
        step: int,
        statistics: dict[str, BatchStatistics] | None = None,
        name: str | None = None,
    ) -> None:
        if statistics is None:
            statistics = self.estimate_statistics()
        checkpoints.save_kept(self.run_dir, self.model, statistics, step, name)
        if name is None:
            self._kept_step = step

    def estimate_statistics(self) -> dict[str, BatchStatistics]:
        """Batch-norm statistics of the weights as they are; see `Validator`."""
        return self._validator.estimate_statistics(self._stop_if_asked)

    def validate(self, statistics: BatchStatistics) -> dict[str, float]:
        """Scores the validation split in inference mode; see `Validator`."""
        return self._validator.validate(statistics, self._stop_if_asked)
