"""Decoding: what is good is read whole, what is bad has a reason."""

import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from cola_msa.audio import decode, errors, resample
from cola_msa.config.schema import FrontendConfig
from tests.helpers import trees


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_decode_reads_whole_files(tmp_path: pathlib.Path, suffix: str, channels: int):
    samples = np.stack([trees.chirp(2, 44100, seed=k) for k in range(channels)], 1)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, 44100)
    decoded = decode.decode(path, expected_seconds=2.0)
    assert decoded.rate_hz == 44100
    assert decoded.samples.shape[0] == channels
    assert abs(decoded.seconds - 2) < 0.1
    assert decoded.samples.dtype == np.float32


def test_wav_is_read_exactly_and_mono_is_the_mean(tmp_path: pathlib.Path):
    samples = np.random.default_rng(0).normal(0, 0.1, (8000, 2)).astype(np.float32)
    decoded = decode.decode(trees.write_wav(tmp_path / "a.wav", samples))
    np.testing.assert_array_equal(decoded.samples, samples.T)
    expected = [(a + b) / 2 for a, b in samples]
    np.testing.assert_allclose(resample.to_mono(decoded, 16000), expected, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 96000])
def test_resampling_keeps_a_tone(tmp_path: pathlib.Path, rate_hz: int):
    time = np.arange(2 * rate_hz) / rate_hz
    samples = np.stack([np.sin(2 * np.pi * 440 * time)] * 2, 1).astype(np.float32)
    path = trees.write_wav(tmp_path / "a.wav", samples, rate_hz)
    mono = resample.to_mono(decode.decode(path), 16000)
    assert len(mono) == 32000
    expected = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    np.testing.assert_allclose(mono[2000:-2000], expected[2000:-2000], atol=2e-3)


def test_suffix_does_not_matter(tmp_path: pathlib.Path):
    path = trees.write_wav(tmp_path / "really-a-wav.mp3", trees.chirp(2))
    assert decode.decode(path).samples.shape == (1, 32000)


