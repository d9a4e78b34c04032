"""The NSynth tree: single notes of 11 families, test instruments of their own."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from data_prep.demo import jobs
from data_prep.demo.composition import programs
from data_prep.demo.config import NOTE_SECONDS, SAMPLE_RATE_HZ, SPLITS, DemoConfig
from data_prep.demo.synthesis import instruments, notes, soundfont, voice
from data_prep.demo.synthesis.patch import Patch

STREAM = 2
HELD_SECONDS = 3.0
VELOCITIES = (25, 50, 75, 100, 127)
# NSynth's order: family -> patch makers, lowest and highest MIDI pitch. The voice
# has an engine of its own.
FAMILIES: dict[str, tuple[tuple[str, ...], int, int]] = {
    "bass": (("bass_guitar", "upright_bass", "synth_bass", "sub_bass"), 26, 55),
    "brass": (("brass",), 42, 80),
    "flute": (("flute",), 58, 90),
    "guitar": (("acoustic_guitar", "electric_guitar", "distorted_guitar"), 40, 80),
    "keyboard": (("piano", "electric_piano", "harpsichord"), 32, 92),
    "mallet": (("marimba", "vibraphone", "bells"), 48, 92),
    "organ": (("organ",), 36, 90),
    "reed": (("sax", "clarinet"), 44, 84),
    "string": (("strings", "violin"), 40, 88),
    "synth_lead": (("synth_lead", "synth_pluck"), 40, 88),
    "vocal": ((), 43, 78),
}
SOURCES = ("acoustic", "electronic", "synthetic")
QUALITIES = (
    "bright",
    "dark",
    "distortion",
    "fast_decay",
    "long_release",
    "multiphonic",
    "nonlinear_env",
    "percussive",
    "reverb",
    "tempo-synced",
)
NUM_INSTRUMENTS = {"train": 8, "valid": 3, "test": 3}
SUNG_MANNERS = ("song", "croon", "opera", "choir")


def list_jobs(config: DemoConfig) -> list[jobs.Job]:
    """Lists the instruments; no instrument is in two splits."""
    result: list[jobs.Job] = []
    for split, num_notes in zip(SPLITS, config.num_notes_per_family, strict=True):
        for label in range(len(FAMILIES)):
            for number in range(min(NUM_INSTRUMENTS[split], num_notes)):
                result.append(jobs.Job("nsynth", len(result), split, label, number))
    return result


def _share(total: int, num_shares: int, index: int) -> int:
    """Size of one of several shares that add up to a total."""
    return total // num_shares + (index < total % num_shares)


def _brightness_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform))
    bins_hz = np.fft.rfftfreq(len(waveform), 1.0 / SAMPLE_RATE_HZ)
    return float(np.sum(spectrum * bins_hz) / max(np.sum(spectrum), 1e-9))


def _describe(waveform: np.ndarray, patch: Patch | None) -> list[str]:
    """The qualities of a note, in NSynth's words."""
    level = np.abs(waveform).reshape(8, -1).mean(1)
    brightness_hz = _brightness_hz(waveform)
    is_struck = patch is not None and patch.decay_seconds > 0
    found = {
        "bright": brightness_hz > 2500.0,
        "dark": brightness_hz < 900.0,
        "distortion": patch is not None and patch.drive >= 3.0,
        "fast_decay": level[3] < 0.1 * level[0],
        "long_release": level[7] > 0.05 * level.max(),
        "percussive": is_struck and patch is not None and patch.click > 0.1,
    }
    return [quality for quality in QUALITIES if found.get(quality, False)]


def _fit(waveform: np.ndarray) -> np.ndarray:
    """Cuts or pads to the length of a note."""
    num_samples = int(NOTE_SECONDS * SAMPLE_RATE_HZ)
    waveform = waveform[:num_samples]
    return np.pad(waveform, (0, num_samples - len(waveform)))


def draw_instrument(
    config: DemoConfig, job: jobs.Job
) -> tuple[Patch | None, np.random.Generator]:
    """Draws an instrument's timbre.

    Args:
        config: the music's options.
        job: the instrument.

    Returns:
        The patch (None for a voice), and the generator for what follows.
    """
    rng = jobs.make_rng(config.seed, STREAM, job.index)
    makers = list(FAMILIES.values())[job.label][0]
    if not makers:
        return None, rng
    # Taking turns gives every split every kind of the family.
    maker = makers[job.index_in_split % len(makers)]
    return instruments.draw_patch(maker, rng), rng


