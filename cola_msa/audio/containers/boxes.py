"""Containers of boxes that each say how long they are, through which ffmpeg decodes.

Every function takes an open file that begins with the container, and its size.
"""

import struct
from typing import BinaryIO

from cola_msa.audio.containers.findings import (
    MAX_TRAILING_BYTES,
    Findings,
    Part,
    is_unknown,
)

_BOXES = frozenset(
    b"ftyp moov mdat free skip wide uuid moof mfra sidx ssix styp prft emsg pnot udta "
    b"meta pdin".split()
)
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_TYPES = (
    _ASF_DATA,
    bytes.fromhex("90080033b1e5cf1189f400a0c90349cb"),  # simple index
    bytes.fromhex("d329e2d6da35d111903400a0c90349be"),  # index
    bytes.fromhex("f803b1fead12644c840f2a1d2f7ad48c"),  # media object index
    bytes.fromhex("d03fb73c4a0c0348953dedf7b6228f0c"),  # time code index
)
_MAX_HEADER_BYTES = 1 << 24
_VOC_LENGTHS = 1 << 24
# 8 bit, one channel, A-law or mu-law.
_VOC_LOG_MONO = (b"\x08\x01\x06\0", b"\x08\x01\x07\0")


def _cut(what: str, promised: int, size: int) -> Findings:
    return Findings(
        f"truncated: its {what} ends at byte {promised}, but it has {size}",
    )


def examine_mpeg4(file: BinaryIO, size: int) -> Findings:
    """MPEG-4 and QuickTime; where fragments carry the sound, nothing sums it up."""
    position, is_fragmented = 0, False
    seen: set[bytes] = set()
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, name = struct.unpack(">I4s", head[:8])
        if name == b"ftyp" and seen & {b"moov", b"mdat"}:
            break  # another file
        if name not in _BOXES:
            break
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        elif length == 0:
            length = size - position
        if length < 8:
            break
        if position + length > size:
            return _cut(f"box {name.decode()}", position + length, size)
        seen.add(name)
        is_fragmented |= name == b"moof"
        position += length
    return Findings(is_unbounded=is_fragmented, end=position)


def examine_flv(file: BinaryIO, size: int) -> Findings:
    """Flash video: tags, each with its length before and after it."""
    position = int.from_bytes(file.read(9)[5:9], "big") + 4
    while position + 11 <= size:
        file.seek(position)
        head = file.read(11)
        if head[0] & 0x1F not in (8, 9, 18):
            return Findings(end=position)
        position += 11 + int.from_bytes(head[1:4], "big")
        if position > size:
            return _cut("last tag", position, size)
        position += 4
    if size < position < size + 4:  # some writers leave the last length out
        return _cut("last tag", position, size)
    file.seek(position)
    rest = file.read(1)
    if rest and rest[0] & 0x1F in (8, 9, 18):
        return _cut("last tag", position + 11, size)
    return Findings(end=min(position, size))


def examine_asf(file: BinaryIO, size: int) -> Findings:
    """Windows Media: objects; a broadcast's lengths are open."""
    length = int.from_bytes(file.read(24)[16:], "little")
    if not 30 <= length <= _MAX_HEADER_BYTES:
        return Findings()
    header = file.read(length - 24)
    start = header.find(_ASF_FILE)
    flags = header[start + 88 : start + 92] if start >= 0 else b""
    is_open = bool(flags and flags[0] & 1)
    position = length
    while position + 24 <= size:
        file.seek(position)
        name = file.read(16)
        length = int.from_bytes(file.read(8), "little")
        if name not in _ASF_TYPES:
            break
        if name == _ASF_DATA and (is_open or length <= 50 or is_unknown(length, 64)):
            return Findings(is_unbounded=True)
        if position + length > size:
            return _cut("data", position + length, size)
        if length < 24:
            break
        position += length
    return Findings(end=position)


