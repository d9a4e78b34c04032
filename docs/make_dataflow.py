"""Draws docs/dataflow.png: python docs/make_dataflow.py."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (after the choice of the backend)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

PATH = pathlib.Path(__file__).with_name("dataflow.png")
DATA, WORK, JUDGE = "#e8eef7", "#fdf1dc", "#e4f3e6"

# name: (centre x, centre y, width, height, colour, title, lines below it)
BOXES = {
    "audio": (1.3, 5.0, 2.2, 1.3, DATA, "audio", "any rate and format"),
    "stems": (
        4.2,
        5.0,
        2.4,
        1.3,
        WORK,
        "stems",
        "from disk or Open-Unmix:\nvocals, drums, bass, other",
    ),
    "mels": (
        7.3,
        5.0,
        2.6,
        1.3,
        WORK,
        "log-mel segments",
        "392 frames of 64 mels;\nsilence gate a source",
    ),
    "records": (
        10.5,
        5.0,
        2.6,
        1.3,
        DATA,
        "records",
        "TFRecord shards, index,\nmanifest.json",
    ),
    "pairs": (
        10.5,
        2.9,
        2.6,
        1.3,
        WORK,
        "pairs",
        "98 frames of the mixture\nand 98 of one source",
    ),
    "network": (
        7.3,
        2.9,
        2.6,
        1.3,
        WORK,
        "EfficientNetB0",
        "embedding 1280,\nprojection 512",
    ),
    "loss": (
        4.2,
        2.9,
        2.4,
        1.3,
        WORK,
        "similarity, loss",
        "bilinear; softmax with a\ncentroid of the silent",
    ),
    "encoder": (7.3, 0.8, 2.6, 1.1, DATA, "frozen encoder", "runs/<run>/kept"),
    "probes": (
        10.5,
        0.8,
        2.6,
        1.1,
        JUDGE,
        "probes",
        "mtat, nsynth, fma:\nshallow classifiers",
    ),
    "export": (
        4.2,
        0.8,
        2.4,
        1.1,
        JUDGE,
        "SavedModel",
        "audio to embeddings,\nwithout cola_msa",
    ),
}
# from, side, to, side, text
ARROWS = (
    ("audio", "right", "stems", "left", ""),
    ("stems", "right", "mels", "left", ""),
    ("mels", "right", "records", "left", ""),
    ("records", "bottom", "pairs", "top", "filtered\ntraining split"),
    ("pairs", "left", "network", "right", ""),
    ("network", "left", "loss", "right", ""),
    ("network", "bottom", "encoder", "top", "training ends"),
    ("encoder", "right", "probes", "left", ""),
    ("encoder", "left", "export", "right", ""),
)
COMMANDS = (
    (5.9, 6.6, "python -m data_prep.mtat | nsynth | fma | multitrack | folder"),
    (7.3, 3.78, "python -m cola_msa.train"),
    (10.5, 0.02, "python -m cola_msa.eval"),
    (4.2, 0.02, "python -m cola_msa.export"),
)


def _edge(name: str, side: str) -> tuple[float, float]:
    middle, level, width, height, *_ = BOXES[name]
    return {
        "left": (middle - width / 2, level),
        "right": (middle + width / 2, level),
        "top": (middle, level + height / 2),
        "bottom": (middle, level - height / 2),
    }[side]


def _arrow(panel: Axes, start: tuple, end: tuple) -> None:
    panel.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": "#444444",
            "linewidth": 1.6,
            "mutation_scale": 16,
            "shrinkA": 1,
            "shrinkB": 1,
        },
    )


def main() -> None:
    """Writes the figure."""
    figure, panel = plt.subplots(figsize=(12.4, 6.9))
    for middle, level, width, height, colour, title, lines in BOXES.values():
        panel.add_patch(
            FancyBboxPatch(
                (middle - width / 2, level - height / 2),
                width,
                height,
                boxstyle="round,pad=0,rounding_size=0.1",
                facecolor=colour,
                edgecolor="#555555",
            )
        )
        panel.text(
            middle,
            level + height * 0.27,
            title,
            ha="center",
            va="center",
            weight="bold",
        )
        panel.text(
            middle, level - height * 0.16, lines, ha="center", va="center", fontsize=9
        )
    for first, side, second, other_side, label in ARROWS:
        start, end = _edge(first, side), _edge(second, other_side)
        _arrow(panel, start, end)
        if label:
            panel.text(
                start[0] + 0.12, (start[1] + end[1]) / 2, label, fontsize=9, va="center"
            )
    # The mixture needs no stems, and neither do the probes' clips.
    right = _edge("records", "right")
    low = _edge("probes", "right")
    panel.plot(
        [right[0], right[0] + 0.5, right[0] + 0.5],
        [right[1], right[1], low[1]],
        color="#444444",
        linewidth=1.6,
    )
    _arrow(panel, (right[0] + 0.5, low[1]), low)
    panel.text(
        right[0] + 0.58, 2.9, "labelled clips", fontsize=9, rotation=90, va="center"
    )
    top = BOXES["audio"][1] + BOXES["audio"][3] / 2
    above = top + 0.28
    panel.plot(
        [BOXES["audio"][0], BOXES["audio"][0], BOXES["mels"][0]],
        [top, above, above],
        color="#444444",
        linewidth=1.6,
    )
    _arrow(panel, (BOXES["mels"][0], above), _edge("mels", "top"))
    panel.text(2.75, above + 0.13, "mixture", fontsize=9, ha="center", va="center")
    for middle, level, text in COMMANDS:
        panel.text(
            middle,
            level,
            text,
            family="monospace",
            fontsize=9.5,
            color="#1f4e8c",
            ha="center",
            va="center",
        )
    panel.set(xlim=(0, 12.9), ylim=(-0.25, 6.8), aspect="equal")
    panel.axis("off")
    figure.savefig(PATH, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
