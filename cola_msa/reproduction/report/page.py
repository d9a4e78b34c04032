"""A report as one list of blocks, written as a self-contained page and as Markdown."""

import base64
import dataclasses
import html
import os
import pathlib
import re
from collections.abc import Sequence

from cola_msa.system import folders
from cola_msa.values.arrays import write_bytes
from cola_msa.values.markdown import aligned, plain, table_row

PAGE_NAME, TEXT_NAME = "report.html", "report.md"
_MARK = '<meta name="generator" content="cola_msa report">'
_EARLIER_MARK = b"<title>Musical source association: "  # before there was a mark
_HEAD_BYTES = 4096
PUBLISHED, MEASURED, MISSING, PLAIN = "published", "measured", "missing", ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What stands in it.
        note: Smaller, below it; line breaks become semicolons outside of the page.
        kind: `published`, `measured`, `missing` or plain.
    """

    text: str
    note: str = ""
    kind: str = PLAIN


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading; level 2 is a section of the page, with a link at its top."""

    text: str
    level: int = 2

    @property
    def anchor(self) -> str:
        """Its address within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first column names the rows."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: File name, without suffix.
        png: The picture.
        alt: What it shows, in words, for those who cannot see it.
        caption: Below it.
        data: The numbers drawn; folded away in the page.
    """

    name: str
    png: bytes
    alt: str
    caption: str
    data: Table | None = None


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines to paste into a shell."""

    title: str
    text: str


Block = Heading | Text | Bullets | Table | Figure | Code

_ROUND = str.maketrans("[]", "()")  # brackets end a picture's description
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --ground: #ffffff; --panel: #f6f8fa; --published: #eef3fb; --missing: #9a3412;
  --link: #0b57b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #a3adb8;
  --line: #3b434d; --ground: #11151a; --panel: #1a2027; --published: #1b2536;
  --missing: #ffb077; --link: #7ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 86rem; padding: 1rem 1rem 4rem; color: var(--ink);
  background: var(--ground); font: 16px/1.5 system-ui, sans-serif; }
a { color: var(--link); }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
p, li { max-width: 46rem; }
.skip { position: absolute; left: -100vw; }
.skip:focus { position: static; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0;
  list-style: none; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px;
  margin: 1rem 0; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { caption-side: top; text-align: left; padding: .6rem .7rem;
  color: var(--soft); }
th, td { padding: .4rem .7rem; text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
thead th { background: var(--panel); white-space: nowrap; }
tbody th { position: sticky; left: 0; background: var(--ground); font-weight: 600;
  min-width: 7rem; max-width: 14rem; }
tr.published td, tr.published th { background: var(--published); }
small { display: block; color: var(--soft); font-size: .8rem; min-width: 7.6rem; }
td:nth-child(2) small { min-width: 10.5rem; }
.missing { color: var(--missing); font-style: italic; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; padding: .4rem; }
figcaption { color: var(--soft); max-width: 46rem; margin-top: .5rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--link); }
pre { overflow-x: auto; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: .8rem; font-size: .85rem; }
@media print { details > * { display: block; } .skip, nav { display: none; } }
""".strip()


