"""Renders single notes of a patch.

Three engines cover all families. `harmonic` reads a table of harmonics whose
levels move over time (the closed form of a damped Karplus-Strong string when the
harmonics decay at different rates, plain additive or subtractive synthesis
otherwise), `fm` is two-operator frequency modulation and `modal` a sum of
decaying inharmonic partials (struck bars and bells).
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.signal

from data_prep.demo.synthesis.patch import Patch, midi_to_hz

TABLE_SIZE = 256
MAX_HARMONICS = 64
FRAMES_PER_SECOND = 100
MAX_RELEASE_SECONDS = 1.5
# Partials above this share of the sample rate would alias under vibrato.
HIGHEST_PARTIAL = 0.46
CLICK_SECONDS = 0.03


def _harmonic_levels(
    patch: Patch, fundamental_hz: float, num_harmonics: int, velocity: float
) -> np.ndarray:
    order = np.arange(1, num_harmonics + 1)
    partial_hz = order * fundamental_hz
    levels: np.ndarray
    if patch.drawbars:
        levels = np.zeros(num_harmonics)
        num_bars = min(num_harmonics, len(patch.drawbars))
        levels[:num_bars] = patch.drawbars[:num_bars]
    else:
        # A softer touch is a darker one.
        levels = order ** -(patch.slope + 0.6 * (1.0 - velocity))
    levels = np.where(order % 2 == 0, levels * patch.even, levels)
    if patch.pluck_position:
        # A string plucked at a node of a harmonic does not sound it.
        levels = levels * np.abs(np.sin(np.pi * order * patch.pluck_position))
    gain = np.ones(num_harmonics)
    for centre_hz, width_octaves, peak in patch.bodies:
        distance = np.log2(partial_hz / centre_hz) / width_octaves
        gain += peak * np.exp(-0.5 * distance**2)
    return levels * gain


def _phase(
    patch: Patch, fundamental_hz: float, num_samples: int, sample_rate_hz: int
) -> np.ndarray:
    """Phase in cycles, float64 [num_samples]."""
    if not patch.vibrato_cents:
        return np.arange(num_samples) * (fundamental_hz / sample_rate_hz)
    seconds = np.arange(num_samples) / sample_rate_hz
    # Players let a note settle before the vibrato sets in.
    depth = np.minimum(seconds / 0.4, 1.0) * patch.vibrato_cents / 1200.0 * np.log(2)
    bend = 1.0 + depth * np.sin(2 * np.pi * patch.vibrato_hz * seconds)
    return np.cumsum(bend) * (fundamental_hz / sample_rate_hz)


def _render_harmonic(
    patch: Patch, fundamental_hz: float, velocity: float, num: int, rate_hz: int
) -> np.ndarray:
    num_harmonics = int(
        np.clip(HIGHEST_PARTIAL * rate_hz / fundamental_hz, 1, MAX_HARMONICS)
    )
    levels = _harmonic_levels(patch, fundamental_hz, num_harmonics, velocity)
    partial_hz = np.arange(1, num_harmonics + 1) * fundamental_hz
    hop = rate_hz // FRAMES_PER_SECOND
    num_frames = num // hop + 1
    frame_seconds = (np.arange(num_frames) / FRAMES_PER_SECOND)[:, None]
    moving = np.broadcast_to(levels, (num_frames, num_harmonics))
    if patch.decay_seconds and patch.damping:
        rate = patch.damping * (partial_hz - fundamental_hz) / 1000.0
        moving = moving * np.exp(-frame_seconds / patch.decay_seconds * rate)
    if patch.swell_seconds:
        lag = patch.swell_seconds * np.log2(1.0 + np.arange(num_harmonics))
        moving = moving * (1.0 - np.exp(-(frame_seconds + 0.01) / (lag + 0.01)))
    if patch.cutoff_hz:
        sweep = patch.sweep_octaves * np.exp(-frame_seconds / patch.sweep_seconds)
        # Half key tracking keeps high notes from vanishing.
        corner_hz = patch.cutoff_hz * np.sqrt(max(fundamental_hz, 110.0) / 220.0)
        corner_hz = corner_hz * 2.0 ** (sweep + 0.7 * (velocity - 0.7))
        moving = moving / (1.0 + (partial_hz / corner_hz) ** 2)
    # Low-discrepancy phases: a table with all phases zero would be one sharp peak.
    angles = 2 * np.pi * ((np.arange(num_harmonics) * 0.754877666) % 1.0)
    spectrum = np.zeros((num_frames, TABLE_SIZE // 2 + 1), np.complex64)
    spectrum[:, 1 : num_harmonics + 1] = moving * np.exp(1j * angles)
    tables = np.empty((num_frames, TABLE_SIZE + 1), np.float32)
    tables[:, :-1] = scipy.fft.irfft(spectrum, TABLE_SIZE, axis=1)
    tables[:, -1] = tables[:, 0]
    flat = tables.ravel()
    row = np.repeat(np.arange(num_frames) * (TABLE_SIZE + 1), hop)[:num]
    cycles = _phase(patch, fundamental_hz, num, rate_hz)
    tone = np.zeros(num, np.float32)
    for voice in range(patch.num_voices):
        spread = voice - (patch.num_voices - 1) / 2
        ratio = 2.0 ** (spread * patch.detune_cents / 1200.0)
        position = ((cycles * ratio + 0.37 * voice) % 1.0) * TABLE_SIZE
        whole = position.astype(np.int64)
        part = (position - whole).astype(np.float32)
        index = row + whole
        first = flat[index]
        tone += first + part * (flat[index + 1] - first)
    return tone


def _render_fm(
    patch: Patch, fundamental_hz: float, velocity: float, num: int, rate_hz: int
) -> np.ndarray:
    seconds = np.arange(num, dtype=np.float32) / rate_hz
    cycles = _phase(patch, fundamental_hz, num, rate_hz)
    # A modulator above a quarter of the sample rate would alias.
    ratio = patch.fm_ratio
    while ratio > 1.0 and ratio * fundamental_hz > rate_hz / 4:
        ratio -= 1.0
    angle = (2 * np.pi * (cycles % 1.0)).astype(np.float32)
    modulator_angle = (2 * np.pi * (cycles * ratio % 1.0)).astype(np.float32)
    fall = 0.15 + np.exp(-seconds / np.float32(patch.fm_decay_seconds))
    index = np.float32(patch.fm_index * (0.4 + 0.8 * velocity)) * fall
    return np.sin(angle + index * np.sin(modulator_angle))


def _render_modal(
    patch: Patch, fundamental_hz: float, velocity: float, num: int, rate_hz: int
) -> np.ndarray:
    seconds = np.arange(num, dtype=np.float32) / rate_hz
    tone = np.zeros(num, np.float32)
    for order, (ratio, level, relative_decay) in enumerate(patch.modes):
        if ratio * fundamental_hz > HIGHEST_PARTIAL * rate_hz:
            continue
        decay = patch.decay_seconds * relative_decay
        touch = 1.0 if order == 0 else 0.3 + 0.7 * velocity
        cycles = np.arange(num) * (ratio * fundamental_hz / rate_hz) % 1.0
        # The fundamental's decay is the envelope's; here only what goes beyond it.
        extra = 1.0 / decay - 1.0 / patch.decay_seconds
        tone += (level * touch) * (
            np.exp(-seconds * np.float32(extra))
            * np.sin((2 * np.pi * cycles).astype(np.float32))
        )
    return tone


_ENGINES = {"harmonic": _render_harmonic, "fm": _render_fm, "modal": _render_modal}


def render_note(
    patch: Patch,
    midi: float,
    held_seconds: float,
    velocity: float,
    sample_rate_hz: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Renders one note.

    Args:
        patch: the instrument.
        midi: pitch, MIDI number (may be fractional).
        held_seconds: time until the note is let go; the release comes on top.
        velocity: 0 to 1; the peak of the note, and its brightness.
        sample_rate_hz: of the result.
        rng: for breath and click noise.

    Returns:
        float32 [samples] with peak `velocity`.
    """
    release_seconds = min(4.0 * patch.release_seconds, MAX_RELEASE_SECONDS)
    num_held = max(int(held_seconds * sample_rate_hz), 1)
    num = num_held + int(release_seconds * sample_rate_hz)
    fundamental_hz = midi_to_hz(midi)
    tone = _ENGINES[patch.engine](patch, fundamental_hz, velocity, num, sample_rate_hz)
    tone = tone / max(float(np.abs(tone).max()), 1e-6)
    seconds = np.arange(num, dtype=np.float32) / sample_rate_hz
    if patch.breath:
        noise = rng.standard_normal(num).astype(np.float32)
        corner = min(3.0 * fundamental_hz, 0.4 * sample_rate_hz) / (sample_rate_hz / 2)
        numerator, denominator = scipy.signal.butter(1, [0.3 * corner, corner], "band")
        tone += patch.breath * scipy.signal.lfilter(numerator, denominator, noise)
    if patch.click:
        num_click = min(int(CLICK_SECONDS * sample_rate_hz), num)
        noise = rng.standard_normal(num_click).astype(np.float32)
        fade = np.exp(-seconds[:num_click] / (CLICK_SECONDS / 5))
        tone[:num_click] += patch.click * velocity * noise * fade
    envelope = np.minimum(seconds / patch.attack_seconds, 1.0).astype(np.float32)
    if patch.decay_seconds:
        # Short strings and bars ring shorter.
        decay = patch.decay_seconds * float(
            np.clip((220.0 / fundamental_hz) ** 0.4, 0.3, 1.6)
        )
        envelope = envelope * np.exp(-seconds / decay)
    envelope[num_held:] *= np.exp(
        -(seconds[num_held:] - seconds[num_held - 1]) / patch.release_seconds
    )
    tone = tone * envelope
    if patch.drive:
        tone = np.tanh(patch.drive * tone)
    # The last 5 ms go to zero, so that a cut release does not click.
    num_fade = min(sample_rate_hz // 200, num)
    tone[-num_fade:] *= np.linspace(1.0, 0.0, num_fade, dtype=np.float32)
    peak = max(float(np.abs(tone).max()), 1e-6)
    return (tone * (velocity / peak)).astype(np.float32)
