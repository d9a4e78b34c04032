"""Delay and reverb: impulse responses, decay, and filters run sample by sample."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.frameworks.clmr import echoes
from tests.helpers.signals import (
    RATE,
    SAMPLES,
    decibels,
    impulse,
    noise,
)

SEED = tf.constant([3, 4], tf.int64)


def reverb(waveforms, reverberance, damping, room_size):
    return echoes.apply_reverb(
        tf.constant(np.atleast_2d(waveforms), tf.float32),
        *(
            tf.constant(np.atleast_1d(v), tf.int32)
            for v in (reverberance, damping, room_size)
        ),
        RATE,
    ).numpy()


def test_delay_adds_half_after_the_time_drawn_and_halves_all():
    times_ms = np.array(echoes.DELAY_MS)
    waveforms = tf.constant(np.stack([impulse(1_000)] * len(times_ms)))
    result = echoes.apply_delay(waveforms, tf.constant(times_ms), RATE).numpy()
    for row, time_ms in zip(result, times_ms, strict=True):
        at = 1_000 + int(time_ms * RATE / 1000)
        np.testing.assert_array_equal(np.flatnonzero(row), [1_000, at])
        np.testing.assert_allclose(row[[1_000, at]], [0.5, 0.25])


def test_delays_are_the_published_ones_alike_often():
    drawn = echoes.draw_delay(SEED, 12_000)["delay_ms"].numpy()
    times, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(times, [200, 250, 300, 350, 400, 450])
    np.testing.assert_allclose(counts, 2_000, atol=200)


def slow_reverb(waveform, reverberance, damping, room_size):
    """Freeverb, sample by sample, as sox sets it; the mean of both channels' wet."""
    part = reverberance / 100
    feedback = 1 - np.exp(np.log(0.7) * (1 - part) + np.log(0.02) * part)
    absorbed = 0.2 + 0.3 * damping / 100
    scale = 0.1 + 0.9 * room_size / 100
    rate = RATE / 44100
    wet = np.zeros(len(waveform))
    for spread in (0, 12):
        signal = np.zeros(len(waveform))
        sign = 1
        for delay in (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617):
            line = [0.0] * int(scale * rate * (delay + sign * spread) + 0.5)
            store, sign = 0.0, -sign
            for n, value in enumerate(waveform):
                output = line[n % len(line)]
                store = output * (1 - absorbed) + store * absorbed
                line[n % len(line)] = float(value) + store * feedback
                signal[n] += output
        for delay in (225, 341, 441, 556):
            line = [0.0] * int(rate * (delay + sign * spread) + 0.5)
            sign = -sign
            for n, value in enumerate(signal):
                output = line[n % len(line)]
                line[n % len(line)] = value + 0.5 * output
                signal[n] = output - value
        wet += 0.015 * signal / 2
    return waveform + wet


@pytest.mark.parametrize(
    "room", [(0, 0, 0), (50, 50, 50), (99, 0, 99), (99, 99, 0), (20, 80, 70)]
)
def test_reverb_equals_its_filters_run_sample_by_sample(room):
    waveform = noise(1, 6_000)
    expected = slow_reverb(waveform, *room)
    result = reverb(waveform, *room)[0]
    error = decibels((result - expected).std() / (expected - waveform).std())
    assert error < -50
    # What sounds at first has no tail of the end in it.
    first = decibels((result - expected)[:50].std() / (expected - waveform).std())
    assert first < -50


def decay_db(response, begin_s=0.8, end_s=2.4):
    """By how much a response falls a second."""
    cut = int(0.2 * RATE)
    begin, end = int(begin_s * RATE), int(end_s * RATE)
    first, last = response[begin : begin + cut], response[end - cut : end]
    return decibels(last.std() / first.std()) / (end_s - begin_s - 0.2)


def test_reverb_decays_as_its_feedback_says():
    """Damping leaves the lowest frequencies, which fall by the feedback each turn."""
    percent = np.array([60, 80, 99])
    zeros = np.zeros(3, np.int32)
    click = np.tile(impulse(), (3, 1))
    tails = reverb(click, percent, zeros + 99, zeros + 99) - click
    feedback = 1 - 0.7 * (0.02 / 0.7) ** (percent / 100)
    scale = (0.1 + 0.9 * 0.99) * RATE / 44100
    # The slowest comb filter has the longest line, the fastest the shortest.
    slowest, fastest = (decibels(feedback) * RATE / (scale * d) for d in (1617, 1116))
    for row in range(3):
        low = np.convolve(tails[row], np.ones(80) / 80, mode="same")
        measured = decay_db(low)
        assert fastest[row] * 1.05 < measured < slowest[row] * 0.95


def test_damping_shortens_high_frequencies():
    click = np.tile(impulse(), (2, 1))
    tails = reverb(click, [90, 90], [0, 99], [80, 80]) - click
    later = np.abs(np.fft.rfft(tails[:, RATE:], axis=1)) ** 2
    high = np.fft.rfftfreq(SAMPLES - RATE, 1 / RATE) > 3_000
    share = later[:, high].sum(axis=1) / later.sum(axis=1)
    assert share[1] < share[0] / 3


@pytest.mark.parametrize("room_size", [0, 50, 99])
def test_the_first_echo_comes_later_in_a_larger_room(room_size):
    tail = reverb(impulse(), 50, 50, room_size)[0]
    scale = (0.1 + 0.9 * room_size / 100) * RATE / 44100
    lines = [int(scale * (1116 + offset) + 0.5) for offset in (0, 12)]
    first = min(lines)
    assert tail[0] == pytest.approx(1.0, abs=1e-5)
    assert np.abs(tail[1:first]).max() < 1e-5
    # The shortest line, through four all-pass filters: half of 0.015 a channel.
    assert tail[first] == pytest.approx(0.0075 * lines.count(first), rel=0.01)


def test_rooms_are_drawn_from_the_published_range():
    drawn = echoes.draw_reverb(SEED, 10_000)
    assert set(drawn) == {"reverberance", "damping", "room_size"}
    for values in drawn.values():
        counts = np.bincount(values.numpy(), minlength=100)
        assert len(counts) == 100 and counts.min() > 50
    columns = np.corrcoef([v.numpy() for v in drawn.values()])
    assert np.abs(columns - np.eye(3)).max() < 0.04
