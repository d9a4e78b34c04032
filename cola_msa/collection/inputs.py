"""Which audio files `--input` names: a file, a folder, a pattern or a list of files.

Each may be an address of any file system that fsspec knows; so may a list's entries.
"""

import codecs
import collections
import dataclasses
import glob
import os
import pathlib
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator

from cola_msa.audio.files import AUDIO_SUFFIXES, Listing, is_audio_name, list_audio
from cola_msa.remote import addresses
from cola_msa.system.errors import UserError, hide_logins
from cola_msa.values.names import unescape
from cola_msa.values.tables import PATH_COLUMNS, TableError, name_lines, read_rows

LIST_SUFFIXES = (".txt", ".m3u", ".m3u8", ".pls", ".csv")
_DIRECTIVE = re.compile(r"#EXT(M3U$|INF:|-X-|[A-Z]+[:=])|#PLAYLIST:", re.IGNORECASE)
_PLS_FILE = re.compile(r"File\d+=(.*)", re.IGNORECASE | re.DOTALL)
_OWN_HEADER = ["path", "reason"]  # of what could not be embedded: names are escaped
_BOM = "\ufeff"
_QUOTED = re.compile("\".+\"|'.+'", re.DOTALL)
_BYTE = re.compile("[\udc80-\udcff]")  # that is not UTF-8


class InputError(UserError):
    """An input that names no audio; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What an input names.

    Attributes:
        paths: Audio files, each once.
        failures: Reason by folder that could not be searched.
        remarks: What was left out, a line each.
        root: The folder or address that they were found in; None for a list's.
    """

    paths: list[str]
    failures: dict[str, str]
    remarks: tuple[str, ...] = ()
    root: str | None = None


def find_inputs(given: str | os.PathLike) -> list[str]:
    """Lists the audio files that an input names; see `list_inputs`."""
    return list_inputs(given).paths


def list_inputs(given: str | os.PathLike) -> Inputs:
    """Lists the audio files that an input names, and what was left out.

    A path of a list counts from the list's folder, or, where nothing is there, from
    the current one; it may be a `file://` URL, and where there is no such file it is
    tried with slashes for backslashes, with %20 for a space, and as Latin-1. What a
    list names need not exist: it becomes a failure with a reason later.

    Args:
        given: An audio file, a folder (searched at any depth, through links to
            folders; hidden files are left out), or a list: .txt or .m3u with a path a
            line, .pls, .csv with a column `path` or `file`, else its first column; see
            `system.tables`. In .txt lines that begin with # are remarks unless such
            a file exists; in .m3u directives are, and what else has no suffix of
            audio. An earlier run's `.failures.csv` gives the very names that it lists.
            Or a pattern of such files and folders, with *, ?, [...] and **; or the
            address of any of these. Of addresses also what only begins so counts.

    Returns:
        Inputs; paths of a folder or a pattern are sorted, those of a list in its order.

    Raises:
        InputError: If nothing is there, or it names no file.
        UserError, OSError: If an address cannot be used or read.
    """
    given = os.fspath(given)
    if not os.path.exists(given):
        given = addresses.local_path(given)
        if addresses.is_address(given):
            return _list_address(given)
    path = pathlib.Path(given)
    if path.is_dir():
        return _of_listing(given, given, list_audio(path))
    if not path.exists() and glob.has_magic(given):
        return _list_pattern(given)
    if not path.exists():
        raise InputError(f"--input={given}: there is no such file or folder")
    if path.suffix.lower() not in LIST_SUFFIXES:
        return Inputs([str(path)], {})
    return _read_list(path, str(path.parent), given)


def _of_listing(given: str, root: str, listing: Listing) -> Inputs:
    """What a listing of `root` gives."""
    if not listing.paths:
        suffixes = ", ".join(sorted(AUDIO_SUFFIXES))
        more = "".join(f"; {line}" for line in listing.remarks())
        raise InputError(
            f"--input={hide_logins(given)}: no audio file there ({suffixes}){more}"
        )
    failures = {**listing.unreadable}
    failures |= {name: "not a file, but a folder" for name in listing.folders}
    return Inputs(list(listing.paths), failures, listing.remarks(), root)


def _list_pattern(given: str) -> Inputs:
    """Audio files that a pattern matches, and those in folders that it matches."""
    matched = sorted(glob.glob(given, recursive=True))
    if not matched:
        raise InputError(f"--input={given}: there is no such file, and nothing matches")
    # `**` gives a folder and what lies in it.
    found = [list_audio(path) for path in matched if os.path.isdir(path)]
    names = [path for path in matched if not os.path.isdir(path)]
    left_out = collections.Counter(
        _suffix(name) for name in names if not is_audio_name(name)
    )
    paths = {name for name in names if is_audio_name(name)}
    for listing in found:
        paths.update(listing.paths)
    unreadable: dict[str, str] = {}
    for listing in found:
        unreadable |= listing.unreadable
        left_out.update(listing.left_out)
    whole = Listing(tuple(sorted(paths)), (), unreadable, (), dict(left_out))
    return dataclasses.replace(_of_listing(given, given, whole), root=None)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without a suffix"


