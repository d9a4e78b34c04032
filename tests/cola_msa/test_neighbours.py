"""Neighbours against a NumPy loop, by every backend."""

import importlib.util

import numpy as np
import pytest

from cola_msa.neighbours import BACKENDS, NeighbourError, Neighbours, choose_backend

HAS_FAISS = importlib.util.find_spec("faiss") is not None


@pytest.fixture(params=["sklearn", "faiss"])
def backend(request):
    if request.param == "faiss" and not HAS_FAISS:
        pytest.skip("no FAISS: pip install 'cola_msa[search]'")
    return request.param


def expected(values, query, metric, skip):
    scores = []
    for row, value in enumerate(values.astype(np.float64)):
        if metric == "cosine":
            score = value @ query / np.linalg.norm(value) / np.linalg.norm(query)
            scores.append((-score, row, score))
        else:
            score = np.linalg.norm(value - query)
            scores.append((score, row, score))
    return [(row, s) for _, row, s in sorted(scores) if row != skip]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_equal_a_loop(backend, metric):
    values = np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)
    found = Neighbours(values, metric, backend)
    skip = np.arange(200)
    rows, scores = found.find(values, 7, skip)
    for n in (0, 17, 199):
        wanted = expected(values, values[n].astype(np.float64), metric, n)[:7]
        assert [int(row) for row in rows[n]] == [row for row, _ in wanted]
        np.testing.assert_allclose(scores[n], [s for _, s in wanted], rtol=1e-9)


def test_one_query_or_all_give_the_same(backend):
    values = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    found = Neighbours(values, "cosine", backend)
    rows, scores = found.find(values, 5, np.arange(300))
    for n in range(0, 300, 60):
        one, score = found.find(values[n], 5, np.array([n]))
        np.testing.assert_array_equal(one[0], rows[n])
        np.testing.assert_allclose(score[0], scores[n], rtol=0, atol=1e-12)


def test_equal_rows_come_by_number(backend):
    values = np.ones((6, 3), np.float32)
    rows, _ = Neighbours(values, "cosine", backend).find(values[2], 5, np.array([2]))
    assert rows.tolist() == [[0, 1, 3, 4, 5]]


@pytest.mark.parametrize(("num_rows", "skip", "count"), [(3, [0], 2), (3, None, 3)])
def test_few_rows_give_few_results(backend, num_rows, skip, count):
    values = np.eye(num_rows, 4, dtype=np.float32)
    found = Neighbours(values, "cosine", backend)
    rows, _ = found.find(values[0], 10, None if skip is None else np.array(skip))
    assert rows.shape == (1, count)


def test_silence_has_no_direction_and_does_not_fail(backend):
    values = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    rows, scores = Neighbours(values, "cosine", backend).find(values[0], 2)
    assert np.isfinite(scores).all() and rows.shape == (1, 2)


def test_other_dimensions_are_refused():
    found = Neighbours(np.eye(4), "cosine", "sklearn")
    with pytest.raises(NeighbourError, match="different encoders"):
        found.find(np.ones(3), 2)
    with pytest.raises(NeighbourError, match="--num_results must be 1"):
        found.find(np.ones(4), 0)


def test_unknown_names_are_refused():
    with pytest.raises(NeighbourError, match="--metric must be one of"):
        Neighbours(np.eye(2), "manhattan")
    with pytest.raises(NeighbourError, match="--backend must be one of"):
        choose_backend("annoy")
    assert choose_backend("auto") in BACKENDS[1:]


def test_a_missing_faiss_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NeighbourError, match=r"pip install 'cola_msa\[search\]'"):
        choose_backend("faiss")
    assert choose_backend("auto") == "sklearn"
