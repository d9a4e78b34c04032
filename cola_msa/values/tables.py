"""Tables and lists that users hand in: text files with a row or an entry a line.

Of a table the delimiter alone is guessed, from its header; quotes are CSV's own,
doubled within a quoted cell. A first line `sep=;`, as Excel writes it, names the
delimiter instead. Text is UTF-8, with or without a byte order mark, or
UTF-16 with one. Lines end with a newline or a carriage return alone: other characters
that Unicode calls line ends are part of a cell, and so are all within quotes.
"""

import codecs
import collections
import csv
import dataclasses
import io
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from cola_msa.system.errors import UserError

DELIMITERS = ",;\t"
# What users call the column of paths, in lower case; the first that is there counts.
PATH_COLUMNS = ("path", "file", "filename", "file_path", "filepath")
MAX_CHARACTERS = 1 << 24  # of a line and of a cell
_SHOWN_LINES = 5
_SEPARATOR = re.compile(r'"?sep=([^\w\s"]|\t)"?[\r\n]*', re.IGNORECASE)


class TableError(UserError):
    """A table or list that cannot be read as one; the message names file and line."""


class Row(NamedTuple):
    """A row, and the line of the file that it begins in, from 1."""

    line: int
    cells: list[str]


@dataclasses.dataclass(frozen=True)
class CsvTable:
    """A header, and rows of as many cells.

    Attributes:
        columns: Names, without blanks around them; no two are the same.
        rows: In order; empty lines are left out.
        short: Lines of rows with fewer cells, where these are allowed.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    short: tuple[int, ...] = ()


def read_lines(
    path: str | os.PathLike,
    errors: str = "strict",
    error: type[Exception] = TableError,
) -> Iterator[tuple[int, str]]:
    """Yields the lines of a text file without their ends, with numbers from 1.

    Args:
        path: The file.
        errors: What becomes of bytes that are not UTF-8, as `open` takes it.
        error: Class of the errors.

    Raises:
        TableError: If it is not there, no text, or has a line without end (or `error`).
    """
    try:
        with open(path, "rb") as binary:
            for number, line in enumerate(_lines(binary, path, errors, error), 1):
                yield number, line.rstrip("\r\n")
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem


def read_rows(
    path: str | os.PathLike,
    *,
    delimiter: str | None = None,
    known: Collection[str] = (),
    errors: str = "strict",
    is_strict: bool = True,
    error: type[Exception] = TableError,
) -> Iterator[Row]:
    """Yields the rows of a CSV file, header included, whatever their lengths.

    Rows without any content are left out.

    Args:
        path: The file.
        delimiter: Between cells; None for the one of comma, semicolon and tab by which
            the first row has a cell of `known`; of several the one with most cells, of
            none the comma. Where that cell is all of the row, nothing divides cells.
            Where a blank follows each in the first row, blanks after it are left out.
            A first line `sep=;` names it, and is no row.
        known: Names of columns in lower case.
        errors: What becomes of bytes that are not UTF-8, as `open` takes it.
        is_strict: Whether text after a closing quote is an error, or part of the cell.
        error: Class of the errors.

    Raises:
        TableError: If the file is not there, is no text, has a quote that is never
            closed, or a cell or line of more than 2^24 characters (or `error`).
    """
    try:
        with open(path, "rb") as binary:
            lines: Iterator[str] = _lines(binary, path, errors, error)
            skips_blanks, before = False, 0
            if delimiter is None:
                first = next(lines, "")
                named = _SEPARATOR.fullmatch(first)
                if named:
                    before = 1
                else:
                    lines = itertools.chain([first], lines)
                delimiter, skips_blanks, lines = _guess_delimiter(
                    lines, known, named[1] if named else DELIMITERS
                )
            try:
                yield from _parse(lines, delimiter, skips_blanks, is_strict, before)
            except _SyntaxError as problem:
                raise error(f"{path}, {problem}") from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem


def read_table(
    path: str | os.PathLike,
    *,
    delimiter: str | None = None,
    known: Collection[str] = (),
    errors: str = "strict",
    is_strict: bool = True,
    allows_short: bool = False,
    error: type[Exception] = TableError,
) -> CsvTable:
    """Reads a CSV file whose first row is a header.

    Cells beyond the header are no matter as long as they are empty, and so are columns
    at the end without name and content.

    Args:
        path: The file.
        delimiter: As `read_rows`.
        known: As `read_rows`.
        errors: As `read_rows`.
        is_strict: As `read_rows`.
        allows_short: Whether rows may lack cells at their end, as spreadsheets write
            them; `CsvTable.short` names their lines.
        error: Class of the errors.

    Returns:
        The CsvTable.

    Raises:
        TableError: As `read_rows`; if it is empty, two columns have one name, or rows
            do not fit the header: then the message names their lines.
    """
    rows = read_rows(
        path,
        delimiter=delimiter,
        known=known,
        errors=errors,
        is_strict=is_strict,
        error=error,
    )
    header = next(rows, None)
    if header is None:
        raise error(f"{path}: it is empty")
    names = [name.strip() for name in header.cells]
    found = list(rows)
    width = len(names)
    while width > 1 and not names[width - 1]:
        if any(any(row.cells[width - 1 :]) for row in found):
            break
        width -= 1
    wrong = [
        row
        for row in found
        if any(row.cells[width:]) or (len(row.cells) < width and not allows_short)
    ]
    if wrong:
        first = wrong[0]
        raise error(
            f"{path}, {name_lines(row.line for row in wrong)}: not as many cells as "
            f"the header has (line {first.line}: {len(first.cells)} instead of "
            f"{width}); a cell with the delimiter in it needs quotes around it"
        )
    columns = tuple(names[:width])
    name, count = collections.Counter(columns).most_common(1)[0]
    if count > 1:
        places = [k for k, column in enumerate(columns, 1) if column == name][:2]
        raise error(
            f"{path}: columns {places[0]} and {places[1]} are both called {name!r}; "
            "rename or remove one"
        )
    return CsvTable(
        columns,
        tuple(Row(line, cells[:width]) for line, cells in found),
        tuple(line for line, cells in found if len(cells) < width),
    )


def name_lines(lines: Iterable[int], unit: str = "line") -> str:
    """`line 3`, or `lines 3, 4, 9 and 2 more`."""
    numbers = list(lines)
    shown = ", ".join(map(str, numbers[:_SHOWN_LINES]))
    more = len(numbers) - _SHOWN_LINES
    return (
        f"{unit}{'s' if len(numbers) > 1 else ''} {shown}"
        f"{f' and {more:,} more' if more > 0 else ''}"
    )


def _lines(
    binary: io.BufferedReader,
    path: str | os.PathLike,
    errors: str,
    error: type[Exception],
) -> Iterator[str]:
    """A text's lines with their ends."""
    is_wide = binary.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if is_wide else "utf-8-sig"
    file = io.TextIOWrapper(binary, encoding, "strict" if is_wide else errors, "")
    number = 0
    try:
        # Not all of it at once: a file may have no line end at all.
        while line := file.readline(MAX_CHARACTERS + 1):
            number += 1
            if len(line) > MAX_CHARACTERS:
                raise error(
                    f"{path}, line {number}: more than {MAX_CHARACTERS:,} characters"
                )
            if "\0" in line:
                raise error(
                    f"{path}, line {number}: a zero byte, which no text has; save it "
                    "as UTF-8"
                )
            yield line
    except UnicodeError as problem:
        raise error(
            f"{path}: not {'UTF-16' if is_wide else 'UTF-8'} text, as of about line "
            f"{number + 1} ({problem}); save it as UTF-8"
        ) from problem


