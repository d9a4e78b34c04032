"""Containers of libsndfile alone: what follows their samples is not their sound."""

import numpy as np
import pytest

from cola_msa.audio import decode as decode_lib
from cola_msa.audio import errors
from tests.cola_msa.audio import test_containers

# Format, subtype, channels.
COUNTED = [
    ("W64", "PCM_16", 2),
    ("W64", "PCM_U8", 1),
    ("W64", "FLOAT", 2),
    ("W64", "IMA_ADPCM", 1),
    ("RF64", "PCM_24", 2),
    ("AU", "ULAW", 1),
    ("AIFF", "PCM_16", 2),
    ("CAF", "PCM_16", 2),
    ("CAF", "ALAC_16", 2),
    ("NIST", "PCM_16", 2),
    ("NIST", "ULAW", 1),
    ("SVX", "PCM_16", 1),
    ("SVX", "PCM_S8", 1),
    ("VOC", "PCM_16", 2),
    ("VOC", "PCM_U8", 1),
    ("VOC", "ULAW", 1),
    ("MAT4", "PCM_16", 2),
    ("MAT5", "PCM_16", 1),
    ("MAT5", "FLOAT", 2),
    ("AVR", "PCM_16", 2),
    ("MPC2K", "PCM_16", 2),
    ("SDS", "PCM_16", 1),
]
UNCOUNTED = [("IRCAM", "PCM_16", 2), ("PAF", "PCM_16", 1), ("PVF", "PCM_S8", 2)]
TAGS = [
    test_containers.id3v1(),
    test_containers.ape(),
    test_containers.ape() + test_containers.id3v1(),
]
TRAILERS = [
    *TAGS,
    test_containers.id3v2(False),
    bytes(1),
    bytes(5000),
    b"x" * 501,
    b"LIST\x10\0\0\0INFOICMT\4\0\0\0abcd",
]
W64_NAME = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


def content_of(path, file_format, subtype, channels, seconds=0.3):
    options = {"format": file_format, "subtype": subtype, "channels": channels}
    return test_containers.write(path, seconds, **options)


def decode(path, content):
    path.write_bytes(content)
    return decode_lib.decode(path).samples


@pytest.mark.parametrize(("file_format", "subtype", "channels"), COUNTED)
def test_what_follows_the_samples_is_none_of_them(
    tmp_path, file_format, subtype, channels
):
    path = tmp_path / "a"
    content = content_of(path, file_format, subtype, channels)
    expected = decode(path, content)
    for trailer in TRAILERS:
        np.testing.assert_array_equal(decode(path, content + trailer), expected)


@pytest.mark.parametrize(("file_format", "subtype", "channels"), UNCOUNTED)
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_no_sound_where_nothing_counts_the_samples(
    tmp_path, file_format, subtype, channels, tag
):
    path = tmp_path / "a"
    content = content_of(path, file_format, subtype, channels)
    expected = decode(path, content)
    np.testing.assert_array_equal(decode(path, content + tag), expected)


@pytest.mark.parametrize(("file_format", "subtype", "channels"), COUNTED)
@pytest.mark.parametrize("tag", [b"", test_containers.id3v1()])
def test_what_is_cut_is_found(tmp_path, file_format, subtype, channels, tag):
    path = tmp_path / "a"
    content = content_of(path, file_format, subtype, channels)
    with pytest.raises(errors.TruncatedError):
        decode(path, content[:-400] + tag)


