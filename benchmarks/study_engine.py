"""What a Dask cluster of several processes costs, and what a killed worker does.

    python benchmarks/study_engine.py [--stages=prepare,embed] [--songs=60,10,10]
        [--input=music] [--model=starter] [--workers=1,2,3] [--work_dir=DIR] [--quick]

Built-in music with its stems is prepared, and audio files (without --input the built-in
ones) are embedded, by the local runner, then by Beam on a Dask cluster, one cluster a
row: a scheduler and so many workers, each a process with one thread and nothing that
starts it anew. In the last row one worker is killed (SIGKILL) while it is at work.
Every row's files are compared with the local runner's by SHA-256; where one differs,
the command ends with an error. CPU seconds are of all processes: the command, the
scheduler and the workers, each of which imports TensorFlow.
"""

import contextlib
import dataclasses
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
from cola_msa.system.files import file_sha256
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


@dataclasses.dataclass(frozen=True)
class Stage:
    """Something to do by the local runner and on the cluster.

    Attributes:
        title: What it is.
        command: Module and flags; the last one is the output's, without its value.
        shards: Pattern of its shards in the output folder.
    """

    title: str
    command: tuple[str, ...]
    shards: str

    def count(self, output: pathlib.Path) -> int:
        """Shards that are finished."""
        return len(list(output.glob(self.shards)))


def digests(output: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of a folder and of what lies beside it, by name."""
    folders = {"": output, "failures/": output.with_name(f"{output.name}.failures")}
    return {
        prefix + str(path.relative_to(folder)): file_sha256(path)
        for prefix, folder in folders.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


class Run:
    """A command in a process of its own."""

    def __init__(self, stage: Stage, output: pathlib.Path, *more: str):
        """Starts it; what it says goes into a file beside the output."""
        self.stage, self.output = stage, output
        self.log = output.with_suffix(".log")
        command = [sys.executable, "-m", *stage.command]
        command[-1] += f"={output}"
        self._began = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*command, *more], stdout=log, stderr=log)

    def wait_for(self, num_shards: int) -> None:
        """Returns when so many shards are finished.

        Raises:
            UserError: If the process ends before.
        """
        while self.stage.count(self.output) < num_shards:
            if self.process.poll() is not None:
                raise UserError(f"the command ended too early: see {self.log}")
            time.sleep(0.05)

    def end(self) -> tuple[float, float]:
        """Waits for its end; gives its seconds, and CPU seconds of its processes.

        Raises:
            UserError: If it failed.
        """
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode:
            raise UserError(f"the command failed: {self.log.read_text()[-2000:]}")
        return time.monotonic() - self._began, usage.ru_utime + usage.ru_stime


def define_flags() -> None:
    """Defines the study's flags."""
    flags.DEFINE_list("stages", ["prepare", "embed"], "What is done.")
    text = "Built-in songs of the splits for training, validation and test."
    flags.DEFINE_list("songs", ["60", "10", "10"], text)
    define_path("input", None, "What is embedded; default: the built-in songs.")
    define_path("model", "starter", "What embeds.")
    flags.DEFINE_list("workers", ["1", "2", "3"], "Workers of each cluster.")
    define_path("work_dir", None, "Where music, shards and logs go; default: nowhere.")
    flags.DEFINE_bool(
        "quick", False, "A few songs, one of two workers killed: whether it works."
    )


def main(options: flags.FlagValues) -> None:
    """Prints a table for each stage."""
    songs = "6,1,1" if options.quick else ",".join(options.songs)
    counts = [2] if options.quick else whole_numbers("workers", options.workers)
    if not counts or min(counts) < 1 or max(counts) < 2:
        raise UsageError("--workers must be 1 or more each, and 2 or more once")
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(options.work_dir or name)
        music = work / "music"
        command = [sys.executable, "-m", "data_prep.demo", "--trees=mtat"]
        command += [f"--num_songs={songs}", f"--output_dir={music}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = _stages(music, options)
        unknown = set(options.stages) - set(found)
        if unknown or not options.stages:
            raise UsageError(f"--stages must be of {', '.join(found)}")
        print(f"## A Dask cluster\n\n{common.machine()}")
        for stage in options.stages:
            _study(found[stage], work / stage, counts, options.quick)


def _stages(music: pathlib.Path, options: flags.FlagValues) -> dict[str, Stage]:
    a_shard = 1 if options.quick else 4
    prepare = ["data_prep.mtat", f"--dataset_dir={music / 'mtat'}"]
    prepare += [f"--stems_dir={music / 'mtat_stems'}", f"--clips_per_shard={a_shard}"]
    embed = ["cola_msa.embed", f"--model={options.model}"]
    embed += [f"--input={options.input or music / 'mtat'}"]
    embed += [f"--files_per_shard={a_shard}", "--num_workers=1"]
    return {
        "prepare": Stage("Preparation", (*prepare, "--output_dir"), "*.tfrecord"),
        "embed": Stage("Embedding", (*embed, "--output"), "*.parquet"),
    }


def _study(stage: Stage, work: pathlib.Path, counts: list[int], is_quick: bool) -> None:
    work.mkdir(parents=True)
    local = Run(stage, work / "local")
    rows = [["local runner", 1, *local.end(), ""]]
    expected, num_shards = digests(local.output), stage.count(local.output)
    cases = [(number, False) for number in counts if not is_quick]
    for number, is_killed in [*cases, (max(counts), True)]:
        label = f"dask-{number}" + "-killed" * is_killed
        with cluster(number, work / f"{label}-logs") as dask:
            engine = f"--runner=DaskRunner --dask_client_address={dask.address}"
            before, what = dask.cpu_seconds(), "Dask"
            run = Run(stage, work / label, "--runner=beam", f"--beam_args={engine}")
            if is_killed:
                run.wait_for(num_shards // 4)
                tasks, done = dask.kill_one(), stage.count(run.output)
                what += f", one killed with {tasks} tasks after {done} shards"
            seconds, cpu = run.end()
            cpu += dask.cpu_seconds() - before
        found = digests(run.output)
        names = sorted(found.keys() | expected.keys())
        differ = [name for name in names if found.get(name) != expected.get(name)]
        if differ:
            raise UserError(f"{label}: {len(differ)} files differ, first {differ[0]}")
        rows.append([what, number, seconds, cpu, f"{len(found)} of {len(expected)}"])
    print(f"\n{stage.title}: {num_shards} shards. Load at the end: {common.load()}.\n")
    header = ("runner", "workers", "seconds", "CPU-s", "files that are the same")
    print(common.table(header, rows), flush=True)


if __name__ == "__main__":
    console.start(main, define_flags)
