"""Neighbours without comparing with every row: HNSW and IVF-PQ, by FAISS.

Rows are stored as they are compared: of length 1 for cosines, moved and scaled for
Euclidean distances, in float16. FAISS proposes rows; their scores are computed in
double precision from what is stored, so that they are right to about 3 digits behind
the largest one, and so is their order.

Source: Malkov and Yashunin 2018 (HNSW); Jegou et al. 2011 (IVF-PQ).
"""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.collection.search.contract import Nearest, SearchError
from cola_msa.collection.search.locality import (
    WRITE_BYTES,
    inverse,
    near_order,
    release,
)
from cola_msa.collection.search.neighbours import (
    NeighbourError,
    check_query,
    choose_backend,
    find_in_blocks,
    in_order,
    unit_rows,
)
from cola_msa.values.arrays import write_raw

GRAPH, ROWS = "index.faiss", "rows.f16"
FEWEST_ROWS = {"hnsw": 1, "ivfpq": 1000}
SAMPLE_BYTES = 384 << 20  # of the rows that an IVF-PQ index is trained with
LEAST_EFFORT, MOST_EFFORT = {"hnsw": 32, "ivfpq": 4}, {"hnsw": 4096, "ivfpq": 512}
_SPARE = 9  # more rows than wanted are asked for: FAISS rounds their scores
_SURE = 32  # more rows than wanted are compared in double precision
_CANDIDATES = 100  # rows compared in float16 for each list that an IVF-PQ looks into
_LINKS, _CONSTRUCTION = 24, 128  # HNSW's M and efConstruction
_PER_CENTRE = 39  # rows for each list of an IVF-PQ index: fewer are no sample of it
_PART_DIM = 8  # values that a byte of IVF-PQ stands for
_FARTHEST = 1e15  # of a query: float32 holds its squares
_ROUNDS = 10  # of k-means
_CHECK_ROWS = 1 << 16  # whose links are looked at together
_RANGE = 1024.0  # what the largest value becomes: float16 is finest there


