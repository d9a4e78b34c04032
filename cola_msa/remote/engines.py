"""Apache Beam's engines: their flags, the work that they are given, and its end.

apache-beam is an extra, and so are single engines: they are imported inside functions.
"""

import argparse
import contextlib
import importlib
import io
import logging
import os
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cola_msa.remote import beam_worker
from cola_msa.remote.beam_worker import BEAM
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import UsageError, UserError
from cola_msa.system.processes import environment, interrupts_wait

_ROOT = str(pathlib.Path(__file__).resolve().parents[2])
_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
_LOOK_SECONDS = 5.0
_JOIN_SECONDS = 2.0
_MOST_DEATHS = 3  # of workers of this machine, before the work is to blame
# Beam's names of the threads that wait for workers, and that read what they send; and
# of the modules that tell of a death with a traceback each.
_WORKER_THREAD = "run_worker"
_READER_THREADS = ("read_grpc_client_inputs", "beam_control_read")
_TELLING = (
    "apache_beam.runners.worker.data_plane",
    "apache_beam.runners.portability.fn_api_runner.worker_handlers",
)


class BeamError(UserError):
    """The pipeline cannot begin, or failed; what is finished is kept."""


def import_beam() -> Any:
    """The module apache_beam.

    Raises:
        BeamError: If the extra is missing; the message names the pip command.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of every client that it lacks
    try:
        import apache_beam
        import google_crc32c  # noqa: F401 (TFRecord checksums; slow without it)
    except ImportError as error:
        raise BeamError(
            f"--runner=beam needs an extra ({error}): pip install 'cola_msa[beam]'"
        ) from error
    finally:
        logging.disable(before)
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    return apache_beam


class _LostWorkerError(Exception):
    """A worker process of this machine has died."""


class Engine:
    """One of Beam's engines, with Beam's flags for it.

    Attributes:
        runner: Beam's PipelineRunner.
        arguments: Beam's flags.
    """

    def __init__(self, beam_args: str = "", num_workers: int = 1):
        """Finds the engine that the flags name, and checks them; starts nothing.

        Args:
            beam_args: Beam's own flags, as on a command line. Without `--runner` among
                them Beam works on this machine, in processes of its own.
            num_workers: Processes, where the engine starts its own on this machine.

        Raises:
            BeamError: If an extra is missing.
            UsageError: If the flags are wrong.
        """
        import_beam()
        self._num_workers = num_workers
        try:
            self.arguments = shlex.split(beam_args)
        except ValueError as error:
            raise UsageError(f"--beam_args={beam_args}: {error}") from error
        name = self._parse()["runner"]
        if name is not None and name.lower() in ("dask", "daskrunner"):
            name = _DASK
        self.runner = _find_runner(name)
        self._is_dask, self._is_own = name == _DASK, name is None
        # Again, for the flags of what is imported now. Other engines are given flags
        # that this Beam does not know, but their servers.
        found = self._parse(is_strict=name in (None, _DASK))
        if name is None:
            self._add("direct_running_mode", "multi_processing")
            self._add("direct_num_workers", num_workers)
        if self._is_dask:
            for logger in ("distributed", "distributed.client"):
                # What they tell of is raised, too.
                logging.getLogger(logger).setLevel(logging.CRITICAL)
            self._has_cluster = bool(found["address"] or found["scheduler_file"])
            if not found["npartitions"]:  # else a task has 128 items
                self._add("dask_partition_size", 1)

    def run(self, work: Callable[..., Any], items: Sequence[Any], *values: Any) -> str:
        """Calls work(item, *values) for every item, in the engine's workers.

        Args:
            work: A function of a module, which is sent by name. It is called again for
                an item whose worker died.
            items: What to work on; they are sent to the workers.
            *values: Sent to the workers.

        Returns:
            How the pipeline ended, in Beam's words.

        Raises:
            BeamError: If worker processes of this machine died again and again.
            Exception: Of the engine's own kind; a worker's is quoted in it.
        """
        if not self._is_own:
            return self._run(work, items, values)
        for number in range(_MOST_DEATHS + 1):
            try:
                with _interrupted_by_deaths():
                    return self._run(work, items, values)
            except _LostWorkerError as error:
                if number == _MOST_DEATHS:
                    raise BeamError(
                        f"{number + 1} worker processes died one after another, the "
                        f"last by {error}: is there too little memory for "
                        f"{self._num_workers}? What is finished is kept; try fewer "
                        "--num_workers"
                    ) from error
                line = f"a worker process died ({error}): its work is begun again"
                ProgressBar.write(line, file=sys.stderr)
        raise AssertionError

    def _run(self, work: Callable, items: Sequence[Any], values: Sequence[Any]) -> str:
        beam = import_beam()
        # Workers on this machine find the package where it is not installed.
        path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
        with environment("PYTHONPATH", path), self._cluster() as more:
            options = _options([*self.arguments, *more])
            pipeline = beam.Pipeline(runner=self.runner, options=options)
            # Reshuffled, so that an engine does not fuse all items into one bundle.
            _ = (
                pipeline
                | "Items" >> beam.Create(list(items))
                | "Spread" >> beam.Reshuffle()
                | "Work" >> beam.Map(work, *values)
            )
            result = pipeline.run()
            with _ended(result), _told_of_workers(result):
                state = str(result.wait_until_finish())
                _check_futures(result)
                return state

    def _add(self, flag: str, value: object) -> None:
        """Gives a flag, unless it is given."""
        flag = f"--{flag}"
        if not any(a == flag or a.startswith(f"{flag}=") for a in self.arguments):
            self.arguments.append(f"{flag}={value}")

    def _parse(self, is_strict: bool = False) -> dict[str, Any]:
        """The values of all flags that Beam has by now."""
        unknown: list[str] = []

        def look(parser: argparse.ArgumentParser) -> None:
            unknown.extend(parser.parse_known_args(self.arguments)[1])

        told, log = io.StringIO(), logging.getLogger("apache_beam")
        log.setLevel(logging.ERROR)  # of flags that it does not know
        try:
            with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
                found = _options(self.arguments).get_all_options(add_extra_args_fn=look)
        except SystemExit as error:  # argparse has printed its usage, or its help
            _, is_wrong, reason = told.getvalue().rpartition("error: ")
            if not is_wrong:
                reason = "help on Beam's flags is in Beam's own pages"
            raise UsageError(f"--beam_args: {reason.strip()}") from error
        finally:
            log.setLevel(logging.WARNING)
        if unknown and is_strict:
            raise UsageError(
                f"--beam_args: {unknown[0]} is no flag of Beam, or not of this engine"
            )
        return found

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[list[str]]:
        """Dask's processes on this machine, where no cluster is named; more flags."""
        if not self._is_dask or self._has_cluster:
            yield []
            return
        from dask.distributed import LocalCluster

        with interrupts_wait():  # the processes leave Ctrl-C to this one
            started = LocalCluster(
                n_workers=self._num_workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # errors reach this process
            )
        with started as cluster:
            yield [f"--dask_client_address={cluster.scheduler_address}"]


