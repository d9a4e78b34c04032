"""Labels that a user hands in for the tracks of a map, and which track each is for."""

import collections
import dataclasses
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cola_msa.collection.label_tables import (
    TAG_COLUMN,
    TAG_SEPARATOR,
    TAKEN_SUFFIX,
    read_label_table,
)
from cola_msa.collection.map.layout import MapError
from cola_msa.values.tables import (
    PATH_COLUMNS,
    Row,
    TableError,
    name_lines,
)

NO_LABEL = "no label"
_WINDOW_COLUMNS = ("start", "seconds")
_NAME = "name"
_SHOWN = 3
_ABSOLUTE = re.compile(r"(?:[A-Za-z]:)?/")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to colour the map.

    Attributes:
        name: What the page calls it.
        groups: Names of its groups, the largest first.
        of: int [n], each track's group.
        percent: int [n], how sure each is, 0 to 100, which the page shows as opacity;
            None where nobody says.
        is_label: Whether the scheme is of one label: its first group has it.
    """

    name: str
    groups: tuple[str, ...]
    of: tuple[int, ...]
    percent: tuple[int, ...] | None = None
    is_label: bool = False


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a table of labels says of n tracks.

    Attributes:
        schemes: One a column that is not empty; tracks without a row are in the group
            `no label`.
        names: n names to show; "" where there is none.
        remarks: How many rows found a track, and what was left over; a line each.
    """

    schemes: tuple[Scheme, ...]
    names: tuple[str, ...]
    remarks: tuple[str, ...]


def make_scheme(name: str, group_names: Sequence[str]) -> Scheme:
    """Numbers the groups of tracks, the largest first, equal ones by name.

    Args:
        name: What the page calls it.
        group_names: n names, one a track.
    """
    counts = collections.Counter(group_names)
    last = {NO_LABEL: 1}
    order = sorted(counts, key=lambda g: (last.get(g, 0), -counts[g], g))
    number = {group: k for k, group in enumerate(order)}
    return Scheme(name, tuple(order), tuple(number[group] for group in group_names))


def read_labels(path: str | os.PathLike, paths: Sequence[str]) -> Labels:
    r"""Reads labels: `path`, `name` (optional), and a column for each way to colour.

    A row is for the track of that path, of the path's end (`000/000002.mp3`), or of
    that file name with or without suffix, as far as only one track has it; where none
    is written with the same characters, composed and decomposed ones count as equal,
    and backslashes are slashes. Of two rows for one track the later counts.
    An absolute path of another machine (`C:\Music\a\1.mp3`) is for the track that its
    longest end names; where that is the file's name alone, no other row may have it.
    Of a table that `tag` wrote a way to colour is the likeliest label, and each label
    alone, with its probability.

    Args:
        path: A CSV file, with a header; comma, semicolon or tab between columns. Or
            what `label_tables` reads besides.
        paths: n paths of tracks.

    Returns:
        Labels.

    Raises:
        MapError: If the file cannot be read as a table, no row is for any track, or
            `tag` wrote it of windows.
    """
    found = match_rows(path, paths)
    columns = {name: [""] * len(paths) for name in found.columns}
    for row in found.rows:
        for name, of_track in columns.items():
            of_track[row.track] = row.cells.get(name, "")
    schemes = _tag_schemes(columns)
    if schemes and {*_WINDOW_COLUMNS} <= {*columns}:
        raise MapError(
            f"--labels={path}: has a row a window, and a map shows tracks: use a table "
            "that tag wrote without --per=window"
        )
    if schemes:  # what a user has put before tag's columns
        before = list(columns).index(TAG_COLUMN)
        columns = dict(list(columns.items())[:before])
    names = columns.pop(_NAME, [""] * len(paths))
    schemes += [
        make_scheme(name, [value or NO_LABEL for value in values])
        for name, values in columns.items()
        if any(values)
    ]
    return Labels(tuple(schemes), tuple(names), found.remarks)


def take_labels(labels: Labels, numbers: Sequence[int] | np.ndarray) -> Labels:
    """The labels of some of the tracks; groups of which none is left are gone.

    Args:
        labels: Of n tracks.
        numbers: Which of them.
    """
    schemes = []
    for scheme in labels.schemes:
        of = tuple(scheme.of[number] for number in numbers)
        if scheme.is_label:
            taken = dataclasses.replace(scheme, of=of)
        else:
            taken = make_scheme(scheme.name, [scheme.groups[group] for group in of])
            if taken.groups == (NO_LABEL,):
                continue
        if scheme.percent is not None:
            percent = tuple(scheme.percent[number] for number in numbers)
            taken = dataclasses.replace(taken, percent=percent)
        schemes.append(taken)
    names = tuple(labels.names[number] for number in numbers)
    return Labels(tuple(schemes), names, labels.remarks)


