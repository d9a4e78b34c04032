"""Judges an encoder on a task: embeddings, heads, scores, tables and files."""

import csv
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa import charts, metrics
from cola_msa.checkpoints import package_versions, write_json
from cola_msa.embeddings import EmbeddedSplit, Encoder, embed_split, join
from cola_msa.prepared import PreparedData
from cola_msa.probe import ProbeConfig, TrainedHead, score_clips, train_head
from cola_msa.records import DataError, manifest_hash
from cola_msa.tasks import (
    MULTILABEL,
    PAPER_PAIRS,
    PAPER_UPDATES,
    SCORE_TITLES,
    Splits,
    TaskSpec,
    get_task,
)


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """What stands beside every score: which encoder, and what it was trained for.

    Attributes:
        encoder: `trained` or `untrained`.
        run: Name of its run.
        preset: The run's preset.
        source: The run's `--source`.
        step: Step of the checkpoint (64 updates in the paper).
        updates: Optimizer updates up to then.
        pairs: Pairs up to then, all replicas together.
    """

    encoder: str = "trained"
    run: str = ""
    preset: str = ""
    source: str = ""
    step: int | None = None
    updates: int | None = None
    pairs: int | None = None


_UNKNOWN_ENCODER = EncoderInfo()


def evaluate(
    encoder: Encoder,
    key: str,
    task: TaskSpec | str,
    data: PreparedData,
    output_dir: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    info: EncoderInfo = _UNKNOWN_ENCODER,
    train_clips: str = "filtered",
    num_seeds: int = 1,
    num_resamples: int = 1000,
    standardize: bool = False,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Trains heads on a frozen encoder's embeddings and scores them on test clips.

    Args:
        encoder: float32 [batch, frames, mels, 1] -> [batch, D], in inference mode.
        key: Stands for the encoder's weights (`checkpoints.encoder_key`).
        task: A TaskSpec or its name.
        data: The task's prepared data.
        output_dir: Where `results.json`, `per_class.csv`, `clip_scores.npz` and the
            chart are written.
        cache_dir: Where embeddings are kept; default: `embeddings` in `output_dir`.
        info: What is written beside the scores.
        train_clips: `filtered`, or `all` (mtat_unfiltered alone).
        num_seeds: Heads to train, with seeds 0, 1, ...; scores are their means.
        num_resamples: Of the clips, for the 95 % intervals.
        standardize: See ProbeConfig.
        show_progress: Whether to show progress bars.

    Returns:
        What is in `results.json`.

    Raises:
        TaskError: If the task or the variant does not exist.
        DataError: If the data does not fit the task.
    """
    task = get_task(task) if isinstance(task, str) else task
    splits = task.choose_splits(train_clips)
    absent_splits = task.check_data(data, splits)
    splits = splits.without(absent_splits)
    output_dir = pathlib.Path(output_dir)
    cache = pathlib.Path(cache_dir or output_dir / "embeddings")
    _check_clips(task, data, splits)
    embedded = {
        name: embed_split(encoder, data, name, cache, key, show_progress=show_progress)
        for name in dict.fromkeys(splits.names)
    }
    train, validation, test = (
        join([embedded[name] for name in names])
        for names in (splits.train, splits.validation, splits.test)
    )
    labels = test.labels if task.task_type == MULTILABEL else test.labels.argmax(axis=1)
    if task.task_type == MULTILABEL and not metrics.counted_tags(labels).any():
        raise DataError(
            f"{data.data_dir}: no tag has both positive and negative test clips"
        )
    config = dataclasses.replace(ProbeConfig.of_task(task), standardize=standardize)
    heads: list[TrainedHead] = []
    clip_scores: list[np.ndarray] = []
    for seed in range(num_seeds):
        title = f"head {seed + 1}/{num_seeds}"
        head = train_head(
            train, validation, config, seed, title=title, show_progress=show_progress
        )
        heads.append(head)
        clip_scores.append(score_clips(head, test))
    scores = np.stack(clip_scores)
    parts = {"train": train, "validation": validation, "test": test}
    results = {
        "task": task.name,
        "title": task.title,
        "encoder": {**dataclasses.asdict(info), "key": key},
        "data": {
            "dataset": task.dataset,
            "data_dir": str(data.data_dir),
            "manifest_hash": manifest_hash(data.data_dir),
            "num_classes": len(data.class_names),
            "num_counted": _num_counted(task, labels),
        },
        "train_clips": train_clips,
        "splits": {
            name: {"clips": part.num_clips, "windows": part.num_windows}
            for name, part in parts.items()
        },
        "absent_splits": absent_splits,
        "paper_clips": dict(zip(parts, task.paper_clips, strict=True)),
        "paper_scale": {"updates": PAPER_UPDATES, "pairs": PAPER_PAIRS},
        "head": {**dataclasses.asdict(config), "loss": task.loss},
        "seeds": list(range(num_seeds)),
        "bootstrap": {"resamples": num_resamples, "over": "test clips"},
        "scores": _score_rows(task, labels, scores, num_resamples),
        "heads": [_head_row(head) for head in heads],
        "per_class": _class_rows(task, data.class_names, train, labels, scores),
        "versions": package_versions(),
    }
    _write(output_dir, task, results, test, labels, scores, data.class_names)
    return results


def _check_clips(task: TaskSpec, data: PreparedData, splits: Splits) -> None:
    """Refuses empty splits, and clips without exactly one class where that is due."""
    for names in (splits.train, splits.validation, splits.test):
        if not any(len(data.index(name).clip_ids) for name in names):
            raise DataError(
                f"{data.data_dir}: split {' + '.join(names)} holds no clips, but "
                f"--task={task.name} needs some"
            )
    if task.task_type == MULTILABEL:
        return
    for name in splits.names:
        index = data.index(name)
        counts = np.diff(index.label_splits)
        if (counts != 1).any():
            bad = int(np.argmax(counts != 1))
            raise DataError(
                f"{data.data_dir}, split {name}: clip {index.clip_ids[bad]} has "
                f"{counts[bad]} classes; --task={task.name} needs one a clip"
            )


def _num_counted(task: TaskSpec, labels: np.ndarray) -> int:
    if task.task_type == MULTILABEL:
        return int(metrics.counted_tags(labels).sum())
    return len(np.unique(labels))


def _score_rows(
    task: TaskSpec, labels: np.ndarray, scores: np.ndarray, num_resamples: int
) -> dict[str, dict[str, Any]]:
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
            "published": task.published.get(name),
        }
    return rows


def _head_row(head: TrainedHead) -> dict[str, Any]:
    return {
        "epochs": len(head.validation_loss),
        "best_epoch": head.best_epoch,
        "validation_loss": head.validation_loss[head.best_epoch],
        "seconds": round(head.seconds, 2),
    }


def _class_rows(
    task: TaskSpec,
    class_names: Sequence[str],
    train: EmbeddedSplit,
    labels: np.ndarray,
    scores: np.ndarray,
) -> list[dict[str, Any]]:
    """Each class's scores, means over heads; None where they are not defined."""
    columns: dict[str, np.ndarray] = {"train_clips": train.labels.sum(axis=0)}
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


def _write(
    output_dir: pathlib.Path,
    task: TaskSpec,
    results: dict[str, Any],
    test: EmbeddedSplit,
    labels: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    rows = results["per_class"]
    with open(output_dir / "per_class.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    np.savez_compressed(
        output_dir / "clip_scores.npz",
        clip_ids=test.clip_ids,
        labels=labels,
        scores=scores,
        class_names=np.array(class_names, dtype=np.str_),
    )
    title = f"{task.title}\n{_short_scores(results)}"
    note = "; ".join(scale_lines(results)[:2])
    if task.task_type == MULTILABEL:
        results["chart"] = "per_tag.png"
        columns = {
            name: np.array([np.nan if r[name] is None else r[name] for r in rows])
            for name in ("pr_auc", "roc_auc", "chance_pr_auc")
        }
        charts.draw_tags(
            output_dir / "per_tag.png",
            class_names,
            columns["pr_auc"],
            columns["roc_auc"],
            columns["chance_pr_auc"],
            title,
            note,
        )
    else:
        results["chart"] = "confusion.png"
        counts = _mean_confusion(labels, scores)
        charts.draw_confusion(
            output_dir / "confusion.png", counts, class_names, title, note
        )
    # Last, so that a results.json stands for a whole set of files.
    write_json(output_dir / "results.json", results)


def _short_scores(results: dict[str, Any]) -> str:
    return ", ".join(
        f"{SCORE_TITLES[name]} {row['value']:.3f}"
        for name, row in results["scores"].items()
    )


def scale_lines(results: dict[str, Any]) -> list[str]:
    """The scale of a result, in words: encoder, clips, heads and intervals."""
    info, paper = results["encoder"], results["paper_scale"]
    run = f" of run {info['run']} (preset {info['preset']})" if info["run"] else ""
    if info["encoder"] == "untrained":
        trained = "0 updates, 0 pairs"
    elif info["updates"] is None:
        trained = "an unknown number of updates"
    else:
        trained = f"{info['updates']:,} updates, {info['pairs']:,} pairs"
    splits = results["splits"]
    clips = " / ".join(f"{part['clips']:,}" for part in splits.values())
    paper_clips = " / ".join(f"{count:,}" for count in results["paper_clips"].values())
    data = results["data"]
    is_tags = "pr_auc" in results["scores"]
    kind = "tags" if is_tags else "classes"
    needed = "positives and negatives" if is_tags else "clips"
    num_seeds = len(results["seeds"])
    lines = [
        f"encoder: {info['encoder']}{run}: {trained} "
        f"(paper: {paper['updates']:,} updates, {paper['pairs']:,} pairs)",
        f"clips: {clips} for training / validation / test (paper: {paper_clips})",
        f"{data['num_counted']} of {data['num_classes']} {kind} are counted: they have "
        f"{needed} in the test split",
        f"heads: {num_seeds} seed{'s' if num_seeds > 1 else ''}; intervals: 95 % "
        f"bootstrap over the {splits['test']['clips']:,} test clips, "
        f"{results['bootstrap']['resamples']:,} resamples",
    ]
    if results["absent_splits"]:
        lines.append(f"the data has no clips for {', '.join(results['absent_splits'])}")
    if results["train_clips"] == "all":
        lines.append("heads trained on all clips: not the paper's protocol")
    if not has_paper_scale(results):
        lines.append(
            "not the paper's scale: its numbers stand here for orientation alone"
        )
    return lines


def has_paper_scale(results: dict[str, Any]) -> bool:
    """Whether the clips are the paper's and the encoder saw at least its pairs."""
    clips = {name: part["clips"] for name, part in results["splits"].items()}
    pairs = results["encoder"]["pairs"] or 0
    return clips == results["paper_clips"] and pairs >= results["paper_scale"]["pairs"]


def render_table(results: dict[str, Any]) -> str:
    """The scores with the paper's beside them, and the scale below, as text."""
    has_seeds = len(results["seeds"]) > 1
    header = ["score", "ours", "95 % interval", "paper (MSA)", "chance"]
    if has_seeds:
        header.insert(3, "sd over seeds")
    table = [header]
    for name, row in results["scores"].items():
        published = "-" if row["published"] is None else f"{row['published']:.3f}"
        line = [
            SCORE_TITLES[name],
            f"{row['value']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            published,
            f"{row['chance']:.3f}",
        ]
        if has_seeds:
            line.insert(3, f"{row['deviation']:.3f}")
        table.append(line)
    widths = [max(len(row[n]) for row in table) for n in range(len(header))]
    text = [f"{results['task']}: {results['title']}"]
    text += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in table
    ]
    text.insert(2, "  ".join("-" * width for width in widths))
    text += [f"  {line}" for line in scale_lines(results)]
    return "\n".join(line.rstrip() for line in text)


def read_results(output_dir: str | os.PathLike) -> dict[str, Any]:
    """Reads what `evaluate` wrote.

    Raises:
        FileNotFoundError: If it has not been run there.
    """
    return json.loads((pathlib.Path(output_dir) / "results.json").read_text())
