"""Paths and hashes of an index's rows: read where they lie, found without reading all.

A column of texts is their bytes, one after the other, and where each ends. What a row
may be found by is hashed to 64 bits; the hashes are sorted, with their rows beside
them, and a look-up reads a few pages of the file.
"""

import bisect
import hashlib
import os
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np

from cola_msa.collection.search.contract import SearchError
from cola_msa.collection.table.checks import MAX_TEXT
from cola_msa.system.files import file_sha256
from cola_msa.values.arrays import write_raw
from cola_msa.values.names import escape, unescape

COLUMNS = ("path", "sha256")
FILES = (
    *(f"{name}.{part}" for name in COLUMNS for part in ("texts", "ends")),
    "keys",
    "key_rows",
)
_WAYS = 4  # a row is found by: path, place, name, content


def write_names(
    folder: pathlib.Path,
    paths: Sequence[str],
    sha256: Sequence[str],
    earlier: "Names | None" = None,
) -> None:
    """Writes the files FILES of n rows into a folder.

    Args:
        folder: Where they go.
        paths: n paths.
        sha256: n hashes.
        earlier: Rows of another index that stand before these.
    """
    num_earlier = 0 if earlier is None else earlier.num_rows
    for name, texts in zip(COLUMNS, (paths, sha256), strict=True):
        ends = np.zeros(len(texts), "<u8")
        with open(folder / f"{name}.texts", "wb") as file:
            if earlier is not None:
                write_raw(file, earlier.column(name)[0])
            end = file.tell()
            for row, text in enumerate(texts):
                end += file.write(text.encode())
                ends[row] = end
        with open(folder / f"{name}.ends", "wb") as file:
            if earlier is not None:
                write_raw(file, earlier.column(name)[1])
            write_raw(file, ends)
    keys = np.zeros((len(paths), _WAYS), "<u8")
    folders: dict[str, str] = {}
    for row, (path, digest) in enumerate(zip(paths, sha256, strict=True)):
        keys[row] = (
            _key("path", path),
            _key("place", place(unescape(path), folders)),
            _key("name", unicodedata.normalize("NFC", path)),
            _key("sha256", digest),
        )
    found = keys.ravel()
    rows = np.repeat(np.arange(len(paths), dtype="<u8") + np.uint64(num_earlier), _WAYS)
    if earlier is not None:
        found = np.concatenate([earlier.keys, found])
        rows = np.concatenate([earlier.key_rows, rows])
    order = np.argsort(found, kind="stable")  # of equal ones by row
    for name, values in (("keys", found), ("key_rows", rows)):
        with open(folder / name, "wb") as file:
            write_raw(file, values[order])


def place(path: str, folders: dict[str, str]) -> str:
    """As `os.path.realpath`, of whatever text somebody has given as a path.

    Args:
        path: The path.
        folders: Where folders are that were looked at; added to.
    """
    head, name = os.path.split(path)
    try:
        if os.path.islink(path) or name in ("", os.curdir, os.pardir):
            return os.path.realpath(path)
        if head not in folders:
            folders[head] = os.path.realpath(head)
    except ValueError:  # no path that a disk could have
        return path
    return os.path.join(folders[head], name)


def _key(way: str, text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8, person=way.encode())
    return int.from_bytes(digest.digest(), "little")


class Names:
    """The files that `write_names` wrote, memory-mapped.

    Attributes:
        num_rows: n.
        keys: uint64 [4n], sorted.
        key_rows: uint64 [4n], the row of each.
    """

    def __init__(self, folder: pathlib.Path, num_rows: int):
        """Opens them.

        Args:
            folder: Where they lie.
            num_rows: n.

        Raises:
            SearchError: If they are not as long as n rows are.
        """
        self._folder = folder
        self.num_rows = num_rows
        self.keys = self._map("keys", "<u8", _WAYS * num_rows)
        self.key_rows = self._map("key_rows", "<u8", _WAYS * num_rows)
        self._texts = {name: self._map(f"{name}.texts", "u1") for name in COLUMNS}
        self._ends = {
            name: self._map(f"{name}.ends", "<u8", num_rows) for name in COLUMNS
        }

    def _map(self, name: str, kind: str, count: int | None = None) -> np.ndarray:
        path = self._folder / name
        size, width = path.stat().st_size, np.dtype(kind).itemsize
        if count is not None and size != count * width:
            raise SearchError(
                f"{path}: has {size:,} bytes, and not those of {self.num_rows:,} rows; "
                "build the index again"
            )
        return np.memmap(path, kind, "r") if size else np.zeros(0, kind)

    def text(self, column: str, row: int) -> str:
        """The text of a row.

        Raises:
            SearchError: If the index is damaged.
        """
        ends = self._ends[column]
        begin, end = int(ends[row - 1]) if row else 0, int(ends[row])
        texts = self._texts[column]
        if not begin <= end <= len(texts) or end - begin > 4 * MAX_TEXT:
            raise self._damage(column)
        try:
            return texts[begin:end].tobytes().decode()
        except UnicodeError as error:
            raise self._damage(column) from error

    def _damage(self, column: str) -> SearchError:
        return SearchError(
            f"{self._folder / column}.texts: damaged; build the index again"
        )

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of a column's texts, and where each ends."""
        return self._texts[name], self._ends[name]

    def find(self, file: str) -> int | None:
        """The row of a file: the same path, the same place on the disk, or its content.

        Its place is where the path led when the index was made. Last, a path that
        differs in how its characters are composed, if there is but one.
        """
        name = escape(file)
        if (row := self._same("path", name)) is not None:
            return row
        if rows := self._rows("place", place(file, {})):
            return rows[0]
        if os.path.isfile(file):
            row = self._same("sha256", file_sha256(file))
            if row is not None:
                return row
        return self.find_path(name)

    def find_path(self, path: str) -> int | None:
        """The row of a path as it stands in the index, whatever lies on the disk."""
        if (row := self._same("path", path)) is not None:
            return row
        rows = self._rows("name", unicodedata.normalize("NFC", path))
        return rows[0] if len(rows) == 1 else None

    def content(self, path: str) -> str | None:
        """The hash of the row of a path; None where there is none."""
        row = self._same("path", path)
        return None if row is None else self.text("sha256", row)

    def _same(self, column: str, text: str) -> int | None:
        """The first row with a text."""
        for row in self._rows(column, text):
            if self.text(column, row) == text:
                return row
        return None

    def _rows(self, way: str, text: str) -> list[int]:
        """Rows with a key, in order; the file may be anybody's."""
        key = _key(way, text)
        first = bisect.bisect_left(self.keys, key)
        rows: list[int] = []
        while first < len(self.keys) and self.keys[first] == key:
            row = int(self.key_rows[first])
            if row >= self.num_rows:
                raise SearchError(
                    f"{self._folder / 'key_rows'}: damaged; build the index again"
                )
            rows.append(row)
            first += 1
        return rows
