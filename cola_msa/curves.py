"""Learning curves of a run: python -m cola_msa.curves --run_dir=... [--tasks=...].

Draws loss, validation and collapse alarm from metrics.jsonl, and judges every kept
checkpoint by retrieval on validation songs and, for --tasks, by probes (results are
those of `cola_msa.eval`, and are reused). Writes <run_dir>/curves.png and curves.json.
"""

from typing import Any

import matplotlib
from absl import flags

from cola_msa.evaluation.charts import try_to_draw
from cola_msa.evaluation.curves import (
    CURVES_NAMES,
    draw,
    holds_curves,
    probe_curve,
    retrieval_curve,
)
from cola_msa.evaluation.tasks import get_task
from cola_msa.frameworks.choose import framework_of
from cola_msa.runs import directory
from cola_msa.runs.scalars import read_metrics
from cola_msa.system import console, folders
from cola_msa.system.errors import UsageError
from cola_msa.values import arrays
from cola_msa.values.paths import define_path

matplotlib.use("Agg")


def define_flags() -> None:
    """Defines the command's flags."""
    define_path("run_dir", None, "Training run; default the newest in runs/.")
    define_path(
        "data_dir",
        None,
        "Prepared data with stems, or several with commas; default the run's own.",
    )
    flags.DEFINE_list(
        "tasks", [], "Probes to run: task=prepared folder, with commas between them."
    )


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    given = [pair.partition("=") for pair in options.tasks]
    if not all(data_dir for _, _, data_dir in given):
        raise UsageError("--tasks must be task=folder,task=folder")
    tasks = [(get_task(name), name, data_dir) for name, _, data_dir in given]
    run_dir = directory.choose_run(options.run_dir)
    run = directory.load_run(run_dir)
    folders.check_names(run_dir, CURVES_NAMES, holds_curves, "a run with curves")
    config = directory.load_config(run_dir)
    data = directory.open_pairs(run_dir, options.data_dir)
    probes: dict[str, Any] = {}
    for task, name, data_dir in tasks:
        probes[task.name] = probe_curve(run_dir, name, data_dir)
    retrieval = retrieval_curve(run_dir, data)
    rows = read_metrics(run_dir)
    pairs = config.train.batch_size * run.get("num_replicas", 1)
    title = (
        f"{framework_of(config).describe_pairs(config.train)}, {pairs} pairs a batch, "
        f"{config.train.updates_per_step} updates a step, "
        f"data: {run['data'].get('dataset')}"
    )
    # The numbers first: they say whose the chart is.
    numbers, chart = (run_dir / name for name in CURVES_NAMES)
    arrays.write_json(numbers, {"retrieval": retrieval, "probes": probes})
    if try_to_draw(chart, lambda: draw(chart, rows, retrieval, probes, title)):
        console.tell(str(chart))
    console.tell(str(numbers))


if __name__ == "__main__":
    console.start(main, define_flags)