def write_report(
    output_dir: str | os.PathLike, title: str, blocks: Sequence[Block]
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `report.html`, and `report.md` with its figures as PNG files.

    Args:
        output_dir: The folder.
        title: The report's.
        blocks: Its content.

    Returns:
        The two files.

    Raises:
        FileError: As `check_output`.
        RunError: If they cannot be written.
    """
    folder = pathlib.Path(output_dir)
    figures = [block for block in blocks if isinstance(block, Figure)]
    names = [f"{figure.name}.png" for figure in figures]
    check_output(folder, names)
    page, text = folder / PAGE_NAME, folder / TEXT_NAME
    # The page first: it holds all, and says whose the other files are.
    write_bytes(page, render_html(title, blocks).encode())
    for figure, name in zip(figures, names, strict=True):
        write_bytes(folder / name, figure.png)
    write_bytes(text, render_markdown(title, blocks).encode())
    return page, text


def check_output(folder: str | os.PathLike, figures: Sequence[str] = ()) -> None:
    """Refuses a folder in which a report's names are somebody else's files.

    Args:
        folder: Where the report goes.
        figures: Names of its figures' files, once they are known.

    Raises:
        FileError: If it is a file, or such a name is taken and its page is no report.
    """
    folders.check_names(
        folder, (PAGE_NAME, TEXT_NAME, *figures), _holds_report, "a report's folder"
    )


def _holds_report(folder: pathlib.Path) -> bool:
    page = folder / PAGE_NAME
    if not page.is_file():
        return False
    with open(page, "rb") as file:
        head = file.read(_HEAD_BYTES)
    return _MARK.encode() in head or _EARLIER_MARK in head


def render_html(title: str, blocks: Sequence[Block]) -> str:
    """One page without any request: style and figures are in it."""
    sections = [b for b in blocks if isinstance(b, Heading) and b.level == 2]
    links = "".join(
        f'<li><a href="#{section.anchor}">{_escape(section.text)}</a></li>'
        for section in sections
    )
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{_MARK}\n"
        f"<title>{_escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f'<body>\n<a class="skip" href="#content">Skip to the content</a>\n'
        f"<header><h1>{_escape(title)}</h1>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f'<main id="content">\n{body}\n</main>\n</body>\n</html>\n'
    )


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        text = _escape(block.text)
        return f'<h{block.level} id="{block.anchor}">{text}</h{block.level}>'
    if isinstance(block, Text):
        return f"<p>{_escape(block.text)}</p>"
    if isinstance(block, Bullets):
        items = "".join(f"<li>{_escape(item)}</li>" for item in block.items)
        return f"<ul>{items}</ul>"
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Figure):
        return _html_figure(block)
    return (
        f"<details><summary>{_escape(block.title)}</summary>"
        f'<pre tabindex="0"><code>{_escape(block.text)}</code></pre></details>'
    )


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in table.header)
    rows = []
    for row in table.rows:
        # A row is coloured as a whole where no cell of it was measured here.
        is_published = any(cell.kind == PUBLISHED for cell in row)
        first, *rest = (_html_cell(cell) for cell in row)
        cells = f'<th scope="row">{first}</th>' + "".join(
            f"<td>{cell}</td>" for cell in rest
        )
        rows.append(f"<tr{' class=published' if is_published else ''}>{cells}</tr>")
    label = _escape(table.caption)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f"<table><caption>{label}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _html_cell(cell: Cell) -> str:
    text = _escape(cell.text)
    if cell.kind == MISSING:
        text = f'<span class="missing">{text}</span>'
    note = "<br>".join(_escape(line) for line in cell.note.splitlines())
    return text + (f"<small>{note}</small>" if note else "")


def _one_line(note: str) -> str:
    return "; ".join(note.splitlines())


def _html_figure(figure: Figure) -> str:
    picture = base64.b64encode(figure.png).decode()
    data = ""
    if figure.data is not None:
        data = (
            "<details><summary>The numbers drawn</summary>"
            f"{_html_table(figure.data)}</details>"
        )
    return (
        f'<figure><img alt="{_escape(figure.alt)}" '
        f'src="data:image/png;base64,{picture}">'
        f"<figcaption>{_escape(figure.caption)}</figcaption>{data}</figure>"
    )


def render_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The same as Markdown; figures are files beside it."""
    parts = [f"# {plain(title)}", *(_markdown(block) for block in blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {plain(block.text, starts_line=True)}"
    if isinstance(block, Text):
        return plain(block.text, starts_line=True)
    if isinstance(block, Bullets):
        return "\n".join(f"- {plain(item, starts_line=True)}" for item in block.items)
    if isinstance(block, Table):
        return _markdown_table(block)
    if isinstance(block, Figure):
        alt = plain(block.alt.translate(_ROUND))
        caption = plain(block.caption, starts_line=True)
        return f"![{alt}]({block.name}.png)\n\n{caption}"
    code = "\n".join(f"    {line}" for line in block.text.splitlines())
    return f"{plain(block.title, starts_line=True)}:\n\n{code}"


def _markdown_table(table: Table) -> str:
    lines = [
        plain(table.caption, starts_line=True),
        "",
        table_row([plain(name) for name in table.header]),
        "|" + "---|" * len(table.header),
    ]
    for row in table.rows:
        cells = []
        for cell in row:
            text = plain(cell.text)
            if cell.kind == MISSING:
                text = f"*{text}*"
            cells.append(text + (f"<br>{plain(cell.note)}" if cell.note else ""))
        lines.append(table_row(cells))
    return "\n".join(lines)


def render_text(table: Table) -> str:
    """A table for a terminal."""
    rows: list[Sequence[str]] = [table.header]
    for row in table.rows:
        rows.append(
            [f"{c.text} ({_one_line(c.note)})" if c.note else c.text for c in row]
        )
    return "\n".join([table.caption, *aligned(rows)])