@pytest.mark.parametrize("suffix", ["svx", "nist", "avr", "mat5"])
def test_what_was_joined_is_read_whole(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    one, two = (
        content_of(path, suffix.upper(), "PCM_16", 1, seconds) for seconds in (0.3, 0.5)
    )
    expected = np.concatenate([decode(path, one), decode(path, two)], 1)
    np.testing.assert_array_equal(decode(path, one + two), expected)


def test_chunks_after_the_samples_of_a_w64_are_no_sound(tmp_path):
    content = content_of(tmp_path / "a.w64", "W64", "PCM_16", 2)
    expected = decode(tmp_path / "a.w64", content)
    chunk = b"levl" + W64_NAME + (24 + 800).to_bytes(8, "little") + b"\x7f" * 800
    whole = content[:16] + (len(content + chunk)).to_bytes(8, "little") + content[24:]
    found = decode(tmp_path / "b.w64", whole + chunk)
    np.testing.assert_array_equal(found, expected)


def test_a_w64_with_two_chunks_of_samples_is_damaged(tmp_path):
    content = content_of(tmp_path / "a.w64", "W64", "PCM_16", 2)
    chunk = b"data" + W64_NAME + (24 + 800).to_bytes(8, "little") + bytes(800)
    whole = content[:16] + (len(content + chunk)).to_bytes(8, "little") + content[24:]
    with pytest.raises(errors.UnreadableError, match="two chunks of samples"):
        decode(tmp_path / "b.w64", whole + chunk)


@pytest.mark.parametrize(("file_format", "name"), [("SVX", b"BODY"), ("AIFF", b"SSND")])
def test_two_chunks_of_samples_are_damage(tmp_path, file_format, name):
    content = content_of(tmp_path / "a", file_format, "PCM_16", 1)
    content = b"FORM" + (len(content) - 8).to_bytes(4, "big") + content[8:]
    chunk = name + (800).to_bytes(4, "big") + bytes(800)
    whole = b"FORM" + (len(content + chunk) - 8).to_bytes(4, "big") + content[8:]
    assert decode(tmp_path / "b", content).size
    with pytest.raises(errors.UnreadableError, match="two chunks of samples"):
        decode(tmp_path / "b", whole + chunk)


def test_a_name_chunk_after_the_samples_of_an_svx_is_no_sound(tmp_path):
    content = content_of(tmp_path / "a.svx", "SVX", "PCM_16", 1)
    expected = decode(tmp_path / "a.svx", content)
    chunk = b"ANNO" + (800).to_bytes(4, "big") + b"a" * 800
    whole = b"FORM" + (len(content + chunk) - 8).to_bytes(4, "big") + content[8:]
    np.testing.assert_array_equal(decode(tmp_path / "b.svx", whole + chunk), expected)


def test_a_matrix_after_the_sound_of_a_mat_file_is_no_sound(tmp_path):
    """MATLAB pads a matrix to 8 bytes; what is saved after the sound follows it."""
    path = tmp_path / "a.mat"
    content = content_of(path, "MAT5", "PCM_16", 1, 0.3 + 1 / test_containers.RATE)
    expected = decode(path, content)
    first = 128 + 8 + int.from_bytes(content[132:136], "little")
    body = content[first + 8 :]
    assert len(body) % 8  # that there is something to pad
    padded = content + bytes(-len(body) % 8) + content[128:first]
    np.testing.assert_array_equal(decode(path, padded), expected)


def voc_block(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + len(content).to_bytes(3, "little") + content


@pytest.mark.parametrize("ends", [b"\0", b"", b"\0" + test_containers.id3v1()])
def test_blocks_of_a_voc_are_what_they_say(tmp_path, ends):
    content = content_of(tmp_path / "a.voc", "VOC", "PCM_16", 1)
    expected = decode(tmp_path / "a.voc", content)
    content = content.removesuffix(b"\0")
    text, samples = voc_block(5, b"a remark\0"), content[26 + 16 :]
    more = content + text + voc_block(2, samples[:4000]) + text + ends
    found = decode(tmp_path / "b.voc", more)
    again = np.concatenate([expected, expected[:, :2000]], 1)
    np.testing.assert_array_equal(found, again)
    silence = voc_block(3, b"\x10\x27\xa5")
    with pytest.raises(errors.UnreadableError, match="block of type 3"):
        decode(tmp_path / "c.voc", content + silence + ends)
