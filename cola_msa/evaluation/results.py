"""What an evaluation leaves: scores, files, charts, and the table with its scale."""

import contextlib
import csv
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.config.published import PAPER, Yardstick
from cola_msa.config.schema import MULTILABEL
from cola_msa.evaluation import charts, metrics
from cola_msa.evaluation.probes.kept_heads import HEADS_NAME, Heads, pack_heads
from cola_msa.evaluation.tasks import SCORE_TITLES, TaskSpec
from cola_msa.system import files, folders
from cola_msa.system.errors import FileError, RunError
from cola_msa.system.locks import LOCK_NAME, Lock
from cola_msa.values.arrays import DAMAGES, save_arrays, write_json
from cola_msa.values.markdown import aligned
from cola_msa.values.reading import read_json

RESULTS_NAME = "results.json"
CHARTS = ("confusion.png", "per_tag.png")  # of classes and of tags
_TABLE_NAME, _SCORES_NAME = "per_class.csv", "clip_scores.npz"


def num_counted(task: TaskSpec, labels: np.ndarray) -> int:
    """How many tags or classes the scores run over."""
    if task.task_type == MULTILABEL:
        return int(metrics.counted_tags(labels).sum())
    return len(np.unique(labels))


def score_rows(
    task: TaskSpec,
    labels: np.ndarray,
    scores: np.ndarray,
    num_resamples: int,
    yardstick: Yardstick,
) -> dict[str, dict[str, Any]]:
    """Each score with its interval, its values by head, chance and the paper's.

    Args:
        task: The task.
        labels: Of the test clips: [C, K] of 0 and 1 (tags), or class numbers [C].
        scores: float [S, C, K], of S heads.
        num_resamples: Of the clips, for the intervals.
        yardstick: The published numbers of the encoder's method.
    """
    published = task.published_of(yardstick)
    estimates = metrics.bootstrap(labels, scores, num_resamples)
    heads = [metrics.clip_scores(labels, head) for head in scores]
    chance = metrics.chance_scores(labels)
    rows = {}
    for name in task.scores:
        values = [head[name] for head in heads]
        rows[name] = {
            **dataclasses.asdict(estimates[name]),
            "per_seed": values,
            "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "chance": chance[name],
            "published": published.get(name),
        }
    return rows


def class_rows(
    task: TaskSpec,
    class_names: Sequence[str],
    train_labels: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
) -> list[dict[str, Any]]:
    """Each class's scores, means over heads; None where they are not defined.

    Args:
        task: The task.
        class_names: K names.
        train_labels: [clips, K], of the training clips of the first head.
        labels: Of the test clips, as for `score_rows`.
        scores: float [S, C, K].
    """
    columns: dict[str, np.ndarray] = {"train_clips": train_labels.sum(axis=0)}
    if task.task_type == MULTILABEL:
        tags = [metrics.tag_scores(labels, head) for head in scores]
        columns["test_clips"] = labels.sum(axis=0)
        for name in ("roc_auc", "pr_auc"):
            columns[name] = np.mean([head[name] for head in tags], axis=0)
        columns["chance_pr_auc"] = labels.mean(axis=0)
    else:
        counts = _mean_confusion(labels, scores)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns["test_clips"] = counts.sum(axis=1)
            columns["recall"] = np.diag(counts) / counts.sum(axis=1)
            columns["precision"] = np.diag(counts) / counts.sum(axis=0)
    rows: list[dict[str, Any]] = []
    for number, class_name in enumerate(class_names):
        row: dict[str, Any] = {"class": class_name}
        for name, values in columns.items():
            value = float(values[number])
            if name.endswith("_clips"):
                row[name] = round(value)
            else:
                row[name] = None if math.isnan(value) else value
        rows.append(row)
    return rows


def _mean_confusion(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.mean([metrics.confusion_matrix(labels, head) for head in scores], axis=0)


@contextlib.contextmanager
def exclusive(
    folder: pathlib.Path, name: str = LOCK_NAME, busy: str = ""
) -> Iterator[None]:
    """Keeps other evaluations out of a folder: files of two would mix.

    Args:
        folder: Where results go; it is made.
        name: The lock's file there.
        busy: What to say where another holds it; empty to wait for it.

    Raises:
        LockedError: If another holds it and is not waited for.
        RunError: If nothing can be written there.
    """
    try:
        lock = Lock(folder / name, busy, waits=not busy)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror or error}); once that is "
            "mended the same command goes on"
        ) from error
    with lock:
        yield


