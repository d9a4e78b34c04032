"""Frames that are samples: every way from a waveform to its windows is the same."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.audio import decode, errors, frontend, frontend_numpy
from cola_msa.audio.clip_windows import ClipWindows
from cola_msa.config.schema import FrontendConfig, waveform_frontend
from cola_msa.hub.formats.checks import reference_mel

CONFIG = waveform_frontend()
WINDOW = 59049
LENGTHS = (1, 100, 243, 30_000, WINDOW - 1, WINDOW, WINDOW + 500, 3 * WINDOW + 17)


def sound(length: int, seed: int = 0) -> np.ndarray:
    """Noise, some of it beyond full scale, float32 [length]."""
    random = np.random.default_rng(seed)
    return random.normal(0, 0.5, length).astype(np.float32)


def looped_windows(waveform: np.ndarray) -> np.ndarray:
    """What is to be found: windows that touch, the only one filled up with zeros."""
    found = []
    for number in range(max(1, len(waveform) // WINDOW)):
        window = np.zeros(WINDOW, np.float32)
        for k, value in enumerate(waveform[number * WINDOW : (number + 1) * WINDOW]):
            window[k] = min(1.0, max(-1.0, value))
        found.append(window.reshape(243, 243, 1))
    return np.stack(found)


def streamed(waveform: np.ndarray, block: int, hop: int | None = None) -> np.ndarray:
    with ClipWindows(CONFIG) as clip:
        for first in range(0, len(waveform), block):
            clip.add(waveform[first : first + block])
        clip.finish()
        return np.concatenate(list(clip.windows(hop)))


@pytest.mark.parametrize("length", LENGTHS)
def test_windows_are_the_samples(length):
    waveform = sound(length)
    expected = looped_windows(waveform)
    for found in (
        frontend_numpy.clip_windows(waveform, CONFIG),
        streamed(waveform, 7_777),
        reference_mel(waveform, CONFIG),
    ):
        np.testing.assert_array_equal(found, expected)


def test_blocks_and_hops_do_not_show():
    waveform = sound(700_000)
    clipped = np.clip(waveform, -1, 1)
    found = streamed(waveform, 50_000, hop=20)
    starts = np.arange(len(found)) * 20 * 243
    assert starts[-1] + WINDOW <= 700_000 < starts[-1] + 20 * 243 + WINDOW + 243
    for start, window in zip(starts, found, strict=True):
        np.testing.assert_array_equal(window.ravel(), clipped[start : start + WINDOW])


@pytest.mark.parametrize("in_dataset", [False, True])
def test_sound_windows_take_a_batch_of_windows(in_dataset):
    sounds = np.stack([sound(WINDOW, seed) for seed in range(3)])
    sounds[1, 1000:] = 0
    frames = tf.constant([243, 4, 243])

    def cut(sounds, frames):
        return frontend.sound_windows(sounds, frames, tf.ones([3]), CONFIG)

    if in_dataset:
        data = tf.data.Dataset.from_tensors((sounds, frames)).map(cut)
        found = next(data.as_numpy_iterator())
    else:
        found = cut(sounds, frames).numpy()
    expected = np.concatenate([looped_windows(one) for one in sounds])
    np.testing.assert_array_equal(found, expected)


def test_there_is_no_level_rule():
    quiet = 1e-4 * sound(WINDOW)
    np.testing.assert_array_equal(
        frontend_numpy.clip_windows(quiet, CONFIG).ravel(), quiet
    )
    assert frontend.level_scale(3.0, 5, "none") == 1.0
    assert frontend.level_factor(tf.constant(quiet), "none").numpy() == 1.0
    assert frontend_numpy.level_factor(quiet, "none") == 1.0


def test_both_kinds_of_records_hold_the_same_clips():
    """A clip that fills a window of log-mels is long enough for either."""
    for seconds, is_long in ((0.9, False), (0.996, True), (3.0, True)):
        for config in (FrontendConfig(), CONFIG):
            samples = round(seconds * config.sample_rate_hz)
            if is_long:
                decode.check_length(samples, config)
            else:
                with pytest.raises(errors.TooShortError, match=r"below 0\.995 s"):
                    decode.check_length(samples, config)


def test_log_mels_of_windows_equal_an_independent_front_end():
    """At the waveforms' own rate, with 25 and 10 ms, the default's bands and level."""
    windows = np.stack([0.3 * sound(WINDOW, seed) for seed in range(2)])
    windows = np.clip(windows, -1, 1).reshape(2, 243, 243, 1)
    found = frontend.window_log_mels(tf.constant(windows), CONFIG).numpy()
    same = FrontendConfig(
        sample_rate_hz=22050, window_samples=552, hop_samples=220, fft_size=2048
    )
    for mel, window in zip(found, windows, strict=True):
        waveform = window.ravel()
        expected = frontend_numpy.log_mel(
            waveform, same, frontend_numpy.level_factor(waveform)
        )
        np.testing.assert_allclose(mel[..., 0], expected, atol=1e-4)
    log_mels = tf.constant(np.ones((2, 98, 64, 1), np.float32))
    assert frontend.window_log_mels(log_mels, FrontendConfig()) is log_mels
