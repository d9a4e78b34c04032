"""Pitch shift: ratios of sinusoids and tones, length, tempo, level."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.frameworks.clmr import pitch
from tests.helpers.signals import (
    RATE,
    SAMPLES,
    decibels,
    noise,
    spectrum,
    tone,
)


def shift(waveforms, cents):
    return pitch.apply_pitch(
        tf.constant(np.atleast_2d(waveforms), tf.float32),
        tf.constant(np.atleast_1d(cents), tf.int32),
        RATE,
    ).numpy()


def cents_between(frequency_hz, reference_hz):
    return 1200 * np.log2(frequency_hz / reference_hz)


@pytest.mark.parametrize("cents", [-700, -333, -12, 123, 400, 700])
@pytest.mark.parametrize("frequency_hz", [110.0, 440.0, 1000.0, 3000.0])
def test_a_sinusoid_moves_by_the_interval(frequency_hz, cents):
    waveform = tone(frequency_hz)
    shifted = shift(waveform, cents)[0]
    assert shifted.shape == waveform.shape
    frequencies, magnitude = spectrum(shifted)
    moved = cents_between(frequencies[magnitude.argmax()], frequency_hz)
    assert moved == pytest.approx(cents, abs=6)
    near = np.abs(frequencies - frequencies[magnitude.argmax()]) < 15
    assert (magnitude[near] ** 2).sum() > 0.98 * (magnitude**2).sum()
    assert decibels(shifted.std() / waveform.std()) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("cents", [-700, 350, 700])
def test_all_harmonics_of_a_tone_move_alike(cents):
    waveform = sum(tone(220.0 * k, amplitude=0.3 / k) for k in range(1, 9))
    frequencies, magnitude = spectrum(shift(waveform, cents)[0])
    fundamental = 220.0 * 2 ** (cents / 1200)
    assert cents_between(frequencies[magnitude.argmax()], fundamental) < 6
    for harmonic in range(1, 9):
        near = np.abs(frequencies - harmonic * fundamental) < fundamental / 2
        peak = frequencies[near][magnitude[near].argmax()]
        assert abs(cents_between(peak, harmonic * fundamental)) < 8


def test_no_shift_changes_nothing():
    """Every segment is found to go on where the one before ends."""
    waveform = noise(0)
    np.testing.assert_allclose(shift(waveform, 0)[0], waveform, atol=1e-5)


@pytest.mark.parametrize("cents", [-700, 700])
def test_events_stay_where_they_are(cents):
    waveform = noise(0) * 0.01
    onsets = [9_000, 27_000, 50_000]
    for onset in onsets:
        waveform[onset : onset + 4_000] += tone(600.0, 4_000)
    shifted = shift(waveform, cents)[0]
    frame = 220
    level = np.abs(shifted[: SAMPLES // frame * frame]).reshape(-1, frame).mean(axis=1)
    is_loud = level > 0.1
    begins = (np.flatnonzero(is_loud[1:] & ~is_loud[:-1]) + 1) * frame
    for onset in onsets:
        assert np.abs(begins - onset).min() < 0.06 * RATE


def test_the_end_is_as_loud_as_the_rest():
    waveform = noise(0)
    for shifted in shift(np.stack([waveform] * 3), [-700, 300, 700]):
        assert decibels(shifted[-500:].std() / shifted.std()) > -3


def test_frequencies_beyond_half_the_rate_are_left_out():
    loud = tone(9_000.0)
    shifted = shift(loud, 700)[0]
    assert decibels(shifted[2_000:-2_000].std() / loud.std()) < -35


def test_windows_do_not_touch_each_other():
    waveforms = np.stack([noise(0), tone(440), noise(1)])
    cents = np.array([-500, 200, 650])
    together = shift(waveforms, cents)
    for row in range(3):
        alone = shift(waveforms[row], cents[row])[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-5)


@pytest.mark.parametrize("samples", [9, 243, 1_500, 2_187, 6_561])
def test_short_windows(samples):
    shifted = shift(noise(0, samples), 500)
    assert shifted.shape == (1, samples)
    assert np.isfinite(shifted).all() and shifted.std() > 0.03


def test_draws_are_whole_cents_of_the_published_range():
    drawn = pitch.draw_pitch(tf.constant([3, 4], tf.int64), 10_000)["cents"].numpy()
    assert drawn.min() == -700 and drawn.max() == 700
    quarters = np.histogram(drawn, 4, range=(-700.5, 700.5))[0]
    np.testing.assert_allclose(quarters, 2_500, atol=200)
