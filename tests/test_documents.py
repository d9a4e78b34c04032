"""README, BUILD, CONTRIBUTING and the pages of docs/: links, sizes, snippets, names."""

import ast
import functools
import importlib
import pathlib
import re

import pytest

import cola_msa

ROOT = pathlib.Path(__file__).parents[1]
# In the order in which one reads them: their commands build on one another.
FIRST = ("README.md", "docs/embedding.md", "docs/preparing.md", "docs/training.md")
FIRST += ("docs/evaluation.md", "docs/paper.md", "docs/export.md", "docs/collection.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
DOCUMENTS = tuple(dict.fromkeys((*FIRST, *PAGES, "BUILD.md", "CONTRIBUTING.md")))
MOST_LINES = {"README.md": 200, "BUILD.md": 150}


@functools.cache
def prose(document: str) -> str:
    """A page without its blocks of code."""
    text = (ROOT / document).read_text()
    return re.sub(r"^```(?:.*\n)+?```$|^    .*$", "", text, flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """What GitHub calls a heading in links."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@functools.cache
def anchors(document: str) -> list[str]:
    """The anchors of a page's headings, in their order."""
    found = re.findall(r"^#+ +(.+)$", prose(document), re.MULTILINE)
    return [anchor(heading) for heading in found]


def links(document: str) -> list[tuple[str, str]]:
    """File, relative to the checkout, and anchor of each link within the project."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" not in target:
            path, _, heading = target.partition("#")
            folder = (ROOT / document).parent
            file = (folder / path).resolve() if path else ROOT / document
            assert file.is_relative_to(ROOT), target
            found.append((file.relative_to(ROOT).as_posix(), heading))
    return found


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Why don't I get the paper's number?", "why-dont-i-get-the-papers-number"),
        ("Match: which stem, `x_y`", "match-which-stem-x_y"),
        ("The [paper](https://a.b/c)", "the-paper"),
    ],
)
def test_anchors_are_githubs(heading, expected):
    assert anchor(heading) == expected


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_exist(document):
    missing = [file for file, _ in links(document) if not (ROOT / file).exists()]
    assert missing == []
    lost = [
        f"{file}#{heading}"
        for file, heading in links(document)
        if heading and heading not in anchors(file)
    ]
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_headings_of_a_page_differ(document):
    assert len(set(anchors(document))) == len(anchors(document))


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        found = {file for file, _ in links(page) if file in DOCUMENTS}
        waiting += found - reached
    assert reached == set(DOCUMENTS)


@pytest.mark.parametrize("document", MOST_LINES)
def test_doors_stay_short(document):
    text = (ROOT / document).read_text()
    assert text.count("\n") <= MOST_LINES[document]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_snippets_import_what_exists(document):
    text = (ROOT / document).read_text()
    for snippet in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and "cola_msa" in (node.module or ""):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_the_api_page_lists_the_public_names():
    rows = re.findall(r"^\| `(\w+)` \|", prose("docs/api.md"), re.MULTILINE)
    assert sorted(rows) == sorted(cola_msa.__all__)


def test_pre_commit_has_the_linters_of_make_lint():
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    wanted = [
        line.strip().removeprefix("$(BIN)/").removesuffix(" .")
        for line in recipe[1].splitlines()
    ]
    config = (ROOT / ".pre-commit-config.yaml").read_text()
    found = re.findall(r"entry: \.venv/bin/(.+)$", config, re.MULTILINE)
    assert [entry.removesuffix(" --force-exclude") for entry in found] == wanted
