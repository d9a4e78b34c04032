"""Ctrl-C and SIGTERM that are never lost.

Python turns Ctrl-C into an exception wherever the program is, and drops it where that
is a finalizer. So the signal is also noted, and loops look at the note.
"""

import signal
import threading
from types import FrameType

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
