"""An index as a folder: what it holds is memory-mapped, and read where it is asked for.

    index.json         kind, metric, sizes and checksums; of its own text too
    path.*, sha256.*, keys, key_rows    see `names`
    rows.f32           flat: the embeddings, float32 [n, dim]
    index.faiss        hnsw, ivfpq: what FAISS follows; of hnsw with the rows
    rows.f16           ivfpq: the rows as `approximate` stores them, float16 [n, dim]

Sizes are compared whenever it is opened, and the checksum of what FAISS follows: links
that lead astray end a process. The checksums of whole files are compared before rows
are added to them.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.collection.search import approximate, names, neighbours
from cola_msa.collection.search.approximate import GRAPH, ROWS, Approximate, Form
from cola_msa.collection.search.contract import (
    FORMAT,
    KINDS,
    Nearest,
    Recall,
    SearchError,
)
from cola_msa.collection.search.neighbours import METRICS, NeighbourError
from cola_msa.collection.table.read import check_metadata
from cola_msa.system import files, folders
from cola_msa.values.reading import read_json

VERSION = 2
STATE = "index.json"
FLAT_ROWS = "rows.f32"
WHAT = "an index of search build"
_OWN = {"flat": (FLAT_ROWS,), "hnsw": (GRAPH,), "ivfpq": (GRAPH, ROWS)}
_MAX_STATE_BYTES = 64 << 20
_MAX_ROWS, _MAX_DIM = 1 << 40, 1 << 24
_ADVICE = "build the index again"
_READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class State:
    """What STATE says.

    Attributes:
        kind: One of KINDS.
        metric: `cosine` or `euclidean`.
        num_rows: n.
        dim: Values of a row.
        metadata: What is known of the encoder.
        form: How rows are stored; of a flat index nothing.
        effort: Of a search, see `Approximate.nearest`; 0 for flat.
        recall: With that effort; None for flat.
        settings: What FAISS was told, for people.
    """

    kind: str
    metric: str
    num_rows: int
    dim: int
    metadata: dict[str, Any]
    form: Form
    effort: int = 0
    recall: Recall | None = None
    settings: dict[str, int] = dataclasses.field(default_factory=dict)


def file_names(kind: str) -> tuple[str, ...]:
    """The files of an index beside STATE."""
    return (*names.FILES, *_OWN[kind])


def listing(folder: pathlib.Path) -> set[str] | None:
    """The files of an index; None where it is none. For `system.folders`."""
    with contextlib.suppress(SearchError):
        content = read_json(folder / STATE, SearchError, max_bytes=_MAX_STATE_BYTES)
        if content.get("format") == FORMAT and content.get("kind") in KINDS:
            return {STATE, *file_names(content["kind"])}
    return None


def write_state(folder: pathlib.Path, state: State) -> None:
    """Writes STATE, last: sizes and checksums of the files that lie in the folder."""
    described = {}
    for name in file_names(state.kind):
        path = folder / name
        size = path.stat().st_size
        head = _head_bytes(state, name, size)
        whole = files.file_sha256(path)
        described[name] = {
            "bytes": size,
            "sha256": whole,
            "head_bytes": head,
            "head_sha256": whole if head == size else _head_sha256(path, head),
        }
    centre = state.form.centre
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": state.kind,
        "metric": state.metric,
        "num_rows": state.num_rows,
        "dim": state.dim,
        "metadata": state.metadata,
        "scale": state.form.scale,
        "centre": None if centre is None else centre.tolist(),
        "effort": state.effort,
        "recall": None if state.recall is None else dataclasses.asdict(state.recall),
        "settings": state.settings,
        "files": described,
    }
    content["sha256"] = _own_sha256(content)
    files.write_json(folder / STATE, content)


def _own_sha256(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _head_bytes(state: State, name: str, size: int) -> int:
    """How much of a file is compared with its checksum whenever it is opened."""
    if name != GRAPH:
        return 0
    return approximate.head_bytes(state.kind, size, state.num_rows, state.dim)


def _head_sha256(path: pathlib.Path, count: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while count and (part := file.read(min(count, _READ_BYTES))):
            found.update(part)
            count -= len(part)
    return found.hexdigest()


def read_state(folder: pathlib.Path) -> tuple[State, dict[str, Any]]:
    """Reads STATE, and compares what lies in the folder with it.

    Returns:
        What it says, and of each file `bytes` and `sha256`.

    Raises:
        SearchError: If the folder is no index, or damaged.
    """
    path = folder / STATE
    if not path.is_file():
        raise SearchError(
            f"{folder}: a folder without {STATE}, and no index; python -m "
            "cola_msa.search build makes one"
        )
    content = read_json(path, SearchError, _ADVICE, max_bytes=_MAX_STATE_BYTES)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise SearchError(
            f"{path}: format {content.get('format')!r:.40} "
            f"{content.get('version')!r:.40}, not {FORMAT!r} {VERSION}; {_ADVICE}"
        )
    if content.get("sha256") != _own_sha256(content):
        raise SearchError(f"{path}: damaged, its checksum is another; {_ADVICE}")
    state = read_json(
        path, SearchError, _ADVICE, max_bytes=_MAX_STATE_BYTES, check=_parse
    )
    check_metadata(path, state.metadata)
    for name in file_names(state.kind):
        _check_file(folder / name, state, content["files"].get(name))
    return state, content["files"]


def _parse(content: dict[str, Any]) -> State:
    recall = content["recall"]
    centre = content["centre"]
    state = State(
        kind=content["kind"],
        metric=content["metric"],
        num_rows=content["num_rows"],
        dim=content["dim"],
        metadata=content["metadata"],
        form=Form(
            content["metric"],
            float(content["scale"]),
            None if centre is None else np.asarray(centre, np.float32),
        ),
        effort=content["effort"],
        recall=None if recall is None else Recall(**recall),
        settings=dict(content["settings"]),
    )
    if state.kind not in KINDS or state.metric not in METRICS:
        raise ValueError(f"kind {state.kind!r}, metric {state.metric!r}")
    numbers = (state.num_rows, state.dim, state.effort)
    if any(type(number) is not int for number in numbers) or not (
        1 <= state.num_rows <= _MAX_ROWS
        and 1 <= state.dim <= _MAX_DIM
        and 0 <= state.effort <= _MAX_ROWS
    ):
        raise ValueError(f"rows, values and effort are {numbers}")
    is_moved = state.kind != "flat" and state.metric == "euclidean"
    centre = state.form.centre
    if (centre is not None) != is_moved or (
        centre is not None
        and (centre.shape != (state.dim,) or not np.isfinite(centre).all())
    ):
        raise ValueError("centre does not fit")
    if not (math.isfinite(state.form.scale) and state.form.scale > 0):
        raise ValueError(f"scale {state.form.scale}")
    if not isinstance(content["files"], dict):
        raise ValueError("files is no object")
    if (state.recall is None) != (state.kind == "flat"):
        raise ValueError("recall does not fit")
    if state.recall is not None:
        shown = dataclasses.astuple(state.recall)
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in shown):
            raise ValueError(f"recall {shown}")
    return state


def _check_file(path: pathlib.Path, state: State, described: Any) -> None:
    if not path.is_file():
        raise SearchError(f"{path}: is missing; {_ADVICE}")
    size = path.stat().st_size
    head = _head_bytes(state, path.name, size)
    rows = state.num_rows * state.dim
    wanted = {FLAT_ROWS: 4 * rows, ROWS: 2 * rows}.get(path.name, size)
    if (
        not isinstance(described, dict)
        or described.get("bytes") != size
        or size != wanted
        or head < 0
        or described.get("head_bytes") != head
    ):
        raise SearchError(f"{path}: has {size:,} bytes, and not its own; {_ADVICE}")
    if head and described.get("head_sha256") != _head_sha256(path, head):
        raise SearchError(f"{path}: damaged, its checksum is another; {_ADVICE}")


def check_whole(folder: pathlib.Path, described: dict[str, Any]) -> None:
    """Compares whole files with their checksums; minutes where they are large.

    Raises:
        SearchError: If one is damaged.
    """
    for name, each in described.items():
        if files.file_sha256(folder / name) != each.get("sha256"):
            raise SearchError(
                f"{folder / name}: damaged, its checksum is another; {_ADVICE}"
            )


class FolderIndex:
    """An index in a folder. See `contract.Index`.

    Attributes:
        folder: Where it lies.
        state: What it says of itself.
        described: Sizes and checksums of its files.
        names: Its paths and hashes.
    """

    def __init__(self, folder: str | os.PathLike):
        """Opens an index; nothing large is read.

        Raises:
            SearchError: If the folder is no index, or damaged.
            NeighbourError: If it needs FAISS, which is missing.
        """
        self.folder = pathlib.Path(folder)
        self.state, self.described = read_state(self.folder)
        state = self.state
        self.kind, self.metric = state.kind, state.metric
        self.num_rows, self.dim = state.num_rows, state.dim
        self.metadata, self.recall = state.metadata, state.recall
        self.names = names.Names(self.folder, state.num_rows)
        shape = (state.num_rows, state.dim)
        if state.kind == "flat":
            self.rows = np.memmap(self.folder / FLAT_ROWS, "<f4", "r", 0, shape)
            return
        path = self.folder / GRAPH
        graph = approximate.read_graph(path, state.kind)
        approximate.check_graph(graph, path, state.kind, *shape, state.metric)
        if state.kind == "hnsw":  # its rows are the end of FAISS's file
            head = int(self.described[GRAPH]["head_bytes"])
            self.rows = np.memmap(path, "<f2", "r", head, shape)
        else:
            self.rows = np.memmap(self.folder / ROWS, "<f2", "r", 0, shape)
        self._near = Approximate(graph, state.kind, self.rows, state.form)

    def find_row(self, file: str) -> int | None:
        """The row of a file; see `Names.find`."""
        return self.names.find(file)

    def find_path(self, path: str) -> int | None:
        """The row of a path as it stands in the index, whatever lies on the disk."""
        return self.names.find_path(path)

    def path(self, row: int) -> str:
        """The path of a row."""
        return self.names.text("path", row)

    def vector(self, row: int) -> np.ndarray:
        """The embedding of a row, float64 [dim]; as the index holds it."""
        values = self.rows[row]
        if not np.isfinite(values).all():
            raise SearchError(f"{self.folder}: row {row} is not finite: {_ADVICE}")
        return self.state.form.restore(values)

    def nearest(
        self,
        queries: Sequence[np.ndarray],
        num_results: int,
        skip: Sequence[int],
        backend: str = "auto",
    ) -> Nearest:
        """Finds the nearest rows of each query; see `contract.Index`."""
        if self.kind == "flat":
            for query in queries:
                neighbours.check_query(query, self.dim, num_results, self.metric)
            return neighbours.find_in_blocks(
                self.rows, queries, num_results, skip, self.metric, backend
            )
        if backend == "sklearn":
            raise NeighbourError(
                f"--backend=sklearn: an index of kind {self.kind} is searched by "
                "FAISS; leave the flag out"
            )
        return self._near.nearest(queries, num_results, skip, self.state.effort)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields embeddings as they are held, float64, each with its first row."""
        count = max(1, (16 << 20) // (8 * self.dim))
        for first in range(0, self.num_rows, count):
            yield first, self.state.form.restore(self.rows[first : first + count])


def check_output(path: str | os.PathLike) -> None:
    """Refuses a name for an index in a folder, before the work begins.

    Raises:
        FileError: If something else than an index is there.
    """
    folders.check_replaceable(path, listing, WHAT)
