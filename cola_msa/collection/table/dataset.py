"""A dataset of embeddings: a folder of Parquet files that are read as one table.

`embed --output=FOLDER` writes `part-00000-of-00012.parquet` and so on, each a file as
any other; what other programs write counts too, whatever its files are called, and in
folders of the folder. As everywhere with Parquet, names that begin with `_` or `.` are
no part of the table.
"""

import bisect
import collections
import contextlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.collection.table.checks import NUMBERS, TEXTS, EmbeddingFileError
from cola_msa.collection.table.parquet import ParquetReader

SUFFIX = ".parquet"
# What decides the values of embeddings: the same in all shards of a dataset.
SETTINGS = (
    "model_hash",
    "frontend",
    "per",
    "hop_seconds",
    "embedding_dim",
    "clip_embedding",
)
_NUMBERED = re.compile(r"(.*?)(\d+)-of-(\d+)(\D*)\.parquet", re.DOTALL | re.IGNORECASE)
_MAX_OPEN = 4  # shards; each keeps a row group in memory
_SHOWN = 3


def list_shards(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The files of a dataset, in order.

    Args:
        folder: Its folder; shards may lie in folders of it, at any depth.

    Raises:
        EmbeddingFileError: If there is none, it cannot be searched, or of N numbered
            ones some are missing or too many.
    """
    folder = pathlib.Path(folder)
    names = sorted(_find(folder), key=_order)
    if not names:
        raise EmbeddingFileError(
            f"{folder}: a folder without a {SUFFIX} file; python -m cola_msa.embed "
            "--output=FOLDER writes a folder of embeddings"
        )
    _check_numbers(folder, names)
    return [folder / name for name in names]


def _find(folder: pathlib.Path) -> Iterator[str]:
    """Paths of Parquet files, relative to the folder; links to folders are followed."""

    def stop(error: OSError) -> None:
        raise EmbeddingFileError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error})"
        ) from error

    visited = set()
    for root, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        for name in files:
            if name[0] in "._" or not name.lower().endswith(SUFFIX):
                continue
            path = os.path.join(root, name)
            if not os.path.isfile(path):  # to open a named pipe waits for its writer
                raise EmbeddingFileError(
                    f"{path}: is no file; a folder of embeddings holds shards: move it "
                    "away"
                )
            yield os.path.relpath(path, folder)


def _order(name: str) -> tuple[Any, ...]:
    """Sorts by folder, then by name; numbered shards by their numbers."""
    parent, base = os.path.split(name)
    numbered = _NUMBERED.fullmatch(base)
    if numbered is None:
        return parent, base, 0, base
    return parent, numbered[1], int(numbered[2]), base


def _check_numbers(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Refuses numbered shards where one is missing, or one too many.

    Rows would be, in silence.
    """
    found: dict[tuple[str, ...], dict[str, dict[int, str]]] = {}
    for name in names:
        parent, base = os.path.split(name)
        if numbered := _NUMBERED.fullmatch(base):
            series = found.setdefault((parent, numbered[1], numbered[4]), {})
            others = series.setdefault(numbered[3], {})
            other = others.setdefault(int(numbered[2]), name)
            if other is not name:
                raise EmbeddingFileError(
                    f"{folder}: {other} and {name} have the same number: move one away"
                )
    for (parent, before, after), series in found.items():
        if len(series) > 1:
            totals = " and ".join(sorted(series, key=int))
            raise EmbeddingFileError(
                f"{folder / parent}: holds shards of {totals}, of runs with different "
                "inputs: the same embed command goes on; or move one run's away"
            )
        ((total, numbers),) = series.items()
        if len(numbers) == int(total) == max(numbers) and min(numbers) == 1:
            continue  # of a program that counts from 1
        if (last := max(numbers)) >= int(total):
            raise EmbeddingFileError(
                f"{folder}: {numbers[last]} is no shard of {int(total)}, which are "
                "numbered from 0: move it away, or give it a name without a number"
            )
        missing = itertools.filterfalse(numbers.__contains__, range(int(total)))
        shown = [
            os.path.join(
                parent, f"{before}{number:0{len(total)}d}-of-{total}{after}{SUFFIX}"
            )
            for number in itertools.islice(missing, _SHOWN)
        ]
        if shown:
            count = int(total) - len(numbers)
            raise EmbeddingFileError(
                f"{folder}: {', '.join(shown)} {'is' if count == 1 else 'are'} missing"
                + (f" ({count:,} in all)" if count > len(shown) else "")
                + "; the embed command that wrote the others makes what is missing"
            )


class DatasetReader:
    """A dataset, read as one file. See `checks.Reader`.

    Attributes:
        paths: Its shards, in order.
    """

    def __init__(self, folder: pathlib.Path):
        """Opens and checks every shard, as far as it can be without its values.

        Raises:
            EmbeddingFileError: If one is missing, cannot be used, or is another
                encoder's than the first.
        """
        self.paths = list_shards(folder)
        self._open: collections.OrderedDict[int, ParquetReader] = (
            collections.OrderedDict()
        )
        self._ends: list[int] = []
        self.num_rows, self.dim = 0, 0
        self._metadata: str | bytes | None = None
        try:
            for number, path in enumerate(self.paths):
                self._check(path, self._shard(number))
        except BaseException:
            self.close()
            raise

    def _check(self, path: pathlib.Path, shard: ParquetReader) -> None:
        """Takes a shard in, unless it is not like the first."""
        text = shard.metadata()
        settings = _settings(text)
        if not self._ends:
            self._metadata, self._settings = text, settings
        differing = [
            name
            for name in self._settings.keys() | settings.keys()
            if self._settings.get(name) != settings.get(name)
        ]
        if differing:
            raise EmbeddingFileError(
                f"{path}: was made with another {', '.join(sorted(differing))} than "
                f"{self.paths[0]}; a folder holds the embeddings of one encoder: move "
                "the others away"
            )
        # An empty list tells of no number of values.
        if shard.num_rows or not self.dim:
            if self.num_rows and shard.dim != self.dim:
                raise EmbeddingFileError(
                    f"{path}: its embeddings have {shard.dim} values, and those of "
                    f"the shards before it {self.dim}"
                )
            self.dim = shard.dim
        self.num_rows += shard.num_rows
        self._ends.append(self.num_rows)

    def _shard(self, number: int) -> ParquetReader:
        """A shard's reader; those that were used last stay open."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[number] = ParquetReader(self.paths[number])
        return self._open[number]

    def metadata(self) -> str | bytes | None:
        """JSON that says what made it; None where there is none."""
        return self._metadata

    def columns(self) -> dict[str, Any]:
        """Reads all but the embeddings: lists of str, arrays of float64, by name."""
        found: dict[str, Any] = {name: [] for name in (*TEXTS, *NUMBERS)}
        for number in range(len(self.paths)):
            for name, values in self._unchanged(number).columns().items():
                found[name] += values if name in TEXTS else [values]
        for name in NUMBERS:
            found[name] = np.concatenate([np.zeros(0), *found[name]])
        return found

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Reads embeddings, float32 [num_rows, dim]."""
        found, done = np.zeros((num_rows, self.dim), np.float32), 0
        while done < num_rows:
            row = first_row + done
            number = bisect.bisect_right(self._ends, row)
            count = min(num_rows - done, self._ends[number] - row)
            offset = row - self._first_row(number)
            found[done : done + count] = self._unchanged(number).read(offset, count)
            done += count
        return found

    def _first_row(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _unchanged(self, number: int) -> ParquetReader:
        """A shard, unless another file has its name by now: rows would be others'."""
        shard = self._shard(number)
        num_rows = self._ends[number] - self._first_row(number)
        if shard.num_rows != num_rows or (num_rows and shard.dim != self.dim):
            raise EmbeddingFileError(
                f"{self.paths[number]}: was replaced while it was read; run it again"
            )
        return shard

    def close(self) -> None:
        """Closes the files."""
        while self._open:
            self._open.popitem()[1].close()


def _settings(text: str | bytes | None) -> dict[str, Any]:
    """What a shard's metadata say of how its values were made."""
    found: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text or "{}")
    if not isinstance(found, dict):
        return {"metadata": text}
    # As text: not a number differs from itself.
    return {n: json.dumps(found[n]) for n in SETTINGS if found.get(n) is not None}
