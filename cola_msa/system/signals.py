"""Ctrl-C and SIGTERM that are never lost.

Python turns Ctrl-C into an exception wherever the program is, and drops it where that
is a finalizer. So the signal is also noted, and loops look at the note.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
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
def stop_on_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGINT stop the process, as Ctrl-C does.

    SIGINT too: a shell starts its background jobs with that signal ignored, and they
    would pass this on to their children.
    """

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
