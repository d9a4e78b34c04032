r"""File names as text: names may have any bytes, files of text may not.

A byte that is not UTF-8 becomes `\udcXX`, and backslashes before what looks like that
are doubled. So two names never become one, and each comes back from its text. All
other names are their own text.
"""

import os
import re

_ESCAPED = re.compile(r"(\\+)(?=ud[89a-f][0-9a-f]{2})")
_GIVEN = re.compile(r"(\\*)([\ud800-\udfff])|(\\+)(?=ud[89a-f][0-9a-f]{2})")


def escape(name: str | os.PathLike) -> str:
    """The text of a path; it can be written as UTF-8."""

    def one(found: re.Match) -> str:
        if found[2] is not None:
            return 2 * found[1] + f"\\u{ord(found[2]):04x}"
        return 2 * found[3]

    return _GIVEN.sub(one, os.fspath(name))


def unescape(text: str) -> str:
    """The path whose `escape` is this text."""
    parts, position = [], 0
    for found in _ESCAPED.finditer(text):
        if found.start() < position:
            continue
        parts.append(text[position : found.start()])
        count = len(found[1])
        parts.append("\\" * (count // 2))
        position = found.end()
        if count % 2:
            parts.append(chr(int(text[position + 1 : position + 5], 16)))
            position += 5
    return "".join([*parts, text[position:]])
