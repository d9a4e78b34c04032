"""What a training run says of its extent and its expected end."""

import os
import time

from absl import logging

from cola_msa.config.schema import TrainConfig

_RATE_UPDATES = 3  # updates that the expected end is reckoned from


class Progress:
    """Counts a run's pairs and reckons when it ends."""

    def __init__(self, train: TrainConfig, num_replicas: int, devices: tuple[str, ...]):
        """Starts no clock yet.

        Args:
            train: source, batches, batch_size and accumulate are used.
            num_replicas: Replicas on all machines.
            devices: What this process trains on.
        """
        self._train = train
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
            "%s, %s batches: %d updates of %s pairs to go, %d pairs in all",
            train.source,
            train.batches,
            num_updates,
            " x ".join(map(str, factors)),
            num_updates * self.pairs_per_update,
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
