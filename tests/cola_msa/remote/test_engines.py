"""Beam's engines: wrong flags, and a Dask cluster, whose workers are threads here."""

import concurrent.futures
import logging
import operator
import os
import signal
import sys
import threading
import time
import types

import pytest

from cola_msa.remote import beam, engines
from cola_msa.system.errors import UsageError

pytest.importorskip("apache_beam", reason="needs pip install 'cola_msa[beam]'")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--runner='DirectRunner", "No closing quotation"),
        ("--runner=DirectRuner", "Unexpected pipeline runner: DirectRuner"),
        ("--runner=os.getcwd", "os.getcwd is no runner of Beam"),
        ("--runner=os.path.join", "missing 1 required positional argument"),
        ("--runner=os.nothing", "has no attribute 'nothing'"),
        ("--direct_num_worker=2", "--direct_num_worker=2 is no flag of Beam"),
        ("DaskRunner", "DaskRunner is no flag of Beam"),
        ("--help", "help on Beam's flags is in Beam's own pages"),
        ("--direct_num_workers=two", "--direct_num_workers: invalid int value: 'two'"),
    ],
)
def test_wrong_flags_are_told_in_one_line(arguments, told, capfd):
    with pytest.raises(UsageError) as error:
        engines.Engine(arguments)
    message = str(error.value)
    assert message.startswith("--beam_args") and told in message
    assert "\n" not in message and capfd.readouterr() == ("", "")


def test_flags_that_a_clusters_server_knows_are_handed_on():
    found = engines.Engine("--runner=FlinkRunner --parallelism=3")
    assert found.arguments == ["--runner=FlinkRunner", "--parallelism=3"]


def test_what_is_given_stays_and_the_rest_is_added():
    found = engines.Engine("--direct_num_workers 3", num_workers=2)
    assert found.arguments[:2] == ["--direct_num_workers", "3"]
    assert "--direct_running_mode=multi_processing" in found.arguments
    assert not any("direct_num_workers=" in a for a in found.arguments)


def warn_and_fail(item, _):
    """Work that a worker process tells of, and that fails."""
    logging.getLogger("some.library").info("news of %s", item)
    logging.getLogger("some.library").warning("beware of %s", item)
    raise beam.UserFailureError(f"{item} cannot be used")


def test_processes_tell_of_warnings_and_errors_alone(capfd):
    with pytest.raises(beam.BeamError, match="one cannot be used; finished shards"):
        beam.run(warn_and_fail, ["one"], None, 1, lambda: None)
    _, told = capfd.readouterr()
    assert "INFO" not in told and "news of" not in told
    assert "semi_persistent_directory" not in told
    assert "beware of one" in told


@pytest.mark.parametrize("name", ["DaskRunner", "dask", engines._DASK])
def test_dask_without_its_extra_is_one_line(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(beam.BeamError, match=r"pip install 'cola_msa\[dask\]'"):
        engines.Engine(f"--runner={name}")


def test_flags_of_dask_are_known_to_dask_alone(dask_flags):
    with pytest.raises(UsageError, match="dask_client_adress=x is no flag of Beam"):
        engines.Engine("--runner=DaskRunner --dask_client_adress=x")
    with pytest.raises(UsageError, match="invalid int value: 'x'"):
        engines.Engine("--runner=DaskRunner --dask_npartitions=x")


_MEETING = threading.Barrier(2)


def meet(item, _):
    """Returns when two workers are in it at a time."""
    _MEETING.wait(30)
    return item


def test_dask_gives_every_item_a_task_of_its_own(dask_flags):
    assert engines.Engine(dask_flags).run(meet, [1, 2], None) == "DONE"


def test_as_many_tasks_as_the_user_wants(dask_flags):
    assert "--dask_partition_size=1" in engines.Engine(dask_flags).arguments
    for more in ("--dask_npartitions=1", "--dask_partition_size=7"):
        found = engines.Engine(f"{dask_flags} {more}")
        assert "--dask_partition_size=1" not in found.arguments


_SEEN: list[int] = []
_ONE_AT_A_TIME = threading.Lock()


def interrupt_once(item, _):
    """Ctrl-C at the first item of all; takes its time for the others."""
    with _ONE_AT_A_TIME:  # else two items that begin at once are both the second
        is_first = not _SEEN
        _SEEN.append(item)
    if is_first:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)


