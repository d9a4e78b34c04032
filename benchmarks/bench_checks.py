"""What a start's check of prepared data costs: every shard's bytes, then its notes.

    python benchmarks/bench_checks.py [--gigabytes=6] [--quick]

Records of noise are written as preparation writes them. The first start compares every
byte with the manifest's checksums; the second finds what the first noted. Both read
manifest and index. Costs are also given for MagnaTagATune's 24 GB, in proportion.
"""

import os
import pathlib
import tempfile
import time

import common
import synthetic
from absl import flags

from cola_msa.records.prepared import PreparedData
from cola_msa.system import console
from cola_msa.system.folders import CACHE_VARIABLE
from cola_msa.values.numbers import define_float

_TARGET_GIGABYTES = 24.0
_CLIP_BYTES = 7 * 50_176 * (1 + 0.57 * 4)  # seven segments, and stems where active
_SETTLED_SECONDS = 3  # what was changed just now is not noted
_REPETITIONS = 3  # of the second start


def _start(data_dir: pathlib.Path) -> tuple[float, float]:
    """CPU and wall seconds of opening a folder as `train` does."""
    cpu, wall = common.cpu_seconds(), time.monotonic()
    data = PreparedData(data_dir)
    for split in data.splits:
        data.index(split)
    return common.cpu_seconds() - cpu, time.monotonic() - wall


def define_flags() -> None:
    """Defines the command's flags."""
    define_float("gigabytes", 6.0, "Records to write.", 0.01, 100.0)
    flags.DEFINE_bool("quick", False, "50 MB.")


def main(options: flags.FlagValues) -> None:
    """Writes, opens several times, and prints a table."""
    gigabytes = 0.05 if options.quick else options.gigabytes
    with tempfile.TemporaryDirectory(prefix="cola_msa-checks-", dir=".") as folder:
        root = pathlib.Path(folder)
        os.environ[CACHE_VARIABLE] = str(root / "cache")
        num_clips = round(gigabytes * 1e9 / _CLIP_BYTES)
        data_dir = synthetic.write_prepared(root / "data", {"train": num_clips})
        shards = list(data_dir.glob("*.tfrecord"))
        size = sum(path.stat().st_size for path in shards) / 1e9
        time.sleep(_SETTLED_SECONDS)
        rows = []
        for number in range(1 + _REPETITIONS):
            cpu, wall = _start(data_dir)
            rows.append(
                (
                    "first" if number == 0 else "later",
                    f"{cpu:.3f}",
                    f"{wall:.3f}",
                    f"{cpu * _TARGET_GIGABYTES / size:.2f}",
                )
            )
        print(f"{size:.2f} GB in {len(shards)} shards, {num_clips} clips\n")
        header = ("start", "CPU-s", "s", "CPU-s for 24 GB")
        print(common.table(header, rows))


if __name__ == "__main__":
    console.start(main, define_flags)
