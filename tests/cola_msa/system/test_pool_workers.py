import multiprocessing
import os
import signal

import pytest

from cola_msa.system import processes
from cola_msa.system.errors import UserError


def interrupt_waits() -> bool:
    """Whether this thread does not take SIGINT now."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def state(_: int) -> tuple[bool, bool]:
    found = interrupt_waits()
    os.kill(os.getpid(), signal.SIGINT)  # a terminal's, while it still imports
    processes.follow_parent()
    return found, interrupt_waits()


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("of a task")


def test_processes_that_are_starting_do_not_see_ctrl_c():
    with processes.worker_pool(1, UserError("died"), str) as submit:
        assert submit(state, 0).result(timeout=60) == (True, False)


@pytest.mark.parametrize(
    ("task", "error"), [(kill_oneself, UserError("died")), (fail, ValueError("of a"))]
)
def test_what_ends_a_task_ends_the_pool(task, error):
    """A process that is killed is the error that was named, not a wait for ever."""
    with pytest.raises(type(error), match=str(error)):
        with processes.worker_pool(1, UserError("died")) as submit:
            waiting = [submit(task), submit(os.getpid)]
            waiting[0].result(timeout=60)
    assert not multiprocessing.active_children()
    assert waiting[1].done()


def test_the_starting_process_takes_ctrl_c_again():
    with processes.interrupts_wait():
        assert interrupt_waits()
    assert not interrupt_waits()
