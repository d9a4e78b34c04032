"""Notes played by a sound font's samples, with FluidSynth.

FluidSynth (a system library) and pyfluidsynth (its Python binding) are needed where
`--soundfont` is given and nowhere else.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.signal
import soxr

from cola_msa.system.errors import FileError, UserError
from data_prep.demo.synthesis.patch import SampledTone

# Sound fonts are recorded at this rate: lower ones would fold their treble down.
_RATE_HZ = 44100
_DRUM_BANK, _DRUM_CHANNEL = 128, 9
_GAIN = 0.5
_PEAK_Q = 0.8
# General MIDI's keys of the built-in drums.
DRUM_KEYS = {
    "kick": 36,
    "rim": 37,
    "snare": 38,
    "clap": 39,
    "hat": 42,
    "foot": 44,
    "tom": 45,
    "open": 46,
    "crash": 49,
    "ride": 51,
    "tambourine": 54,
    "timpani": 41,
    "brush": 40,
    "shaker": 70,
}
# (start in seconds, length in seconds, MIDI key, velocity 0 to 1)
Strike = tuple[float, float, int, float]


@functools.cache
def _binding() -> Any:
    """pyfluidsynth, with FluidSynth's own messages turned off."""
    try:
        module = importlib.import_module("fluidsynth")
    except ImportError as error:
        raise UserError(
            "--soundfont needs FluidSynth and its binding: "
            "apt-get install libfluidsynth3 (macOS: brew install fluid-synth), then "
            f"pip install 'cola_msa[soundfont]' ({error})"
        ) from error
    quiet = getattr(module, "_fl", None)
    if quiet is not None and hasattr(quiet, "fluid_set_log_function"):
        for level in range(1, 5):  # errors to debugging; panic stays
            quiet.fluid_set_log_function(level, None, None)
    return module


def check_soundfont(path: str | os.PathLike[str]) -> None:
    """Refuses what FluidSynth cannot play.

    Args:
        path: a .sf2 or .sf3 file.

    Raises:
        FileError: If it is no sound font with General MIDI's piano and drums.
        UserError: If FluidSynth is not installed.
    """
    if not pathlib.Path(path).is_file():
        raise FileError(f"--soundfont={os.fspath(path)}: there is no such file")
    synth = _binding().Synth(samplerate=_RATE_HZ)
    try:
        number = _load(synth, path)
        for bank, what in ((0, "piano"), (_DRUM_BANK, "drum kit")):
            if not _has(synth, number, bank, 0):
                raise FileError(
                    f"--soundfont={os.fspath(path)} has no {what} (bank {bank}, "
                    "program 0): it takes a General MIDI sound font, such as FluidR3"
                )
    finally:
        synth.delete()


def _load(synth: Any, path: str | os.PathLike[str]) -> int:
    # Only the samples that are played are read.
    synth.setting("synth.dynamic-sample-loading", 1)
    number = synth.sfload(os.fspath(path))
    if number < 0:
        raise FileError(
            f"--soundfont={os.fspath(path)} is no sound font that FluidSynth reads "
            "(.sf2, .sf3)"
        )
    return number


def _has(synth: Any, number: int, bank: int, program: int) -> bool:
    return synth.sfpreset_name(number, bank, program) is not None


def play(
    soundfont: str | os.PathLike[str],
    tone: SampledTone,
    strikes: Iterable[Strike],
    num_samples: int,
    sample_rate_hz: int,
) -> np.ndarray:
    """Plays notes on one instrument.

    Args:
        soundfont: the file.
        tone: the instrument; one that the sound font lacks is its bank's first.
        strikes: notes in any order; what lies outside the result falls out.
        num_samples: length of the result.
        sample_rate_hz: of the result.

    Returns:
        float32 [num_samples], not yet levelled; dry, and equalised.
    """
    strikes = list(strikes)
    num_played = -(-num_samples * _RATE_HZ // sample_rate_hz)
    waveform = _play(soundfont, tone, strikes, num_played).mean(axis=0)
    for centre_hz, decibels in tone.peaks:
        waveform = _equalise(waveform, centre_hz, decibels)
    waveform = soxr.resample(waveform, _RATE_HZ, sample_rate_hz)[:num_samples]
    missing = num_samples - len(waveform)
    return np.pad(waveform, (0, missing)).astype(np.float32)


def _write(synth: Any, output: np.ndarray) -> None:
    """Fills float32 [2, n] with what comes next.

    Not by pyfluidsynth's own `get_samples`: 16 bits would be cut off at full scale, and
    are dithered by numbers from the C library's `rand`, so that they depend on what the
    process did before.
    """
    write = _binding()._fl.fluid_synth_write_float
    pointer, number = ctypes.c_void_p, ctypes.c_int
    write.argtypes = [pointer, number, *(2 * [pointer, number, number])]
    left, right = (channel.ctypes.data for channel in output)
    if write(synth.synth, output.shape[1], left, 0, 1, right, 0, 1):
        raise UserError("FluidSynth cannot play: fluid_synth_write_float failed")


def _play(
    soundfont: str | os.PathLike[str],
    tone: SampledTone,
    strikes: list[Strike],
    num_samples: int,
) -> np.ndarray:
    """Stereo, float32 [2, num_samples]."""
    synth = _binding().Synth(gain=_GAIN, samplerate=float(_RATE_HZ), channels=16)
    output = np.zeros((2, num_samples), np.float32)
    try:
        for effect in ("reverb", "chorus"):  # songs have a room of their own
            synth.setting(f"synth.{effect}.active", 0)
        number = _load(synth, soundfont)
        is_drums = tone.bank == _DRUM_BANK
        channel = _DRUM_CHANNEL if is_drums else 0
        program = tone.program if _has(synth, number, tone.bank, tone.program) else 0
        synth.program_select(channel, number, tone.bank, program)
        events: list[tuple[int, int, int, int]] = []
        for start_seconds, held_seconds, key, velocity in strikes:
            start = max(round(start_seconds * _RATE_HZ), 0)
            stop = round((start_seconds + held_seconds) * _RATE_HZ)
            if not (start < num_samples and stop > start and 0 <= key <= 127):
                continue
            level = int(np.clip(round(127 * velocity), 1, 127))
            # A key is let go before it is struck again.
            events += [(stop, 0, key, 0), (start, 1, key, level)]
        now = 0
        for when, is_start, key, level in sorted(events):
            when = min(when, num_samples)
            if when > now:
                _write(synth, output[:, now:when])
                now = when
            if is_start:
                synth.noteon(channel, key, level)
            else:
                synth.noteoff(channel, key)
        if num_samples > now:
            _write(synth, output[:, now:])
        return output
    finally:
        synth.delete()


def _equalise(waveform: np.ndarray, centre_hz: float, decibels: float) -> np.ndarray:
    """A peak or dip; source: R. Bristow-Johnson's Audio EQ Cookbook, peakingEQ."""
    amplitude = 10.0 ** (decibels / 40.0)
    angle = 2.0 * np.pi * centre_hz / _RATE_HZ
    alpha = np.sin(angle) / (2.0 * _PEAK_Q)
    cosine = -2.0 * np.cos(angle)
    numerator = [1.0 + alpha * amplitude, cosine, 1.0 - alpha * amplitude]
    denominator = [1.0 + alpha / amplitude, cosine, 1.0 - alpha / amplitude]
    return scipy.signal.lfilter(numerator, denominator, waveform)
