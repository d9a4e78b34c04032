"""Tables of labels: a CSV, or what `tag` writes: Parquet, JSON, a folder of shards.

All become what a CSV is, columns of text: a number as `tag` writes it into a CSV, the
labels of a row in one cell. Of Parquet any table of texts and numbers is read; of JSON
what `tag` writes alone.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from cola_msa.collection.table.checks import (
    EmbeddingFileError,
    check_size,
    check_texts,
    unreadable,
)
from cola_msa.collection.table.dataset import list_shards
from cola_msa.collection.table.parquet import check_footer, plain_type
from cola_msa.collection.table.write import OutputError, import_pyarrow
from cola_msa.values.reading import read_json
from cola_msa.values.tables import (
    PATH_COLUMNS,
    CsvTable,
    Row,
    TableError,
    read_table,
)

# Of what `tag` writes: the labels of a row, and a column of probabilities each.
TAG_COLUMN, TAG_SEPARATOR = "tags", "; "
TAKEN_SUFFIX = " (label)"  # of a label that is called as another column
TAG_COLUMNS = ("path", "start", "seconds", TAG_COLUMN)
_MAX_JSON_BYTES = 512 << 20
_JSON_ADVICE = "labels in JSON are those of tag --output=NAME.json; write a CSV"


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """A table, and what its rows are counted in.

    Attributes:
        table: Columns and rows; of a file that is no text a row's `line` is its number.
        unit: `line` or `row`.
    """

    table: CsvTable
    unit: str = "line"


def column_names(class_names: Sequence[str]) -> list[str]:
    """Names of the columns of probabilities: the labels', but for reserved ones."""
    return [
        f"{name}{TAKEN_SUFFIX}" if name in TAG_COLUMNS else name for name in class_names
    ]


def read_label_table(path: str | os.PathLike) -> LabelTable:
    """Reads a table of labels.

    Args:
        path: A CSV file, a .parquet, a .json of `tag`, or a folder of Parquet files,
            whose rows follow one another.

    Raises:
        TableError: If it cannot be read as a table.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json" and not path.is_dir():
        return LabelTable(_read_json(path), "row")
    if suffix != ".parquet" and not path.is_dir():
        return LabelTable(read_table(path, known=PATH_COLUMNS, allows_short=True))
    try:
        shards = list_shards(path) if path.is_dir() else [path]
        return LabelTable(_read_parquet(shards), "row")
    except (EmbeddingFileError, OutputError) as error:
        raise TableError(str(error)) from error


def _read_json(path: pathlib.Path) -> CsvTable:
    return read_json(
        path, TableError, _JSON_ADVICE, max_bytes=_MAX_JSON_BYTES, check=_from_json
    )


def _from_json(content: dict[str, Any]) -> CsvTable:
    labels = [_text(name) for name in content["class_names"]]
    times = ("start", "seconds") if content["per"] == "window" else ()
    rows = []
    for number, row in enumerate(content["rows"], 1):
        scores = [_number(score) for score in row["scores"]]
        if len(scores) != len(labels):
            raise ValueError(f"row {number} has {len(scores)} scores")
        tags = TAG_SEPARATOR.join(_text(tag) for tag in row[TAG_COLUMN])
        when = [_number(row[name]) for name in times]
        rows.append(Row(number, [_text(row["path"]), *when, tags, *scores]))
    return CsvTable(("path", *times, TAG_COLUMN, *column_names(labels)), tuple(rows))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _number(value: float) -> str:
    return f"{float(value):.6g}"


def _read_parquet(shards: Sequence[pathlib.Path]) -> CsvTable:
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    for shard in shards:
        names, found = _read_shard(shard, len(rows) + 1)
        if columns and names != columns:
            raise EmbeddingFileError(
                f"{shard}: its columns are others than those of {shards[0]}: move one "
                "away"
            )
        columns = names
        rows += found
    return CsvTable(columns, tuple(rows))


def _read_shard(path: pathlib.Path, number: int) -> tuple[tuple[str, ...], list[Row]]:
    """Names of columns, and rows, the first of which has this number."""
    pyarrow, parquet = import_pyarrow()
    rows: list[Row] = []
    known: dict[Any, str] = {}
    try:
        check_footer(path, parquet)
        # Opened here: pyarrow takes no name that is not UTF-8.
        with (
            open(path, "rb") as source,
            parquet.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            schema = file.schema_arrow
            names = tuple(name.strip() for name in schema.names)
            if len({*names}) < len(names):
                raise EmbeddingFileError(f"{path}: two columns have one name")
            writers = [_writer(path, field, pyarrow.types) for field in schema]
            groups = range(file.num_row_groups)
            size = sum(file.metadata.row_group(n).total_byte_size for n in groups)
            check_size(path, file.metadata.num_rows, size)
            for group in groups:
                table = file.read_row_group(group)
                table.validate(full=True)
                columns = [
                    check_texts(path, name, map(write, column.to_pylist()), known=known)
                    for name, write, column in zip(
                        names, writers, table.columns, strict=True
                    )
                ]
                cells = list(zip(*columns, strict=True))
                first = number + len(rows)
                rows += [Row(n, list(row)) for n, row in enumerate(cells, first)]
    except EmbeddingFileError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise unreadable(path, "Parquet", error) from error
    return names, rows


def _writer(path: pathlib.Path, field: Any, types: Any) -> Callable[[Any], str]:
    """How values of a column become text."""
    kind = plain_type(field.type)
    if types.is_floating(kind):
        write: Callable[[Any], str] = _number
    elif types.is_boolean(kind):
        write = _flag
    elif (types.is_list(kind) or types.is_large_list(kind)) and _is_text(
        types, plain_type(kind.value_type)
    ):
        write = _joined
    elif types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        raise EmbeddingFileError(
            f"{path}: column {field.name} is {kind}; labels are columns of texts or "
            "numbers"
        )
    else:
        write = str
    return lambda value: "" if value is None else write(value)


def _is_text(types: Any, kind: Any) -> bool:
    return types.is_string(kind) or types.is_large_string(kind)


def _flag(value: bool) -> str:
    return str(int(value))


def _joined(values: Sequence[str | None]) -> str:
    return TAG_SEPARATOR.join(value for value in values if value is not None)
