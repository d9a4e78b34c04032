"""The output of an earlier run of `embed`: which files it holds, and their rows."""

import itertools
import json
import pathlib
from typing import Any

import numpy as np

from cola_msa.collection.table.checks import NUMBERS, TEXTS, EmbeddingFileError
from cola_msa.collection.table.read import open_reader
from cola_msa.collection.table.store import FileRows
from cola_msa.collection.table.write import OutputError


class Earlier:
    """A finished file of embeddings; a .npz is read whole, the others in parts.

    Attributes:
        metadata: What made it.
        paths: SHA-256 of each path.
        finished: FileRows by SHA-256.
    """

    def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
        """Opens an output.

        Args:
            path: .parquet, .npz or .h5.
            settings: Those of its metadata must be the same.

        Raises:
            OutputError: If it is damaged, not by `embed`, or made with others.
        """
        try:
            self._reader = open_reader(path)
        except EmbeddingFileError as error:
            raise _refuse(path, error) from error
        try:
            self._open(path, settings)
        except BaseException:
            self._reader.close()
            raise

    def _open(self, path: pathlib.Path, settings: dict[str, Any]) -> None:
        try:
            text = self._reader.metadata()
            if text is None:
                raise EmbeddingFileError("it does not say which encoder made it")
            metadata = json.loads(text)
            if not isinstance(metadata, dict):
                raise EmbeddingFileError("its metadata are no JSON object")
            columns = self._reader.columns()
            for name in NUMBERS:
                if not np.isfinite(columns[name]).all():
                    raise EmbeddingFileError(f"column {name} is not finite")
        except (ValueError, RecursionError) as error:
            raise _refuse(path, error) from error
        self.metadata: dict[str, Any] = metadata
        names = [n for n in settings if metadata.get(n) != settings[n]]
        if names:
            raise OutputError(
                f"{path} holds embeddings with another {', '.join(names)}; name "
                "another --output, or delete it"
            )
        self.paths: dict[str, str] = {}
        self.finished: dict[str, FileRows] = {}
        dim = settings.get("embedding_dim", self._reader.dim)
        if self._reader.num_rows and self._reader.dim != dim:
            raise _refuse(path, f"its embeddings have {self._reader.dim} values")
        self._find_files(*(columns[name] for name in (*TEXTS, *NUMBERS)))

    def _find_files(
        self, paths: list[str], hashes: list[str], starts: Any, seconds: Any
    ) -> None:
        # A file's rows follow one another; a copy of it has another path.
        bounds = [
            row for row, path in enumerate(paths) if not row or path != paths[row - 1]
        ]
        for first, stop in itertools.pairwise([*bounds, len(paths)]):
            sha256 = hashes[first]
            self.paths[paths[first]] = sha256
            duration = float(starts[stop - 1] + seconds[stop - 1])
            self.finished[sha256] = FileRows(sha256, first, stop - first, duration)

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Reads rows, float32 [num_rows, dim]."""
        return self._reader.read(first_row, num_rows)

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()


def _refuse(path: pathlib.Path, reason: object) -> OutputError:
    text = str(reason).removeprefix(f"{path}: ")
    return OutputError(
        f"{path} is there and is no file of embeddings, or damaged ({text}); delete "
        "it, or name another --output"
    )
