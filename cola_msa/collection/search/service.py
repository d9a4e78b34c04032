"""Questions to an index as JSON, without the wire: what `serve` answers.

Whoever asks may be a hostile page in the user's browser: nothing here looks at the
disk for what is asked for but the index, and what is asked for is bounded.
"""

import json
import pathlib
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

import numpy as np

from cola_msa.collection.search.contract import (
    Index,
    Nearest,
    SearchError,
    encoder_hash,
    results,
)
from cola_msa.collection.search.neighbours import NeighbourError, Neighbours
from cola_msa.collection.search.query import open_embedder

MAX_BODY_BYTES = 4 << 20  # of JSON
MAX_AUDIO_BYTES = 64 << 20
MAX_RESULTS, MAX_QUERIES, MAX_ANSWER = 1000, 256, 20_000
_DEFAULT_RESULTS = 10
_HELD_BYTES = 1 << 30  # of a flat index in memory, so that a query takes milliseconds
_ROUTES = {
    "GET /": "this",
    "GET /neighbours?path=PATH&k=10": "the nearest clips of a clip of the index",
    "POST /neighbours": 'JSON: {"path": PATH} or {"vector": [...]}, with "k"; or '
    '{"queries": [...], "k": 10} of such',
    "POST /audio?k=10": "the bytes of an audio file; needs serve --model",
}


class RequestError(Exception):
    """A request that is not answered; the message says why.

    Attributes:
        status: Of HTTP.
    """

    def __init__(self, status: int, reason: str):
        """Says what is wrong."""
        super().__init__(reason)
        self.status = status


