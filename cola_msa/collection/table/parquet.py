"""Embeddings in Parquet, as embed, pandas, polars or DuckDB write them.

Columns are known by name and taken by content: embeddings are lists of numbers, of
fixed size or not, texts may be dictionaries; what else there is, an index say, is no
matter.
"""

import contextlib
import io
import pathlib
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import numpy as np

from cola_msa.collection.table.checks import (
    COLUMNS,
    FREE_BYTES,
    MAX_METADATA_BYTES,
    METADATA,
    NUMBERS,
    TEXTS,
    EmbeddingFileError,
    check_names,
    check_size,
    check_texts,
    unreadable,
)

# What can be read as dictionaries.
_PLAIN_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_MAX_GROUPS = 1 << 17
_MIN_BLOCK, _MAX_BLOCK = 16, 1 << 16  # rows of text that are read at once


class ParquetReader:
    """A Parquet file of embeddings. See `embedding_checks.Reader`."""

    def __init__(self, path: pathlib.Path):
        """Opens and checks a file.

        Raises:
            EmbeddingFileError: If it cannot be used, or pyarrow is missing.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise EmbeddingFileError(
                f"{path}: Parquet needs pyarrow: pip install 'cola_msa[embed]'; or "
                "embed into .npz or .h5"
            ) from error
        self._path = path
        self._damages = (pyarrow.ArrowException, OSError, ValueError, MemoryError)
        self._file: Any = None
        self._stream: BinaryIO | None = None
        try:
            check_footer(path, parquet, COLUMNS)
            # Of checksums, where pages have some, reading is what asks.
            self._file = parquet.ParquetFile(
                self._source(), page_checksum_verification=True
            )
            schema = self._file.schema_arrow
            self._check_types(pyarrow.types, schema)
            self._open(schema)
            self.close()
            self._file = parquet.ParquetFile(
                self._source(),
                read_dictionary=self._dictionary_names(),
                page_checksum_verification=True,
            )
            self.dim = self._find_dim()
        except EmbeddingFileError:
            self.close()
            raise
        except self._damages as error:
            self.close()
            raise unreadable(path, "Parquet", error) from error

    def _source(self) -> Any:
        """The path, or where it is no UTF-8, which pyarrow needs, the file itself."""
        try:
            str(self._path).encode()
        except UnicodeEncodeError:
            self._stream = open(self._path, "rb")  # noqa: SIM115 (closed with this)
            return self._stream
        return str(self._path)

    def _open(self, schema: Any) -> None:
        self.num_rows = self._file.metadata.num_rows
        self._metadata = (schema.metadata or {}).get(METADATA.encode())
        groups = [
            self._file.metadata.row_group(number)
            for number in range(self._file.num_row_groups)
        ]
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self._group, self._rows = -1, np.zeros((0, 0), np.float32)
        if sum(group.num_rows for group in groups) != self.num_rows:
            raise unreadable(self._path, "Parquet", "its rows are not as many as said")
        self._sizes = dict.fromkeys(COLUMNS, 0)
        self._encodings: dict[str, set[str]] = {name: set() for name in COLUMNS}
        num_values = 0
        for group in groups:
            for number in range(group.num_columns):
                column = group.column(number)
                name = column.path_in_schema.split(".")[0]
                if name in COLUMNS:
                    self._sizes[name] += column.total_uncompressed_size
                    self._encodings[name] |= set(column.encodings)
                    num_values += column.num_values if name == "embedding" else 0
        needed = max(sum(self._sizes.values()), num_values * 4)
        check_size(self._path, self.num_rows, needed)

    def _dictionary_names(self) -> list[str]:
        """Texts to read as dictionaries: a long path of many rows is there once."""
        return [name for name in TEXTS if self._encodings[name] <= _PLAIN_ENCODINGS]

    def _tables(self, names: list[str]) -> Iterator[Any]:
        """Yields parts of columns, in order, that take little memory."""
        import pyarrow

        shared = [n for n in names if "DELTA_BYTE_ARRAY" in self._encodings[n]]
        if not shared:
            for number in range(self._file.num_row_groups):
                yield self._file.read_row_group(number, names)
            return
        # Each text may be the one before it, and no more is in the file.
        most = max(self._sizes[name] for name in shared)
        num_rows = min(max(FREE_BYTES // max(most, 1), _MIN_BLOCK), _MAX_BLOCK)
        for batch in self._file.iter_batches(num_rows, columns=names):
            yield pyarrow.Table.from_batches([batch])

    def _check_types(self, types: Any, schema: Any) -> None:
        check_names(self._path, schema.names)
        for name in COLUMNS:
            if len(schema.get_all_field_indices(name)) > 1:
                raise EmbeddingFileError(f"{self._path}: column {name} is there twice")
            kind = plain_type(schema.field(name).type)
            wanted = "text"
            if name in TEXTS:
                is_right = _is_text(types, kind)
            elif name in NUMBERS:
                is_right, wanted = _is_number(types, kind), "numbers"
            else:
                is_right = _is_list(types, kind) and _is_number(
                    types, plain_type(kind.value_type)
                )
                wanted = "lists of numbers"
            # What is empty has no type.
            is_empty = types.is_null(kind) and not self._file.metadata.num_rows
            if not is_right and not is_empty:
                raise EmbeddingFileError(
                    f"{self._path}: column {name} is {kind}, not {wanted}"
                )

    def _find_dim(self) -> int:
        """Values of an embedding: what its type says, else those of the first one."""
        kind = plain_type(self._file.schema_arrow.field("embedding").type)
        size = getattr(kind, "list_size", 0)
        if size > 0 or not self.num_rows:
            return max(size, 1)
        first = int(np.searchsorted(self._ends, 0, "right"))
        self._load(first, None)
        return self._rows.shape[1]

    def _load(self, group: int, dim: int | None) -> None:
        """Reads the embeddings of a row group."""
        first_row = int(self._ends[group - 1]) if group else 0
        try:
            column = self._file.read_row_group(group, ["embedding"]).column(0)
            column.validate(full=True)
            self._rows = self._to_rows(column, first_row, dim)
        except EmbeddingFileError:
            raise
        except self._damages as error:
            raise unreadable(self._path, "Parquet", error) from error
        self._group = group

    def _to_rows(self, column: Any, first_row: int, dim: int | None) -> np.ndarray:
        from pyarrow import compute, types

        parts = []
        for chunk in map(_storage, column.chunks):
            if chunk.null_count:
                row = first_row + int(np.argmax(chunk.is_null().to_numpy(False))) + 1
                raise self._refuse("embedding", f"row {row} is null")
            if types.is_fixed_size_list(chunk.type):
                lengths = np.full(len(chunk), chunk.type.list_size)
            else:
                lengths = compute.list_value_length(chunk).to_numpy()
            dim = int(lengths[0]) if dim is None and len(lengths) else dim
            if (lengths != dim).any():
                row = int(np.argmax(lengths != dim))
                raise self._refuse(
                    "embedding",
                    f"row {first_row + row + 1} has {lengths[row]} values, and the "
                    f"first row has {dim}",
                )
            if dim == 0:
                raise self._refuse("embedding", "it has no values")
            flat = _storage(chunk.flatten())
            if flat.null_count:
                value = int(np.argmax(flat.is_null().to_numpy(False)))
                row = first_row + value // (dim or 1) + 1
                raise self._refuse("embedding", f"row {row} holds a null")
            with np.errstate(over="ignore"):  # infinity, which is refused
                values = np.asarray(_to_numpy(types, flat), np.float32)
            parts.append(values.reshape(len(chunk), -1))
            first_row += len(chunk)
        return np.concatenate(parts)

    def _refuse(self, name: str, reason: str) -> EmbeddingFileError:
        return EmbeddingFileError(f"{self._path}: column {name}: {reason}")

    def metadata(self) -> str | bytes | None:
        """JSON that says what made it; None where there is none."""
        if self._metadata is not None and len(self._metadata) > MAX_METADATA_BYTES:
            raise EmbeddingFileError(f"{self._path}: metadata: not one short text")
        return self._metadata

    def columns(self) -> dict[str, Any]:
        """Reads all but the embeddings: lists of str, arrays of float64, by name."""
        from pyarrow import types

        found: dict[str, Any] = {name: [] for name in (*TEXTS, *NUMBERS)}
        known: dict[Any, str] = {}
        try:
            for table in self._tables(list(found)):
                table.validate(full=True)  # else a damaged index is a wrong text
                for name, parts in found.items():
                    for chunk in map(_storage, table.column(name).chunks):
                        if chunk.null_count:
                            raise self._refuse(name, f"{chunk.null_count:,} nulls")
                        if name in NUMBERS:
                            parts.append(_to_numpy(types, chunk))
                            continue
                        if types.is_dictionary(chunk.type):
                            texts = chunk.dictionary.to_pylist()
                            values = [texts[k] for k in chunk.indices.to_pylist()]
                        else:
                            values = chunk.to_pylist()
                        parts += check_texts(
                            self._path, name, values, len(parts) + 1, known
                        )
        except EmbeddingFileError:
            raise
        except self._damages as error:
            raise unreadable(self._path, "Parquet", error) from error
        for name in NUMBERS:
            parts = [np.zeros(0), *found[name]]
            found[name] = np.concatenate(parts).astype(np.float64)
        return found

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Reads embeddings, float32 [num_rows, dim]."""
        if num_rows == len(self._rows) == self.num_rows:
            return self._rows
        found, done = np.zeros((num_rows, self.dim), np.float32), 0
        while done < num_rows:
            group = int(np.searchsorted(self._ends, first_row + done, "right"))
            if group != self._group:
                self._load(group, self.dim)
            offset = first_row + done - int(self._ends[group]) + len(self._rows)
            part = self._rows[offset : offset + num_rows - done]
            found[done : done + len(part)] = part
            done += len(part)
        return found

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        if self._stream is not None:
            self._stream.close()


