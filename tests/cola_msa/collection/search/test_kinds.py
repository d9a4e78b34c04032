"""Indices of every kind, built and asked: exact or nearly so, whole, safe to open."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cola_msa.collection.search import approximate, folder, measure
from cola_msa.collection.search import build as build_lib
from cola_msa.collection.search.build import add, build
from cola_msa.collection.search.contract import KINDS, SearchError
from cola_msa.collection.search.index import open_index
from cola_msa.collection.search.neighbours import NeighbourError
from cola_msa.collection.search.query import heading, query, render
from cola_msa.system.errors import FileError, UsageError, UserError
from tests.helpers import embedding_tables

faiss = pytest.importorskip("faiss")
NUM_ROWS, DIM = 1200, 16


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Of rows so few, threads only wait for each other."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def columns_of(values: np.ndarray, first: int = 0) -> dict:
    numbers = range(first, first + len(values))
    return {
        "path": [f"m/{n % 7}/{n}.ogg" for n in numbers],
        "sha256": [f"{n:064x}" for n in numbers],
        "start": np.zeros(len(values)),
        "seconds": np.full(len(values), 30.0),
        "embedding": values.astype(np.float32),
    }


def clustered(num_rows: int = NUM_ROWS, dim: int = DIM, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(30, dim))
    return centres[random.integers(0, 30, num_rows)] + 0.4 * random.normal(
        size=(num_rows, dim)
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "e.npz"
    return embedding_tables.write(path, columns_of(clustered()))


@pytest.fixture(scope="module")
def built(tmp_path_factory, table):
    """Folders of each kind and metric, not to be changed."""
    root = tmp_path_factory.mktemp("indices")
    for metric in ("cosine", "euclidean"):
        for kind in KINDS:
            build(str(table), str(root / f"{kind}-{metric}"), metric, kind)
    return root


def clips_of(index) -> np.ndarray:
    """Which row of `columns_of` each row of an index is: its order is its own."""
    names = [index.path(row) for row in range(index.num_rows)]
    return np.array([int(pathlib.PurePath(name).stem) for name in names])


def rows_of(index) -> np.ndarray:
    """Which row of an index each row of `columns_of` is."""
    return np.argsort(clips_of(index))


def exact(values: np.ndarray, asked: np.ndarray, metric: str, count: int = 10):
    """Nearest rows of rows, by an independent loop, and their scores."""
    rows, scores = [], []
    for row in asked:
        if metric == "cosine":
            norms = np.linalg.norm(values, axis=1)
            score = values @ values[row] / norms / norms[row]
        else:
            score = -np.sqrt(((values - values[row]) ** 2).sum(axis=1))
        score[row] = -np.inf
        order = np.argsort(-score, kind="stable")[:count]
        rows.append(order)
        scores.append(np.abs(score[order]) if metric == "euclidean" else score[order])
    return np.array(rows), np.array(scores)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_the_exact_ones_or_nearly_all(built, kind, metric):
    index = open_index(built / f"{kind}-{metric}")
    values = clustered().astype(np.float32).astype(np.float64)
    asked = np.arange(5, NUM_ROWS, 13)
    expected, scores = exact(values, asked, metric)
    asked = rows_of(index)[asked]
    found = index.nearest([index.vector(row) for row in asked], 10, asked.tolist())
    found = [(clips_of(index)[rows], score) for rows, score in found]
    rows = np.array([rows for rows, _ in found])
    share = np.mean([len({*a} & {*b}) for a, b in zip(rows, expected, strict=True)])
    if kind == "flat":
        np.testing.assert_array_equal(rows, expected)
        assert index.recall is None and heading(index) == ""
    else:
        assert share / 10 >= 0.95
        assert index.recall.share >= 0.95
        assert f"{kind}, recall@10 " in heading(index)
    first = [
        (score[0], other[0])
        for (near, score), other, right in zip(found, scores, expected, strict=True)
        if near[0] == right[0]
    ]
    given, wanted = np.array(first).T
    np.testing.assert_allclose(given, wanted, rtol=2e-3)
    assert len(first) > 0.9 * len(asked)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_the_recall_that_is_told_is_that_of_the_exact_answer(built, kind, monkeypatch):
    """Counted here in another way, and with an index that finds little."""
    index = open_index(built / f"{kind}-cosine")
    values = clustered().astype(np.float32).astype(np.float64)
    asked = measure.choose_queries(NUM_ROWS)
    expected, _ = exact(values, asked, "cosine")
    blocks = ((n, values[n : n + 100]) for n in range(0, NUM_ROWS, 100))
    places, queries = rows_of(index), values[asked]
    asked, expected = places[asked], places[expected]
    answer = measure.Exact(
        index.state.form, asked, queries, blocks, NUM_ROWS, places=places
    )
    near = index._near

    def counted(effort: int) -> float:
        found = near.nearest(list(queries), 10, asked.tolist(), effort)
        return np.mean(
            [len({*a} & {*b}) / 10 for (a, _), b in zip(found, expected, strict=True)]
        )

    monkeypatch.setattr(approximate, "_CANDIDATES", 11)
    shares = []
    for effort in (1, 2, 64):
        share = answer.recall(near, index.rows, effort).share
        assert share == pytest.approx(counted(effort), abs=1e-9)
        shares.append(share)
    if kind == "ivfpq":  # of so few rows an HNSW finds all
        assert shares[0] < 0.95 and shares[0] < shares[-1]


def test_effort_rises_until_enough_is_found(table, tmp_path, monkeypatch):
    monkeypatch.setitem(approximate.LEAST_EFFORT, "ivfpq", 1)
    monkeypatch.setattr(approximate, "_CANDIDATES", 20)
    build(str(table), str(tmp_path / "index"), "cosine", "ivfpq")
    index = open_index(tmp_path / "index")
    assert index.state.effort > 1 and index.recall.share >= measure.TARGET


def test_a_recall_that_is_not_reached_is_told(table, tmp_path, monkeypatch):
    monkeypatch.setitem(measure.LEAST_EFFORT, "ivfpq", 1)
    monkeypatch.setitem(measure.MOST_EFFORT, "ivfpq", 1)
    monkeypatch.setattr(approximate, "_CANDIDATES", 11)
    told = build(str(table), str(tmp_path / "index"), "cosine", "ivfpq")
    assert "its recall is below 0.95" in told and "--index=flat" in told


def test_a_query_prints_the_recall(built):
    index = open_index(built / "hnsw-cosine")
    (answer,) = query(index, ["m/0/7.ogg"], 4)
    assert answer["in_index"] and answer["recall"] == index.recall.share
    assert len(answer["results"]) == 4 and "similarity" in render([answer])
    (answer,) = query(open_index(built / "flat-cosine"), ["m/0/7.ogg"], 4)
    assert "recall" not in answer
    with pytest.raises(NeighbourError, match="--backend=sklearn"):
        query(index, ["m/0/7.ogg"], 4, "sklearn")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_are_found_where_all_are_asked_for(built, kind, metric):
    index = open_index(built / f"{kind}-{metric}")
    ((rows, scores),) = index.nearest([index.vector(3)], 5000, [3])
    assert sorted(rows) == sorted(set(range(NUM_ROWS)) - {3})
    order = -scores if metric == "cosine" else scores
    assert (np.diff(order) > -1e-11).all()


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_silence_and_copies(tmp_path, kind):
    """Zeros are alike to nothing by cosine, copies to each other, by thousands."""
    values = clustered(1100)
    values[100:160] = 0
    values[400:600] = values[3]
    path = embedding_tables.write(tmp_path / "e.npz", columns_of(values))
    build(str(path), str(tmp_path / "i"), "cosine", kind)
    index = open_index(tmp_path / "i")
    assert index.recall.share >= 0.95
    silent, copied, other = rows_of(index)[[100, 3, 7]]
    ((rows, scores),) = index.nearest([index.vector(silent)], 5, [silent])
    assert len(rows) == 5 and (scores == 0).all()
    ((rows, scores),) = index.nearest([index.vector(copied)], 20, [copied])
    assert len(rows) == 20 and scores == pytest.approx(np.ones(20))
    ((rows, scores),) = index.nearest([index.vector(other)], 10, [other])
    assert len(rows) == 10 and scores[0] > 0.5


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
@pytest.mark.parametrize(("offset", "size"), [(0, 1e30), (1e4, 1), (0, 1e-30)])
def test_distances_of_any_size(tmp_path, kind, offset, size):
    values = size * clustered() + offset
    path = embedding_tables.write(tmp_path / "e.npz", columns_of(values))
    build(str(path), str(tmp_path / "i"), "euclidean", kind)
    index = open_index(tmp_path / "i")
    assert index.recall.share >= 0.95
    stored = values.astype(np.float32).astype(np.float64)
    expected, scores = exact(stored, np.array([9]), "euclidean")
    ((rows, found),) = index.nearest([stored[9]], 10, [rows_of(index)[9]])
    assert len({*clips_of(index)[rows]} & {*expected[0]}) >= 9
    np.testing.assert_allclose(found[0], scores[0][0], rtol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("vector", "message"),
    [(np.ones(DIM + 1), "17 values"), (np.full(DIM, np.nan), "not finite")],
)
def test_queries_that_do_not_fit(built, kind, vector, message):
    index = open_index(built / f"{kind}-cosine")
    with pytest.raises(NeighbourError, match=message):
        index.nearest([vector], 3, [-1])
    with pytest.raises(NeighbourError, match="1 or more"):
        index.nearest([np.ones(DIM)], 0, [-1])


@pytest.mark.parametrize("kind", KINDS)
def test_far_queries_have_an_answer(built, kind):
    index = open_index(built / f"{kind}-euclidean")
    ((rows, scores),) = index.nearest([np.full(DIM, 1e100)], 3, [-1])
    assert len(rows) == 3 and np.isfinite(scores).all()


@pytest.mark.parametrize("num_rows", [1, 2, 11])
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_few_clips(tmp_path, kind, num_rows):
    path = tmp_path / "e.npz"
    embedding_tables.write(path, columns_of(clustered(num_rows)))
    build(str(path), str(tmp_path / "i"), "cosine", kind)
    index = open_index(tmp_path / "i")
    ((rows, _),) = index.nearest([index.vector(0)], 20, [0])
    assert sorted(rows) == list(range(1, num_rows))
    with pytest.raises(SearchError, match="1,000 clips or more"):
        build(str(path), str(tmp_path / "p"), "cosine", "ivfpq")
    assert not (tmp_path / "p").exists()


def test_the_kind_follows_from_the_number_of_clips(table, tmp_path, monkeypatch):
    told = build(str(table), str(tmp_path / "i"), "cosine")
    assert open_index(tmp_path / "i").kind == "flat" and "--index" not in told
    monkeypatch.setattr(build_lib, "FLAT_ROWS_MOST", NUM_ROWS - 1)
    told = build(str(table), str(tmp_path / "i"), "cosine")
    assert open_index(tmp_path / "i").kind == "hnsw" and "--index=hnsw: more" in told
    monkeypatch.setattr(build_lib, "_GRAPH_BYTES", 1000)
    told = build(str(table), str(tmp_path / "i"), "cosine")
    assert open_index(tmp_path / "i").kind == "ivfpq" and "--index=ivfpq: more" in told
    told = build(str(table), str(tmp_path / "i.npz"), "cosine")
    assert open_index(tmp_path / "i.npz").kind == "flat" and "name a folder" in told


@pytest.mark.parametrize(
    ("output", "kind", "error", "message"),
    [
        ("i.npz", "hnsw", UsageError, "is a folder"),
        ("i.parquet", None, UsageError, "a name for embeddings"),
        ("full", "flat", FileError, "holds 'song.txt'"),
        ("file", "flat", FileError, "is a file"),
    ],
)
def test_outputs_that_are_refused(table, tmp_path, output, kind, error, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "song.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        build(str(table), str(tmp_path / output), "cosine", kind)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_faiss_the_way_out_is_told(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(NeighbourError, match=r"pip install 'cola_msa\[search\]'"):
        build(str(table), str(tmp_path / "i"), "cosine", "hnsw")
    build(str(table), str(tmp_path / "i"), "cosine", "flat")
    index = open_index(tmp_path / "i")
    assert len(index.nearest([index.vector(0)], 3, [0], "sklearn")[0][0]) == 3


class StopError(Exception):
    """Ctrl-C, in effect."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_that_is_stopped_leaves_what_was_there(
    table, built, tmp_path, monkeypatch, kind
):
    shutil.copytree(built / f"{kind}-cosine", tmp_path / "i")
    before = hashes(tmp_path / "i")

    def stop(*_: object) -> None:
        raise StopError

    monkeypatch.setattr(build_lib.folder, "write_state", stop)
    more = embedding_tables.write(tmp_path / "e.npz", columns_of(clustered(50), 5000))
    with pytest.raises(StopError):
        build(str(table), str(tmp_path / "i"), "euclidean", kind)
    with pytest.raises(StopError):
        add(str(tmp_path / "i"), str(more))
    assert hashes(tmp_path / "i") == before
    assert sorted(os.listdir(tmp_path)) == ["e.npz", "i"]


