"""What a map's page shows of each track: name, link, groups, neighbours."""

import collections
import csv
import dataclasses
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.embedding_files import Embeddings
from cola_msa.map_projection import MapError, find_clusters
from cola_msa.neighbours import Neighbours
from cola_msa.system.names import unescape

NO_LABEL = "no label"
_GRID = 65535  # positions are stored as integers from 0 to this


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to colour the map.

    Attributes:
        name: What the page calls it.
        groups: Names of its groups, the largest first.
        of: int [n], each track's group.
    """

    name: str
    groups: tuple[str, ...]
    of: tuple[int, ...]


def make_scheme(name: str, group_names: Sequence[str]) -> Scheme:
    """Numbers the groups of tracks, the largest first, equal ones by name.

    Args:
        name: What the page calls it.
        group_names: n names, one a track.
    """
    counts = collections.Counter(group_names)
    last = {NO_LABEL: 1}
    order = sorted(counts, key=lambda g: (last.get(g, 0), -counts[g], g))
    number = {group: k for k, group in enumerate(order)}
    return Scheme(name, tuple(order), tuple(number[group] for group in group_names))


def read_labels(
    path: str | os.PathLike, paths: Sequence[str]
) -> tuple[list[Scheme], list[str]]:
    """Reads a CSV of labels: `path`, `name` (optional), and a column a way to colour.

    A row is for the track of that path, of the path's end (`000/000002.mp3`), or of
    that file name with or without suffix, as far as only one track has it.

    Args:
        path: The CSV file, with a header; comma, semicolon or tab between columns.
        paths: n paths of tracks.

    Returns:
        One Scheme a column that is not empty; tracks without a row are in the group
        `no label`. And n names to show; "" where there is none.

    Raises:
        MapError: If the file cannot be read, or no row is for any track.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        dialect = csv.Sniffer().sniff(text.split("\n", 1)[0], ",;\t")
        rows = list(csv.reader(text.splitlines(), dialect))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MapError(f"--labels={path}: cannot be read as CSV ({error})") from error
    header, rows = rows[0], [row for row in rows[1:] if row]
    if "path" not in header or len(header) < 2:
        raise MapError(
            f"--labels={path}: its header must have a column `path` and a column of "
            f"labels, not {', '.join(header)}"
        )
    place = header.index("path")
    track_of = _tracks_by_name(paths)
    columns = {name: [""] * len(paths) for name in header if name != "path"}
    num_found = 0
    for row in rows:
        key = pathlib.PurePath(row[place]).as_posix()
        track = track_of.get(key)
        if track is None:
            continue
        num_found += 1
        for name, value in zip(header, row, strict=False):
            if name != "path":
                columns[name][track] = value.strip()
    if not num_found:
        raise MapError(
            f"--labels={path}: none of its {len(rows)} rows names a track; paths look "
            f"like {paths[0]}"
        )
    names = columns.pop("name", [""] * len(paths))
    schemes = [
        make_scheme(name, [value or NO_LABEL for value in values])
        for name, values in columns.items()
        if any(values)
    ]
    return schemes, names


def _tracks_by_name(paths: Sequence[str]) -> dict[str, int]:
    """Tracks by path, by every end of it, and by stem; names of several are left out.

    A whole path goes before an end of another, and an end before a stem.
    """
    whole = {pathlib.PurePath(p).as_posix(): n for n, p in enumerate(paths)}
    found: dict[str, int | None] = {}
    stems: dict[str, int | None] = {}
    for number, path in enumerate(paths):
        parts = pathlib.PurePath(path).parts
        for start in range(1, len(parts)):
            end = "/".join(parts[start:])
            found[end] = None if end in found else number
        stem = pathlib.PurePath(path).stem
        stems[stem] = None if stem in stems else number
    merged = stems | found | whole
    return {name: number for name, number in merged.items() if number is not None}


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
    labels: str | os.PathLike | None = None,
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
        labels: A CSV of labels, or None.
        audio_dir: What relative paths of tracks are relative to.
        num_clusters: Clusters to colour by; below 2 there is no such scheme.
        num_neighbours: Nearest tracks that a click lists.
        seed: Seed of the clusters.

    Returns:
        A dict for JSON.

    Raises:
        MapError: If the labels cannot be used.
    """
    schemes: list[Scheme] = []
    names = [""] * len(table.paths)
    if labels:
        schemes, names = read_labels(labels, table.paths)
    folders = make_scheme("Folder", folder_names(table.paths))
    if len(folders.groups) > 1 or not schemes:
        schemes.append(folders)
    if num_clusters > 1:
        found = find_clusters(table.embeddings, num_clusters, seed)
        clusters = [f"Cluster {number + 1}" for number in found]
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
