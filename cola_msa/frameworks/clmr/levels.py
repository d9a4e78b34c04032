"""Polarity, noise and gain of waveforms.

Functions named `draw_*` draw a parameter a window, by counters and without state; those
named `apply_*` apply given ones. Waveforms are float32 [windows, samples].

Source: CLMR (Spijkervet and Burgoyne 2021), whose ranges stand in the published code:
    github.com/Spijkervet/torchaudio-augmentations, commit 891b3b6.
"""

from typing import Any

import tensorflow as tf

NOISE_RATIO = (1e-4, 1e-2)  # deviation of the noise over the window's: 80 to 40 dB
GAIN_DB = (-20.0, -1.0)


def apply_polarity(waveforms: tf.Tensor) -> tf.Tensor:
    """Turns the sign of every sample, float32 [windows, samples].

    Source: `augmentations/polarity_inversion.py`; differs: none.
    """
    return -waveforms


def draw_noise(seed: tf.Tensor, num_windows: Any) -> dict[str, tf.Tensor]:
    """Draws how loud the noise is, and which noise.

    Args:
        seed: int64 [2]; equal seeds give equal parameters.
        num_windows: Windows.

    Returns:
        `ratio` float32 [windows], the noise's deviation over the window's, uniform in
        NOISE_RATIO; `noise_seed` int32 [windows, 2].

    Source: `augmentations/noise.py`, which calls this ratio a signal-to-noise ratio
        (`min_snr`, `max_snr`); differs: none.
    """
    ratio = tf.random.stateless_uniform(
        [num_windows], tf.random.fold_in(seed, 0), *NOISE_RATIO
    )
    noise_seed = tf.random.stateless_uniform(
        [num_windows, 2], tf.random.fold_in(seed, 1), None, None, tf.int32
    )
    return {"ratio": ratio, "noise_seed": noise_seed}


def apply_noise(
    waveforms: tf.Tensor, ratio: tf.Tensor, noise_seed: tf.Tensor
) -> tf.Tensor:
    """Adds white Gaussian noise, in proportion to a window's deviation.

    Args:
        waveforms: float32 [windows, samples].
        ratio: float32 [windows], see `draw_noise`.
        noise_seed: int32 [windows, 2].

    Returns:
        float32 [windows, samples]; silence stays silence.
    """
    num_samples = tf.shape(waveforms)[1]
    noise = tf.map_fn(
        lambda own_seed: tf.random.stateless_normal([num_samples], own_seed),
        noise_seed,
        fn_output_signature=tf.TensorSpec([waveforms.shape[1]], tf.float32),
    )
    deviation = tf.math.reduce_std(waveforms, axis=1)
    return waveforms + (ratio * deviation)[:, tf.newaxis] * noise


def draw_gain(seed: tf.Tensor, num_windows: Any) -> dict[str, tf.Tensor]:
    """Draws `gain_db` float32 [windows], decibels, uniform in GAIN_DB: quieter only.

    Source: `augmentations/gain.py`; differs: none.
    """
    return {"gain_db": tf.random.stateless_uniform([num_windows], seed, *GAIN_DB)}


def apply_gain(waveforms: tf.Tensor, gain_db: tf.Tensor) -> tf.Tensor:
    """Multiplies windows float32 [windows, samples] by gains [windows] in decibels."""
    return waveforms * tf.pow(10.0, gain_db / 20.0)[:, tf.newaxis]
