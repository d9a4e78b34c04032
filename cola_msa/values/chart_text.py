r"""Anybody's names as text in matplotlib's charts, drawn as they are.

matplotlib takes `$...$` for a formula, leaves labels that begin with `_` out of
legends, and gives a label of 5,000 letters all of the picture. Names of classes, clips
and files come from users, and pass through here on their way into a chart.
"""

import functools
import textwrap
import unicodedata
from typing import Any

LABEL = 48  # letters of a label at the most
_LINES = 12


def plain(text: str, most: int = LABEL) -> str:
    r"""A name as one line for matplotlib.

    Letters that cannot be drawn, controls and line breaks are written as in Python,
    `\n` or `\u65e5`; marks of writing direction fall out.

    Args:
        text: Any text, even with surrogates.
        most: Letters at the most; what is longer loses its middle.

    Returns:
        What draws the name, escaped: it passes through here once.
    """
    from matplotlib import font_manager  # takes a second

    # Both ends suffice for what is shown.
    ends = text if len(text) <= 2 * most else text[:most] + text[-most:]
    families = tuple(font_manager.FontProperties().get_family())
    pieces = [_piece(letter, families) for letter in ends]
    if len(text) > 2 * most or sum(map(len, pieces)) > most:
        head = _fitting(pieces, most // 2)
        tail = _fitting(pieces[::-1], most - most // 2 - 1)
        pieces = [*head, "…", *tail[::-1]]
    line = "".join(pieces)
    # A legend leaves out what is empty or begins with an underscore.
    return f" {line}" if not line or line.startswith("_") else line


def wrapped(text: str, width: int, most_lines: int = _LINES) -> str:
    """A title or a note as lines for matplotlib.

    Args:
        text: Any text; its line breaks stay.
        width: Letters of a line at the most.
        most_lines: Further lines become an ellipsis.

    Returns:
        As `plain`, but of several lines.
    """
    lines = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, break_on_hyphens=False)
    ]
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], "…"]
    return "\n".join(plain(line, 4 * width) for line in lines)


def _fitting(pieces: list[str], most: int) -> list[str]:
    """The first pieces that have up to `most` letters together."""
    total = 0
    for number, piece in enumerate(pieces):
        total += len(piece)
        if total > most:
            return pieces[:number]
    return pieces


@functools.lru_cache(maxsize=1 << 14)
def _piece(letter: str, families: tuple[str, ...]) -> str:
    if letter == "$":
        return r"\$"
    if unicodedata.category(letter) == "Cf":  # invisible, and may turn what follows
        return ""
    if unicodedata.category(letter) == "Zs":
        return " "
    is_drawn = letter.isprintable() and any(
        font.get_char_index(ord(letter)) for font in _fonts(families)
    )
    return letter if is_drawn else letter.encode("unicode_escape").decode()


@functools.lru_cache(maxsize=8)
def _fonts(families: tuple[str, ...]) -> list[Any]:
    """The fonts that matplotlib draws with, one after another."""
    from matplotlib import font_manager

    paths = []
    for family in families:
        wanted = font_manager.FontProperties(family=[family])
        try:
            paths.append(font_manager.findfont(wanted, fallback_to_default=False))
        except ValueError:  # it is not installed
            continue
    default = font_manager.findfont(font_manager.FontProperties())
    return [font_manager.get_font(path) for path in paths or [default]]
