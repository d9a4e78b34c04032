"""What a fit says to people: its lines on the console, and its mistakes in a CSV."""

import csv
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.config.schema import MULTILABEL
from cola_msa.evaluation.tasks import SCORE_TITLES
from cola_msa.tagging.folds import CONTENT
from cola_msa.tagging.labels import ClipLabels
from cola_msa.values.markdown import aligned

TITLES = {**SCORE_TITLES, "accuracy": "accuracy"}
_MOST_ROWS = 50  # classes that the console shows


def write_predictions(
    path: pathlib.Path,
    paths: Sequence[str],
    labels: ClipLabels,
    probabilities: np.ndarray,
    thresholds: np.ndarray | None,
) -> None:
    """Writes a CSV of what cross-validation said of each clip.

    The surest mistakes come first, and then what is right, the least sure first.

    Args:
        path: The file.
        paths: n paths.
        labels: Their labels, all known.
        probabilities: float [n, K].
        thresholds: Float [K], of tags; None of classes.
    """
    # What is no text at all, as names of files may hold it, must not end a long run.
    with open(path, "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file, lineterminator="\n")
        if thresholds is None:
            writer.writerow(["path", "label", "predicted", "probability"])
            writer.writerows(_class_answers(paths, labels, probabilities))
        else:
            writer.writerow(["path", "tag", "label", "predicted", "probability"])
            writer.writerows(_tag_answers(paths, labels, probabilities, thresholds))


def _class_answers(
    paths: Sequence[str], labels: ClipLabels, probabilities: np.ndarray
) -> Iterator[list[str]]:
    best, names = probabilities.argmax(axis=1), labels.class_names
    surest = probabilities.max(axis=1)
    is_right = best == labels.values
    for row in np.lexsort((np.where(is_right, surest, -surest), is_right)):
        label = names[labels.values[row]]
        yield [paths[row], label, names[best[row]], f"{surest[row]:.4f}"]


def _tag_answers(
    paths: Sequence[str],
    labels: ClipLabels,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
) -> Iterator[list[str]]:
    rows, tags = np.nonzero(~np.isnan(labels.values))
    values, truth = probabilities[rows, tags], labels.values[rows, tags].astype(int)
    predicted = (values >= thresholds[tags]).astype(int)
    is_right = predicted == truth
    sureness = np.abs(values - thresholds[tags])
    for k in np.lexsort((np.where(is_right, sureness, -sureness), is_right)):
        name = labels.class_names[tags[k]]
        cells = [str(truth[k]), str(predicted[k]), f"{values[k]:.4f}"]
        yield [paths[rows[k]], name, *cells]


def describe(results: dict[str, Any]) -> list[str]:
    """Lines for people: scores beside chance and log-mel statistics, classes, warnings.

    Args:
        results: From `fit`.
    """
    clips, groups = results["clips"], results["groups"]
    is_tags = results["task_type"] == MULTILABEL
    held = "folder" if groups["by"] != CONTENT else "clip"
    num_names = len(results["class_names"])
    lines = [
        f"{num_names} {'tag' if is_tags else 'classe'}{'s' if num_names > 1 else ''}; "
        f"{clips['labelled']:,} labelled clips of {clips['of']:,}"
        + (
            f"; {results['folds']} folds, {groups['count']:,} {held}s, none in two"
            if results["folds"]
            else ""
        )
    ]
    baseline = results["baseline"]
    if results["scores"]:
        table = [["score", "embeddings", "95 %", "log-mel statistics", "chance"]]
        for name, row in results["scores"].items():
            other = "not measured"
            if baseline is not None:
                other = "too few clips" if baseline["clips"] else "no audio"
                if name in baseline["scores"]:
                    other = f"{baseline['scores'][name]['value']:.3f}"
                    if baseline["clips"] < clips["labelled"]:
                        same = baseline["embeddings"][name]["value"]
                        other += (
                            f" (embeddings {same:.3f}, both of {baseline['clips']:,} "
                            "clips alone)"
                        )
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            cells = [f"{row['value']:.3f}", interval, other, f"{row['chance']:.3f}"]
            table.append([TITLES[name], *cells])
        lines += ["", *aligned(table)]
    lines += ["", *aligned(_class_table(results["per_class"], is_tags, held))]
    if (more := len(results["per_class"]) - _MOST_ROWS) > 0:
        lines.append(f"and {more:,} more in results.json")
    notes = [*results["remarks"], *results["warnings"]]
    return [*lines, *([""] if notes else []), *notes]


def _class_table(rows: list[dict[str, Any]], is_tags: bool, held: str) -> list:
    def number(value: Any) -> str:
        if isinstance(value, dict):
            value = value["value"]
        return "-" if value is None else f"{value:.3f}"

    scores = ("roc_auc", "pr_auc") if is_tags else ("recall", "precision")
    titles = [TITLES.get(name, name) for name in scores]
    has_groups = held != "clip"
    counts = ["clips", *(["without"] if is_tags else [])]
    counts += [f"{held}s"] if has_groups else []
    table = [["tag" if is_tags else "class", *counts, *titles]]
    for row in rows[:_MOST_ROWS]:
        cells = [f"{row['clips']:,}"]
        cells += [f"{row['clips_without']:,}"] if is_tags else []
        cells += [f"{row['groups']:,}"] if has_groups else []
        found = [number(row.get(name)) for name in scores]
        table.append([row["name"], *cells, *found])
    return table
