"""Containers of plain samples: their headers say how many, and libsndfile reads on.

It takes what follows the samples (tags, padding, other chunks) for more of them, and
what is missing for a shorter file. Some have no count; of these only a tag at the end
is known. Every function takes an open file that begins with the container, and its
size.
"""

import re
import struct
from typing import BinaryIO

from cola_msa.audio.containers.findings import (
    Findings,
    Part,
    content_end,
    cut_audio,
    is_unknown,
)

_NIST_CODINGS = {
    "pcm": 0,
    "ulaw": 1,
    "mu-law": 1,
    "alaw": 1,
}  # bytes a sample, if known
_MAT4_BYTES = (8, 4, 4, 2, 2, 1)
_MAT5_MATRIX = 14
_SDS_HEADER_BYTES, _SDS_PACKET_BYTES = 21, 127
_XI_SAMPLE_AT, _XI_START = 298, 338
_MAX_HEADER_BYTES = 1 << 16
# What begins a file of these is too little to know one by, but not where one ended.
_AGAIN = {
    "MPC2K": re.compile(rb"\x01\x04.{19}[\x00\x01]", re.DOTALL),
    "SDS": re.compile(rb"\xf0\x7e[\x00-\x7f]\x01"),
}


def counted(start: int, num_bytes: int, size: int, end: int | None = None) -> Findings:
    """Findings of a container whose samples' place and number are known.

    Args:
        start: Where the samples begin.
        num_bytes: How many bytes they have.
        size: The file's bytes.
        end: Where the container ends; with its samples, if None.

    Returns:
        Findings: cut, or, where anything follows the samples, the part to decode.
    """
    if num_bytes > size - start:
        return cut_audio(num_bytes, max(0, size - start))
    last = start + num_bytes
    parts = (Part(b"", 0, last),) if last < size else ()
    return Findings(parts=parts, end=max(last, end or 0))


def begins_again(name: str, first: bytes, head: bytes) -> bool:
    """Whether one more file begins after the end of one that has no mark to know it by.

    Args:
        name: The container.
        first: What the file begins with.
        head: What follows its end.

    Returns:
        bool; False for all containers but MAT4, MPC2K and SDS.
    """
    if name == "MAT4":  # no two matrices of one file have the same name
        title = first[20:].partition(b"\0")[0]
        is_matrix = head[:4] in (bytes(4), b"\0\0\3\xe8")
        return bool(title) and is_matrix and head[20:].startswith(title + b"\0")
    return name in _AGAIN and _AGAIN[name].match(head) is not None


def examine_tagged(file: BinaryIO, size: int) -> Findings:
    """What has samples to its end, and no number of them (IRCAM, PAF, PVF)."""
    end = content_end(file, size)
    return Findings(parts=(Part(b"", 0, end),) if end < size else (), end=end)


def examine_svx(file: BinaryIO, size: int) -> Findings:
    """Amiga IFF (8SVX, 16SV): chunks, of which BODY has the samples."""
    head = file.read(12)
    if head[:4] != b"FORM" or head[8:] not in (b"8SVX", b"16SV"):
        return Findings()
    whole = 8 + int.from_bytes(head[4:8], "big")
    position, body = 12, None
    while position + 8 <= min(size, whole):
        file.seek(position)
        name, length = struct.unpack(">4sI", file.read(8))
        if body and name == b"BODY":
            return Findings("damaged: it has two chunks of samples, not one")
        if name == b"BODY":
            if is_unknown(length):
                return Findings(is_unbounded=True)
            body = (position + 8, length)
        position += 8 + length + length % 2
    if body is None:
        return Findings()
    return counted(*body, size, whole if whole <= size else None)


def examine_nist(file: BinaryIO, size: int) -> Findings:
    """NIST SPHERE: a header of text with the number of samples a channel."""
    head = file.read(16)
    if not head.startswith(b"NIST_1A\n") or not head[8:].strip().isdigit():
        return Findings()
    start = int(head[8:])
    file.seek(0)
    text = file.read(min(start, _MAX_HEADER_BYTES)).decode("latin-1")
    text = text.partition("\nend_head")[0]
    values = dict(re.findall(r"^(\w+) -\w+ (\S+)", text, re.MULTILINE))
    try:
        count, channels = int(values["sample_count"]), int(values["channel_count"])
        num_bytes = _NIST_CODINGS[values.get("sample_coding", "pcm")]
        num_bytes = num_bytes or int(values["sample_n_bytes"])
    except (KeyError, ValueError):
        return Findings()  # compressed, or without a count
    total = count * channels * num_bytes
    return counted(start, total, size) if total > 0 else Findings(is_unbounded=True)


