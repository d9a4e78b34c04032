"""Which stem belongs to this mixture? python -m cola_msa.retrieve --run_dir=...

Ranks each validation mixture's own stem among 64 stems of the same kind from as many
songs as there are, for the trained network and for the one it started from, and gives
the paired interval of their difference. Writes <run_dir>/eval/retrieval/results.json.
"""

import pathlib

from absl import flags, logging

from cola_msa.evaluation.baseline import compare_with_untrained, render
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import directory
from cola_msa.system import console
from cola_msa.values import arrays
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags."""
    define_path("run_dir", None, "Training run; default the newest in runs/.")
    define_path("data_dir", None, "Prepared data with stems; default the run's own.")
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")
    flags.DEFINE_string("split", "validation", "Split that the songs come from.")


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    step = directory.parse_step(options.checkpoint_step)
    run_dir = directory.choose_run(options.run_dir)
    data_dir = options.data_dir
    if data_dir is None:
        data_dir = directory.own_data_dir(run_dir)
        logging.info("no --data_dir: the run's own, %s", data_dir)
    data = PreparedData(data_dir, directory.load_config(run_dir).frontend)
    results = compare_with_untrained(run_dir, data, step, options.split)
    name = "retrieval" if step is None else f"retrieval-{step}"
    output_dir = pathlib.Path(run_dir) / "eval" / name
    arrays.write_json(output_dir / "results.json", results)
    print(render(results))
    print(f"  files: {output_dir}/results.json")


if __name__ == "__main__":
    console.start(main, define_flags)
