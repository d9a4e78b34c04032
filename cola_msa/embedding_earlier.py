"""The output of an earlier run of `embed`: which files it holds, and their rows."""

import json
import pathlib
import zipfile
from typing import Any

import numpy as np

from cola_msa.embedding_output import OutputError, import_pyarrow
from cola_msa.embedding_store import FileRows

_NAMES = ("path", "sha256", "start", "seconds")


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
        readers: dict[str, Any] = {".parquet": _Parquet, ".npz": _Npz, ".h5": _H5}
        try:
            self._reader = readers[path.suffix](path)
            columns = self._reader.columns()
            metadata = json.loads(self._reader.metadata())
        except OutputError:
            raise
        except (
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            zipfile.BadZipFile,
        ) as error:
            raise OutputError(
                f"{path} is there and is no file of embeddings, or damaged ({error}); "
                "delete it, or name another --output"
            ) from error
        self.metadata: dict[str, Any] = metadata
        names = [n for n in settings if metadata.get(n) != settings[n]]
        if names:
            raise OutputError(
                f"{path} holds embeddings with another {', '.join(names)}; name "
                "another --output, or delete it"
            )
        self.paths: dict[str, str] = {}
        self.finished: dict[str, FileRows] = {}
        self._find_files(*columns)

    def _find_files(
        self, paths: np.ndarray, hashes: np.ndarray, starts: Any, seconds: Any
    ) -> None:
        if not len(paths):
            return
        # A file's rows follow one another; a copy of it has another path.
        is_first = np.r_[True, paths[1:] != paths[:-1]]
        firsts = np.flatnonzero(is_first)
        for first, stop in zip(firsts, np.r_[firsts[1:], len(paths)], strict=True):
            sha256 = str(hashes[first])
            self.paths[str(paths[first])] = sha256
            duration = float(starts[stop - 1] + seconds[stop - 1])
            self.finished[sha256] = FileRows(
                sha256, int(first), int(stop - first), duration
            )

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Reads rows, float32 [num_rows, dim]."""
        return self._reader.read(first_row, num_rows)

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()


class _Parquet:
    def __init__(self, path: pathlib.Path):
        pyarrow, parquet = import_pyarrow()
        try:
            self._file = parquet.ParquetFile(path)
        except pyarrow.ArrowException as error:
            raise ValueError(error) from error
        sizes = [
            self._file.metadata.row_group(i).num_rows
            for i in range(self._file.num_row_groups)
        ]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._group = -1
        self._rows = np.zeros((0, 0), np.float32)

    def columns(self) -> list[np.ndarray]:
        table = self._file.read(list(_NAMES))
        return [table.column(name).to_numpy() for name in _NAMES]

    def metadata(self) -> str:
        return self._file.schema_arrow.metadata[b"metadata"].decode()

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        parts = []
        while num_rows:
            group = int(np.searchsorted(self._ends, first_row, "right"))
            if group != self._group:
                column = self._file.read_row_group(group, ["embedding"]).column(0)
                flat = column.combine_chunks().flatten().to_numpy()
                self._rows = flat.reshape(len(column), -1)
                self._group = group
            offset = first_row - int(self._ends[group]) + len(self._rows)
            parts.append(self._rows[offset : offset + num_rows])
            first_row += len(parts[-1])
            num_rows -= len(parts[-1])
        return np.concatenate(parts)

    def close(self) -> None:
        self._file.close()


class _Npz:
    def __init__(self, path: pathlib.Path):
        with np.load(path, allow_pickle=False) as arrays:
            self._arrays = dict(arrays)

    def columns(self) -> list[np.ndarray]:
        return [self._arrays[name] for name in _NAMES]

    def metadata(self) -> str:
        return str(self._arrays["metadata"])

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        return self._arrays["embedding"][first_row : first_row + num_rows]

    def close(self) -> None:
        self._arrays.clear()


class _H5:
    def __init__(self, path: pathlib.Path):
        import h5py

        self._file = h5py.File(path, "r")

    def columns(self) -> list[np.ndarray]:
        paths, hashes = (self._file[name].asstr()[()] for name in _NAMES[:2])
        return [paths, hashes, *(self._file[name][()] for name in _NAMES[2:])]

    def metadata(self) -> str:
        return self._file.attrs["metadata"]

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        return self._file["embedding"][first_row : first_row + num_rows]

    def close(self) -> None:
        self._file.close()
