"""The index file of `search`: clips, their embeddings, and which encoder made them."""

import dataclasses
import json
import os
import pathlib
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cola_msa.audio.decode import AudioReader
from cola_msa.audio.errors import AudioError
from cola_msa.collection import neighbours
from cola_msa.collection.neighbours import METRICS
from cola_msa.collection.table.checks import (
    COLUMNS,
    EmbeddingFileError,
    check_columns,
    check_texts,
)
from cola_msa.collection.table.npz import column_of
from cola_msa.collection.table.read import (
    Embeddings,
    check_metadata,
    check_values,
    load_embeddings,
    open_reader,
)
from cola_msa.system import folders
from cola_msa.system.errors import UsageError, UserError, hide_logins
from cola_msa.system.files import file_sha256
from cola_msa.values import arrays as arrays_lib
from cola_msa.values.names import escape, unescape

FORMAT = "cola_msa search index"
VERSION = 1


class SearchError(UserError):
    """An index or a query that cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class SearchIndex:
    """Clips to search among.

    Attributes:
        table: One row a clip.
        metric: `cosine` or `euclidean`.
    """

    table: Embeddings
    metric: str

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index as .npz, whole or not at all.

        Raises:
            SearchError, FileError: As `check_output`.
            RunError: If it cannot be written.
        """
        check_output(path)
        path = pathlib.Path(path)
        arrays = {
            "path": np.array(self.table.paths, np.str_),
            "sha256": np.array(self.table.sha256, np.str_),
            "start": self.table.starts,
            "seconds": self.table.seconds,
            "embedding": self.table.embeddings,
        }
        state = {
            "format": FORMAT,
            "version": VERSION,
            "metric": self.metric,
            "metadata": self.table.metadata,
        }
        arrays_lib.write_arrays(path, arrays, state)


def check_output(path: str | os.PathLike) -> None:
    """Refuses a name for an index, before the work begins.

    Raises:
        UsageError: If it does not end with .npz.
        FileError: If something else than an index is there.
    """
    if pathlib.Path(path).suffix != ".npz":
        raise UsageError(f"--output={path}: an index is an .npz file")

    def is_index(file: pathlib.Path) -> bool:
        return (arrays_lib.read_state(file) or {}).get("format") == FORMAT

    folders.check_file(path, is_index, "an index of search build")


def build_index(embeddings: str | os.PathLike, metric: str) -> SearchIndex:
    """Makes an index of a file of embeddings; windows are averaged to clips.

    Raises:
        EmbeddingFileError: If the file cannot be read.
    """
    return SearchIndex(load_embeddings(embeddings), metric)


def load_index(path: pathlib.Path) -> SearchIndex:
    """Reads an index; its embeddings stay in the file, memory-mapped.

    Raises:
        SearchError: If there is none, or the file is another or damaged.
    """
    if not path.is_file():
        raise SearchError(
            f"{path}: there is no such index; python -m cola_msa.search build makes one"
        )
    try:
        arrays = arrays_lib.read_arrays(path, mapped=["embedding"])
        state = json.loads(str(arrays[arrays_lib.STATE]))
        if state["format"] != FORMAT or state["version"] != VERSION:
            raise ValueError(f"format {state['format']!r} {state['version']}")
        if state["metric"] not in METRICS:
            raise ValueError(f"metric {state['metric']!r}")
        columns = {name: arrays[name] for name in COLUMNS}
        check_columns(
            path, {n: column_of(c.shape, c.dtype) for n, c in columns.items()}
        )
        check_metadata(path, state["metadata"])
        table = Embeddings(
            paths=tuple(check_texts(path, "path", columns["path"].tolist())),
            sha256=tuple(check_texts(path, "sha256", columns["sha256"].tolist())),
            starts=columns["start"],
            seconds=columns["seconds"],
            embeddings=columns["embedding"],
            metadata=state["metadata"],
        )
        check_values(path, table)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if _is_embeddings(path):
            raise SearchError(
                f"{path}: holds embeddings, and no index yet; python -m "
                "cola_msa.search build makes one of them"
            ) from error
        raise SearchError(
            f"{path}: not an index of python -m cola_msa.search build "
            f"({str(error).removeprefix(f'{path}: ')}); build it again"
        ) from error
    return SearchIndex(table, state["metric"])


