"""Remixing: mixtures that nobody made, from the stems of a mini-batch.

With few songs a network learns by heart which stems belong together. A remixed anchor
holds its own stem between stems of other pairs' songs, each moved in pitch, filtered
and levelled at random; the positive is moved and filtered as its stem was. All that
tells a pair is then that the one sounds within the other.

Mel magnitudes of stems that are not in phase add as powers: the log-mel of a sum is
0.5 log(sum of exp(2 log-mel)).
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

_KEEP_PROBABILITY = 0.85  # of a stem beside the pair's own
_MAX_SHIFT = 3  # mel bands, both ways
_NUM_WAVES = 4  # cosines whose sum is a filter
_WAVE_DEVIATION = 0.5  # nepers, of each cosine's amplitude
_LEVEL_DEVIATION = 0.3  # nepers
_FLOOR_MARGIN = 0.05  # nepers above the floor up to which a value counts as silence


def draw_remix(
    seed: tf.Tensor, batch_size: Any, num_sources: int, num_mels: int = 64
) -> dict[str, tf.Tensor]:
    """Draws which stems meet, and what becomes of each.

    Args:
        seed: int64 [2]; equal seeds give equal parameters.
        batch_size: Pairs.
        num_sources: Stems a song.
        num_mels: Mel bands.

    Returns:
        For every pair and source: `donor` int32 [batch, sources], the pair whose stem
        is taken; `is_kept` bool [batch, sources]; `shift` int32 [batch, sources], mel
        bands upwards; `filter` float32 [batch, sources, num_mels] and `level` float32
        [batch, sources], both natural logarithms of a gain.
    """

    def fold(number: int) -> tf.Tensor:
        return tf.random.fold_in(seed, number)

    shape = [batch_size, num_sources]
    waves = [*shape, _NUM_WAVES, 1]
    amplitude = _WAVE_DEVIATION * tf.random.stateless_normal(waves, fold(0))
    phase = tf.random.stateless_uniform(waves, fold(1), 0.0, 2.0)
    band = np.arange(num_mels, dtype=np.float32) / num_mels
    number = np.arange(1, _NUM_WAVES + 1, dtype=np.float32)[:, np.newaxis]
    return {
        "donor": tf.random.stateless_uniform(shape, fold(2), 0, batch_size, tf.int32),
        "is_kept": tf.random.stateless_uniform(shape, fold(3)) < _KEEP_PROBABILITY,
        "shift": tf.random.stateless_uniform(
            shape, fold(4), -_MAX_SHIFT, _MAX_SHIFT + 1, tf.int32
        ),
        "filter": tf.reduce_sum(
            amplitude * tf.cos(math.pi * number * (band + phase)), axis=2
        ),
        "level": _LEVEL_DEVIATION * tf.random.stateless_normal(shape, fold(5)),
    }


def _move(windows: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Moves windows up by mel bands; what leaves at an edge is mirrored there.

    Args:
        windows: float32 [N, frames, num_mels].
        shift: int32 [N], at most num_mels - 1 either way.
    """
    last = windows.shape[2] - 1
    band = tf.abs(tf.range(last + 1) - shift[:, tf.newaxis])
    band = last - tf.abs(last - band)
    return tf.gather(windows, band, axis=2, batch_dims=1)


def _amplify(windows: tf.Tensor, gain: tf.Tensor, floor: float) -> tf.Tensor:
    """Adds a gain [N, num_mels] where there is sound; silence stays silence."""
    louder = tf.maximum(windows + gain[:, tf.newaxis, :], floor)
    return tf.where(windows > floor + _FLOOR_MARGIN, louder, windows)


def apply_remix(
    stems: tf.Tensor,
    is_active: tf.Tensor,
    positive: tf.Tensor,
    source: tf.Tensor,
    parameters: dict[str, tf.Tensor],
    log_floor: float = 1e-5,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes anchors from stems, and treats positives as their stems.

    Args:
        stems: float32 [batch, sources, frames, num_mels], the stems of every anchor
            window, natural logarithms of mel magnitudes.
        is_active: bool [batch, sources]; other stems are not used.
        positive: float32 [batch, frames, num_mels, 1].
        source: int32 [batch], each positive's source.
        parameters: From `draw_remix`; a pair's own stem is always its own and kept.
        log_floor: The magnitude that the front end clips to from below.

    Returns:
        Anchor and positive, float32 [batch, frames, num_mels, 1]; an anchor without
        any stem is at the floor.
    """
    floor = math.log(log_floor)
    num_sources, num_frames, num_mels = stems.shape[1:]
    batch_size = tf.shape(stems)[0]
    is_own = tf.range(num_sources) == source[:, tf.newaxis]
    donor = tf.where(is_own, tf.range(batch_size)[:, tf.newaxis], parameters["donor"])
    # Stems as one long list: row `pair * sources + source`.
    flat = donor * num_sources + tf.range(num_sources)
    flat = tf.reshape(flat, [-1])
    stacked = tf.reshape(stems, [-1, num_frames, num_mels])
    is_used = tf.gather(tf.reshape(is_active, [-1]), flat)
    is_used &= tf.reshape(parameters["is_kept"] | is_own, [-1])
    shift = tf.reshape(parameters["shift"], [-1])
    gain = parameters["filter"] + parameters["level"][..., tf.newaxis]
    moved = _move(tf.gather(stacked, flat), shift)
    moved = _amplify(moved, tf.reshape(gain, [-1, num_mels]), floor)
    # What is at the floor adds nothing.
    is_used = is_used[:, tf.newaxis, tf.newaxis] & (moved > floor)
    moved = tf.where(is_used, moved, 4.0 * floor)
    moved = tf.reshape(moved, [-1, num_sources, num_frames, num_mels])
    mixture = 0.5 * tf.reduce_logsumexp(2.0 * moved, axis=1)
    anchor = tf.maximum(mixture, floor)
    positive = _move(
        tf.squeeze(positive, -1),
        tf.gather(parameters["shift"], source, batch_dims=1),
    )
    positive = _amplify(
        positive, tf.gather(parameters["filter"], source, batch_dims=1), floor
    )
    shape = [None, num_frames, num_mels, 1]
    return (
        tf.ensure_shape(anchor[..., tf.newaxis], shape),
        tf.ensure_shape(positive[..., tf.newaxis], shape),
    )
