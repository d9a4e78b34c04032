"""t-SNE of very many rows: begun with some of them, and forces by a grid.

What is nearest is found exactly, all affinities are equal, and repulsion is a
convolution on a grid, which costs the same whatever the number of rows.

Source: FIt-SNE (Linderman et al. 2019), with linear interpolation; differs: begins with
the t-SNE of some rows, the others beside their nearest of them, instead of principal
components and exaggerated affinities; each row's affinities are those of its 15
nearest, equal, instead of a perplexity's.
"""

import numpy as np

from cola_msa.collection.map.nearest import largest_products
from cola_msa.system.console import progress_bar

_LANDMARKS = 5_000
_NEAREST = 15  # rows that attract a row
_PLACED_BY = 5  # landmarks whose middle is where a row begins
_STEPS = 250
_MOMENTUM = 0.8
_CELL = 0.5  # of the grid; the kernel's width is 1
_MOST_CELLS = 1024  # on a side; a wider map gets larger cells
_PERPLEXITY = 30.0
_LONGEST = 5.0  # that a row moves in a step
_LEAST = 5  # different rows that t-SNE needs


def embed_many(
    values: np.ndarray,
    seed: int,
    num_landmarks: int = _LANDMARKS,
    is_quiet: bool = True,
) -> np.ndarray:
    """Lays many rows out in two dimensions.

    Args:
        values: float64 [n, dim], dim 2 or more, principal components; n larger than
            _NEAREST and `num_landmarks`.
        seed: Seed of the landmarks and of their t-SNE.
        num_landmarks: Rows to begin with.
        is_quiet: Without a progress bar.

    Returns:
        float64 [n, 2].
    """
    rows = values.astype(np.float32)
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(rows), num_landmarks, replace=False))
    begun = _begin(values[chosen], seed)
    near = _nearest(rows, rows[chosen], _PLACED_BY)
    places = np.median(begun[near], axis=1).astype(np.float64)
    # Rows beside the same landmarks would never part.
    places += random.normal(0.0, 0.1, places.shape)
    # More rows take more room.
    places *= (len(rows) / num_landmarks) ** 0.25
    near = _nearest(rows, rows, _NEAREST + 1)
    return _move(places, _without_self(near), is_quiet)


def _begin(landmarks: np.ndarray, seed: int) -> np.ndarray:
    if len(np.unique(landmarks.round(9), axis=0)) < _LEAST:
        # t-SNE would divide by their deviation.
        return landmarks[:, :2] / max(float(np.ptp(landmarks[:, 0])), 1e-9)
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(landmarks) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(landmarks)


def _nearest(queries: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """The nearest rows of each query by Euclidean distance, int32 [q, count]."""
    found = np.empty((len(queries), count), np.int32)
    bias = -np.square(rows).sum(axis=1) / 2
    for first, near, _ in largest_products(queries, rows, count, bias):
        found[first : first + len(near)] = near
    return found


def _without_self(near: np.ndarray) -> np.ndarray:
    """Each row's nearest others, of which the first may be itself."""
    is_self = near == np.arange(len(near))[:, np.newaxis]
    order = np.argsort(is_self, axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(near, order, axis=1)


def _move(places: np.ndarray, near: np.ndarray, is_quiet: bool) -> np.ndarray:
    """Moves rows down the gradient of t-SNE's divergence."""
    rate = len(places) / 12
    speed, gains = np.zeros_like(places), np.ones_like(places)
    with progress_bar(_STEPS, "t-SNE", " steps", not is_quiet) as bar:
        for _ in range(_STEPS):
            gradient = 4 * (_attraction(places, near) - _repulsion(places))
            is_turn = np.sign(gradient) == np.sign(speed)
            gains = np.maximum(np.where(is_turn, 0.8 * gains, gains + 0.2), 0.01)
            speed = _MOMENTUM * speed - rate * gains * gradient
            length = np.linalg.norm(speed, axis=1, keepdims=True)
            speed *= np.minimum(1.0, _LONGEST / np.maximum(length, _LONGEST))
            places = places + speed
            places -= places.mean(axis=0)
            bar.update()
    return places


def _attraction(places: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The gradient of what draws rows to their nearest, float64 [n, 2]."""
    count, k = near.shape
    away = places[:, np.newaxis] - places[near]
    away /= 1.0 + np.square(away).sum(axis=2, keepdims=True)
    away /= 2 * count * k  # an affinity is the mean of both directions
    found = away.sum(axis=1)
    for axis in (0, 1):
        found[:, axis] -= np.bincount(near.ravel(), away[:, :, axis].ravel(), count)
    return found


def _repulsion(places: np.ndarray) -> np.ndarray:
    """Minus the gradient of what keeps rows apart, by convolution on a grid."""
    from scipy import fft

    low, span = places.min(axis=0), float(np.ptp(places, axis=0).max())
    cell = max(_CELL, span / (_MOST_CELLS - 2))
    scaled = (places - low) / cell
    corner = scaled.astype(np.int64)
    part = scaled - corner
    # Twice as wide as the map, so that it does not go on at its other side.
    size = fft.next_fast_len(2 * (int(span / cell) + 2), real=True)
    weights = np.zeros(size * size)
    corners = []
    for x in (0, 1):
        for y in (0, 1):
            share = np.abs(1 - x - part[:, 0]) * np.abs(1 - y - part[:, 1])
            place = (corner[:, 0] + x) * size + corner[:, 1] + y
            weights += np.bincount(place, share, size * size)
            corners.append((place, share))
    spectrum = fft.rfft2(weights.reshape(size, size).astype(np.float32))
    steps = cell * np.fft.fftfreq(size, 1 / size)
    across, along = steps[:, np.newaxis], steps[np.newaxis]
    kernel = 1.0 / (1.0 + across**2 + along**2)
    found = []
    for values in (kernel, kernel**2 * across, kernel**2 * along):
        product = spectrum * fft.rfft2(values.astype(np.float32))
        field = fft.irfft2(product, (size, size)).ravel()
        found.append(sum(share * field[place] for place, share in corners))
    total = found[0].sum() - len(places)  # without each row with itself
    return np.stack(found[1:], axis=1) / max(total, 1e-12)
