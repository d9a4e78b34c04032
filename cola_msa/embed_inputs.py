"""Which audio files `--input` names: one file, a folder, or a list of files."""

import csv
import os
import pathlib
import urllib.parse

from cola_msa.audio import AUDIO_SUFFIXES
from cola_msa.system.errors import UserError

LIST_SUFFIXES = (".txt", ".m3u", ".m3u8", ".csv")
_PATH_COLUMNS = ("path", "file", "filename", "file_path", "filepath")


class InputError(UserError):
    """An input that names no audio; the message says what to do."""


def find_inputs(given: str | os.PathLike) -> list[str]:
    """Lists the audio files that an input names.

    A path of a list counts from the list's folder, or, where nothing is there, from
    the current one. What a list names need not exist: it becomes a failure with a
    reason later.

    Args:
        given: An audio file, a folder (searched at any depth; hidden files are left
            out), or a list: .txt or .m3u with a path a line, .csv with a column
            `path` or `file`, else its first column.

    Returns:
        Paths, each once; those of a folder sorted, those of a list in its order.

    Raises:
        InputError: If nothing is there, or it names no file.
    """
    path = pathlib.Path(given)
    if path.is_dir():
        found = _find_below(path)
        if not found:
            suffixes = ", ".join(sorted(AUDIO_SUFFIXES))
            raise InputError(f"--input={given}: no audio file there ({suffixes})")
        return found
    if not path.exists():
        raise InputError(f"--input={given}: there is no such file or folder")
    if path.suffix.lower() not in LIST_SUFFIXES:
        return [str(path)]
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"--input={given}: the list is not UTF-8 ({error})") from error
    is_csv = path.suffix.lower() == ".csv"
    entries = _csv_entries(content) if is_csv else _line_entries(content)
    if not entries:
        raise InputError(f"--input={given}: the list names no file")
    return list(dict.fromkeys(_locate(entry, path.parent) for entry in entries))


def _find_below(folder: pathlib.Path) -> list[str]:
    found = []
    for parent, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [
            os.path.join(parent, name)
            for name in files
            if not name.startswith(".")
            and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
    return sorted(found)


def _line_entries(content: str) -> list[str]:
    lines = (line.strip() for line in content.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _csv_entries(content: str) -> list[str]:
    rows = [row for row in csv.reader(content.splitlines()) if any(row)]
    if not rows:
        return []
    header = [name.strip().lower() for name in rows[0]]
    column = next((header.index(name) for name in _PATH_COLUMNS if name in header), -1)
    if column >= 0:
        rows = rows[1:]
    column = max(column, 0)
    cells = (row[column].strip() for row in rows if len(row) > column)
    return [cell for cell in cells if cell]


def _locate(entry: str, folder: pathlib.Path) -> str:
    if entry.startswith("file://"):
        entry = urllib.parse.unquote(urllib.parse.urlparse(entry).path)
    if os.path.isabs(entry):
        return entry
    beside = os.path.join(folder, entry)
    return entry if not os.path.exists(beside) and os.path.exists(entry) else beside