def hashes(root: pathlib.Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.iterdir())
    }


@pytest.mark.parametrize("name", [*(f"{kind}-cosine" for kind in KINDS), "npz"])
def test_rows_are_added(table, built, tmp_path, name):
    path = tmp_path / ("i.npz" if name == "npz" else "i")
    if name == "npz":
        build(str(table), str(path), "cosine")
    else:
        shutil.copytree(built / name, path)
    values = clustered(260, seed=1)
    columns = columns_of(values, NUM_ROWS - 60)
    # Sixty are there: forty as they are, twenty with another content.
    columns["sha256"][40:60] = ["changed"] * 20
    more = embedding_tables.write(tmp_path / "e.npz", columns)
    told = add(str(path), str(more))
    assert "200 clips added" in told and "40 clips were there already" in told
    assert "20 files have changed since, such as m/" in told
    index = open_index(path)
    assert index.num_rows == NUM_ROWS + 200
    both = np.concatenate([clustered(), values[60:]]).astype(np.float32)
    expected, _ = exact(both.astype(np.float64), np.arange(0, 1400, 20), "cosine")
    rows, clips = rows_of(index)[0:1400:20], clips_of(index)
    found = [index.nearest([index.vector(n)], 10, [n])[0] for n in rows]
    share = [len({*clips[a]} & {*b}) for (a, _), b in zip(found, expected, strict=True)]
    assert np.mean(share) >= (10 if index.recall is None else 9.5)
    row = index.find_row(columns["path"][-1])
    assert row == NUM_ROWS + 199 and index.path(row) == columns["path"][-1]
    np.testing.assert_allclose(
        index.vector(row) / np.linalg.norm(index.vector(row)),
        values[-1] / np.linalg.norm(values[-1]),
        atol=1e-3,
    )
    assert "nothing to add" in add(str(path), str(more))
    assert open_index(path).num_rows == NUM_ROWS + 200


