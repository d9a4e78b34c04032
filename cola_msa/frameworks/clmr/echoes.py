"""Delay and reverberation of waveforms.

Functions named `draw_*` draw parameters for every window, by counters and without
state; those named `apply_*` apply given ones.

Source: CLMR (Spijkervet and Burgoyne 2021), whose ranges stand in the published code:
    github.com/Spijkervet/torchaudio-augmentations, commit 891b3b6.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.frameworks.clmr.filters import fast_length

DELAY_MS = tuple(range(200, 500, 50))  # 500 is not among them, as in the code
DELAY_MIX = 0.5
REVERB_LIMIT = 100  # of reverberance, damping and room size: 0 to 99, as in the code

# Freeverb's delay lines, in samples at 44.1 kHz.
_REVERB_RATE_HZ = 44100
_COMB_DELAYS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
_ALLPASS_DELAYS = (225, 341, 441, 556)
_ALLPASS_FEEDBACK = 0.5
_CHANNEL_OFFSET = 12  # how much longer or shorter they are in the second channel
_WET_GAIN = 0.015
_FEEDBACK = (0.3, 0.98)  # at reverberance 0 and 100; between them 1 - f is geometric
_DAMPING = (0.2, 0.5)  # at damping 0 and 100
_ROOM = (0.1, 1.0)  # scale of the comb filters' delays at room size 0 and 100
_WRAP_DECAY = 1000.0  # how much fainter the tail is that wraps around: 60 dB
_BLOCK = 256  # bins; powers of z are products of two short lists


def draw_delay(seed: tf.Tensor, num_windows: Any) -> dict[str, tf.Tensor]:
    """Draws `delay_ms` int32 [windows], milliseconds, one of DELAY_MS.

    Source: `augmentations/delay.py`; differs: none.
    """
    number = tf.random.stateless_uniform(
        [num_windows], seed, 0, len(DELAY_MS), tf.int32
    )
    return {"delay_ms": tf.gather(DELAY_MS, number)}


def apply_delay(
    waveforms: tf.Tensor, delay_ms: tf.Tensor, sample_rate_hz: int
) -> tf.Tensor:
    """Adds half of what sounded a while ago, and halves the sum.

    Args:
        waveforms: float32 [windows, samples], samples known.
        delay_ms: int32 [windows], milliseconds.
        sample_rate_hz: Samples a second.

    Returns:
        float32 [windows, samples].
    """
    num_samples = waveforms.shape[1]
    offset = tf.cast(delay_ms, tf.int64) * sample_rate_hz // 1000
    longest = max(DELAY_MS) * sample_rate_hz // 1000
    padded = tf.pad(waveforms, [[0, 0], [longest, 0]])
    first = longest - tf.cast(offset, tf.int32)
    position = first[:, tf.newaxis] + tf.range(num_samples)
    delayed = tf.gather(padded, position, axis=1, batch_dims=1)
    return (waveforms + DELAY_MIX * delayed) / 2.0


def draw_reverb(seed: tf.Tensor, num_windows: Any) -> dict[str, tf.Tensor]:
    """Draws a room for every window.

    Args:
        seed: int64 [2]; equal seeds give equal parameters.
        num_windows: Windows.

    Returns:
        `reverberance`, `damping` and `room_size`, int32 [windows], per cent, uniform
        from 0 to 99.

    Source: `augmentations/reverb.py`; differs: none.
    """
    names = ("reverberance", "damping", "room_size")
    return {
        name: tf.random.stateless_uniform(
            [num_windows], tf.random.fold_in(seed, number), 0, REVERB_LIMIT, tf.int32
        )
        for number, name in enumerate(names)
    }


def _between(limits: tuple[float, float], percent: tf.Tensor) -> tf.Tensor:
    low, high = limits
    return low + (high - low) * tf.cast(percent, tf.float32) / 100.0


def apply_reverb(
    waveforms: tf.Tensor,
    reverberance: tf.Tensor,
    damping: tf.Tensor,
    room_size: tf.Tensor,
    sample_rate_hz: int,
) -> tf.Tensor:
    """Adds a room's reverberation: eight comb filters, four all-pass filters.

    Args:
        waveforms: float32 [windows, samples], samples known.
        reverberance: int32 [windows], per cent: how slowly it decays.
        damping: int32 [windows], per cent: how much faster high frequencies do.
        room_size: int32 [windows], per cent: how long the comb filters' delays are.
        sample_rate_hz: Samples a second.

    Returns:
        float32 [windows, samples], the dry waveform and its reverberation, of which
        two channels are averaged. What goes on after the window's end is cut off.

    Source: the published code calls sox's `reverb`, which is Jezar's Freeverb (J. O.
        Smith, Physical Audio Signal Processing, "Freeverb"); differs: the filters'
        transfer functions are multiplied in the spectrum. Filters that sound for
        seconds would wrap around, were they not evaluated outside of the unit circle,
        where they decay sooner: what wraps is 60 dB below.
    """
    num_samples = waveforms.shape[1]
    rate = sample_rate_hz / _REVERB_RATE_HZ
    longest = int((max(_COMB_DELAYS) + _CHANNEL_OFFSET) * rate)
    length = fast_length(max(num_samples, longest))
    decay = _WRAP_DECAY ** (-1.0 / length)
    weight = (decay ** np.arange(num_samples)).astype(np.float32)
    spectrum = tf.signal.rfft(
        tf.pad(waveforms * weight, [[0, 0], [0, length - num_samples]])
    )
    num_bins = length // 2 + 1
    num_blocks = -(-num_bins // _BLOCK)
    angle = 2.0 * math.pi / length

    def advance(num_steps: tf.Tensor) -> tf.Tensor:
        """Powers of z at every bin, complex64 [windows, blocks, _BLOCK]."""
        steps = num_steps[:, tf.newaxis]
        # Angles are few and in float64: resonances multiply their errors.
        fine = tf.cast(tf.range(_BLOCK) * steps % length, tf.float64) * angle
        coarse = tf.range(num_blocks) * _BLOCK * steps % length
        coarse = tf.cast(coarse, tf.float64) * angle
        size = decay ** -tf.cast(steps, tf.float64)
        fine = tf.complex(size * tf.cos(fine), size * tf.sin(fine))
        coarse = tf.complex(tf.cos(coarse), tf.sin(coarse))
        coarse = tf.cast(coarse, tf.complex64)[:, :, tf.newaxis]
        return coarse * tf.cast(fine, tf.complex64)[:, tf.newaxis, :]

    low, high = (math.log(1.0 - value) for value in _FEEDBACK)
    feedback = 1.0 - tf.exp(_between((low, high), reverberance))
    feedback = tf.complex(feedback, 0.0)[:, tf.newaxis, tf.newaxis]
    absorbed = _between(_DAMPING, damping)
    absorbed = tf.complex(absorbed, 0.0)[:, tf.newaxis, tf.newaxis]
    one_step = advance(tf.ones_like(reverberance))
    # f (1 - d) / (1 - d / z)
    loop = feedback * (1.0 - absorbed) * one_step / (one_step - absorbed)
    scale = _between(_ROOM, room_size) * rate
    response = tf.zeros_like(loop)
    for channel in (0, 1):
        combs = tf.zeros_like(loop)
        for delay in _delays(_COMB_DELAYS, channel):
            steps = tf.cast(scale * delay + 0.5, tf.int32)
            combs += tf.math.reciprocal(advance(steps) - loop)
        delays = [int(d * rate + 0.5) for d in _delays(_ALLPASS_DELAYS, channel)]
        response += combs * _allpass(delays, decay, num_blocks, length)
    response = tf.reshape(response, [-1, num_blocks * _BLOCK])[:, :num_bins]
    reverberation = tf.signal.irfft(spectrum * response, [length])[:, :num_samples]
    return waveforms + reverberation * (0.5 * _WET_GAIN / weight)


def _delays(delays: tuple[int, ...], channel: int) -> list[int]:
    """A channel's, at 44.1 kHz."""
    offset = channel * _CHANNEL_OFFSET
    return [d + offset * (-1) ** number for number, d in enumerate(delays)]


def _allpass(
    delays: list[int], decay: float, num_blocks: int, length: int
) -> np.ndarray:
    """All-pass filters one after another at every bin, complex64 [blocks, _BLOCK]."""
    bins = np.arange(num_blocks * _BLOCK)
    response = np.ones(len(bins), np.complex128)
    for delay in delays:
        # ((1 + g) / z - 1) / (1 - g / z), z the delay, g the feedback.
        back = decay**delay * np.exp(-2j * np.pi / length * (bins * delay % length))
        response *= (1.0 + _ALLPASS_FEEDBACK) * back - 1.0
        response /= 1.0 - _ALLPASS_FEEDBACK * back
    return response.reshape(num_blocks, _BLOCK).astype(np.complex64)
