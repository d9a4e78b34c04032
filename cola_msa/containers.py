"""Whether an audio file is whole, from its container's own bookkeeping.

libsndfile reads a truncated WAV, MP3 or Ogg without an error, only shorter, skips
what is damaged in the middle of an MP3 or Ogg, and ends with the first of several files
that were joined to one. What a stream's writer could not know (a length, where the
output was a pipe) is no promise.
"""

import dataclasses
import itertools
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_WINDOW_BYTES = 1 << 20
_ID3V1_BYTES = 128
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
# Less than this after the last frame is what writers leave there.
_MAX_TRAILING_BYTES = 4096
# Writers to a pipe put the largest length there, less their headers.
_UNKNOWN_MARGIN = 1 << 20
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
# kbit/s by MPEG version (1, then 2 and 2.5) and layer III bitrate index.
_KBITS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
_RATES_HZ = {
    3: (44100, 48000, 32000),
    2: (22050, 24000, 16000),
    0: (11025, 12000, 8000),
}
# A header, the side information, and what a Xing or Info tag says first.
_MP3_HEAD_BYTES = 64
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


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
    """

    reason: str | None = None
    num_frames: int | None = None
    flac_md5: bytes | None = None
    flac_bits: int = 0
    parts: tuple[Part, ...] = ()
    is_unbounded: bool = False


def examine(path: pathlib.Path, file_format: str = "", first: int = 0) -> Findings:
    """Looks for signs that a part of a file is missing or damaged.

    Memory does not depend on the file's size.

    Args:
        path: The file.
        file_format: libsndfile's name of the container, e.g. `WAV`; empty where it
            knows none: then the first bytes say it.
        first: Where an MP3's first frame is, if not after a tag at the start.

    Returns:
        Findings; empty for containers that it does not know.
    """
    checks = {
        "WAV": _examine_wav,
        "WAVEX": _examine_wav,
        "RF64": _examine_wav,
        "W64": _examine_w64,
        "AIFF": _examine_aiff,
        "AU": _examine_au,
        "OGG": _examine_ogg,
        "MP3": _examine_mp3,
        "FLAC": _examine_flac,
        "MATROSKA": _examine_matroska,
    }
    with open(path, "rb") as file:
        check = checks.get(file_format or _guess(file.read(64)))
        if check is None:
            return Findings()
        file.seek(0)
        size = path.stat().st_size
        found = _examine_mp3(file, size, first) if first else check(file, size)
    if first and not found.parts and not found.reason:
        return dataclasses.replace(found, parts=(Part(b"", first, size),))
    return found


def _guess(head: bytes) -> str:
    """The container, by a file's first bytes; empty for an unknown one."""
    known = (
        (b"RIFF", "WAV"),
        (b"RIFX", "WAV"),
        (b"RF64", "WAV"),
        (b"riff", "W64"),
        (b"FORM", "AIFF"),
        (b".snd", "AU"),
        (b"OggS", "OGG"),
        (b"\x1aE\xdf\xa3", "MATROSKA"),
    )
    return next((name for magic, name in known if head.startswith(magic)), "")


def _cut_audio(promised: int, found: int) -> Findings:
    return Findings(
        f"truncated: its header promises {promised} bytes of audio, but it has {found}"
    )


def _is_unknown(length: int, bits: int = 32) -> bool:
    """Whether a length is one that stands for none: 0, or almost the largest."""
    largest = (1 << bits, 1 << (bits - 1))
    return length == 0 or any(abs(n - length) <= _UNKNOWN_MARGIN for n in largest)


def _is_chunks(file: BinaryIO, position: int, size: int, order: str) -> bool:
    """Whether chunks with names follow one another from `position` to the end."""
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if not all(32 <= byte < 127 for byte in name):
            return False
        position += 8 + length + length % 2
    return size <= position <= size + 1