@dataclasses.dataclass(frozen=True)
class Form:
    """How rows are stored.

    Attributes:
        metric: `cosine` or `euclidean`.
        scale: What Euclidean rows are multiplied by, after `centre` was subtracted.
        centre: float32 [dim]; None for cosines.
    """

    metric: str
    scale: float = 1.0
    centre: np.ndarray | None = None

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Rows as they are stored, before they are rounded; float64 [n, dim]."""
        if self.centre is None:
            return unit_rows(rows)
        return (np.asarray(rows, np.float64) - self.centre) * self.scale

    def restore(self, rows: np.ndarray) -> np.ndarray:
        """What `store` was given, float64; of cosines with length 1."""
        rows = np.asarray(rows, np.float64)
        return rows if self.centre is None else rows / self.scale + self.centre

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores of stored rows for a stored query, float64 [n]; not scaled back."""
        rows = np.asarray(rows, np.float64)
        if self.metric == "cosine":
            return np.einsum("nd,d->n", unit_rows(rows), query)
        return np.linalg.norm(rows - query, axis=-1)

    def rough(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What is least where a row is nearest, in single precision, float32 [n]."""
        values, asked = rows.astype(np.float32), query.astype(np.float32)
        # No product of BLAS: its threads wait for each other longer than they count.
        if self.metric == "cosine":
            return -np.einsum("nd,d->n", values, asked)
        values -= asked
        return np.einsum("nd,nd->n", values, values)


def find_form(metric: str, blocks: Iterator[tuple[int, np.ndarray]], dim: int) -> Form:
    """How the rows of blocks are stored, so that float16 holds them well."""
    if metric == "cosine":
        return Form(metric)
    low, high = np.full(dim, np.inf), np.full(dim, -np.inf)
    for _, rows in blocks:
        low = np.minimum(low, rows.min(axis=0))
        high = np.maximum(high, rows.max(axis=0))
    # In the middle, so that rows that lie far from 0 differ in what is stored.
    centre = ((low + high) / 2).astype(np.float32)
    largest = float(np.maximum(high - centre, centre - low).max())
    scale = 2.0 ** math.floor(math.log2(_RANGE / largest)) if largest > 0 else 1.0
    return Form(metric, scale, centre)


def import_faiss() -> Any:
    """Imports the extra.

    Raises:
        NeighbourError: If it is missing.
    """
    try:
        # Which of its builds it loads is no news to a user.
        logging.getLogger("faiss.loader").setLevel(logging.WARNING)
        import faiss
    except ModuleNotFoundError as error:
        raise NeighbourError(
            "indices of kind hnsw and ivfpq need FAISS: pip install "
            "'cola_msa[search]', or build one with --index=flat"
        ) from error
    return faiss


def _metric(faiss: Any, metric: str) -> int:
    is_cosine = metric == "cosine"
    return faiss.METRIC_INNER_PRODUCT if is_cosine else faiss.METRIC_L2


def num_samples(kind: str, num_rows: int, dim: int) -> int:
    """How many rows `new_graph` is to be given."""
    return 1 if kind == "hnsw" else min(num_rows, max(1, SAMPLE_BYTES // (4 * dim)))


def new_graph(kind: str, num_rows: int, metric: str, sample: np.ndarray) -> Any:
    """A FAISS index without rows, ready for them.

    Args:
        kind: `hnsw` or `ivfpq`.
        num_rows: How many it will have.
        metric: `cosine` or `euclidean`.
        sample: float32 [s, dim], stored rows of its kind.
    """
    faiss = import_faiss()
    dim = sample.shape[1]
    measure = _metric(faiss, metric)
    if kind == "hnsw":
        coding = faiss.ScalarQuantizer.QT_fp16
        graph = faiss.IndexHNSWSQ(dim, coding, _LINKS, measure)
        graph.hnsw.efConstruction = _CONSTRUCTION
        graph.train(sample)  # of float16 nothing is learnt
        # At once: a vector that grows holds its values twice.
        codes = faiss.downcast_index(graph.storage).codes
        codes.resize(num_rows * dim * 2)
        codes.resize(0)
        return graph
    num_lists = 2 ** round(math.log2(2 * math.sqrt(num_rows)))
    num_lists = max(1, min(num_lists, num_rows // _PER_CENTRE))
    num_parts = next(
        m for m in range(math.ceil(dim / _PART_DIM), dim + 1) if not dim % m
    )
    is_cosine = metric == "cosine"
    lists = faiss.IndexFlatIP(dim) if is_cosine else faiss.IndexFlatL2(dim)
    graph = faiss.IndexIVFPQ(lists, dim, num_lists, num_parts, 8, measure)
    for settings in (graph.cp, graph.pq.cp):
        settings.niter = _ROUNDS
        settings.min_points_per_centroid = 1  # fewer are told of on stderr
        settings.max_points_per_centroid = max(1, len(sample))
    graph.pq.cp.max_points_per_centroid = 128
    graph.train(sample)
    return graph


def settings_of(graph: Any) -> dict[str, int]:
    """What an index was built with, for people."""
    if hasattr(graph, "hnsw"):
        return {"links": _LINKS, "construction": _CONSTRUCTION}
    return {"lists": graph.nlist, "bytes_per_row": graph.pq.M}


def find_order(graph: Any) -> np.ndarray:
    """An order for rows, int64 [n], in which those that a query looks at lie together.

    Of IVF-PQ those of a list one after another, of HNSW as `near_order` says.
    """
    faiss = import_faiss()
    if not hasattr(graph, "hnsw"):
        return np.concatenate([ids.copy() for ids in _list_ids(faiss, graph)])
    hnsw = graph.hnsw
    links = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())
    starts = faiss.vector_to_array(hnsw.offsets)[:-1].astype(np.int64)
    return near_order(links, starts, hnsw.nb_neighbors(0))


def write_graph(
    graph: Any, path: pathlib.Path, order: np.ndarray | None = None
) -> None:
    """Writes a FAISS index.

    Args:
        graph: The index; of no use afterwards, where there is an order.
        path: The file.
        order: Which row comes where, from `find_order`; None as they are.

    Raises:
        OSError: If the disk cannot take it.
    """
    faiss = import_faiss()
    # FAISS itself does not look whether the end of a file was written.
    with open(path, "wb") as file:
        if order is None or not hasattr(graph, "hnsw"):
            if order is not None:
                places = inverse(order)
                for ids in _list_ids(faiss, graph):
                    ids[:] = places[ids]
            faiss.write_index(graph, faiss.PyCallbackIOWriter(file.write, WRITE_BYTES))
            return
        codes = faiss.downcast_index(graph.storage).codes
        rows = faiss.rev_swig_ptr(codes.data(), codes.size()).reshape(len(order), -1)
        graph.hnsw.permute_entries(faiss.swig_ptr(order))
        # The rows are the end of what FAISS writes; a copy of all takes their memory.
        left = _written_bytes(faiss, graph) - rows.nbytes

        def write_head(part: bytes) -> int:
            nonlocal left
            file.write(part[:left])
            left -= min(left, len(part))
            return len(part)

        faiss.write_index(graph, faiss.PyCallbackIOWriter(write_head, WRITE_BYTES))
        count = max(1, WRITE_BYTES // rows.shape[1])
        for first in range(0, len(order), count):
            write_raw(file, rows[order[first : first + count]])


def _list_ids(faiss: Any, graph: Any) -> Iterator[np.ndarray]:
    """The rows of each list of an IVF-PQ index in memory."""
    lists = faiss.downcast_InvertedLists(graph.invlists)
    for number in range(graph.nlist):
        if size := lists.list_size(number):
            yield faiss.rev_swig_ptr(lists.get_ids(number), size)


def _written_bytes(faiss: Any, graph: Any) -> int:
    size = 0

    def count(part: bytes) -> int:
        nonlocal size
        size += len(part)
        return len(part)

    faiss.write_index(graph, faiss.PyCallbackIOWriter(count, 1 << 20))
    return size


def head_bytes(kind: str, size: int, num_rows: int, dim: int) -> int:
    """Bytes of GRAPH before the rows: what a look-up follows, and must be whole."""
    return size - num_rows * dim * 2 if kind == "hnsw" else size


def read_graph(path: pathlib.Path, kind: str, is_mapped: bool = True) -> Any:
    """Opens a file of `write_graph` whose checksum was compared.

    Args:
        path: The file.
        kind: `hnsw` or `ivfpq`.
        is_mapped: Leave what is large in the file; else it can be added to.

    Raises:
        SearchError: If it is none, or damaged.
    """
    faiss = import_faiss()
    flags = faiss.IO_FLAG_MMAP_IFC if kind == "hnsw" else faiss.IO_FLAG_MMAP
    try:
        graph = faiss.read_index(os.fspath(path), flags if is_mapped else 0)
    except (RuntimeError, MemoryError, OSError) as error:
        reason = " ".join(str(error).split())[-200:]
        raise SearchError(
            f"{path}: damaged ({reason}); build the index again"
        ) from error
    if isinstance(graph, faiss.IndexIVF) and is_mapped:
        lists = faiss.downcast_InvertedLists(graph.invlists)
        lists.prefetch_nthread = 0  # else each query starts threads to read ahead
    return graph


def check_graph(
    graph: Any, path: pathlib.Path, kind: str, num_rows: int, dim: int, metric: str
) -> None:
    """Refuses a FAISS index that is another than the folder says, or leads astray.

    Its links are followed without a look at them: one to a row that is not there ends
    the process.

    Raises:
        SearchError: If it is such.
    """
    faiss = import_faiss()
    wanted = faiss.IndexHNSWSQ if kind == "hnsw" else faiss.IndexIVFPQ
    is_right = (
        type(graph) is wanted
        and graph.is_trained
        and (graph.ntotal, graph.d) == (num_rows, dim)
        and graph.metric_type == _metric(faiss, metric)
    )
    if is_right:
        check = _is_sound_hnsw if kind == "hnsw" else _is_sound_ivfpq
        is_right = check(faiss, graph, os.path.getsize(path))
    if not is_right:
        raise SearchError(
            f"{path}: damaged, or another than the folder says; build the index again"
        )


def _is_sound_hnsw(faiss: Any, graph: Any, _: int) -> bool:
    hnsw, num_rows = graph.hnsw, graph.ntotal
    storage = faiss.downcast_index(graph.storage)
    if (
        type(storage) is not faiss.IndexScalarQuantizer
        or (storage.ntotal, storage.d) != (num_rows, graph.d)
        or storage.metric_type != graph.metric_type
        or storage.sq.qtype != faiss.ScalarQuantizer.QT_fp16
        or storage.codes.size() != num_rows * graph.d * 2
    ):
        return False
    levels = faiss.vector_to_array(hnsw.levels)  # how many a row is on
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    sizes = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)  # links up to a level
    size = hnsw.neighbors.size()
    if (
        len(levels) != num_rows
        or len(offsets) != num_rows + 1
        or len(sizes) < 2
        or sizes[0] != 0
        or (np.diff(sizes) < 1).any()
        or levels.min() < 1
        or levels.max() >= len(sizes)
        or offsets[0] != 0
        or (np.diff(offsets) != sizes[levels]).any()
        or offsets[-1] != size
        or not 0 <= hnsw.entry_point < num_rows
        or levels[hnsw.entry_point] != hnsw.max_level + 1
        or levels.max() != hnsw.max_level + 1
    ):
        return False
    links = faiss.rev_swig_ptr(hnsw.neighbors.data(), size)
    for first in range(0, num_rows, _CHECK_ROWS):
        last = min(num_rows, first + _CHECK_ROWS)
        part = links[offsets[first] : offsets[last]]
        if part.min() < -1 or part.max() >= num_rows:
            return False
        # A row that is linked on a level must be there.
        for level in range(1, hnsw.max_level + 1):
            rows = first + np.flatnonzero(levels[first:last] > level)
            places = np.arange(sizes[level], sizes[level + 1])
            linked = links[offsets[rows, np.newaxis] + places]
            if (levels[linked[linked >= 0]] <= level).any():
                return False
        if not hnsw.neighbors.is_owned:
            release(part)
    return True


def _is_sound_ivfpq(faiss: Any, graph: Any, size: int) -> bool:
    pq, lists = graph.pq, faiss.downcast_InvertedLists(graph.invlists)
    centres = faiss.downcast_index(graph.quantizer)
    if (
        type(centres) not in (faiss.IndexFlatIP, faiss.IndexFlatL2)
        or (centres.ntotal, centres.d) != (graph.nlist, graph.d)
        or centres.codes.size() != graph.nlist * graph.d * 4
        or (pq.d, pq.nbits, pq.M * pq.dsub) != (graph.d, 8, graph.d)
        or pq.centroids.size() != 256 * graph.d
        or not pq.M == graph.code_size == lists.code_size
        or lists.nlist != graph.nlist
    ):
        return False
    held = [lists.list_size(number) for number in range(graph.nlist)]
    if sum(held) != graph.ntotal:
        return False
    if not isinstance(lists, faiss.OnDiskInvertedLists):
        return True
    width = graph.code_size + 8
    places = [lists.lists.at(number) for number in range(graph.nlist)]
    return lists.totsize <= size and all(
        place.size <= place.capacity
        and place.offset + place.capacity * width <= lists.totsize
        for place in places
    )


def _rows_of(graph: Any) -> np.ndarray:
    """The rows of an HNSW index as FAISS holds them, float16 [n * dim]; while it is."""
    faiss = import_faiss()
    codes = faiss.downcast_index(graph.storage).codes
    return faiss.rev_swig_ptr(codes.data(), codes.size()).view("<f2")


@contextlib.contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """FAISS on one core: for one query others only wait for each other."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class Approximate:
    """A FAISS index and the stored rows behind it."""

    def __init__(self, graph: Any, kind: str, rows: np.ndarray, form: Form):
        """Puts them together.

        Args:
            graph: Of `new_graph` or `read_graph`.
            kind: `hnsw` or `ivfpq`.
            rows: float16 [n, dim], stored; may be memory-mapped.
            form: How they are stored.
        """
        self._graph, self._kind = graph, kind
        self._rows, self._form = rows, form
        self._candidates = rows
        if kind == "hnsw":  # where FAISS has mapped them already
            self._candidates = _rows_of(graph).reshape(rows.shape)

    def nearest(
        self,
        queries: Sequence[np.ndarray],
        num_results: int,
        skip: Sequence[int],
        effort: int,
    ) -> Nearest:
        """Finds what is near each query; see `Index.nearest`.

        Args:
            queries: q of float [dim], not stored.
            num_results: k.
            skip: A row that each query must not find; -1 for none.
            effort: Of HNSW the rows that are kept in sight, of IVF-PQ the lists that
                are looked into. More where k is above 10, or too few are found.

        Raises:
            NeighbourError: If a query has another dimension or is not finite, or k is
                below 1.
            SearchError: If stored rows are damaged.
        """
        dim = self._rows.shape[1]
        found: Nearest = []
        for query, skipped in zip(queries, skip, strict=True):
            check_query(query, dim, num_results, self._form.metric)
            stored = self._form.store(query)
            found.append(self._find(stored, num_results, skipped, effort))
        return found

    def _find(
        self, query: np.ndarray, num_results: int, skipped: int, effort: int
    ) -> tuple[np.ndarray, np.ndarray]:
        num_rows = len(self._rows)
        wanted = min(num_results, num_rows - (skipped >= 0))
        if self._form.metric == "cosine" and not query.any():
            # All are alike to silence.
            first = np.arange(min(num_rows, wanted + 1))
            first = first[first != skipped][:wanted]
            return first, np.zeros(len(first))
        effort = math.ceil(effort * max(1, num_results / 10))
        while effort < num_rows:
            near = self._propose(query, wanted + 1, effort)
            near = near[near != skipped]
            if len(near) >= wanted:
                return self._in_order(query, near, wanted)
            effort *= 4  # too few can be reached from where the query leads
        return self._compare_all(query, num_results, skipped)

    def _propose(self, query: np.ndarray, wanted: int, effort: int) -> np.ndarray:
        """Different rows, in rising order."""
        faiss = import_faiss()
        if self._kind == "hnsw":
            count = wanted + _SPARE
            options = faiss.SearchParametersHNSW(efSearch=max(effort, count))
        else:
            options = faiss.SearchParametersIVF(nprobe=min(effort, self._graph.nlist))
            count = max(wanted, _CANDIDATES * effort)
        count = min(count, len(self._rows))
        values = query.clip(-_FARTHEST, _FARTHEST)[np.newaxis].astype(np.float32)
        with _one_thread(faiss):
            _, near = self._graph.search(values, count, params=options)
        return np.unique(near[(near >= 0) & (near < len(self._rows))])

    def _in_order(
        self, query: np.ndarray, near: np.ndarray, wanted: int
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = self._candidates[near]
        if len(near) > (most := wanted + _SURE):
            with np.errstate(over="ignore", invalid="ignore"):
                rough = self._form.rough(query, rows)
            kept = np.sort(np.argpartition(rough, most)[:most])
            near, rows = near[kept], rows[kept]
        scores = self._form.scores(query, rows)
        if not np.isfinite(scores).all():
            raise SearchError(
                "the index's rows are not finite: damaged; build the index again"
            )
        near, scores = in_order(near[None], scores[None], wanted, self._form.metric)
        return near[0], scores[0] / self._form.scale

    def _compare_all(
        self, query: np.ndarray, num_results: int, skipped: int
    ) -> tuple[np.ndarray, np.ndarray]:
        metric = self._form.metric
        ((rows, scores),) = find_in_blocks(
            self._rows, [query], num_results, [skipped], metric, choose_backend("auto")
        )
        return rows, scores / self._form.scale
