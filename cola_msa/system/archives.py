"""Reads known files out of an archive from anybody: .zip, .tar, .tar.gz/.bz2/.xz.

Nothing is unpacked but plain files of known names; what else lies in the archive is
passed over. An archive is read once, from its start, and refused as soon as it exceeds
a limit. No path of the archive becomes a path on this machine.

Python's tarfile and zipfile trust sizes that an archive states: of long names, of
members to be passed over, and of the table of contents. Here every size is compared
with a limit before anything of that size is read.
"""

import bz2
import collections
import lzma
import os
import pathlib
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from cola_msa.system.errors import RunError

MAX_MEMBERS = 1000
MAX_FOLDERS = 4  # of an archive that hold a known name
MAX_OTHER_BYTES = 64 << 20  # unpacked, of all that is passed over
MAX_HEADER_BYTES = 64 << 10  # of a long name, or of a tar member's further fields
MAX_CONTENTS_BYTES = 1 << 20  # of a zip's table of contents
MAX_XZ_MEMORY = 256 << 20
MAX_STREAMS = 1000  # compressed streams one after another in a .tar.gz
# A name that becomes a file's here, in ASCII: no hidden one, and none of a device.
FILE_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_BLOCK = 1 << 18
_TAR_BLOCK = 512
_ZIP_END = b"PK\5\6"
_ZIP64_END_LOCATOR = b"PK\6\7"
_ZIP_END_BYTES, _ZIP64_LOCATOR_BYTES, _ZIP_HEADER_BYTES = 22, 20, 30
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_DAMAGES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip's compression that Python does not know
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
)


class ArchiveError(RunError):
    """An archive that is refused; the message says why."""


def read_archive(
    archive: str | os.PathLike,
    folder: str | os.PathLike,
    limits: Mapping[str, int],
    label: str,
) -> list[pathlib.Path]:
    """Unpacks the known files of an archive.

    Args:
        archive: The file.
        folder: Where to; it is made.
        limits: Names that are unpacked, each with its most bytes. They may lie at the
            archive's top or in a folder there. `FOLDER/*.npz` is all names of letters,
            digits and `_.-` in a folder beside them, with the most bytes together.
        label: What messages call the archive.

    Returns:
        Of each of the archive's folders that holds a known name: the folder in
        `folder` with its files, in the archive's order.

    Raises:
        ArchiveError: If it is no archive or damaged, exceeds a limit, holds a known
            name twice, a link, a device, or a path that leads elsewhere.
    """
    archive = pathlib.Path(archive)
    places = _Places(pathlib.Path(folder), dict(limits), label)
    try:
        is_zip = _zip_end(archive) is not None
        (_read_zip if is_zip else _read_tar)(archive, places)
    except ArchiveError:
        raise
    except _DAMAGES as error:
        raise ArchiveError(
            f"{label}: no archive (.zip, .tar, .tar.gz) or damaged ({error})"
        ) from error
    return list(places.folders.values())


class _Places:
    """Where members go, and how much of them there was."""

    def __init__(self, folder: pathlib.Path, limits: dict[str, int], label: str):
        folder.mkdir(parents=True)
        self.folders: dict[str, pathlib.Path] = {}
        self.label = label
        self._root, self._limits = folder, limits
        self._num_members, self._other_bytes = 0, 0
        self._found: set[pathlib.Path] = set()
        self._totals: collections.Counter = collections.Counter()

    def refuse(self, reason: str) -> ArchiveError:
        return ArchiveError(f"{self.label}: {reason}")

    def find(self, name: str, size: int, is_folder: bool) -> pathlib.Path | None:
        """The path that a member goes to, or None where it is passed over."""
        self._num_members += 1
        if self._num_members > MAX_MEMBERS:
            raise self.refuse(f"holds more than {MAX_MEMBERS:,} members")
        if size < 0:
            raise self.refuse(f"damaged: {name!r} has {size} bytes")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise self.refuse(f"holds a path that leads elsewhere, {name!r}")
        known, limit = ("", "") if is_folder else self._known(parts)
        if not known:
            self._other_bytes += size
            if self._other_bytes > MAX_OTHER_BYTES:
                raise self.refuse(
                    f"holds more than {MAX_OTHER_BYTES:,} bytes beside a pretrained "
                    f"folder's files ({name!r} has {size:,})"
                )
            return None
        place = "/".join(parts[: len(parts) - 1 - known.count("/")])
        total = size
        if known != limit:
            total = self._totals[place, limit] = size + self._totals[place, limit]
        if total > self._limits[limit]:
            raise self.refuse(
                f"{name!r} has {size:,} bytes, too much for an encoder (at most "
                f"{self._limits[limit]:,}{' together' if known != limit else ''})"
            )
        if place not in self.folders:
            if len(self.folders) == MAX_FOLDERS:
                raise self.refuse(f"holds more than {MAX_FOLDERS} folders of encoders")
            self.folders[place] = self._root / str(len(self.folders))
            self.folders[place].mkdir()
        path = self.folders[place] / known
        if path in self._found:
            raise self.refuse(f"holds {name!r} twice")
        self._found.add(path)
        path.parent.mkdir(exist_ok=True)
        return path

    def _known(self, parts: list[str]) -> tuple[str, str]:
        """The known name that a path ends with, and its limit's; empty where none."""
        for known in ("/".join(parts), "/".join(parts[1:])):
            folder, _, name = known.partition("/")
            if known in self._limits and "*" not in known:
                return known, known
            limit = f"{folder}/*{os.path.splitext(name)[1]}"
            if limit in self._limits and re.fullmatch(FILE_PATTERN, name):
                return known, limit
        return "", ""


