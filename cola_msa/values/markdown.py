"""Anybody's text within Markdown that the project writes, and rows as text."""

import html
import re
from collections.abc import Sequence
from typing import Any

_MARKS = re.compile(r"([\\`*_\[\]|~])")
_LEADING = re.compile(r"^(?:([#+=:-])|(\d+)([.)]))")


def plain(text: Any, starts_line: bool = False) -> str:
    """Text as one line of Markdown that is shown as it is.

    Whoever chose it, it makes no HTML, no link, no picture, no cell, no heading and no
    other line; what cannot be printed becomes a space.

    Args:
        text: Any text, or what has one.
        starts_line: Whether nothing stands before it, so that a dash would make a list.
    """
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = html.escape(" ".join(line.split()), quote=False)
    line = _MARKS.sub(r"\\\1", line)
    return _LEADING.sub(r"\2\\\1\3", line) if starts_line else line


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of aligned columns, the first with dashes below, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in ruled]
