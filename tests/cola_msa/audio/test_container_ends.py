"""Files joined, tagged, cut, filled with zeros or from a pipe, in all containers."""

import os
import pathlib
import signal
import subprocess

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from cola_msa.audio import decode as decode_lib
from cola_msa.audio import errors
from cola_msa.audio.containers import check, findings
from tests.cola_msa.audio import test_containers
from tests.helpers import trees

RATE, SECONDS = 44100, 1.5
needs_ffmpeg = test_containers.needs_ffmpeg
# How ffmpeg is asked to write a container, by its suffix.
WAYS = {
    "m4a": ["-c:a", "aac"],
    "mov": ["-c:a", "pcm_s16le"],
    "flv": ["-c:a", "libmp3lame"],
    "wma": [],
    "avi": ["-c:a", "libmp3lame"],
    "wv": [],
    "tta": [],
    "caf": ["-c:a", "alac"],
    "oga": ["-c:a", "flac", "-f", "ogg"],
    "spx": ["-c:a", "libspeex", "-ar", "16000", "-ac", "1"],
    "mka": ["-c:a", "flac"],
    "ts": ["-c:a", "libmp3lame"],
    "mpg": ["-c:a", "mp2"],
    "ac3": [],
    "eac3": [],
    "aac": [],
    "dts": ["-c:a", "dca", "-strict", "-2"],
    "mlp": ["-c:a", "mlp", "-strict", "-2"],
    "mp2": [],
    "voc": [],
    "rm": ["-c:a", "ac3"],
}
PIPED = {"avi": "avi", "wma": "asf", "flv": "flv", "mp2": "mp2", "wv": "wv"}


@pytest.fixture(scope="session")
def encoded(tmp_path_factory):
    """Gives the bytes of a second and a half in a container, by suffix."""
    folder = tmp_path_factory.mktemp("encoded")
    trees.write_wav(
        folder / "a.wav", np.stack([trees.chirp(SECONDS, RATE)] * 2, 1), RATE
    )
    known: dict[str, bytes] = {}

    def give(suffix: str) -> bytes:
        if suffix not in known:
            path = folder / f"b.{suffix}"
            test_containers.run_ffmpeg("-i", folder / "a.wav", *WAYS[suffix], path)
            known[suffix] = path.read_bytes()
        return known[suffix]

    return give


def decode(folder: pathlib.Path, suffix: str, content: bytes) -> decode_lib.Audio:
    path = folder / f"c.{suffix}"
    path.write_bytes(content)
    return decode_lib.decode(path)


# Joined ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "au", "caf", "flac"])
@pytest.mark.parametrize("tag", [b"", test_containers.id3v1()])
def test_what_was_joined_is_read_whole(tmp_path, suffix, tag):
    parts = []
    for number, seconds in enumerate((1, 2, 1.5)):
        path = tmp_path / f"{number}.{suffix}"
        test_containers.write(path, seconds, format=suffix.upper())
        parts.append(path)
    expected = np.concatenate([decode_lib.decode(path).samples for path in parts], 1)
    content = tag.join(path.read_bytes() for path in parts)
    np.testing.assert_array_equal(decode(tmp_path, suffix, content).samples, expected)
    with pytest.raises(errors.AudioError, match="truncated|damaged"):
        decode(tmp_path, suffix, content[:-2000])


def test_joined_files_that_differ_are_refused(tmp_path):
    content = test_containers.write(tmp_path / "a.wav", 1)
    content += test_containers.write(tmp_path / "b.wav", 1, rate=22050)
    with pytest.raises(errors.UnreadableError, match="number 2 has 2 .*22050 Hz"):
        decode(tmp_path, "wav", content)


@needs_ffmpeg
@pytest.mark.parametrize(
    "suffix", "spx oga m4a flv wma avi wv tta caf mka ts ac3".split()
)
def test_ffmpeg_reads_what_was_joined_whole(tmp_path, encoded, suffix):
    one = decode(tmp_path, suffix, encoded(suffix)).samples
    two = decode(tmp_path, suffix, 2 * encoded(suffix)).samples
    # Some are one stream to the decoder, and it trims at the end alone.
    assert abs(two.shape[1] - 2 * one.shape[1]) <= 0.1 * RATE
    assert one.shape[1] >= SECONDS * 16000 - 1000
    if suffix in ("spx", "oga", "m4a", "tta"):
        np.testing.assert_array_equal(two, np.concatenate([one, one], 1))


@needs_ffmpeg
def test_chained_ogg_of_several_codecs_is_read_whole(tmp_path, encoded):
    content = encoded("oga")
    vorbis = test_containers.write(tmp_path / "a.ogg", 1)
    for joined in (content + vorbis, vorbis + content):
        assert decode(tmp_path, "ogg", joined).seconds == SECONDS + 1
    with pytest.raises(
        errors.UnreadableError, match="number 2 has 1 channels at 16000"
    ):
        decode(tmp_path, "ogg", content + encoded("spx"))


