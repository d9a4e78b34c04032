"""PNG charts of an evaluation, drawn without a display."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cola_msa.evaluation.tasks import SCORE_TITLES
from cola_msa.system.files import write_file
from cola_msa.values.chart_text import plain, wrapped

_DOTS_PER_INCH = 130
_BAR, _CHANCE, _DOT = "#4878a8", "#c44e52", "#303030"
_CURVES = ("#4878a8", "#dd8452")
# Of many classes a chart is still opened: sides in inches, and numbers in cells.
_MAX_SIDE, _MAX_HEIGHT = 45.0, 100.0
_MAX_NUMBERS = 100
_OVER_TIME = "cola_msa: labels over time"
_MOST_ROWS = 24  # labels of a chart over time


def try_to_draw(path: str | os.PathLike, draw: Callable[[], None]) -> bool:
    """Draws a chart of results that are written already; a failure is a warning.

    Args:
        path: Where `draw` puts it; an earlier chart there goes first.
        draw: Draws it.

    Returns:
        Whether it is there.
    """
    try:
        pathlib.Path(path).unlink(missing_ok=True)
        draw()
    except Exception as error:  # the results are worth more than their picture
        logging.warning("%s could not be drawn: %r", path, error)
        return False
    return True


def _font_size(largest: float, inches: float) -> float:
    """Points of labels that are so many inches apart."""
    return max(1.0, min(largest, 0.8 * 72 * inches))


def save_figure(
    figure: Figure,
    path: str | os.PathLike,
    dots_per_inch: int = _DOTS_PER_INCH,
    mark: str = "",
) -> None:
    """Writes a figure as PNG, whole or not at all.

    Args:
        figure: The figure.
        path: The PNG file.
        dots_per_inch: Of the picture.
        mark: A description within the file, by which it is known again.

    Raises:
        FileError: If it cannot be written.
    """
    FigureCanvasAgg(figure)
    options: dict[str, Any] = {"format": "png", "dpi": dots_per_inch}
    if mark:
        options["metadata"] = {"Description": mark}
    write_file(path, lambda file: figure.savefig(file, **options))


def draw_confusion(
    path: str | os.PathLike,
    counts: np.ndarray,
    class_names: Sequence[str],
    title: str,
    note: str = "",
) -> None:
    """Draws a confusion matrix as percentages of each true class.

    Args:
        path: The PNG file.
        counts: [K true, K predicted], clips; of several heads their mean.
        class_names: K names.
        title: First lines above the matrix.
        note: A smaller line below it.
    """
    num_classes = len(class_names)
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100.0 * counts / np.maximum(totals, 1e-9)
    side = min(max(4.6, 2.2 + 0.52 * num_classes), _MAX_SIDE)
    font = _font_size(10.0, (side - 2.2) / max(num_classes, 1))
    names = [plain(name, 32) for name in class_names]
    figure = Figure(figsize=(side + 1.2, side + 0.6), layout="constrained")
    axes: Axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=100.0)
    positions = range(num_classes)
    axes.set_xticks(positions, names, rotation=45, ha="right", fontsize=font)
    axes.set_yticks(
        positions,
        [
            f"{name} ({total:,.0f})"
            for name, total in zip(names, totals[:, 0], strict=True)
        ],
        fontsize=font,
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class (test clips)")
    for row in positions if num_classes <= _MAX_NUMBERS else ():
        for column in positions:
            # A class without test clips has no shares; its row stays empty.
            if totals[row, 0] and shares[row, column] >= 0.5:
                axes.text(
                    column,
                    row,
                    f"{shares[row, column]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if shares[row, column] > 55 else "black",
                )
    axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=axes, shrink=0.75, label="% of the true class's clips")
    _titles(figure, axes, title, note)
    save_figure(figure, path)


def draw_tags(
    path: str | os.PathLike,
    tag_names: Sequence[str],
    pr_auc: np.ndarray,
    roc_auc: np.ndarray,
    share: np.ndarray,
    title: str,
    note: str = "",
) -> None:
    """Draws each tag's scores, sorted by PR-AUC.

    Args:
        path: The PNG file.
        tag_names: K names.
        pr_auc: [K], bars; NaN where a tag is not counted.
        roc_auc: [K], dots.
        share: [K], share of positives: the PR-AUC of chance, red marks.
        title: First lines above the chart.
        note: A smaller line below it.
    """
    order = np.argsort(-np.nan_to_num(pr_auc, nan=-1.0), kind="stable")
    rows = np.arange(len(order))
    height = min(1.9 + 0.21 * len(order), _MAX_HEIGHT)
    figure = Figure(figsize=(8.0, max(3.4, height)), layout="constrained")
    axes: Axes = figure.add_subplot()
    axes.barh(rows, pr_auc[order], height=0.72, color=_BAR, label="PR-AUC")
    axes.plot(
        share[order],
        rows,
        linestyle="none",
        marker="|",
        markersize=9,
        markeredgewidth=2,
        color=_CHANCE,
        label="PR-AUC of chance (share of positives)",
    )
    axes.plot(
        roc_auc[order],
        rows,
        linestyle="none",
        marker="o",
        markersize=4,
        clip_on=False,
        color=_DOT,
        label="ROC-AUC (chance: 0.5)",
    )
    labels = [
        plain(tag_names[tag]) + (" (not counted)" if np.isnan(pr_auc[tag]) else "")
        for tag in order
    ]
    font = _font_size(9.0, (height - 1.9) / max(len(order), 1))
    axes.set_yticks(rows, labels, fontsize=font)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.0)
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles[-1:] + handles[:-1],
        names[-1:] + names[:-1],
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    _titles(figure, axes, title, note)
    save_figure(figure, path)


def draw_intervals(
    axes: Axes,
    places: Sequence[float],
    scores: Sequence[Mapping[str, float]],
    **style: Any,
) -> None:
    """Draws a line of scores' `value`, each with its interval, `low` to `high`."""
    value, low, high = (
        np.array([score[part] for score in scores]) for part in ("value", "low", "high")
    )
    # A percentile interval may leave its value out: no negative lengths.
    spread = np.maximum([value - low, high - value], 0.0)
    axes.errorbar(places, value, spread, marker="o", capsize=3, **style)


