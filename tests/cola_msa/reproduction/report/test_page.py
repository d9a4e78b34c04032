"""The page and the Markdown that a report is written as."""

import html.parser
import re

import pytest

from cola_msa.reproduction.report import page as page_lib
from cola_msa.reproduction.report.page import Cell, Code, Heading, Table


class _Page(html.parser.HTMLParser):
    """Collects what a page asks for, links to and holds."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), tuple(self.open)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, name):
        return [(found, above) for tag, found, above in self.tags if tag == name]


@pytest.fixture(scope="module")
def page(report_blocks):
    parser = _Page()
    parser.feed(page_lib.render_html("A title", report_blocks))
    assert parser.open == []
    return parser


def test_the_page_asks_for_nothing(page, report_blocks):
    text = page_lib.render_html("A title", report_blocks)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert "@import" not in text and "url(" not in text
    for _, attributes, _ in page.tags:
        for name in ("src", "srcset", "poster", "data", "action"):
            value = attributes.get(name, "")
            assert not value or value.startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")


def test_the_page_works_on_phones_in_the_dark_and_by_keyboard(page, report_blocks):
    text = page_lib.render_html("A title", report_blocks)
    assert page.all("html")[0][0]["lang"] == "en"
    viewports = [a for a, _ in page.all("meta") if a.get("name") == "viewport"]
    assert viewports[0]["content"].startswith("width=device-width")
    assert "prefers-color-scheme: dark" in text
    regions = [a for a, _ in page.all("div") if a.get("class") == "scroll"]
    assert len(regions) == len(page.all("table"))
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)
    assert all(attributes.get("alt") for attributes, _ in page.all("img"))
    assert all("scope" in attributes for attributes, _ in page.all("th"))


def test_links_within_the_page_lead_somewhere(page):
    ids = [a["id"] for _, a, _ in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a, _ in page.all("a")}
    assert targets <= set(ids)
    assert len(targets) == 1 + len(page.all("h2"))


def test_text_is_escaped():
    table = Table("<b>", ("a&b",), ((Cell("<i>|", "x|y"),),))
    page = page_lib.render_html("<t>", [Heading("<h>"), table, Code("<c>", "a<b")])
    for bad in ("<b>", "<i>", "<t>", "<c>", "a<b"):
        assert bad not in page
    assert "\\|" in page_lib.render_markdown("t", [table])


def test_markdown_stands_beside_its_figures(report_blocks, tmp_path):
    page, markdown = page_lib.write_report(tmp_path / "out", "A title", report_blocks)
    text = markdown.read_text()
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 5
    assert all((tmp_path / "out" / name).stat().st_size > 5000 for name in pictures)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert page.stat().st_size > 100_000
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["report.html", "report.md", *pictures]
    )