def _list_address(given: str) -> Inputs:
    """What a file, a folder, a pattern or a list at an address names."""
    folder_url, name = addresses.split(given.rstrip("/"))
    folder = addresses.open_folder(folder_url)
    kind = folder.kind(name or ".")
    if kind == "file":
        if not name.lower().endswith(LIST_SUFFIXES):
            return Inputs([addresses.join(folder_url, name)], {})
        with addresses.fetched(given) as path:
            return _read_list(path, folder_url, given)
    if kind == "directory":
        return _below(given, given.rstrip("/"), {"": True})
    # A pattern, or the beginning of names.
    pattern = name if glob.has_magic(given) else f"{glob.escape(name)}*"
    root = folder_url
    while glob.has_magic(root):
        root, name = addresses.split(root)
        pattern = f"{name}/{pattern}"
    matched = addresses.open_folder(root).glob(pattern)
    if not matched:
        raise InputError(
            f"--input={hide_logins(given)}: there is no such file or folder, and no "
            "name begins so or matches"
        )
    return _below(given, root, matched)


def _below(given: str, root: str, matched: dict[str, bool]) -> Inputs:
    """Audio files at an address: those of some names, and all in folders among them.

    Args:
        given: What was given, for messages.
        root: The address.
        matched: Whether it is a folder, by name; "" is the root itself.
    """
    paths: set[str] = set()
    left_out: collections.Counter[str] = collections.Counter()
    unreadable: dict[str, str] = {}
    for match, is_folder in matched.items():
        url, names = root, [match]
        if is_folder:
            url = addresses.join(root, match) if match else root
            below, reasons = addresses.open_folder(url).files_below()
            names = list(below)
            unreadable |= {addresses.join(url, n): why for n, why in reasons.items()}
        for name in names:
            parts = name.split("/")
            if not is_audio_name(name):
                left_out[_suffix(name)] += 1
            elif {"", ".", ".."} & set(parts):
                reason = "its name cannot be a file's here; rename it"
                unreadable[addresses.join(url, name)] = reason
            elif any(part.startswith(".") for part in parts):
                left_out["hidden"] += 1
            else:
                paths.add(addresses.join(url, name))
    whole = Listing(tuple(sorted(paths)), (), unreadable, (), dict(left_out))
    return _of_listing(given, root, whole)


def _read_list(path: pathlib.Path, folder: str, given: str) -> Inputs:
    """What a list names.

    Args:
        path: The list.
        folder: The folder or address that its paths count from.
        given: What was given, for messages.
    """
    try:
        read = _csv_entries if path.suffix.lower() == ".csv" else _line_entries
        entries, remarks = read(path, folder)
    except TableError as error:
        raise InputError(f"--input={error}") from error
    except OSError as error:
        raise InputError(
            f"--input={hide_logins(given)}: the list cannot be read ({error.strerror})"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"--input={hide_logins(given)}: no list of files ({error})"
        ) from error
    if not entries:
        raise InputError(f"--input={hide_logins(given)}: the list names no file")
    return Inputs(list(dict.fromkeys(entries)), {}, remarks)


def _read_text(path: pathlib.Path) -> str:
    """A list's text; bytes that are not UTF-8 are kept as surrogates."""
    content = path.read_bytes()
    # No name has a zero byte, but UTF-16 has one at every line's end.
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if is_wide and (b"\0" in content or len(content) < 4):
        return content.decode("utf-16")
    if content.count(0) * 4 > len(content):
        raise TableError(
            f"{path}: every other byte is zero, as in UTF-16 without its mark; save "
            "the list as UTF-8"
        )
    return content.decode("utf-8", "surrogateescape")


def _line_entries(path: pathlib.Path, folder: str) -> tuple[list[str], tuple[str, ...]]:
    content = _read_text(path)
    entries, num_remarks = [], 0
    is_playlist = path.suffix.lower() != ".txt"
    for line in _lines(content, path, folder):
        # A name may begin or end with a space.
        if (exact := _exact(line, folder)) is not None:
            entries.append(exact)
            continue
        name = line.strip(" \t")
        if not name:
            continue
        if name.startswith("#"):
            found = _find(name, folder)
            is_directive = bool(_DIRECTIVE.match(name)) or not is_playlist
            if found is None and (is_directive or not is_audio_name(name)):
                num_remarks += is_audio_name(name)
                continue
        entries.append(_locate(name, folder))
    remark = f"left out: {num_remarks} lines with # in front, whose files do not exist"
    return entries, (remark,) if num_remarks else ()


