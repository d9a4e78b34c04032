"""Charts of `match`, as PNG, drawn without a display."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cola_msa.evaluation.charts import save_figure
from cola_msa.values.chart_text import plain, wrapped

_COLOURS = ("#0067a5", "#d45500", "#00845a", "#b5438b", "#8f6b00")
_REST = "#9aa0a8"
_MOST_BARS = 30


def draw_ranking(
    path: str | os.PathLike,
    names: Sequence[str],
    clip_scores: np.ndarray,
    window_scores: np.ndarray,
    window_seconds: float,
    title: str,
) -> None:
    """Draws the ranked stems of one mixture, and the best ones over time.

    Args:
        path: The PNG file.
        names: Of n stems, the best first.
        clip_scores: float [n].
        window_scores: float [n, W]; gaps where a stem is silent.
        window_seconds: From one window to the next.
        title: The mixture.
    """
    shown = min(len(names), _MOST_BARS)
    labels = [plain(name) for name in names[:shown]]
    height = 1.6 + 0.26 * shown
    figure = Figure((9, height + 3.2), layout="constrained")
    bars, lines = figure.subplots(2, 1, height_ratios=[height, 3])
    colours = [_COLOURS[k] if k < len(_COLOURS) else _REST for k in range(shown)]
    place = np.arange(shown)
    bars.barh(place, clip_scores[:shown], color=colours, height=0.7)
    bars.set_yticks(place, labels)
    bars.invert_yaxis()
    bars.set_xlabel("score over the clip (higher: belongs together)")
    more = f", the first {shown} of {len(names)} stems" if shown < len(names) else ""
    bars.set_title(wrapped(f"{title}{more}", 80))
    seconds = np.arange(window_scores.shape[1]) * window_seconds
    for k in range(min(shown, len(_COLOURS))):
        lines.plot(seconds, window_scores[k], ".-", color=colours[k], label=labels[k])
    lines.set_xlabel("time (s)")
    lines.set_ylabel("score per window")
    lines.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_matrix(
    path: str | os.PathLike,
    mixtures: Sequence[str],
    stems: Sequence[str],
    scores: np.ndarray,
    is_own: np.ndarray,
    title: str,
) -> None:
    """Draws scores of stems (columns) against mixtures (rows); own stems are ringed.

    Args:
        path: The PNG file.
        mixtures: Names of the rows.
        stems: Names of the columns.
        scores: float [mixtures, stems].
        is_own: bool [mixtures, stems].
        title: Above the matrix.
    """
    size = (3.6 + 0.28 * len(stems), 3.0 + 0.28 * len(mixtures))
    figure = Figure((min(size[0], 40), min(size[1], 40)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(scores, cmap="cividis", aspect="auto")
    own_rows, own_columns = np.nonzero(is_own)
    axes.scatter(
        own_columns, own_rows, s=60, facecolors="none", edgecolors="#ff5a36", lw=1.6
    )
    columns = [plain(name) for name in stems]
    axes.set_xticks(np.arange(len(stems)), columns, rotation=90, fontsize=7)
    rows = [plain(name) for name in mixtures]
    axes.set_yticks(np.arange(len(mixtures)), rows, fontsize=7)
    axes.set_xlabel("stem (ring: the mixture's own)")
    axes.set_ylabel("mixture")
    axes.set_title(wrapped(title, 60), fontsize=10)
    figure.colorbar(image, ax=axes, label="score", shrink=0.8)
    save_figure(figure, path, 110)
