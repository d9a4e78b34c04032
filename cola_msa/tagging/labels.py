"""Labels that a user hands in for clips: a class each, or tags that apply or do not."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from cola_msa.collection.labels import MatchedTable, match_rows
from cola_msa.system.errors import UserError

LABEL_COLUMN = "label"
_NAME_COLUMN = "name"  # the map's: what a track is called
_CELLS = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}
_MAX_CLASSES = 1000
_MAX_NAME = 1000  # characters, that heads are kept with
_SHOWN = 3
T = TypeVar("T")


class LabelError(UserError):
    """Labels that no head can be made of; the message names the file and line."""


@dataclasses.dataclass(frozen=True)
class ClipLabels:
    """What is known of n clips.

    Attributes:
        class_names: K names; classes are sorted, tags are in their columns' order.
        values: Of classes int64 [n], the class's number, and -1 where none is known;
            of tags float32 [n, K], 1 or 0, and NaN where it is not known.
        column: What the column of classes is called; "" of tags.
        remarks: What was found, left over or contradictory; a line each.
    """

    class_names: tuple[str, ...]
    values: np.ndarray
    column: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def is_tags(self) -> bool:
        """Whether a clip may have several labels."""
        return self.values.ndim == 2

    @property
    def is_known(self) -> np.ndarray:
        """Whether anything is known of a clip, bool [n]."""
        return (~np.isnan(self.values)).any(1) if self.is_tags else self.values >= 0


class _Claim(NamedTuple):
    """One cell that is not empty."""

    track: int
    value: str
    where: str


def content_numbers(paths: Sequence[str], sha256: Sequence[str]) -> np.ndarray:
    """int64 [n]: the same number for clips of the same bytes, by first appearance.

    Args:
        paths: n paths, which stand for the content where no hash is known.
        sha256: n hashes, or "".
    """
    first: dict[tuple[str, str], int] = {}
    keys = [
        (digest, "" if digest else path)
        for path, digest in zip(paths, sha256, strict=True)
    ]
    return np.array([first.setdefault(key, len(first)) for key in keys], np.int64)


def read_clip_labels(
    files: Sequence[str | os.PathLike],
    paths: Sequence[str],
    sha256: Sequence[str],
    column: str | None = None,
) -> ClipLabels:
    """Reads labels of clips from one or several tables.

    A row finds its clip as in the map, see `collection.labels`. The labels are a class
    each: the column `label`, or the only column; or tags: columns of 0 and 1, where an
    empty cell says nothing. What a later row or file says of a clip, or of another
    file with the same bytes, counts instead of what an earlier one said; empty cells
    take nothing back, so that the list of `suggest` can be filled in part by part.

    Args:
        files: What `read_label_table` reads; all have classes, or all have tags.
        paths: n paths of clips.
        sha256: n hashes of their bytes.
        column: The column of classes; None for what is said above.

    Returns:
        ClipLabels; clips of the same bytes have the same.

    Raises:
        LabelError: If a file cannot be read as such a table, files do not fit
            together, or no label is found.
    """
    remarks: list[str] = []
    tables: list[tuple[str, MatchedTable, tuple[str, ...], bool]] = []
    for file in files:
        table = match_rows(file, paths, LabelError)
        remarks += [f"--labels={file}: {line}" for line in table.remarks]
        columns, is_tags = _label_columns(file, table, column, remarks)
        if any(row.cells[name] for row in table.rows for name in columns):
            tables.append((str(file), table, columns, is_tags))
        else:
            remarks.append(f"--labels={file}: no label is filled in")
    if not tables:
        raise LabelError(
            f"--labels={', '.join(map(str, files))}: no label is filled in; write one "
            "beside each path"
        )
    first, last = tables[0], tables[-1]
    for other in tables:
        if other[3] != first[3]:
            kinds = ["tags (columns of 0 and 1)" if t[3] else "classes" for t in tables]
            raise LabelError(
                f"--labels: {first[0]} has {kinds[0]}, and {other[0]} "
                f"{kinds[tables.index(other)]}; hand in files of one kind"
            )
    claims: dict[str, list[_Claim]] = {}
    for file, table, columns, is_tags in tables:
        for row in sorted(table.rows, key=lambda row: row.line):
            for name in columns:
                if value := row.cells[name]:
                    where = f"{file}, {table.unit} {row.line}"
                    key = name if is_tags else ""
                    claims.setdefault(key, []).append(_Claim(row.track, value, where))
    content = content_numbers(paths, sha256)
    if not first[3]:
        labels = _make_classes(claims[""], content, paths, remarks)
        return dataclasses.replace(labels, column=last[2][0])
    names = tuple(
        dict.fromkeys(n for _, _, columns, _ in tables for n in columns if n in claims)
    )
    empty = dict.fromkeys(
        n for _, _, columns, _ in tables for n in columns if n not in claims
    )
    if empty:
        remarks.append(f"left out: tags that no cell says anything of: {_some(empty)}")
    _check_names(names)
    values = np.full((len(paths), len(names)), np.nan, np.float32)
    for number, name in enumerate(names):
        found = _resolve(
            claims[name], content, paths, lambda value: _CELLS[value.lower()], remarks
        )
        values[:, number] = [found.get(key, np.nan) for key in content]
    return ClipLabels(names, values, "", tuple(remarks))


def labels_of_folders(paths: Sequence[str], sha256: Sequence[str]) -> ClipLabels:
    """Takes the name of each file's folder as its class.

    Args:
        paths: n paths of clips; one without a folder has no label.
        sha256: n hashes of their bytes.

    Returns:
        ClipLabels.

    Raises:
        LabelError: If no path has a folder.
    """
    remarks: list[str] = []
    names = [pathlib.PurePath(path).parent.name for path in paths]
    claims = [
        _Claim(number, name, paths[number]) for number, name in enumerate(names) if name
    ]
    if not claims:
        raise LabelError(
            f"no file lies in a folder whose name could be its label ({_some(paths)}); "
            "embed the folder above, or hand in --labels"
        )
    if missing := [p for p, name in zip(paths, names, strict=True) if not name]:
        remarks.append(f"files without a folder: {len(missing):,} ({_some(missing)})")
    return _make_classes(claims, content_numbers(paths, sha256), paths, remarks)


def _label_columns(
    file: str | os.PathLike,
    table: MatchedTable,
    column: str | None,
    remarks: list[str],
) -> tuple[tuple[str, ...], bool]:
    """Which columns are labels, and whether they are tags."""
    names = list(table.columns)
    if column is not None:
        if column not in names:
            raise LabelError(
                f"--labels={file}: there is no column {column!r}, but "
                f"{', '.join(names) or 'none with a name'}"
            )
        return (column,), False
    if not names:
        raise LabelError(f"--labels={file}: no column of labels has a name")
    chosen = [name for name in names if name.lower() == LABEL_COLUMN][:1]
    if not chosen and len(names) > 1:
        chosen = [name for name in names if name.lower() != _NAME_COLUMN]
    chosen = chosen or names
    if left := [name for name in names if name not in chosen]:
        remarks.append(f"--labels={file}: columns left out: {_some(left)}")
    if chosen[0].lower() == LABEL_COLUMN:
        return tuple(chosen), False
    wrong = [
        (row.line, name, row.cells[name])
        for row in table.rows
        for name in chosen
        if row.cells[name] and row.cells[name].lower() not in _CELLS
    ]
    if wrong and len(chosen) > 1:
        line, name, value = wrong[0]
        raise LabelError(
            f"--labels={file}, {table.unit} {line}: column {name!r} has {value!r:.60}, "
            "and tags are 0, 1 or empty; where each file has a class, call its column "
            f"{LABEL_COLUMN!r}"
        )
    return tuple(chosen), not wrong


def _make_classes(
    claims: Sequence[_Claim],
    content: np.ndarray,
    paths: Sequence[str],
    remarks: list[str],
) -> ClipLabels:
    found = _resolve(claims, content, paths, str, remarks)
    names = tuple(sorted(set(found.values())))
    _check_names(names)
    spellings = collections.defaultdict(list)
    for name in names:
        spellings[name.casefold()].append(name)
    if alike := [" and ".join(group) for group in spellings.values() if len(group) > 1]:
        remarks.append(f"classes that differ in capitals alone: {_some(alike)}")
    number = {name: k for k, name in enumerate(names)}
    values = np.array([number.get(found.get(key, ""), -1) for key in content], np.int64)
    return ClipLabels(names, values, LABEL_COLUMN, tuple(remarks))


def _resolve(
    claims: Sequence[_Claim],
    content: np.ndarray,
    paths: Sequence[str],
    parse: Callable[[str], T],
    remarks: list[str],
) -> dict[int, T]:
    """Each content's last value; what contradicts it is told."""
    before: dict[int, _Claim] = {}
    contradictions: dict[int, str] = {}
    for claim in claims:
        key = int(content[claim.track])
        earlier = before.get(key)
        if earlier is not None and parse(earlier.value) != parse(claim.value):
            contradictions[key] = (
                f"{paths[earlier.track]} {earlier.value!r} ({earlier.where}) and "
                f"{paths[claim.track]} {claim.value!r} ({claim.where})"
            )
        before[key] = claim
    if contradictions:
        shown = list(contradictions.values())
        more = len(shown) - _SHOWN
        remarks.append(
            f"contents with contradicting labels, of which the later counts: "
            f"{len(shown):,}: {'; '.join(shown[:_SHOWN])}"
            + (f"; and {more:,} more" if more > 0 else "")
        )
    return {key: parse(claim.value) for key, claim in before.items()}


def _check_names(names: Sequence[str]) -> None:
    if len(names) > _MAX_CLASSES:
        raise LabelError(
            f"--labels: {len(names):,} different labels ({_some(names)}); a head has "
            f"at most {_MAX_CLASSES:,}: is this the column of labels?"
        )
    for name in names:
        if len(name) > _MAX_NAME:
            raise LabelError(
                f"--labels: a label has {len(name):,} characters, {name[:40]!r} and "
                f"so on; at most {_MAX_NAME:,}: is this the column of labels?"
            )


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _SHOWN
    shown = ", ".join(repr(name) for name in every[:_SHOWN])
    return shown + (f" and {more:,} more" if more > 0 else "")
