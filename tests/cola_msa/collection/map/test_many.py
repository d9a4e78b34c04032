"""Layouts and neighbours of very many tracks, in small."""

import numpy as np
import pytest

from cola_msa.collection.map import data, layout, many, nearest


@pytest.mark.parametrize(
    ("queries", "rows", "count", "dim"),
    [(50, 1000, 7, 20), (10, 5, 5, 3), (33, 64, 40, 4), (1, 1, 1, 1), (70, 33, 1, 2)],
)
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_largest_products_are_those_of_a_full_comparison(
    queries, rows, count, dim, has_bias
):
    random = np.random.default_rng(0)
    left = random.normal(size=(queries, dim)).astype(np.float32)
    right = random.normal(size=(rows, dim)).astype(np.float32)
    bias = random.normal(size=rows).astype(np.float32) if has_bias else None
    wanted = left @ right.T + (0 if bias is None else bias)
    order = np.argsort(-wanted, axis=1, kind="stable")[:, :count]
    seen = 0
    blocks = nearest.largest_products(left, right, count, bias, 4 * rows * 8)
    for first, near, products in blocks:
        part = slice(first, first + len(near))
        np.testing.assert_array_equal(near, order[part])
        found = np.take_along_axis(wanted[part], near, axis=1)
        np.testing.assert_allclose(products, found, atol=1e-5)
        seen += len(near)
    assert seen == queries


def test_neighbours_in_single_precision_are_those_in_double():
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 12)).astype(np.float32)
    rows[7] *= 1e25  # its square is not finite in single precision
    rows[9] = rows[11]
    exact, scores = data.nearest_tracks(rows, 10)
    found, others = data.nearest_tracks(rows, 10, exact_most=0)
    np.testing.assert_array_equal(found, exact)
    np.testing.assert_allclose(others, scores, atol=1e-12)
    assert not (found == np.arange(300)[:, np.newaxis]).any()


@pytest.mark.parametrize("num_rows", [2, 4])
def test_a_few_rows_have_as_many_neighbours_as_there_are_others(num_rows):
    rows = np.eye(num_rows, 5, dtype=np.float32)
    found, _ = data.nearest_tracks(rows, 10, exact_most=0)
    others = [[m for m in range(num_rows) if m != n] for n in range(num_rows)]
    assert found.tolist() == others


def test_components_in_blocks_are_those_of_all_rows(monkeypatch):
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 20)) * np.linspace(3, 0.1, 20)
    whole = layout.unit_components(rows, 6)
    monkeypatch.setattr(layout, "_WHOLE_MOST", 10)
    found = layout.unit_components(rows, 6)
    for one, other in zip(whole.T, found.T, strict=True):
        assert min(np.abs(one - s * other).max() for s in (1, -1)) < 1e-9


def direct_forces(places, near):
    """Both parts of t-SNE's gradient, by a loop over pairs as its paper has it."""
    count, k = near.shape
    pull, push, total = np.zeros((count, 2)), np.zeros((count, 2)), 0.0
    weight = np.zeros((count, count))
    for n in range(count):
        for m in near[n]:
            weight[n, m] += 1 / (2 * count * k)
            weight[m, n] += 1 / (2 * count * k)
    for n in range(count):
        for m in range(count):
            if n != m:
                away = places[n] - places[m]
                kernel = 1 / (1 + away @ away)
                pull[n] += weight[n, m] * kernel * away
                push[n] += kernel**2 * away
                total += kernel
    return pull, push / total


def test_forces_are_those_between_all_pairs(monkeypatch):
    random = np.random.default_rng(0)
    places = random.normal(0, 4, size=(60, 2))
    near = np.array(
        [random.permutation(np.delete(np.arange(60), n)) for n in range(60)]
    )
    near = near[:, :5]
    pull, push = direct_forces(places, near)
    np.testing.assert_allclose(many._attraction(places, near), pull, atol=1e-12)
    largest = np.abs(push).max()
    for cell, error in ((0.5, 0.2), (0.05, 0.005)):
        monkeypatch.setattr(many, "_CELL", cell)
        assert np.abs(many._repulsion(places) - push).max() < error * largest


def test_groups_lie_together(monkeypatch):
    monkeypatch.setattr(many, "_STEPS", 40)
    random = np.random.default_rng(0)
    group = np.arange(600) % 6
    values = 4 * random.normal(size=(6, 20))[group] + random.normal(size=(600, 20))
    found = many.embed_many(values, seed=3, num_landmarks=60)
    distance = np.linalg.norm(found[:, None] - found[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :10]
    assert (group[near] == group[:, np.newaxis]).mean() > 0.98


@pytest.mark.parametrize("kind", ["equal", "three", "all but five"])
def test_rows_without_neighbourhoods_have_places(kind, monkeypatch):
    monkeypatch.setattr(many, "_STEPS", 60)
    random = np.random.default_rng(0)
    values = {
        "equal": np.zeros((400, 4)),
        "three": np.repeat(random.normal(size=(3, 4)), 150, axis=0),
        "all but five": np.concatenate(
            [np.zeros((395, 4)), random.normal(size=(5, 4))]
        ),
    }[kind]
    found = many.embed_many(values, seed=0, num_landmarks=50)
    assert found.shape == (len(values), 2) and np.isfinite(found).all()


def test_many_tracks_take_the_grid_and_a_seed_repeats(monkeypatch):
    monkeypatch.setattr(layout, "_WHOLE_MOST", 100)
    monkeypatch.setattr(many, "_STEPS", 30)
    monkeypatch.setattr(many, "_begin", lambda landmarks, seed: landmarks[:, :2])
    seen = []

    def embed_many(values, seed, is_quiet):
        seen.append(values.shape)
        return many.embed_many(values, seed, 60, is_quiet)

    monkeypatch.setattr(layout, "embed_many", embed_many)
    values = np.random.default_rng(0).normal(size=(200, 8))
    found, again, other = (layout.project(values, "auto", seed) for seed in (1, 1, 2))
    assert seen == 3 * [(200, 8)]
    np.testing.assert_array_equal(found, again)
    assert np.abs(found - other).max() > 0.01
    assert found.min() >= 0 and found.max() <= 1
    assert np.ptp(found, axis=0).max() == pytest.approx(1)
