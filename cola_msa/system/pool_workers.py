"""What every process of a pool does first. No TensorFlow here."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Start processes inside: Ctrl-C does not reach them before `follow_parent`.

    A terminal sends it to the whole group, and a process that is still importing would
    end in a traceback. They inherit this thread's signal mask; in this process another
    thread may take the signal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends this process when the parent has ended.

    A pool's worker would else wait for ever for one that was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what waited is gone
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=_exit_with, args=(parent.sentinel,), daemon=True
        ).start()


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
