"""Polarity, noise and gain, as measured."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.frameworks.clmr import levels
from tests.helpers.signals import SAMPLES, decibels, noise, tone

SEED = tf.constant([3, 4], tf.int64)


def test_polarity_turns_every_sample():
    waveforms = np.stack([noise(0), tone(440)])
    turned = levels.apply_polarity(tf.constant(waveforms)).numpy()
    np.testing.assert_array_equal(turned, -waveforms)


@pytest.mark.parametrize("ratio_db", [-40.0, -60.0, -80.0])
def test_noise_has_the_ratio_that_was_drawn(ratio_db):
    waveforms = np.stack([tone(440, amplitude=0.9), tone(100, amplitude=0.1)])
    ratio = tf.constant([10 ** (ratio_db / 20)] * 2, tf.float32)
    seeds = tf.constant([[1, 2], [3, 4]], tf.int32)
    added = levels.apply_noise(tf.constant(waveforms), ratio, seeds) - waveforms
    measured = decibels(added.numpy().std(axis=1) / waveforms.std(axis=1))
    np.testing.assert_allclose(measured, ratio_db, atol=0.1)


def test_noise_is_white_and_each_window_has_its_own():
    waveforms = tf.constant(np.stack([tone(440)] * 2))
    ratio = tf.constant([0.01, 0.01])
    seeds = tf.constant([[1, 2], [3, 4]], tf.int32)
    noisy = levels.apply_noise(waveforms, ratio, seeds)
    first, second = (noisy - waveforms).numpy()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    power = np.abs(np.fft.rfft(first)) ** 2
    bands = [band.mean() for band in np.array_split(power, 8)]
    assert max(bands) / min(bands) < 1.2
    alone = levels.apply_noise(waveforms[1:], ratio[1:], seeds[1:])
    np.testing.assert_array_equal(alone[0], noisy[1])


def test_noise_leaves_silence():
    silence = tf.zeros([1, SAMPLES])
    noisy = levels.apply_noise(silence, tf.constant([0.01]), tf.constant([[1, 2]]))
    assert not np.any(noisy)


@pytest.mark.parametrize("gain_db", [-20.0, -6.0, -1.0])
def test_gain_in_decibels(gain_db):
    waveforms = np.stack([noise(0), noise(1)])
    quieter = levels.apply_gain(tf.constant(waveforms), tf.constant([gain_db, 0.0]))
    measured = decibels(quieter.numpy().std(axis=1) / waveforms.std(axis=1))
    np.testing.assert_allclose(measured, [gain_db, 0.0], atol=1e-3)


@pytest.mark.parametrize(
    ("draw", "name", "limits"),
    [
        (levels.draw_noise, "ratio", (0.0001, 0.01)),
        (levels.draw_gain, "gain_db", (-20.0, -1.0)),
    ],
)
def test_draws_fill_the_published_range_evenly(draw, name, limits):
    drawn = draw(SEED, 10_000)[name].numpy()
    low, high = limits
    assert drawn.min() >= low and drawn.max() <= high
    quarters = np.histogram(drawn, 4, range=limits)[0]
    np.testing.assert_allclose(quarters, 2_500, atol=200)


def test_noise_seeds_differ():
    seeds = levels.draw_noise(SEED, 1_000)["noise_seed"].numpy()
    assert len(np.unique(seeds, axis=0)) == 1_000
