"""The training loop: one loop around `model.train_step` for every distribution."""

import contextlib
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from cola_msa.config.schema import Config
from cola_msa.evaluation.validation import Validator
from cola_msa.frameworks.choose import framework_of
from cola_msa.model.acceleration import choose_acceleration
from cola_msa.model.optimizers import averaged_weights, build_optimizer
from cola_msa.model.statistics import BatchStatistics
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.joined import PairData
from cola_msa.runs import directory, kept, network, resume
from cola_msa.runs.scalars import ScalarWriter
from cola_msa.system import errors, files
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import FileError, UserError
from cola_msa.training import progress, warm_start
from cola_msa.training.checks import check_config
from cola_msa.training.progress import Progress
from cola_msa.training.updates import Updater
from cola_msa.training.workers import (
    StopRequestedError,
    Stops,
    Workers,
    default_strategy,
)
from cola_msa.values import arrays


class TrainingError(UserError):
    """Training cannot go on."""


class Trainer:
    """Trains one model on prepared data, into one run directory.

    It holds the run directory's lock from the start until `run` has ended.
    """

    def __init__(
        self,
        config: Config,
        data: PairData,
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
            UserError: If settings contradict one another, or mean nothing to the
                framework.
            PairError: If the data cannot give the batches.
        """
        check_config(config)  # refuses what does not fit, before anything is made
        self.config = config
        self.data = data
        self.run_dir = pathlib.Path(run_dir)
        self.strategy = strategy or default_strategy()
        self.num_replicas = self.strategy.num_replicas_in_sync
        self.workers = Workers(self.strategy)
        self._start = warm_start.checked(start, config)
        self.acceleration = choose_acceleration(
            config.train, config.model.sync_batch_norm
        )
        logging.info("%s", self.acceleration)
        mean, std = data.log_mel_moments
        framework = framework_of(config)
        silent = framework.silent_value(config, mean)
        self.sampler = PairSampler(
            data,
            config.train,
            "train",
            silent,
            self.num_replicas,
            framework.build_augmentation,
        )
        if len(data.parts) > 1:
            for line in self.sampler.describe_folders():
                logging.info("data: %s", line)
        self.validation: PairSampler | None = None
        if config.train.validate_every_steps and "validation" in data.splits:
            self.validation = PairSampler(data, config.train, "validation", silent)
        # From here until `run` ends no other process trains there.
        with contextlib.ExitStack() as stack:
            self.workers.chief_first(lambda: self._claim_run_dir(stack, mean, std))
            keras.utils.set_random_seed(config.train.seed)
            if config.train.deterministic:
                tf.config.experimental.enable_op_determinism()
            with self.workers.noticing_losses(), self.strategy.scope():
                self.model = network.build_network(
                    config,
                    {"log_mel_mean": mean, "log_mel_std": std},
                    encoder_policy=self.acceleration.policy,
                )
                framework.measure_input(self.model, self.sampler)
                has_loss_scale = self.acceleration.precision == "float16"
                self.model.compile(
                    optimizer=build_optimizer(config.train, has_loss_scale)
                )
                self.model.optimizer.build(self.model.trainable_variables)
            restored = self.workers.chief_first(
                lambda: resume.restore_training(
                    self.run_dir, self.model, self.workers.first_replica
                )
            )
            self._held: contextlib.ExitStack | None = stack.pop_all()
        self.state: dict[str, Any] = restored or {
            "update": 0,
            "step": 0,  # steps that have ended
            "rows": [],  # scalars of the updates since then
            "step_seconds": 0.0,
            "seconds": 0.0,
            "validation": [],
            "best": None,  # [step, loss]
            "references": {},  # what the validations' top-1 is compared with
            "top1": None,  # of the last validation
        }
        self._validator = Validator(
            self.model, self.sampler, self.validation, config.train.statistics_batches
        )
        self._update = Updater(
            self.model,
            self.strategy,
            config.train,
            data.sources,
            self.acceleration.jit_compile,
        )
        self._stops = Stops(self.workers)
        self._kept_step: int | None = None
        self._progress = Progress(
            config.train,
            self.num_replicas,
            self.strategy.extended.worker_devices,
            framework.describe_pairs(config.train),
        )
        if restored:
            logging.info("going on at update %d of %d", self.update, self.num_updates)

    def _claim_run_dir(
        self, stack: contextlib.ExitStack, mean: float, std: float
    ) -> None:
        """Locks the run directory; writes config.json, or checks the one there."""
        self._lock(stack)
        description = directory.describe_run(
            self.config,
            {**self.data.describe(), "log_mel_mean": mean, "log_mel_std": std},
            self.num_replicas,
        )
        if self._start:
            description["init"] = self._start.describe()
        directory.claim_run_dir(self.run_dir, description)

    def _lock(self, stack: contextlib.ExitStack) -> None:
        """Keeps other processes out of the run directory, where this is the chief.

        Raises:
            RunError: If one trains there, or it is somebody else's folder.
        """
        if not self.workers.is_chief:
            return
        try:
            directory.check_run_dir(self.run_dir)
            files.make_folder(self.run_dir)
            stack.enter_context(resume.exclusive(self.run_dir))
        except (FileError, OSError) as error:
            raise errors.RunError(str(error)) from error

    @property
    def update(self) -> int:
        """Updates done so far."""
        return self.state["update"]

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.train.steps * self.config.train.updates_per_step

    def run(
        self, on_step: Callable[[int, dict[str, float]], None] | None = None
    ) -> str:
        """Trains to the end, to early stopping, or until a signal asks for a stop.

        Args:
            on_step: Called after every step with its number and scalars.

        Returns:
            `finished`, `stopped early` or `interrupted`; in each case a checkpoint
            stands, and the same command goes on after an interruption.

        Raises:
            RunError: If a file cannot be written.
            TrainingError: If the loss is not finite.
        """
        with contextlib.ExitStack() as stack:
            held, self._held = self._held, None
            if held is not None:
                stack.enter_context(held)
            else:  # it ran before
                self.workers.chief_first(lambda: self._lock(stack))
            return self._run(on_step or (lambda step, scalars: None))

    def _run(self, on_step: Callable[[int, dict[str, float]], None]) -> str:
        # One look at the disk for all: they must go the same way.
        path = self.run_dir / directory.DONE_NAME
        found = [path.exists(), self.update]
        is_ended, update = self.workers.share_chiefs(found)
        if (is_ended, update) != tuple(map(float, found)):
            raise errors.RunError(
                f"{self.run_dir}: this worker finds update {self.update}, the chief "
                f"{update:.0f}: it must be one folder that all workers see"
            )
        if is_ended:
            return kept.read_done(self.run_dir)["outcome"]
        with contextlib.ExitStack() as stack:
            writer = self.workers.chief_first(lambda: self._open_run_dir(stack))
            stack.enter_context(self._stops.caught_signals())
            stack.enter_context(self.workers.noticing_losses())
            try:
                self._begin()
                if self.update == 0 and self._start is not None:
                    self._take_start(self._start)
                outcome = self._train(writer, on_step)
                self._save()
                self._finish(outcome)
            except StopRequestedError:
                outcome = "interrupted"
                self._save()
                self.workers.share([0.0])  # the others leave when it is written
        return outcome

    def _open_run_dir(self, stack: contextlib.ExitStack) -> ScalarWriter | None:
        """Tidies the run directory; None but on the chief."""
        if not self.workers.is_chief:
            return None
        resume.drop_scalars_after(self.run_dir, self.state["step"])
        writer = ScalarWriter(self.run_dir)
        stack.callback(writer.close)
        return writer

    def _has_untrained(self) -> bool:
        """Whether the untrained network is kept; forgets a lost best encoder too.

        A process that is killed between writing a new best and the checkpoint, or
        whose newest checkpoint is damaged, leaves a best.npz from updates that are
        made again: the validations among them decide anew.
        """
        best = self.state["best"]
        is_kept = self.update > 0 or 0 in kept.kept_steps(self.run_dir)
        is_lost = bool(best) and kept.best_step(self.run_dir) != best[0]
        is_kept, is_lost = map(bool, self.workers.share_chiefs([is_kept, is_lost]))
        if is_lost:
            self.state["best"] = None
        return is_kept

    def _begin(self) -> None:
        """Keeps the untrained network, and notes what retrieval is compared with."""
        is_kept = self._has_untrained()
        if is_kept and self.update:
            return
        statistics = self._stops.on_chief(lambda: self.estimate_statistics(True)) or {}
        if not is_kept:
            self._keep(0, statistics)
        if self.validation:
            found = self._stops.on_chief(
                lambda: self._validator.references(statistics["pairs"])
            )
            self.state["references"] = found or {}
            self._progress.say_references(found or {})

    def _take_start(self, start: warm_start.WarmStart) -> None:
        """Takes the weights to start from; step 0 stays the fresh network."""
        warm_start.assign(self.model, start)
        self._validator.forget_graphs()
        self._keep(0, name=warm_start.KEPT_NAME)

    def _train(
        self,
        writer: ScalarWriter | None,
        on_step: Callable[[int, dict[str, float]], None],
    ) -> str:
        """The loop; its state is whole at the top of every round."""
        train, state = self.config.train, self.state
        batches = self._batches()
        self._progress.say_extent(self.num_updates - self.update)
        with ProgressBar(
            total=self.num_updates,
            initial=self.update,
            desc="train",
            unit="update",
            mininterval=1.0,
            disable=not self.workers.is_chief,
        ) as bar:
            while True:
                self._stops.stop_together()
                if state["rows"] and self.update % train.updates_per_step == 0:
                    step, scalars = self._end_step(writer)
                    on_step(step, scalars)
                    continue
                # Asked here, so that a run that died at its end does not go on.
                if not state["rows"] and progress.has_stalled(
                    state["validation"], train.patience_steps
                ):
                    return "stopped early"
                if self.update == self.num_updates:
                    return "finished"
                started = time.monotonic()
                row = self._one_update(next(batches))
                state["update"] += 1
                state["rows"].append(row)
                seconds = time.monotonic() - started
                state["step_seconds"] += seconds
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                self._progress.note_update(self.num_updates - self.update, seconds)

    def _batches(self) -> Iterator[Any]:
        """What the updates that are left take, for this worker's replicas."""
        count = self.config.train.accumulate
        dataset = self.sampler.dataset(
            self.update,
            self.num_updates - self.update,
            self.workers.num_local_replicas,
            count,
            self.workers.first_replica,
        )
        if self.num_replicas == 1:
            made = iter(dataset)
        else:
            distribute = self.strategy.distribute_datasets_from_function
            made = iter(distribute(lambda _: dataset))
        return made if count == 1 else map(list, zip(*[made] * count, strict=True))

    def _finish(self, outcome: str) -> None:
        """Keeps the last weights and marks the run as ended."""
        step = self.state["step"]
        if self._kept_step != step:
            with averaged_weights(self.model):
                self._keep(step)
        if self.workers.is_chief:
            self._progress.say_verdict(
                self.state.get("top1"), self.state.get("references")
            )
            kept.remove_kept_after(self.run_dir, step)
            arrays.write_json(
                self.run_dir / directory.DONE_NAME,
                {
                    "outcome": outcome,
                    "step": step,
                    "updates": self.update,
                    "pairs": self.update * self._progress.pairs_per_update,
                    "training_seconds": round(self.state["seconds"], 1),
                },
            )
        self.workers.share([0.0])  # the others leave when all of it is written

    def _one_update(self, batch: Any) -> dict[str, float]:
        scalars = {name: float(v) for name, v in self._update(batch).items()}
        if not math.isfinite(scalars["loss"]):
            raise TrainingError(
                f"the loss is {scalars['loss']} at update {self.update}; lower "
                f"--learning_rate, or go on from a checkpoint in {self.run_dir}"
            )
        return scalars

    def _end_step(self, writer: ScalarWriter | None) -> tuple[int, dict[str, float]]:
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
        is_validated = bool(self.validation and step % train.validate_every_steps == 0)
        statistics: dict[str, BatchStatistics] = {}
        with averaged_weights(self.model):
            if is_kept or is_validated:
                statistics = self._stops.on_chief(self.estimate_statistics) or {}
            if is_validated:
                found = self._stops.on_chief(lambda: self.validate(statistics["pairs"]))
                state["top1"] = (found or {}).get("top1")
                found = (found or {}) | state.get("references", {})
                scalars |= {f"validation/{k}": v for k, v in found.items()}
                loss = scalars.get("validation/loss", 0.0)
                (loss,) = self.workers.share_chiefs([loss])
                state["validation"].append([step, loss])
                if state["best"] is None or loss < state["best"][1]:
                    state["best"] = [step, loss]
                    self._keep(step, statistics, "best")
            if writer:
                writer.write(step, scalars)
            if is_kept:
                self._keep(step, statistics)
        state["seconds"] += state["step_seconds"]
        state |= {"step": step, "rows": [], "step_seconds": 0.0}
        if step % train.checkpoint_every_steps == 0:
            self._save()
        return step, scalars

    def _step_scalars(self) -> dict[str, float]:
        rows, seconds = self.state["rows"], max(self.state["step_seconds"], 1e-9)
        return {
            **progress.summarize_updates(rows, self.data.sources),
            "pairs_per_second": len(rows) * self._progress.pairs_per_update / seconds,
            "learning_rate": float(self.model.optimizer.learning_rate),
        }

    def _save(self) -> None:
        values = self.workers.replica_values(resume.saved_variables(self.model))
        if self.workers.is_chief:
            resume.save_training(
                self.run_dir,
                self.model,
                self.state,
                self.update,
                self.config.train.max_to_keep,
                values,
            )

    def _keep(
        self,
        step: int,
        statistics: dict[str, BatchStatistics] | None = None,
        name: str | None = None,
    ) -> None:
        if statistics is None:
            statistics = self._stops.on_chief(self.estimate_statistics)
        values = self.workers.replica_values(self.model.variables)
        if self.workers.is_chief:
            kept.save_kept(
                self.run_dir, self.model, statistics or {}, step, name, values
            )
        self._kept_step = step if name is None else self._kept_step

    def estimate_statistics(self, is_first: bool = False) -> dict[str, BatchStatistics]:
        """Batch-norm statistics of the weights as they are; see `Validator`."""
        return self._validator.estimate_statistics(self._stops.stop_if_asked, is_first)

    def validate(self, statistics: BatchStatistics) -> dict[str, float]:
        """Scores the validation split in inference mode; see `Validator`."""
        return self._validator.validate(statistics, self._stops.stop_if_asked)


def start_trainer(
    config: Config,
    data: PairData,
    run_dir: pathlib.Path | None,
    strategy: tf.distribute.Strategy,
    start: warm_start.WarmStart | None = None,
    root: str | os.PathLike = "runs",
) -> Trainer:
    """A trainer in the directory that is named, or in a new one under `root`.

    Args:
        config: What to train.
        data: The prepared data.
        run_dir: Where; None for `<root>/<name>-<time>`, the strategy's name or the
            framework's `run_name`, which is taken away again where training cannot
            begin.
        strategy: Its devices.
        start: What its weights start from.
        root: Folder of runs.

    Raises:
        UserError: As `Trainer`.
    """
    if run_dir is not None:
        logging.info("run directory: %s", run_dir)
        return Trainer(config, data, run_dir, strategy, start)
    name = config.strategy or framework_of(config).run_name(config.train)
    run_dir = directory.new_run_dir(root, name)
    logging.info("run directory: %s", run_dir)
    try:
        return Trainer(config, data, run_dir, strategy, start)
    except BaseException:
        with contextlib.suppress(OSError):  # it holds a run already
            run_dir.rmdir()
        raise
