"""Lengths that nobody knew, joined files, tags: read whole; what is cut is found."""

import pathlib
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from cola_msa.audio import decode, errors, ffmpeg
from tests.helpers import trees

RATE = 44100
STEREO = np.stack([trees.chirp(3, RATE)] * 2, 1)
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None,
    reason="no ffmpeg on the PATH: apt-get install ffmpeg",
)


def write(path: pathlib.Path, seconds: float = 3, rate=RATE, channels=2, **options):
    samples = np.stack([trees.chirp(seconds, rate)] * channels, 1)
    soundfile.write(path, samples, rate, **options)
    return path.read_bytes()


def run_ffmpeg(*arguments) -> None:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


# Joined files ------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("num_parts", [2, 5])
def test_chained_ogg_is_read_to_its_end(tmp_path, subtype, num_parts):
    options = {"rate": 48000, "format": "OGG", "subtype": subtype}
    parts = []
    for number in range(num_parts):
        write(tmp_path / f"{number}.ogg", 1 + number / 2, **options)
        parts.append(tmp_path / f"{number}.ogg")
    path = tmp_path / "joined.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = np.concatenate([decode.decode(part).samples for part in parts], 1)
    np.testing.assert_array_equal(decode.decode(path).samples, expected)
    with decode.AudioReader(path) as reader:
        blocks = list(reader.blocks(1000))
    assert {block.shape[1] for block in blocks[:-1]} == {1000}
    np.testing.assert_array_equal(np.concatenate(blocks, 1), expected)
    # Its last part is cut.
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.TruncatedError, match="last Ogg page"):
        decode.decode(path)


def ogg_pages(content: bytes) -> list[bytes]:
    starts = [i for i in range(len(content)) if content.startswith(b"OggS", i)]
    ends = [*starts[1:], len(content)]
    return [content[start:end] for start, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_lacks_a_page_is_damaged(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    content = write(path, 6, rate=48000, format="OGG", subtype=subtype)
    pages = ogg_pages(content)
    assert len(pages) > 5
    path.write_bytes(b"".join(pages[:3] + pages[4:]))
    with pytest.raises(errors.AudioError, match="Ogg page 4 .* follows page 2"):
        decode.decode(path)


def test_an_ogg_of_a_broadcast_begins_somewhere(tmp_path):
    path = tmp_path / "a.ogg"
    pages = ogg_pages(write(path, 6, rate=48000, format="OGG", subtype="VORBIS"))
    path.write_bytes(b"".join(pages[:2] + pages[3:]))
    seconds = decode.decode(path).samples.shape[1] / 48000
    assert 3 < seconds < 6


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (48000, 2)])
def test_parts_that_differ_are_refused(tmp_path, rate, channels):
    first = write(tmp_path / "a.ogg")
    second = write(tmp_path / "b.ogg", 1, rate, channels)
    (tmp_path / "c.ogg").write_bytes(first + second)
    with pytest.raises(errors.UnreadableError, match=f"number 2 has {channels} ch"):
        decode.decode(tmp_path / "c.ogg")


def id3v1() -> bytes:
    return b"TAG" + b"Song".ljust(125)


def ape() -> bytes:
    items = struct.pack("<II", 4, 0) + b"Title\0Song"
    last = struct.pack("<8sIII", b"APETAGEX", 2000, len(items) + 32, 1)
    return (
        last + struct.pack("<I8x", 0xA0000000) + items + last + struct.pack("<I8x", 0)
    )[32:]


def id3v2(footer: bool) -> bytes:
    flags, size = 0x10 * footer, struct.pack(">I", 50)
    head = b"ID3\x04\0" + bytes([flags]) + size + bytes(50)
    return head + (b"3DI\x04\0" + bytes([flags]) + size if footer else b"")


TRAILERS = {
    "id3v1": id3v1(),
    "ape": ape(),
    "ape and id3v1": ape() + id3v1(),
    "id3v2": id3v2(False),
    "id3v2 with footer": id3v2(True),
    "lyrics": b"LYRICSBEGIN" + b"IND00002" + b"10" + b"000021LYRICS200" + id3v1(),
    "zeros": bytes(5000),
    "zeros and id3v1": bytes(300) + id3v1(),
}


@pytest.mark.parametrize("kind", TRAILERS)
def test_what_follows_the_last_ogg_page_is_no_damage(tmp_path, kind):
    path = tmp_path / "a.ogg"
    data = write(path)
    expected = decode.decode(path).samples
    path.write_bytes(data + TRAILERS[kind])
    np.testing.assert_array_equal(decode.decode(path).samples, expected)


@pytest.mark.parametrize("trailer", [b"garbage" * 30, bytes(3000) + b"x"])
def test_what_is_no_tag_after_the_last_ogg_page_is_damage(tmp_path, trailer):
    path = tmp_path / "a.ogg"
    path.write_bytes(write(path) + trailer)
    with pytest.raises(errors.UnreadableError, match="damaged"):
        decode.decode(path)


