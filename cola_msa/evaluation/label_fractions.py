"""Heads on a part of the labels: which training clips are kept, and the curve."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.evaluation import charts
from cola_msa.evaluation.tasks import SCORE_TITLES
from cola_msa.system import folders
from cola_msa.system.errors import FileError, UsageError
from cola_msa.values import markdown
from cola_msa.values.arrays import write_bytes, write_json
from cola_msa.values.reading import read_json

_NAMES = ("label_curve.json", "label_curve.md", "label_curve.png")
_CLIP_STREAM = 2  # keeps these draws apart from others of the same seed


def parse_fractions(values: Sequence[str]) -> tuple[float, ...]:
    """Turns `--label_fraction` into rising shares.

    Raises:
        UsageError: If one is not a number above 0 and up to 1.
    """
    fractions = set()
    for value in values:
        try:
            fraction = float(value)
        except ValueError:
            fraction = float("nan")
        if not 0.0 < fraction <= 1.0:
            raise UsageError(
                "--label_fraction must be shares above 0 and up to 1, with commas "
                f"between them (1 % is 0.01), not {value!r}"
            )
        fractions.add(fraction)
    if not fractions:
        raise UsageError("--label_fraction names no share")
    return tuple(sorted(fractions))


def choose_clips(
    labels: np.ndarray, is_tags: bool, fraction: float, seed: int
) -> np.ndarray:
    """Draws the training clips whose labels are used; equal arguments, equal draw.

    Classes: of every class the same share, rounded, but at least one clip. Tags: clips
    at random; then, tag by tag from the rarest, clips whose tags others have too give
    way to clips of tags that no clip has, as long as there are such clips.

    Args:
        labels: [C, K] of 0 and 1.
        is_tags: Whether a clip may have several, or no, labels.
        fraction: Share of the clips, above 0 and up to 1.
        seed: Of the draw; a larger share of the same seed holds, of classes, the
            smaller one's clips.

    Returns:
        int64, numbers of clips, rising.
    """
    num_clips, num_classes = labels.shape
    if fraction >= 1.0:
        return np.arange(num_clips)
    order = np.random.default_rng([seed, 0, _CLIP_STREAM]).permutation(num_clips)
    if not is_tags:
        kept: list[int] = []
        for number in range(num_classes):
            clips = order[labels[order, number] > 0]
            count = max(1, round(fraction * len(clips)))
            kept.extend(clips[:count].tolist())
        return np.sort(np.array(kept, np.int64))
    budget = max(1, round(fraction * num_clips))
    return np.sort(_cover_tags(labels > 0, order, budget))


def _cover_tags(has_tag: np.ndarray, order: np.ndarray, budget: int) -> np.ndarray:
    """The first clips of an order, changed so that they lack as few tags as can be."""
    kept = order[:budget].tolist()
    counts = has_tag[kept].sum(axis=0)
    totals = has_tag.sum(axis=0)
    for tag in np.argsort(totals, kind="stable"):
        if counts[tag] or not totals[tag]:
            continue
        # The latest clip that is the only one of no tag gives way.
        leaving = next(
            (clip for clip in kept[::-1] if (counts[has_tag[clip]] > 1).all()), None
        )
        if leaving is None:
            break
        coming = int(order[has_tag[order, tag]][0])
        kept.remove(leaving)
        kept.insert(0, coming)
        counts += has_tag[coming].astype(counts.dtype) - has_tag[leaving]
    return np.array(kept, np.int64)


def curve_rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a fraction: share, training clips, and the scores with intervals."""
    return [
        {
            "label_fraction": result["label_fraction"],
            "train_clips": result["splits"]["train"]["clips"],
            "test_clips": result["splits"]["test"]["clips"],
            "seeds": len(result["seeds"]),
            "scores": {
                name: {
                    key: row[key]
                    for key in ("value", "low", "high", "deviation", "chance")
                }
                for name, row in result["scores"].items()
            },
        }
        for result in results
    ]


def render_curve(rows: Sequence[dict[str, Any]]) -> str:
    """The curve as a Markdown table."""
    names = list(rows[0]["scores"])
    header = ["labels", "training clips"]
    for name in names:
        header += [SCORE_TITLES[name], "95 % interval", "sd over seeds"]
    lines = [markdown.table_row(header), "|---" * len(header) + "|"]
    for row in rows:
        cells = [f"{100 * row['label_fraction']:g} %", f"{row['train_clips']:,}"]
        for name in names:
            score = row["scores"][name]
            sd = "-" if score["deviation"] is None else f"{score['deviation']:.3f}"
            interval = f"{score['low']:.3f} to {score['high']:.3f}"
            cells += [f"{score['value']:.3f}", interval, sd]
        lines.append(markdown.table_row(cells))
    return "\n".join(lines)


def check_curve(output_dir: str | os.PathLike) -> None:
    """Refuses a folder in which the names of a curve are somebody else's files.

    Raises:
        FileError: If it is a file, or such a name is taken and label_curve.json is no
            earlier curve.
    """
    folders.check_names(output_dir, _NAMES, _holds_curve, "a label curve's folder")


def _holds_curve(folder: pathlib.Path) -> bool:
    try:
        return isinstance(read_json(folder / _NAMES[0])["rows"], list)
    except (FileError, KeyError):
        return False


def write_curve(
    output_dir: pathlib.Path, results: Sequence[dict[str, Any]], note: str
) -> str:
    """Writes label_curve.json, .md and .png.

    Args:
        output_dir: Where to.
        results: What `judge.evaluate` returned, a fraction.
        note: Of the scale, below the chart's title.

    Returns:
        The Markdown table.

    Raises:
        FileError: As `check_curve`.
    """
    check_curve(output_dir)
    rows = curve_rows(results)
    table = render_curve(rows)
    text = f"{table}\n\n{markdown.plain(note, starts_line=True)}\n"
    title = f"{results[0]['title']}\nscores against the share of labelled clips"
    data, page, chart = (output_dir / name for name in _NAMES)
    write_json(data, {"rows": rows, "note": note})  # first: it proves the others ours
    write_bytes(page, text.encode())
    charts.try_to_draw(chart, lambda: charts.draw_label_curve(chart, rows, title, note))
    return table