def examine_avr(file: BinaryIO, size: int) -> Findings:
    """Audio Visual Research: a header of 128 bytes."""
    head = file.read(128)
    if len(head) < 128 or head[:4] != b"2BIT":
        return Findings()
    channels = 2 if head[12:14] == b"\xff\xff" else 1
    bits, count = head[15], int.from_bytes(head[26:30], "big")
    return counted(128, count * channels * bits // 8, size) if count else Findings()


def examine_wve(file: BinaryIO, size: int) -> Findings:
    """Psion: a header of 32 bytes, then A-law."""
    head = file.read(32)
    if len(head) < 32:
        return Findings()
    count = int.from_bytes(head[18:22], "big")
    return counted(32, count, size) if count else Findings(is_unbounded=True)


def examine_xi(file: BinaryIO, size: int) -> Findings:
    """FastTracker's instrument of one sample; libsndfile writes no length of it."""
    file.seek(_XI_SAMPLE_AT - 2)
    head = file.read(6)
    if len(head) < 6:
        return Findings()
    num_samples, num_bytes = struct.unpack("<HI", head)
    if num_samples != 1 or not num_bytes:
        return examine_tagged(file, size)
    return counted(_XI_START, num_bytes, size)


def examine_mpc2k(file: BinaryIO, size: int) -> Findings:
    """Akai MPC 2000: a header of 42 bytes, then 16 bit."""
    head = file.read(42)
    if len(head) < 42 or head[:2] != b"\1\4":
        return Findings()
    count = int.from_bytes(head[30:34], "little")
    return counted(42, 2 * count * (1 + head[21]), size) if count else Findings()


def examine_sds(file: BinaryIO, size: int) -> Findings:
    """MIDI Sample Dump: packets of 127 bytes, of 120 with 7 bits of samples each."""
    head = file.read(_SDS_HEADER_BYTES)
    if len(head) < _SDS_HEADER_BYTES or head[0] != 0xF0 or head[3] != 1:
        return Findings()
    bytes_each = -(-head[6] // 7)
    if not 1 <= bytes_each <= 4:
        return Findings()
    count = head[10] | head[11] << 7 | head[12] << 14
    num_packets = -(-count * bytes_each // 120)
    total = num_packets * _SDS_PACKET_BYTES
    file.seek(_SDS_HEADER_BYTES + total)
    if re.match(rb"\xf0\x7e[\x00-\x7f]\x02", file.read(4)):  # one more packet
        return Findings(
            f"damaged: its header counts {count} samples, and more follow; SDS counts "
            "up to 2097151: convert it to WAV"
        )
    return counted(_SDS_HEADER_BYTES, total, size) if count else Findings()


def examine_mat4(file: BinaryIO, size: int) -> Findings:
    """MATLAB 4: matrices, of which libsndfile takes the second for the sound."""
    position, start, num_bytes = 0, 0, 0
    for _ in range(2):
        file.seek(position)
        head = file.read(20)
        order = ">" if head[:1] == b"\0" and head[:4] != bytes(4) else "<"
        if len(head) < 20:
            return Findings()
        kind, rows, columns, is_complex, name = struct.unpack(f"{order}5I", head)
        precision = kind // 10 % 10
        if precision >= len(_MAT4_BYTES):
            return Findings()
        start = position + 20 + name
        num_bytes = rows * columns * _MAT4_BYTES[precision] * (1 + bool(is_complex))
        position = start + num_bytes
    return counted(start, num_bytes, size)


def examine_mat5(file: BinaryIO, size: int) -> Findings:
    """MATLAB 5: elements, of which libsndfile takes the second for the sound."""
    head = file.read(128)
    order = ">" if head[126:] == b"MI" else "<"
    position = inner = 128
    for _ in range(2):
        file.seek(position)
        tag = file.read(8)
        if len(tag) < 8:
            return Findings()
        kind, length = struct.unpack(f"{order}2I", tag)
        if kind != _MAT5_MATRIX:
            return Findings()
        inner, position = position + 8, position + 8 + -(-length // 8) * 8
    for _ in range(3):  # flags, dimensions and name lie before the values
        file.seek(inner)
        tag = file.read(8)
        if len(tag) < 8:
            return Findings()
        kind, length = struct.unpack(f"{order}2I", tag)
        inner += 8 if kind >> 16 else 8 + -(-length // 8) * 8  # a short one is its tag
    file.seek(inner)
    tag = file.read(8)
    if len(tag) < 8:
        return Findings()
    kind, length = struct.unpack(f"{order}2I", tag)
    return Findings() if kind >> 16 else counted(inner + 8, length, size)