def _write_bad(folder: pathlib.Path, kind: str) -> pathlib.Path:
    path = folder / f"{kind}.wav"
    whole = trees.write_wav(folder / "whole.wav", trees.chirp(3)).read_bytes()
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path = folder / "text.mp3"
        path.write_text("This is no music. " * 100)
    elif kind == "no_samples":
        trees.write_wav(path, np.zeros(0, np.float32))
    elif kind == "cut_wav":
        path.write_bytes(whole[: len(whole) * 99 // 100])
    elif kind in ("nan", "inf"):
        samples = trees.chirp(2)
        samples[1234] = float(kind)
        trees.write_wav(path, samples)
    elif kind.startswith("cut_"):
        suffix = kind.removeprefix("cut_")
        soundfile.write(folder / f"whole.{suffix}", trees.chirp(3), 16000)
        path = folder / f"cut.{suffix}"
        data = (folder / f"whole.{suffix}").read_bytes()
        path.write_bytes(data[: len(data) // 2 + 5])
    return path


@pytest.mark.parametrize(
    ("kind", "error", "reason"),
    [
        ("missing", errors.MissingError, "does not exist"),
        ("folder", errors.MissingError, "not a regular file"),
        ("empty", errors.EmptyError, "0 bytes"),
        ("text", errors.UnreadableError, "not readable as audio"),
        ("no_samples", errors.EmptyError, "no samples"),
        ("cut_wav", errors.TruncatedError, "truncated"),
        ("cut_mp3", errors.TruncatedError, "truncated"),
        ("cut_ogg", errors.TruncatedError, "truncated"),
        ("cut_flac", errors.AudioError, "truncated|damaged"),
        ("nan", errors.NonFiniteError, "not a number"),
        ("inf", errors.NonFiniteError, "not a number"),
    ],
)
def test_bad_files_have_a_reason_in_one_line(
    tmp_path: pathlib.Path, kind: str, error: type[errors.AudioError], reason: str
):
    with pytest.raises(error, match=reason) as caught:
        decode.decode(_write_bad(tmp_path, kind))
    assert "\n" not in str(caught.value)


def test_a_clip_shorter_than_its_metadata_is_truncated(tmp_path: pathlib.Path):
    path = trees.write_wav(tmp_path / "a.wav", trees.chirp(2))
    with pytest.raises(errors.TruncatedError, match="2.00 s decoded of 29.00 s"):
        decode.decode(path, expected_seconds=29.0)


@pytest.mark.parametrize(
    ("num_samples", "is_enough"), [(400 + 97 * 160, True), (399 + 97 * 160, False)]
)
def test_shortest_clip_is_98_frames(num_samples: int, is_enough: bool):
    samples = np.zeros(num_samples, np.float32)
    if is_enough:
        decode.check_length(samples, FrontendConfig())
    else:
        with pytest.raises(errors.TooShortError, match="too short"):
            decode.check_length(samples, FrontendConfig())


RATES = [8000, 11025, 16000, 22050, 44100, 48000, 192000]


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("block_frames", [1000, 65536])
def test_blocks_give_the_bits_of_the_whole(tmp_path, rate_hz, block_frames):
    samples = np.random.default_rng(0).normal(0, 0.1, (rate_hz + 77, 3))
    path = trees.write_wav(tmp_path / "a.wav", samples.astype(np.float32), rate_hz)
    whole = resample.to_mono(decode.decode(path), 16000)
    with decode.AudioReader(path) as reader:
        assert (reader.info.rate_hz, reader.info.num_channels) == (rate_hz, 3)
        assert reader.info.num_frames == rate_hz + 77
        blocks = reader.blocks(block_frames)
        streamed = list(resample.mono_blocks(blocks, rate_hz, 16000))
    np.testing.assert_array_equal(np.concatenate(streamed), whole)
    expected = resample.resample(np.mean(samples, 1).astype(np.float32), rate_hz, 16000)
    np.testing.assert_allclose(whole, expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "aiff"])
def test_block_size_does_not_change_what_is_decoded(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([trees.chirp(3, 44100)] * 2, 1), 44100)
    whole = soundfile.read(path, dtype="float32")[0].T
    for block_frames in (1000, 30000):
        with decode.AudioReader(path) as reader:
            blocks = list(reader.blocks(block_frames))
        assert {block.shape[1] for block in blocks[:-1]} == {block_frames}
        np.testing.assert_array_equal(np.concatenate(blocks, 1), whole)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_is_checked_against_its_md5(tmp_path, subtype):
    path = tmp_path / "a.flac"
    soundfile.write(path, trees.chirp(2), 16000, subtype=subtype)
    expected = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_array_equal(decode.decode(path).samples[0], expected)
    data = bytearray(path.read_bytes())
    data[26] ^= 1  # the MD5's first byte
    path.write_bytes(data)
    with pytest.raises(errors.UnreadableError, match="damaged.*MD5"):
        decode.decode(path)


def _whole(folder: pathlib.Path, suffix: str) -> bytes:
    path = folder / f"whole.{suffix}"
    soundfile.write(path, np.stack([trees.chirp(8, 44100)] * 2, 1), 44100)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["mp3", "flac", "ogg"])
@pytest.mark.parametrize("num_bytes", [600, 4000])
def test_garbage_in_the_middle_is_found(tmp_path, suffix, num_bytes, capfd):
    data = bytearray(_whole(tmp_path, suffix))
    middle = len(data) // 2
    garbage = np.random.default_rng(1).bytes(num_bytes)
    data[middle : middle + num_bytes] = garbage
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    with pytest.raises(errors.UnreadableError, match="damaged"):
        decode.decode(path)
    assert capfd.readouterr().err == ""  # decoders speak to nobody


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "ogg", "aiff"])
@pytest.mark.parametrize("percent", [1, 50, 99])
def test_cut_files_are_found(tmp_path, suffix, percent):
    data = _whole(tmp_path, suffix)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(errors.AudioError, match="truncated|damaged|not readable"):
        decode.decode(path)


def test_mp3_tags_are_no_damage(tmp_path):
    data = _whole(tmp_path, "mp3")
    path = tmp_path / "a.mp3"
    id3v2 = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
    path.write_bytes(id3v2 + data + b"APETAGEX" + bytes(300) + b"TAG" + bytes(125))
    assert decode.decode(path).seconds == pytest.approx(8, abs=0.1)


def test_a_zero_filled_end_of_an_mp3_is_damage(tmp_path):
    path = tmp_path / "a.mp3"
    data = _whole(tmp_path, "mp3")
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(errors.UnreadableError, match="damaged"):
        decode.decode(path)


