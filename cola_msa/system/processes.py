"""Child processes that end when their parent is stopped, and a lock on a folder."""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from cola_msa.system.errors import UserError

LOCK_NAME = ".lock"
# Asks Linux for SIGTERM when the parent dies, then becomes the command. A process does
# it, not a function between fork and exec: TensorFlow's threads may hold locks there.
_STARTER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)  # the parent died before
os.execv(sys.argv[2], sys.argv[2:])
"""
_LOCK_SECONDS = 60.0
# Training writes a checkpoint when it is asked to stop; a large one takes a while.
_STOP_SECONDS = 300.0


class ProcessError(UserError):
    """A folder that another process works in."""


@contextlib.contextmanager
def exclusive_folder(
    folder: pathlib.Path, wait_seconds: float = _LOCK_SECONDS
) -> Iterator[int]:
    """Keeps other processes from working in a folder.

    The lock belongs to the descriptor, which children inherit (`run_child`): it is
    held until the last of them has ended, also where this process is killed.

    Args:
        folder: The folder.
        wait_seconds: How long to wait for another process that is ending.

    Yields:
        The lock's descriptor.

    Raises:
        ProcessError: If another process still works there.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, folder, wait_seconds)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: pathlib.Path, wait_seconds: float) -> None:
    end = time.monotonic() + wait_seconds
    is_first = True
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise ProcessError(
                    f"{folder}: another process works there; wait for it or stop it, "
                    "or name another --output_dir"
                ) from error
            if is_first:
                logging.info("waiting for another process that works in %s", folder)
            is_first = False
            time.sleep(0.5)
        except OSError as error:
            logging.warning(
                "%s: no locks on this file system (%s): use it from one process alone",
                folder,
                error,
            )
            return


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


def run_child(argv: Sequence[str], lock: int | None = None) -> int:
    """Runs a command to its end.

    The child has a process group of its own, so that Ctrl-C reaches this process
    alone, which then asks the child once to stop and waits: a second Ctrl-C that
    training might take for impatience never arrives.

    Args:
        argv: The command; first the program's path.
        lock: A descriptor that the child keeps open.

    Returns:
        Its exit code, negative where a signal ended it.

    Raises:
        KeyboardInterrupt: If this process was interrupted; the child has ended.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(os.getpid()), *argv],
        stdin=subprocess.DEVNULL,
        process_group=0,
        pass_fds=() if lock is None else (lock,),
    )
    try:
        return child.wait()
    except KeyboardInterrupt:
        stop_child(child)
        raise


def stop_child(child: subprocess.Popen, seconds: float = _STOP_SECONDS) -> None:
    """Asks a child to stop; kills it where it does not, or on another Ctrl-C."""
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)
    try:
        child.wait(seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