def examine_avi(file: BinaryIO, size: int) -> Findings:
    """AVI: chunks of RIFF within a list; a file beyond 1 GiB has several RIFFs."""
    position, is_open = 0, False
    while position + 12 <= size:
        file.seek(position)
        name, length, kind = struct.unpack("<4sI4s", file.read(12))
        if name != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            break
        if position and kind == b"AVI ":
            break  # another file
        is_open = is_unknown(length)
        end = size if is_open else position + 8 + length + length % 2
        if end > size + 8:  # some writers count the chunk's own head
            return _cut("RIFF chunk", end, size)
        found = _examine_avi_chunks(file, position + 12, min(end, size))
        # Where a length is known, that is checked, and chunks may be sloppy.
        if found.reason and (is_open or found.reason.startswith("damaged")):
            return found
        position = end
    return Findings(is_unbounded=is_open, end=min(position, size))


def _examine_avi_chunks(file: BinaryIO, position: int, end: int) -> Findings:
    """The frames of an AVI follow each other as chunks; none of them is zeros."""
    while position + 12 <= end:
        file.seek(position)
        name, length, kind = struct.unpack("<4sI4s", file.read(12))
        if name == bytes(4):
            return Findings(f"damaged: zeros at byte {position}, where a chunk begins")
        is_inside = name == b"LIST" and (kind == b"movi" or is_unknown(length))
        position += 12 if is_inside else 8 + length + length % 2
    if position > end + 1:
        return _cut("last chunk", position, end)
    return _cut("last chunk", position + 8, end) if end - position > 1 else Findings()


def examine_caf(file: BinaryIO, size: int) -> Findings:
    """Core Audio: chunks; the last one's length may be open."""
    position, has_sound = 8, False
    while position + 12 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sq", file.read(12))
        if has_sound and name == b"data":  # the decoder reads the last alone
            return Findings("damaged: it has two chunks of samples, not one")
        is_tag = name.startswith(b"TAG")  # of ID3, which chunks' names do not
        if name == b"caff" or is_tag or not all(32 <= byte < 127 for byte in name):
            break
        if length < 0:
            return Findings(is_unbounded=True)
        end = position + 12 + length
        # After the samples only their table of packets is missed.
        if end > size and has_sound and name != b"pakt":
            break
        if end > size:
            return _cut(f"chunk {name.decode()}", end, size)
        has_sound |= name == b"data"
        file.seek(end)
        is_padded = length % 2 and file.read(1) == b"\0"  # as libsndfile does
        position = end + bool(is_padded)
    return Findings(end=position)


def examine_voc(file: BinaryIO, size: int) -> Findings:
    """Creative Voice: blocks, of which the last is a single zero.

    libsndfile takes all that follows the head of a block of type 9 for its samples. In
    mu-law and A-law of one channel it counts the last zero as one of them.
    """
    file.seek(20)
    first = position = int.from_bytes(file.read(2), "little")
    parts: list[Part] = []
    voc_head = wide_head = b""
    may_have_ended = False
    while position < size:
        file.seek(position)
        head = file.read(4)
        kind, length = head[0], int.from_bytes(head[1:], "little")
        if kind == 0:
            position += 1
            if not parts and position < size:
                parts.append(Part(b"", 0, position))
            return Findings(parts=tuple(parts), end=position)
        if kind > 9:
            break
        end = position + 4 + length
        # libsndfile writes the lowest 24 bits of a longer block's length.
        is_wrapped = size - end > 1 and (size - end) % _VOC_LENGTHS in (0, 1)
        if position == first and is_wrapped and kind == 9:  # which it reads to the end
            return Findings()
        if position == first and is_wrapped and kind == 1:
            return Findings(
                "damaged: it has more samples than its block's length can say: convert "
                "it to WAV"
            )
        if end > size or len(head) < 4:
            if may_have_ended:
                break
            return _cut("last block", end, size)
        may_have_ended = False
        if kind == 9:
            file.seek(0)
            voc_head = file.read(first)
            file.seek(position + 4)
            wide_head = file.read(12)
            file.seek(end - 1)
            may_have_ended = wide_head[4:8] in _VOC_LOG_MONO and not file.read(1)[0]
            parts.append(Part(voc_head, position, end))
        elif wide_head and kind == 2:
            one = b"\x09" + (length + 12).to_bytes(3, "little") + wide_head
            parts.append(Part(voc_head + one, position + 4, end))
        elif wide_head and kind in (1, 3):
            return Findings(
                f"has a block of type {kind} after one of type 9, which is not read: "
                "convert it to WAV"
            )
        position = end
    return Findings(parts=tuple(parts), end=position if parts else None)


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


