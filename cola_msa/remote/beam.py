"""Work by Apache Beam, on this machine or on a cluster: one function, many elements.

What runs in a worker are functions of modules, so that they are sent by name.
"""

import contextlib
import itertools
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cola_msa.remote.addresses import RemoteError
from cola_msa.remote.engines import BeamError, Engine
from cola_msa.remote.engines import import_beam as import_beam
from cola_msa.system.errors import UserError

_POLL_SECONDS = 0.5
_FAILURE = re.compile(r"^(?:[\w.]+\.)?UserFailureError: (.+)$", re.M)
_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.M)


class UserFailureError(Exception):
    """What a worker's user can mend; engines hand on an error's name and text alone."""


@contextlib.contextmanager
def told_by_workers() -> Iterator[None]:
    """In a worker: makes a UserFailureError of what its user can mend.

    Raises:
        UserFailureError: If a file or a folder cannot be used; all else is a defect.
    """
    try:
        yield
    except (UserError, OSError) as error:
        raise UserFailureError(str(error)) from error


def run(
    work: Callable[[Any, Any], Any],
    elements: Sequence[Any],
    job: Any,
    num_workers: int,
    look: Callable[[], float | None],
    beam_args: str = "",
) -> str:
    """Calls `work(element, job)` for every element, and returns at the end.

    Args:
        work: A function of a module; its errors pass `told_by_workers`.
        elements: What is to be worked on.
        job: What every worker needs to know; sent by pickle.
        num_workers: Processes, where Beam works on this machine.
        look: Called now and then, and at the end, to show how it goes, by what the
            workers have written; returns the seconds that it spent on listings of an
            address, which it is then asked for the less often.
        beam_args: Beam's own flags, see `Engine`.

    Returns:
        How the pipeline ended, in Beam's word.

    Raises:
        BeamError: If an extra is missing, or the pipeline failed.
        UsageError: If Beam's flags are wrong.
    """
    engine = Engine(beam_args, num_workers)
    with _watch(look):
        try:
            return engine.run(work, elements, job)
        # Engines raise errors of their own; a worker's is quoted in their text.
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            if _comes_from(work).search(told) and not _FAILURE.search(told):
                raise  # a defect of ours, which is shown whole
            raise BeamError(
                f"the Beam pipeline failed: {_reason(error, told)}; finished shards "
                "are kept: run the same command again once that is mended"
            ) from error


def _comes_from(work: Callable) -> re.Pattern[str]:
    """Matches the line of a traceback that came from a worker."""
    file = re.escape(work.__module__.replace(".", "/") + ".py")
    return re.compile(rf'{file}", line \d+, in {re.escape(work.__name__)}$', re.M)


def _reason(error: Exception, told: str) -> str:
    found = [("", message) for message in _FAILURE.findall(told)]
    found = found or _ERROR_LINE.findall(str(error))
    if not found:  # the first paragraph
        lines = itertools.takewhile(str.strip, str(error).strip().splitlines())
        return " ".join(map(str.strip, lines)) or type(error).__name__
    kind, message = found[-1]
    return re.sub(r" \[while running .*", "", message) or kind


@contextlib.contextmanager
def _watch(look: Callable[[], float | None]) -> Iterator[None]:
    """Calls `look` now and then inside, in a thread, and once at the end."""
    stop = threading.Event()

    def poll() -> None:
        pause = _POLL_SECONDS
        while not stop.wait(pause):
            # A listing that fails now may do so no longer at the end.
            with contextlib.suppress(RemoteError):
                # Listings of a bucket cost time and money: a twentieth of it at most.
                pause = max(_POLL_SECONDS, 20 * (look() or 0.0))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(RemoteError):
            look()


def timed(action: Callable[[], Any]) -> float:
    """Seconds that an action takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began
