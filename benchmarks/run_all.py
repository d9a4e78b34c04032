"""Runs every stage's benchmark and writes RESULTS.md beside this file.

python benchmarks/run_all.py [--quick] [--output=PATH]
"""

import datetime
import pathlib
import subprocess
import sys
import time

import common
from absl import flags

from cola_msa.system import console
from cola_msa.system.versions import git_commit
from cola_msa.values.paths import define_path

_FOLDER = pathlib.Path(__file__).parent
_STAGES = (
    ("bench_step.py", "--profile"),
    ("bench_first.py",),
    ("bench_pairs.py",),
    ("bench_embed.py",),
    ("bench_probe.py",),
    ("bench_prep.py",),
)


def main(options: flags.FlagValues) -> None:
    """Runs the scripts one after the other; one that fails is named."""
    parts = [
        "# Results of the benchmarks\n",
        f"`make bench`, {datetime.date.today()}, commit {git_commit() or 'unknown'}.\n",
        f"{common.machine()}. Load when it began: {common.load()}.\n",
        "CPU seconds are user and system time of the process. Rows of a table were "
        "timed in turns in one process; figures are medians.",
    ]
    begin = time.monotonic()
    failed: list[str] = []
    for name, *arguments in _STAGES:
        path = _FOLDER / name
        if not path.exists():
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        done = subprocess.run(
            [
                sys.executable,
                str(path),
                *arguments,
                *(["--quick"] if options.quick else []),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, flush=True)
        took = f"{time.monotonic() - started:.0f} s"
        if done.returncode:
            failed.append(name)
            took += f"; it FAILED with exit code {done.returncode}"
        parts.append(f"\n## {name}\n\n{done.stdout.strip()}\n\n({took})")
        pathlib.Path(options.output).write_text("\n".join(parts) + "\n")
    parts.append(f"\nIn all {(time.monotonic() - begin) / 60:.1f} min.")
    pathlib.Path(options.output).write_text("\n".join(parts) + "\n")
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}; see above")


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_bool("quick", False, "Whether the scripts run, in a minute.")
    define_path("output", str(_FOLDER / "RESULTS.md"), "Where results go.")


if __name__ == "__main__":
    console.start(main, define_flags)
