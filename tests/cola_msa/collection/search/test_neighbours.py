"""Neighbours against a NumPy loop, by every backend."""

import importlib.util

import numpy as np
import pytest

from cola_msa.collection.search.neighbours import (
    BACKENDS,
    NeighbourError,
    Neighbours,
    choose_backend,
    find_in_blocks,
    unit_rows,
)

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


def edge_cases() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    values = random.normal(size=(60, 8))
    near = np.ones(8) + 1e-9 * random.normal(size=(60, 8))
    with_zeros = values.copy()
    with_zeros[::3] = 0
    return {
        "zeros": np.zeros((60, 8)),
        "some zeros": with_zeros,
        "equal": np.tile(values[:1], (60, 1)),
        "two rows": np.repeat(values[:2], 30, axis=0),
        "near": near,
        "near, far from 0": near + 1e4,
        "huge": values * 1e30,
        "huge and small": values * np.where(np.arange(60) % 2, 1e30, 1.0)[:, None],
        "small": values * 1e-30,
        "as float32 rounds": (1 + 1e-8 * random.normal(size=(60, 8))),
    }


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("case", list(edge_cases()))
def test_edges_give_the_loops_order_whatever_the_backend(backend, metric, case):
    values = edge_cases()[case]
    found = Neighbours(values, metric, backend)
    rows, scores = found.find(values, 5, np.arange(60))
    assert np.isfinite(scores).all() and rows.min() >= 0
    with np.errstate(invalid="ignore"):
        unit = np.nan_to_num(values / np.linalg.norm(values, axis=1, keepdims=True))
    for n in (0, 1, 17, 59):
        assert len(set(rows[n])) == 5 and n not in rows[n]
        if metric == "cosine":
            exact = unit @ unit[n]
            key = -exact.round(12)
        else:
            exact = np.linalg.norm(values - values[n], axis=1)
            key = np.where(exact < 1e3, exact.round(12), exact)
        order = [int(k) for k in np.lexsort((np.arange(60), key)) if k != n][:5]
        np.testing.assert_allclose(scores[n], exact[order], rtol=1e-9, atol=1e-11)
        if case not in ("near", "near, far from 0", "as float32 rounds"):
            # Those round to the same 12 decimals or not by the last bit.
            assert rows[n].tolist() == order


@pytest.mark.skipif(not HAS_FAISS, reason="no FAISS")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("case", list(edge_cases()))
def test_backends_agree_at_the_edges(metric, case):
    values = edge_cases()[case]
    results = [
        Neighbours(values, metric, name).find(values, 7, np.arange(60))
        for name in ("sklearn", "faiss")
    ]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("case", list(edge_cases()))
@pytest.mark.parametrize("block_rows", [1, 7, 100])
def test_blocks_give_what_all_rows_give(backend, metric, case, block_rows):
    values = edge_cases()[case].astype(np.float32)
    values = np.concatenate([values, values[:20]])  # equal rows of different blocks
    whole = Neighbours(values, metric, backend)
    queries, skip = [values[3], values[70], np.ones(8), np.zeros(8)], [3, 70, -1, -1]
    for count in (1, 5, 79, 200):
        found = find_in_blocks(
            values, queries, count, skip, metric, backend, block_rows * 64
        )
        for n, (rows, scores) in enumerate(found):
            own = None if skip[n] < 0 else skip[n : n + 1]
            expected = whole.find(queries[n], count, own)
            np.testing.assert_array_equal(rows, expected[0][0])
            np.testing.assert_array_equal(scores, expected[1][0])


def test_silence_is_as_far_from_everything(backend):
    values = np.array([[0, 0], [1, 0], [0, -1], [-1, 0]], np.float32)
    rows, scores = Neighbours(values, "cosine", backend).find(values, 3, np.arange(4))
    assert rows[0].tolist() == [1, 2, 3] and scores[0].tolist() == [0, 0, 0]
    assert rows[1].tolist() == [0, 2, 3] and scores[1].tolist() == [0, 0, -1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_row(backend, bad):
    values = np.eye(4)
    values[2, 1] = bad
    with pytest.raises(NeighbourError, match="row 2 has values that are not finite"):
        Neighbours(values, "cosine", backend)
    with pytest.raises(NeighbourError, match="query 0 has values that are not finite"):
        Neighbours(np.eye(4), "cosine", backend).find(values[2], 2)


@pytest.mark.parametrize("factor", [1e-310, 1e-200, 1e30, 1e200])
def test_directions_of_any_size_have_length_1(factor):
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]) * factor)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], rtol=1e-9)
