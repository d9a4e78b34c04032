"""What a map's page holds of each track, packed: page/data.js unpacks it."""

import base64
import dataclasses
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.collection.labels import Labels, Scheme, make_scheme
from cola_msa.collection.map.layout import find_clusters
from cola_msa.collection.map.nearest import largest_products
from cola_msa.collection.search.neighbours import Neighbours, unit_rows
from cola_msa.system.console import progress_bar
from cola_msa.values.arrays import row_blocks
from cola_msa.values.names import unescape

_GRID = 65535  # positions are stored as integers from 0 to this
_SCORE = 10_000  # scores are stored in units of its inverse
_ROWS, _SCORES = np.dtype("<u4"), np.dtype("<i2")
EXACT_MOST = 20_000  # tracks whose neighbours are compared in double precision
_SPARE = 6  # more neighbours than wanted, whose order double precision decides


@dataclasses.dataclass(frozen=True)
class PageData:
    """What the page shows of n tracks.

    Attributes:
        names: n names to show.
        paths: n paths.
        hrefs: n links to the files, relative to the page; "" where there is none.
        x: uint16 [n], from left to right.
        y: uint16 [n], from top to bottom.
        schemes: Ways to colour.
        neighbours: int64 [n, k], each track's nearest others.
        scores: float64 [n, k], their cosines.
        num_neighbours: k; where a server is asked for them, the page has none.
        server: Address of a `search serve` that is asked for neighbours; None for none.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    hrefs: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    schemes: tuple[Scheme, ...]
    neighbours: np.ndarray
    scores: np.ndarray
    num_neighbours: int
    server: str | None = None

    def pack(self) -> dict[str, Any]:
        """A dict for JSON: arrays as base64, paths in two parts, links as folders'."""
        split = [path.rpartition("/") for path in self.paths]
        folders: dict[str, int] = {}
        folder = [folders.setdefault(f + slash, len(folders)) for f, slash, _ in split]
        files = [file for _, _, file in split]
        # Of a folder the link that its first file gives; what differs is written out.
        links: dict[int, str] = {}
        hrefs: list[str | None] = []
        for number, file, href in zip(folder, files, self.hrefs, strict=True):
            quoted = urllib.parse.quote(file)
            if number not in links and href.endswith("/" + quoted):
                links[number] = href.removesuffix(quoted)
            is_plain = number in links and href == links[number] + quoted
            hrefs.append(None if is_plain else href)
        plain = [_plain_name(file) for file in files]
        names = [
            0 if name == usual else name
            for name, usual in zip(self.names, plain, strict=True)
        ]
        scores = _SCORE * self.scores
        return {
            "folders": list(folders),
            "folder": _pack(folder),
            "files": files,
            "links": [links.get(number) for number in range(len(folders))],
            "hrefs": hrefs if any(href is not None for href in hrefs) else None,
            "names": names if any(names) else None,
            "x": _pack(self.x),
            "y": _pack(self.y),
            "schemes": [
                {
                    "name": scheme.name,
                    "groups": scheme.groups,
                    "of": _pack(scheme.of),
                    "percent": scheme.percent and _pack(scheme.percent),
                    "is_label": scheme.is_label,
                }
                for scheme in self.schemes
            ],
            "num_neighbours": self.num_neighbours,
            "neighbours": None if self.server else _pack(self.neighbours, _ROWS),
            "scores": None if self.server else _pack(np.rint(scores), _SCORES),
            "server": self.server,
        }


def _pack(values: Sequence[int] | np.ndarray, dtype: np.dtype | None = None) -> dict:
    """Numbers as base64, of the smallest type that holds them if none is given."""
    values = np.asarray(values)
    if dtype is None:
        largest = int(values.max(initial=0))
        dtype = next(
            kind
            for kind in map(np.dtype, ("<u1", "<u2", "<u4"))
            if largest <= np.iinfo(kind).max
        )
    text = base64.b64encode(values.astype(dtype).tobytes()).decode()
    return {"type": f"{dtype.kind}{dtype.itemsize}", "base64": text}