@pytest.mark.parametrize("kind", ["flat", "ivfpq"])
def test_embeddings_of_another_encoder_are_not_added(built, tmp_path, kind):
    shutil.copytree(built / f"{kind}-cosine", tmp_path / "i")
    before = hashes(tmp_path / "i")
    columns = columns_of(clustered(20), 5000)
    for number, (dim, metadata, message) in enumerate(
        [
            (DIM, {"model_hash": "f" * 16}, "model_hash"),
            (DIM, {"some": "other"}, "model_hash"),
            (
                DIM,
                {"model_hash": embedding_tables.MODEL_HASH, "hop_seconds": 0.5},
                "hop_seconds",
            ),
            (DIM - 1, {}, "15 values a clip"),
        ]
    ):
        columns["embedding"] = clustered(20, dim).astype(np.float32)
        path = tmp_path / f"{number}.npz"
        embedding_tables.write(path, columns, metadata)
        with pytest.raises(SearchError, match=message):
            add(str(tmp_path / "i"), str(path))
    assert hashes(tmp_path / "i") == before


def test_rows_far_outside_are_not_added(built, tmp_path):
    shutil.copytree(built / "hnsw-euclidean", tmp_path / "i")
    columns = columns_of(1e6 * clustered(20), 5000)
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with pytest.raises(SearchError, match="far outside"):
        add(str(tmp_path / "i"), str(path))
    assert open_index(tmp_path / "i").num_rows == NUM_ROWS


