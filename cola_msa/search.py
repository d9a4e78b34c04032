"""More like this: python -m cola_msa.search build|query.

    python -m cola_msa.search build --embeddings=embeddings.parquet --output=index.npz
    python -m cola_msa.search query --index=index.npz --file=music/song.mp3

A file that the index holds is found by its path or its content; any other is embedded
by `--model`, which must be the encoder that made the index.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from cola_msa.collection import neighbours
from cola_msa.collection.index import (
    SearchError,
    SearchIndex,
    build_index,
    check_output,
    describe,
    find_row,
    load_index,
    open_embedder,
)
from cola_msa.system.console import run_command

ACTIONS = ("build", "query")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "embeddings", None, "build: a .parquet, .npz or .h5 file of embeddings.", **add
    )
    flags.DEFINE_string("output", None, "build: the index, an .npz file.", **add)
    flags.DEFINE_enum(
        "metric",
        neighbours.METRICS[0],
        neighbours.METRICS,
        "build: what is near.",
        **add,
    )
    flags.DEFINE_string("index", None, "query: what `build` wrote.", **add)
    flags.DEFINE_multi_string(
        "file", [], "query: a file to find others for; may be repeated.", **add
    )
    flags.DEFINE_string(
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


def build(embeddings: str | None, output: str | None, metric: str) -> str:
    """Writes an index; returns what to tell the user.

    Raises:
        SearchError: If a flag is missing.
        FileError: If something else than an index is at `output`.
        EmbeddingFileError: If the embeddings cannot be read.
    """
    if not embeddings or not output:
        raise SearchError("build needs --embeddings=FILE and --output=INDEX.npz")
    check_output(output)
    index = build_index(embeddings, metric)
    index.save(output)
    return f"{output}: {describe(index)}"


def query(
    index: SearchIndex,
    files: Sequence[str],
    num_results: int,
    backend: str = "auto",
    model: str | None = None,
) -> list[dict[str, Any]]:
    """Finds the nearest clips of each file.

    All files are looked up first: one that is nowhere, or needs a model that does not
    fit, ends the search before anything else begins.

    Args:
        index: The index.
        files: Paths; each is looked up in the index by path, then by content.
        num_results: Neighbours a file.
        backend: `auto`, `sklearn` or `faiss`.
        model: Embeds files that the index lacks; None where there are none.

    Returns:
        One dict a file: `query`, `in_index`, `metric`, and `results` of `rank`,
        `path`, `score`.

    Raises:
        SearchError: If a file is not in the index and there is no fitting model.
        NeighbourError: If the neighbours cannot be searched.
    """
    found = [find_row(index.table, file) for file in files]
    new = [file for file, row in zip(files, found, strict=True) if row is None]
    vectors = _embed_new(index, new, model)
    finder = neighbours.Neighbours(index.table.embeddings, index.metric, backend)
    answers = []
    for file, row in zip(files, found, strict=True):
        if row is None:
            vector, skip = vectors[file], None
        else:
            vector, skip = index.table.embeddings[row], [row]
        rows, scores = finder.find(vector, num_results, skip)
        answers.append(
            {
                "query": file,
                "in_index": row is not None,
                "metric": index.metric,
                "results": [
                    {
                        "rank": rank,
                        "path": index.table.paths[r],
                        "score": float(score),
                    }
                    for rank, (r, score) in enumerate(
                        zip(rows[0], scores[0], strict=True), 1
                    )
                ],
            }
        )
    return answers


def _embed_new(
    index: SearchIndex, files: Sequence[str], model: str | None
) -> dict[str, np.ndarray]:
    """Embeddings by file of what the index lacks; no model is opened for nothing."""
    for file in files:
        if not os.path.isfile(file):
            raise SearchError(f"--file={file} is neither in the index nor a file")
    if not files:
        return {}
    if not model:
        raise SearchError(
            f"--file={files[0]} is not in the index; --model=... (the encoder that "
            "made the index) embeds it"
        )
    embed = open_embedder(index, model)
    return {file: embed(file) for file in files}


def render(answers: Sequence[dict[str, Any]]) -> str:
    """Answers as text tables."""
    lines = []
    for answer in answers:
        kind = "similarity" if answer["metric"] == "cosine" else "distance"
        known = "" if answer["in_index"] else " (not in the index)"
        lines += [f"more like {answer['query']}{known}:", f"{'':>4}  {kind:>10}"]
        lines += [
            f"{found['rank']:>4}  {found['score']:>10.4f}  {found['path']}"
            for found in answer["results"]
        ]
        lines.append("")
    return "\n".join(lines).rstrip()


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        SearchError: If flags are missing or do not fit.
    """
    options = flags.FLAGS
    if len(argv) != 2 or argv[1] not in ACTIONS:
        given = " ".join(argv[1:]) or "nothing"
        raise SearchError(
            "say python -m cola_msa.search build or python -m cola_msa.search query, "
            f"not {given}; see --help"
        )
    if argv[1] == "build":
        print(build(options.embeddings, options.output, options.metric))
        return
    if not options.index or not options.file:
        raise SearchError("query needs --index=INDEX.npz and --file=FILE")
    index = load_index(pathlib.Path(options.index))
    answers = query(
        index, options.file, options.num_results, options.backend, options.model
    )
    print(json.dumps(answers, indent=1) if options.json else render(answers))


if __name__ == "__main__":
    define_flags()
    # So that flags may follow the action.
    flags.FLAGS.set_gnu_getopt(True)
    app.run(run_command(main))
