"""Files that are frames and nothing else: each frame's head says how long it is."""

from collections.abc import Callable
from typing import BinaryIO

from cola_msa.audio.containers.findings import Findings, content_end

_HEAD_BYTES = 32
# kbit/s by half of AC-3's size code.
_AC3_KBITS: tuple[int, ...] = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_AC3_KBITS += (320, 384, 448, 512, 576, 640)


def _adts_bytes(head: bytes) -> int:
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5


def _loas_bytes(head: bytes) -> int:
    if head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return 0
    return ((head[1] & 0x1F) << 8 | head[2]) + 3


def _ac3_bytes(head: bytes) -> int:
    """AC-3, and E-AC-3, whose head says it outright."""
    if head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 > 10:
        return (((head[2] & 7) << 8 | head[3]) + 1) * 2
    rate, code = head[4] >> 6, head[4] & 0x3F
    if rate == 3 or code >= 2 * len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code // 2]
    words = (2 * kbits, kbits * 320 // 147 + code % 2, 3 * kbits)[rate]
    return 2 * words


def _dts_bytes(head: bytes) -> int:
    if head[:4] != b"\x7f\xfe\x80\x01":
        return 0
    return ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1


def _mlp_bytes(head: bytes) -> int:
    """MLP and TrueHD; only some frames have the mark that is asked for at first."""
    return (head[0] & 0xF) * 512 + head[1] * 2


def _wavpack_bytes(head: bytes) -> int:
    if head[:4] != b"wvpk":
        return 0
    return 8 + int.from_bytes(head[4:8], "little")


_SIZES: dict[str, Callable[[bytes], int]] = {
    "ADTS": _adts_bytes,
    "LOAS": _loas_bytes,
    "AC3": _ac3_bytes,
    "DTS": _dts_bytes,
    "MLP": _mlp_bytes,
    "WAVPACK": _wavpack_bytes,
}
NAMES = tuple(_SIZES)


def guess(head: bytes) -> str:
    """Which of these a file is, by two frames that follow each other; "" if none."""
    for name, size_of in _SIZES.items():
        if name == "MLP" and head[4:7] != b"\xf8\x72\x6f":
            continue
        padded = head + bytes(_HEAD_BYTES)
        num_bytes = size_of(padded)
        if num_bytes < 8:
            continue
        second = padded[num_bytes:]
        if name == "WAVPACK" or len(second) < 2 * _HEAD_BYTES or size_of(second) >= 8:
            return name
    return ""


def examine(file: BinaryIO, size: int, name: str) -> Findings:
    """Goes from frame to frame to the end.

    Args:
        file: Begins with a frame.
        size: Its bytes.
        name: What `guess` gave.

    Returns:
        Findings; `end` is the last frame's.
    """
    size_of = _SIZES[name]
    position, size = 0, content_end(file, size)
    while position < size:
        file.seek(position)
        head = file.read(_HEAD_BYTES).ljust(_HEAD_BYTES, b"\0")
        if position and name == "WAVPACK" and _begins_wavpack(head):
            break
        num_bytes = size_of(head)
        if num_bytes < 8:
            break
        if position + num_bytes > size:
            return Findings("truncated: its last frame is incomplete")
        position += num_bytes
    return Findings(end=position)


def _begins_wavpack(head: bytes) -> bool:
    """Whether a block holds a file's first samples; a song's streams share them."""
    has_samples = head[20:24] != bytes(4)
    return has_samples and head[16:20] == bytes(4) and bool(head[25] & 8)
