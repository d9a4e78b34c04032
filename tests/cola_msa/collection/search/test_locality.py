"""Rows that lie together, and how much of a mapped file a query brings into memory."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cola_msa.collection.search import approximate, locality
from cola_msa.collection.search.build import build
from cola_msa.collection.search.index import open_index
from tests.helpers import embedding_tables

_ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def depth_first(links: list[list[int]]) -> list[int]:
    """The same order by recursion."""
    found: list[int] = []

    def visit(row: int) -> None:
        found.append(row)
        for other in links[row]:
            if other not in found:
                visit(other)

    for row in range(len(links)):
        if row not in found:
            visit(row)
    return found


@pytest.mark.parametrize("num_links", [1, 3])
def test_linked_rows_come_one_after_another(num_links):
    random = np.random.default_rng(num_links)
    links = [random.choice(60, num_links, replace=False).tolist() for _ in range(60)]
    for row in (5, 17):
        links[row] = []
    width = num_links + 2  # behind the links of the lowest level lie others
    table = np.full((60, width), 7, np.int32)
    for row, near in enumerate(links):
        table[row, :num_links] = near + [-1] * (num_links - len(near))
    order = locality.near_order(table.ravel(), np.arange(60) * width, num_links)
    assert order.tolist() == depth_first(links)
    assert (order[locality.inverse(order)] == np.arange(60)).all()


def clustered(num_rows: int, dim: int, spread: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.standard_normal((num_rows // 300, dim), np.float32)
    rows = centres[random.integers(0, len(centres), num_rows)]
    rows += spread * random.standard_normal(rows.shape, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32)  # as they are stored


def new_graph(rows: np.ndarray):
    graph = approximate.new_graph("hnsw", len(rows), "cosine", rows[:1])
    graph.add(rows)
    return graph


def test_an_index_in_another_order_finds_the_same(tmp_path):
    faiss = pytest.importorskip("faiss")
    rows = clustered(3000, 256)
    graph = new_graph(rows)
    approximate.write_graph(graph, tmp_path / "plain")
    order = approximate.find_order(graph)
    assert (np.sort(order) == np.arange(3000)).all()
    approximate.write_graph(graph, tmp_path / "ordered", order)
    plain, ordered = (
        approximate.read_graph(tmp_path / name, "hnsw") for name in ("plain", "ordered")
    )
    path = tmp_path / "ordered"
    approximate.check_graph(ordered, path, "hnsw", 3000, 256, "cosine")
    given, near = plain.search(rows[::7], 10)
    found, places = ordered.search(rows[::7], 10)
    np.testing.assert_array_equal(given, found)
    assert np.mean(order[places] == near) > 0.999  # but for rows of equal score
    stored = faiss.downcast_index(ordered.storage).reconstruct_n(0, 3000)
    np.testing.assert_array_equal(stored, rows[order].astype(np.float16))
    # A row's links lead to fewer places of the file.
    blocks = [[len({*near // 100}) for near in links_of(g)] for g in (plain, ordered)]
    assert np.mean(blocks[1]) < 0.7 * np.mean(blocks[0])


def test_rows_of_a_list_lie_together(tmp_path):
    """And each is its clip's: the others of a list are asked for with it."""
    faiss = pytest.importorskip("faiss")
    columns = embedding_tables.sample_columns(1300, 8)
    table = embedding_tables.write(tmp_path / "e.npz", columns)
    build(str(table), str(tmp_path / "i"), "euclidean", "ivfpq")
    index = open_index(tmp_path / "i")
    graph = approximate.read_graph(index.folder / approximate.GRAPH, "ivfpq")
    lists = faiss.downcast_InvertedLists(graph.invlists)
    held = [
        faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)).tolist()
        for n in range(lists.nlist)
        if lists.list_size(n)
    ]
    assert len(held) > 20 and sum(held, []) == list(range(1300))
    for row in range(0, 1300, 77):
        clip = columns["path"].index(index.path(row))
        np.testing.assert_allclose(
            index.vector(row), columns["embedding"][clip], atol=2e-3
        )


def links_of(graph) -> list[np.ndarray]:
    """Each row's links of the lowest level."""
    faiss = pytest.importorskip("faiss")
    links = faiss.rev_swig_ptr(
        graph.hnsw.neighbors.data(), graph.hnsw.neighbors.size()
    ).copy()
    starts = faiss.vector_to_array(graph.hnsw.offsets)[:-1].astype(np.int64)
    near = [links[start : start + 2 * approximate._LINKS] for start in starts]
    return [row[row >= 0] for row in near]


_QUERY = """
import pathlib, sys
import numpy as np
from cola_msa.collection.search import approximate

def mapped():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("RssFile:")[1].split()[0])

path, num_rows, dim = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
graph = approximate.read_graph(path, "hnsw")
approximate.check_graph(graph, path, "hnsw", num_rows, dim, "cosine")
head = path.stat().st_size - 2 * num_rows * dim
rows = np.memmap(path, "<f2", "r", head, (num_rows, dim))
near = approximate.Approximate(graph, "hnsw", rows, approximate.Form("cosine"))
query = np.asarray(rows[num_rows // 2], np.float64)
before = mapped()
near.nearest([query], 10, [-1], 32)
print(mapped() - before)
"""


@_ON_LINUX
def test_a_query_maps_what_it_looks_at(tmp_path, monkeypatch):
    """Not the large pieces that a file is kept in which was written in such."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "_LINKS", 6)
    monkeypatch.setattr(approximate, "_CONSTRUCTION", 12)
    num_rows, dim = 20_000, 1280
    graph = new_graph(clustered(num_rows, dim))
    approximate.write_graph(graph, tmp_path / "plain")
    content = (tmp_path / "plain").read_bytes()
    with open(tmp_path / "before", "wb") as file:
        for first in range(0, len(content), 1 << 20):
            file.write(content[first : first + (1 << 20)])
    order = approximate.find_order(graph)
    approximate.write_graph(graph, tmp_path / "now", order)
    grown = {}
    for name in ("now", "before"):
        arguments = [str(tmp_path / name), str(num_rows), str(dim)]
        done = subprocess.run(
            [sys.executable, "-c", _QUERY, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        grown[name] = int(done.stdout) * 1024
    assert 0 < grown["now"] < len(content) / 6
    if grown["before"] < len(content) / 6:
        pytest.skip("this system maps as little of any file")
    assert grown["now"] < grown["before"] / 2


@_ON_LINUX
def test_pages_that_are_given_back_are_read_again(tmp_path):
    path = tmp_path / "values"
    np.arange(6 << 20, dtype=np.int64).tofile(path)
    values = np.memmap(path, np.int64, "r")

    def mapped() -> int:
        text = pathlib.Path("/proc/self/status").read_text()
        return int(text.split("RssFile:")[1].split()[0]) << 10

    before = mapped()
    total = values[3:].sum()
    assert mapped() - before > 40 << 20
    locality.release(values[3:])
    assert mapped() - before < 4 << 20
    assert values[3:].sum() == total