def _copy(read: Callable[[int], bytes], size: int, file: IO[bytes] | None) -> None:
    """Copies exactly `size` bytes, or passes over them."""
    while size:
        block = read(min(size, _BLOCK))
        if not block:
            raise EOFError("cut off")
        size -= len(block)
        if file is not None:
            file.write(block)


def _zip_end(path: pathlib.Path) -> bytes | None:
    """The end of a zip from its last record on, where zipfile finds it; else None."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _ZIP_END_BYTES - (1 << 16) - _ZIP64_LOCATOR_BYTES))
        tail = file.read()
    last = len(tail) - _ZIP_END_BYTES
    if last < 0:
        return None
    if not (tail[last:].startswith(_ZIP_END) and tail.endswith(b"\0\0")):
        last = tail.rfind(_ZIP_END)
    if last < 0 or len(tail) - last < _ZIP_END_BYTES:
        return None
    return tail[max(0, last - _ZIP64_LOCATOR_BYTES) :][:64]


def _check_contents(path: pathlib.Path, places: _Places) -> None:
    """Refuses a zip whose table of contents would take long to read."""
    end = _zip_end(path)
    assert end is not None
    start = end.rfind(_ZIP_END)
    if end.startswith(_ZIP64_END_LOCATOR) and start == _ZIP64_LOCATOR_BYTES:
        raise places.refuse("a zip of more than 4 GB, or written as one (zip64)")
    record = end[start : start + _ZIP_END_BYTES]
    members = int.from_bytes(record[10:12], "little")
    size = int.from_bytes(record[12:16], "little")
    if members > MAX_MEMBERS or size > MAX_CONTENTS_BYTES:
        raise places.refuse(
            f"holds {members:,} members with {size:,} bytes of names, more than "
            f"{MAX_MEMBERS:,} or {MAX_CONTENTS_BYTES:,}"
        )


def _read_zip(path: pathlib.Path, places: _Places) -> None:
    _check_contents(path, places)
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        found = []
        for item in members:
            kind = stat.S_IFMT(item.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise places.refuse(f"holds a link or device, {item.filename!r}")
            place = places.find(item.filename, item.file_size, item.is_dir())
            if place is not None:
                if item.flag_bits & 1:
                    raise places.refuse(f"{item.filename!r} is encrypted")
                if item.compress_type not in _ZIP_METHODS:
                    raise places.refuse(
                        f"{item.filename!r} is compressed by a method that is not read "
                        f"({item.compress_type})"
                    )
                found.append((item, place))
        # Members that share bytes make a small file unpack to a large one.
        ordered = sorted(members, key=lambda item: item.header_offset)
        for first, second in zip(ordered, ordered[1:], strict=False):
            end = first.header_offset + _ZIP_HEADER_BYTES + first.compress_size
            if end > second.header_offset:
                raise places.refuse(
                    f"{first.filename!r} and {second.filename!r} overlap"
                )
        for item, place in found:
            with file.open(item) as source, open(place, "wb") as target:
                _copy(source.read, item.file_size, target)
                if source.read(1):  # compares the checksum, too
                    raise zipfile.BadZipFile(f"{item.filename!r} is longer than stated")


class _Bytes:
    """A file's bytes, decompressed; reads are exact but for the end."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._make = _decompressor_of(file.read(6))
        file.seek(0)
        self._decompressor = self._make() if self._make else None
        self._num_streams = 1
        self._waiting = b""  # compressed bytes that were not taken yet

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end alone."""
        found = bytearray()
        while len(found) < size and (block := self._some(size - len(found))):
            found += block
        return bytes(found)

    def _some(self, size: int) -> bytes:
        if self._make is None or self._decompressor is None:
            return self._file.read(size)
        while True:
            if self._decompressor.eof:
                rest = self._decompressor.unused_data or self._file.read(_BLOCK)
                # Zeros may follow the last stream, as on a tape.
                rest = rest.lstrip(b"\0")
                if not rest:
                    return b""
                self._num_streams += 1
                if self._num_streams > MAX_STREAMS:
                    raise OSError(f"more than {MAX_STREAMS} compressed streams")
                self._decompressor, self._waiting = self._make(), rest
            given, self._waiting = self._waiting, b""
            if not given and self._decompressor.needs_input:
                given = self._file.read(_BLOCK)
                if not given:
                    raise EOFError("the compressed file is cut off")
            block = self._decompressor.decompress(given, size)
            if block:
                return block


class _Gzip:
    """zlib's decompressor with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, size)


