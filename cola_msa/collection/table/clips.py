"""Clips of a table of embeddings, block by block: windows are averaged to them.

What `load_embeddings` gives, to the bit, in memory that does not grow with the values
of the rows. Rows of one path need not stand together. One pass over the table reads
all of it, or what is needed of some clips.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from cola_msa.collection.table.checks import EmbeddingFileError, Reader
from cola_msa.collection.table.read import (
    Embeddings,
    check_contents,
    check_values,
    has_deviation,
    open_reader,
    parse_metadata,
)
from cola_msa.system.console import progress_bar
from cola_msa.values.arrays import new_mapped, row_blocks

_BLOCK_BYTES = 32 << 20  # of the values that are read at once
_HELD_BYTES = 256 << 20  # of an array in memory; larger ones lie in a file


class Clips:
    """One row a path, in order of first appearance.

    Attributes:
        paths: n paths.
        sha256: n hashes.
        metadata: What is known of the encoder.
        starts: float64 [n], seconds.
        seconds: float64 [n].
        num_rows: n.
        dim: Values of a clip's embedding.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        scratch: pathlib.Path | None = None,
        is_quiet: bool = True,
    ):
        """Reads all but the embeddings.

        Args:
            path: A file or a dataset of embeddings.
            scratch: A folder for what is large; None: it is held in memory.
            is_quiet: Without a progress bar.

        Raises:
            EmbeddingFileError: As `load_embeddings`.
        """
        self._path, self._scratch, self._is_quiet = path, scratch, is_quiet
        self._reader = open_reader(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        reader, path = self._reader, self._path
        if not reader.num_rows:
            raise EmbeddingFileError(f"{path}: holds no embedding")
        self.metadata = parse_metadata(path, reader.metadata())
        columns = reader.columns()
        rows = Embeddings(
            paths=tuple(columns["path"]),
            sha256=tuple(columns["sha256"]),
            starts=columns["start"],
            seconds=columns["seconds"],
            # Stands in for what is not read yet.
            embeddings=np.zeros((reader.num_rows, 0), np.float32),
            metadata=self.metadata,
        )
        check_values(path, rows)
        check_contents(path, rows)
        self._rows = rows
        first: dict[str, int] = {}
        self._clip = np.array(
            [first.setdefault(p, len(first)) for p in rows.paths], np.int64
        )
        self._has_deviation = has_deviation(self.metadata)
        self._are_rows = len(first) == len(rows.paths) and not self._has_deviation
        pooled = rows if self._are_rows else rows.per_clip()
        self.paths, self.sha256 = pooled.paths, pooled.sha256
        self.starts, self.seconds = pooled.starts, pooled.seconds
        self.num_rows = len(self.paths)
        self.dim = reader.dim * (2 if self._has_deviation else 1)
        self._values: np.ndarray | None = None

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields embeddings, float32 [b, dim], each with its first row's number.

        Raises:
            EmbeddingFileError: If a value is not finite; the message says whose.
        """
        if self._are_rows:
            for begin, rows in self._read():
                self._check(rows)
                yield begin, rows
            return
        if self._values is None:
            values = self._new("values", (self.num_rows, self.dim), np.float32)
            self._average(np.arange(self.num_rows), values)
            self._values = values
        for begin, rows in row_blocks(self._values):
            yield begin, rows.copy()

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Embeddings of some clips; blocks without a row of them are not read.

        Args:
            numbers: int64 [m], different clips' numbers.

        Returns:
            float32 [m, dim], in memory.

        Raises:
            EmbeddingFileError: If a value of them is not finite.
        """
        values = np.zeros((len(numbers), self.dim), np.float32)
        self._average(numbers, values)
        return values

    def load(self) -> Embeddings:
        """All of them, in memory."""
        values = np.empty((self.num_rows, self.dim), np.float32)
        for begin, rows in self.blocks():
            values[begin : begin + len(rows)] = rows
        return Embeddings(
            self.paths, self.sha256, self.starts, self.seconds, values, self.metadata
        )

    def _average(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Fills float32 [m, dim] with the embeddings of clips.

        Sums are taken in the rows' order and in double precision, as `per_clip` takes
        them. They are kept from block to block for the clips that lie in several.
        """
        place = np.full(self.num_rows, -1)
        place[numbers] = np.arange(len(numbers))
        place = place[self._clip]  # of each row; -1 for what is not wanted
        wanted = np.flatnonzero(place >= 0)
        of_wanted = place[wanted]
        counts = np.bincount(of_wanted, minlength=len(numbers))
        block = wanted // self._rows_per_block
        first, last = np.zeros((2, len(numbers)), np.int64)
        first[of_wanted[::-1]] = block[::-1]
        last[of_wanted] = block
        slot = np.cumsum(is_kept := first < last) - 1
        shape = int(is_kept.sum()), self.dim
        kept = self._new("sums", shape, np.float64)
        title = f"reading {os.path.basename(self._path)}"
        with progress_bar(len(place), title, "rows", not self._is_quiet) as bar:
            for number, (begin, rows) in self._read_some(block):
                where = place[begin : begin + len(rows)]
                bar.update(begin + len(rows) - bar.n)
                rows, where = rows[where >= 0], where[where >= 0]
                self._check(rows)
                if self._are_rows:
                    values[where] = rows
                    continue
                clips, which = np.unique(where, return_inverse=True)
                sums = np.zeros((len(clips), self.dim))
                goes_on = is_kept[clips]
                sums[goes_on] = kept[slot[clips[goes_on]]]
                self._add(sums, which, rows)
                kept[slot[clips[goes_on]]] = sums[goes_on]
                ends = last[clips] == number
                values[clips[ends]] = self._mean(sums[ends], counts[clips[ends]])

    def _add(self, sums: np.ndarray, which: np.ndarray, rows: np.ndarray) -> None:
        dim = rows.shape[1]
        np.add.at(sums[:, :dim], which, rows)
        if self._has_deviation:
            np.add.at(sums[:, dim:], which, np.square(rows, dtype=np.float64))

    def _mean(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Means of clips from their sums, and behind them their deviations."""
        found = sums / counts[:, np.newaxis]
        if self._has_deviation:
            dim = self._reader.dim
            variance = found[:, dim:] - np.square(found[:, :dim])
            found[:, dim:] = np.sqrt(np.maximum(variance, 0.0))
        return found

    @property
    def _rows_per_block(self) -> int:
        return max(1, _BLOCK_BYTES // (8 * self._reader.dim))

    def _read(self) -> Iterator[tuple[int, np.ndarray]]:
        num_blocks = -(-self._reader.num_rows // self._rows_per_block)
        for _, read in self._read_some(np.arange(num_blocks)):
            yield read

    def _read_some(
        self, numbers: np.ndarray
    ) -> Iterator[tuple[int, tuple[int, np.ndarray]]]:
        """Yields the blocks of these numbers, each with its first row's number."""
        size = self._rows_per_block
        for number in np.unique(numbers).tolist():
            begin = number * size
            count = min(size, self._reader.num_rows - begin)
            yield number, (begin, self._reader.read(begin, count))

    def _new(self, name: str, shape: tuple[int, int], dtype: type) -> np.ndarray:
        """Zeros; where they are large, in a file of the scratch folder."""
        size = np.dtype(dtype).itemsize * shape[0] * shape[1]
        if self._scratch is None or size <= _HELD_BYTES:
            return np.zeros(shape, dtype)
        return new_mapped(self._scratch / name, shape, dtype)

    def _check(self, rows: np.ndarray) -> None:
        """Refuses values that are not finite, in the words of `load_embeddings`."""
        if not np.isfinite(rows).all():
            lazy: Any = _Lazy(self._reader)
            check_values(self._path, dataclasses.replace(self._rows, embeddings=lazy))

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()

    def __enter__(self) -> "Clips":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self.close()


class _Lazy:
    """Rows of a reader as `row_blocks` asks for them."""

    base = None

    def __init__(self, reader: Reader):
        self._reader = reader
        self.shape = (reader.num_rows, reader.dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice) -> np.ndarray:
        begin, stop, _ = key.indices(len(self))
        return self._reader.read(begin, stop - begin)
