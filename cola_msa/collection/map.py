"""What a map's page shows of each track: name, link, groups, neighbours."""

import dataclasses
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.collection.labels import Labels, Scheme, make_scheme
from cola_msa.collection.layout import find_clusters
from cola_msa.collection.neighbours import Neighbours
from cola_msa.collection.table.read import Embeddings
from cola_msa.values.names import unescape

_GRID = 65535  # positions are stored as integers from 0 to this


def folder_names(paths: Sequence[str]) -> list[str]:
    """Each path's folder, below what all of them have in common."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    common = os.path.commonpath(folders)
    return [os.path.relpath(f, common).replace(os.sep, "/") for f in folders]


def link_to(path: str, page: pathlib.Path, audio_dir: pathlib.Path) -> str:
    """A link from a page to a file, relative, as a URL; "" for what is no file path.

    Args:
        path: The file's path; a relative one lies below `audio_dir`.
        page: The page's file.
        audio_dir: A folder.
    """
    if "://" in path:
        return ""
    target = os.path.abspath(audio_dir / unescape(path))
    relative = os.path.relpath(target, os.path.abspath(page.parent))
    quoted = urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
    # Without it, `a:b.mp3` would be read as a URL's scheme.
    return quoted if quoted.startswith(".") else f"./{quoted}"


def nearest_tracks(
    embeddings: np.ndarray, num_neighbours: int, backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Each track's nearest others by cosine, as `search query` finds them.

    Returns:
        rows int64 [n, k] and similarities float64 [n, k].
    """
    count = len(embeddings)
    if count < 2 or num_neighbours < 1:
        return np.zeros((count, 0), np.int64), np.zeros((count, 0))
    finder = Neighbours(embeddings, "cosine", backend)
    return finder.find(embeddings, num_neighbours, np.arange(count))


def display_name(path: str) -> str:
    """A track's name on the page."""
    return pathlib.PurePath(path).stem or path


def build_data(
    table: Embeddings,
    layout: np.ndarray,
    page: pathlib.Path,
    *,
    labels: Labels | None = None,
    audio_dir: str | os.PathLike = ".",
    num_clusters: int = 8,
    num_neighbours: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Collects what the page's script reads.

    Args:
        table: One row a track.
        layout: float [n, 2], within [0, 1].
        page: Where the page will lie; links are relative to it.
        labels: Labels of the tracks, or None.
        audio_dir: What relative paths of tracks are relative to.
        num_clusters: Clusters to colour by; below 2 there is no such scheme.
        num_neighbours: Nearest tracks that a click lists.
        seed: Seed of the clusters.

    Returns:
        A dict for JSON.
    """
    schemes: list[Scheme] = []
    names = [""] * len(table.paths)
    if labels:
        schemes, names = list(labels.schemes), list(labels.names)
    folders = make_scheme("Folder", folder_names(table.paths))
    if len(folders.groups) > 1 or not schemes:
        schemes.append(folders)
    if num_clusters > 1:
        numbers = find_clusters(table.embeddings, num_clusters, seed)
        clusters = [f"Cluster {number + 1}" for number in numbers]
        schemes.append(make_scheme("Cluster", clusters))
    rows, scores = nearest_tracks(table.embeddings, num_neighbours)
    cells = np.round(layout * _GRID).astype(int)
    return {
        "names": [
            name or display_name(path)
            for name, path in zip(names, table.paths, strict=True)
        ],
        "paths": list(table.paths),
        "hrefs": [link_to(p, page, pathlib.Path(audio_dir)) for p in table.paths],
        "x": cells[:, 0].tolist(),
        "y": (_GRID - cells[:, 1]).tolist(),
        "schemes": [dataclasses.asdict(scheme) for scheme in schemes],
        "num_neighbours": rows.shape[1],
        "neighbours": rows.ravel().tolist(),
        "scores": [round(float(score), 4) for score in scores.ravel()],
    }
