"""Questions to an index: the nearest clips of files, in it or not."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cola_msa.audio.decode import AudioReader
from cola_msa.audio.errors import AudioError
from cola_msa.collection.search import neighbours
from cola_msa.collection.search.contract import (
    Index,
    SearchError,
    encoder_hash,
    results,
)
from cola_msa.system.errors import hide_logins, one_line


def check_model(index: Index, model: str, model_hash: str | None) -> None:
    """Refuses an encoder other than the index's.

    Raises:
        SearchError: If the hashes differ, or the index does not say which it was.
    """
    expected = encoder_hash(index)
    if expected is None:
        raise SearchError(
            "the index does not say which encoder made it, so that --model cannot be "
            "checked; embed the collection again, and build the index anew"
        )
    if model_hash != expected:
        raise SearchError(
            f"--model={hide_logins(model)} is not the encoder that made the index "
            f"(its weights are {str(model_hash)[:12]}, the index's {expected[:12]}): "
            "name that one, or embed the collection with this one and build the index "
            "anew"
        )


def open_embedder(index: Index, model: str) -> Callable[[str], np.ndarray]:
    """A function from a path to its clip's embedding, float32 [dim].

    A file may be of any length. Windows follow one another, and their mean is taken, as
    when the collection was embedded.

    Raises:
        SearchError: If the model is not the encoder that made the index, or the index
            is damaged.
        RunError: If there is no such model.
    """
    # Here, not above: these import TensorFlow, which files of the index do not need.
    from cola_msa.audio.clip_windows import decode_clip
    from cola_msa.hub.embedder import hop_to_frames
    from cola_msa.hub.loading import open_model
    from cola_msa.model.embedding import ClipPooling

    opened = open_model(model)
    check_model(index, model, opened.key)
    hop_seconds = index.metadata.get("hop_seconds")
    try:
        hop_frames = hop_to_frames(hop_seconds, opened.frontend)
    except (TypeError, ValueError) as error:
        raise SearchError(
            f"the index says that windows are {hop_seconds!r:.40} s apart; embed the "
            "collection again, and build the index anew"
        ) from error

    def embed(path: str) -> np.ndarray:
        pooling = ClipPooling(opened.clip_embedding)
        try:
            clip = decode_clip(path, opened.frontend)
        except AudioError as error:
            raise SearchError(f"--file={path}: {error}") from error
        with clip:
            for windows in clip.windows(hop_frames):
                pooling.add(opened.embed(windows))
        return pooling.result()

    return embed


def query(
    index: Index,
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
        model: Embeds files that the index lacks; None for the newest run or the
            package's weights, whichever made the index.

    Returns:
        One dict a file: `query`, `in_index`, `metric`, and `results` of `rank`,
        `path`, `score`.

    Raises:
        SearchError: If a file is not in the index and there is no fitting model.
        NeighbourError: If the neighbours cannot be searched.
    """
    neighbours.choose_backend(backend)
    found = [index.find_row(file) for file in files]
    new = [file for file, row in zip(files, found, strict=True) if row is None]
    vectors = _embed_new(index, new, model)
    nearest = index.nearest(
        [
            vectors[file] if row is None else index.vector(row)
            for file, row in zip(files, found, strict=True)
        ],
        num_results,
        [-1 if row is None else row for row in found],
        backend,
    )
    # Of an exact index there is nothing to say.
    recall = {} if index.recall is None else {"recall": index.recall.share}
    return [
        {
            "query": file,
            "in_index": row is not None,
            "metric": index.metric,
            **recall,
            "results": results(index, rows, scores),
        }
        for file, row, (rows, scores) in zip(files, found, nearest, strict=True)
    ]


def _embed_new(
    index: Index, files: Sequence[str], model: str | None
) -> dict[str, np.ndarray]:
    """Embeddings by file of what the index lacks; no model is opened for nothing."""
    for file in files:
        if not os.path.isfile(file):
            raise SearchError(f"--file={file} is neither in the index nor a file")
        try:
            with AudioReader(file):
                pass
        except AudioError as error:
            raise SearchError(f"--file={file}: {error}") from error
    if not files:
        return {}
    embed = open_embedder(index, model or _own_model(index, files[0]))
    return {file: embed(file) for file in files}


def _own_model(index: Index, file: str) -> str:
    """The newest run or the package's weights, whichever made the index."""
    from cola_msa.hub.loading import default_model_of

    name = default_model_of(encoder_hash(index))
    if name is None:
        raise SearchError(
            f"--file={file} is not in the index; --model=... (the encoder that made "
            "the index) embeds it"
        )
    return name


def heading(index: Index) -> str:
    """What is to be said before the answers: how much of them an index finds."""
    return "" if index.recall is None else f"{index.kind}, {index.recall}\n\n"


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
    return "\n".join(map(one_line, lines)).rstrip()