def draw_label_curve(
    path: str | os.PathLike,
    rows: Sequence[dict[str, Any]],
    title: str,
    note: str = "",
) -> None:
    """Draws scores against the number of training clips whose labels are used.

    Args:
        path: The PNG file.
        rows: `label_fractions.curve_rows`.
        title: First lines above the chart.
        note: A smaller line below it.
    """
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes: Axes = figure.add_subplot()
    clips = [row["train_clips"] for row in rows]
    for number, name in enumerate(rows[0]["scores"]):
        scores = [row["scores"][name] for row in rows]
        color = _CURVES[number % len(_CURVES)]
        draw_intervals(axes, clips, scores, color=color, label=SCORE_TITLES[name])
        axes.axhline(
            scores[-1]["chance"], color=color, linewidth=0.9, linestyle=":", zorder=0
        )
    axes.set_xscale("log")
    axes.set_xticks(
        clips,
        [
            f"{row['train_clips']:,}\n({100 * row['label_fraction']:g} %)"
            for row in rows
        ],
    )
    axes.minorticks_off()
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel("training clips (share of the labels)")
    axes.set_ylabel("score, 95 % interval over test clips (dotted: chance)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    _titles(figure, axes, title, note)
    save_figure(figure, path)


def draw_over_time(
    path: str | os.PathLike,
    starts: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    title: str,
    note: str = "",
) -> None:
    """Draws labels' probabilities over time: a row a label, the likeliest on top.

    Args:
        path: The PNG file.
        starts: float [W], seconds, evenly spaced.
        scores: float [W, K], between 0 and 1.
        class_names: K names; of more than 24 those that are ever the likeliest.
        title: First lines above the chart.
        note: A smaller line below it.
    """
    order = np.argsort(-scores.mean(axis=0), kind="stable")
    if len(order) > _MOST_ROWS:
        kept = np.argsort(-scores.max(axis=0), kind="stable")[:_MOST_ROWS]
        order = order[np.isin(order, kept)]
    step = float(starts[1] - starts[0]) if len(starts) > 1 else 1.0
    width = float(np.clip(3 + 0.06 * len(starts), 7, 16))
    figure = Figure(figsize=(width, 1.6 + 0.27 * len(order)), layout="constrained")
    axes: Axes = figure.add_subplot()
    image = axes.imshow(
        scores[:, order].T,
        aspect="auto",
        interpolation="nearest",
        vmin=0.0,
        vmax=1.0,
        cmap="Blues",
        extent=(starts[0], starts[-1] + step, len(order) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(order)), [plain(class_names[k]) for k in order])
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="probability", pad=0.01)
    _titles(figure, axes, title, note)
    save_figure(figure, path, mark=_OVER_TIME)


def is_over_time(path: str | os.PathLike) -> bool:
    """Whether a file is a picture that `draw_over_time` drew."""
    with open(path, "rb") as file:
        return _OVER_TIME.encode() in file.read(4096)


def _titles(figure: Figure, axes: Axes, title: str, note: str) -> None:
    """A title, and below it, in room kept free by padding, a smaller note."""
    width = int(figure.get_figwidth() * 10)
    below = wrapped(note, int(width * 1.2))
    num_lines = len(below.splitlines())
    axes.set_title(wrapped(title, width), fontsize=11, pad=8 + 11 * num_lines)
    axes.annotate(
        below,
        xy=(0.5, 1.0),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color="0.35",
    )
