"""Learning curves of a run: loss, retrieval and probes at its kept steps, drawn."""

import pathlib
import subprocess
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from absl import logging

from cola_msa.evaluation.charts import draw_intervals, save_figure
from cola_msa.evaluation.retrieval import retrieval_of
from cola_msa.frameworks.choose import framework_of
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.joined import PairData
from cola_msa.records.kinds import folder_of
from cola_msa.records.manifests import read_manifest
from cola_msa.records.schema import MANIFEST_NAME
from cola_msa.runs import directory
from cola_msa.runs import kept as kept_lib
from cola_msa.system.errors import FileError, UserError
from cola_msa.values.chart_text import plain, wrapped
from cola_msa.values.reading import read_json

CURVES_NAMES = ("curves.json", "curves.png")
_SCORE_NAMES = {"pr_auc": "PR-AUC", "accuracy": "WA"}


class CurveError(UserError):
    """Curves that cannot be drawn; the message says why and what to do."""


def holds_curves(run_dir: pathlib.Path) -> bool:
    """Whether a run's curves were drawn before."""
    try:
        return {"retrieval", "probes"} <= set(read_json(run_dir / CURVES_NAMES[0]))
    except FileError:
        return False


def retrieval_curve(
    run_dir: pathlib.Path, data: PairData
) -> dict[int, dict[str, float]]:
    """Retrieval scores of every kept step, step 0 being the untrained network."""
    config = directory.load_config(run_dir)
    build = framework_of(config).build_augmentation
    sampler = PairSampler(data, config.train, "validation", build_augmentation=build)
    found = {}
    for step in kept_lib.kept_steps(run_dir):
        found[step] = retrieval_of(
            kept_lib.load_model(run_dir, step, "pairs"), sampler
        ).scores()
        logging.info("step %d: top-1 %.3f", step, found[step]["top1"])
    return found


def probe_curve(
    run_dir: pathlib.Path, task: str, data_dir: str
) -> dict[int, dict[str, float]]:
    """A task's main score, with its interval, at every kept step."""
    found = {}
    frontend = directory.load_config(run_dir).frontend
    folder = folder_of(pathlib.Path(data_dir), frontend)
    _, data_hash = read_manifest(folder / MANIFEST_NAME)
    for step in kept_lib.kept_steps(run_dir):
        output_dir = run_dir / "eval" / f"{task}-{step}"
        path = output_dir / "results.json"
        if not _is_result_of(path, data_hash, kept_lib.encoder_key(run_dir, step)):
            ended = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "cola_msa.eval",
                    f"--task={task}",
                    f"--run_dir={run_dir}",
                    f"--data_dir={data_dir}",
                    f"--checkpoint_step={step}",
                    f"--output_dir={output_dir}",
                ],
                check=False,
            )
            if ended.returncode:
                raise CurveError(
                    f"--tasks={task}={data_dir}: step {step} could not be judged; what "
                    "is wrong stands above. Once it is mended the same command goes on"
                )
        found[step] = read_json(
            path, CurveError, "delete it: it is made anew", check=_main_score
        )
    return found


def _main_score(results: dict[str, Any]) -> dict[str, Any]:
    scores = results["scores"]
    name = next((n for n in _SCORE_NAMES if n in scores), None)
    if name is None:
        raise ValueError("no score of a task")
    numbers = {part: float(scores[name][part]) for part in ("value", "low", "high")}
    return {"score": name, **scores[name], **numbers}


def _is_result_of(path: pathlib.Path, data_hash: str, key: str) -> bool:
    """Whether results.json was made from this data and this encoder."""
    if not path.exists():
        return False
    try:
        found = read_json(
            path,
            advice="it is made anew",
            check=lambda r: (r["data"]["manifest_hash"], r["encoder"]["key"]),
        )
    except FileError as error:
        logging.warning("%s", error)
        return False
    if found != (data_hash, key):
        logging.warning("%s is of other data or weights; it is made anew", path)
    return found == (data_hash, key)


def draw(
    path: pathlib.Path,
    rows: list[dict[str, float]],
    retrieval: dict[int, dict[str, float]],
    probes: dict[str, dict[int, dict[str, float]]],
    title: str,
) -> None:
    """Draws the figure.

    Args:
        path: PNG to write.
        rows: `read_metrics`'s.
        retrieval: Scores a kept step.
        probes: By task, scores a kept step.
        title: Above the figure.
    """
    figure, panels = plt.subplots(2, 2, figsize=(11, 7.5), constrained_layout=True)
    figure.suptitle(wrapped(title, 120))
    steps = [row["step"] for row in rows]

    panel = panels[0, 0]
    panel.plot(steps, [row["loss_above_chance"] for row in rows], label="training")
    validated = [row for row in rows if "validation/loss_above_chance" in row]
    if validated:
        panel.plot(
            [row["step"] for row in validated],
            [row["validation/loss_above_chance"] for row in validated],
            label="validation",
        )
    panel.axhline(0, color="grey", linewidth=0.8, linestyle=":", label="chance")
    panel.set(title="Loss minus log(candidates)", ylabel="nats", xlabel="step")
    panel.legend()

    panel = panels[0, 1]
    names = sorted({n for row in rows for n in row if n.startswith("loss/")})
    window = max(1, len(rows) // 20)
    for name in names:
        mine = [(row["step"], row[name]) for row in rows if name in row]
        values = np.array([value for _, value in mine])
        if len(values) < window:
            continue
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        panel.plot([s for s, _ in mine][window - 1 :], smooth, label=plain(name[5:]))
    panel.set(
        title=f"Training loss a source (mean of {window} steps)",
        ylabel="nats",
        xlabel="step",
    )
    twin = panel.twinx()
    twin.plot(
        steps, [row["deviation"] for row in rows], color="black", linewidth=0.8, ls="--"
    )
    twin.set_ylabel("deviation of projections (dashed)")
    if names:
        panel.legend()

    panel = panels[1, 0]
    kept = sorted(retrieval)
    for measure, label in (("top1", "top-1"), ("mrr", "MRR")):
        line = panel.plot(
            kept, [retrieval[s][measure] for s in kept], marker="o", label=label
        )
        panel.axhline(
            retrieval[kept[0]][f"chance_{measure}"],
            color=line[0].get_color(),
            linewidth=0.8,
            linestyle=":",
        )
    panel.set(
        title="Retrieval on validation songs (dotted: chance)",
        xlabel="step (0: untrained)",
        ylim=(0, None),
    )
    panel.legend()

    panel = panels[1, 1]
    for task, curve in probes.items():
        kept = sorted(curve)
        label = f"{plain(task)}, {_SCORE_NAMES[str(curve[kept[0]]['score'])]}"
        draw_intervals(panel, kept, [curve[s] for s in kept], label=label)
    panel.set(title="Probes, 95 % intervals", xlabel="step (0: untrained)", ylim=(0, 1))
    if probes:
        panel.legend()
    else:
        panel.text(0.5, 0.5, "no --tasks", ha="center", transform=panel.transAxes)
    save_figure(figure, path, 110)
    plt.close(figure)
