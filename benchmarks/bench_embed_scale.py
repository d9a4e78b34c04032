"""Embedding at scale: both runners, addresses, kills, a list of a million, the cost.

    python benchmarks/bench_embed_scale.py [--music=FOLDER] [--model=starter] [--quick]

Every run of `embed` is a process of its own; CPU seconds are those of all its
processes, with their start. The cost is by what one process does after its start. The
same bytes are asked for after everything: by Beam, at an address, after kills.
"""

import hashlib
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common
import synthetic
from absl import flags

from cola_msa.audio.errors import AudioError
from cola_msa.collection.embed import text
from cola_msa.collection.inputs import list_inputs
from cola_msa.collection.shards import beam, build, plan
from cola_msa.collection.shards.run import make_dataset
from cola_msa.collection.table.read import open_reader
from cola_msa.hub.loading import open_model
from cola_msa.system import console
from cola_msa.values.paths import define_path

_SONGS = 10_000_000
_CASES = (("30 s clip", 30.0), ("song of 4 minutes", 240.0))


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Every file of a dataset and of its failures, by name."""
    return {
        f"{place}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for place in ("", ".failures")
        for path in sorted(pathlib.Path(f"{folder}{place}").glob("*"))
    }


class Embedder:
    """The command, as a user would run it."""

    def __init__(self, root: pathlib.Path, music: pathlib.Path, model: str, size: int):
        """Names what all runs share."""
        self.root = root
        self._arguments = [
            f"--model={model}",
            f"--input={music}",
            f"--files_per_shard={size}",
        ]

    def start(self, name: str, *more: str) -> subprocess.Popen:
        """Starts a run."""
        command = [sys.executable, "-m", "cola_msa.embed", *self._arguments, *more]
        path = [str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
        return subprocess.Popen(
            [*command, f"--output={name}"],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, name: str, *more: str) -> tuple[float, float]:
        """Runs it to its end; wall and CPU seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        if self.start(name, *more).wait():
            raise SystemExit(f"embed {more} failed")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return time.monotonic() - began, cpu

    def kill(self, name: str, kills: int, seed: int = 0) -> list[int]:
        """Kills it at random, and runs it to its end; shards at each kill."""
        chance = random.Random(seed)
        folder, at = self.root / name, []
        for _ in range(kills):
            process = self.start(name)
            num_before = len(list(folder.glob("*")))
            while process.poll() is None:
                if len(list(folder.glob("*"))) > num_before:
                    time.sleep(chance.uniform(0, 1.0))
                    break
                time.sleep(0.01)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            at.append(len(list(folder.glob("*"))))
        self.run(name)
        return at


def run_all(embedder: Embedder, kills: int, all_workers: tuple[int, ...]) -> list[Any]:
    """Every way to make the dataset: wall, CPU, whether the bytes are the first's."""
    rows: list[list[Any]] = []
    for runner in ("local", "beam"):
        for workers in all_workers:
            name = f"{runner}-{workers}"
            more = [f"--runner={runner}", f"--num_workers={workers}"]
            wall, cpu = embedder.run(name, *more)
            rows.append([f"{runner}, --num_workers={workers}", wall, cpu])
    at = embedder.kill("killed", kills)
    rows.append([f"killed with {', '.join(map(str, at))} shards there", "", ""])
    first = digests(embedder.root / "local-1")
    names = [f"{r}-{w}" for r in ("local", "beam") for w in all_workers] + ["killed"]
    for row, name in zip(rows, names, strict=True):
        row.append("yes" if digests(embedder.root / name) == first else "NO")
    return rows


def run_in_memory(
    music: pathlib.Path, model: str, size: int, root: pathlib.Path
) -> list[Any]:
    """The dataset from and to a bucket in memory, by both runners."""
    import fsspec

    bucket = fsspec.filesystem("memory")
    for path in list_inputs(music).paths:
        name = os.path.relpath(path, music)
        bucket.put_file(path, f"/bucket/music/{name}")
    inputs = list_inputs("memory://bucket/music")

    def by_beam(job: Any, shards: Any, forced: Any, on_shard: Callable) -> str:
        options = "--direct_running_mode=in_memory"
        return beam.run(job, shards, forced, 1, on_shard, options)

    rows, found = [], []
    for name, engine in (("local", None), ("beam", by_beam)):
        job = build.Job(f"memory://bucket/{name}", model)
        began, cpu = time.monotonic(), common.cpu_seconds()
        make_dataset(
            job, inputs, size, is_quiet=True, engine=engine, log=lambda line: None
        )
        wall, cpu = time.monotonic() - began, common.cpu_seconds() - cpu
        for part in (name, f"{name}.failures"):
            for path in bucket.find(f"/bucket/{part}"):
                target = root / "bucket" / path.removeprefix("/bucket/")
                target.parent.mkdir(parents=True, exist_ok=True)
                bucket.get_file(path, str(target))
        found.append(digests(root / "bucket" / name))
        same = "yes" if found[-1] == found[0] else "NO"
        rows.append([f"{name}, in this process, memory://", wall, cpu, same])
    return rows


