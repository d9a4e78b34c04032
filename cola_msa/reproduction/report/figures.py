"""The paper's figures 2 to 5, drawn from what was measured.

Source: the paper, figures 2 to 5. Its figures give no numbers, so that nothing of them
is drawn; what its text says of them stands in the captions.
"""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cola_msa.evaluation.tasks import SCORE_TITLES
from cola_msa.reproduction.report.figure_data import Bar, Curve, TagDifference
from cola_msa.values.chart_text import plain, wrapped

_DOTS_PER_INCH = 130
_GRID = "#dddddd"
# Distinct in lightness and marker too, for readers who do not see the hues.
COLOURS = {
    "vocals": "#8172b3",
    "drums": "#c44e52",
    "bass": "#4878a8",
    "other": "#55a868",
    "msa": "#c44e52",
    "cola_mws": "#3a7d44",
    "cola_random_mask": "#4878a8",
    "msa_degraded": "#dd8452",
    "clean": "#55a868",
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "//", "..", "xx")


def _to_png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # No date and no version in the file: the same numbers give the same bytes.
    figure.savefig(
        buffer, dpi=_DOTS_PER_INCH, format="png", metadata={"Software": None}
    )
    return buffer.getvalue()


def signed(percent: float, digits: int = 0) -> str:
    """A difference with its sign; no sign where it rounds to zero."""
    text = f"{percent:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _title(figure: Figure, title: str, note: str) -> None:
    """A title, and below it the scale, which never leaves the picture."""
    width = int(figure.get_figwidth() * 13)
    figure.suptitle(wrapped(title, int(width * 0.75)), fontsize=11)
    figure.supxlabel(wrapped(note, width), fontsize=8, color="0.35")


