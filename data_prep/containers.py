"""Whether an audio file was cut off, from its container's own bookkeeping.

libsndfile reads a truncated WAV, MP3 or Ogg without an error, only shorter.
"""

import pathlib
import struct

_ID3V1_BYTES = 128
_OGG_TAIL_BYTES = 65536
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


def cut_reason(path: pathlib.Path, file_format: str) -> str | None:
    """Looks for signs that the end of a file is missing.

    Args:
        path: The file.
        file_format: libsndfile's name of the container, e.g. `WAV`.

    Returns:
        What is wrong, or None where nothing speaks for a cut.
    """
    checks = {"WAV": _cut_wav, "WAVEX": _cut_wav, "OGG": _cut_ogg, "MP3": _cut_mp3}
    check = checks.get(file_format)
    return check(path) if check else None


def _cut_wav(path: pathlib.Path) -> str | None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return None
        position = 12
        while position + 8 <= size:
            file.seek(position)
            name, length = struct.unpack("<4sI", file.read(8))
            if name == b"data":
                # Writers that stream put 0 or the largest number there.
                is_known = 0 < length < 0x7FFFFF00
                if is_known and position + 8 + length > size:
                    return (
                        f"its header promises {length} bytes of audio, but it has "
                        + (f"{size - position - 8}")
                    )
                return None
            position += 8 + length + length % 2
    return None


def _cut_ogg(path: pathlib.Path) -> str | None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _OGG_TAIL_BYTES))
        tail = file.read()
    start = tail.rfind(b"OggS")
    if start < 0:
        return None
    header = tail[start : start + 27]
    if len(header) < 27:
        return "its last Ogg page is incomplete"
    segments = tail[start + 27 : start + 27 + header[26]]
    if len(tail) - start < 27 + header[26] + sum(segments):
        return "its last Ogg page is incomplete"
    return None


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


def _cut_mp3(path: pathlib.Path) -> str | None:
    data = path.read_bytes()
    if data[-_ID3V1_BYTES : -_ID3V1_BYTES + 3] == b"TAG":
        data = data[:-_ID3V1_BYTES]
    position = 0
    if data[:3] == b"ID3" and len(data) > 10:
        size = 0
        for byte in data[6:10]:
            size = size << 7 | byte & 0x7F
        position = 10 + size
    promised = _xing_frames(data, position)
    num_frames = 0
    while frame := _mp3_frame(data, position):
        num_bytes, samples, rate = frame
        if position + num_bytes > len(data):
            return "its last MP3 frame is incomplete"
        position += num_bytes
        num_frames += 1
    # The frame that carries the count is not always counted; two frames are 0.1 s.
    if promised and num_frames and num_frames + 2 < promised:
        return f"its header promises {promised} MP3 frames, but it has {num_frames}"
    return None


def _xing_frames(data: bytes, position: int) -> int:
    """The number of frames that a Xing or Info header gives; 0 without one."""
    head = data[position : position + 200]
    for name in (b"Xing", b"Info"):
        start = head.find(name)
        if start >= 0 and len(head) >= start + 12 and head[start + 7] & 1:
            return int.from_bytes(head[start + 8 : start + 12], "big")
    return 0
