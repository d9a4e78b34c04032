"""What a collection of many segments costs before and between updates.

    python benchmarks/bench_index.py [--segments=1000000,10000000] [--quick]

Indices are written column by column, over shards that hold one segment each, to which
all rows point: 65 bytes a segment of disk, in this folder, and little memory. Every row
of the table is a process of its own, which opens the folder as `train` does and draws
mini-batches of 128 pairs; importing TensorFlow comes before and is not counted. The
first start compares every byte with its checksum and looks at every row, later ones
find what it noted.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator

import common
import numpy as np
import synthetic
from absl import flags

from cola_msa.config.schema import FrontendConfig, config_hash
from cola_msa.records import index as index_lib
from cola_msa.records import schema
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.system.files import file_sha256
from cola_msa.system.folders import CACHE_VARIABLE
from cola_msa.values.field_flags import whole_numbers

_SEGMENTS_PER_CLIP = 61  # a song of four minutes
_SEGMENTS_PER_SHARD = 1_000_000
_BLOCK = 1 << 20
_BATCH = 128
_DRAWS = 300
_SETTLED_SECONDS = 3  # what was changed just now is not noted
_BATCHES = ("mixed", "active_any")
_SPLIT = "train"


def _active(first: int, count: int) -> np.ndarray:
    """Which of four sources are active in rows, bool [count, 4]."""
    random = np.random.default_rng(first)
    return random.random((count, 4), np.float32) < 0.57


def _write_column(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    block: Callable[[int, int], np.ndarray],
) -> None:
    """Writes an array as np.savez does, `block(first, count)` rows at a time."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for first in range(0, shape[0], _BLOCK):
            values = block(first, min(_BLOCK, shape[0] - first))
            member.write(np.ascontiguousarray(values, dtype).tobytes())


