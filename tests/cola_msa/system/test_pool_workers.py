import concurrent.futures
import multiprocessing
import os
import signal

from cola_msa.system import processes


def interrupt_waits() -> bool:
    """Whether this thread does not take SIGINT now."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def state(_: int) -> tuple[bool, bool]:
    found = interrupt_waits()
    os.kill(os.getpid(), signal.SIGINT)  # a terminal's, while it still imports
    processes.follow_parent()
    return found, interrupt_waits()


def test_processes_that_are_starting_do_not_see_ctrl_c():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        with processes.interrupts_wait():
            future = pool.submit(state, 0)
        assert future.result(timeout=60) == (True, False)


def test_the_starting_process_takes_ctrl_c_again():
    with processes.interrupts_wait():
        assert interrupt_waits()
    assert not interrupt_waits()
