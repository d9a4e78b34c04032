"""Pitch shift of waveforms that keeps their length, each window by its own interval.

A window is cut into segments of constant length in the result. Each is read from about
the same place of the original, faster or slower by the pitch ratio, and begins where it
goes on best from the segment before (waveform similarity overlap-add, WSOLA). Segments
begin at whole samples, so that one set of interpolation filters serves all segments of
a window, and interpolation is a matrix product.

Source: CLMR (Spijkervet and Burgoyne 2021); range of the published code,
    github.com/Spijkervet/torchaudio-augmentations, commit 891b3b6,
    `augmentations/pitch_shift.py`, which calls sox's `pitch`. WSOLA: Verhelst and
    Roelands 1993.
"""

import math
from typing import Any

import tensorflow as tf

PITCH_CENTS = (-700, 700)

# As sox's `tempo`, upon which its `pitch` stands.
_SEGMENT_SECONDS = 0.082
_OVERLAP_SECONDS = 0.012
_SEARCH_SECONDS = 0.01468
_BLOCK = 32  # samples that one matrix makes
_ZERO_CROSSINGS = 8  # of the interpolation's sinc, each side
_MAX_RATIO = 2.0 ** (PITCH_CENTS[1] / 1200)
_SILENCE = 1e-9  # energy of a candidate below which likeness means nothing


def draw_pitch(seed: tf.Tensor, num_windows: Any) -> dict[str, tf.Tensor]:
    """Draws `cents` int32 [windows], uniform in PITCH_CENTS, both included.

    Source: `augmentations/pitch_shift.py`; differs: none.
    """
    low, high = PITCH_CENTS
    return {
        "cents": tf.random.stateless_uniform(
            [num_windows], seed, low, high + 1, tf.int32
        )
    }


def _slices(waveforms: tf.Tensor, begin: tf.Tensor, length: int) -> tf.Tensor:
    """`length` samples of every window from `begin` int32 [windows, ...] on."""
    position = begin[..., tf.newaxis] + tf.range(length)
    return tf.gather(waveforms, position, axis=1, batch_dims=1)


