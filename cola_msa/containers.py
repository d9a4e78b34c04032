"""Whether an audio file is whole, from its container's own bookkeeping.

libsndfile reads a truncated WAV, MP3 or Ogg without an error, only shorter, and skips
what is damaged in the middle of an MP3 or Ogg.
"""

import dataclasses
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
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a container says about itself.

    Attributes:
        reason: What is missing or damaged; None where nothing speaks for it.
        num_frames: Samples a channel by a full count, or None.
        flac_md5: FLAC's MD5 of its samples, or None.
        flac_bits: Bits a sample of that FLAC.
        counted_header: For an MP3 that does not say how long it is, a frame that
            says so; else empty.
    """

    reason: str | None = None
    num_frames: int | None = None
    flac_md5: bytes | None = None
    flac_bits: int = 0
    counted_header: bytes = b""


def examine(path: pathlib.Path, file_format: str) -> Findings:
    """Looks for signs that a part of a file is missing or damaged.

    Memory does not depend on the file's size.

    Args:
        path: The file.
        file_format: libsndfile's name of the container, e.g. `WAV`.

    Returns:
        Findings; empty for containers that it does not know.
    """
    checks = {
        "WAV": _examine_wav,
        "WAVEX": _examine_wav,
        "AIFF": _examine_aiff,
        "OGG": _examine_ogg,
        "MP3": _examine_mp3,
        "FLAC": _examine_flac,
    }
    check = checks.get(file_format)
    if check is None:
        return Findings()
    with open(path, "rb") as file:
        return check(file, path.stat().st_size)


def _examine_wav(file: BinaryIO, size: int) -> Findings:
    return _examine_chunks(file, size, b"RIFF", b"data", "<")


def _examine_aiff(file: BinaryIO, size: int) -> Findings:
    return _examine_chunks(file, size, b"FORM", b"SSND", ">")


def _examine_chunks(
    file: BinaryIO, size: int, magic: bytes, wanted: bytes, order: str
) -> Findings:
    if file.read(4) != magic:
        return Findings()
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == wanted:
            # Writers that stream put 0 or the largest number there.
            is_known = 0 < length < 0x7FFFFF00
            if is_known and position + 8 + length > size:
                return Findings(
                    f"truncated: its header promises {length} bytes of audio, but it "
                    f"has {size - position - 8}"
                )
            break
        position += 8 + length + length % 2
    return Findings()


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC: zlib's polynomial with all bits the other way round."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _examine_ogg(file: BinaryIO, size: int) -> Findings:
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(27)
        if head[:4] != b"OggS":
            # Not at the start: that is no Ogg, or a tag before it.
            is_damaged = position > 0 and len(head) == 27
            damage = f"damaged: no Ogg page at byte {position} of {size}"
            return Findings(damage if is_damaged else None)
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
        position += num_bytes
    return Findings()


def _examine_flac(file: BinaryIO, size: int) -> Findings:
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


def _mp3_frames(file: BinaryIO, position: int) -> Iterator[tuple[int, int, int]]:
    """Yields (position, bytes, samples) of frames, as long as one follows another."""
    data, base = b"", position
    while True:
        if position - base + 4 > len(data):
            file.seek(position)
            data, base = file.read(_WINDOW_BYTES), position
        frame = _mp3_frame(data, position - base)
        if frame is None:
            return
        yield position, frame[0], frame[1]
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


def _examine_mp3(file: BinaryIO, size: int) -> Findings:
    position = 0
    head = file.read(10)
    if head[:3] == b"ID3":
        for byte in head[6:10]:
            position = position << 7 | byte & 0x7F
        position += 10
    file.seek(max(0, size - _ID3V1_BYTES))
    if file.read(3) == b"TAG":
        size = max(0, size - _ID3V1_BYTES)
    file.seek(position)
    head = file.read(200)
    promised = _xing_frames(head)
    num_mp3_frames = num_frames = 0
    while True:
        num_bytes = 0
        for start, num_bytes, samples in _mp3_frames(file, position):
            if start + num_bytes > size:
                return Findings("truncated: its last MP3 frame is incomplete")
            position = start + num_bytes
            num_mp3_frames += 1
            num_frames += samples
        if not num_mp3_frames:
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
    # The frame that carries the count is not always counted; two frames are 0.1 s.
    if promised and num_mp3_frames + 2 < promised:
        return Findings(
            f"truncated: its header promises {promised} MP3 frames, but it has "
            f"{num_mp3_frames}"
        )
    counted = b"" if promised else _counted_header(head, num_mp3_frames)
    return Findings(num_frames=num_frames, counted_header=counted)


def _xing_frames(head: bytes) -> int:
    """The number of frames that a Xing or Info header gives; 0 without one."""
    for name in (b"Xing", b"Info"):
        start = head.find(name)
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
