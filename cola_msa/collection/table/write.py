"""Files of embeddings: Parquet, .npz and .h5, written and read in bounded memory.

All hold the same columns, one row a clip or a window: path, sha256, start (s),
seconds, embedding (float32 [dim]); and a JSON text `metadata` that says which encoder
made them (schema metadata, an array, an attribute).
"""

import csv
import errno
import io
import json
import math
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cola_msa.system import files, folders
from cola_msa.system.errors import UsageError, UserError

SUFFIXES = (".parquet", ".npz", ".h5")
_CHUNK_ROWS = 2048
_CHUNK_BYTES = 1 << 18  # of HDF5, which reads whole ones
_PYARROW = "Parquet needs pyarrow: pip install 'cola_msa[embed]', or write .npz or .h5"


class OutputError(UserError):
    """A file of embeddings that cannot be written or gone on with."""


class Clip(NamedTuple):
    """One file of the table: its rows, and what they stand for."""

    path: str
    sha256: str
    starts: np.ndarray  # float64 [n], seconds
    seconds: np.ndarray  # float64 [n]
    read: Callable[[int, int], np.ndarray]  # (first, count) -> float32 [count, dim]


class _Chunk(NamedTuple):
    path: list[str]
    sha256: list[str]
    start: np.ndarray
    seconds: np.ndarray
    embedding: np.ndarray


class Table:
    """Clips in order, read in chunks of rows."""

    def __init__(self, clips: list[Clip], dim: int, metadata: dict[str, Any]):
        """Describes a file's content.

        Args:
            clips: In order.
            dim: Values of an embedding.
            metadata: What made them; plain JSON types.
        """
        self.clips = clips
        self.dim = dim
        self.metadata = json.dumps(metadata)
        self.num_rows = sum(len(clip.starts) for clip in clips)

    def chunks(self, with_embeddings: bool = True) -> Iterator[_Chunk]:
        """Yields up to 2,048 rows at a time, in order."""
        parts: list[_Chunk] = []
        count = 0
        for clip in self.clips:
            for first in range(0, len(clip.starts), _CHUNK_ROWS):
                starts = clip.starts[first : first + _CHUNK_ROWS]
                size = len(starts)
                if count + size > _CHUNK_ROWS:
                    yield _join(parts)
                    parts, count = [], 0
                rows = np.zeros((0, self.dim), np.float32)
                if with_embeddings:
                    rows = clip.read(first, size)
                seconds = clip.seconds[first : first + size]
                names = [clip.path] * size, [clip.sha256] * size
                parts.append(_Chunk(*names, starts, seconds, rows))
                count += size
        if parts:
            yield _join(parts)


def _join(parts: list[_Chunk]) -> _Chunk:
    return _Chunk(
        [path for part in parts for path in part.path],
        [sha256 for part in parts for sha256 in part.sha256],
        *(np.concatenate([part[column] for part in parts]) for column in (2, 3, 4)),
    )


def check_output(path: pathlib.Path) -> None:
    """Refuses an output that could not be written, before the work begins.

    Raises:
        UsageError: If the suffix is unknown.
        OutputError: If it is a folder, or pyarrow is missing.
        FileError: If its list of failures would be written over another file.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"--output={path} must end in {', '.join(SUFFIXES)}, or be a folder: a "
            "name without a suffix, or with / behind it"
        )
    if path.is_dir():
        raise OutputError(f"--output={path} is a folder; name a file")
    folders.check_file(failures_path(path), _is_failures, "a list of embed's failures")
    if path.suffix == ".parquet":
        import_pyarrow()


def _is_failures(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        return file.readline(1024).rstrip() == b"path,reason"


def import_pyarrow() -> tuple[Any, Any]:
    """Imports the extra; OutputError with the pip command where it is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise OutputError(_PYARROW) from error
    return pyarrow, parquet


def write_table(path: pathlib.Path, table: Table) -> None:
    """Writes a file that is there whole or not at all.

    Args:
        path: Its suffix says what is written.
        table: The rows.

    Raises:
        OutputError: If it cannot be written; what was there before is still there.
    """
    writers = {".parquet": _write_parquet, ".npz": _write_npz, ".h5": _write_h5}
    with files.written_path(path, OutputError) as temporary:
        with files.plain_hdf5_errors():
            writers[path.suffix](temporary, table)