def _options(arguments: Sequence[str]) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(list(arguments))


def _own_runner() -> Any:
    """Beam's runner on this machine, whose processes tell of warnings alone."""
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    class Runner(FnApiRunner):
        def run_via_runner_api(self, pipeline_proto: Any, options: Any) -> Any:
            old, new = (f"-m {name}".encode() for name in (BEAM, beam_worker.__name__))
            for each in pipeline_proto.components.environments.values():
                each.payload = each.payload.replace(old, new)  # the command, if any
            return super().run_via_runner_api(pipeline_proto, options)

    return Runner()


def _find_runner(name: str | None) -> Any:
    """Beam's runner of a name; None for Beam's own on this machine."""
    if name is None:
        # Not DirectRunner by name: that may download a runner in another language.
        return _own_runner()
    from apache_beam.runners.runner import PipelineRunner, create_runner

    try:
        if name == _DASK:
            importlib.import_module("distributed")
        found = create_runner(name)
    except ImportError as error:
        advice = ": pip install 'cola_msa[dask]'" if name == _DASK else ""
        raise BeamError(
            f"--beam_args: --runner={name} cannot be imported ({error}){advice}"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"--beam_args: --runner={name}: {error}") from error
    if not isinstance(found, PipelineRunner):
        raise UsageError(f"--beam_args: --runner={name} is no runner of Beam")
    return found


def _check_futures(result: Any) -> None:
    """Dask's results count as done, too, where they were lost with the scheduler."""
    states = {future.status for future in getattr(result, "futures", ())}
    if states - {"finished"}:
        raise ConnectionError("Dask's scheduler was lost")


@contextlib.contextmanager
def _interrupted_by_deaths() -> Iterator[None]:
    """Raises inside where a worker process dies, for whose answer Beam waits for ever.

    Raises:
        _LostWorkerError: In the main thread, with how the process ended.
    """
    before = threading.excepthook
    deaths: list[str] = []

    def hook(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else ""
        if name in _READER_THREADS:
            return  # the worker's own thread tells
        if name != _WORKER_THREAD:
            before(args)
            return
        deaths.append(str(args.exc_value).rpartition(" with ")[2])
        if len(deaths) == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def tell(*_: object) -> None:
        raise _LostWorkerError(deaths[0])

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    previous = signal.signal(signal.SIGUSR1, tell)
    threading.excepthook = hook
    loggers = [logging.getLogger(name) for name in _TELLING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for thread in threading.enumerate() if deaths else ():
            if thread.name in _READER_THREADS:
                thread.join(_JOIN_SECONDS)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        threading.excepthook = before
        signal.signal(signal.SIGUSR1, previous)


@contextlib.contextmanager
def _ended(result: Any) -> Iterator[None]:
    """Cancels what is left of a pipeline that fails or is interrupted."""
    client = getattr(result, "client", None)  # of Dask
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # it is the first error that counts
            result.cancel()
        raise
    finally:
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()


@contextlib.contextmanager
def _told_of_workers(result: Any) -> Iterator[None]:
    """Says so where a Dask cluster has no worker: it waits for one without a word."""
    client = getattr(result, "client", None)
    if client is None:
        yield
        return
    stop = threading.Event()

    def look() -> None:
        was_empty = False
        while not stop.wait(_LOOK_SECONDS):
            is_empty = not client.scheduler_info()["workers"]
            if is_empty and not was_empty:
                line = "the Dask cluster has no worker: waiting for one"
                ProgressBar.write(line, file=sys.stderr)
            was_empty = is_empty

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