def _is_embeddings(path: pathlib.Path) -> bool:
    """Whether it is a file of embeddings, and not an index with a damaged state."""
    try:
        open_reader(path).close()
        if not zipfile.is_zipfile(path):
            return True
        with zipfile.ZipFile(path) as archive:
            return f"{arrays_lib.STATE}.npy" not in archive.namelist()
    except (EmbeddingFileError, OSError, zipfile.BadZipFile):
        return False


def describe(index: SearchIndex) -> str:
    """What an index holds, in a line."""
    model = index.table.model_hash
    return (
        f"{len(index.table.paths)} clips, {index.table.embeddings.shape[1]} values "
        f"each, metric {index.metric}, model {model[:12] if model else 'not recorded'}"
    )


def find_row(table: Embeddings, file: str) -> int | None:
    """The row of a file: the same path, the same place on the disk, or its content.

    Last, a path that differs in how its characters are composed, if there is but one.
    """
    if escape(file) in table.paths:
        return table.paths.index(escape(file))
    real = os.path.realpath(file)
    for row, path in enumerate(table.paths):
        if os.path.realpath(unescape(path)) == real:
            return row
    if os.path.isfile(file):
        digest = file_sha256(file)
        if digest in table.sha256:
            return table.sha256.index(digest)
    name = unicodedata.normalize("NFC", escape(file))
    equal = [
        row
        for row, path in enumerate(table.paths)
        if unicodedata.normalize("NFC", path) == name
    ]
    return equal[0] if len(equal) == 1 else None


def check_model(index: SearchIndex, model: str, model_hash: str | None) -> None:
    """Refuses an encoder other than the index's.

    Raises:
        SearchError: If the hashes differ, or the index does not say which it was.
    """
    expected = index.table.model_hash
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


def open_embedder(index: SearchIndex, model: str) -> Callable[[str], np.ndarray]:
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
    hop_seconds = index.table.metadata.get("hop_seconds")
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


def build(embeddings: str | None, output: str | None, metric: str) -> str:
    """Writes an index; returns what to tell the user.

    Raises:
        UsageError: If a flag is missing, or `output` is no .npz file.
        FileError: If something else than an index is at `output`.
        EmbeddingFileError: If the embeddings cannot be read.
    """
    if not embeddings or not output:
        raise UsageError("build needs --embeddings=FILE and --output=INDEX.npz")
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
    found = [find_row(index.table, file) for file in files]
    new = [file for file, row in zip(files, found, strict=True) if row is None]
    vectors = _embed_new(index, new, model)
    table = index.table
    nearest = neighbours.find_in_blocks(
        table.embeddings,
        [
            vectors[file] if row is None else table.embeddings[row]
            for file, row in zip(files, found, strict=True)
        ],
        num_results,
        [-1 if row is None else row for row in found],
        index.metric,
        backend,
    )
    return [
        {
            "query": file,
            "in_index": row is not None,
            "metric": index.metric,
            "results": [
                {"rank": rank, "path": table.paths[r], "score": float(score)}
                for rank, (r, score) in enumerate(zip(rows, scores, strict=True), 1)
            ],
        }
        for file, row, (rows, scores) in zip(files, found, nearest, strict=True)
    ]


def _embed_new(
    index: SearchIndex, files: Sequence[str], model: str | None
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


def _own_model(index: SearchIndex, file: str) -> str:
    """The newest run or the package's weights, whichever made the index."""
    from cola_msa.hub.loading import default_model_of

    name = default_model_of(index.table.model_hash)
    if name is None:
        raise SearchError(
            f"--file={file} is not in the index; --model=... (the encoder that made "
            "the index) embeds it"
        )
    return name


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