def _tag_schemes(columns: Mapping[str, Sequence[str]]) -> list[Scheme]:
    """The ways to colour by what `tag` wrote; none where it is no such table."""
    if TAG_COLUMN not in columns:
        return []
    given = columns[TAG_COLUMN]
    labels = list(columns)[list(columns).index(TAG_COLUMN) + 1 :]
    if not labels:
        return []
    try:
        scores = {
            label: [_percent(text) for text in columns[label]] for label in labels
        }
    except (ValueError, OverflowError):
        return []
    cells = [_split(text, labels) for text in given]
    if None in cells or not any(cells):
        return []  # tags that have no column, or none at all: another table's
    has = [cell or [] for cell in cells]
    likeliest = [cell[0] if cell else NO_LABEL for cell in has]
    percents = tuple(
        scores[cell[0]][n] if cell else max(scores[label][n] for label in labels)
        for n, cell in enumerate(has)
    )
    schemes = [
        dataclasses.replace(make_scheme(TAG_COLUMN, likeliest), percent=percents)
    ]
    for label in labels:
        of = tuple(0 if label in cell else 1 for cell in has)
        names = (label, "other tracks")
        schemes.append(Scheme(label, names, of, tuple(scores[label]), is_label=True))
    return schemes


def _percent(text: str) -> int:
    """Of a probability, and of a ridge's output; 0 where a track has no row."""
    value = float(text) if text else 0.0
    return round(100 * min(1.0, max(0.0, value)))  # raises where it is not a number


def _split(text: str, labels: Sequence[str]) -> list[str] | None:
    """A cell's labels, of those that fit the longest; None where one is unknown."""
    # Of a label that is called as a column of the table, the column has a longer name.
    names = {label.removesuffix(TAKEN_SUFFIX): label for label in labels}
    found = []
    rest = text
    while rest:
        begins = [n for n in names if rest == n or rest.startswith(n + TAG_SEPARATOR)]
        if not begins:
            return None
        name = max(begins, key=len)
        found.append(names[name])
        rest = rest[len(name) + len(TAG_SEPARATOR) :]
    return found


class TrackRow(NamedTuple):
    """A row of a table, and the track that it is for.

    Attributes:
        line: Of the file, or the row's number, from 1.
        track: Number of the track.
        cells: Text by column, without blanks around it; "" where the row is short.
    """

    line: int
    track: int
    cells: dict[str, str]


@dataclasses.dataclass(frozen=True)
class MatchedTable:
    """What a table says of tracks.

    Attributes:
        columns: Names of its columns but the one of paths and those without a name.
        rows: Those that found a track; of two for one track the later counts.
        remarks: How many rows found a track, and what was left over; a line each.
        unit: What rows are counted in: `line`, or of what is no text `row`.
    """

    columns: tuple[str, ...]
    rows: tuple[TrackRow, ...]
    remarks: tuple[str, ...]
    unit: str = "line"