class _SealedError(OSError):
    """Values were asked for."""


class _Sealable(io.FileIO):
    """A file that gives no bytes any more once it is sealed."""

    is_sealed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_sealed:
            raise _SealedError
        return super().read(size)


def check_footer(
    path: pathlib.Path, parquet: Any, columns: Collection[str] | None = None
) -> None:
    """Reads what the footer says of columns, and no values.

    pyarrow's objects for it end the process where it is damaged; reading values raises.

    Args:
        path: The file.
        parquet: The module pyarrow.parquet.
        columns: Names of those that will be read; None for all.

    Raises:
        EmbeddingFileError: If there are too many row groups.
        Exception: pyarrow's, if it is damaged.
    """
    with _Sealable(path) as file, parquet.ParquetFile(file) as opened:
        if opened.num_row_groups > _MAX_GROUPS:
            raise unreadable(
                path, "Parquet", f"it has {opened.num_row_groups:,} row groups"
            )
        file.is_sealed = True
        names = opened.schema_arrow.names
        if columns is not None:
            names = [name for name in columns if name in names]
        for group in range(opened.num_row_groups):
            for name in names:
                with contextlib.suppress(_SealedError):
                    opened.read_row_group(group, [name], use_threads=False)


def plain_type(kind: Any) -> Any:
    """The type of the values below dictionaries and types of other libraries."""
    import pyarrow

    while True:
        if isinstance(kind, pyarrow.BaseExtensionType):
            kind = kind.storage_type
        elif pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def _storage(array: Any) -> Any:
    """An array without the types of other libraries."""
    while hasattr(array, "storage"):
        array = array.storage
    return array


def _is_text(types: Any, kind: Any) -> bool:
    names = "string large_string string_view binary large_binary binary_view"
    return any(getattr(types, f"is_{name}")(kind) for name in names.split())


def _is_number(types: Any, kind: Any) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _is_list(types: Any, kind: Any) -> bool:
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )


def _to_numpy(types: Any, array: Any) -> np.ndarray:
    import pyarrow

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if types.is_decimal(array.type):
        array = array.cast(pyarrow.float64())
    return array.to_numpy(zero_copy_only=False)