def draw_shares(
    sets: dict[str, dict[str, float]], sources: Sequence[str], note: str
) -> bytes:
    """Figure 2: bars of the share of segments in which a source is active.

    Args:
        sets: By prepared data's title, shares (0 to 1) by source.
        sources: Sources, in order.
        note: The scale of each.
    """
    figure = Figure(figsize=(7.0, 3.9), layout="constrained")
    axes: Axes = figure.add_subplot()
    width = 0.8 / len(sets)
    for number, (title, shares) in enumerate(sets.items()):
        places = np.arange(len(sources)) + (number - (len(sets) - 1) / 2) * width
        values = np.array([100.0 * shares.get(s, np.nan) for s in sources])
        bars = axes.bar(
            places,
            values,
            width * 0.92,
            color=[COLOURS.get(source, "#777777") for source in sources],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
            alpha=1.0 - 0.22 * number,
            label=plain(title, 40),
        )
        labels = ["" if np.isnan(value) else f"{value:.0f}" for value in values]
        axes.bar_label(bars, labels, padding=2, fontsize=9)
    axes.set_xticks(range(len(sources)), [plain(source) for source in sources])
    # Room for one line of the legend for every two sets.
    axes.set_ylim(0, 108 + (8 * ((len(sets) + 1) // 2) if len(sets) > 1 else 0))
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("segments with the source active, %")
    _tidy(axes)
    if len(sets) > 1:
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    _title(figure, "Figure 2: share of segments in which a source is active", note)
    return _to_png(figure)


def draw_steps(curves: Sequence[Curve], note: str) -> bytes:
    """Figure 3: PR-AUC and ROC-AUC against steps of pre-training.

    Args:
        curves: One a strategy.
        note: The scale.
    """
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, score in zip(panels, ("pr_auc", "roc_auc"), strict=True):
        for number, curve in enumerate(curves):
            values, low, high = curve.scores[score]
            colour = COLOURS.get(curve.strategy, "#777777")
            panel.plot(
                curve.steps,
                values,
                marker=_MARKERS[number],
                markersize=5,
                color=colour,
                linestyle="-" if number == 0 else "--",
                label=plain(curve.title, 100),
            )
            # A little apart, so that intervals of one step do not hide each other.
            shift = 0.008 * max(curve.steps) * (number - (len(curves) - 1) / 2)
            places = np.array(curve.steps) + shift
            panel.vlines(places, low, high, color=colour, linewidth=1.2, alpha=0.6)
        panel.set_title(SCORE_TITLES[score], fontsize=10)
        panel.set_xlabel("step of pre-training (0: untrained)")
        panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _tidy(panel)
    # Curves rise, and "best" would not see the intervals.
    panels[0].legend(fontsize=8, loc="lower right")
    _title(figure, "Figure 3: music tagging (MTAT) in the course of pre-training", note)
    return _to_png(figure)


def draw_named_tags(rows: Sequence[TagDifference], note: str) -> bytes:
    """Figure 4: relative PR-AUC difference to COLA, tags that the paper names.

    Args:
        rows: One a tag and source, with intervals.
        note: The scale.
    """
    tags = list(dict.fromkeys(row.tag for row in rows))
    sources = list(dict.fromkeys(row.source for row in rows))
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    axes: Axes = figure.add_subplot()
    width = 0.8 / len(sources)
    for number, source in enumerate(sources):
        mine = {row.tag: row for row in rows if row.source == source}
        places = np.arange(len(tags)) + (number - (len(sources) - 1) / 2) * width
        values = np.array([mine[t].percent if t in mine else np.nan for t in tags])
        low = np.array([mine[t].low if t in mine else np.nan for t in tags])
        high = np.array([mine[t].high if t in mine else np.nan for t in tags])
        axes.bar(
            places,
            values,
            width * 0.92,
            color=COLOURS[source],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
            label=plain(source),
        )
        # The interval need not hold the value: resampling biases average precision.
        axes.vlines(places, low, high, color="0.25", linewidth=1.1)
    counts = {row.tag: row.positives for row in rows}
    axes.set_xticks(
        range(len(tags)), [f"{plain(tag, 24)}\n({counts[tag]})" for tag in tags]
    )
    axes.axhline(0, color="0.25", linewidth=0.9)
    axes.set_ylabel("PR-AUC relative to COLA's, %")
    _tidy(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.12 * (high - low))
    axes.legend(fontsize=9, frameon=False, ncols=len(sources), loc="upper center")
    _title(figure, "Figure 4: models of one source against COLA, by tag", note)
    return _to_png(figure)


def draw_all_tags(rows: Sequence[TagDifference], note: str) -> bytes:
    """Figure 4 for all tags: a map, tags sorted by their mean difference.

    Args:
        rows: One a tag and source.
        note: The scale.
    """
    sources = list(dict.fromkeys(row.source for row in rows))
    positives = {row.tag: row.positives for row in rows}
    table = {(row.tag, row.source): row.percent for row in rows}
    mean = {
        tag: float(np.nanmean([table.get((tag, s), np.nan) for s in sources]))
        for tag in positives
    }
    tags = sorted(mean, key=lambda tag: -mean[tag])
    values = np.array([[table.get((tag, s), np.nan) for s in sources] for tag in tags])
    figure = Figure(
        figsize=(6.4, min(1.8 + 0.235 * len(tags), 100)), layout="constrained"
    )
    axes: Axes = figure.add_subplot()
    # Beyond this range a colour says "at least"; the number stands in the cell.
    bound = max(10.0, float(np.nanpercentile(np.abs(values), 90)))
    image = axes.imshow(values, cmap="PuOr", vmin=-bound, vmax=bound, aspect="auto")
    axes.set_xticks(range(len(sources)), [plain(source) for source in sources])
    axes.xaxis.tick_top()
    axes.set_yticks(
        range(len(tags)),
        [f"{plain(tag)} ({positives[tag]})" for tag in tags],
        fontsize=8,
    )
    axes.tick_params(length=0)
    for row, tag in enumerate(tags):
        for column, source in enumerate(sources):
            value = table.get((tag, source), np.nan)
            if not np.isnan(value):
                axes.text(
                    column,
                    row,
                    signed(value),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if abs(value) > 0.7 * bound else "black",
                )
    figure.colorbar(
        image, ax=axes, shrink=0.4, extend="both", label="PR-AUC relative to COLA's, %"
    )
    _title(figure, "Figure 4, all tags (positive test clips)", note)
    return _to_png(figure)


def draw_stems(bars: Sequence[Bar], note: str) -> bytes:
    """Figure 5: scores by the quality of the stems.

    Args:
        bars: One a kind of stems and score, in order.
        note: The scale.
    """
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, score in zip(panels, ("pr_auc", "roc_auc"), strict=True):
        mine = [bar for bar in bars if bar.score == score]
        places = np.arange(len(mine))
        values = np.array([bar.value for bar in mine])
        drawn = panel.bar(
            places,
            values,
            0.62,
            color=[COLOURS[bar.colour] for bar in mine],
            edgecolor="white",
        )
        for patch, hatch in zip(drawn, _HATCHES, strict=False):
            patch.set_hatch(hatch)
        panel.vlines(
            places,
            [bar.low for bar in mine],
            [bar.high for bar in mine],
            color="0.25",
            linewidth=1.4,
        )
        tops = [max(bar.value, bar.high) for bar in mine]
        for place, top, bar in zip(places, tops, mine, strict=True):
            panel.text(
                place,
                1.01 * top,
                f"{bar.value:.3f}",
                ha="center",
                va="bottom",
                fontsize=9,
            )
        panel.set_xticks(places, [plain(bar.title) for bar in mine])
        panel.set_ylim(0, 1.1 * max(tops))
        panel.set_title(SCORE_TITLES[score], fontsize=10)
        _tidy(panel)
    _title(figure, "Figure 5: music tagging (MTAT) by the quality of the stems", note)
    return _to_png(figure)
