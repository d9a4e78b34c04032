"""High-pass and low-pass filters of waveforms, each window with a cut-off of its own.

Source: CLMR (Spijkervet and Burgoyne 2021); ranges of the published code,
    github.com/Spijkervet/torchaudio-augmentations, commit 891b3b6,
    `augmentations/high_low_pass.py`, whose filters are those of the package julius.
"""

import math
from typing import Any

import tensorflow as tf

LOW_PASS_HZ = (2200.0, 4000.0)
HIGH_PASS_HZ = (200.0, 1200.0)
_ZERO_CROSSINGS = 8  # of the low-pass filter's impulse response, each side: julius's


def fast_length(num_samples: int) -> int:
    """The next length without a prime factor above 5, which transforms fast."""
    length = num_samples
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def draw_filter(seed: tf.Tensor, num_windows: Any) -> dict[str, tf.Tensor]:
    """Draws a filter for every window.

    Args:
        seed: int64 [2]; equal seeds give equal parameters.
        num_windows: Windows.

    Returns:
        `is_high_pass` bool [windows], with even chances; `cutoff_hz` float32 [windows],
        uniform in HIGH_PASS_HZ or LOW_PASS_HZ.
    """
    part = tf.random.stateless_uniform([num_windows, 2], seed)
    is_high_pass = part[:, 0] < 0.5
    low = tf.where(is_high_pass, HIGH_PASS_HZ[0], LOW_PASS_HZ[0])
    high = tf.where(is_high_pass, HIGH_PASS_HZ[1], LOW_PASS_HZ[1])
    return {
        "is_high_pass": is_high_pass,
        "cutoff_hz": low + part[:, 1] * (high - low),
    }


def apply_filter(
    waveforms: tf.Tensor,
    is_high_pass: tf.Tensor,
    cutoff_hz: tf.Tensor,
    sample_rate_hz: int,
) -> tf.Tensor:
    """Filters windows by symmetric impulse responses: nothing moves in time.

    Args:
        waveforms: float32 [windows, samples], samples known.
        is_high_pass: bool [windows]; the others are low-pass filters.
        cutoff_hz: float32 [windows], where half of the amplitude is left; not below the
            least of HIGH_PASS_HZ.
        sample_rate_hz: Samples a second.

    Returns:
        float32 [windows, samples].

    Source: julius 0.2.8, `lowpass.py` and `filters.py`: a low-pass filter is a sinc
        under a Hann window of eight zero crossings each side, scaled to sum 1, a
        high-pass filter what that leaves; edges go on with their last sample; differs:
        none.
    """
    num_samples = waveforms.shape[1]
    longest = int(_ZERO_CROSSINGS * sample_rate_hz / min(HIGH_PASS_HZ) / 2)
    cutoff = (cutoff_hz / sample_rate_hz)[:, tf.newaxis]
    half = tf.floor(_ZERO_CROSSINGS / cutoff / 2)
    time = tf.range(-longest, longest + 1, dtype=tf.float32)[tf.newaxis]
    hann = tf.where(
        tf.abs(time) <= half, 0.5 + 0.5 * tf.cos(math.pi * time / half), 0.0
    )
    phase = 2.0 * math.pi * cutoff * time
    response = hann * tf.math.divide_no_nan(tf.sin(phase), phase)
    # The limit at 0.
    response += tf.cast(tf.equal(time, 0.0), tf.float32)
    response /= tf.reduce_sum(response, axis=1, keepdims=True)
    impulse = tf.cast(tf.equal(time, 0.0), tf.float32)
    response = tf.where(is_high_pass[:, tf.newaxis], impulse - response, response)
    padded = tf.concat(
        [
            tf.repeat(waveforms[:, :1], longest, axis=1),
            waveforms,
            tf.repeat(waveforms[:, -1:], longest, axis=1),
        ],
        axis=1,
    )
    length = fast_length(num_samples + 2 * longest)
    padded = tf.pad(padded, [[0, 0], [0, length - num_samples - 2 * longest]])
    response = tf.pad(response, [[0, 0], [0, length - 2 * longest - 1]])
    # What wraps around falls into the padding alone.
    spectrum = tf.signal.rfft(padded) * tf.signal.rfft(response)
    filtered = tf.signal.irfft(spectrum, [length])
    return filtered[:, 2 * longest : 2 * longest + num_samples]