def _starts(
    padded: tf.Tensor,
    margin: int,
    ratio: tf.Tensor,
    num_samples: int,
    sizes: tuple[int, int, int],
) -> tf.Tensor:
    """Where segments begin in the original, int32 [windows, segments].

    Args:
        padded: float32 [windows, ...], zeros before and after the waveforms.
        margin: Zeros before.
        ratio: float32 [windows], how much faster segments are read.
        num_samples: Samples of a window.
        sizes: Samples of a segment, of an overlap, and of the search.
    """
    segment, overlap, search = sizes
    hop = segment - overlap
    num_segments = -(-num_samples // hop)
    search = min(search, max(num_samples - 1, 0))
    step = tf.cast(tf.round(ratio * hop), tf.int32)
    length = 1 << (search + overlap - 1).bit_length()

    def find(number: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
        needed = tf.minimum(segment, num_samples - number * hop)
        last = num_samples - tf.cast(
            tf.math.ceil(ratio * tf.cast(needed, tf.float32)), tf.int32
        )
        first = tf.minimum(number * hop - search // 2, last - search)
        first = tf.maximum(first, 0)
        wanted = _slices(padded, before + step + margin, overlap)
        region = _slices(padded, first + margin, search + overlap)
        product = tf.math.conj(tf.signal.rfft(wanted, [length]))
        product *= tf.signal.rfft(region, [length])
        likeness = tf.signal.irfft(product, [length])[:, : search + 1]
        energy = tf.cumsum(region * region, axis=1)
        energy = tf.pad(energy, [[0, 0], [1, 0]])
        energy = energy[:, overlap:] - energy[:, : search + 1]
        likeness *= tf.math.rsqrt(tf.maximum(energy, _SILENCE))
        return first + tf.argmax(likeness, axis=1, output_type=tf.int32)

    found = tf.TensorArray(tf.int32, num_segments, element_shape=[None])
    start = tf.zeros_like(step)
    found = found.write(0, start)

    def body(number: tf.Tensor, start: tf.Tensor, found: Any) -> Any:
        start = find(number, start)
        return number + 1, start, found.write(number, start)

    _, _, found = tf.while_loop(
        lambda number, *_: number < num_segments,
        body,
        (1, start, found),
        maximum_iterations=num_segments - 1,
        parallel_iterations=1,
    )
    return tf.transpose(tf.ensure_shape(found.stack(), [num_segments, None]))


def apply_pitch(
    waveforms: tf.Tensor, cents: tf.Tensor, sample_rate_hz: int
) -> tf.Tensor:
    """Shifts the pitch of windows and keeps their length.

    Args:
        waveforms: float32 [windows, samples], samples known.
        cents: int32 [windows] in PITCH_CENTS, hundredths of a semitone upwards.
        sample_rate_hz: Samples a second.

    Returns:
        float32 [windows, samples]; frequencies are multiplied by 2 ** (cents / 1200),
        those that would exceed half the sample rate are left out.

    Source: sox's `pitch`, a change of tempo by WSOLA, then of the sample rate, with
        the lengths of its segments; differs: both in one step, segments near the end
        begin earlier so that none reads beyond it, and candidates are compared by
        normalized correlation.
    """
    num_samples = waveforms.shape[1]
    num_blocks = round(_SEGMENT_SECONDS * sample_rate_hz / _BLOCK)
    segment = num_blocks * _BLOCK
    overlap = round(_OVERLAP_SECONDS * sample_rate_hz)
    search = round(_SEARCH_SECONDS * sample_rate_hz)
    hop = segment - overlap
    ratio = tf.pow(2.0, tf.cast(cents, tf.float32) / 1200.0)
    margin = math.ceil(_ZERO_CROSSINGS * _MAX_RATIO)
    taps = math.ceil(_BLOCK * _MAX_RATIO) + 2 * margin
    longest = math.ceil(segment * _MAX_RATIO) + taps + search + overlap
    padded = tf.pad(waveforms, [[0, 0], [margin, longest]])
    starts = _starts(padded, margin, ratio, num_samples, (segment, overlap, search))

    # Interpolation filters, the same in all segments: [windows, blocks, taps, _BLOCK].
    block_at = tf.range(num_blocks, dtype=tf.float32) * _BLOCK * ratio[:, tf.newaxis]
    block_begin = tf.floor(block_at)
    position = (block_at - block_begin)[:, :, tf.newaxis] + tf.range(
        _BLOCK, dtype=tf.float32
    ) * ratio[:, tf.newaxis, tf.newaxis]
    tap = tf.range(-margin, taps - margin, dtype=tf.float32)[:, tf.newaxis]
    density = 1.0 / tf.maximum(ratio, 1.0)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    distance = (tap - position[:, :, tf.newaxis, :]) * density
    phase = tf.maximum(tf.abs(distance), 1e-6) * math.pi
    taper = tf.maximum(1.0 - tf.square(distance / _ZERO_CROSSINGS), 0.0)
    filters = tf.sin(phase) / phase * tf.square(taper) * density

    begin = starts[:, tf.newaxis, :] + tf.cast(block_begin, tf.int32)[..., tf.newaxis]
    pieces = _slices(padded, begin, taps)  # the margin is their first taps
    blocks = tf.matmul(pieces, filters)  # [windows, blocks, segments, _BLOCK]
    num_segments = starts.shape[1]
    segments = tf.reshape(
        tf.transpose(blocks, [0, 2, 1, 3]), [-1, num_segments, segment]
    )
    fade = tf.range(1, overlap + 1, dtype=tf.float32) / (overlap + 1)
    tails = tf.pad(segments[:, :-1, hop:], [[0, 0], [1, 0], [0, 0]])
    # Nothing comes before the first.
    rising = tf.concat(
        [tf.ones([1, overlap]), tf.tile(fade[tf.newaxis], [num_segments - 1, 1])],
        axis=0,
    )
    heads = segments[:, :, :overlap] * rising + tails * (1.0 - fade)
    result = tf.concat([heads, segments[:, :, overlap:hop]], axis=2)
    result = tf.reshape(result, [-1, num_segments * hop])
    return result[:, :num_samples]