def test_without_ffmpeg_a_chain_that_needs_it_says_so(tmp_path, monkeypatch):
    page = b"OggS\0\2" + bytes(20) + b"\1\x08Speex   "
    crc = check._ogg_checksum(page).to_bytes(4, "little")
    page = page[:22] + crc + page[26:]
    last = b"OggS\0\4" + bytes(21)
    last = last[:22] + check._ogg_checksum(last).to_bytes(4, "little") + last[26:]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UnreadableError, match="install ffmpeg"):
        decode(tmp_path, "spx", 2 * (page + last))


# Around ------------------------------------------------------------------------------


@needs_ffmpeg
@pytest.mark.parametrize("suffix", "m4a flv wv tta caf eac3 mlp dts mp2".split())
@pytest.mark.parametrize(
    ("front", "end"),
    [
        (test_containers.id3v2(False), b""),
        (b"", test_containers.id3v1()),
        (b"", test_containers.ape() + test_containers.id3v1()),
        (b"", bytes(3000)),
    ],
)
def test_tags_and_padding_change_no_sample(tmp_path, encoded, suffix, front, end):
    expected = decode(tmp_path, suffix, encoded(suffix)).samples
    found = decode(tmp_path, suffix, front + encoded(suffix) + end).samples
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("end", [test_containers.id3v1(), bytes(3000), b"x" * 500])
def test_what_follows_a_flac_changes_no_sample(tmp_path, end):
    content = test_containers.write(tmp_path / "a.flac", 1)
    expected = decode_lib.decode(tmp_path / "a.flac").samples
    np.testing.assert_array_equal(
        decode(tmp_path, "flac", content + end).samples, expected
    )


# Cut and filled up -------------------------------------------------------------------


