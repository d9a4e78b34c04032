"""Anybody's names in charts: what is drawn, and that nothing ends a chart."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cola_msa.values.chart_text import LABEL, plain, wrapped

ODD_NAMES = [
    "$_$",
    r"$\frac$",
    r"\$\frac{1}$",
    "$",
    "",
    " ",
    "_hidden",
    "two\nlines\tand\rmore",
    "zero\x00byte\x1b[31m",
    "x" * 5000,
    "$" * 500,
    "שלום עולם",
    "مرحبا",
    "\u202eabc",
    "日本語",
    "🎸👩\u200d🎤",
    "e" + "\u0301" * 300,
    "\ud800",
    "\U0010ffff",
    "^{_}\\",
    "%s {} {0}",
]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("Hip-Hop & R'n'B", "Hip-Hop & R'n'B"),
        ("$_$", r"\$_\$"),
        ("_hidden", " _hidden"),
        ("", " "),
        ("a\nb", r"a\nb"),
        ("a\x00b", r"a\x00b"),
        ("a\u202eb\u200bc\u00a0d", "abc d"),
        ("\ud800", r"\ud800"),
        ("日", r"\u65e5"),
        ("Café Ωμέγα", "Café Ωμέγα"),
    ],
)
def test_what_a_name_becomes(name, drawn):
    assert plain(name) == drawn


def test_long_names_lose_their_middle():
    assert plain("a" * 48) == "a" * 48
    found = plain("folder/" + "x" * 5000 + "/vocals")
    assert found.startswith("folder/xx") and found.endswith("xx/vocals")
    assert len(found) == LABEL and "…" in found
    # Between letters that are drawn alone: an escaped sign is never cut in two.
    assert plain("$" * 500, 11) == r"\$\$…\$\$"


def test_titles_keep_their_lines():
    assert wrapped("one two three\nfour $x$", 8) == "one two\nthree\n" + r"four \$x\$"
    assert wrapped("a " * 1000, 10, 3).splitlines() == ["a a a a a"] * 2 + ["…"]


def drawn_texts(names) -> Figure:
    """A chart with the names wherever a chart has text."""
    figure = Figure((8, 6), layout="constrained")
    axes = figure.add_subplot()
    labels = [plain(name) for name in names]
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_title(wrapped("\n".join(names[:3]), 40))
    for label in labels:
        axes.plot([0], [0], label=label)
    axes.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    return figure


def test_odd_names_are_drawn_and_none_falls_out():
    figure = drawn_texts(ODD_NAMES)
    legend = figure.axes[0].get_legend()
    assert len(legend.get_texts()) == len(ODD_NAMES)
    # The axes keep most of the picture.
    box = figure.axes[0].get_position()
    assert box.width > 0.5 and box.height > 0.3


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=()), max_size=80))
def test_any_text_can_be_drawn(name):
    line = plain(name)
    assert 1 <= len(line) <= LABEL + 1 and line.isprintable()
    assert line.count("$") == line.count(r"\$")
    figure = Figure((4, 1))
    figure.text(0, 0, line)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
