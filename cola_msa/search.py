"""More like this: python -m cola_msa.search build|query|add|serve.

    python -m cola_msa.search build --embeddings=embeddings.parquet --output=index
    python -m cola_msa.search query --index=index --file=music/song.mp3
    python -m cola_msa.search add --index=index --embeddings=more.parquet
    python -m cola_msa.search serve --index=index

A file that the index holds is found by its path or its content; any other is embedded
by `--model`, which must be the encoder that made the index; without it by the newest
run or the package's weights, if the index is theirs.
"""

import json
from typing import Any

from absl import flags

from cola_msa.collection.search import neighbours
from cola_msa.collection.search.build import add, build
from cola_msa.collection.search.contract import KINDS
from cola_msa.collection.search.index import open_index
from cola_msa.collection.search.query import heading, query, render
from cola_msa.collection.search.serve import serve
from cola_msa.system import console, signals
from cola_msa.system.errors import UsageError
from cola_msa.values.paths import define_path

# Each action's own flags.
ACTIONS = {
    "build": ("embeddings", "output", "metric", "index"),
    "query": ("index", "file", "model", "num_results", "backend", "json"),
    "add": ("index", "embeddings"),
    "serve": ("index", "model", "host", "port"),
}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    with_values: dict[str, Any] = {"flag_values": values}
    define_path(
        "embeddings",
        None,
        "build, add: a .parquet, .npz or .h5 file of embeddings, or a folder of "
        "Parquet files.",
        **with_values,
    )
    define_path(
        "output", None, "build: the index, a folder or an .npz file.", **with_values
    )
    flags.DEFINE_enum(
        "metric",
        neighbours.METRICS[0],
        neighbours.METRICS,
        "build: what is near.",
        **with_values,
    )
    define_path(
        "index",
        None,
        "query, add, serve: what `build` wrote. build: its kind, "
        f"{', '.join(KINDS)}; flat is exact, and the default up to 50,000 clips.",
        **with_values,
    )
    flags.DEFINE_multi_string(
        "file", [], "query: a file to find others for; may be repeated.", **with_values
    )
    define_path(
        "model",
        None,
        "query, serve: run, export or pretrained folder, for files that the index "
        "lacks. A SavedModel can read and write files: name only one that you trust.",
        **with_values,
    )
    flags.DEFINE_integer(
        "num_results", 10, "query: neighbours a file.", lower_bound=1, **with_values
    )
    flags.DEFINE_enum(
        "backend",
        neighbours.BACKENDS[0],
        neighbours.BACKENDS,
        "query: what finds them in a flat index; both find the same.",
        **with_values,
    )
    flags.DEFINE_bool(
        "json", False, "query: print JSON instead of a table.", **with_values
    )
    flags.DEFINE_string(
        "host", "127.0.0.1", "serve: the address that is listened on.", **with_values
    )
    flags.DEFINE_integer(
        "port",
        8765,
        "serve: the port; 0 for one that is free.",
        lower_bound=0,
        upper_bound=65535,
        **with_values,
    )


def main(options: flags.FlagValues, action: str = "") -> None:
    """Runs the command.

    Raises:
        UsageError: If flags are missing.
        SearchError: If a file is not what a flag says.
    """
    signals.install()
    if action not in ACTIONS:
        raise UsageError(
            "say python -m cola_msa.search build, query, add or serve, not "
            f"{action or 'nothing'}; see --help"
        )
    for other, names in ACTIONS.items():
        strange = [n for n in names if n not in ACTIONS[action] and options[n].present]
        if strange:
            raise UsageError(f"--{strange[0]} is a flag of {other}, not of {action}")
    if action == "build":
        kind = options.index
        if kind is not None and kind not in KINDS:
            raise UsageError(
                f"--index={kind}: build makes {', '.join(KINDS)}; --output says where"
            )
        told = build(options.embeddings, options.output, options.metric, kind, False)
        print(told)
    elif action == "add":
        print(add(options.index, options.embeddings, is_quiet=False))
    elif action == "serve":
        if not options.index:
            raise UsageError("serve needs --index=INDEX")
        serve(options.index, options.host, options.port, options.model)
    else:
        if not options.index or not options.file or not all(options.file):
            raise UsageError("query needs --index=INDEX and --file=FILE")
        index = open_index(options.index)
        answers = query(
            index, options.file, options.num_results, options.backend, options.model
        )
        if options.json:
            print(json.dumps(answers, indent=1))
        else:
            print(heading(index) + render(answers))


if __name__ == "__main__":
    console.start(main, define_flags, most_arguments=1)
