"""What is found in an audio file's container, and the tags around it."""

import dataclasses
import io
import struct
from typing import Any, BinaryIO

WINDOW_BYTES = 1 << 20
# Less than this after the last frame is what writers leave there.
MAX_TRAILING_BYTES = 4096
# Writers to a pipe put the largest length there, less their headers.
_UNKNOWN_MARGIN = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """What a decoder is given: some bytes, then the file's from `start` to `end`."""

    head: bytes
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a container says about itself.

    Attributes:
        reason: What is missing or damaged; None where nothing speaks for it.
        num_frames: Samples a channel by a full count, or None.
        flac_md5: FLAC's MD5 of its samples, or None.
        flac_bits: Bits a sample of that FLAC.
        parts: What to decode, one after another, where the file itself will not do:
            joined files, or one that does not say how long it is and gets a header
            that does. Empty for the file as it is.
        is_unbounded: Whether the file leaves its length open.
        end: Where the container ends, if it says so; what follows is not its audio.
    """

    reason: str | None = None
    num_frames: int | None = None
    flac_md5: bytes | None = None
    flac_bits: int = 0
    parts: tuple[Part, ...] = ()
    is_unbounded: bool = False
    end: int | None = None


class View(io.RawIOBase):
    """A part of a file, with some bytes before it, as a file of its own."""

    def __init__(self, part: Part, file: BinaryIO):
        """Begins at the part's start."""
        super().__init__()
        self._head, self._file, self._position = part.head, file, 0
        self._offset = part.start - len(part.head)
        self._size = part.end - self._offset

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves, as files do."""
        start = (0, self._position, self._size)[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills as much of the buffer as there is."""
        view = memoryview(buffer).cast("B")
        data = self._head[self._position : self._position + len(view)]
        if not data:
            self._file.seek(self._offset + self._position)
            left = max(0, self._size - self._position)
            data = self._file.read(min(len(view), left))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def cut_audio(promised: int, found: int) -> Findings:
    """What is said of a container with fewer bytes of audio than its header says."""
    return Findings(
        f"truncated: its header promises {promised} bytes of audio, but it has {found}"
    )


def is_unknown(length: int, bits: int = 32) -> bool:
    """Whether a length is one that stands for none: 0, or almost the largest."""
    largest = (1 << bits, 1 << (bits - 1))
    return length == 0 or any(abs(n - length) <= _UNKNOWN_MARGIN for n in largest)


def content_end(file: BinaryIO, size: int) -> int:
    """Where the tags at a file's end begin; its size without any."""
    while True:
        end = size
        file.seek(max(0, size - 160))
        tail = file.read(min(size, 160))
        if tail[-128:].startswith(b"TAG") and len(tail) >= 128:
            size -= 128
        elif tail[-32:].startswith(b"APETAGEX") and len(tail) >= 32:
            length, _, flags = struct.unpack("<III", tail[-20:-8])
            size -= length + 32 * (flags >> 31)
        elif tail[-9:] in (b"LYRICS200", b"LYRICSEND"):
            digits = tail[-15:-9]
            is_counted = tail.endswith(b"LYRICS200") and digits.isdigit()
            file.seek(max(0, size - 5200))
            start = file.read(min(size, 5200)).rfind(b"LYRICSBEGIN")
            if is_counted:
                size -= int(digits) + 15
            elif start >= 0:
                size = max(0, size - 5200) + start
        elif tail[-10:].startswith(b"3DI") and len(tail) >= 10:
            size -= 20 + _synchsafe(tail[-4:])
        if not 0 <= size < end:
            return end


def _synchsafe(data: bytes) -> int:
    """ID3v2's number of 7 bits a byte."""
    number = 0
    for byte in data:
        number = number << 7 | byte & 0x7F
    return number


def id3v2_end(file: BinaryIO, position: int) -> int:
    """Where an ID3v2 tag that begins at `position` ends; `position` without one."""
    file.seek(position)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3":
        return position
    return position + 10 + _synchsafe(head[6:]) + (10 if head[5] & 0x10 else 0)


def skip_tags(file: BinaryIO, position: int) -> int:
    """Where ID3 and APE tags that begin at `position` end."""
    while True:
        start = position
        position = id3v2_end(file, position)
        file.seek(position)
        head = file.read(32)
        if head.startswith(b"APETAGEX") and len(head) == 32:
            position += 32 + int.from_bytes(head[12:16], "little")
        elif head.startswith(b"TAG"):
            position += 128
        if position == start:
            return position


def is_zeros(file: BinaryIO, position: int, end: int) -> bool:
    """Whether there is nothing else from `position` to `end`."""
    file.seek(position)
    while position < end:
        data = file.read(min(WINDOW_BYTES, end - position))
        if not data or data.count(0) < len(data):
            return False
        position += len(data)
    return True