def match_rows(
    path: str | os.PathLike,
    paths: Sequence[str],
    error: type[Exception] = MapError,
) -> MatchedTable:
    """Finds the track that each row of a table is for; `read_labels` says how.

    Args:
        path: What `read_label_table` reads.
        paths: n paths of tracks.
        error: Class of the errors.

    Returns:
        The MatchedTable.

    Raises:
        MapError: As `read_labels` (or `error`).
    """
    try:
        read = read_label_table(path)
    except TableError as problem:
        raise error(f"--labels={problem}") from problem
    table, unit = read.table, read.unit
    place = _path_column(table.columns)
    if place is None or len(table.columns) < 2:
        raise error(
            f"--labels={path}: its header must have a column `path` and a column of "
            f"labels, not {', '.join(table.columns)}"
        )
    track_of = _TrackNames(paths)
    columns = tuple(
        name for number, name in enumerate(table.columns) if name and number != place
    )
    rows_of: dict[int, int] = {}
    missed: dict[str, list[Row]] = {
        "no track": [],
        "more than one track": [],
        "a track that other rows name, too, by its file's name": [],
    }
    repeated = []
    taken = []
    by_name: dict[int, list[tuple[Row, str]]] = {}

    def take(row: Row, track: int) -> None:
        if track in rows_of:
            repeated.append(row.line)
        rows_of[track] = row.line
        values = dict(zip(table.columns, row.cells, strict=False))
        cells = {name: values.get(name, "").strip() for name in columns}
        taken.append(TrackRow(row.line, track, cells))

    for row in table.rows:
        given = row.cells[place] if place < len(row.cells) else ""
        tracks, is_name = track_of.find(given), False
        if not tracks:
            tracks, is_name = track_of.find_end(given)
        if len(tracks) != 1:
            missed["more than one track" if tracks else "no track"].append(
                Row(row.line, [given])
            )
        elif is_name:
            by_name.setdefault(tracks[0], []).append((row, given))
        else:
            take(row, tracks[0])
    for track, claims in by_name.items():
        if track in rows_of or len({given for _, given in claims}) > 1:
            *_, several = missed.values()
            several += [Row(row.line, [given]) for row, given in claims]
            several.sort()
            continue
        for row, _ in claims:
            take(row, track)
    if not rows_of:
        raise error(
            f"--labels={path}: none of its {len(table.rows)} rows names a track; paths "
            f"look like {paths[0]}"
        )
    num_found = len(rows_of) + len(repeated)
    remarks = [
        f"rows that found a track: {num_found:,} of {len(table.rows):,}; tracks with a "
        f"row: {len(rows_of):,} of {len(paths):,}"
    ]
    for what, rows in missed.items():
        if rows:
            shown = _some([row.cells[0] for row in rows])
            lines = name_lines((row.line for row in rows), unit)
            remarks.append(f"rows for {what}: {len(rows):,} ({shown}; {lines})")
    without = [p for number, p in enumerate(paths) if number not in rows_of]
    if without:
        remarks.append(f"tracks without a row: {len(without):,} ({_some(without)})")
    if repeated:
        remarks.append(
            "rows that count instead of an earlier one for the same track: "
            f"{len(repeated):,} ({name_lines(repeated, unit)})"
        )
    if "" in table.columns:
        remarks.append(
            f"left out: column {table.columns.index('') + 1}, which has no name"
        )
    if table.short:
        remarks.append(
            f"rows that are shorter than the header: {len(table.short):,}; what they "
            f"lack is empty ({name_lines(table.short, unit)})"
        )
    return MatchedTable(columns, tuple(taken), tuple(remarks), unit)


def _path_column(columns: Sequence[str]) -> int | None:
    """The column of paths, by the first of its names that is there."""
    lower = [name.lower() for name in columns]
    for name in PATH_COLUMNS:
        for header in (columns, lower):
            if name in header:
                return header.index(name)
    return None


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {more:,} more" if more > 0 else "")


class _TrackNames:
    """Finds tracks by what a user calls them."""

    def __init__(self, paths: Sequence[str]):
        self._paths = paths
        self._exact = _tracks_by_name(paths)
        self._composed: Mapping[str, tuple[int, ...]] | None = None

    def find(self, name: str) -> tuple[int, ...]:
        """The track; none where there is none, two where there are several.

        A name as it is written goes before what it may mean: one without the blanks
        around it, and with slashes for backslashes.
        """
        plain = name.strip()
        for spelling in (name, plain, plain.replace("\\", "/")):
            if found := self._find(spelling):
                return found
        return ()

    def find_end(self, name: str) -> tuple[tuple[int, ...], bool]:
        """Tracks that the longest end of an absolute path names.

        Args:
            name: A path that may be another machine's, also of Windows.

        Returns:
            The tracks, as `find`; whether only the file's name was found.
        """
        plain = name.strip().replace("\\", "/")
        if not _ABSOLUTE.match(plain):
            return (), False
        parts = [part for part in plain.split("/") if part]
        for start in range(1, len(parts)):
            if found := self._find("/".join(parts[start:])):
                return found, start == len(parts) - 1
        return (), False

    def _find(self, name: str) -> tuple[int, ...]:
        key = pathlib.PurePath(name).as_posix()
        if key in self._exact:
            return self._exact[key]
        if self._composed is None:
            self._composed = _tracks_by_name([_compose(path) for path in self._paths])
        return self._composed.get(_compose(key), ())


def _compose(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _tracks_by_name(paths: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Tracks by path, by every end of it, and by stem: of each the first two.

    A whole path goes before an end of another, and an end before a stem.
    """
    whole: dict[str, tuple[int, ...]] = {}
    ends: dict[str, tuple[int, ...]] = {}
    stems: dict[str, tuple[int, ...]] = {}

    def add(found: dict[str, tuple[int, ...]], name: str, number: int) -> None:
        found[name] = (*found.get(name, ()), number)[:2]

    for number, path in enumerate(paths):
        pure = pathlib.PurePath(path)
        add(whole, pure.as_posix(), number)
        for start in range(1, len(pure.parts)):
            add(ends, "/".join(pure.parts[start:]), number)
        add(stems, pure.stem, number)
    return stems | ends | whole
