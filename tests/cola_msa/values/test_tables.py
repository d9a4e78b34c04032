"""Tables that users hand in: what a CSV writer wrote is read, all else is named."""

import csv
import io
import pathlib
import tempfile

import hypothesis
import pytest
from hypothesis import strategies

from cola_msa.values import tables
from cola_msa.values.tables import TableError


def table_of(folder: pathlib.Path, content: str | bytes, **options) -> tables.CsvTable:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tables.read_table(path, known=("path",), **options)


def cells_of(table: tables.CsvTable) -> list[list[str]]:
    return [list(table.columns), *(row.cells for row in table.rows)]


# Every kind of character that a reader could take for a line's or a cell's end.
TEXT = strategies.text(
    strategies.one_of(
        strategies.sampled_from(",;\t\"' \r\n\x0b\x0c\x1c\x85\u2028\u2029\ufeffé"),
        strategies.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=8,
)
NAMES = strategies.lists(
    TEXT.map(str.strip).filter(lambda name: name and name.lower() != "path"),
    max_size=3,
    unique=True,
)


@hypothesis.given(strategies.data(), NAMES, strategies.sampled_from(",;\t"))
@hypothesis.settings(max_examples=200, deadline=None)
def test_what_a_writer_wrote_is_read_as_it_was(data, names, delimiter):
    # A name that holds `path` between delimiters of another kind could be a header.
    hypothesis.assume(not any("path" in name.lower() for name in names))
    header = data.draw(strategies.permutations(["path", *names]))
    row = strategies.lists(TEXT, min_size=len(header), max_size=len(header))
    rows = data.draw(strategies.lists(row, max_size=4))
    stream = io.StringIO(newline="")
    quoting = data.draw(strategies.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    end = data.draw(strategies.sampled_from(["\r\n", "\n"]))
    if end == "\n" and quoting == csv.QUOTE_MINIMAL:
        # Python 3.11 leaves a carriage return without quotes where it ends no line.
        hypothesis.assume(not any("\r" in cell for line in rows for cell in line))
        hypothesis.assume(not any("\r" in name for name in names))
    writer = csv.writer(
        stream, delimiter=delimiter, quoting=quoting, lineterminator=end
    )
    writer.writerows([header, *rows])
    encoding = data.draw(strategies.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    with tempfile.TemporaryDirectory() as folder:
        found = table_of(pathlib.Path(folder), stream.getvalue().encode(encoding))
    assert cells_of(found) == [header, *(line for line in rows if any(line))]


@hypothesis.given(strategies.binary(max_size=80))
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_table_or_one_line(content):
    with tempfile.TemporaryDirectory() as folder:
        try:
            table = table_of(pathlib.Path(folder), content)
        except TableError as error:
            assert "t.csv" in str(error) and "\n" not in str(error)
        else:
            assert all(len(r.cells) == len(table.columns) for r in table.rows)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('path,name\na,"12"" mix"\n', [["path", "name"], ["a", '12" mix']]),
        ('path;name\na;"b,\n\nc"\n', [["path", "name"], ["a", "b,\n\nc"]]),
        ('"a,b;c"\tpath\nx\u2028y\tz', [["a,b;c", "path"], ["x\u2028y", "z"]]),
        ('path, name\na, "b, c"\n', [["path", "name"], ["a", "b, c"]]),
        ("\n\npath,n\n\n,\na,b\n\n", [["path", "n"], ["a", "b"]]),
        ("path,n,,\na,b,,\nc,d\n", [["path", "n"], ["a", "b"], ["c", "d"]]),
        ("path,n\na,b,,\n", [["path", "n"], ["a", "b"]]),
        (",path\n0,a\n", [["", "path"], ["0", "a"]]),
        ('path\na, b;c\td\n"e, ""f"""\n', [["path"], ["a, b;c\td"], ['e, "f"']]),
        ("path\ra\rb\r", [["path"], ["a"], ["b"]]),
        ("sep=;\r\npath;n\r\na;1,5\r\n", [["path", "n"], ["a", "1,5"]]),
        ("SEP=,\npath,n;m\na,b\n", [["path", "n;m"], ["a", "b"]]),
        ('"sep=\t"\npath\tn\na\tb;c\n', [["path", "n"], ["a", "b;c"]]),
        ("sep=|\n\npath|n\na|b, c\n", [["path", "n"], ["a", "b, c"]]),
        ("sep=;\rpath\ra,b\r", [["path"], ["a,b"]]),
        ("sep=,path\na,b\n", [["sep=", "path"], ["a", "b"]]),
    ],
)
def test_tables_of_many_programs(tmp_path, content, expected):
    assert cells_of(table_of(tmp_path, content)) == expected
    assert cells_of(table_of(tmp_path, b"\xef\xbb\xbf" + content.encode())) == expected
    assert cells_of(table_of(tmp_path, content.encode("utf-16"))) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.csv: it is empty"),
        (b"\xff\xfe", "t.csv: it is empty"),
        ("path,a,b,a\n1,2,3,4\n", "columns 2 and 4 are both called 'a'"),
        ("sep=;\npath;a\n1\n", r"t.csv, line 3: .*\(line 3: 1 instead of 2\)"),
        ('sep=;\n\npath;a\n1;"x"y\n', "line 4: text follows a closing quote"),
        ("sep=;\n", "t.csv: it is empty"),
        ("path,a\n1\n", r"t.csv, line 2: .*\(line 2: 1 instead of 2\)"),
        ('path,a\n1,"2\n3"\n1,2,3\n4\n', r"lines 4, 5: .*\(line 4: 3 instead of 2\)"),
        ('path,a\n1,2\n3,"4\n5,6\n', "line 3: a quote is opened there and never"),
        ('path,a\n1,"12" mix"\n', "line 2: text follows a closing quote"),
        ("path,a\n1,2\n\0,3\n", "line 3: a zero byte"),
        ("path,a\n1,2\n".encode("utf-16-le"), "line 1: a zero byte"),
        ("path,a\n1,2\n".encode("utf-32"), "line 1: a zero byte"),
        ("path,a\né,2\n".encode("latin-1"), "t.csv: not UTF-8 text.* 0xe9"),
        ("path,a\n1,2\n".encode("utf-16")[:-1], "t.csv: not UTF-16 text"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(TableError, match=message):
        table_of(tmp_path, content)


def test_other_files_are_named(tmp_path):
    with pytest.raises(TableError, match="none.csv: cannot be read"):
        tables.read_table(tmp_path / "none.csv")
    with pytest.raises(TableError, match="cannot be read"):
        tables.read_table(tmp_path)


def test_cells_have_a_limit_that_nobody_else_feels(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_CHARACTERS", 200_000)
    limit = csv.field_size_limit()
    cell = "x" * 150_000  # more than the csv module's own limit
    assert table_of(tmp_path, f"path\n{cell}\n").rows[0].cells == [cell]
    with pytest.raises(TableError, match="line 2: more than 200,000 characters"):
        table_of(tmp_path, f"path\n{cell}{cell}\n")
    with pytest.raises(TableError, match="line 2: a cell of more than 200,000"):
        table_of(tmp_path, f'path\n"{cell}\n{cell}"\n')
    assert csv.field_size_limit() == limit


def test_short_rows_are_allowed_where_asked(tmp_path):
    found = table_of(tmp_path, "path,a\n1\n2,3\n4\n", allows_short=True)
    assert [row.cells for row in found.rows] == [["1"], ["2", "3"], ["4"]]
    assert found.short == (2, 4)
    assert tables.name_lines(range(2, 10)) == "lines 2, 3, 4, 5, 6 and 3 more"


def test_lines_end_with_newlines_alone(tmp_path):
    path = tmp_path / "l.txt"
    path.write_bytes("\ufeffa\u2028b\x0c \r\nc\rd\n\ne".encode())
    found = [(1, "a\u2028b\x0c "), (2, "c"), (3, "d"), (4, ""), (5, "e")]
    assert list(tables.read_lines(path)) == found