def test_an_ogg_whose_end_is_zeros_is_damaged(tmp_path):
    path = tmp_path / "a.ogg"
    data = write(path)
    cut = data.rfind(b"OggS")
    path.write_bytes(data[:cut] + bytes(len(data) - cut))
    with pytest.raises(errors.UnreadableError, match="damaged"):
        decode.decode(path)


@pytest.mark.parametrize("tag", [b"", id3v2(False)])
def test_joined_mp3s_are_read_to_their_end(tmp_path, tag):
    parts = [
        write(tmp_path / f"{n}.mp3", 2 + n, bitrate_mode="VARIABLE") for n in (0, 1)
    ]
    assert all(b"Xing" in part[:300] for part in parts)
    path = tmp_path / "joined.mp3"
    path.write_bytes(parts[0] + tag + parts[1])
    alone = [decode.decode(tmp_path / f"{n}.mp3").samples for n in (0, 1)]
    np.testing.assert_array_equal(decode.decode(path).samples, np.concatenate(alone, 1))
    path.write_bytes(parts[0] + tag + parts[1][: len(parts[1]) // 2])
    with pytest.raises(errors.TruncatedError):
        decode.decode(path)
    path.write_bytes(parts[0][: len(parts[0]) // 2] + tag + parts[1])
    with pytest.raises(errors.AudioError, match="truncated|damaged"):
        decode.decode(path)


def without_info(data: bytes) -> bytes:
    """An MP3 whose first frame no longer says how many follow."""
    return data.replace(b"Xing", b"none", 1).replace(b"Info", b"none", 1)


def test_an_mp3_after_one_with_a_count_is_read_too(tmp_path):
    first = write(tmp_path / "a.mp3", 2)
    (tmp_path / "b.mp3").write_bytes(first + without_info(write(tmp_path / "c.mp3", 3)))
    assert decode.decode(tmp_path / "b.mp3").seconds == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize(
    "kind", ["zeros", "id3 too long", "id3 too short", "within a frame"]
)
def test_an_mp3_is_found_after_something_else(tmp_path, kind):
    data = write(tmp_path / "a.mp3")
    path = tmp_path / "b.mp3"
    heads = {
        "zeros": bytes(3000) + data,
        "id3 too long": b"ID3\x04\0\0\x0f\x7f\x7f\x7f" + bytes(20) + data,
        "id3 too short": b"ID3\x04\0\0\0\0\0\x05" + bytes(700) + data,
        "within a frame": data[700:],
    }
    path.write_bytes(heads[kind])
    assert decode.decode(path).seconds == pytest.approx(3, abs=0.15)
    path.write_bytes(heads[kind][: len(data) // 2])
    with pytest.raises(errors.AudioError, match="truncated|damaged|not readable"):
        if decode.decode(path).seconds < 2:
            # Cut between two frames, and nothing says how many there were.
            raise errors.TruncatedError("truncated")


# Lengths that nobody knew ------------------------------------------------------------

UNKNOWN = [0, 0xFFFFFFFF, 0xFFFFF000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x7FFFEFDC]


@pytest.mark.parametrize("length", UNKNOWN)
@pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF, 0x7FFFF024])
@pytest.mark.parametrize("magic", ["RIFF", "RIFX"])
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path, length, riff, magic):
    path = tmp_path / "a.wav"
    endian = "BIG" if magic == "RIFX" else "LITTLE"
    data = bytearray(write(path, endian=endian))
    order = ">" if magic == "RIFX" else "<"
    assert data[:4] == magic.encode()
    expected = decode.decode(path).samples
    start = data.find(b"data") + 4
    data[start : start + 4] = struct.pack(f"{order}I", length)
    if riff is not None:
        data[4:8] = struct.pack(f"{order}I", riff)
    path.write_bytes(data)
    np.testing.assert_array_equal(decode.decode(path).samples, expected)


@pytest.mark.parametrize("chunks", [b"", b"LIST" + struct.pack("<I", 4) + b"INFO"])
def test_a_wav_without_samples_stays_empty(tmp_path, chunks):
    path = tmp_path / "a.wav"
    trees.write_wav(path, np.zeros(0, np.float32))
    data = path.read_bytes()
    start = data.find(b"data") + 8
    path.write_bytes(data[:start] + chunks)
    with pytest.raises(errors.EmptyError):
        decode.decode(path)


@pytest.mark.parametrize("between", [b"", b"LIST" + struct.pack("<I", 4) + b"INFO"])
def test_a_wav_with_two_chunks_of_samples_is_damaged(tmp_path, between):
    path = tmp_path / "a.wav"
    content = write(path)
    path.write_bytes(content + between)
    assert decode.decode(path).samples.shape == (2, 3 * RATE)
    # libsndfile reads the last one alone.
    path.write_bytes(content + between + b"data" + struct.pack("<I", 400) + bytes(400))
    with pytest.raises(errors.AudioError, match="two chunks of samples"):
        decode.decode(path)


def test_a_caf_with_two_chunks_of_samples_is_damaged(tmp_path):
    path = tmp_path / "a.caf"
    content = write(path)
    free = b"free" + struct.pack(">q", 4) + bytes(4)
    path.write_bytes(content + free)
    assert decode.decode(path).samples.shape == (2, 3 * RATE)
    path.write_bytes(content + b"data" + struct.pack(">q", 404) + bytes(404))
    with pytest.raises(errors.AudioError, match="two chunks of samples"):
        decode.decode(path)


@pytest.mark.parametrize("length", [0x10000000, 0x60000000, 0xA0000000])
def test_a_large_length_is_a_promise(tmp_path, length):
    path = tmp_path / "a.wav"
    data = bytearray(write(path))
    start = data.find(b"data") + 4
    data[start : start + 4] = struct.pack("<I", length)
    path.write_bytes(data)
    with pytest.raises(errors.TruncatedError, match=f"promises {length} bytes"):
        decode.decode(path)


@pytest.mark.parametrize("length", [0, 1 << 64, (1 << 63) - 1])
def test_rf64_and_w64_from_a_pipe_are_read_to_their_end(tmp_path, length):
    raw = min(length, (1 << 64) - 1)
    for suffix, name, offset in (("rf64", b"ds64", 16), ("w64", b"data\xf3", 16)):
        path = tmp_path / f"a.{suffix}"
        data = bytearray(write(path, format=suffix.upper()))
        expected = decode.decode(path).samples
        start = data.find(name) + offset
        assert 3 * RATE * 4 <= int.from_bytes(data[start : start + 8], "little")
        data[start : start + 8] = struct.pack("<Q", raw)
        path.write_bytes(data)
        np.testing.assert_array_equal(decode.decode(path).samples, expected)


@pytest.mark.parametrize("suffix", ["rf64", "w64", "aiff", "au"])
def test_other_cut_files_are_found(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    data = write(path, format=suffix.upper())
    path.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(errors.TruncatedError, match="promises"):
        decode.decode(path)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_aiff_and_au_from_a_pipe_are_read_to_their_end(tmp_path, length):
    for suffix, name, offset in (("aiff", b"SSND", 4), ("au", b".snd", 8)):
        path = tmp_path / f"a.{suffix}"
        data = bytearray(write(path, format=suffix.upper()))
        expected = decode.decode(path).samples
        start = data.find(name) + offset
        data[start : start + 4] = struct.pack(">I", length)
        path.write_bytes(data)
        np.testing.assert_array_equal(decode.decode(path).samples, expected)


@pytest.mark.parametrize("has_md5", [True, False])
@pytest.mark.parametrize("tag", [b"", id3v2(False)])
def test_a_flac_from_a_pipe_is_read_to_its_end(tmp_path, has_md5, tag):
    path = tmp_path / "a.flac"
    data = bytearray(write(path))
    expected = decode.decode(path).samples
    data[21] &= 0xF0  # of the 36 bits of samples the first four
    data[22:26] = bytes(4)
    if not has_md5:
        data[26:42] = bytes(16)
    path.write_bytes(tag + data)
    with decode.AudioReader(path) as reader:
        assert reader.info.num_frames is None
        assert sum(b.shape[1] for b in reader.blocks()) == expected.shape[1]
    np.testing.assert_array_equal(decode.decode(path).samples, expected)
    path.write_bytes(tag + data[: len(data) * 2 // 3])
    with pytest.raises(errors.UnreadableError, match="damaged"):
        decode.decode(path)


# Through ffmpeg ----------------------------------------------------------------------


@pytest.fixture
def wav(tmp_path):
    write(tmp_path / "a.wav")
    return tmp_path / "a.wav"


ODD = {
    "meta.m4a": ["-metadata", "comment=Duration: 01:00:00.00"],
    "title.m4a": ["-metadata", "title=[error] nothing is wrong"],
    "lines.mka": ["-metadata", "title=x\n[error] y\n[mp3 @ 0x1] [fatal] z"],
    "alac.caf": ["-c:a", "alac"],
    "ac3.wav": ["-c:a", "ac3"],
    "flac.ogg": ["-c:a", "flac", "-f", "ogg"],
    "speex.spx": ["-c:a", "libspeex", "-ar", "16000", "-ac", "1"],
    "a.wv": [],
    "a.tta": [],
    "a.ac3": [],
    "a.mka": [],
    "a.mov": ["-c:a", "aac"],
    "a.webm": ["-c:a", "libopus"],
    "a.aac": [],
    "a.wma": [],
    "fragments.mp4": ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"],
    "-dash.mka": [],
    "http:colon.mka": [],
}


@needs_ffmpeg
@pytest.mark.parametrize("name", ODD)
def test_what_only_ffmpeg_reads_is_read_whole(tmp_path, wav, name):
    run_ffmpeg("-i", wav, *ODD[name], f"file:{tmp_path / name}")
    assert decode.decode(tmp_path / name).seconds == pytest.approx(3, abs=0.1)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
@pytest.mark.parametrize("offset", [0, 2])
def test_the_picture_may_be_longer_and_the_sound_later(tmp_path, wav, name, offset):
    picture = ["-f", "lavfi", "-i", "testsrc=d=6:s=64x64:r=5"]
    run_ffmpeg(*picture, "-itsoffset", offset, "-i", wav, tmp_path / name)
    assert decode.decode(tmp_path / name).seconds == pytest.approx(3, abs=0.1)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(errors.AudioError, match="truncated|damaged|not readable"):
        decode.decode(tmp_path / name)


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "mka"])
def test_sound_alone_may_begin_later(tmp_path, wav, suffix):
    path = tmp_path / f"late.{suffix}"
    run_ffmpeg("-itsoffset", "2", "-i", wav, path)
    assert decode.decode(path).seconds == pytest.approx(3, abs=0.1)


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["mka", "wv", "tta"])
@pytest.mark.parametrize("percent", [50, 97])
def test_cut_files_are_found_by_ffmpeg(tmp_path, wav, suffix, percent):
    path = tmp_path / f"a.{suffix}"
    run_ffmpeg("-i", wav, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(errors.AudioError, match="truncated|damaged"):
        decode.decode(path)


@needs_ffmpeg
@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile:{wav}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {wav}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "[playlist]\nFile1={wav}\n",
    ],
)
@pytest.mark.parametrize("suffix", ["m4a", "mp3", "m3u8", "mp4", "ffconcat", "sdp"])
def test_a_playlist_in_disguise_opens_nothing(tmp_path, wav, content, suffix):
    path = tmp_path / f"list.{suffix}"
    path.write_text(content.format(wav=wav))
    with pytest.raises(errors.UnreadableError, match="not readable as audio"):
        decode.decode(path)


@needs_ffmpeg
def test_a_picture_without_sound_says_so(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64:r=5", tmp_path / "a.mp4")
    with pytest.raises(errors.UnreadableError, match="no audio stream"):
        decode.decode(tmp_path / "a.mp4")


@needs_ffmpeg
def test_no_process_outlives_its_reader(tmp_path, wav):
    run_ffmpeg("-stream_loop", 200, "-i", wav, "-c:a", "wavpack", tmp_path / "a.wv")
    with decode.AudioReader(tmp_path / "a.wv") as reader:
        next(reader.blocks(1000))
        process = reader._source._process
        assert process.poll() is None
    assert process.poll() is not None


def _stand_in(folder: pathlib.Path, monkeypatch, decoder: str) -> None:
    """Programs that stand in for ffmpeg and ffprobe."""
    probe = (
        '{"streams": [{"codec_type": "audio", "sample_rate": "8000", "channels": 1}],'
        ' "format": {"format_name": "tta"}}'
    )
    for name, body in (("ffprobe", f"print('''{probe}''')"), ("ffmpeg", decoder)):
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_a_decoder_that_hangs_is_ended(tmp_path, monkeypatch):
    _stand_in(tmp_path, monkeypatch, "time.sleep(600)")
    monkeypatch.setattr(ffmpeg, "_BLOCK_SECONDS", 0.2)
    (tmp_path / "a.tta").write_bytes(b"TTA1" + bytes(100))
    with pytest.raises(errors.UnreadableError, match="gave nothing"):
        decode.decode(tmp_path / "a.tta")


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        ("sys.exit(3)", "code 3"),
        ("print('[tta @ 0x5] [error] bad\\nx', file=sys.stderr)", "bad"),
        ("os.write(1, bytes(8000)); sys.exit(3)", "code 3"),
    ],
)
def test_what_a_decoder_says_at_its_end_counts(tmp_path, monkeypatch, decoder, reason):
    _stand_in(tmp_path, monkeypatch, decoder)
    (tmp_path / "a.tta").write_bytes(b"TTA1" + bytes(100))
    with pytest.raises(errors.UnreadableError, match=reason) as caught:
        decode.decode(tmp_path / "a.tta")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Song.STEM.mp4", "Song.stem.m4a"])
def test_a_stems_file_says_how_to_split_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / name
    path.write_bytes(bytes([0, 0, 0, 28]) + b"ftypisom" + bytes(1000))
    with pytest.raises(
        errors.UnreadableError, match="data_prep.multitrack.*-map 0:a:1"
    ):
        decode.decode(path)
