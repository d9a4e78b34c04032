"""More like this: python -m cola_msa.search build|query.

    python -m cola_msa.search build --embeddings=embeddings.parquet --output=index.npz
    python -m cola_msa.search query --index=index.npz --file=music/song.mp3

A file that the index holds is found by its path or its content; any other is embedded
by `--model`, which must be the encoder that made the index; without it by the newest
run or the package's weights, if the index is theirs.
"""

import json
import pathlib
from typing import Any

from absl import flags

from cola_msa.collection.search import neighbours
from cola_msa.collection.search.build import build
from cola_msa.collection.search.index import load_index
from cola_msa.collection.search.query import query, render
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values.paths import define_path

# Each action's own flags.
ACTIONS = {
    "build": ("embeddings", "output", "metric"),
    "query": ("index", "file", "model", "num_results", "backend", "json"),
}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    add: dict[str, Any] = {"flag_values": values}
    define_path(
        "embeddings", None, "build: a .parquet, .npz or .h5 file of embeddings.", **add
    )
    define_path("output", None, "build: the index, an .npz file.", **add)
    flags.DEFINE_enum(
        "metric",
        neighbours.METRICS[0],
        neighbours.METRICS,
        "build: what is near.",
        **add,
    )
    define_path("index", None, "query: what `build` wrote.", **add)
    flags.DEFINE_multi_string(
        "file", [], "query: a file to find others for; may be repeated.", **add
    )
    define_path(
        "model",
        None,
        "query: run, export or pretrained folder, for files that the index lacks. A "
        "SavedModel can read and write files: name only one that you trust.",
        **add,
    )
    flags.DEFINE_integer(
        "num_results", 10, "query: neighbours a file.", lower_bound=1, **add
    )
    flags.DEFINE_enum(
        "backend",
        neighbours.BACKENDS[0],
        neighbours.BACKENDS,
        "query: what finds them; both find the same.",
        **add,
    )
    flags.DEFINE_bool("json", False, "query: print JSON instead of a table.", **add)


def main(options: flags.FlagValues, action: str = "") -> None:
    """Runs the command.

    Raises:
        UsageError: If flags are missing.
        SearchError: If a file is not what a flag says.
    """
    if action not in ACTIONS:
        raise UsageError(
            "say python -m cola_msa.search build or python -m cola_msa.search query, "
            f"not {action or 'nothing'}; see --help"
        )
    for other, names in ACTIONS.items():
        strange = [name for name in names if options[name].present]
        if other != action and strange:
            raise UsageError(f"--{strange[0]} is a flag of {other}, not of {action}")
    if action == "build":
        print(build(options.embeddings, options.output, options.metric))
        return
    if not options.index or not options.file or not all(options.file):
        raise UsageError("query needs --index=INDEX.npz and --file=FILE")
    index = load_index(pathlib.Path(options.index))
    answers = query(
        index, options.file, options.num_results, options.backend, options.model
    )
    print(json.dumps(answers, indent=1) if options.json else render(answers))


if __name__ == "__main__":
    console.start(main, define_flags, most_arguments=1)
