"""Child processes, and workers of a pool, that end when their parent is stopped."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

from cola_msa.system.errors import UserError

# Asks Linux for SIGTERM when the parent dies, then becomes the command. A process does
# it, not a function between fork and exec: TensorFlow's threads may hold locks there.
_STARTER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)  # the parent died before
os.execv(sys.argv[2], sys.argv[2:])
"""
# Training writes a checkpoint when it is asked to stop; a large one takes a while.
_STOP_SECONDS = 300.0


class ProcessError(UserError):
    """A folder that another process works in."""


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


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable of this process's environment inside."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


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


def limit_threads() -> None:
    """One TensorFlow thread a process, no GPU: parallel work is by processes."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow already runs in this process
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")


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


@contextlib.contextmanager
def worker_pool(
    num_workers: int,
    died: UserError,
    start: Callable[..., None] = follow_parent,
    arguments: tuple = (),
) -> Iterator[Callable[..., concurrent.futures.Future]]:
    """Processes that work on what they are given; tasks left over end with the block.

    They are never forked: TensorFlow's threads do not survive it.

    Args:
        num_workers: Processes, at the most.
        died: What is raised where one died.
        start: Called first in each; it calls `follow_parent`.
        arguments: Of `start`.

    Yields:
        What takes a task: a function of a module, and its arguments, to its Future.

    Raises:
        UserError: `died`, where a process was killed.
    """
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), start, arguments
    )

    def submit(function: Callable, *values: object) -> concurrent.futures.Future:
        with interrupts_wait():  # it may start a process
            return pool.submit(function, *values)

    try:
        yield submit
    except BrokenProcessPool as error:
        raise died from error
    finally:
        pool.shutdown(cancel_futures=True)