def examine_matroska(file: BinaryIO, size: int) -> Findings:
    """Its one segment says how many bytes it has, whatever streams are in it."""
    head = file.read(4096)
    length, num_bytes, no_number = _vint(head, 4)
    position = 4 + num_bytes + length
    if no_number or head[position : position + 4] != b"\x18\x53\x80\x67":
        return Findings()
    length, num_bytes, no_number = _vint(head, position + 4)
    start = position + 4 + num_bytes
    if no_number:
        return Findings(is_unbounded=True)
    if num_bytes and start + length > size:
        return _cut("segment", start + length, size)
    return Findings()


def _is_start_code(head: bytes) -> bool:
    return head[:3] == b"\0\0\1" and len(head) > 3 and head[3] >= 0xB9


def examine_program_stream(file: BinaryIO, size: int) -> Findings:
    """MPEG program stream (.mpg, .vob): packs and packets, zeros between them."""
    position = 0
    while position + 14 <= size:
        file.seek(position)
        head = file.read(14)
        if not _is_start_code(head):
            break
        if head[3] == 0xB9:
            position += 4
        elif head[3] == 0xBA:
            position += 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
        else:
            position += 6 + int.from_bytes(head[4:6], "big")
        if position > size:
            return _cut("last packet", position, size)
    return _zeros_at_end(file, size)


def examine_transport_stream(file: BinaryIO, size: int) -> Findings:
    """MPEG transport stream: packets of 188 bytes, or of 192 with a time in front."""
    head = file.read(5)
    packet, offset = (188, 0) if head[0] == 0x47 else (192, 4)
    number, rest = divmod(size, packet)
    if not rest or not number:
        return _zeros_at_end(file, size)
    for position in ((number - 1) * packet, number * packet):
        file.seek(position + offset)
        sync = file.read(1)
        if sync and sync != b"\x47":  # shifted, or something else follows
            return _zeros_at_end(file, size)
    return Findings(f"truncated: its last packet has {rest} of {packet} bytes")


def examine_tta(file: BinaryIO, size: int) -> Findings:
    """True Audio: a table with the length of every frame."""
    head = file.read(22)
    if len(head) < 22:
        return Findings()
    rate_hz, num_samples = struct.unpack("<II", head[10:18])
    per_frame = 256 * rate_hz // 245
    if not per_frame:
        return Findings()
    count = -(-num_samples // per_frame)
    table = file.read(4 * count) if 4 * count <= size else b""
    if len(table) < 4 * count:
        return _cut("table", 26 + 4 * count, size)
    end = 26 + 4 * count + sum(struct.unpack(f"<{count}I", table))
    return _cut("last frame", end, size) if end > size else Findings(end=end)


def examine_real_media(file: BinaryIO, size: int) -> Findings:
    """RealMedia, of which only a filled-up end is told; nobody pads it."""
    return _zeros_at_end(file, size, 1024)


def _zeros_at_end(
    file: BinaryIO, size: int, num_bytes: int = MAX_TRAILING_BYTES
) -> Findings:
    """So many zeros are no packet of sound, but what was never written."""
    file.seek(max(0, size - num_bytes))
    data = file.read(num_bytes)
    if len(data) == num_bytes and not any(data):
        return Findings("damaged: it ends in zeros, where its sound should be")
    return Findings()
