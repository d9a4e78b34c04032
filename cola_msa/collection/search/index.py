"""An index as one file, .npz: flat, and exact. Opens indices of any kind."""

import contextlib
import dataclasses
import json
import os
import pathlib
import unicodedata
import zipfile
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from cola_msa.collection.search.contract import FORMAT, Index, Nearest, SearchError
from cola_msa.collection.search.folder import FolderIndex
from cola_msa.collection.search.names import place
from cola_msa.collection.search.neighbours import METRICS, find_in_blocks
from cola_msa.collection.table.checks import (
    COLUMNS,
    EmbeddingFileError,
    check_columns,
    check_texts,
)
from cola_msa.collection.table.npz import column_of
from cola_msa.collection.table.read import (
    Embeddings,
    check_metadata,
    check_values,
    load_embeddings,
    open_reader,
)
from cola_msa.system.errors import UsageError
from cola_msa.system.files import file_sha256
from cola_msa.system.folders import check_file
from cola_msa.values import arrays as arrays_lib
from cola_msa.values.names import escape, unescape

VERSION = 1
SUFFIX = ".npz"
_MOST_TRIES = 10  # to open an index that others replace


@dataclasses.dataclass(frozen=True)
class SearchIndex:
    """Clips to search among. See `contract.Index`.

    Attributes:
        table: One row a clip.
        metric: `cosine` or `euclidean`.
    """

    table: Embeddings
    metric: str
    kind: ClassVar[str] = "flat"
    recall: ClassVar[None] = None

    @property
    def num_rows(self) -> int:
        """How many clips there are."""
        return len(self.table.paths)

    @property
    def dim(self) -> int:
        """Values of an embedding."""
        return self.table.embeddings.shape[1]

    @property
    def metadata(self) -> dict[str, Any]:
        """What is known of the encoder."""
        return self.table.metadata

    def find_row(self, file: str) -> int | None:
        """The row of a file; see the function of this name."""
        return find_row(self.table, file)

    def find_path(self, path: str) -> int | None:
        """The row of a path as it stands in the index, whatever lies on the disk."""
        return find_path(self.table, path)

    def path(self, row: int) -> str:
        """The path of a row."""
        return self.table.paths[row]

    def vector(self, row: int) -> np.ndarray:
        """The embedding of a row, float32 [dim]."""
        return self.table.embeddings[row]

    def nearest(
        self,
        queries: Sequence[np.ndarray],
        num_results: int,
        skip: Sequence[int],
        backend: str = "auto",
    ) -> Nearest:
        """Finds the nearest rows of each query; see `contract.Index`."""
        return find_in_blocks(
            self.table.embeddings, queries, num_results, skip, self.metric, backend
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index as .npz, whole or not at all.

        Raises:
            SearchError, FileError: As `check_output`.
            RunError: If it cannot be written.
        """
        check_output(path)
        path = pathlib.Path(path)
        arrays = {
            "path": np.array(self.table.paths, np.str_),
            "sha256": np.array(self.table.sha256, np.str_),
            "start": self.table.starts,
            "seconds": self.table.seconds,
            "embedding": self.table.embeddings,
        }
        state = {
            "format": FORMAT,
            "version": VERSION,
            "metric": self.metric,
            "metadata": self.table.metadata,
        }
        arrays_lib.write_arrays(path, arrays, state)


def check_output(path: str | os.PathLike) -> None:
    """Refuses a name for an index, before the work begins.

    Raises:
        UsageError: If it does not end with .npz.
        FileError: If something else than an index is there.
    """
    if pathlib.Path(path).suffix != ".npz":
        raise UsageError(f"--output={path}: an index is an .npz file")

    def is_index(file: pathlib.Path) -> bool:
        return (arrays_lib.read_state(file) or {}).get("format") == FORMAT

    check_file(path, is_index, "an index of search build")


def build_index(embeddings: str | os.PathLike, metric: str) -> SearchIndex:
    """Makes an index of a file of embeddings; windows are averaged to clips.

    Raises:
        EmbeddingFileError: If the file cannot be read.
    """
    return SearchIndex(load_embeddings(embeddings), metric)


def open_index(path: str | os.PathLike) -> Index:
    """Opens an index of any kind: a folder, or a .npz file.

    Where another process puts one in its place meanwhile, it is opened again: its files
    are never of two indices.

    Raises:
        SearchError: As `load_index` and `FolderIndex`.
        NeighbourError: As `FolderIndex`.
    """
    for _ in range(_MOST_TRIES):
        before = _place(path)
        try:
            opened: Index = (
                FolderIndex(path)
                if os.path.isdir(path)
                else load_index(pathlib.Path(path))
            )
        except (SearchError, OSError):
            if _place(path) == before:
                raise
            continue
        if _place(path) == before:
            return opened
    raise SearchError(f"{path}: is replaced again and again; wait for what writes it")


def _place(path: str | os.PathLike) -> tuple[int, int] | None:
    """Which folder or file it is: builds put another in its place."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def load_index(path: pathlib.Path) -> SearchIndex:
    """Reads an index of one file; its embeddings stay in it, memory-mapped.

    Raises:
        SearchError: If there is none, or the file is another or damaged.
    """
    if not path.is_file():
        raise SearchError(
            f"{path}: there is no such index; python -m cola_msa.search build makes one"
        )
    try:
        arrays = arrays_lib.read_arrays(path, mapped=["embedding"])
        state = json.loads(str(arrays[arrays_lib.STATE]))
        if state["format"] != FORMAT or state["version"] != VERSION:
            raise ValueError(f"format {state['format']!r} {state['version']}")
        if state["metric"] not in METRICS:
            raise ValueError(f"metric {state['metric']!r}")
        columns = {name: arrays[name] for name in COLUMNS}
        check_columns(
            path, {n: column_of(c.shape, c.dtype) for n, c in columns.items()}
        )
        check_metadata(path, state["metadata"])
        table = Embeddings(
            paths=tuple(check_texts(path, "path", columns["path"].tolist())),
            sha256=tuple(check_texts(path, "sha256", columns["sha256"].tolist())),
            starts=columns["start"],
            seconds=columns["seconds"],
            embeddings=columns["embedding"],
            metadata=state["metadata"],
        )
        check_values(path, table)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if _is_embeddings(path):
            raise SearchError(
                f"{path}: holds embeddings, and no index yet; python -m "
                "cola_msa.search build makes one of them"
            ) from error
        raise SearchError(
            f"{path}: not an index of python -m cola_msa.search build "
            f"({str(error).removeprefix(f'{path}: ')}); build it again"
        ) from error
    return SearchIndex(table, state["metric"])


def _is_embeddings(path: pathlib.Path) -> bool:
    """Whether it is a file of embeddings, and not an index with a damaged state."""
    try:
        open_reader(path).close()
        if not zipfile.is_zipfile(path):
            return True
        with zipfile.ZipFile(path) as archive:
            return f"{arrays_lib.STATE}.npy" not in archive.namelist()
    except (EmbeddingFileError, OSError, zipfile.BadZipFile):
        return False


def find_row(table: Embeddings, file: str) -> int | None:
    """The row of a file: the same path, the same place on the disk, or its content.

    Last, a path that differs in how its characters are composed, if there is but one.
    """
    if escape(file) in table.paths:
        return table.paths.index(escape(file))
    folders: dict[str, str] = {}
    real = place(file, folders)
    for row, path in enumerate(table.paths):
        if place(unescape(path), folders) == real:
            return row
    if os.path.isfile(file):
        digest = file_sha256(file)
        if digest in table.sha256:
            return table.sha256.index(digest)
    return find_path(table, escape(file))


def find_path(table: Embeddings, path: str) -> int | None:
    """The row of a path, or of the only one that is composed otherwise."""
    if path in table.paths:
        return table.paths.index(path)
    name = unicodedata.normalize("NFC", path)
    equal = [
        row
        for row, other in enumerate(table.paths)
        if unicodedata.normalize("NFC", other) == name
    ]
    return equal[0] if len(equal) == 1 else None
