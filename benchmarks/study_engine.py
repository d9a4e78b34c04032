"""What a Dask cluster of several processes costs, and what a killed worker does.

    python benchmarks/study_engine.py [--songs=60,10,10] [--workers=1,2,3] [--quick]

Built-in music with its stems is prepared by the local runner, then by Beam on a Dask
cluster, one cluster a row: a scheduler and so many workers, each a process with one
thread and nothing that starts it anew. In the last row one worker is killed (SIGKILL)
while all are at work. Every row's files are compared with the local runner's by
SHA-256; where one differs, the command ends with an error. CPU seconds are of all
processes: the command, the scheduler and the workers, each of which imports TensorFlow.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import common
import psutil
from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import UsageError, UserError
from cola_msa.values.field_flags import whole_numbers
from cola_msa.values.paths import define_path

_START_SECONDS = 300


@dataclasses.dataclass
class Cluster:
    """A Dask cluster on this machine.

    Attributes:
        address: The scheduler's.
        scheduler: Its process.
        workers: Theirs, by address.
        killed_cpu: CPU seconds of those that are no more.
    """

    address: str
    scheduler: psutil.Popen
    workers: dict[str, psutil.Popen]
    killed_cpu: float = 0.0

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        alive = [self.scheduler, *self.workers.values()]
        return self.killed_cpu + sum(map(_cpu, alive))

    def kill_one(self) -> int:
        """Kills a worker that has work; gives how many tasks were in its hands."""
        from dask.distributed import Client

        with Client(self.address) as client:
            while not (busy := {a: t for a, t in client.processing().items() if t}):
                time.sleep(0.05)
        address = next(iter(busy))
        worker = self.workers.pop(address)
        worker.suspend()  # so that nothing is missing from the figure
        self.killed_cpu += _cpu(worker)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        return len(busy[address])


def _cpu(process: psutil.Popen) -> float:
    times = process.cpu_times()
    return times.user + times.system


@contextlib.contextmanager
def cluster(num_workers: int, folder: pathlib.Path) -> Iterator[Cluster]:
    """A scheduler and workers in processes of their own; their logs lie in a folder."""
    from dask.distributed import Client

    folder.mkdir(parents=True)

    def start(name: str, *arguments: str) -> psutil.Popen:
        with open(folder / f"{name}.log", "w") as log:
            command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
            return psutil.Popen(command, stdout=log, stderr=log)

    file = folder / "scheduler.json"
    listen = ("--host=127.0.0.1", "--port=0", f"--scheduler-file={file}")
    running = [start("scheduler", "scheduler", *listen)]
    try:
        by_name = {}
        for name in (f"worker-{n}" for n in range(num_workers)):
            where = (f"--scheduler-file={file}", f"--local-directory={folder}")
            alone = ("--nthreads=1", "--no-nanny", f"--name={name}")
            by_name[name] = start(name, "worker", *where, *alone)
            running.append(by_name[name])
        with Client(scheduler_file=str(file), timeout=_START_SECONDS) as client:
            client.wait_for_workers(num_workers, _START_SECONDS)
            workers = client.scheduler_info(n_workers=-1)["workers"]
            address = client.scheduler.address
        of = {where: by_name[worker["name"]] for where, worker in workers.items()}
        yield Cluster(address, running[0], of)
    finally:
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()


def digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of a prepared folder, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


class Run:
    """A preparation in a process of its own."""

    def __init__(self, music: pathlib.Path, output: pathlib.Path, *more: str):
        """Starts it; its output goes into a file beside the folder."""
        self.output = output
        self.log = output.with_suffix(".log")
        command = [sys.executable, "-m", "data_prep.mtat", "--clips_per_shard=4"]
        command += [f"--dataset_dir={music / 'mtat'}", f"--output_dir={output}"]
        command += [f"--stems_dir={music / 'mtat_stems'}", *more]
        self._began = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_for(self, num_shards: int) -> None:
        """Returns when so many shards are finished.

        Raises:
            UserError: If the process ends before.
        """
        while len(list(self.output.glob("*.tfrecord"))) < num_shards:
            if self.process.poll() is not None:
                raise UserError(f"the preparation ended too early: see {self.log}")
            time.sleep(0.05)

    def end(self) -> tuple[float, float]:
        """Waits for its end; gives its seconds, and CPU seconds of its processes.

        Raises:
            UserError: If it failed.
        """
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode:
            raise UserError(f"the preparation failed: {self.log.read_text()[-2000:]}")
        return time.monotonic() - self._began, usage.ru_utime + usage.ru_stime


def define_flags() -> None:
    """Defines the study's flags."""
    text = "Songs of the splits for training, validation and test."
    flags.DEFINE_list("songs", ["60", "10", "10"], text)
    flags.DEFINE_list("workers", ["1", "2", "3"], "Workers of each cluster.")
    define_path("work_dir", None, "Where music, records and logs go; default: nowhere.")
    flags.DEFINE_bool("quick", False, "A few songs, two workers: whether it works.")


def main(options: flags.FlagValues) -> None:
    """Prints the table."""
    songs = "10,1,1" if options.quick else ",".join(options.songs)
    counts = [2] if options.quick else whole_numbers("workers", options.workers)
    if not counts or min(counts) < 1 or max(counts) < 2:
        raise UsageError("--workers must be 1 or more each, and 2 or more once")
    with tempfile.TemporaryDirectory() as name:
        _study(pathlib.Path(options.work_dir or name), songs, counts)


def _study(work: pathlib.Path, songs: str, counts: list[int]) -> None:
    music = work / "music"
    command = [sys.executable, "-m", "data_prep.demo", "--trees=mtat"]
    command += [f"--num_songs={songs}", f"--output_dir={music}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    local = Run(music, work / "local")
    rows = [["local runner", 1, *local.end(), ""]]
    expected = digests(local.output)
    num_shards = len(list(local.output.glob("*.tfrecord")))
    for number, is_killed in [(n, False) for n in counts] + [(max(counts), True)]:
        label = f"dask-{number}" + "-killed" * is_killed
        with cluster(number, work / f"{label}-logs") as dask:
            runner = (
                f"--beam_args=--runner=DaskRunner --dask_client_address={dask.address}"
            )
            before = dask.cpu_seconds()
            run = Run(music, work / label, "--runner=beam", runner)
            what = "Dask"
            if is_killed:
                run.wait_for(num_shards // 4)
                tasks = dask.kill_one()
                done = len(list(run.output.glob("*.tfrecord")))
                what += f", one killed with {tasks} tasks after {done} shards"
            seconds, cpu = run.end()
            cpu += dask.cpu_seconds() - before
        found = digests(run.output)
        if found != expected:
            differ = sorted(
                name
                for name in found.keys() | expected.keys()
                if found.get(name) != expected.get(name)
            )
            raise UserError(f"{label}: {len(differ)} files differ, first {differ[0]}")
        rows.append([what, number, seconds, cpu, f"{len(found)} of {len(expected)}"])
    print(
        f"## A Dask cluster\n\n{songs} songs, {num_shards} shards. {common.machine()}"
    )
    print(f"Load at the end: {common.load()}.\n")
    header = ("runner", "workers", "seconds", "CPU-s", "files that are the same")
    print(common.table(header, rows))


if __name__ == "__main__":
    console.start(main, define_flags)