def _decompressor_of(magic: bytes) -> Callable[[], Any] | None:
    if magic.startswith(b"\x1f\x8b"):
        return _Gzip
    if magic.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    if magic == b"\xfd7zXZ\0":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_XZ_MEMORY)
    return None


def _read_tar(path: pathlib.Path, places: _Places) -> None:
    with open(path, "rb") as file:
        source = _Bytes(file)
        for member in _tar_members(source, places):
            is_folder = member.type == tarfile.DIRTYPE
            if not is_folder and member.type not in _PLAIN:
                raise places.refuse(f"holds a link or device, {member.name!r}")
            place = places.find(member.name, member.size, is_folder)
            if place is None:
                _copy(source.read, member.size, None)
            else:
                with open(place, "wb") as target:
                    _copy(source.read, member.size, target)
            _copy(source.read, -member.size % _TAR_BLOCK, None)


def _tar_members(source: _Bytes, places: _Places) -> Iterator[tarfile.TarInfo]:
    """Members by their headers; the caller reads each one's bytes before the next."""
    further: dict[str, str] = {}
    num_headers = 0
    while (header := source.read(_TAR_BLOCK)).strip(b"\0"):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        num_headers += 1
        if num_headers > 4 * MAX_MEMBERS:
            raise places.refuse(f"holds more than {MAX_MEMBERS:,} members")
        if member.type in (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            if not 0 <= member.size <= MAX_HEADER_BYTES:
                raise places.refuse(f"damaged: a name of {member.size:,} bytes")
            content = source.read(member.size)
            _copy(source.read, -member.size % _TAR_BLOCK, None)
            if member.type == tarfile.GNUTYPE_LONGNAME:
                further["path"] = content.rstrip(b"\0").decode(errors="replace")
            elif member.type in _PAX:
                further |= _pax_fields(content)
            continue  # global fields say nothing of a name or a size
        if any(field.startswith("GNU.sparse") for field in further):
            raise places.refuse(f"holds a sparse file, {member.name!r}")
        member.name = further.get("path", member.name)
        if "size" in further:
            member.size = int(further["size"])
        further = {}
        yield member
    if not header and num_headers == 0:
        raise EOFError("empty")


def _pax_fields(content: bytes) -> dict[str, str]:
    r"""Fields of a tar member's extended header: `LENGTH KEY=VALUE\n` each."""
    fields = {}
    while content := content.lstrip(b"\0"):
        digits, _, rest = content.partition(b" ")
        length = int(digits) - len(digits) - 1
        record, content = rest[:length], rest[max(0, length) :]
        key, equals, value = record.partition(b"=")
        if length < 3 or not equals or not record.endswith(b"\n"):
            raise ValueError("a damaged extended header")
        fields[key.decode(errors="replace")] = value[:-1].decode(errors="replace")
    return fields
