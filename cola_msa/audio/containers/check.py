"""Whether an audio file is whole, from its container's own bookkeeping.

libsndfile reads a truncated WAV, MP3 or Ogg without an error, only shorter, skips
what is damaged in the middle of an MP3 or Ogg, and ends with the first of several files
that were joined to one. What a stream's writer could not know (a length, where the
output was a pipe) is no promise.
"""

import dataclasses
import functools
import io
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

from cola_msa.audio.containers import boxes, frames, mp3, plain
from cola_msa.audio.containers.findings import (
    MAX_TRAILING_BYTES,
    WINDOW_BYTES,
    Findings,
    Part,
    View,
    content_end,
    cut_audio,
    id3v2_end,
    is_unknown,
    is_zeros,
    skip_tags,
)

_RIFF = (b"RIFF", b"RIFX", b"RF64")
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_HEAD_BYTES = 1 << 14
_MAX_ZEROS_OF_MAGIC = 4  # that a container begins with
# libsndfile's names of what is the same container here.
_SAME = {"WAVEX": "WAV", "RF64": "WAV"}


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
    with open(path, "rb") as file:
        size = path.stat().st_size
        start = 0 if file_format else id3v2_end(file, 0)
        name = _SAME.get(file_format, file_format) or guess(file, start)
        if name == "MP3":
            found = mp3.examine(file, size, first or None)
            if first and not found.parts and not found.reason:
                return dataclasses.replace(found, parts=(Part(b"", first, size),))
            return found
        return _examine_links(file, start, size, name, not file_format)


def _examine_links(
    file: BinaryIO, start: int, size: int, name: str, is_trimmed: bool
) -> Findings:
    """Examines a file, and those of the same kind that were appended to it.

    Args:
        file: The file.
        start: Where the container begins.
        size: The file's bytes.
        name: The container.
        is_trimmed: Whether a decoder is to see no tag or padding after its end.
    """
    check = _CHECKS.get(name)
    if check is None:
        return Findings()
    parts: list[Part] = []
    num_links, is_unbounded, position = 0, False, start
    while True:
        left = size - position
        view: BinaryIO = file
        if position:
            view = io.BufferedReader(View(Part(b"", position, size), file))
        view.seek(0)
        found = check(view, left)
        if found.reason:
            return found
        num_links += 1
        is_unbounded |= found.is_unbounded
        end = left if found.end is None else min(found.end, left)
        following = _next_link(view, end, left, name) if end else None
        if following is None and end < left:
            rest, last = skip_tags(view, end), content_end(view, left)
            if not is_zeros(view, rest, last):
                end = left  # the decoder's to judge
            elif last - rest > MAX_TRAILING_BYTES and name in frames.NAMES:
                return Findings(f"damaged: its last {last - rest} bytes are zeros")
        parts += [
            Part(part.head, part.start + position, part.end + position)
            for part in found.parts
        ] or [Part(b"", position, position + end)]
        if following is None:
            break
        position += following
    if num_links == 1 and not found.parts:
        is_whole = parts == [Part(b"", 0, size)]
        if is_whole or not (is_trimmed or start):
            return dataclasses.replace(found, parts=())
    md5 = found.flac_md5 if num_links == 1 else None  # each part has its own
    return dataclasses.replace(
        found, parts=tuple(parts), is_unbounded=is_unbounded, flac_md5=md5
    )


def _next_link(file: BinaryIO, end: int, size: int, name: str) -> int | None:
    """Where the next file of a kind begins, after tags or some zeros; None if not."""
    start = skip_tags(file, end)
    if start >= size or _begins(file, start, name):
        return start if start < size else None
    if name in frames.NAMES:  # zeros between frames are damage: the decoder tells
        return None
    file.seek(start)
    data = file.read(WINDOW_BYTES)
    first = start + len(data) - len(data.lstrip(b"\0"))
    places = range(max(start, first - _MAX_ZEROS_OF_MAGIC), first + 1)
    return next((place for place in places if _begins(file, place, name)), None)


def _begins(file: BinaryIO, position: int, name: str) -> bool:
    """Whether a file of a kind begins at a place after another one."""
    if guess(file, position) == name:
        return True
    file.seek(0)
    first = file.read(_HEAD_BYTES)
    file.seek(position)
    return plain.begins_again(name, first, file.read(_HEAD_BYTES))