class _SyntaxError(Exception):
    """A row that is no CSV; the message begins with its line."""


def _parse(
    lines: Iterable[str],
    delimiter: str,
    skips_blanks: bool,
    is_strict: bool,
    before: int,
) -> Iterator[Row]:
    """Rows; `before` lines of the file came before the first of `lines`."""
    has_ended = False

    def watched() -> Iterator[str]:
        nonlocal has_ended
        yield from lines
        has_ended = True

    reader = csv.reader(
        watched(), delimiter=delimiter, skipinitialspace=skips_blanks, strict=is_strict
    )
    while True:
        line = before + reader.line_num + 1
        # The module's limit is the whole process's.
        limit = csv.field_size_limit(MAX_CHARACTERS)
        try:
            cells = next(reader, None)
        except csv.Error as problem:
            reason = str(problem)
            if "field limit" in reason:
                reason = f"a cell of more than {MAX_CHARACTERS:,} characters"
            elif "expected after" in reason:
                reason = (
                    "text follows a closing quote; a quote within a quoted cell is "
                    "written twice"
                )
            if has_ended:
                reason = "a quote is opened there and never closed"
            raise _SyntaxError(f"line {line}: {reason}") from problem
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        if has_ended:  # the row went on for another line, and there was none
            raise _SyntaxError(f"line {line}: a quote is opened there and never closed")
        if any(cells):
            yield Row(line, cells)


def _guess_delimiter(
    lines: Iterable[str], known: Collection[str], delimiters: str
) -> tuple[str, bool, Iterator[str]]:
    """The delimiter, whether blanks follow it, and all the lines again."""
    remaining = iter(lines)
    head: list[str] = []

    def again() -> Iterator[str]:
        yield from head
        for line in remaining:
            head.append(line)
            yield line

    firsts: dict[str, list[str]] = {}
    for delimiter in delimiters:
        try:
            rows = csv.reader(again(), delimiter=delimiter)
            firsts[delimiter] = next((cells for cells in rows if any(cells)), [])
        except csv.Error:  # if it is the delimiter, reading it will say so
            firsts[delimiter] = []
    fitting = [
        delimiter
        for delimiter, cells in firsts.items()
        if {cell.strip(" ").lower() for cell in cells} & set(known)
    ]
    chosen = max(fitting, key=lambda d: len(firsts[d]), default=delimiters[0])
    if fitting and len(firsts[chosen]) == 1:
        return "\0", False, again()  # which no line holds
    later = firsts[chosen][1:]
    has_blanks = bool(later) and all(cell.startswith(" ") for cell in later)
    return chosen, has_blanks, again()