def _lines(content: str, path: pathlib.Path, folder: str) -> Iterator[str]:
    """Lines of any system; of a .pls what names files."""
    is_pls = path.suffix.lower() == ".pls"
    for number, line in enumerate(content.split("\n")):
        # A carriage return can be a name's, and so can the mark of UTF-8.
        is_odd = "\r" in line or (number == 0 and line.startswith(_BOM))
        if is_odd and _exact(line, folder) is not None:
            yield line
            continue
        line = line.removeprefix(_BOM) if number == 0 else line
        for part in line.split("\r"):
            if not is_pls:
                yield part
            elif found := _PLS_FILE.fullmatch(part.strip(" \t")):
                yield found[1]


def _csv_entries(path: pathlib.Path, folder: str) -> tuple[list[str], tuple[str, ...]]:
    rows = list(read_rows(path, known=PATH_COLUMNS, errors="surrogateescape"))
    if rows and rows[0].cells == _OWN_HEADER:
        own = [unescape(row.cells[0]) for row in rows[1:] if row.cells[0]]
        return [_exact(name, folder) or name for name in own], ()
    header = [name.strip().lower() for name in rows[0].cells] if rows else []
    columns = [name for name in PATH_COLUMNS if name in header]
    column = header.index(columns[0]) if columns else 0
    long = []
    if columns:
        if header.count(columns[0]) > 1:
            raise TableError(
                f"{path}: several columns are called {columns[0]!r}; rename or remove "
                "all but one"
            )
        rows = rows[1:]
        long = [row.line for row in rows if any(row.cells[len(header) :])]
    entries, empty = [], []
    for row in rows:
        cell = row.cells[column] if len(row.cells) > column else ""
        # A name may begin or end with a space.
        if (exact := _exact(cell, folder)) is not None:
            entries.append(exact)
        elif cell.strip():
            entries.append(_locate(cell.strip(), folder))
        else:
            empty.append(row.line)
    remarks = []
    if empty:
        remarks.append(
            f"left out: {len(empty)} rows of the list that name no file "
            f"({name_lines(empty)})"
        )
    if long:
        remarks.append(
            f"{len(long)} rows of the list have more cells than its header "
            f"({name_lines(long)}); a name with the delimiter in it needs quotes"
        )
    return entries, tuple(remarks)


def _locate(entry: str, folder: str) -> str:
    """The file that an entry names; where there is none, what it most likely meant."""
    is_elsewhere = addresses.is_address(entry) or os.path.isabs(entry)
    if addresses.is_address(folder) and not is_elsewhere:
        return addresses.join(folder, entry.removeprefix("./"))
    found = _find(entry, folder)
    if found is not None:
        return found
    name = next(_spellings(entry))
    if _BYTE.search(name):
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        return name  # an address: what it says is the best name for the failure
    return name if os.path.isabs(name) else os.path.join(folder, name)


def _exact(entry: str, folder: str) -> str | None:
    """The file of this very name."""
    if not entry or "\0" in entry or entry in (".", ".."):
        return None
    if addresses.is_address(folder):  # what is there is asked when it is read
        return None
    for place in (os.path.join(folder, entry), entry):
        if os.path.isfile(place):
            return place
    return None


def _find(entry: str, folder: str) -> str | None:
    if addresses.is_address(folder):
        return None
    for name in _spellings(entry):
        for place in (os.path.join(folder, name), name):
            if os.path.exists(place):
                return place
    return None


def _spellings(entry: str) -> Iterator[str]:
    """What a list may have meant by an entry, the likeliest first."""
    is_url = entry[:5].lower() == "file:"
    if is_url:
        host, slash, path = entry[5:].removeprefix("//").partition("/")
        if host.lower() in ("", "localhost"):
            yield _unquoted(slash + path)
            yield slash + path
            return
    spellings = [entry]
    if _BYTE.search(entry):
        raw = entry.encode("utf-8", "surrogateescape")
        spellings.append(raw.decode("latin-1"))
    spellings += [name.replace("\\", "/") for name in spellings if "\\" in name]
    spellings += [_unquoted(name) for name in spellings if "%" in name]
    # File managers that copy a path put quotes around it.
    spellings += [name[1:-1] for name in spellings if _QUOTED.fullmatch(name)]
    forms = [
        unicodedata.normalize(form, name)
        for name in spellings
        for form in ("NFC", "NFD")
        if not name.isascii()
    ]
    yield from dict.fromkeys([*spellings, *forms])


def _unquoted(name: str) -> str:
    quoted = name.encode("utf-8", "surrogateescape")
    return os.fsdecode(urllib.parse.unquote_to_bytes(quoted))