class Service:
    """An index, and what may be asked of it. Threads may ask at once."""

    def __init__(self, index: Index, model: str | None = None):
        """Prepares the answers.

        Args:
            index: What is searched.
            model: Embeds audio that is sent; None for none.

        Raises:
            SearchError: If the model is not the encoder that made the index.
            NeighbourError: If the rows cannot be compared.
        """
        self._index = index
        self._embed: Callable[[str], np.ndarray] | None = None
        if model is not None:
            self._embed = open_embedder(index, model)
        self._embed_lock = threading.Lock()
        self._held: Neighbours | None = None
        if index.kind == "flat" and 8 * index.num_rows * index.dim <= _HELD_BYTES:
            rows = np.stack([index.vector(row) for row in range(index.num_rows)])
            self._held = Neighbours(rows, index.metric)

    @property
    def takes_audio(self) -> bool:
        """Whether there is a model."""
        return self._embed is not None

    def describe(self) -> dict[str, Any]:
        """What the index is, and what can be asked."""
        index, recall = self._index, self._index.recall
        return {
            "what": "an index of python -m cola_msa.search",
            "clips": index.num_rows,
            "values": index.dim,
            "kind": index.kind,
            "metric": index.metric,
            "model": encoder_hash(index),
            "recall": None if recall is None else recall.share,
            "routes": _ROUTES,
        }

    def by_path(self, query: str) -> dict[str, Any]:
        """Answers the query string of GET /neighbours.

        Raises:
            RequestError: If it cannot be answered.
        """
        values = _parse_query(query, ("path", "k"))
        if "path" not in values:
            raise RequestError(400, "path=... is missing")
        asked = {"path": values["path"]}
        (answer,) = self._answer([asked], _count(values.get("k")))
        return answer

    def by_json(self, body: bytes) -> dict[str, Any]:
        """Answers the body of POST /neighbours.

        Raises:
            RequestError: If it cannot be answered.
        """
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the body is no JSON ({error})") from error
        if not isinstance(asked, dict):
            raise RequestError(400, "the body is no JSON object")
        count = _count(asked.get("k"))
        if "queries" not in asked:
            _check_names(asked, ("path", "vector", "k"))
            (answer,) = self._answer([asked], count)
            return answer
        _check_names(asked, ("queries", "k"))
        queries = asked["queries"]
        if not isinstance(queries, list) or not 1 <= len(queries) <= MAX_QUERIES:
            raise RequestError(400, f"queries is no list of 1 to {MAX_QUERIES}")
        if len(queries) * count > MAX_ANSWER:
            raise RequestError(
                400, f"queries times k is more than {MAX_ANSWER:,}: ask in parts"
            )
        for each in queries:
            if not isinstance(each, dict):
                raise RequestError(400, "a query is no JSON object")
            _check_names(each, ("path", "vector"))
        return {"answers": self._answer(queries, count)}

    def by_audio(self, query: str, file: pathlib.Path) -> dict[str, Any]:
        """Answers POST /audio.

        Args:
            query: The query string.
            file: What was sent.

        Raises:
            RequestError: If it cannot be answered.
        """
        count = _count(_parse_query(query, ("k",)).get("k"))
        if self._embed is None:
            raise RequestError(404, "audio is taken where serve has a --model")
        try:
            with self._embed_lock:  # one at a time: each takes all cores
                vector = self._embed(str(file))
        except SearchError as error:
            reason = str(error).removeprefix(f"--file={file}: ")
            raise RequestError(400, f"the audio cannot be read: {reason}") from error
        (answer,) = self._nearest([vector], [None], count)
        return answer

    def _answer(self, queries: list[dict[str, Any]], count: int) -> list[Any]:
        vectors: list[np.ndarray] = []
        rows: list[int | None] = []
        for asked in queries:
            if ("path" in asked) == ("vector" in asked):
                raise RequestError(400, "a query has either a path or a vector")
            row = None
            if "path" in asked:
                row = self._find(asked["path"])
                vectors.append(self._index.vector(row))
            else:
                vectors.append(self._parse_vector(asked["vector"]))
            rows.append(row)
        return self._nearest(vectors, rows, count)

    def _find(self, path: Any) -> int:
        if not isinstance(path, str) or not path:
            raise RequestError(400, "path is no text")
        try:
            path.encode()
        except UnicodeError as error:
            raise RequestError(400, "path is no Unicode") from error
        row = self._index.find_path(path)
        if row is None:
            raise RequestError(404, "the index has no such path")
        return row

    def _parse_vector(self, values: Any) -> np.ndarray:
        if not isinstance(values, list) or any(
            type(value) not in (int, float) for value in values
        ):
            raise RequestError(400, "vector is no list of numbers")
        try:
            return np.array(values, np.float64)
        except OverflowError as error:
            raise RequestError(400, "vector has numbers that are too large") from error

    def _nearest(
        self, vectors: list[np.ndarray], rows: list[int | None], count: int
    ) -> list[Any]:
        index = self._index
        skip = [-1 if row is None else row for row in rows]
        try:
            nearest: Nearest
            if self._held is not None:
                # One by one: vectors of another size are refused, not a defect.
                nearest = []
                for vector, own in zip(vectors, skip, strict=True):
                    found, scores = self._held.find(vector, count, [own])
                    nearest.append((found[0], scores[0]))
            else:
                nearest = index.nearest(vectors, count, skip)
        except NeighbourError as error:
            raise RequestError(400, str(error)) from error
        return [
            {
                "query": None if row is None else index.path(row),
                "in_index": row is not None,
                "metric": index.metric,
                "results": results(index, found, scores),
            }
            for row, (found, scores) in zip(rows, nearest, strict=True)
        ]


def _parse_query(query: str, names: tuple[str, ...]) -> dict[str, str]:
    try:
        found = urllib.parse.parse_qsl(
            query,
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=16,
        )
    except ValueError as error:
        raise RequestError(400, f"the address cannot be read ({error})") from error
    values = dict(found)
    if len(values) < len(found):
        raise RequestError(400, "a name stands twice in the address")
    _check_names(values, names)
    return values


def _check_names(values: dict[str, Any], names: tuple[str, ...]) -> None:
    strange = sorted(set(values) - set(names))
    if strange:
        raise RequestError(
            400, f"{strange[0][:40]!r} is unknown; there are {', '.join(names)}"
        )


def _count(value: Any) -> int:
    if value is None:
        return _DEFAULT_RESULTS
    if isinstance(value, str) and value.isascii() and value.isdigit():
        digits = value.lstrip("0")
        value = int(digits[: len(str(MAX_RESULTS)) + 1] or "0")
    if type(value) is not int or not 1 <= value <= MAX_RESULTS:
        raise RequestError(400, f"k is no whole number from 1 to {MAX_RESULTS}")
    return value
