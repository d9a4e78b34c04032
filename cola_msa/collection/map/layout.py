"""Embeddings in two dimensions, and clusters of them, for a map."""

import importlib.util

import numpy as np

from cola_msa.collection.map.many import embed_many
from cola_msa.collection.search.neighbours import unit_rows
from cola_msa.system.errors import UserError
from cola_msa.values.arrays import row_blocks

PROJECTIONS = ("auto", "tsne", "pca", "umap")
TITLES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
_WHOLE_MOST = 20_000  # rows; beyond it scikit-learn takes many minutes and gigabytes
_TSNE_LEAST = 5  # different rows
_EQUAL = 1e-9  # rows of length 1 that differ by no more than this count as equal
_DIMENSIONS_BEFORE = 50  # t-SNE and UMAP see the first principal components


class MapError(UserError):
    """A map that cannot be made; the message says why."""


def count_different(embeddings: np.ndarray, most: int = _TSNE_LEAST) -> int:
    """How many directions there are among rows, counted up to `most`.

    Args:
        embeddings: float [n, dim].
        most: Where the count ends.
    """
    found: list[np.ndarray] = []
    for _, block in row_blocks(embeddings):
        left = unit_rows(block)
        for row in found:
            left = left[np.abs(left - row).max(axis=1) > _EQUAL]
        while len(left) and len(found) < most:
            found.append(left[0])
            left = left[np.abs(left - left[0]).max(axis=1) > _EQUAL]
        if len(found) == most:
            break
    return len(found)


def choose_projection(name: str, num_rows: int, num_different: int = 5) -> str:
    """Turns `auto` into a projection, and checks that it can be made.

    t-SNE and UMAP need five different rows: of fewer there are no neighbourhoods
    (t-SNE divides by their deviation), and PCA takes their place.

    Args:
        name: One of PROJECTIONS.
        num_rows: Rows.
        num_different: Rows that differ, see `count_different`.

    Raises:
        MapError: If UMAP is asked for but not installed, or the name is unknown.
    """
    if name not in PROJECTIONS:
        raise MapError(
            f"--projection must be one of {', '.join(PROJECTIONS)}, not {name!r}"
        )
    if name == "umap" and importlib.util.find_spec("umap") is None:
        raise MapError(
            "--projection=umap needs UMAP: pip install 'cola_msa[umap]', or take "
            "--projection=tsne"
        )
    if min(num_rows, num_different) < _TSNE_LEAST:
        return "pca"
    if name == "auto":
        return "tsne"
    return name


def principal_components(values: np.ndarray, num_components: int) -> np.ndarray:
    """The first principal components, float64 [n, c], c at most `num_components`.

    Equal values give equal components, signs included.
    """
    from sklearn.decomposition import PCA

    count = min(num_components, len(values), values.shape[1])
    if len(values) < 2 or np.ptp(values, axis=0).max() <= _EQUAL:
        return np.zeros((len(values), count))
    # Covariances' eigenvectors where that is less work than a singular value
    # decomposition of all rows.
    solver = "covariance_eigh" if len(values) > 2 * values.shape[1] else "full"
    return PCA(count, svd_solver=solver).fit_transform(values)


def unit_components(embeddings: np.ndarray, num_components: int) -> np.ndarray:
    """The first principal components of rows scaled to length 1.

    Args:
        embeddings: float [n, dim].
        num_components: As many columns at most.

    Returns:
        float64 [n, c].
    """
    if len(embeddings) <= _WHOLE_MOST:
        return principal_components(unit_rows(embeddings), num_components)
    # The same with a block of rows in memory at a time.
    dim = embeddings.shape[1]
    total, products = np.zeros(dim), np.zeros((dim, dim))
    for _, block in row_blocks(embeddings):
        rows = unit_rows(block)
        total += rows.sum(axis=0)
        products += rows.T @ rows
    mean = total / len(embeddings)
    covariance = products / len(embeddings) - np.outer(mean, mean)
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :num_components]
    # Either sign is an eigenvector; equal values get the same one.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    found = np.empty((len(embeddings), axes.shape[1]))
    for first, block in row_blocks(embeddings):
        found[first : first + len(block)] = (unit_rows(block) - mean) @ axes
    return found


def project(
    embeddings: np.ndarray, projection: str, seed: int = 0, is_quiet: bool = True
) -> np.ndarray:
    """Lays rows out in two dimensions.

    Args:
        embeddings: float [n, dim]; rows are scaled to length 1 first.
        projection: As `choose_projection` returned it.
        seed: Seed of t-SNE and UMAP.
        is_quiet: Without a progress bar.

    Returns:
        float64 [n, 2], within [0, 1], the longer side filled and the other centred.

    Raises:
        MapError: If UMAP is not installed.
    """
    different = count_different(embeddings)
    projection = choose_projection(projection, len(embeddings), different)
    values = unit_components(embeddings, _DIMENSIONS_BEFORE)
    if projection == "tsne" and len(values) > _WHOLE_MOST and values.shape[1] > 1:
        layout = embed_many(values, seed, is_quiet=is_quiet)
    elif projection == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(values) - 1) / 3)
        layout = TSNE(
            perplexity=perplexity, init="pca", random_state=seed
        ).fit_transform(values)
    elif projection == "umap":
        import umap

        layout = umap.UMAP(
            n_neighbors=min(15, len(values) - 1), random_state=seed, n_jobs=1
        ).fit_transform(values)
    else:
        layout = np.zeros((len(values), 2))
        layout[:, : values.shape[1]] = values[:, :2]
    return _to_unit_square(np.asarray(layout, np.float64))


def _to_unit_square(layout: np.ndarray) -> np.ndarray:
    low, high = layout.min(axis=0), layout.max(axis=0)
    span = float((high - low).max()) or 1.0
    return np.clip((layout - (low + high) / 2) / span + 0.5, 0.0, 1.0)


def find_clusters(
    embeddings: np.ndarray, num_clusters: int, seed: int = 0
) -> np.ndarray:
    """Groups rows by k-means over rows of length 1.

    Args:
        embeddings: float [n, dim].
        num_clusters: k; fewer where there are not so many different rows.
        seed: Seed.

    Returns:
        int64 [n]; cluster 0 is the largest, and so on.
    """
    from sklearn.cluster import KMeans

    values = unit_components(embeddings, _DIMENSIONS_BEFORE)
    count = min(num_clusters, len(np.unique(values.round(9), axis=0)))
    if count < 2:
        return np.zeros(len(values), np.int64)
    found = KMeans(count, n_init=4, random_state=seed).fit_predict(values)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    return rank[found]