def _examine_wav(file: BinaryIO, size: int) -> Findings:
    magic = file.read(4)
    if magic not in (b"RIFF", b"RIFX", b"RF64"):
        return Findings()
    order = ">" if magic == b"RIFX" else "<"
    position, wide_at = 12, 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        start = position + 8
        if magic == b"RF64" and name == b"ds64":
            wide_at = start + 8
        if name == b"data":
            break
        position = start + length + length % 2
    else:
        return Findings()
    available, bits = size - start, 32
    if wide_at and length == 0xFFFFFFFF:
        file.seek(wide_at)
        length, bits = int.from_bytes(file.read(8), "little"), 64
    if not _is_unknown(length, bits):
        return _cut_audio(length, available) if length > available else Findings()
    # libsndfile takes 0 for what it says, and refuses the largest of 64 bits.
    if bits == 32 and length:
        return Findings(is_unbounded=True)
    if not available or (length == 0 and _is_chunks(file, start, size, order)):
        return Findings()
    file.seek(0)
    head = bytearray(file.read(start))
    if bits == 64:
        head[wide_at : wide_at + 8] = available.to_bytes(8, "little")
    else:
        known = min(available, 0xFFFFFFFF)
        head[start - 4 : start] = struct.pack(f"{order}I", known)
    return Findings(parts=(Part(bytes(head), start, size),), is_unbounded=True)