@needs_ffmpeg
@pytest.mark.parametrize(
    "suffix",
    "m4a mov flv wma avi wv tta caf oga spx mka ts mpg ac3 eac3 aac dts mlp mp2 "
    "voc".split(),
)
@pytest.mark.parametrize("share", [0.5, 0.93])
def test_cut_files_are_found(tmp_path, encoded, suffix, share):
    content = encoded(suffix)
    # Within a frame, not between two, of which nobody knows that more followed.
    with pytest.raises(errors.AudioError, match="truncated|damaged|not readable"):
        decode(tmp_path, suffix, content[: len(content) // 2 + 101])


@needs_ffmpeg
@pytest.mark.parametrize(
    "suffix", "m4a flv avi wv tta oga spx ts mpg ac3 dts mp2 rm".split()
)
def test_a_half_of_zeros_is_damage(tmp_path, encoded, suffix):
    content = encoded(suffix)
    half = len(content) // 2
    with pytest.raises(errors.AudioError, match="truncated|damaged|not readable"):
        decode(tmp_path, suffix, content[:half] + bytes(len(content) - half))


# Lengths that mean something else ----------------------------------------------------


@needs_ffmpeg
@pytest.mark.parametrize("suffix", PIPED)
def test_what_came_from_a_pipe_is_read_whole(tmp_path, encoded, suffix):
    expected = decode(tmp_path, suffix, encoded(suffix)).seconds
    command = ["ffmpeg", "-v", "error", "-i", f"c.{suffix}", "-c", "copy"]
    command += ["-f", PIPED[suffix], "-"]
    found = subprocess.run(command, capture_output=True, cwd=tmp_path, check=True)
    piped = decode(tmp_path, suffix, found.stdout)
    assert piped.seconds == pytest.approx(expected, abs=0.06)
    with pytest.raises(errors.AudioError, match="truncated|damaged"):
        decode(tmp_path, suffix, found.stdout[: len(found.stdout) // 2 + 7])


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a.avi", ["-c:a", "libmp3lame"]),
        ("a.m4a", []),
        ("a.m4a", ["-movflags", "frag_keyframe+empty_moov"]),
        ("a.wma", []),
        ("a.mka", []),
    ],
)
def test_delayed_sound_is_read_whole(tmp_path, encoded, name, more):
    (tmp_path / "a.wv").write_bytes(encoded("wv"))
    path = tmp_path / name
    delayed = ["-itsoffset", "2", "-i", tmp_path / "a.wv"]
    test_containers.run_ffmpeg(*delayed, *more, path)
    assert decode_lib.decode(path).seconds == pytest.approx(SECONDS, abs=0.1)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.avi", "a.flv"])
def test_mp3_within_a_video_is_no_mp3_file(tmp_path, encoded, name):
    """Its frames lie between pictures: what follows the first of them is no damage."""
    (tmp_path / "a.wv").write_bytes(encoded("wv"))
    picture = ["-f", "lavfi", "-i", "testsrc=d=1:s=64x64:r=5"]
    sound = ["-i", tmp_path / "a.wv", "-c:a", "libmp3lame"]
    test_containers.run_ffmpeg(*picture, *sound, tmp_path / name)
    found = decode_lib.decode(tmp_path / name)
    assert found.seconds == pytest.approx(SECONDS, abs=0.1)


@needs_ffmpeg
def test_pictures_may_be_damaged(tmp_path, encoded):
    """A broadcast that was recorded from the middle of a group of pictures."""
    (tmp_path / "a.wv").write_bytes(encoded("wv"))
    picture = ["-f", "lavfi", "-i", "testsrc=d=2:s=64x64:r=25"]
    sound = ["-i", tmp_path / "a.wv", "-c:a", "mp2"]
    path = tmp_path / "a.ts"
    test_containers.run_ffmpeg(*picture, *sound, "-c:v", "libx264", path)
    content = path.read_bytes()
    path.write_bytes(content[188 * 20 :])
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "PPS" in said
    assert decode_lib.decode(path).seconds == pytest.approx(SECONDS, abs=0.15)


# Names and programs ------------------------------------------------------------------


@needs_ffmpeg
@pytest.mark.parametrize(
    "name",
    [
        "-i.m4a",
        "concat:a|b.m4a",
        "http:x.m4a",
        "%d %s.m4a",
        "subfile,,start,3,end,9,,:a.m4a",
        "two\n[error] lines.m4a",
        "caf\udce9.m4a",
    ],
)
def test_any_name_is_a_file(tmp_path, encoded, name):
    path = tmp_path / name
    path.write_bytes(test_containers.id3v2(False) + encoded("m4a"))
    assert decode_lib.decode(path).seconds == pytest.approx(SECONDS, abs=0.1)
    content = encoded("m4a")
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(500) + content[half + 500 :])
    with pytest.raises(errors.UnreadableError) as caught:
        decode_lib.decode(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("program", ["ffmpeg", "ffprobe"])
def test_a_program_that_is_ended_by_a_signal_says_so(tmp_path, monkeypatch, program):
    die = f"os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    test_containers._stand_in(tmp_path, monkeypatch, die)
    if program == "ffprobe":
        path = tmp_path / "bin" / "ffmpeg"
        os.replace(path, tmp_path / "bin" / "ffprobe")
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    with pytest.raises(errors.UnreadableError, match=f"{program} was ended by SIGSEGV"):
        decode(tmp_path, "tta", b"TTA1" + bytes(100))


@pytest.mark.parametrize("program", ["ffmpeg", "ffprobe"])
def test_a_program_that_does_not_start_says_so(tmp_path, monkeypatch, program):
    test_containers._stand_in(tmp_path, monkeypatch, "pass")
    (tmp_path / "bin" / program).write_bytes(b"\x7fELF no program")
    with pytest.raises(errors.UnreadableError, match=f"{program} does not start"):
        decode(tmp_path, "tta", b"TTA1" + bytes(100))


# Any bytes ---------------------------------------------------------------------------

MAGICS = [magic for magic, _ in check._MAGIC]
MAGICS += [b"RIFF\0\1\0\0WAVE", b"RIFF\0\1\0\0AVI LIST\0\0\1\0movi", b"\0\0\0\x08ftyp"]
MAGICS += [b"FORM\0\1\0\0AIFF", b"wvpk\x20\0\0\0", b"\x0b\x77\0\0\0\0", b"\xff\xf1\x50"]
MAGICS += [b"\0\1\0\0\xf8\x72\x6f\xba", b"\xff\xfb\x90\0", b"\xff\xfd\x90\0", b"ID3\4"]


@hypothesis.given(
    strategies.sampled_from(MAGICS),
    strategies.lists(
        strategies.one_of(
            strategies.binary(max_size=40),
            strategies.sampled_from([bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7]),
        )
    ),
)
@hypothesis.example(b"wvpk\x20\0\0\0", [bytes(6), *[bytes(8)] * 3, b"wvpk", bytes(18)])
@hypothesis.settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_findings(tmp_path_factory, magic, rest):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(magic + b"".join(rest))
    found = check.examine(path)
    assert isinstance(found, findings.Findings)
    assert found.reason is None or "\n" not in found.reason
    for part in found.parts:
        assert 0 <= part.start <= part.end <= path.stat().st_size
    with pytest.raises(errors.AudioError):
        if decode_lib.decode(path).samples.size:  # a few bytes can be sound
            raise errors.AudioError("")