def write_instrument(
    output_dir: pathlib.Path,
    config: DemoConfig,
    job: jobs.Job,
    font: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Draws an instrument and writes its notes.

    Args:
        output_dir: root of all trees.
        config: the music's options.
        job: the instrument.
        font: the sound font's file, if samples play it.

    Returns:
        note name -> NSynth's fields, all but the running number `note`.
    """
    patch, rng = draw_instrument(config, job)
    family = list(FAMILIES)[job.label]
    _, low_midi, high_midi = FAMILIES[family]
    source = patch.source if patch else "acoustic"
    singer = voice.draw_voice(rng, str(rng.choice(SUNG_MANNERS)))
    vowel = str(rng.choice(list(voice.VOWEL_FORMANTS_HZ)))
    first = sum(NUM_INSTRUMENTS[s] for s in SPLITS[: SPLITS.index(job.split)])
    number = first + job.index_in_split
    name = f"{family}_{source}_{number:03d}"
    split_index = SPLITS.index(job.split)
    total = config.num_notes_per_family[split_index]
    num_instruments = min(NUM_INSTRUMENTS[job.split], total)
    num_notes = _share(total, num_instruments, job.index_in_split)
    num_pitches = high_midi - low_midi + 1
    chosen = rng.choice(num_pitches * len(VELOCITIES), num_notes, replace=False)
    sampled = None
    if font:
        sampled = programs.draw_family_tone(
            family, split_index, job.index_in_split, rng
        )
    entries: dict[str, dict[str, Any]] = {}
    for choice in sorted(int(value) for value in chosen):
        pitch = low_midi + choice // len(VELOCITIES)
        velocity = VELOCITIES[choice % len(VELOCITIES)]
        loudness = 0.2 + 0.7 * velocity / 127.0
        if font and sampled:
            strike = (0.0, HELD_SECONDS, pitch, max(velocity / 127.0, 1 / 127.0))
            num_samples = int(NOTE_SECONDS * SAMPLE_RATE_HZ)
            tone = soundfont.play(font, sampled, [strike], num_samples, SAMPLE_RATE_HZ)
            tone = tone * (loudness / max(float(np.abs(tone).max()), 1e-6))
        elif patch:
            tone = notes.render_note(
                patch, pitch, HELD_SECONDS, loudness, SAMPLE_RATE_HZ, rng
            )
        else:
            sung = voice.SungNote(0.0, HELD_SECONDS, pitch, 1.0, vowel, vowel, "")
            num_samples = int(NOTE_SECONDS * SAMPLE_RATE_HZ)
            tone = voice.sing([sung], singer, num_samples, SAMPLE_RATE_HZ, rng)
            tone = tone * (loudness / max(float(np.abs(tone).max()), 1e-6))
        tone = _fit(tone)
        qualities = _describe(tone, None if sampled else patch)
        note_name = f"{name}-{pitch:03d}-{velocity:03d}"
        path = output_dir / f"nsynth/nsynth-{job.split}/audio/{note_name}.wav"
        jobs.write_audio(path, tone, SAMPLE_RATE_HZ)
        entries[note_name] = {
            "note_str": note_name,
            "instrument": 100 * job.label + number,
            "instrument_str": name,
            "pitch": pitch,
            "velocity": velocity,
            "sample_rate": SAMPLE_RATE_HZ,
            "qualities": [int(quality in qualities) for quality in QUALITIES],
            "qualities_str": qualities,
            "instrument_family": job.label,
            "instrument_family_str": family,
            "instrument_source": SOURCES.index(source),
            "instrument_source_str": source,
        }
    return entries


def write_metadata(
    output_dir: pathlib.Path, config: DemoConfig, rows: list[dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Writes each split's examples.json.

    Args:
        output_dir: root of all trees.
        config: the music's options.
        rows: of `write_instrument`, in the order of `list_jobs`.

    Returns:
        Counts for the record.
    """
    counts = {}
    number = 0
    listed = list(zip(list_jobs(config), rows, strict=True))
    for split in SPLITS:
        examples: dict[str, dict[str, Any]] = {}
        for job, row in listed:
            if job.split != split:
                continue
            for name, fields in row.items():
                number += 1
                examples[name] = {"note": number, **fields}
        path = output_dir / "nsynth" / f"nsynth-{split}" / "examples.json"
        jobs.write_text(path, json.dumps(examples, indent=1))
        counts[split] = len(examples)
    return {"num_notes": counts, "num_families": len(FAMILIES)}
