"""A map's page, written: python -m cola_msa.map."""

import html
import importlib.resources
import json
import os
import pathlib
import re
from typing import Any

from absl import logging

from cola_msa.collection.labels import read_labels, take_labels
from cola_msa.collection.map.data import PageData, build_data
from cola_msa.collection.map.layout import (
    TITLES,
    choose_projection,
    count_different,
    project,
)
from cola_msa.collection.map.tracks import MOST_TRACKS, read_tracks
from cola_msa.system import folders
from cola_msa.system.errors import UsageError, hide_logins
from cola_msa.values import arrays

_MARK = b'<meta name="generator" content="cola_msa">'  # in every map's head
_HEAD_BYTES = 4096


# In their order on the page: the last one puts the others together.
_SCRIPTS = (
    *("data", "picture", "view", "looks", "panel", "legend", "search", "input"),
    "map",
)


def render_page(data: PageData, title: str, subtitle: str) -> str:
    """The page as text.

    Args:
        data: What it shows.
        title: The page's title.
        subtitle: A line about the map.
    """
    folder = importlib.resources.files("cola_msa.collection.map") / "page"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8").strip()

    # `</script` and `<!--` would end the script element or begin a comment in it.
    text = json.dumps(data.pack(), ensure_ascii=False, separators=(",", ":"))
    values = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(subtitle),
        # What the page may ask: nothing, or its server alone.
        "SERVER": data.server or "'none'",
        "CSS": read("map.css"),
        "JS": "\n".join(read(f"{name}.js") for name in _SCRIPTS),
        "DATA": text.replace("<", "\\u003c"),
    }
    page = re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], read("map.html"))
    return page + "\n"


def write_map(
    embeddings: str | os.PathLike,
    output: str | os.PathLike,
    *,
    projection: str = "auto",
    labels: str | os.PathLike | None = None,
    title: str = "Map of a collection",
    seed: int = 0,
    sample: int | None = None,
    most: int = MOST_TRACKS,
    server: str | None = None,
    is_quiet: bool = True,
    **options: Any,
) -> PageData:
    """Writes the page.

    Args:
        embeddings: A file or folder of embeddings; windows are averaged to tracks.
        output: The page, .html.
        projection: One of `layout.PROJECTIONS`.
        labels: A table of labels, see `labels.read_labels`, or None.
        title: The page's title.
        seed: Seed of sample, projection and clusters.
        sample: So many tracks, drawn at random; None for all.
        most: Tracks that a map shows.
        server: Address of a `search serve` that the page asks for neighbours; None
            for none: the page has them.
        is_quiet: Without progress bars.
        **options: Of `build_data`.

    Returns:
        What the page shows.

    Raises:
        EmbeddingFileError: If the embeddings cannot be read.
        UsageError: If `output` is no .html file, or `server` no address.
        MapError: If there are too many tracks, or another option does not fit.
        FileError: If something else than a map is at `output`, or it cannot be written.
    """
    page = pathlib.Path(output)
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output={output}: a map is an .html file")
    folders.check_file(page, _is_map, "a map")
    check_server(server)
    tracks = read_tracks(embeddings, sample, seed, most, is_quiet)
    found = None
    if labels:  # before the layout, which may take long
        found = read_labels(labels, tracks.all_paths)
        for line in found.remarks:
            logging.info("--labels=%s: %s", labels, line)
        if tracks.is_sample:
            found = take_labels(found, tracks.numbers)
    different = count_different(tracks.embeddings)
    chosen = choose_projection(projection, len(tracks.paths), different)
    if chosen != projection != "auto":
        logging.warning(
            "%d different embeddings: too few for %s", different, projection
        )
    num_all = len(tracks.all_paths)
    counted = f"{num_all:,} track" + ("" if num_all == 1 else "s")
    if tracks.is_sample:
        counted = f"{len(tracks.paths):,} of {counted}, drawn at random"
    logging.info("%s, %s", counted, TITLES[chosen])
    layout = project(tracks.embeddings, chosen, seed, is_quiet)
    data = build_data(
        tracks.paths,
        tracks.embeddings,
        layout,
        page,
        labels=found,
        seed=seed,
        server=server,
        is_quiet=is_quiet,
        **options,
    )
    dim = tracks.embeddings.shape[1]
    subtitle = f"{counted}, {TITLES[chosen]} of {dim} dimensions"
    arrays.write_bytes(page, render_page(data, title, subtitle).encode())
    return data


# It stands in the page's policy of what may be asked, which knows no IPv6 addresses.
_SERVER = re.compile(r"https?://[\w.-]+(?::(\d{1,5}))?", re.ASCII)


def check_server(server: str | None) -> None:
    """Raises UsageError if it is no address of a server, http://HOST:PORT."""
    found = None if server is None else _SERVER.fullmatch(server)
    port = int(found[1] or 1) if found else 1
    if server is not None and not (found and 1 <= port <= 65535):
        raise UsageError(
            f"--server={hide_logins(server)}: not an address as `search serve` prints "
            "it, http://127.0.0.1:8765"
        )


def _is_map(page: pathlib.Path) -> bool:
    with open(page, "rb") as file:
        return _MARK in file.read(_HEAD_BYTES)