def _plain_name(file: str) -> str:
    """A file's name without its suffix, as page/data.js takes it."""
    stem, dot, _ = file.rpartition(".")
    return stem if dot and stem else file


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
    embeddings: np.ndarray,
    num_neighbours: int,
    exact_most: int = EXACT_MOST,
    is_quiet: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Each track's nearest others by cosine, as `search query` finds them.

    Beyond `exact_most` rows single precision proposes them: among tracks that are
    nearly equal another one may be listed.

    Returns:
        rows int64 [n, k] and similarities float64 [n, k].
    """
    count = len(embeddings)
    k = min(num_neighbours, count - 1)
    if k < 1:
        return np.zeros((count, 0), np.int64), np.zeros((count, 0))
    if count <= exact_most:
        finder = Neighbours(embeddings, "cosine")
        return finder.find(embeddings, num_neighbours, np.arange(count))
    rows = np.empty(embeddings.shape, np.float32)
    for first, block in row_blocks(embeddings):
        rows[first : first + len(block)] = unit_rows(block)
    near, scores = np.empty((count, k), np.int64), np.empty((count, k))
    asked = min(count, k + 1 + _SPARE)
    with progress_bar(count, "neighbours", " tracks", not is_quiet) as bar:
        for first, found, _ in largest_products(rows, rows, asked):
            own = np.arange(first, first + len(found))
            score = _cosines(embeddings, own, found)
            score[found == own[:, np.newaxis]] = -np.inf
            order = np.lexsort((found, -score.round(12)), axis=1)[:, :k]
            part = slice(first, first + len(found))
            near[part] = np.take_along_axis(found, order, 1)
            scores[part] = np.take_along_axis(score, order, 1)
            bar.update(len(found))
    return near, scores


def _cosines(embeddings: np.ndarray, own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosines of rows with several others each, in double precision."""
    found = np.empty(others.shape)
    size = max(1, (1 << 27) // (8 * others.shape[1] * embeddings.shape[1]))
    for first in range(0, len(own), size):
        part = slice(first, first + size)
        found[part] = np.einsum(
            "qd,qkd->qk",
            unit_rows(embeddings[own[part]]),
            unit_rows(embeddings[others[part]]),
        )
    return found


def display_name(path: str) -> str:
    """A track's name on the page."""
    return pathlib.PurePath(path).stem or path


def build_data(
    paths: Sequence[str],
    embeddings: np.ndarray,
    layout: np.ndarray,
    page: pathlib.Path,
    *,
    labels: Labels | None = None,
    audio_dir: str | os.PathLike = ".",
    num_clusters: int = 8,
    num_neighbours: int = 10,
    server: str | None = None,
    seed: int = 0,
    is_quiet: bool = True,
) -> PageData:
    """Collects what the page shows.

    Args:
        paths: n paths of tracks.
        embeddings: float32 [n, dim].
        layout: float [n, 2], within [0, 1].
        page: Where the page will lie; links are relative to it.
        labels: Labels of the tracks, or None.
        audio_dir: What relative paths of tracks are relative to.
        num_clusters: Clusters to colour by; below 2 there is no such scheme.
        num_neighbours: Nearest tracks that a click lists.
        server: Address of a `search serve` to ask for them; None: the page has them.
        seed: Seed of the clusters.
        is_quiet: Without a progress bar.
    """
    schemes: list[Scheme] = []
    names = [""] * len(paths)
    if labels:
        schemes, names = list(labels.schemes), list(labels.names)
    folders = make_scheme("Folder", folder_names(paths))
    if len(folders.groups) > 1 or not schemes:
        schemes.append(folders)
    if num_clusters > 1:
        numbers = find_clusters(embeddings, num_clusters, seed)
        clusters = [f"Cluster {number + 1}" for number in numbers]
        schemes.append(make_scheme("Cluster", clusters))
    rows, scores = nearest_tracks(
        embeddings, 0 if server else num_neighbours, is_quiet=is_quiet
    )
    cells = np.round(layout * _GRID).astype(np.uint16)
    return PageData(
        names=tuple(
            name or display_name(path) for name, path in zip(names, paths, strict=True)
        ),
        paths=tuple(paths),
        hrefs=tuple(link_to(p, page, pathlib.Path(audio_dir)) for p in paths),
        x=cells[:, 0],
        y=_GRID - cells[:, 1],
        schemes=tuple(schemes),
        neighbours=rows,
        scores=scores,
        num_neighbours=num_neighbours if server else rows.shape[1],
        server=server,
    )