def test_a_run_that_is_stopped_is_cancelled(dask_flags):
    """Else a cluster would work on, beside the next run of the same command."""
    _SEEN.clear()
    # Whoever is started in the background of a shell ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            engines.Engine(dask_flags).run(interrupt_once, list(range(200)), None)
    finally:
        signal.signal(signal.SIGINT, before)
    seen = 0
    while seen < len(_SEEN):  # those that were begun, or not yet called off
        seen = len(_SEEN)
        time.sleep(0.5)
    assert seen < 150


def fail(item, error):
    """A worker's error."""
    with beam.told_by_workers():
        raise error


def test_a_workers_users_error_is_one_line(dask_flags):
    error = FileNotFoundError(2, "No such file", "song.mp3")
    with pytest.raises(beam.BeamError, match=r"failed: \[Errno 2\] No such .*song.mp3"):
        beam.run(fail, [1], error, 1, lambda: None, dask_flags)


def test_a_workers_defect_is_shown_whole(dask_flags, monkeypatch):
    monkeypatch.setattr(beam, "_comes_from", lambda work: beam.re.compile("in fail"))
    with pytest.raises(ZeroDivisionError, match="a defect"):
        beam.run(fail, [1], ZeroDivisionError("a defect"), 1, lambda: None, dask_flags)


def test_nobody_at_the_address_is_one_line(dask_flags):
    flags = "--runner=DaskRunner --dask_client_address=tcp://127.0.0.1:9"
    with pytest.raises(beam.BeamError, match="Timed out .* tcp://127.0.0.1:9") as error:
        beam.run(
            operator.add,
            [1],
            1,
            1,
            lambda: None,
            flags + " --dask_connection_timeout=1",
        )
    assert "\n" not in str(error.value)


def test_results_that_are_lost_with_the_scheduler_are_no_end(dask_flags):
    """Dask counts them as done."""
    from dask.distributed import Client

    with Client(dask_flags.rpartition("=")[2]) as client:
        future = client.submit(time.sleep, 0.2)
        future.cancel()
        with pytest.raises(ConnectionError, match="scheduler was lost"):
            engines._check_futures(types.SimpleNamespace(futures=[future]))


def test_a_cluster_without_workers_is_waited_for(dask_flags, monkeypatch, capsys):
    from dask.distributed import LocalCluster

    monkeypatch.setattr(engines, "_LOOK_SECONDS", 0.05)
    with (
        LocalCluster(
            n_workers=0, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        address = cluster.scheduler_address
        flags = f"--runner=DaskRunner --dask_client_address={address}"
        run = pool.submit(engines.Engine(flags).run, operator.add, [1], 1)
        deadline = time.monotonic() + 30
        while "no worker: waiting" not in (told := capsys.readouterr().err):
            assert time.monotonic() < deadline and not run.done()
            time.sleep(0.05)
        assert told.count("\n") == 1
        cluster.scale(1)
        assert run.result(30) == "DONE"


def die_once(item, marker):
    """Kills its own process, unless one has done so before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return item
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(120)
def test_a_killed_worker_of_this_machine_is_replaced(tmp_path, capfd):
    """Beam alone waits for its answer for ever."""
    marker = tmp_path / "died"
    before = threading.excepthook, signal.getsignal(signal.SIGUSR1)
    engine = engines.Engine("", num_workers=2)
    assert engine.run(die_once, range(6), str(marker)) == "DONE"
    assert marker.exists()
    told = capfd.readouterr().err
    assert told.count("a worker process died (return code 137)") == 1
    assert "Traceback" not in told
    assert before == (threading.excepthook, signal.getsignal(signal.SIGUSR1))


def test_work_that_kills_every_worker_ends(monkeypatch, capsys):
    def lose(*_):
        raise RuntimeError("Worker subprocess exited with return code 9")

    def wait(*_):
        worker = threading.Thread(target=lose, name=engines._WORKER_THREAD)
        worker.start()
        threading.Event().wait(30)

    monkeypatch.setattr(engines.Engine, "_run", wait)
    with pytest.raises(beam.BeamError, match=r"4 worker processes.* return code 9.*"):
        engines.Engine("", num_workers=2).run(print, [1])
    assert capsys.readouterr().err.count("its work is begun again") == 3
