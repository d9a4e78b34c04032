"""A training run's extent, its expected end, and whether it has stopped improving."""

import os
import time

import numpy as np
from absl import logging

from cola_msa.config.schema import TrainConfig

_RATE_UPDATES = 3  # updates that the expected end is reckoned from


class Progress:
    """Counts a run's pairs and reckons when it ends."""

    def __init__(
        self,
        train: TrainConfig,
        num_replicas: int,
        devices: tuple[str, ...],
        pairs: str,
    ):
        """Starts no clock yet.

        Args:
            train: batch_size and accumulate are used.
            num_replicas: Replicas on all machines.
            devices: What this process trains on.
            pairs: What a pair is, in words.
        """
        self._train = train
        self._pairs = pairs
        self._num_replicas = num_replicas
        self._devices = devices
        self._first_times: list[float] = []
        self.pairs_per_update = train.pairs_per_update(num_replicas)

    def say_extent(self, num_updates: int) -> None:
        """Says how much is left."""
        train = self._train
        factors = [self._num_replicas, train.batch_size]
        if train.accumulate > 1:
            factors.insert(0, train.accumulate)
        logging.info(
            "%s: %d updates of %s pairs to go, %d pairs in all",
            self._pairs,
            num_updates,
            " x ".join(map(str, factors)),
            num_updates * self.pairs_per_update,
        )

    def say_references(self, found: dict[str, float]) -> None:
        """Says what the retrieval of later validations is to be compared with.

        Args:
            found: From `Validator.references`; nothing is said where it is empty.
        """
        if found:
            logging.info(
                "retrieval on validation songs, top-1: chance %.3f, untrained %.3f, "
                "no learning (spectra, cosine) %.3f: a run that does not beat the "
                "last has not learned the task",
                found["chance_top1"],
                found["untrained_top1"],
                found["no_learning_top1"],
            )

    def say_verdict(
        self, top1: float | None, references: dict[str, float] | None
    ) -> None:
        """Says whether the run has learned more than can be had without learning.

        Args:
            top1: The last validation's; None where there was none.
            references: From `Validator.references`.
        """
        if top1 is None or not references:
            return
        without = references["no_learning_top1"]
        logging.info(
            "retrieval on validation songs, top-1: %.3f; untrained %.3f, no learning "
            "%.3f%s",
            top1,
            references["untrained_top1"],
            without,
            "" if top1 > without else ": the run has not learned the task yet",
        )

    def note_update(self, num_left: int, seconds: float) -> None:
        """Says when the first update ended, and after the fourth the rate since then.

        Args:
            num_left: Updates that are left.
            seconds: What this update took; the first one builds graphs.
        """
        if len(self._first_times) > _RATE_UPDATES:
            return
        if not self._first_times:
            logging.info(
                "first update done %.1f s after the command began (%.1f s of them for "
                "building its graph and running it)",
                seconds_since_start(),
                seconds,
            )
        self._first_times.append(time.monotonic())
        if len(self._first_times) <= _RATE_UPDATES:
            return
        rate = _RATE_UPDATES / (self._first_times[-1] - self._first_times[0])
        seconds = num_left / rate
        logging.info(
            "%.1f pairs/s on %s: at this rate the end is %s away",
            rate * self.pairs_per_update,
            ", ".join(self._devices),
            f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h",
        )


def seconds_since_start() -> float:
    """Seconds since this process was started, its imports included; Linux alone."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since the system's start
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def has_stalled(validation: list[list[float]], patience_steps: int) -> bool:
    """Whether the running average of the validation loss has stopped improving.

    Args:
        validation: [step, loss] of every validation so far, in order.
        patience_steps: Window of the running average, in steps; 0 never stalls.

    Returns:
        True if the average over the last window is no better than over the one
        before it.

    Source: section 5 ("after the running average of the validation loss over 1000
        steps did not improve").
    """
    if not patience_steps or not validation:
        return False
    now = validation[-1][0]
    last = [v for step, v in validation if now - patience_steps < step <= now]
    before = [
        v
        for step, v in validation
        if now - 2 * patience_steps < step <= now - patience_steps
    ]
    is_full = validation[0][0] <= now - 2 * patience_steps + (
        validation[1][0] - validation[0][0] if len(validation) > 1 else 0
    )
    if not before or not is_full:
        return False
    return float(np.mean(last)) >= float(np.mean(before))


def summarize_updates(
    rows: list[dict[str, float]], sources: tuple[str, ...]
) -> dict[str, float]:
    """Means of the scalars of a step's updates.

    Args:
        rows: One dictionary an update; `count/<source>` is 1 where the update was
            of this source, and `loss/<source>` its loss then, else 0.
        sources: The data's sources.

    Returns:
        Means; `loss/<source>` over the updates of this source, if there were any.
    """
    sums = {name: sum(row[name] for row in rows) for name in rows[0]}
    scalars = {
        name: value / len(rows)
        for name, value in sums.items()
        if not name.startswith(("count/", "loss/"))
    }
    for name in sources:
        if sums.get(f"count/{name}"):
            scalars[f"loss/{name}"] = sums[f"loss/{name}"] / sums[f"count/{name}"]
    return scalars
