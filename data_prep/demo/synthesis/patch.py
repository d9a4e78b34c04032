"""What an instrument is to the renderer: a patch."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class SampledTone:
    """An instrument of a sound font.

    Attributes:
        bank: its bank; 128 holds drum kits.
        program: its number there, from 0.
        peaks: how it is equalised, as (centre in Hz, decibels).
    """

    bank: int
    program: int
    peaks: tuple[tuple[float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Patch:
    """One instrument's timbre; drawn once a song, or once an NSynth instrument.

    Attributes:
        name: what it is called in tags, for example "acoustic guitar".
        family: NSynth family.
        source: NSynth source: "acoustic", "electronic" or "synthetic".
        engine: "harmonic", "fm" or "modal".
        slope: harmonic k starts at level k ** -slope.
        even: level of even harmonics relative to odd ones.
        pluck_position: where the string is plucked, as a share of its length;
            0 for instruments that are not plucked.
        drawbars: levels of the first harmonics; replaces `slope` where given.
        bodies: resonances as (centre in Hz, width in octaves, gain).
        cutoff_hz: corner of a low-pass filter, 0 for none.
        sweep_octaves: how far above `cutoff_hz` the filter starts.
        sweep_seconds: time constant of the filter's fall.
        attack_seconds: rise time.
        decay_seconds: time constant of the fundamental, 0 for sustained tones.
        damping: how much faster high harmonics decay, per kHz.
        swell_seconds: how late high harmonics enter, as brass does.
        release_seconds: time constant after the note is let go.
        vibrato_hz: vibrato rate.
        vibrato_cents: vibrato depth.
        num_voices: voices in unison.
        detune_cents: spread of the voices.
        breath: level of breath or bow noise.
        click: level of the noise at the onset.
        drive: gain before a tanh, 0 for none.
        fm_ratio: modulator over carrier frequency.
        fm_index: modulation index at the onset, in radians.
        fm_decay_seconds: time constant of the index.
        modes: partials as (frequency ratio, level, decay relative to the first).
        sampled: plays in place of all of these, where a sound font is given.
    """

    name: str
    family: str
    source: str = "acoustic"
    engine: str = "harmonic"
    slope: float = 1.0
    even: float = 1.0
    pluck_position: float = 0.0
    drawbars: tuple[float, ...] = ()
    bodies: tuple[tuple[float, float, float], ...] = ()
    cutoff_hz: float = 0.0
    sweep_octaves: float = 0.0
    sweep_seconds: float = 0.1
    attack_seconds: float = 0.005
    decay_seconds: float = 0.0
    damping: float = 0.0
    swell_seconds: float = 0.0
    release_seconds: float = 0.08
    vibrato_hz: float = 5.0
    vibrato_cents: float = 0.0
    num_voices: int = 1
    detune_cents: float = 0.0
    breath: float = 0.0
    click: float = 0.0
    drive: float = 0.0
    fm_ratio: float = 1.0
    fm_index: float = 0.0
    fm_decay_seconds: float = 0.5
    modes: tuple[tuple[float, float, float], ...] = ()
    sampled: SampledTone | None = None


def add_at(output: np.ndarray, start: int, tone: np.ndarray) -> None:
    """Adds a tone to an output from a sample on; what lies outside falls out."""
    skip = max(-start, 0)
    stop = min(start + len(tone), len(output))
    if stop > start + skip:
        output[start + skip : stop] += tone[skip : stop - start]


def midi_to_hz(midi: float) -> float:
    """Converts a MIDI pitch to a frequency in Hz (A4 = 69 = 440 Hz)."""
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)
