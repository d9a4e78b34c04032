"""Search in large collections: building, asking, serving, for each kind of index.

    python benchmarks/bench_search.py [--rows=1000000] [--dim=1280] [--quick]
    python benchmarks/bench_search.py --embeddings=embeddings.parquet

Without --embeddings the rows are synthetic: clusters of 500 rows, whose centres are
normal vectors and whose rows lie around them at half that deviation, in all directions.
Every step is a process of its own, so that its peak memory is its own; a file of
1,000,000 x 1,280 takes 5.1 GB, and an index as much again at a time.
"""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from typing import Any

import common
import numpy as np
from absl import flags

from cola_msa.collection.search.contract import KINDS
from cola_msa.collection.search.index import open_index
from cola_msa.collection.table.clips import Clips
from cola_msa.system import console
from cola_msa.values.numbers import define_float
from cola_msa.values.paths import define_path

_CLUSTER_ROWS = 500
_BLOCK_ROWS = 4096


def write_rows(path: pathlib.Path, num_rows: int, dim: int) -> None:
    """Writes clustered embeddings to a Parquet file, block by block."""
    import pyarrow
    from pyarrow import parquet

    random = np.random.default_rng(0)
    num_centres = max(1, num_rows // _CLUSTER_ROWS)
    centres = random.standard_normal((num_centres, dim), np.float32)
    text = json.dumps({"model_hash": "0" * 16, "hop_seconds": 1.0})
    schema = pyarrow.schema(
        [
            ("path", pyarrow.string()),
            ("sha256", pyarrow.string()),
            ("start", pyarrow.float64()),
            ("seconds", pyarrow.float64()),
            ("embedding", pyarrow.list_(pyarrow.float32(), dim)),
        ],
        metadata={"metadata": text},
    )
    with parquet.ParquetWriter(
        path, schema, compression="none", use_dictionary=["sha256"]
    ) as writer:
        for first in range(0, num_rows, _BLOCK_ROWS):
            count = min(_BLOCK_ROWS, num_rows - first)
            rows = centres[random.integers(0, num_centres, count)]
            rows = rows + 0.5 * random.standard_normal((count, dim), np.float32)
            numbers = range(first, first + count)
            columns = [
                pyarrow.array([f"music/{n % 1000:03}/track {n}.mp3" for n in numbers]),
                pyarrow.array([f"{n:064x}" for n in numbers]),
                pyarrow.array(np.zeros(count)),
                pyarrow.array(np.full(count, 30.0)),
                pyarrow.FixedSizeListArray.from_arrays(
                    pyarrow.array(rows.ravel()), dim
                ),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


# A process begins with the peak memory of the one that starts it, here a small one.
_MEASURED = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(child.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump([usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
os._exit(os.waitstatus_to_exitcode(status))
"""


def run(*command: str) -> tuple[str, dict[str, float]]:
    """Runs a process; what it printed, and its seconds and peak memory."""
    with tempfile.NamedTemporaryFile() as usage:
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-S", "-c", _MEASURED, usage.name, *command],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        wall = time.monotonic() - begin
        if done.returncode:
            sys.exit(f"error: {' '.join(command)} ended with {done.returncode}")
        cpu, peak = json.load(usage)
    return done.stdout, {"wall": wall, "cpu": cpu, "peak": peak / 1e6}


def memory_of(process: int | str, name: str) -> float:
    """Memory of a running process, GB: `VmHWM` its peak, `RssAnon` without files."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1e6


def find_exact(clips: Clips, chosen: np.ndarray) -> list[set[str]]:
    """Paths of the ten nearest of some clips, by comparing with all: one product."""
    queries = np.zeros((len(chosen), clips.dim))
    for first, rows in clips.blocks():
        part = (chosen >= first) & (chosen < first + len(rows))
        queries[part] = rows[chosen[part] - first]
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30)
    scores = np.empty((len(chosen), clips.num_rows), np.float32)
    for first, rows in clips.blocks():
        norms = np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
        scores[:, first : first + len(rows)] = queries.astype(np.float32) @ rows.T
        scores[:, first : first + len(rows)] /= norms
    scores[np.arange(len(chosen)), chosen] = -2
    count = min(10, clips.num_rows - 1)
    return [
        {clips.paths[near] for near in row.argsort()[::-1][:count]} for row in scores
    ]


def search(*arguments: str) -> tuple[str, dict[str, float]]:
    """Runs python -m cola_msa.search."""
    return run(sys.executable, "-m", "cola_msa.search", *arguments)


def read_through(folder: pathlib.Path) -> None:
    """Reads files from the disk, end to end: the system keeps them in large pieces."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(1 << 24):
                pass


def ask(path: str, paths: list[str]) -> None:
    """Prints, as JSON, what an index answers, and how long that took."""
    begin = time.perf_counter()
    index = open_index(path)
    opened = time.perf_counter() - begin
    rows = [index.find_row(name) for name in paths]
    found, seconds = [], []
    for row in rows:
        assert row is not None
        begin = time.perf_counter()
        ((near, _),) = index.nearest([index.vector(row)], 10, [row])
        seconds.append(time.perf_counter() - begin)
        found.append([index.path(row) for row in near])  # rows may lie otherwise
    answer = {"found": found, "seconds": seconds, "opened": opened}
    print(json.dumps({**answer, "own": memory_of("self", "RssAnon")}))


async def _client(
    host: str, port: int, paths: list[str], until: float, took: list[float]
) -> int:
    """Asks one question after another on one connection; how many failed."""
    reader, writer = await asyncio.open_connection(host, port)
    num_failed, number = 0, 0
    while time.monotonic() < until:
        path = urllib.parse.quote(paths[number % len(paths)])
        number += 1
        begin = time.perf_counter()
        request = f"GET /neighbours?path={path}&k=10 HTTP/1.1\r\nHost: {host}\r\n\r\n"
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(size)
        took.append(time.perf_counter() - begin)
        is_right = head.startswith(b"HTTP/1.1 200 ") and (
            len(json.loads(body)["results"]) == 10
        )
        num_failed += not is_right
    writer.close()
    return num_failed


async def _clients(
    url: str, num_clients: int, paths: list[str], seconds: float
) -> tuple[list[float], int]:
    place = urllib.parse.urlsplit(url)
    assert place.hostname and place.port
    took: list[float] = []
    until = time.monotonic() + seconds
    failed = await asyncio.gather(
        *(
            _client(place.hostname, place.port, paths[n:] + paths[:n], until, took)
            for n in range(num_clients)
        )
    )
    return took, sum(failed)


def ask_served(
    path: str, paths: list[str], num_clients: int, seconds: float
) -> list[tuple[str, Any]]:
    """Rows of the table: requests a second, milliseconds, failures, memory."""
    server = subprocess.Popen(
        [sys.executable, "-m", "cola_msa.search", "serve", f"--index={path}"]
        + ["--port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        server.stdout.readline()
        url = server.stdout.readline().strip()
        alone, _ = asyncio.run(_clients(url, 1, paths, min(seconds, 5)))
        took, num_failed = asyncio.run(_clients(url, num_clients, paths, seconds))
        peak = memory_of(server.pid, "VmHWM")
        own = memory_of(server.pid, "RssAnon")
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate()
    milliseconds = 1e3 * np.array(took)
    return [
        ("served, one client, ms", 1e3 * float(np.median(alone))),
        (f"served, {num_clients} clients, requests/s", len(took) / seconds),
        ("median, ms", float(np.median(milliseconds))),
        ("99th percentile, ms", float(np.percentile(milliseconds, 99))),
        ("errors", num_failed),
        ("peak memory, mapped pages of files with it, GB", peak),
        ("memory without these, GB", own),
    ]


def main(options: flags.FlagValues) -> None:
    """Prints the tables, or what an index answers (--ask, for itself)."""
    if options.ask:
        with open(options.embeddings) as file:
            ask(options.ask, json.load(file))
        return
    num_rows, dim, seconds = options.rows, options.dim, options.seconds
    num_clients, num_queries = options.clients, 100
    if options.quick:
        num_rows, dim, seconds, num_clients, num_queries = 3000, 32, 0.5, 4, 20
    if options.folder:
        os.makedirs(options.folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = pathlib.Path(folder)
        source = options.embeddings or str(root / "rows.parquet")
        if not options.embeddings:
            write_rows(pathlib.Path(source), num_rows, dim)
        with Clips(source, root) as clips:
            num_clips = clips.num_rows
            # Others than those that `build` measures with.
            chosen = np.random.default_rng(7).choice(
                num_clips, min(num_queries, num_clips), replace=False
            )
            asked = [clips.paths[row] for row in chosen]
            exact = find_exact(clips, chosen)
            print(f"{num_clips:,} clips of {clips.dim:,} values\n", flush=True)
            del clips.paths, clips.sha256
        (root / "asked.json").write_text(json.dumps(asked))
        for kind in options.kinds:
            if kind == "ivfpq" and num_clips < 1000:
                continue
            path = str(root / kind)
            told, cost = search(
                "build", f"--embeddings={source}", f"--output={path}", f"--index={kind}"
            )
            print(told.strip().removeprefix(f"{path}: ") + "\n")
            size = sum(file.stat().st_size for file in pathlib.Path(path).iterdir())
            # Of a flat index all rows are read for each query.
            few = asked[:10] if kind == "flat" and num_clips > 50_000 else asked
            (root / "asked.json").write_text(json.dumps(few))
            query = ("query", f"--index={path}", f"--file={asked[0]}", "--json")
            _, whole = search(*query)
            read_through(pathlib.Path(path))
            _, again = search(*query)
            printed, _ = run(
                sys.executable,
                __file__,
                f"--ask={path}",
                f"--embeddings={root / 'asked.json'}",
            )
            answer = json.loads(printed)
            shares = [
                len({*near} & right) / max(1, len(right))
                for near, right in zip(answer["found"], exact, strict=False)
            ]
            rows = [
                ("build, s", cost["wall"]),
                ("build, CPU-s", cost["cpu"]),
                ("build, peak memory, GB", cost["peak"]),
                ("on disk, GB", size / 1e9),
                (f"recall@10 of {len(few)} others", float(np.mean(shares))),
                ("opening, ms", 1e3 * answer["opened"]),
                (f"{len(few)} queries, memory without mapped files, GB", answer["own"]),
                ("a query, ms", 1e3 * float(np.median(answer["seconds"]))),
                ("`search query`, s", whole["wall"]),
                ("`search query`, CPU-s", whole["cpu"]),
                ("`search query`, peak memory, GB", whole["peak"]),
                ("the files read end to end before, GB", again["peak"]),
            ]
            if len(few) == len(asked):
                rows += ask_served(path, asked, num_clients, seconds)
            print(common.table((f"--index={kind}", ""), rows) + "\n", flush=True)
            shutil.rmtree(path)


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("rows", 1_000_000, "Synthetic rows.", lower_bound=1000)
    flags.DEFINE_integer("dim", 1280, "Values of each.", lower_bound=1)
    flags.DEFINE_integer("clients", 50, "That ask at once.", lower_bound=1)
    define_float("seconds", 60.0, "How long they ask.", lower_bound=0.1)
    flags.DEFINE_bool("quick", False, "A small table: whether the script runs.")
    flags.DEFINE_multi_enum("kinds", KINDS, KINDS, "Of index; may be repeated.")
    define_path("embeddings", None, "A file of embeddings instead.")
    define_path("folder", None, "Where the files go; they are removed.")
    define_path("ask", None, "For the script itself: an index to ask.")


if __name__ == "__main__":
    console.start(main, define_flags)
