"""Which stem belongs to this mixture? python -m cola_msa.retrieve --run_dir=...

Ranks each validation mixture's own stem among 64 stems of the same kind from as many
songs as there are, for the trained network and for the one it started from, and gives
the paired interval of their difference. Writes <run_dir>/eval/retrieval/results.json.
"""

import pathlib

from absl import flags

from cola_msa.evaluation.baseline import (
    compare_with_untrained,
    holds_comparison,
    render,
)
from cola_msa.runs import directory
from cola_msa.system import console, folders
from cola_msa.system.errors import UsageError
from cola_msa.values import arrays
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags."""
    define_path("run_dir", None, "Training run; default the newest in runs/.")
    define_path(
        "data_dir",
        None,
        "Prepared data with stems, or several with commas; default the run's own.",
    )
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")
    flags.DEFINE_string("split", "validation", "Split that the songs come from.")


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    step = directory.parse_step(options.checkpoint_step)
    if not options.split:
        raise UsageError("--split= names nothing")
    run_dir = directory.choose_run(options.run_dir)
    data = directory.open_pairs(run_dir, options.data_dir)
    name = "retrieval" if step is None else f"retrieval-{step}"
    path = pathlib.Path(run_dir) / "eval" / name / "results.json"
    folders.check_file(path, holds_comparison, "a result of retrieve")
    results = compare_with_untrained(run_dir, data, step, options.split)
    arrays.write_json(path, results)
    print(render(results))
    console.tell(f"  files: {path}")


if __name__ == "__main__":
    console.start(main, define_flags)
