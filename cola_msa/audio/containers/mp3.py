"""The frames of an MPEG audio file, layers I to III: whole, joined, cut or damaged."""

import dataclasses
import itertools
import pathlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

from cola_msa.audio.containers.findings import (
    MAX_TRAILING_BYTES,
    WINDOW_BYTES,
    Findings,
    Part,
    content_end,
    id3v2_end,
)

_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_LOW_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
# kbit/s by whether the version is 1, then layer and bitrate index.
_KBITS = {
    (True, 1): (0, *range(32, 449, 32), 0),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    (False, 2): _LOW_KBITS,
    (False, 3): _LOW_KBITS,
}
_RATES_HZ = {
    3: (44100, 48000, 32000),
    2: (22050, 24000, 16000),
    0: (11025, 12000, 8000),
}
# A header, the side information, and what a Xing or Info tag says first.
_MP3_HEAD_BYTES = 64


def _mp3_frame(data: bytes, position: int) -> tuple[int, int, int] | None:
    """(bytes, samples, layer) of the frame at `position`, or None."""
    if position + 4 > len(data) or data[position] != 0xFF:
        return None
    second, third = data[position + 1], data[position + 2]
    version, layer, rate_index = second >> 3 & 3, 4 - (second >> 1 & 3), third >> 2 & 3
    if second & 0xE0 != 0xE0 or version == 1 or layer == 4 or rate_index == 3:
        return None
    kbits, padding = _KBITS[version == 3, layer][third >> 4], third >> 1 & 1
    if not kbits:
        return None
    rate = _RATES_HZ[version][rate_index]
    if layer == 1:
        return (12 * kbits * 1000 // rate + padding) * 4, 384, layer
    samples = 1152 if layer == 2 or version == 3 else 576
    return samples // 8 * kbits * 1000 // rate + padding, samples, layer


def _mp3_frames(file: BinaryIO, position: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields (position, bytes, samples, start of the content) of frames.

    As long as one follows another of the same layer.
    """
    data, base, layer = b"", position, 0
    while True:
        if position - base + _MP3_HEAD_BYTES > len(data):
            file.seek(position)
            data, base = file.read(WINDOW_BYTES), position
        start = position - base
        frame = _mp3_frame(data, start)
        if frame is None or layer not in (0, frame[2]):
            return
        layer = frame[2]
        yield position, frame[0], frame[1], data[start : start + _MP3_HEAD_BYTES]
        position += frame[0]


def _next_mp3_frame(file: BinaryIO, position: int, size: int) -> int | None:
    """Where the next two frames that follow each other begin."""
    while position < size:
        file.seek(position)
        data = file.read(WINDOW_BYTES)
        start = data.find(b"\xff")
        while start >= 0:
            frame = _mp3_frame(data, start)
            following = frame and _mp3_frame(data, start + frame[0])
            if frame and following and frame[2] == following[2]:
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
        while position is not None and position < WINDOW_BYTES:
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
        if self.is_right or _layer(self.head) != 3:
            return Part(b"", self.start, self.end)
        start, count = self.start, self.num_mp3_frames
        if self.promised:
            frame = _mp3_frame(self.head, 0)
            assert frame is not None
            start, count = start + frame[0], count - 1
        return Part(_counted_header(self.head, count), start, self.end)


def examine(file: BinaryIO, size: int, position: int | None = None) -> Findings:
    """Counts frames, and says what is missing or no frame.

    Args:
        file: The file.
        size: Its bytes.
        position: Where the first frame is; None for after a tag at the start.

    Returns:
        Findings.
    """
    if position is None:
        position = id3v2_end(file, 0)
    size = content_end(file, size)
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
            if size - position > MAX_TRAILING_BYTES and not is_tag:
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
    if len(parts) == 1 and _layer(parts[0].head) == 3:
        parts[0].end = size  # the decoder is given all, and passes over tags itself
    return Findings(num_frames=num_frames, parts=tuple(part.give() for part in parts))


def _layer(head: bytes) -> int:
    frame = _mp3_frame(head, 0)
    return frame[2] if frame else 0


def _xing_frames(head: bytes) -> int:
    """The number of frames that a Xing or Info header gives; 0 without one."""
    if _layer(head) != 3:
        return 0
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