def _write_parquet(path: pathlib.Path, table: Table) -> None:
    pyarrow, parquet = import_pyarrow()
    embedding = pyarrow.list_(pyarrow.float32(), table.dim)
    schema = pyarrow.schema(
        [
            ("path", pyarrow.string()),
            ("sha256", pyarrow.string()),
            ("start", pyarrow.float64()),
            ("seconds", pyarrow.float64()),
            ("embedding", embedding),
        ],
        metadata={"metadata": table.metadata},
    )
    # A dictionary of floating-point values that are all different only costs time.
    names = ["path", "sha256"]
    with (
        open(path, "wb") as file,  # pyarrow takes names of UTF-8 alone
        parquet.ParquetWriter(
            file, schema, use_dictionary=names, write_page_checksum=True
        ) as writer,
    ):
        for chunk in table.chunks():
            values = pyarrow.array(chunk.embedding.ravel())
            columns = [
                *(pyarrow.array(column) for column in chunk[:4]),
                pyarrow.FixedSizeListArray.from_arrays(values, table.dim),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _write_npz(path: pathlib.Path, table: Table) -> None:
    longest = max((len(clip.path) for clip in table.clips), default=1)
    kinds = {
        "path": f"<U{max(longest, 1)}",
        "sha256": "<U64",
        "start": "<f8",
        "seconds": "<f8",
        "embedding": "<f4",
    }
    # Member by member and chunk by chunk: np.savez wants whole arrays.
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, kind in kinds.items():
            is_text = name in ("path", "sha256")
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            shape: tuple[int, ...] = (table.num_rows,)
            if name == "embedding":
                shape = (table.num_rows, table.dim)
            header = {
                "descr": np.dtype(kind).str,
                "fortran_order": False,
                "shape": shape,
            }
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                for chunk in table.chunks(name == "embedding"):
                    member.write(np.asarray(getattr(chunk, name), kind).tobytes())
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.array(table.metadata))
        archive.writestr("metadata.npy", buffer.getvalue())


def _write_h5(path: pathlib.Path, table: Table) -> None:
    import h5py

    # The temporary file is locked already, by whoever made it.
    with h5py.File(path, "w", locking=False) as file:
        file.attrs["metadata"] = table.metadata
        n, text = table.num_rows, h5py.string_dtype()
        columns: dict[str, tuple[tuple[int, ...], Any]] = {
            "path": ((n,), text),
            "sha256": ((n,), text),
            "start": ((n,), "<f8"),
            "seconds": ((n,), "<f8"),
            "embedding": ((n, table.dim), "<f4"),
        }
        for name, (shape, kind) in columns.items():
            file.create_dataset(name, shape, kind, **_checksums(shape, kind))
        first = 0
        for chunk in table.chunks():
            for name in columns:
                file[name][first : first + len(chunk.path)] = getattr(chunk, name)
            first += len(chunk.path)


def _checksums(shape: tuple[int, ...], kind: Any) -> dict[str, Any]:
    """What HDF5 needs to notice damaged numbers; texts lie elsewhere in the file."""
    if not isinstance(kind, str) or not shape[0]:
        return {}
    rows = _CHUNK_BYTES // max(1, np.dtype(kind).itemsize * math.prod(shape[1:]))
    return {"chunks": (min(shape[0], max(1, rows)), *shape[1:]), "fletcher32": True}


def write_failures(path: pathlib.Path, failures: dict[str, str]) -> None:
    """Writes the second file: path and reason of whatever could not be embedded."""
    buffer = io.StringIO()
    # The writer takes a carriage return for none of a line's ends, the reader for one.
    is_odd = any("\r" in path or "\r" in why for path, why in failures.items())
    writer = csv.writer(
        buffer,
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if is_odd else csv.QUOTE_MINIMAL,
    )
    writer.writerow(("path", "reason"))
    writer.writerows(failures.items())
    files.write_bytes(path, buffer.getvalue().encode(), OutputError)


def failures_path(output: pathlib.Path) -> pathlib.Path:
    """`embeddings.parquet.failures.csv` beside `embeddings.parquet`."""
    return output.with_name(f"{output.name}.failures.csv")


def keep_previous(output: pathlib.Path) -> pathlib.Path:
    """Gives a file a second name, `embeddings.parquet.previous`, or with a number.

    Returns:
        The name, which no other file had before.

    Raises:
        OutputError: If it cannot be made.
    """
    number = 1
    while True:
        ending = ".previous" if number == 1 else f".previous{number}"
        path = output.with_name(output.name + ending)
        if path.is_file() and os.path.samefile(path, output):
            return path  # a run was killed before it wrote the new output
        try:
            os.link(os.path.realpath(output), path)
            return path
        except FileExistsError:
            number += 1
        except OSError as error:
            if path.exists() or path.is_symlink():
                number += 1
            elif error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                # A file system without links.
                with open(output, "rb") as source:
                    files.write_file(
                        path, lambda file: shutil.copyfileobj(source, file), OutputError
                    )
                return path
            else:
                raise OutputError(
                    f"{path}: cannot be written ({error.strerror or error}); once that "
                    "is mended the same command goes on"
                ) from error
