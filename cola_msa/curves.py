"""Learning curves of a run: python -m cola_msa.curves --run_dir=... [--tasks=...].

Draws loss, validation and collapse alarm from metrics.jsonl, and judges every kept
checkpoint by retrieval on validation songs and, for --tasks, by probes (results are
those of `cola_msa.eval`, and are reused). Writes <run_dir>/curves.png and curves.json.
"""

from typing import Any

import matplotlib
from absl import app, flags

from cola_msa.evaluation.charts import try_to_draw
from cola_msa.evaluation.curves import draw, probe_curve, retrieval_curve
from cola_msa.evaluation.tasks import get_task
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import directory
from cola_msa.runs.scalars import read_metrics
from cola_msa.system.console import run_command
from cola_msa.values import arrays

matplotlib.use("Agg")


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Training run; default the newest in runs/.")
    flags.DEFINE_string(
        "data_dir", None, "Prepared data with stems; default the run's own."
    )
    flags.DEFINE_list(
        "tasks", [], "Probes to run: task=prepared folder, with commas between them."
    )


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    run_dir = directory.choose_run(flags.FLAGS.run_dir)
    run = directory.load_run(run_dir)
    config = directory.load_config(run_dir)
    data = PreparedData(
        flags.FLAGS.data_dir or directory.own_data_dir(run_dir), config.frontend
    )
    probes: dict[str, Any] = {}
    for pair in flags.FLAGS.tasks:
        name, _, data_dir = pair.partition("=")
        probes[get_task(name).name] = probe_curve(run_dir, name, data_dir)
    retrieval = retrieval_curve(run_dir, data)
    rows = read_metrics(run_dir)
    pairs = config.train.batch_size * run.get("num_replicas", 1)
    title = (
        f"{config.train.source}, {config.train.batches} batches of {pairs} pairs, "
        f"{config.train.updates_per_step} updates a step, "
        f"data: {run['data'].get('dataset')}"
    )
    arrays.write_json(
        run_dir / "curves.json", {"retrieval": retrieval, "probes": probes}
    )
    chart = run_dir / "curves.png"
    if try_to_draw(chart, lambda: draw(chart, rows, retrieval, probes, title)):
        print(chart)
    print(run_dir / "curves.json")


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main))
