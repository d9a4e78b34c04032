"""File names of any bytes as text, and back."""

import os

import hypothesis
from hypothesis import strategies

from cola_msa.values.names import escape, unescape

PIECES = [
    b"a",
    b"\\",
    b"\xe9",
    b"ud",
    b"udce9",
    b"\\udce9",
    "é".encode(),
    b"\xff\xfe",
    b"/",
]
NAMES = strategies.lists(
    strategies.sampled_from(PIECES) | strategies.binary(max_size=3), max_size=8
).map(lambda pieces: b"".join(pieces).replace(b"\0", b"0"))


@hypothesis.given(NAMES, NAMES)
def test_names_stay_different_and_come_back(first, second):
    texts = [escape(os.fsdecode(name)) for name in (first, second)]
    assert (texts[0] == texts[1]) == (first == second)
    for name, text in zip((first, second), texts, strict=True):
        assert text.encode("utf-8") or not name
        assert os.fsencode(unescape(text)) == name


@hypothesis.given(strategies.text(strategies.characters(exclude_categories=["Cs"])))
def test_ordinary_names_are_their_own_text(name):
    if "\\ud" not in name:
        assert escape(name) == name == unescape(name)
