"""The index file of `search`: clips, their embeddings, and which encoder made them."""

import dataclasses
import json
import os
import pathlib
import unicodedata
import zipfile

import numpy as np

from cola_msa.collection.search.neighbours import METRICS
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
from cola_msa.system import folders
from cola_msa.system.errors import UsageError, UserError
from cola_msa.system.files import file_sha256
from cola_msa.values import arrays as arrays_lib
from cola_msa.values.names import escape, unescape

FORMAT = "cola_msa search index"
VERSION = 1


class SearchError(UserError):
    """An index or a query that cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class SearchIndex:
    """Clips to search among.

    Attributes:
        table: One row a clip.
        metric: `cosine` or `euclidean`.
    """

    table: Embeddings
    metric: str

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

    folders.check_file(path, is_index, "an index of search build")


def build_index(embeddings: str | os.PathLike, metric: str) -> SearchIndex:
    """Makes an index of a file of embeddings; windows are averaged to clips.

    Raises:
        EmbeddingFileError: If the file cannot be read.
    """
    return SearchIndex(load_embeddings(embeddings), metric)


def load_index(path: pathlib.Path) -> SearchIndex:
    """Reads an index; its embeddings stay in the file, memory-mapped.

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


def describe(index: SearchIndex) -> str:
    """What an index holds, in a line."""
    model = index.table.model_hash
    return (
        f"{len(index.table.paths)} clips, {index.table.embeddings.shape[1]} values "
        f"each, metric {index.metric}, model {model[:12] if model else 'not recorded'}"
    )


def find_row(table: Embeddings, file: str) -> int | None:
    """The row of a file: the same path, the same place on the disk, or its content.

    Last, a path that differs in how its characters are composed, if there is but one.
    """
    if escape(file) in table.paths:
        return table.paths.index(escape(file))
    real = os.path.realpath(file)
    for row, path in enumerate(table.paths):
        if os.path.realpath(unescape(path)) == real:
            return row
    if os.path.isfile(file):
        digest = file_sha256(file)
        if digest in table.sha256:
            return table.sha256.index(digest)
    name = unicodedata.normalize("NFC", escape(file))
    equal = [
        row
        for row, path in enumerate(table.paths)
        if unicodedata.normalize("NFC", path) == name
    ]
    return equal[0] if len(equal) == 1 else None
