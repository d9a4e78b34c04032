"""Ctrl-C and SIGTERM as a stop at the next safe place, the same one on all workers."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cola_msa.training.workers import Workers

T = TypeVar("T")


class StopRequestedError(Exception):
    """A signal came; what was being computed can be computed again."""


class Stops:
    """Notes signals, and stops where every worker does."""

    def __init__(self, workers: Workers):
        """Catches nothing yet."""
        self._workers = workers
        self._is_asked = False

    @contextlib.contextmanager
    def caught_signals(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM are noted instead of ending the process."""

        def note(number: int, _: Any) -> None:
            self._is_asked = True

        self._is_asked = False
        caught = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, note) for number in caught}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def stop_if_asked(self) -> None:
        """For what runs inside `on_chief`, between its parts.

        Raises:
            StopRequestedError: If a signal has come to this process.
        """
        if self._is_asked:
            raise StopRequestedError

    def stop_together(self) -> None:
        """Stops all workers if any of them was asked to; every one must call it.

        Raises:
            StopRequestedError: If a signal has come to one of them.
        """
        if self._workers.share([self._is_asked])[0]:
            raise StopRequestedError

    def on_chief(self, compute: Callable[[], T]) -> T | None:
        """Computes on the chief alone; a signal that stops it there stops all.

        Returns:
            The result; None on the others.

        Raises:
            StopRequestedError: On all workers, if the computation was stopped.
        """
        result, is_stopped = None, False
        if self._workers.is_chief:
            try:
                result = compute()
            except StopRequestedError:
                is_stopped = True
        if self._workers.share([is_stopped])[0]:
            raise StopRequestedError
        return result