def write_results(
    output_dir: pathlib.Path,
    task: TaskSpec,
    results: dict[str, Any],
    clip_ids: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    heads: Heads,
) -> None:
    """Writes per_class.csv, clip_scores.npz, heads.npz, the chart and results.json.

    Args:
        output_dir: Where to.
        task: The task.
        results: What goes into results.json; `chart` is added to it, the chart's
            name, or None where it could not be drawn.
        clip_ids: str [C], of the test clips.
        labels: Of the test clips, as for `score_rows`.
        scores: float [S, C, K].
        heads: To keep.
    """
    check_output(output_dir)
    rows = results["per_class"]
    class_names = [row["class"] for row in rows]
    # Before the chart, which must not cost what was measured.
    results["chart"] = None
    with contextlib.ExitStack() as stack:
        # They take their names at the end, in the opposite order: results.json last,
        # and first the scores, by which a folder of a killed command is known.
        paths = {
            name: stack.enter_context(files.written_path(output_dir / name, RunError))
            for name in (RESULTS_NAME, HEADS_NAME, _TABLE_NAME, _SCORES_NAME)
        }
        with open(
            paths[_TABLE_NAME],
            "w",
            newline="",
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with open(paths[_SCORES_NAME], "wb") as scores_file:
            np.savez_compressed(
                scores_file,
                clip_ids=clip_ids,
                labels=labels,
                scores=scores,
                class_names=np.array(class_names, dtype=np.str_),
            )
        arrays, state = pack_heads(heads)
        with open(paths[HEADS_NAME], "wb") as heads_file:
            save_arrays(heads_file, arrays, state)
        text = json.dumps(results, indent=1) + "\n"
        paths[RESULTS_NAME].write_text(text, encoding="utf-8")
        for path in paths.values():
            files.sync(path)
        # It stands for the whole set, and must not stand beside another's files.
        (output_dir / RESULTS_NAME).unlink(missing_ok=True)
    chart = CHARTS[task.task_type == MULTILABEL]

    def draw() -> None:
        _draw_classes(output_dir / chart, task, results, labels, scores)

    if charts.try_to_draw(output_dir / chart, draw):
        results["chart"] = chart
        write_json(output_dir / RESULTS_NAME, results)


def check_output(output_dir: str | os.PathLike) -> None:
    """Refuses a folder in which the names of results are somebody else's files.

    Raises:
        FileError: If it is a file, or such a name is taken and neither results.json
            nor clip_scores.npz is an earlier evaluation's.
    """
    names = (RESULTS_NAME, _SCORES_NAME, HEADS_NAME, _TABLE_NAME, *CHARTS)
    folders.check_names(output_dir, names, _holds_results, "an evaluation's folder")


def _holds_results(folder: pathlib.Path) -> bool:
    if (folder / RESULTS_NAME).exists():
        try:
            return {"task", "scores"} <= read_results(folder).keys()
        except FileError:
            return False
    # Of a command that was killed between removing results.json and renaming it.
    try:
        with np.load(folder / _SCORES_NAME, allow_pickle=False) as arrays:
            return {"clip_ids", "labels", "scores"} <= set(arrays.files)
    except (*DAMAGES, TypeError, AttributeError):
        return False


def _draw_classes(
    path: pathlib.Path,
    task: TaskSpec,
    results: dict[str, Any],
    labels: np.ndarray,
    scores: np.ndarray,
) -> None:
    rows = results["per_class"]
    class_names = [row["class"] for row in rows]
    title = f"{task.title}\n{_short_scores(results)}"
    note = "; ".join(scale_lines(results)[:2])
    if task.task_type != MULTILABEL:
        counts = _mean_confusion(labels, scores)
        charts.draw_confusion(path, counts, class_names, title, note)
        return
    pr_auc, roc_auc, chance = (
        np.array([np.nan if row[name] is None else row[name] for row in rows])
        for name in ("pr_auc", "roc_auc", "chance_pr_auc")
    )
    charts.draw_tags(path, class_names, pr_auc, roc_auc, chance, title, note)


def _short_scores(results: dict[str, Any]) -> str:
    return ", ".join(
        f"{SCORE_TITLES[name]} {row['value']:.3f}"
        for name, row in results["scores"].items()
    )


def scale_lines(results: dict[str, Any]) -> list[str]:
    """The scale of a result, in words: encoder, clips, heads and intervals."""
    yardstick, splits, data = yardstick_of(results), results["splits"], results["data"]
    clips = " / ".join(f"{part['clips']:,}" for part in splits.values())
    paper_clips = " / ".join(f"{count:,}" for count in results["paper_clips"].values())
    published = f"paper: {paper_clips}" if paper_clips else "not a task of the paper's"
    is_tags = "pr_auc" in results["scores"]
    kind = "tags" if is_tags else "classes"
    needed = "positives and negatives" if is_tags else "clips"
    num_seeds = len(results["seeds"])
    lines = [
        f"encoder: {_encoder_line(results['encoder'])} "
        f"({yardstick.title}: {yardstick.updates:,} updates, "
        f"{yardstick.pairs:,} pairs)",
        f"clips: {clips} for training / validation / test ({published})",
        f"{data['num_counted']} of {data['num_classes']} {kind} are counted: they have "
        f"{needed} in the test split",
        f"heads: {num_seeds} seed{'s' if num_seeds > 1 else ''}; intervals: 95 % "
        f"bootstrap over the {splits['test']['clips']:,} test clips, "
        f"{results['bootstrap']['resamples']:,} resamples",
    ]
    if results["absent_splits"]:
        lines.append(f"the data has no clips for {', '.join(results['absent_splits'])}")
    lines += [f"not the paper's protocol: {text}" for text in deviations(results)]
    if _has_published(results) and not has_paper_scale(results):
        lines.append(
            f"not {yardstick.owner} scale: its numbers stand here for orientation alone"
        )
    return lines


def _encoder_line(info: dict[str, Any]) -> str:
    run = f" of run {info['run']} (preset {info['preset']})" if info["run"] else ""
    if info["encoder"] == "supervised":
        return f"the network{run} from fresh weights: 0 updates, 0 pairs"
    if info["encoder"] == "spectra":
        return "no network: statistics of log-mels, 0 pairs"
    if info["encoder"] == "untrained":
        trained = "0 updates, 0 pairs"
    elif info["updates"] is None:
        trained = "an unknown number of updates"
    else:
        trained = f"{info['updates']:,} updates, {info['pairs']:,} pairs"
    if info.get("init_from"):
        trained += f", after a start from {info['init_from']}, whose own do not count"
    return f"{info['encoder']}{run}: {trained}"


def deviations(results: dict[str, Any]) -> list[str]:
    """In what a result departs from the paper's probe, in words; [] where it does not.

    The paper's: a frozen encoder, the task's own head on features as they are, all
    labels. Both `--protocol`s count as that: the paper's text does not tell them
    apart.
    """
    lines = []
    mode = results.get("mode", "frozen")
    if mode != "frozen":
        lines.append(f"the encoder is trained with the labels ({mode})")
    probe = results.get("probe", results.get("paper_probe"))
    if probe != results.get("paper_probe"):
        lines.append(f"probe {probe}, the paper's is {results['paper_probe']}")
    if results["head"].get("standardize") and probe != "ridge":
        lines.append("features are standardised")
    if results["train_clips"] == "all":
        lines.append("heads trained on all clips")
    subset = results.get("label_subset")
    if subset:
        lines.append(
            f"heads trained on {100 * subset['fraction']:g} % of the labels, "
            f"{subset['clips']:,} of {subset['of']:,} clips; validation split whole"
        )
    return lines


def has_paper_scale(results: dict[str, Any]) -> bool:
    """Whether the clips are the paper's and the encoder saw all published pairs.

    It says nothing of the probe: see `deviations`.
    """
    clips = {name: part["clips"] for name, part in results["splits"].items()}
    pairs = results["encoder"]["pairs"] or 0
    return clips == results["paper_clips"] and pairs >= yardstick_of(results).pairs


def yardstick_of(results: dict[str, Any]) -> Yardstick:
    """What a result is read beside; of earlier versions' the paper's own row."""
    return dataclasses.replace(PAPER, **results.get("paper_scale", {}))


def _has_published(results: dict[str, Any]) -> bool:
    """Whether the paper has a number of this method for any of the scores."""
    return any(row["published"] is not None for row in results["scores"].values())


def render_table(results: dict[str, Any]) -> str:
    """The scores with the paper's beside them, and the scale below, as text.

    Where the paper has none of the encoder's method on this task, none stands there.
    """
    has_seeds, has_published = len(results["seeds"]) > 1, _has_published(results)
    header = ["score", "ours", "95 % interval", "chance"]
    if has_published:
        header.insert(3, f"paper ({yardstick_of(results).row})")
    if has_seeds:
        header.insert(3, "sd over seeds")
    table = [header]
    for name, row in results["scores"].items():
        line = [
            SCORE_TITLES[name],
            f"{row['value']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            f"{row['chance']:.3f}",
        ]
        if has_published:
            is_known = row["published"] is not None
            line.insert(3, f"{row['published']:.3f}" if is_known else "-")
        if has_seeds:
            line.insert(3, f"{row['deviation']:.3f}")
        table.append(line)
    text = [f"{results['task']}: {results['title']}", *aligned(table)]
    text += [f"  {line}" for line in scale_lines(results)]
    return "\n".join(line.rstrip() for line in text)


def read_results(output_dir: str | os.PathLike) -> dict[str, Any]:
    """Reads what `evaluate` wrote.

    Raises:
        FileError: If it has not been run there, or the file is damaged.
    """
    return read_json(
        pathlib.Path(output_dir) / RESULTS_NAME, advice="run the evaluation again"
    )