def _variable_mp3(path: pathlib.Path) -> None:
    """Loud noise, then almost nothing; frames of all sizes, no Xing header."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.3, (44100 * 2, 2))
    quiet = 1e-3 * random.normal(0, 1e-2, (44100 * 8, 2))
    soundfile.write(
        path,
        np.concatenate([noise, quiet]),
        44100,
        format="MP3",
        bitrate_mode="VARIABLE",
        compression_level=0.5,
    )
    data = path.read_bytes()
    header = data.find(b"Xing")
    assert header > 0
    path.write_bytes(data[:header] + b"none" + data[header + 4 :])


def test_an_mp3_of_variable_rate_without_a_count_is_read_whole(tmp_path):
    """libsndfile guesses the length from the first frame, and stops there."""
    path = tmp_path / "a.mp3"
    _variable_mp3(path)
    assert decode.decode(path, expected_seconds=10).seconds == pytest.approx(
        10, abs=0.2
    )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pipe", "named pipe"),
        ("link", "dangling link"),
        ("directory", "a directory"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, kind, reason):
    path = tmp_path / "x.mp3"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
    with pytest.raises(errors.MissingError, match=reason):
        decode.decode(path)


@pytest.mark.parametrize("num_samples", [1, 5, 1000])
@pytest.mark.parametrize("channels", [1, 12])
def test_very_short_and_wide_files_are_read(tmp_path, num_samples, channels):
    samples = np.ones((num_samples, channels), np.float32)
    decoded = decode.decode(trees.write_wav(tmp_path / "a.wav", samples, 192000))
    assert decoded.samples.shape == (channels, num_samples)
    with pytest.raises(errors.TooShortError):
        decode.check_length(resample.to_mono(decoded, 16000))


@pytest.fixture(scope="module")
def m4a(tmp_path_factory) -> pathlib.Path:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg on the PATH: apt-get install ffmpeg")
    folder = tmp_path_factory.mktemp("m4a")
    samples = np.stack([trees.chirp(4, 44100)] * 2, 1)
    path = trees.write_wav(folder / "a.wav", samples, 44100)
    command = ["ffmpeg", "-v", "error", "-i", path, "-movflags", "faststart"]
    subprocess.run([*command, folder / "a.m4a"], check=True)
    return folder / "a.m4a"


def test_m4a_is_read_through_ffmpeg(m4a):
    decoded = decode.decode(m4a, expected_seconds=4)
    assert (decoded.rate_hz, len(decoded.samples)) == (44100, 2)
    original = decode.decode(m4a.with_suffix(".wav")).samples
    length = min(original.shape[1], decoded.samples.shape[1])
    both = [original[0, :length], decoded.samples[0, :length]]
    assert np.corrcoef(both)[0, 1] > 0.95


@pytest.mark.parametrize("percent", [1, 50, 99])
def test_a_cut_m4a_is_found(m4a, tmp_path, percent):
    data = m4a.read_bytes()
    path = tmp_path / "a.m4a"
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(errors.AudioError, match="truncated|damaged|not readable"):
        decode.decode(path)


def test_without_ffmpeg_the_reason_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    path.write_bytes(bytes([0, 0, 0, 28]) + b"ftypM4A " + bytes(1000))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UnreadableError, match="install ffmpeg"):
        decode.decode(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.nan, errors.NonFiniteError),
        (-np.inf, errors.NonFiniteError),
        (1e30, errors.UnreadableError),
        (-3e38, errors.UnreadableError),
        (2.0**31, None),
    ],
)
def test_samples_that_are_no_sound_are_refused(
    tmp_path, subtype, channels, value, error
):
    for positions in ([20000], slice(None)):
        samples = np.stack([trees.chirp(2)] * channels, 1).astype(np.float64)
        samples[positions] = value
        path = tmp_path / "a.wav"
        soundfile.write(path, samples, 16000, subtype=subtype)
        if error is None:
            assert np.abs(decode.decode(path).samples).max() == value
            continue
        with pytest.raises(error, match="not a number|samples up to"):
            decode.decode(path)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(
    ("container", "channels", "rate_hz"),
    [
        ("WAVEX", 1, 16000),
        ("WAVEX", 8, 48000),
        ("W64", 6, 1000),
        ("RF64", 2, 384000),
        ("AIFF", 2, 44100),
        ("CAF", 6, 16000),
        ("AU", 2, 16000),
    ],
)
def test_rates_depths_and_channels_are_read_exactly(
    tmp_path, subtype, container, channels, rate_hz
):
    if (container, subtype) in (("CAF", "PCM_U8"), ("AU", "PCM_U8")):
        subtype = "PCM_S8"
    samples = np.round(trees.chirp(0.5, rate_hz) * 100) / 128
    samples = np.stack([samples * (-1) ** k for k in range(channels)], 1)
    path = tmp_path / "a"
    soundfile.write(path, samples, rate_hz, format=container, subtype=subtype)
    decoded = decode.decode(path)
    np.testing.assert_array_equal(decoded.samples, samples.T)
    assert len(resample.to_mono(decoded, 16000)) == 8000


@pytest.mark.parametrize(
    ("rate_hz", "channels", "reason"),
    [
        (1, 1, "1 samples a second"),
        (999, 1, "999 samples a second"),
        (2**31 - 1, 1, "samples a second"),
        (16000, 300, "300 channels"),
    ],
)
def test_headers_that_would_fill_memory_are_refused(
    tmp_path, rate_hz, channels, reason
):
    """An hour at 1 Hz has 7 kB, and 115 MB of float32 at 16 kHz."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((3600, channels)), 16000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate_hz.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(errors.UnreadableError, match=reason):
        decode.decode(path)
