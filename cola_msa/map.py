"""A collection as a map: python -m cola_msa.map --embeddings=... --output=map.html.

One web page that needs nothing else and opens from the disk: each track a point, what
sounds alike side by side; hover for the name, click to play a track and to list its
nearest ones. It plays the files where they lie: keep the page where it is relative to
them, or make it anew.
"""

from collections.abc import Sequence

from absl import app, flags

from cola_msa.collection.layout import (
    PROJECTIONS,
    MapError,
)
from cola_msa.collection.map import write_map
from cola_msa.system.console import run_command
from cola_msa.values.numbers import define_seed


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
