"""A map's page: what it shows of each track (name, link, groups, neighbours)."""

import dataclasses
import html
import importlib.resources
import json
import os
import pathlib
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from cola_msa.collection.labels import Labels, Scheme, make_scheme, read_labels
from cola_msa.collection.layout import (
    TITLES,
    choose_projection,
    count_different,
    find_clusters,
    project,
)
from cola_msa.collection.search.neighbours import Neighbours
from cola_msa.collection.table.read import Embeddings, load_embeddings
from cola_msa.system import folders
from cola_msa.system.errors import UsageError
from cola_msa.values import arrays
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


_MARK = b'<meta name="generator" content="cola_msa">'  # in every map's head
_HEAD_BYTES = 4096


def render_page(data: dict[str, Any], title: str, subtitle: str) -> str:
    """The page as text.

    Args:
        data: From `build_data`.
        title: The page's title.
        subtitle: A line about the map.
    """
    folder = importlib.resources.files("cola_msa.collection") / "map_page"
    parts = {
        name: (folder / f"map.{suffix}").read_text(encoding="utf-8").strip()
        for name, suffix in (("PAGE", "html"), ("CSS", "css"), ("JS", "js"))
    }
    # `</script` and `<!--` would end the script element or begin a comment in it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    values = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(subtitle),
        "CSS": parts["CSS"],
        "JS": parts["JS"],
        "DATA": text.replace("<", "\\u003c"),
    }
    page = re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], parts["PAGE"])
    return page + "\n"


def write_map(
    embeddings: str | os.PathLike,
    output: str | os.PathLike,
    *,
    projection: str = "auto",
    labels: str | os.PathLike | None = None,
    title: str = "Map of a collection",
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Writes the page.

    Args:
        embeddings: A file of embeddings; windows are averaged to tracks.
        output: The page, .html.
        projection: `auto`, `tsne`, `pca` or `umap`.
        labels: A CSV of labels, see `map_labels.read_labels`, or None.
        title: The page's title.
        seed: Seed of projection and clusters.
        **options: Of `build_data`.

    Returns:
        What the page's script reads.

    Raises:
        EmbeddingFileError: If the embeddings cannot be read.
        UsageError: If `output` is no .html file.
        MapError: If another option does not fit.
        FileError: If something else than a map is at `output`, or it cannot be written.
    """
    page = pathlib.Path(output)
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output={output}: a map is an .html file")
    folders.check_file(page, _is_map, "a map")
    table = load_embeddings(embeddings)
    found = None
    if labels:  # before the layout, which may take long
        found = read_labels(labels, table.paths)
        for line in found.remarks:
            logging.info("--labels=%s: %s", labels, line)
    different = count_different(table.embeddings)
    chosen = choose_projection(projection, len(table.paths), different)
    if chosen != projection != "auto":
        logging.warning(
            "%d different embeddings: too few for %s", different, projection
        )
    logging.info("%d tracks, %s", len(table.paths), TITLES[chosen])
    layout = project(table.embeddings, chosen, seed)
    data = build_data(table, layout, page, labels=found, seed=seed, **options)
    count = len(table.paths)
    tracks = f"{count:,} track" + ("" if count == 1 else "s")
    subtitle = f"{tracks}, {TITLES[chosen]} of {table.embeddings.shape[1]} dimensions"
    arrays.write_bytes(page, render_page(data, title, subtitle).encode())
    return data


def _is_map(page: pathlib.Path) -> bool:
    with open(page, "rb") as file:
        return _MARK in file.read(_HEAD_BYTES)