def guess(file: BinaryIO, start: int = 0) -> str:
    """The container that begins at a place, by its first bytes; empty if unknown."""
    file.seek(start)
    head = file.read(_HEAD_BYTES)
    kinds = {b"WAVE": "WAV", b"AVI ": "AVI", b"AIFF": "AIFF", b"AIFC": "AIFF"}
    kinds |= {b"8SVX": "SVX", b"16SV": "SVX"}
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return kinds.get(head[8:12], "")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"styp"):
        return "MPEG4"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    for packet, offset in ((188, 0), (192, 4)):
        syncs = head[offset : 5 * packet : packet]
        if len(syncs) == 5 and syncs == 5 * b"\x47":
            return "TS"
    return frames.guess(head)


def _is_chunks(file: BinaryIO, position: int, size: int, order: str) -> bool:
    """Whether chunks with names follow one another from `position` to the end."""
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if not all(32 <= byte < 127 for byte in name):
            return False
        position += 8 + length + length % 2
    return size <= position <= size + 1


def _has_chunk(
    file: BinaryIO, position: int, size: int, order: str, wanted: bytes
) -> bool:
    """Whether a chunk of a name is among those that follow `position`."""
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == wanted:
            return True
        if name in _RIFF or not all(32 <= byte < 127 for byte in name):
            return False  # another file, or what is no chunk
        position += 8 + length + length % 2
    return False


