"""From the command to its first update: `python -m cola_msa.train` in a new process.

    python benchmarks/bench_first.py [--data_dir=PATH] [--repetitions=3] [--quick]

The command is a user's, with the preset `default` (EfficientNetB0, 128 pairs), on
shards that were just written. It is stopped (SIGTERM) once it says that the first
update is done. The clock begins before the process is made; CPU seconds are what it had
used by then.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import common
import synthetic
from absl import flags

from cola_msa.system import console
from cola_msa.values.paths import define_path

_SAID = re.compile(r"first update done ([\d.]+) s .*\(([\d.]+) s")


def time_command(arguments: Sequence[str]) -> tuple[float, float, float, float]:
    """Trains until the first update is done.

    Returns:
        Seconds by the clock; seconds as the command says them; those of them for
        building the graph and the update; CPU seconds.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "cola_msa.train", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        found = _SAID.search(line)
        if found:
            wall = time.monotonic() - began
            cpu = _cpu_seconds(process.pid)
            process.terminate()
            process.communicate()
            return wall, float(found[1]), float(found[2]), cpu
    sys.exit(f"error: the command ended ({process.wait()}):\n{''.join(lines)}")


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(options: flags.FlagValues) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir
        if data_dir is None:
            data_dir = pathlib.Path(folder) / "data"
            synthetic.write_prepared(data_dir, {"train": 150, "validation": 20})
        rows = []
        for number in range(1 if options.quick else options.repetitions):
            arguments = [f"--data_dir={data_dir}", f"--run_dir={folder}/run{number}"]
            if options.quick:
                arguments += ["--preset=smoke", "--backbone=tiny"]
            rows.append(time_command(arguments))
    network = "tiny network" if options.quick else "EfficientNetB0, 128 pairs"
    print(
        f"python -m cola_msa.train, {network}: from the command to the first update\n"
    )
    header = ("run", "wall s", "as it says", "graph and update, wall s", "CPU-s")
    medians = map(statistics.median, zip(*rows, strict=True))
    table = [*((str(n), *row) for n, row in enumerate(rows)), ("median", *medians)]
    print(common.table(header, table))


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_bool("quick", False, "A tiny network: whether the script runs.")
    define_path("data_dir", None, "Prepared data; default: made for it.")
    flags.DEFINE_integer("repetitions", 3, "Runs.", lower_bound=1)


if __name__ == "__main__":
    console.start(main, define_flags)
