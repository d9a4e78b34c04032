"""Time and memory of `tag fit` and of labelling, on embeddings of many clips.

    python benchmarks/bench_tag.py --rows=10000,100000

Synthetic clips of albums and 20 classes, of which every clip is labelled. Each row of
the table is measured in a process of its own: what `python -m cola_msa.tag` takes, its
start and the reading of the file included.
"""

import csv
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import common
import numpy as np
from absl import flags

from cola_msa.config.schema import FrontendConfig, to_dict
from cola_msa.system import console
from cola_msa.values.field_flags import whole_numbers

_CLASSES, _ALBUM, _KEY = 20, 10, "0" * 16


def write_table(folder: pathlib.Path, rows: int, dim: int) -> None:
    """Writes embeddings.npz and labels.csv."""
    random = np.random.default_rng(0)
    labels = random.integers(0, _CLASSES, rows)
    centres = random.normal(0, 0.3, (_CLASSES, dim)).astype(np.float32)
    albums = random.normal(0, 0.5, (rows // _ALBUM + 1, dim)).astype(np.float32)
    values = centres[labels] + albums[np.arange(rows) // _ALBUM]
    values += random.normal(0, 1, values.shape).astype(np.float32)
    paths = [f"album{row // _ALBUM}/{row}.wav" for row in range(rows)]
    metadata = {
        "model_hash": _KEY,
        "frontend": to_dict(FrontendConfig()),
        "per": "clip",
    }
    np.savez(
        folder / "embeddings.npz",
        path=np.array(paths),
        sha256=np.array([f"{row:064x}" for row in range(rows)]),
        start=np.zeros(rows),
        seconds=np.full(rows, 30.0),
        embedding=values,
        metadata=np.array(json.dumps(metadata)),
    )
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class"])
        writer.writerows(zip(paths, (f"c{n}" for n in labels), strict=True))


def measure(folder: pathlib.Path, *arguments: str) -> list[str]:
    """Seconds, CPU seconds and peak MB of one command, as text."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    script = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:];\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__')\n"
        "finally: print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", script, "cola_msa.tag", *arguments]
    ran = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    seconds = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(ran.stdout.rsplit("PEAK", 1)[1]) / 1024
    return [f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:.0f}"]


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("rows", ["10000", "100000"], "Clips of a table.")
    flags.DEFINE_bool("quick", False, "300 clips alone: whether it runs.")
    flags.DEFINE_integer("dim", 2048, "Values of an embedding.", lower_bound=1)


def main(options: flags.FlagValues) -> None:
    """Prints the table."""
    found = []
    for rows in whole_numbers("rows", ["300"] if options.quick else options.rows):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            write_table(folder, rows, options.dim)
            table = "--embeddings=embeddings.npz"
            labels = ("--labels=labels.csv", "--nobaseline", "--output=head")
            fit = measure(folder, "fit", table, *labels)
            found.append([f"fit, {rows:,} clips", *fit])
            tag = measure(folder, table, "--head=head", "--output=tags.csv")
            found.append([f"label, {rows:,} clips", *tag])
    print(common.table(["", "seconds", "CPU-s", "peak MB"], found))


if __name__ == "__main__":
    console.start(main, define_flags)