def _examine_wav(file: BinaryIO, size: int) -> Findings:
    magic = file.read(4)
    if magic not in _RIFF:
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
    if not is_unknown(length, bits):
        if length > available:
            return cut_audio(length, available)
        end = start + length + length % 2
        if _has_chunk(file, end, size, order, b"data"):  # the decoder reads the last
            return Findings("damaged: it has two chunks of samples, not one")
        file.seek(4)
        whole = 8 + int.from_bytes(file.read(4), "big" if order == ">" else "little")
        return Findings(end=max(end, whole) if whole <= size else end)
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
    if length > 24 and not is_unknown(length, 64):
        file.seek(16)
        whole = int.from_bytes(file.read(8), "little")
        if _has_w64_data(file, position + -(-length // 8) * 8, min(whole, size)):
            return Findings("damaged: it has two chunks of samples, not one")
        return plain.counted(start, length - 24, size, whole if whole <= size else None)
    if not available:
        return Findings()
    file.seek(0)
    head = file.read(start - 8) + (available + 24).to_bytes(8, "little")
    return Findings(parts=(Part(head, start, size),), is_unbounded=True)


def _has_w64_data(file: BinaryIO, position: int, end: int) -> bool:
    """Whether a chunk of samples is among those from `position` to `end`."""
    while position + 24 <= end:
        file.seek(position)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name == _W64_DATA:
            return True
        position += max(24, -(-length // 8) * 8)
    return False


def _examine_aiff(file: BinaryIO, size: int) -> Findings:
    if file.read(4) != b"FORM":
        return Findings()
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sI", file.read(8))
        start = position + 8
        if name == b"SSND":
            is_open = length <= 8 or is_unknown(length)
            if not is_open and length > size - start:
                return cut_audio(length - 8, max(0, size - start - 8))
            file.seek(4)
            whole = 8 + int.from_bytes(file.read(4), "big")
            is_ended = start + length <= whole <= size and not is_open
            after = start + length + length % 2
            if is_ended and _has_chunk(file, after, whole, ">", b"SSND"):
                return Findings("damaged: it has two chunks of samples, not one")
            return Findings(is_unbounded=is_open, end=whole if is_ended else None)
        position = start + length + length % 2
    return Findings()


def _examine_au(file: BinaryIO, size: int) -> Findings:
    head = file.read(12)
    if head[:4] not in (b".snd", b"dns.") or len(head) < 12:
        return Findings()
    order = ">" if head[:4] == b".snd" else "<"
    start, length = struct.unpack(f"{order}II", head[4:])
    if is_unknown(length):
        # libsndfile knows one of the numbers that stand for none.
        file.seek(0)
        whole = file.read(8) + b"\xff\xff\xff\xff"
        return Findings(parts=(Part(whole, 12, size),), is_unbounded=True)
    return plain.counted(start, length, size)


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC: zlib's polynomial with all bits the other way round."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _examine_ogg(file: BinaryIO, size: int) -> Findings:
    position, has_ended, is_first_of_link = 0, False, True
    links: list[int] = []
    pages: dict[bytes, tuple[int, bool]] = {}  # of a stream: its last, if with sound
    while position < size:
        file.seek(position)
        head = file.read(27)
        if not b"OggS".startswith(head[:4]):
            if not links:  # not at the start: that is no Ogg, or a tag before it
                return Findings()
            # Padding follows a stream that has ended; else zeros stand for what is
            # missing.
            rest = id3v2_end(file, position)
            end = content_end(file, size)
            is_tag = end <= position or rest >= end
            if is_tag or (has_ended and is_zeros(file, rest, end)):
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
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        last, is_sound = pages.get(stream, (number, False))
        # A recorded broadcast begins somewhere: a gap after its headers is none.
        if is_sound and not is_begin and number != (last + 1) % (1 << 32):
            return Findings(
                f"damaged: Ogg page {number} at byte {position} follows page {last}"
            )
        pages[stream] = (number, head[6:14] not in (bytes(8), b"\xff" * 8))
        has_ended = bool(head[5] & 4)
        position += num_bytes
    if len(links) < 2:
        return Findings()
    ends = [*links[1:], size]
    parts = (Part(b"", *ends) for ends in zip(links, ends, strict=True))
    return Findings(parts=tuple(parts))


def _examine_flac(file: BinaryIO, size: int) -> Findings:
    start = id3v2_end(file, 0)
    file.seek(start)
    head = file.read(42)
    if head[:4] != b"fLaC" or len(head) < 42 or head[4] & 0x7F != 0:
        return Findings()
    bits = int.from_bytes(head[18:26], "big")  # rate 20, channels 3, bits 5, frames 36
    num_frames = bits & (1 << 36) - 1
    md5 = head[26:42]
    following = _find_flac(file, start + 42, size)
    end = content_end(file, size if following is None else following)
    # A decoder that passes over a tag itself does not see where the file was cut.
    is_given = (start or end < size) and not num_frames
    return Findings(
        num_frames=num_frames or None,
        flac_md5=md5 if any(md5) else None,
        flac_bits=(bits >> 36 & 31) + 1,
        parts=(Part(b"", start, end),) if is_given else (),
        is_unbounded=num_frames == 0,
        end=end,
    )


def _find_flac(file: BinaryIO, position: int, size: int) -> int | None:
    """Where another FLAC begins, by its mark and its first block's head."""
    mark = b"fLaC\0\0\0\x22"
    while position < size:
        file.seek(position)
        data = file.read(WINDOW_BYTES)
        if (start := data.find(mark)) >= 0:
            return position + start
        if position + len(data) >= size:
            return None
        position += len(data) - len(mark) + 1
    return None


_MAGIC = (
    (b"riff", "W64"),
    (b".snd", "AU"),
    (b"dns.", "AU"),
    (b"OggS", "OGG"),
    (b"fLaC", "FLAC"),
    (b"\x1aE\xdf\xa3", "MATROSKA"),
    (b"FLV\1", "FLV"),
    (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "ASF"),
    (b"caff", "CAF"),
    (b"Creative Voice File\x1a", "VOC"),
    (b"TTA1", "TTA"),
    (b"\0\0\1\xba", "PS"),
    (b".RMF", "RM"),
    (b"NIST_1A\n", "NIST"),
    (b"2BIT", "AVR"),
    (b"ALawSoundFile**\0", "WVE"),
    (b"Extended Instrument: ", "XI"),
    (b"MATLAB 5.0 MAT-file", "MAT5"),
)
_CHECKS: dict[str, Callable[[BinaryIO, int], Findings]] = {
    "WAV": _examine_wav,
    "W64": _examine_w64,
    "AIFF": _examine_aiff,
    "AU": _examine_au,
    "OGG": _examine_ogg,
    "FLAC": _examine_flac,
    "MATROSKA": boxes.examine_matroska,
    "MPEG4": boxes.examine_mpeg4,
    "FLV": boxes.examine_flv,
    "ASF": boxes.examine_asf,
    "AVI": boxes.examine_avi,
    "CAF": boxes.examine_caf,
    "VOC": boxes.examine_voc,
    "TTA": boxes.examine_tta,
    "PS": boxes.examine_program_stream,
    "TS": boxes.examine_transport_stream,
    "RM": boxes.examine_real_media,
    "SVX": plain.examine_svx,
    "NIST": plain.examine_nist,
    "AVR": plain.examine_avr,
    "WVE": plain.examine_wve,
    "XI": plain.examine_xi,
    "MPC2K": plain.examine_mpc2k,
    "SDS": plain.examine_sds,
    "MAT4": plain.examine_mat4,
    "MAT5": plain.examine_mat5,
    "IRCAM": plain.examine_tagged,
    "PAF": plain.examine_tagged,
    "PVF": plain.examine_tagged,
}
for _name in frames.NAMES:
    _CHECKS[_name] = functools.partial(frames.examine, name=_name)
