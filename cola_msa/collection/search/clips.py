"""Clips of a table of embeddings, block by block: windows are averaged to them.

What `load_embeddings` gives, to the bit, in memory that does not grow with the values
of the rows. Rows of one path need not stand together: sums lie in a file where they
would be large.
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
    open_reader,
    parse_metadata,
)
from cola_msa.system.console import progress_bar
from cola_msa.values.arrays import row_blocks

_BLOCK_BYTES = 32 << 20  # of the values that are read at once
_SUMS_BYTES = 256 << 20  # sums of windows in memory; more lie in a file


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
        scratch: pathlib.Path,
        is_quiet: bool = True,
    ):
        """Reads all but the embeddings; of windows, these too.

        Args:
            path: A file or a dataset of embeddings.
            scratch: A folder for sums of windows, which are large.
            is_quiet: Without a progress bar.

        Raises:
            EmbeddingFileError: As `load_embeddings`.
        """
        self._path = path
        self._is_quiet = is_quiet
        self._reader = open_reader(path)
        try:
            self._open(scratch)
        except BaseException:
            self.close()
            raise

    def _open(self, scratch: pathlib.Path) -> None:
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
        clip = np.array([first.setdefault(p, len(first)) for p in rows.paths], int)
        self._has_deviation = (
            self.metadata.get("per") == "window"
            and self.metadata.get("clip_embedding") == "moments"
        )
        self._counts: np.ndarray | None = None
        if len(first) < len(rows.paths) or self._has_deviation:
            self._counts = np.bincount(clip)
        pooled = rows.per_clip() if self._counts is not None else rows
        self.paths, self.sha256 = pooled.paths, pooled.sha256
        self.starts, self.seconds = pooled.starts, pooled.seconds
        self.num_rows = len(self.paths)
        self.dim = reader.dim * (2 if self._has_deviation else 1)
        if self._counts is not None:
            self._add_up(clip, scratch)

    def _add_up(self, clip: np.ndarray, scratch: pathlib.Path) -> None:
        """Sums of each clip's windows and of their squares, in order of the rows."""
        self._sums: list[np.ndarray] = []
        shape = (self.num_rows, self._reader.dim)
        for name in ("sums", "squares") if self._has_deviation else ("sums",):
            if 8 * shape[0] * shape[1] <= _SUMS_BYTES:
                self._sums.append(np.zeros(shape))
            else:
                self._sums.append(np.memmap(scratch / name, "f8", "w+", shape=shape))
        title = f"reading {os.path.basename(self._path)}"
        with progress_bar(len(clip), title, "rows", not self._is_quiet) as bar:
            for begin, rows in self._read():
                of = clip[begin : begin + len(rows)]
                np.add.at(self._sums[0], of, rows)
                if self._has_deviation:
                    np.add.at(self._sums[1], of, np.square(rows, dtype=np.float64))
                bar.update(len(rows))

    def _read(self) -> Iterator[tuple[int, np.ndarray]]:
        count = max(1, _BLOCK_BYTES // (8 * self._reader.dim))
        for begin in range(0, self._reader.num_rows, count):
            size = min(count, self._reader.num_rows - begin)
            yield begin, self._reader.read(begin, size)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields embeddings, float32 [b, dim], each with its first row's number.

        Raises:
            EmbeddingFileError: If a value is not finite; the message says whose.
        """
        for begin, rows in self._read() if self._counts is None else self._means():
            if not np.isfinite(rows).all():
                self._refuse()
            yield begin, rows

    def _means(self) -> Iterator[tuple[int, np.ndarray]]:
        assert self._counts is not None
        for begin, sums in row_blocks(self._sums[0]):
            part = slice(begin, begin + len(sums))
            count = self._counts[part, np.newaxis]
            means = sums / count
            if self._has_deviation:
                variance = self._sums[1][part] / count - np.square(means)
                deviation = np.sqrt(np.maximum(variance, 0.0))
                means = np.concatenate([means, deviation], axis=1)
            yield begin, means.astype(np.float32)

    def _refuse(self) -> None:
        """Names the first row that is not finite, and how many there are."""
        lazy: Any = _Lazy(self._reader)
        check_values(self._path, dataclasses.replace(self._rows, embeddings=lazy))

    def load(self) -> Embeddings:
        """All of them, in memory."""
        values = np.empty((self.num_rows, self.dim), np.float32)
        for begin, rows in self.blocks():
            values[begin : begin + len(rows)] = rows
        return Embeddings(
            self.paths, self.sha256, self.starts, self.seconds, values, self.metadata
        )

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
