"""Containers of libsndfile alone: what follows their samples is not their sound."""

import numpy as np
import pytest
import soundfile

from cola_msa.audio import decode as decode_lib
from cola_msa.audio import errors
from tests.cola_msa.audio import test_containers
from tests.helpers import trees

# Format, subtype, channels.
COUNTED = [
    ("W64", "PCM_16", 2),
    ("W64", "PCM_U8", 1),
    ("W64", "FLOAT", 2),
    ("W64", "IMA_ADPCM", 1),
    ("RF64", "PCM_24", 2),
    ("AU", "ULAW", 1),
    ("AU", "G721_32", 1),
    ("AU", "G723_24", 1),
    ("AU", "G723_40", 1),
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
    ("WVE", "ALAW", 1),
    ("MPC2K", "PCM_16", 2),
    ("SDS", "PCM_16", 1),
]
UNCOUNTED = [
    ("IRCAM", "PCM_16", 2),
    ("PAF", "PCM_16", 1),
    ("PVF", "PCM_S8", 2),
    ("XI", "DPCM_16", 1),
]
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


# Of an odd number of samples, where bytes are what is odd then.
JOINED = [
    ("SVX", "PCM_16"),
    ("NIST", "PCM_16"),
    ("AVR", "PCM_16"),
    ("MAT4", "PCM_16"),
    ("MAT4", "DOUBLE"),
    ("MAT5", "PCM_16"),
    ("MPC2K", "PCM_16"),
    ("SDS", "PCM_16"),
    ("SDS", "PCM_24"),
    ("WVE", "ALAW"),
    ("CAF", "PCM_S8"),
    ("CAF", "PCM_24"),
    ("CAF", "ULAW"),
    ("CAF", "ALAW"),
    ("CAF", "ALAC_24"),
    ("AU", "G721_32"),
    ("VOC", "ULAW"),
    ("WAV", "PCM_U8"),
]


@pytest.mark.parametrize(("file_format", "subtype"), JOINED)
@pytest.mark.parametrize("between", [b"", bytes(1), bytes(5000), TAGS[0]])
def test_what_was_joined_is_read_whole(tmp_path, file_format, subtype, between):
    path = tmp_path / "a"
    one, two, three = (
        content_of(path, file_format, subtype, 1, number / test_containers.RATE)
        for number in (12001, 12002, 12003)
    )
    expected = np.concatenate([decode(path, part) for part in (one, two, three)], 1)
    content = between.join((one, two, three))
    np.testing.assert_array_equal(decode(path, content), expected)
    with pytest.raises(errors.TruncatedError):
        decode(path, content[:-400])


@pytest.mark.parametrize("file_format", ["MAT4", "MPC2K", "SDS"])
def test_joined_files_of_other_rates_are_refused(tmp_path, file_format):
    options = {"format": file_format, "subtype": "PCM_16", "channels": 1}
    content = test_containers.write(tmp_path / "a", 0.3, **options)
    other = test_containers.write(tmp_path / "b", 0.3, rate=16000, **options)
    with pytest.raises(errors.UnreadableError, match="number 2 has 1 .*16000 Hz"):
        decode(tmp_path / "c", content + other)


def test_a_caf_with_a_title_after_odd_samples_is_joined(tmp_path):
    path = tmp_path / "a.caf"
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_24") as file:
        file.write(trees.chirp(0.5001, 16000)[:8001])
        file.title = "after the samples"
    content = path.read_bytes()
    assert content.rfind(b"info") > 3 * 8001
    expected = decode(path, content)
    assert expected.shape == (1, 8001)
    found = decode(path, content + content)
    np.testing.assert_array_equal(found, np.concatenate([expected, expected], 1))


def test_a_matrix_after_the_sound_of_a_mat4_file_is_no_sound(tmp_path):
    path = tmp_path / "a.mat"
    content = content_of(path, "MAT4", "PCM_16", 1)
    matrix = content[:20] + b"other_rate\0" + content[31:39]
    expected = decode(path, content)
    np.testing.assert_array_equal(decode(path, content + matrix), expected)


@pytest.mark.parametrize("subtype", ["DPCM_8", "DPCM_16"])
def test_an_xi_that_says_how_long_it_is_is_held_to_it(tmp_path, subtype):
    path = tmp_path / "a.xi"
    content = content_of(path, "XI", subtype, 1)
    expected = decode(path, content)
    length = (len(content) - 338).to_bytes(4, "little")
    content = content[:298] + length + content[302:]
    for trailer in (b"", *TRAILERS):
        np.testing.assert_array_equal(decode(path, content + trailer), expected)
    found = decode(path, content + content)
    np.testing.assert_array_equal(found, np.concatenate([expected, expected], 1))
    with pytest.raises(errors.TruncatedError):
        decode(path, content[:-400])


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
@pytest.mark.parametrize("number", [12000, 12001])
@pytest.mark.parametrize("trailer", [b"\1", b"\t", b"\2\2", b"\3" * 5, b"\7" * 2000])
def test_what_follows_a_voc_is_no_block_that_is_cut(tmp_path, subtype, number, trailer):
    """libsndfile counts the zero that ends the file as a sample of one channel."""
    path = tmp_path / "a.voc"
    seconds = number / test_containers.RATE
    content = content_of(path, "VOC", subtype, 1, seconds)
    expected = decode(path, content)
    np.testing.assert_array_equal(decode(path, content + trailer), expected)


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW"])
def test_a_voc_of_more_than_its_length_can_say_is_read_whole(tmp_path, subtype):
    path = tmp_path / "a.voc"
    samples = np.full(17_000_000, 0.25, np.float32)
    soundfile.write(path, samples, 48000, format="VOC", subtype=subtype)
    with decode_lib.AudioReader(path) as reader:
        found = sum(block.shape[1] for block in reader.blocks())
    assert found - len(samples) in (0, 1)  # the zero at the end of mu-law


def test_a_voc_whose_length_libsndfile_does_not_see_is_refused(tmp_path):
    path = tmp_path / "a.voc"
    samples = np.full(17_000_000, 0.25, np.float32)
    soundfile.write(path, samples, 48000, format="VOC", subtype="PCM_U8")
    with pytest.raises(errors.UnreadableError, match="more samples than its block"):
        decode_lib.decode(path)


def test_an_sds_of_more_than_it_can_count_is_refused(tmp_path):
    path = tmp_path / "a.sds"
    samples = np.full((1 << 21) + 5000, 0.25, np.float32)
    soundfile.write(path, samples, 16000, format="SDS", subtype="PCM_16")
    with pytest.raises(errors.UnreadableError, match="counts 5000 samples, and more"):
        decode_lib.decode(path)


def test_a_voc_that_is_cut_in_its_second_block_is_found(tmp_path):
    content = content_of(tmp_path / "a.voc", "VOC", "ULAW", 1).removesuffix(b"\0")
    length = int.from_bytes(content[27:30], "little") - 1
    content = content[:27] + length.to_bytes(3, "little") + content[30:]
    assert content[-1]  # a zero could be the file's end
    more = content + voc_block(2, content[42:4042]) + b"\0"
    assert decode(tmp_path / "b.voc", more).size
    with pytest.raises(errors.TruncatedError):
        decode(tmp_path / "b.voc", more[:-400])


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