def measure_lists(root: pathlib.Path, num_files: int) -> list[Any]:
    """Lists, plans and datasets of many files: seconds and memory more."""
    rows = []
    names = [
        f"memory://many/artist{k // 1000:05d}/album{k // 10 % 100:02d}/{k:07d}.mp3"
        for k in range(num_files)
    ]
    path = root / "many.txt"
    path.write_text("\n".join(names))

    def step(name: str, action: Callable[[], Any]) -> Any:
        memory = sum(common.resident_bytes())
        began, cpu = time.monotonic(), common.cpu_seconds()
        found = action()
        cpu, wall = common.cpu_seconds() - cpu, time.monotonic() - began
        more = max(0, sum(common.resident_bytes()) - memory) / 1e6
        rows.append([name, wall, cpu, more])
        return found

    inputs = step(f"a list of {num_files:,} addresses", lambda: list_inputs(path))
    _fill_bucket(names)
    step(
        f"a folder of {num_files:,} files at an address",
        lambda: list_inputs("memory://many"),
    )
    size = plan.default_size(num_files, "clip")

    def make(paths: list[str], found: list[plan.Found]) -> plan.Plan:
        files = {shard.name: shard.paths for shard in first.shards} if found else {}
        return plan.make_plan(paths, text, size, found, lambda f: files[f.name], "x")

    first = step("its plan", lambda: make(inputs.paths, []))
    there = [plan.Found(s.name, s.digest, size, 0, size) for s in first.shards]
    step("the same, all shards finished", lambda: make(inputs.paths, there))
    grown = sorted([*inputs.paths, *(f"{name}.more.mp3" for name in names[:1000])])
    step("1,000 files more", lambda: make(grown, there))
    return rows


def _fill_bucket(names: list[str]) -> None:
    """A million names in a bucket in memory, of one and the same empty file."""
    import fsspec

    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/one", b"")
    one = bucket.store["/one"]
    bucket.store.update((name.removeprefix("memory:/"), one) for name in names)


def measure_reading(dataset: pathlib.Path, root: pathlib.Path, count: int) -> list[Any]:
    """Seconds to open a dataset of many shards, by links to one of them."""
    folder = root / "wide"
    folder.mkdir()
    shard = sorted(dataset.glob("*.parquet"))[0]
    for number in range(count):
        os.link(shard, folder / plan.shard_name(number, count))
    began, cpu = time.monotonic(), common.cpu_seconds()
    reader = open_reader(folder)
    reader.read(reader.num_rows // 2, 1)
    wall, cpu = time.monotonic() - began, common.cpu_seconds() - cpu
    reader.close()
    return [f"opening {count:,} shards, and a row", wall, cpu, ""]


def audio_seconds(music: pathlib.Path) -> float:
    """Seconds of all files that can be decoded."""
    from cola_msa.audio.decode import AudioReader

    total = 0.0
    for path in list_inputs(music).paths:
        try:
            with AudioReader(path) as reader:
                samples = sum(block.shape[-1] for block in reader.blocks())
                total += samples / reader.info.rate_hz
        except AudioError:
            pass
    return total


def cost(rate: float, dim: int, row_bytes: float) -> list[list[Any]]:
    """CPU hours and bytes of ten million songs.

    Args:
        rate: Seconds of audio a CPU second.
        dim: Values of a window's embedding.
        row_bytes: Of a row a clip, as measured.
    """
    rows = []
    for name, seconds in _CASES:
        windows = int(seconds / 0.98)
        by_window = _SONGS * windows * dim * 4
        rows.append(
            [
                f"{_SONGS:,} x {name}",
                f"{_SONGS * seconds / rate / 3600:,.0f}",
                f"{_SONGS * row_bytes / 1e9:,.0f} GB",
                f"{by_window / 1e12:,.1f} TB",
            ]
        )
    return rows


def main(options: flags.FlagValues) -> None:
    """Prints the tables."""
    kills, num_files, size = (1, 6, 2) if options.quick else (5, 64, options.size)
    many, wide = (2000, 20) if options.quick else (1_000_000, 10_000)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        music = root / "music"
        if options.music:
            music = pathlib.Path(options.music).resolve()
        else:
            synthetic.write_mp3s(music, num_files, 3 if options.quick else 30)
        embedder = Embedder(root, music, options.model, size)
        workers = (1,) if options.quick else (1, 2)
        print(f"{common.machine()}; load {common.load()}", flush=True)
        rows = run_all(embedder, kills, workers)
        rows += run_in_memory(music, options.model, size, root)
        print(common.table(["run", "wall, s", "CPU, s", "same bytes"], rows))
        single = root / "local-1"
        reader = open_reader(single)
        num_rows, row_dim = reader.num_rows, reader.dim
        reader.close()
        row_bytes = sum(p.stat().st_size for p in single.glob("*")) / num_rows
        lists = measure_lists(root, many)
        lists.append(measure_reading(single, root, wide))
        print(common.table(["at start", "wall, s", "CPU, s", "MB more"], lists))
        audio = audio_seconds(music)
        # In this process, with everything imported: what a further hour costs.
        began = common.cpu_seconds()
        make_dataset(
            build.Job(str(root / "again"), options.model),
            list_inputs(music),
            size,
            is_quiet=True,
            log=lambda line: None,
        )
        rate = audio / (common.cpu_seconds() - began)
        model = open_model(options.model)
        print(
            f"{num_rows} rows of {row_dim} values, {row_bytes:,.0f} bytes each; "
            f"{audio / 60:.1f} min of audio at {rate:.0f} s of audio a CPU second"
        )
        header = ["what", "CPU hours", "a row a clip", "a row a window"]
        print(common.table(header, cost(rate, model.dim, row_bytes)))


def define_flags() -> None:
    """Defines the flags."""
    define_path("music", None, "Audio files; default: noise that is made.")
    define_path("model", "starter", "What embeds them.")
    flags.DEFINE_integer("size", 40, "Files of a shard.", lower_bound=1)
    flags.DEFINE_bool("quick", False, "Seconds instead of minutes.")


if __name__ == "__main__":
    console.start(main, define_flags)
