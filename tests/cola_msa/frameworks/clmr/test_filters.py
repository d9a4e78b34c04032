"""High- and low-pass filters, as measured, and against a convolution in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.frameworks.clmr import filters
from tests.helpers.signals import RATE, decibels, noise, tone


def apply(waveforms, is_high_pass, cutoff_hz):
    return filters.apply_filter(
        tf.constant(np.asarray(waveforms, np.float32)),
        tf.constant(is_high_pass),
        tf.constant(cutoff_hz, tf.float32),
        RATE,
    ).numpy()


def gains(is_high_pass, cutoff_hz, parts):
    """What is left of tones at parts of the cut-off, in decibels, edges left out."""
    tones = np.stack([tone(part * cutoff_hz) for part in parts])
    count = len(parts)
    filtered = apply(tones, [is_high_pass] * count, [cutoff_hz] * count)
    inside = slice(2_000, -2_000)
    return decibels(filtered[:, inside].std(axis=1) / tones[:, inside].std(axis=1))


@pytest.mark.parametrize("cutoff_hz", [2200.0, 3100.0, 4000.0])
def test_low_pass(cutoff_hz):
    below, near, at, beyond, far = gains(False, cutoff_hz, [0.1, 0.7, 1.0, 1.3, 2.0])
    assert abs(below) < 0.05 and abs(near) < 0.2
    assert at == pytest.approx(-6.0, abs=0.3)
    assert beyond < -40 and far < -50


@pytest.mark.parametrize("cutoff_hz", [200.0, 700.0, 1200.0])
def test_high_pass(cutoff_hz):
    far, beyond, at, near, above = gains(True, cutoff_hz, [0.1, 0.7, 1.0, 1.3, 5.0])
    assert far < -50 and beyond < -35
    assert at == pytest.approx(-6.0, abs=0.3)
    assert abs(near) < 0.2 and abs(above) < 0.05


def slow_filter(waveform, is_high_pass, cutoff_hz):
    """Tap by tap; edges go on with their last sample."""
    cutoff = cutoff_hz / RATE
    half = int(8 / cutoff / 2)
    taps = []
    for time in range(-half, half + 1):
        phase = 2 * np.pi * cutoff * time
        sinc = 1.0 if time == 0 else np.sin(phase) / phase
        taps.append(sinc * (0.5 + 0.5 * np.cos(np.pi * time / half)))
    taps = np.array(taps) / np.sum(taps)
    padded = np.pad(waveform.astype(np.float64), half, mode="edge")
    low = np.array(
        [np.dot(padded[i : i + len(taps)], taps) for i in range(len(waveform))]
    )
    return waveform - low if is_high_pass else low


def test_equals_a_convolution_up_to_the_edges():
    waveforms = np.stack([noise(i, 3_000) for i in range(4)])
    is_high_pass, cutoff_hz = [True, False, True, False], [210.0, 2300.0, 1150.0, 3900]
    filtered = apply(waveforms, is_high_pass, cutoff_hz)
    for row, parameters in enumerate(zip(is_high_pass, cutoff_hz, strict=True)):
        expected = slow_filter(waveforms[row], *parameters)
        np.testing.assert_allclose(filtered[row], expected, atol=2e-6)


def test_draws_have_even_chances_and_the_published_ranges():
    drawn = filters.draw_filter(tf.constant([3, 4], tf.int64), 10_000)
    is_high_pass, cutoff_hz = (value.numpy() for value in drawn.values())
    assert is_high_pass.mean() == pytest.approx(0.5, abs=0.02)
    for kind, limits in ((True, (200, 1200)), (False, (2200, 4000))):
        own = cutoff_hz[is_high_pass == kind]
        assert own.min() >= limits[0] and own.max() <= limits[1]
        quarters = np.histogram(own, 4, range=limits)[0] / len(own)
        np.testing.assert_allclose(quarters, 0.25, atol=0.03)


@pytest.mark.parametrize(
    ("samples", "length"), [(1, 1), (7, 8), (59_049, 59_049), (59_931, 60_000)]
)
def test_fast_length(samples, length):
    assert filters.fast_length(samples) == length
