"""A collection as a map: python -m cola_msa.map --embeddings=... --output=map.html.

One web page that needs nothing else and opens from the disk: each track a point, what
sounds alike side by side; hover for the name, click to play a track and to list its
nearest ones. It plays the files where they lie: keep the page where it is relative to
them, or make it anew.
"""

import html
import importlib.resources
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from cola_msa.collection.labels import read_labels
from cola_msa.collection.layout import (
    PROJECTIONS,
    TITLES,
    MapError,
    choose_projection,
    count_different,
    project,
)
from cola_msa.collection.map import build_data
from cola_msa.collection.table.read import load_embeddings
from cola_msa.runs import arrays
from cola_msa.system import folders
from cola_msa.system.console import run_command
from cola_msa.values.numbers import define_seed

_MARK = b'<meta name="generator" content="cola_msa">'  # in every map's head
_HEAD_BYTES = 4096


def render_page(data: dict[str, Any], title: str, subtitle: str) -> str:
    """The page as text.

    Args:
        data: From `map_data.build_data`.
        title: The page's title.
        subtitle: A line about the map.
    """
    folder = importlib.resources.files("cola_msa") / "map_page"
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
        **options: Of `map_data.build_data`.

    Returns:
        What the page's script reads.

    Raises:
        EmbeddingFileError: If the embeddings cannot be read.
        MapError: If an option does not fit.
        FileError: If something else than a map is at `output`, or it cannot be written.
    """
    page = pathlib.Path(output)
    if page.suffix.lower() not in (".html", ".htm"):
        raise MapError(f"--output={output}: a map is an .html file")
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


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    flags.DEFINE_string("embeddings", None, "A .parquet, .npz or .h5 of embeddings.")
    flags.DEFINE_string("output", "map.html", "The page.")
    flags.DEFINE_enum(
        "projection",
        PROJECTIONS[0],
        PROJECTIONS,
        "To two dimensions; auto: t-SNE, beyond 20,000 tracks PCA.",
    )
    flags.DEFINE_string(
        "labels",
        None,
        "A CSV with a column `path`, columns to colour by, and maybe `name`.",
    )
    flags.DEFINE_string(
        "audio_dir", ".", "What relative paths in the embeddings are relative to."
    )
    flags.DEFINE_integer(
        "num_clusters", 8, "Clusters (k-means) to colour by; 0 for none.", lower_bound=0
    )
    flags.DEFINE_integer(
        "num_neighbours", 10, "Nearest tracks that a click lists.", lower_bound=0
    )
    flags.DEFINE_string("title", "Map of a collection", "The page's title.")
    define_seed(0, "Seed of projection and clusters.")


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        MapError: If a flag is missing or does not fit.
    """
    options = flags.FLAGS
    if len(argv) > 1:
        raise MapError(f"unknown argument {argv[1]}; flags begin with --")
    if not options.embeddings:
        raise MapError("--embeddings must name a file of python -m cola_msa.embed")
    data = write_map(
        options.embeddings,
        options.output,
        projection=options.projection,
        title=options.title,
        seed=options.seed,
        labels=options.labels,
        audio_dir=options.audio_dir,
        num_clusters=options.num_clusters,
        num_neighbours=options.num_neighbours,
    )
    names = ", ".join(scheme["name"] for scheme in data["schemes"])
    print(f"{options.output}: {len(data['names'])} tracks, coloured by {names}")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main))