def _examine_w64(file: BinaryIO, size: int) -> Findings:
    position = 40
    while position + 24 <= size:
        file.seek(position)
        name, length = struct.unpack("<16sQ", file.read(24))
        start = position + 24
        if name == _W64_DATA:
            break
        if length < 24:
            return Findings()
        position += -(-length // 8) * 8
    else:
        return Findings()
    available = size - start
    if length > 24 and not _is_unknown(length, 64):
        is_cut = length - 24 > available
        return _cut_audio(length - 24, available) if is_cut else Findings()
    if not available:
        return Findings()
    file.seek(0)
    head = file.read(start - 8) + (available + 24).to_bytes(8, "little")
    return Findings(parts=(Part(head, start, size),), is_unbounded=True)


def _examine_aiff(file: BinaryIO, size: int) -> Findings:
    if file.read(4) != b"FORM":
        return Findings()
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sI", file.read(8))
        start = position + 8
        if name == b"SSND":
            is_open = length <= 8 or _is_unknown(length)
            if not is_open and length > size - start:
                return _cut_audio(length - 8, max(0, size - start - 8))
            return Findings(is_unbounded=is_open)
        position = start + length + length % 2
    return Findings()


def _examine_au(file: BinaryIO, size: int) -> Findings:
    head = file.read(12)
    if head[:4] not in (b".snd", b"dns.") or len(head) < 12:
        return Findings()
    order = ">" if head[:4] == b".snd" else "<"
    start, length = struct.unpack(f"{order}II", head[4:])
    if _is_unknown(length):
        # libsndfile knows one of the numbers that stand for none.
        file.seek(0)
        whole = file.read(8) + b"\xff\xff\xff\xff"
        return Findings(parts=(Part(whole, 12, size),), is_unbounded=True)
    return _cut_audio(length, size - start) if length > size - start else Findings()


def _vint(data: bytes, position: int) -> tuple[int, int, bool]:
    """Matroska's (number, bytes, whether it stands for none) at `position`."""
    first = data[position] if position < len(data) else 0
    num_bytes = 9 - first.bit_length()
    raw = data[position : position + num_bytes]
    if first == 0 or len(raw) < num_bytes:
        return 0, 0, True
    mask = (1 << 7 * num_bytes) - 1
    number = int.from_bytes(raw, "big") & mask
    return number, num_bytes, number == mask


def _examine_matroska(file: BinaryIO, size: int) -> Findings:
    """Its one segment says how many bytes it has, whatever streams are in it."""
    head = file.read(_MAX_TRAILING_BYTES)
    length, num_bytes, is_unknown = _vint(head, 4)
    position = 4 + num_bytes + length
    if is_unknown or head[position : position + 4] != b"\x18\x53\x80\x67":
        return Findings()
    length, num_bytes, is_unknown = _vint(head, position + 4)
    start = position + 4 + num_bytes
    if is_unknown:
        return Findings(is_unbounded=True)
    if num_bytes and start + length > size:
        return Findings(
            f"truncated: its header promises {start + length} bytes, but it has {size}"
        )
    return Findings()


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC: zlib's polynomial with all bits the other way round."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _content_end(file: BinaryIO, size: int) -> int:
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


def _id3v2_end(file: BinaryIO, position: int) -> int:
    """Where an ID3v2 tag that begins at `position` ends; `position` without one."""
    file.seek(position)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3":
        return position
    return position + 10 + _synchsafe(head[6:]) + (10 if head[5] & 0x10 else 0)


def _is_zeros(file: BinaryIO, position: int, end: int) -> bool:
    file.seek(position)
    while position < end:
        data = file.read(min(_WINDOW_BYTES, end - position))
        if not data or data.count(0) < len(data):
            return False
        position += len(data)
    return True


def _examine_ogg(file: BinaryIO, size: int) -> Findings:
    position, has_ended, is_first_of_link = 0, False, True
    links: list[int] = []
    while position < size:
        file.seek(position)
        head = file.read(27)
        if not b"OggS".startswith(head[:4]):
            if not links:  # not at the start: that is no Ogg, or a tag before it
                return Findings()
            # Padding follows a stream that has ended; else zeros stand for what is
            # missing.
            rest = _id3v2_end(file, position)
            end = _content_end(file, size)
            is_tag = end <= position or rest >= end
            if is_tag or (has_ended and _is_zeros(file, rest, end)):
                size = position
                break
            return Findings(f"damaged: no Ogg page at byte {position} of {size}")
        lengths = file.read(head[26]) if len(head) == 27 else b""
        num_bytes = 27 + len(lengths) + sum(lengths)
        body = file.read(sum(lengths))
        if len(head) < 27 or len(lengths) < head[26] or len(body) < sum(lengths):
            return Findings("truncated: its last Ogg page is incomplete")
        if _ogg_checksum(head + lengths + body) != int.from_bytes(
            head[22:26], "little"
        ):
            return Findings(
                f"damaged: the checksum of the Ogg page at byte {position} of {size} "
                "is wrong"
            )
        # Streams that run beside one another begin together; later ones are chained.
        is_begin = bool(head[5] & 2)
        if is_begin and (not links or not is_first_of_link):
            links.append(position)
        is_first_of_link = is_begin
        has_ended = bool(head[5] & 4)
        position += num_bytes
    if len(links) < 2:
        return Findings()
    ends = [*links[1:], size]
    parts = (Part(b"", *ends) for ends in zip(links, ends, strict=True))
    return Findings(parts=tuple(parts))


def _examine_flac(file: BinaryIO, size: int) -> Findings:
    start = _id3v2_end(file, 0)
    file.seek(start)
    head = file.read(42)
    if head[:4] != b"fLaC" or len(head) < 42 or head[4] & 0x7F != 0:
        return Findings()
    bits = int.from_bytes(head[18:26], "big")  # rate 20, channels 3, bits 5, frames 36
    num_frames = bits & (1 << 36) - 1
    md5 = head[26:42]
    return Findings(
        num_frames=num_frames or None,
        flac_md5=md5 if any(md5) else None,
        flac_bits=(bits >> 36 & 31) + 1,
        # A decoder that passes over a tag itself does not see where the file was cut.
        parts=(Part(b"", start, size),) if start and not num_frames else (),
        is_unbounded=num_frames == 0,
    )


def _mp3_frame(data: bytes, position: int) -> tuple[int, int, int] | None:
    """(bytes, samples, rate) of the layer III frame at `position`, or None."""
    if position + 4 > len(data) or data[position] != 0xFF:
        return None
    second, third = data[position + 1], data[position + 2]
    version, rate_index = second >> 3 & 3, third >> 2 & 3
    if second & 0xE6 != 0xE2 or version == 1 or rate_index == 3:
        return None
    kbits = _KBITS[version != 3][third >> 4]
    if not kbits:
        return None
    rate = _RATES_HZ[version][rate_index]
    samples = 1152 if version == 3 else 576
    return samples // 8 * kbits * 1000 // rate + (third >> 1 & 1), samples, rate


def _mp3_frames(file: BinaryIO, position: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields (position, bytes, samples, start of the content) of frames.

    As long as one follows another.
    """
    data, base = b"", position
    while True:
        if position - base + _MP3_HEAD_BYTES > len(data):
            file.seek(position)
            data, base = file.read(_WINDOW_BYTES), position
        start = position - base
        frame = _mp3_frame(data, start)
        if frame is None:
            return
        yield position, frame[0], frame[1], data[start : start + _MP3_HEAD_BYTES]
        position += frame[0]


def _next_mp3_frame(file: BinaryIO, position: int, size: int) -> int | None:
    """Where the next two frames that follow each other begin."""
    while position < size:
        file.seek(position)
        data = file.read(_WINDOW_BYTES)
        start = data.find(b"\xff")
        while start >= 0:
            frame = _mp3_frame(data, start)
            if frame and _mp3_frame(data, start + frame[0]):
                return position + start
            start = data.find(b"\xff", start + 1)
        if position + len(data) >= size:
            return None
        position += len(data) - 4096  # two frames lie in one of the windows
    return None


def mp3_start(path: pathlib.Path) -> int | None:
    """Where the frames of an MP3 with something else in front begin, or None.

    Zeros, a tag of a wrong size, and a frame that was cut are not the audio; five
    frames that follow each other are no chance.

    Args:
        path: The file.

    Returns:
        A position above 0 and within the first MiB, or None.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        position: int | None = 0
        while position is not None and position < _WINDOW_BYTES:
            position = _next_mp3_frame(file, position, size)
            if position is None:
                return None
            found = list(itertools.islice(_mp3_frames(file, position), 5))
            if len(found) == 5:
                return position or None
            position += 1
    return None


@dataclasses.dataclass
class _Mp3Part:
    """One of the MP3s that a file is joined from, while it is counted."""

    start: int
    head: bytes
    promised: int
    end: int = 0
    num_mp3_frames: int = 0

    @property
    def is_short(self) -> bool:
        # The frame that carries the count is not always counted; two frames are 0.1 s.
        return bool(self.promised) and self.num_mp3_frames + 2 < self.promised

    @property
    def is_right(self) -> bool:
        """Whether a decoder that trusts the header reads it whole."""
        return bool(self.promised) and self.num_mp3_frames <= self.promised + 2

    def give(self) -> Part:
        """What to decode: with another header, where its own would end too soon."""
        if self.is_right:
            return Part(b"", self.start, self.end)
        start, count = self.start, self.num_mp3_frames
        if self.promised:
            frame = _mp3_frame(self.head, 0)
            assert frame is not None
            start, count = start + frame[0], count - 1
        return Part(_counted_header(self.head, count), start, self.end)


def _examine_mp3(file: BinaryIO, size: int, position: int | None = None) -> Findings:
    if position is None:
        position = _id3v2_end(file, 0)
    size = _content_end(file, size)
    parts: list[_Mp3Part] = []
    num_frames = 0
    while True:
        num_bytes = 0
        for start, num_bytes, samples, head in _mp3_frames(file, position):
            if start + num_bytes > size:
                return Findings("truncated: its last MP3 frame is incomplete")
            position = start + num_bytes
            promised = _xing_frames(head)
            if not parts or promised:
                parts.append(_Mp3Part(start, head, promised))
            parts[-1].end = position
            parts[-1].num_mp3_frames += 1
            num_frames += samples
        if not parts:
            return Findings()
        if position >= size:
            break
        file.seek(position)
        is_tag = file.read(11).startswith(_TAGS)
        following = _next_mp3_frame(file, position + 1, size)
        if following is None:
            if size - position > _MAX_TRAILING_BYTES and not is_tag:
                return Findings(
                    f"damaged: its last {size - position} bytes are no MP3 frames"
                )
            break
        gap = following - position
        if not is_tag and 2 * gap > num_bytes:
            return Findings(
                f"damaged: {gap} bytes at byte {position} of {size} are no MP3 frames"
            )
        position = following
    for part in parts:
        if part.is_short:
            return Findings(
                f"truncated: its header promises {part.promised} MP3 frames, but it "
                f"has {part.num_mp3_frames}"
            )
    if len(parts) == 1 and parts[0].is_right:
        return Findings(num_frames=num_frames)
    if len(parts) == 1:
        parts[0].end = size  # the decoder is given all, and passes over tags itself
    return Findings(num_frames=num_frames, parts=tuple(part.give() for part in parts))


def _xing_frames(head: bytes) -> int:
    """The number of frames that a Xing or Info header gives; 0 without one."""
    for name in (b"Xing", b"Info"):
        # After the side information of 9 to 32 bytes and, perhaps, a checksum.
        start = head.find(name, 4, 42)
        if start >= 0 and len(head) >= start + 12 and head[start + 7] & 1:
            return int.from_bytes(head[start + 8 : start + 12], "big")
    return 0


def _counted_header(head: bytes, num_mp3_frames: int) -> bytes:
    """A Xing frame like the first frame, which holds no audio but the count."""
    frame = _mp3_frame(head, 0)
    if frame is None:
        return b""
    is_version_1, is_mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == 3
    side_bytes = ((32, 17), (17, 9))[not is_version_1][is_mono]
    # 128 kbit/s for MPEG 1, 64 kbit/s for the others: the tag fits; no checksum.
    index = 9 if is_version_1 else 8
    start = bytes([0xFF, head[1] | 1, index << 4 | head[2] & 0x0C, head[3]])
    found = _mp3_frame(start, 0)
    assert found is not None
    content = (
        start + bytes(side_bytes) + b"Xing" + struct.pack(">II", 1, num_mp3_frames)
    )
    return content.ljust(found[0], b"\0")