def write_collection(data_dir: pathlib.Path, num_segments: int) -> None:
    """Writes a prepared folder whose rows all point to one segment a shard."""
    num_shards = -(-num_segments // _SEGMENTS_PER_SHARD)
    num_clips = -(-num_segments // _SEGMENTS_PER_CLIP)
    names = [
        f"{_SPLIT}-{n:05d}-of-{num_shards:05d}.tfrecord" for n in range(num_shards)
    ]
    mel = np.random.default_rng(0).normal(-3, 2, (392, 64)).astype(np.float16)
    segment = schema.Segment(
        "clip",
        "song",
        0,
        False,
        (0,),
        mel,
        dict.fromkeys(synthetic.SOURCES, mel),
        (True,) * 4,
        (True,) * 4,
    )
    data_dir.mkdir(parents=True)
    for name in names:
        one = index_lib.write_shard(
            data_dir / name, [segment], synthetic.SOURCES, config_hash(FrontendConfig())
        )
    path = data_dir / f"index-{_SPLIT}.npz"
    rows, per_source = (num_segments,), (num_segments, 4)

    def numbers(divisor: int) -> Callable[[int, int], np.ndarray]:
        return lambda first, count: np.arange(first, first + count) // divisor

    def constant(value: object) -> Callable[[int, int], np.ndarray]:
        return lambda first, count: np.full(count, value)

    def titles(first: int, count: int) -> np.ndarray:
        return np.array([f"clip{n:09d}" for n in range(first, first + count)])

    columns: dict[str, tuple[tuple[int, ...], str, Callable]] = {
        "shard": (rows, "<i4", numbers(_SEGMENTS_PER_SHARD)),
        "mixture_offset": (rows, "<i8", constant(int(one.mixture_offset[0]))),
        "stem_offset": (
            per_source,
            "<i8",
            lambda first, count: np.where(_active(first, count), one.stem_offset, -1),
        ),
        "num_frames": (rows, "<i4", constant(392)),
        "is_tail": (rows, "|b1", constant(False)),
        "is_active": (per_source, "|b1", _active),
        "has_stem": (per_source, "|b1", lambda first, count: np.ones((count, 4), bool)),
        "segment": (
            rows,
            "<i4",
            lambda first, count: np.arange(first, first + count) % _SEGMENTS_PER_CLIP,
        ),
        "clip": (rows, "<i4", numbers(_SEGMENTS_PER_CLIP)),
        "clip_ids": ((num_clips,), "<U13", titles),
        "groups": ((num_clips,), "<U13", titles),
        "label_values": ((num_clips,), "<i4", constant(0)),
        "label_splits": ((num_clips + 1,), "<i8", numbers(1)),
        "shards": ((num_shards,), f"<U{len(names[0])}", lambda first, count: names),
        "shard_bytes": ((num_shards,), "<i8", constant(int(one.shard_bytes[0]))),
        "sources": ((4,), "<U6", lambda first, count: np.array(synthetic.SOURCES)),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, column in columns.items():
            _write_column(archive, name, *column)
    synthetic.write_manifest(
        data_dir,
        {
            _SPLIT: {
                "shards": names,
                "num_clips": num_clips,
                "num_segments": num_segments,
                "shard_sha256": [file_sha256(data_dir / name) for name in names],
                "index_sha256": file_sha256(path),
            }
        },
    )


class _OwnMemory(threading.Thread):
    """Looks every few milliseconds how much memory this process has of its own."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = common.resident_bytes()[0]
        self.start()

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.peak = max(self.peak, common.resident_bytes()[0])
            time.sleep(0.005)

    def added(self) -> float:
        """The most that came to it, in MB."""
        return (self.peak - self.before) / 1e6


def measure(data_dir: str) -> dict[str, float]:
    """Opening a folder for training, and drawing from it."""
    import resource

    from cola_msa.config.schema import TrainConfig
    from cola_msa.pairs.draws import PairDraws
    from cola_msa.records.prepared import PreparedData

    memory = _OwnMemory()
    cpu, wall = common.cpu_seconds(), time.monotonic()
    data = PreparedData(data_dir)
    data.index(_SPLIT)
    found = {
        "open_cpu": common.cpu_seconds() - cpu,
        "open": time.monotonic() - wall,
    }
    for batches in _BATCHES:
        cpu, wall = common.cpu_seconds(), time.monotonic()
        draws = PairDraws(data, TrainConfig(batch_size=_BATCH, batches=batches))
        name = f"{batches}_start_cpu"
        found[name] = common.cpu_seconds() - cpu
        cpu, count = common.cpu_seconds(), 0
        # Two seconds at most: some draws look at every segment.
        while count < _DRAWS and common.cpu_seconds() - cpu < 2:
            draws.draw(count)
            count += 1
        found[f"{batches}_draws"] = count / (common.cpu_seconds() - cpu)
        if batches == _BATCHES[0]:
            found["own_mb"] = memory.added()
        del draws
    found["any_mb"] = memory.added()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {"peak_mb": peak / 1024}


def _in_process(data_dir: pathlib.Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, f"--only={data_dir}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _rows(sizes: tuple[int, ...]) -> Iterator[tuple[object, ...]]:
    for num_segments in sizes:
        with tempfile.TemporaryDirectory(prefix="cola_msa-index-", dir=".") as folder:
            root = pathlib.Path(folder)
            os.environ[CACHE_VARIABLE] = str(root / "cache")
            write_collection(root / "data", num_segments)
            size = (root / "data" / f"index-{_SPLIT}.npz").stat().st_size
            time.sleep(_SETTLED_SECONDS)
            for start in ("first", "later"):
                found = _in_process(root / "data")
                yield (
                    f"{num_segments:,}",
                    f"{size / 1e6:,.0f}",
                    start,
                    found["open"],
                    found["open_cpu"],
                    found["mixed_start_cpu"],
                    found["own_mb"],
                    found["peak_mb"],
                    found["mixed_draws"],
                    found["active_any_start_cpu"],
                    found["active_any_draws"],
                )


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_list("segments", ["1000000", "10000000"], "Rows of each table's row.")
    flags.DEFINE_string("only", None, "A folder to measure, for a process of its own.")
    flags.DEFINE_bool("quick", False, "Small indices: whether the script runs.")


def main(options: flags.FlagValues) -> None:
    """Writes, measures, and prints a table."""
    if options.only:
        print(json.dumps(measure(options.only)))
        return
    sizes = whole_numbers("segments", options.segments)
    if options.quick:
        sizes = (20_000, 1_200_000)
    if not all(size >= 1000 for size in sizes):
        raise UsageError("--segments: at least 1,000 each")
    header = (
        "segments",
        "index MB",
        "start",
        "opening s",
        "CPU-s",
        "segments to draw from, CPU-s",
        "own memory added, MB",
        "peak with file pages, MB",
        "draws/CPU-s",
        "`active_any`: CPU-s",
        "draws/CPU-s",
    )
    print(f"{common.machine()}\n\n{common.table(header, list(_rows(sizes)))}")


if __name__ == "__main__":
    console.start(main, define_flags)
