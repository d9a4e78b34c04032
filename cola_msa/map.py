"""A collection as a map: python -m cola_msa.map --embeddings=... --output=map.html.

One web page that needs nothing else and opens from the disk: each track a point, what
sounds alike side by side; hover for the name, click to play a track and to list its
nearest ones. It plays the files where they lie: keep the page where it is relative to
them, or make it anew.
"""

from absl import flags

from cola_msa.collection.map.layout import PROJECTIONS
from cola_msa.collection.map.tracks import MOST_TRACKS
from cola_msa.collection.map.write import write_map
from cola_msa.system import console, signals
from cola_msa.values.numbers import define_seed
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    define_path(
        "embeddings",
        None,
        "A .parquet, .npz or .h5 file of embeddings, or a folder of Parquet files.",
        required=True,
    )
    define_path("output", "map.html", "The page.")
    flags.DEFINE_enum(
        "projection",
        PROJECTIONS[0],
        PROJECTIONS,
        "To two dimensions; auto: t-SNE, where enough tracks differ.",
    )
    define_path(
        "labels",
        None,
        "A CSV with a column `path`, columns to colour by, and maybe `name`; or a "
        ".parquet of these, or what tag writes.",
    )
    flags.DEFINE_integer(
        "sample",
        None,
        f"Show so many tracks, drawn at random; of more than {MOST_TRACKS:,} needed.",
        lower_bound=1,
        upper_bound=MOST_TRACKS,
    )
    define_path(
        "audio_dir", ".", "What relative paths in the embeddings are relative to."
    )
    flags.DEFINE_integer(
        "num_clusters", 8, "Clusters (k-means) to colour by; 0 for none.", lower_bound=0
    )
    flags.DEFINE_integer(
        "num_neighbours", 10, "Nearest tracks that a click lists.", lower_bound=0
    )
    flags.DEFINE_string(
        "server",
        None,
        "Ask this for a track's nearest, as `search serve` prints it; the page then "
        "has none of its own.",
    )
    flags.DEFINE_string("title", "Map of a collection", "The page's title.")
    define_seed(0, "Seed of sample, projection and clusters.")


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    signals.install()
    data = write_map(
        options.embeddings,
        options.output,
        projection=options.projection,
        title=options.title,
        seed=options.seed,
        sample=options.sample,
        labels=options.labels,
        audio_dir=options.audio_dir,
        num_clusters=options.num_clusters,
        num_neighbours=options.num_neighbours,
        server=options.server and options.server.removesuffix("/"),
        is_quiet=False,
    )
    names = ", ".join(scheme.name for scheme in data.schemes)
    console.tell(f"{options.output}: {len(data.paths)} tracks, coloured by {names}")


if __name__ == "__main__":
    console.start(main, define_flags)
