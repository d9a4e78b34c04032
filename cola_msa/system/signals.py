"""Ctrl-C and SIGTERM that are never lost.

Python turns Ctrl-C into an exception wherever the program is, and drops it where that
is a finalizer. So the signal is also noted, and loops look at the note.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_received = threading.Event()


def install() -> None:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt, and note that they came."""
    _received.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _note)


def _note(number: int, frame: FrameType | None) -> None:
    _received.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raises KeyboardInterrupt where a signal has come; for loops over batches."""
    if _received.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM call `handler`; then what they called before."""
    numbers = signal.SIGINT, signal.SIGTERM
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def stop_on_signals() -> contextlib.AbstractContextManager[None]:
    """Makes SIGTERM and SIGINT stop the process inside, as Ctrl-C does.

    SIGINT too: a shell starts its background jobs with that signal ignored, and they
    would pass this on to their children.
    """

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    return handled_by(stop)
