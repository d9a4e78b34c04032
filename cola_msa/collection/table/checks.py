"""What a file of embeddings must be like, whoever wrote it and in whichever format.

Names, types, shapes and sizes are compared before a value is read: what a file declares
may be a thousand times larger than the file.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from cola_msa.system.errors import UserError

TEXTS, NUMBERS = ("path", "sha256"), ("start", "seconds")
COLUMNS = (*TEXTS, *NUMBERS, "embedding")
METADATA = "metadata"
MAX_METADATA_BYTES = 4 << 20
MAX_TEXT = 1 << 16  # characters of a path
# Real embeddings hardly compress. Long paths that repeat do: beside embeddings of few
# values to about a thirtieth of what the arrays take.
MAX_RATIO = 50
FREE_BYTES = 256 << 20  # whatever the ratio
_ROW_BYTES = 200  # that a row takes beside its values


class EmbeddingFileError(UserError):
    """A file of embeddings that cannot be used; the message says why."""


class Column(NamedTuple):
    """What a file says of a column, before its values are read."""

    kind: str  # `text`, `number` or ""
    shape: tuple[int, ...]
    num_bytes: int
    dtype: str


class Reader(Protocol):
    """An open file of embeddings, checked as far as it can be without its values."""

    num_rows: int
    dim: int

    def metadata(self) -> str | bytes | None:
        """JSON that says what made it; None where there is none."""

    def columns(self) -> dict[str, Any]:
        """Reads all but the embeddings: lists of str, arrays of float64, by name."""

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Reads embeddings, float32 [num_rows, dim]."""

    def close(self) -> None:
        """Closes the file."""


def check_columns(path: pathlib.Path, columns: Mapping[str, Column]) -> tuple[int, int]:
    """Checks what a file declares.

    Args:
        path: The file.
        columns: What is there, by name.

    Returns:
        Number of rows, and of an embedding's values.

    Raises:
        EmbeddingFileError: If a column is missing, of another type or length, or
            takes far more memory than the file has bytes.
    """
    check_names(path, columns)
    for name, column in columns.items():
        wanted = "text" if name in TEXTS else "number"
        if column.kind != wanted and 0 not in column.shape:  # what is empty has no type
            raise EmbeddingFileError(
                f"{path}: column {name} is {column.dtype}, not {wanted}s"
            )
        if len(column.shape) != (2 if name == "embedding" else 1):
            raise EmbeddingFileError(
                f"{path}: column {name} has the shape {column.shape}, not "
                f"{'[rows, values]' if name == 'embedding' else '[rows]'}"
            )
    num_rows, dim = columns["embedding"].shape
    if dim < 1:
        raise EmbeddingFileError(f"{path}: column embedding has no values")
    for name, column in columns.items():
        if column.shape[0] != num_rows:
            raise EmbeddingFileError(
                f"{path}: column {name} has {column.shape[0]:,} rows, and column "
                f"embedding has {num_rows:,}"
            )
    check_size(path, num_rows, sum(column.num_bytes for column in columns.values()))
    return num_rows, dim


def check_names(path: pathlib.Path, names: Iterable[str]) -> None:
    """Raises EmbeddingFileError where a column is missing."""
    missing = sorted(set(COLUMNS) - set(names), key=COLUMNS.index)
    if missing:
        raise EmbeddingFileError(
            f"{path}: no column {', '.join(missing)}; python -m cola_msa.embed writes "
            f"{', '.join(COLUMNS)}"
        )


def check_size(path: pathlib.Path, num_rows: int, num_bytes: int) -> None:
    """Refuses a file that takes far more memory than it has bytes.

    Args:
        path: The file.
        num_rows: Rows that it declares.
        num_bytes: What its columns take by their shapes and types.

    Raises:
        EmbeddingFileError: If it does.
    """
    needed = num_bytes + num_rows * _ROW_BYTES
    size = os.path.getsize(path)
    if needed > max(FREE_BYTES, MAX_RATIO * size):
        raise EmbeddingFileError(
            f"{path}: its {size:,} bytes unpack to {needed:,}, more than {MAX_RATIO} "
            "times as many: damaged, or made to fill memory"
        )


def check_texts(
    path: pathlib.Path,
    name: str,
    values: Iterable[Any],
    first_row: int = 1,
    known: dict[Any, str] | None = None,
) -> list[str]:
    """Texts of a column, decoded from UTF-8 where they are bytes; equal ones shared.

    Args:
        path: The file.
        name: The column.
        values: Texts or bytes.
        first_row: Number of the first of them.
        known: Texts of earlier values of the file; added to.

    Returns:
        The texts.

    Raises:
        EmbeddingFileError: If one is no text, no UTF-8, or too long for a path.
    """
    known = {} if known is None else known
    found = []
    for row, value in enumerate(values, first_row):
        text = known.get(value) if isinstance(value, str | bytes) else None
        if text is None:
            text = known[value] = _text(path, f"column {name}, row {row}", value)
        found.append(text)
    return found


def _text(path: pathlib.Path, place: str, value: Any) -> str:
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text.encode()
    except AttributeError as error:
        raise EmbeddingFileError(f"{path}: {place}: no text") from error
    except UnicodeError as error:
        raise EmbeddingFileError(f"{path}: {place}: not UTF-8 ({error})") from error
    if len(text) > MAX_TEXT:
        raise EmbeddingFileError(
            f"{path}: {place}: {len(text):,} characters, more than a path has"
        )
    return text


def unreadable(path: pathlib.Path, kind: str, error: object) -> EmbeddingFileError:
    """The error for a file that is not what its suffix says, or damaged."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return EmbeddingFileError(
        f"{path}: not readable as {kind}: {reason}; if it is damaged, delete it and "
        "make it again"
    )
