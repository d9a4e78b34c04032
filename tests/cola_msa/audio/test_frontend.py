import pathlib

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.audio.frontend import log_mel, normalize_level, split_windows
from cola_msa.config.schema import FrontendConfig

CUT = np.load(pathlib.Path(__file__).parents[2] / "data" / "logmel_cut.npz")


def naive_log_mel(waveform, config):
    """A loop over frames, with the mel matrix from its definition."""
    hann = 0.5 - 0.5 * np.cos(
        2 * np.pi * np.arange(config.window_samples) / config.window_samples
    )
    num_bins = config.fft_size // 2 + 1
    hertz = np.linspace(0, config.sample_rate_hz / 2, num_bins)

    def mel(f):
        return 1127.0 * np.log1p(f / 700.0)

    edges = np.linspace(mel(config.low_hz), mel(config.high_hz), config.num_mels + 2)
    bins = mel(hertz)
    matrix = np.zeros((num_bins, config.num_mels))
    for m in range(config.num_mels):
        low, center, high = edges[m : m + 3]
        rising, falling = (bins - low) / (center - low), (high - bins) / (high - center)
        matrix[:, m] = np.maximum(0, np.minimum(rising, falling))
    matrix[0] = 0
    rows = []
    for start in range(
        0, len(waveform) - config.window_samples + 1, config.hop_samples
    ):
        frame = waveform[start : start + config.window_samples] * hann
        rows.append(np.abs(np.fft.rfft(frame, config.fft_size)) @ matrix)
    return np.log(np.clip(rows, config.log_floor, config.log_ceiling))


@pytest.mark.parametrize("name", ["noise", "chirps"])
def test_log_mel_equals_stored_reference(name):
    found = log_mel(CUT[f"wave_{name}"])
    np.testing.assert_allclose(found, CUT[f"logmel_{name}"], atol=1e-4)


@pytest.mark.parametrize(
    "name", ["noise", "sweep_log", "chirp_lin", "chirps", "silence", "clip29s"]
)
def test_log_mel_equals_reference(shared_reference, name):
    reference = np.load(shared_reference / "logmel.npz")
    found = log_mel(reference[f"wave_{name}"])
    np.testing.assert_allclose(found, reference[f"logmel_{name}"], atol=1e-4)
    found = log_mel(reference[f"l2wave_{name}"])
    np.testing.assert_allclose(found, reference[f"logmel_l2_{name}"], atol=1e-4)
    normalized = normalize_level(reference[f"wave_{name}"], "l2")
    np.testing.assert_allclose(normalized, reference[f"l2wave_{name}"], atol=1e-6)


def test_log_mel_equals_naive_loop():
    waveform = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    found = log_mel(waveform)
    assert found.shape == (1 + (3000 - 400) // 160, 64)
    np.testing.assert_allclose(
        found, naive_log_mel(waveform, FrontendConfig()), atol=2e-3
    )


def test_log_mel_in_a_dataset_equals_eager():
    waveforms = np.random.default_rng(1).standard_normal((4, 4000)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices(waveforms).map(log_mel).batch(4)
    np.testing.assert_allclose(next(iter(dataset)), log_mel(waveforms), atol=1e-5)


def test_log_mel_refuses_less_than_a_window():
    with pytest.raises(ValueError, match="399 samples"):
        log_mel(np.zeros(399, np.float32))


def test_rms_level_does_not_depend_on_length_or_gain():
    noise = np.random.default_rng(0).standard_normal(16000 * 29).astype(np.float32)
    long = log_mel(normalize_level(noise)).numpy().mean()
    short = log_mel(normalize_level(0.01 * noise[:16000])).numpy().mean()
    assert abs(long - short) < 0.02


def test_l2_level_depends_on_length_as_documented():
    noise = np.random.default_rng(0).standard_normal(16000 * 29).astype(np.float32)
    long = log_mel(normalize_level(noise, "l2")).numpy().mean()
    short = log_mel(normalize_level(noise[:16000], "l2")).numpy().mean()
    assert short - long == pytest.approx(0.5 * np.log(29), abs=0.03)


def test_rms_equals_l2_on_thirty_seconds():
    noise = np.random.default_rng(0).standard_normal(16000 * 30).astype(np.float32)
    np.testing.assert_allclose(
        normalize_level(noise, "rms"), normalize_level(noise, "l2"), rtol=1e-5
    )


@pytest.mark.parametrize("level", ["rms", "l2"])
def test_silence_stays_silence(level):
    found = normalize_level(np.zeros((2, 1000), np.float32), level)
    np.testing.assert_array_equal(found, 0)


def test_padding_does_not_enter_the_level():
    noise = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    padded = np.pad(noise, (0, 3000))
    found = normalize_level(padded[np.newaxis], num_samples=tf.constant([5000]))
    np.testing.assert_allclose(found[0, :5000], normalize_level(noise), rtol=1e-5)


def test_unknown_level_is_refused():
    with pytest.raises(ValueError, match="'rms' or 'l2'"):
        normalize_level(np.ones(10, np.float32), "peak")


def test_split_windows_from_frame_zero():
    mel = np.arange(250 * 64, dtype=np.float32).reshape(250, 64)
    windows = split_windows(mel)
    assert windows.shape == (2, 98, 64, 1)
    np.testing.assert_array_equal(windows[1, ..., 0], mel[98:196])