@contextlib.contextmanager
def file_size_limit(num_bytes):
    """Files can grow to so many bytes, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_gets_full_is_one_line_and_changes_nothing(
    table, built, tmp_path, kind, share
):
    shutil.copytree(built / f"{kind}-cosine", tmp_path / "i")
    before = content_of(tmp_path / "i")
    largest = max(map(len, before.values()))
    more = embedding_tables.write(tmp_path / "m.npz", columns_of(clustered(), 10**6))
    told = r"/(i|new): cannot be written \(File too large\); once that is mended"
    with file_size_limit(int(share * largest)):
        with pytest.raises(FileError, match=told):
            build(str(table), str(tmp_path / "new"), "cosine", kind)
        with pytest.raises(FileError, match=told):
            add(str(tmp_path / "i"), str(more))
    assert content_of(tmp_path / "i") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "m.npz"]


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told_and_ends_no_process(built, tmp_path, kind):
    """Any byte of any file that decides where another process reads."""
    path = tmp_path / "i"
    shutil.copytree(built / f"{kind}-cosine", path)
    random = np.random.default_rng(0)
    for name in (folder.STATE, *folder.file_names(kind)):
        file = path / name
        content = file.read_bytes()
        for cut in (content[:-2], content + b"x", b"", content[: len(content) // 2]):
            file.write_bytes(cut)
            with pytest.raises(UserError, match="build"):
                open_index(path)
        num_told = 0
        for _ in range(20):
            damaged = bytearray(content)
            damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            try:
                index = open_index(path)
                query(index, ["m/3/3.ogg"], 5)
            except UserError as error:
                num_told += 1
                assert "\n" not in str(error)
        if name in (folder.STATE, approximate.GRAPH) and kind != "hnsw":
            assert num_told == 20
        file.unlink()
        with pytest.raises(SearchError, match="missing|no index"):
            open_index(path)
        file.write_bytes(content)
    open_index(path)


def resealed(path: pathlib.Path, **changes: object) -> None:
    """Writes a state whose checksums are right, as somebody hostile would."""
    content = json.loads((path / folder.STATE).read_text())
    content.update(changes)
    for name, each in content["files"].items():
        data = (path / name).read_bytes()
        each["bytes"] = len(data)
        each["sha256"] = hashlib.sha256(data).hexdigest()
        head = data[: each["head_bytes"]]
        each["head_sha256"] = hashlib.sha256(head).hexdigest()
    content["sha256"] = folder._own_sha256(content)
    (path / folder.STATE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"kind": "../../etc"},
        {"metric": "manhattan"},
        {"num_rows": 0},
        {"num_rows": NUM_ROWS + 1},
        {"num_rows": 1e3},
        {"dim": DIM + 1},
        {"dim": True},
        {"effort": -1},
        {"scale": float("nan")},
        {"scale": 0},
        {"centre": [1.0]},
        {"recall": None},
        {"recall": {"share": "<b>", "num_results": 1, "num_queries": 1}},
        {"recall": {"share": 1}},
        {"metadata": []},
        {"files": {}},
        {"version": 3},
        {"settings": 3},
    ],
    ids=str,
)
def test_states_that_cannot_be_are_refused(built, tmp_path, changes):
    path = tmp_path / "i"
    shutil.copytree(built / "hnsw-cosine", path)
    content = json.loads((path / folder.STATE).read_text())
    content.update(changes)
    content["sha256"] = folder._own_sha256(content)
    (path / folder.STATE).write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        open_index(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def poison_link(graph) -> None:
    links = faiss.rev_swig_ptr(graph.hnsw.neighbors.data(), 40)
    links[20] = NUM_ROWS + 5


def poison_upper_link(graph) -> None:
    """To a row that is not on that level."""
    levels = faiss.vector_to_array(graph.hnsw.levels)
    offsets = faiss.vector_to_array(graph.hnsw.offsets)
    row, low = int(np.argmax(levels > 1)), int(np.argmax(levels == 1))
    place = int(offsets[row]) + graph.hnsw.nb_neighbors(0)
    links = faiss.rev_swig_ptr(graph.hnsw.neighbors.data(), place + 1)
    links[place] = low


def poison_entry(graph) -> None:
    graph.hnsw.entry_point = NUM_ROWS


def poison_level(graph) -> None:
    graph.hnsw.max_level = 9


@pytest.mark.parametrize(
    "poison", [poison_link, poison_upper_link, poison_entry, poison_level]
)
def test_links_that_lead_astray_are_refused(built, tmp_path, poison):
    path = tmp_path / "i"
    shutil.copytree(built / "hnsw-cosine", path)
    graph = faiss.read_index(str(path / approximate.GRAPH))
    poison(graph)
    faiss.write_index(graph, str(path / approximate.GRAPH))
    resealed(path)
    with pytest.raises(SearchError, match="damaged"):
        open_index(path)


def test_another_index_of_faiss_is_refused(built, tmp_path):
    for kind in ("hnsw", "ivfpq"):
        path = tmp_path / kind
        shutil.copytree(built / f"{kind}-cosine", path)
        size = (path / approximate.GRAPH).stat().st_size
        other = faiss.IndexFlatIP(DIM)
        other.add(np.ones((3, DIM), np.float32))
        faiss.write_index(other, str(path / approximate.GRAPH))
        with open(path / approximate.GRAPH, "ab") as file:
            file.truncate(size)
        resealed(path)
        with pytest.raises(SearchError, match="damaged"):
            open_index(path)


def test_lists_that_hold_other_rows_end_nothing(built, tmp_path):
    """Numbers of rows that are not there are left out."""
    path = tmp_path / "i"
    shutil.copytree(built / "ivfpq-cosine", path)
    graph = faiss.read_index(str(path / approximate.GRAPH))
    lists = faiss.downcast_InvertedLists(graph.invlists)
    for number in range(graph.nlist):
        size = lists.list_size(number)
        faiss.rev_swig_ptr(lists.get_ids(number), size)[:] = 1 << 40
    faiss.write_index(graph, str(path / approximate.GRAPH))
    resealed(path)
    index = open_index(path)
    ((rows, _),) = index.nearest([index.vector(0)], 3, [0])
    assert len(rows) == 3


_QUERY = """
import resource, sys
from cola_msa.collection.search import index, query

index = index.open_index(sys.argv[1])
(answer,) = query.query(index, ["m/0/7.ogg"], 5)
assert "tensorflow" not in sys.modules
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux")
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_query_holds_a_part_of_the_index(tmp_path, kind):
    """Rows of 64 MB, in float64 twice as many, on top of what imports take."""
    peaks = {}
    for name, dim in (("large", 8192), ("small", 8)):
        values = clustered(2000, dim)
        path = embedding_tables.write(tmp_path / "e.npz", columns_of(values))
        build(str(path), str(tmp_path / name), "cosine", kind)
        done = subprocess.run(
            [sys.executable, "-c", _QUERY, tmp_path / name],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[name] = int(done.stdout)
    assert peaks["large"] - peaks["small"] < 40


def test_state_is_frozen(built):
    index = open_index(built / "flat-cosine")
    with pytest.raises(dataclasses.FrozenInstanceError):
        index.state.kind = "hnsw"
