"""Decoding: what is good is read whole, what is bad has a reason."""

import pathlib

import numpy as np
import pytest
import soundfile

from cola_msa.config import FrontendConfig
from data_prep import audio
from tests.data_prep import trees


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_decode_reads_whole_files(tmp_path: pathlib.Path, suffix: str, channels: int):
    samples = np.stack([trees.chirp(2, 44100, seed=k) for k in range(channels)], 1)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, 44100)
    decoded = audio.decode(path, expected_seconds=2.0)
    assert decoded.rate_hz == 44100
    assert decoded.samples.shape[0] == channels
    assert abs(decoded.seconds - 2) < 0.1
    assert decoded.samples.dtype == np.float32


def test_wav_is_read_exactly_and_mono_is_the_mean(tmp_path: pathlib.Path):
    samples = np.random.default_rng(0).normal(0, 0.1, (8000, 2)).astype(np.float32)
    decoded = audio.decode(trees.write_wav(tmp_path / "a.wav", samples))
    np.testing.assert_array_equal(decoded.samples, samples.T)
    expected = [(a + b) / 2 for a, b in samples]
    np.testing.assert_allclose(audio.to_mono(decoded, 16000), expected, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 96000])
def test_resampling_keeps_a_tone(tmp_path: pathlib.Path, rate_hz: int):
    time = np.arange(2 * rate_hz) / rate_hz
    samples = np.stack([np.sin(2 * np.pi * 440 * time)] * 2, 1).astype(np.float32)
    path = trees.write_wav(tmp_path / "a.wav", samples, rate_hz)
    mono = audio.to_mono(audio.decode(path), 16000)
    assert len(mono) == 32000
    expected = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    np.testing.assert_allclose(mono[2000:-2000], expected[2000:-2000], atol=2e-3)


def test_suffix_does_not_matter(tmp_path: pathlib.Path):
    path = trees.write_wav(tmp_path / "really-a-wav.mp3", trees.chirp(2))
    assert audio.decode(path).samples.shape == (1, 32000)


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
        ("missing", audio.MissingError, "does not exist"),
        ("folder", audio.MissingError, "not a regular file"),
        ("empty", audio.EmptyError, "0 bytes"),
        ("text", audio.UnreadableError, "not readable as audio"),
        ("no_samples", audio.EmptyError, "no samples"),
        ("cut_wav", audio.TruncatedError, "truncated"),
        ("cut_mp3", audio.TruncatedError, "truncated"),
        ("cut_ogg", audio.TruncatedError, "truncated"),
        ("cut_flac", audio.AudioError, "truncated|not readable"),
        ("nan", audio.NonFiniteError, "not a number"),
        ("inf", audio.NonFiniteError, "not a number"),
    ],
)
def test_bad_files_have_a_reason_in_one_line(
    tmp_path: pathlib.Path, kind: str, error: type[audio.AudioError], reason: str
):
    with pytest.raises(error, match=reason) as caught:
        audio.decode(_write_bad(tmp_path, kind))
    assert "\n" not in str(caught.value)


def test_a_clip_shorter_than_its_metadata_is_truncated(tmp_path: pathlib.Path):
    path = trees.write_wav(tmp_path / "a.wav", trees.chirp(2))
    with pytest.raises(audio.TruncatedError, match="2.00 s decoded of 29.00 s"):
        audio.decode(path, expected_seconds=29.0)


@pytest.mark.parametrize(
    ("num_samples", "is_enough"), [(400 + 97 * 160, True), (399 + 97 * 160, False)]
)
def test_shortest_clip_is_98_frames(num_samples: int, is_enough: bool):
    samples = np.zeros(num_samples, np.float32)
    if is_enough:
        audio.check_length(samples, FrontendConfig())
    else:
        with pytest.raises(audio.TooShortError, match="too short"):
            audio.check_length(samples, FrontendConfig())
