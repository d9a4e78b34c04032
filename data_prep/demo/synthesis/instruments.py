"""Pitched instruments: draws random timbres (patches) of every family."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from data_prep.demo.synthesis.patch import Patch


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_bodies(
    rng: np.random.Generator, low_hz: float, high_hz: float, num_bodies: int
) -> tuple[tuple[float, float, float], ...]:
    return tuple(
        (
            _log_uniform(rng, low_hz, high_hz),
            _uniform(rng, 0.15, 0.6),
            _uniform(rng, 0.8, 4.0),
        )
        for _ in range(num_bodies)
    )


def _string(name: str, family: str, rng: np.random.Generator, **changes: Any) -> Patch:
    values: dict[str, Any] = {
        "slope": _uniform(rng, 0.7, 1.4),
        "pluck_position": _uniform(rng, 0.08, 0.35),
        "decay_seconds": _log_uniform(rng, 0.5, 1.6),
        "damping": _log_uniform(rng, 0.5, 3.0),
        "bodies": _draw_bodies(rng, 120.0, 2500.0, 3),
        "attack_seconds": _uniform(rng, 0.002, 0.006),
        "release_seconds": _uniform(rng, 0.05, 0.15),
        "click": _uniform(rng, 0.02, 0.15),
    }
    return Patch(name=name, family=family, **(values | changes))


def _blown(name: str, family: str, rng: np.random.Generator, **changes: Any) -> Patch:
    values: dict[str, Any] = {
        "slope": _uniform(rng, 1.0, 1.8),
        "bodies": _draw_bodies(rng, 400.0, 3500.0, 3),
        "attack_seconds": _uniform(rng, 0.03, 0.09),
        "release_seconds": _uniform(rng, 0.05, 0.12),
        "vibrato_hz": _uniform(rng, 4.2, 6.2),
        "vibrato_cents": _uniform(rng, 3.0, 25.0),
        "breath": _uniform(rng, 0.01, 0.06),
    }
    return Patch(name=name, family=family, **(values | changes))


def _acoustic_guitar(rng: np.random.Generator) -> Patch:
    return _string("acoustic guitar", "guitar", rng)


def _electric_guitar(rng: np.random.Generator) -> Patch:
    return _string(
        "electric guitar",
        "guitar",
        rng,
        source="electronic",
        cutoff_hz=_log_uniform(rng, 1500.0, 4000.0),
        decay_seconds=_log_uniform(rng, 1.2, 3.0),
        damping=_uniform(rng, 0.2, 0.8),
        num_voices=2,
        detune_cents=_uniform(rng, 2.0, 9.0),
    )


def _distorted_guitar(rng: np.random.Generator) -> Patch:
    return _string(
        "electric guitar",
        "guitar",
        rng,
        source="electronic",
        cutoff_hz=_log_uniform(rng, 2200.0, 5000.0),
        decay_seconds=_log_uniform(rng, 2.0, 4.0),
        damping=_uniform(rng, 0.05, 0.3),
        drive=_log_uniform(rng, 4.0, 14.0),
    )


def _harp(rng: np.random.Generator) -> Patch:
    return _string(
        "harp",
        "guitar",
        rng,
        slope=_uniform(rng, 1.5, 2.2),
        decay_seconds=_log_uniform(rng, 1.2, 2.4),
        pluck_position=_uniform(rng, 0.35, 0.5),
        release_seconds=0.4,
    )


def _harpsichord(rng: np.random.Generator) -> Patch:
    return _string(
        "harpsichord",
        "keyboard",
        rng,
        slope=_uniform(rng, 0.25, 0.6),
        pluck_position=_uniform(rng, 0.05, 0.14),
        click=_uniform(rng, 0.15, 0.3),
    )


def _piano(rng: np.random.Generator) -> Patch:
    return _string(
        "piano",
        "keyboard",
        rng,
        slope=_uniform(rng, 1.1, 1.9),
        pluck_position=_uniform(rng, 0.1, 0.14),
        decay_seconds=_log_uniform(rng, 0.9, 2.2),
        damping=_uniform(rng, 0.3, 1.2),
        num_voices=2,
        detune_cents=_uniform(rng, 0.5, 2.5),
        release_seconds=_uniform(rng, 0.1, 0.2),
    )


def _electric_piano(rng: np.random.Generator) -> Patch:
    return Patch(
        name="electric piano",
        family="keyboard",
        source="electronic",
        engine="fm",
        fm_ratio=float(rng.choice([1.0, 1.0, 3.0, 7.0, 14.0])),
        fm_index=_uniform(rng, 0.6, 2.4),
        fm_decay_seconds=_log_uniform(rng, 0.08, 0.6),
        decay_seconds=_log_uniform(rng, 0.8, 2.0),
        release_seconds=0.12,
    )


def _organ(rng: np.random.Generator) -> Patch:
    drawbars = rng.uniform(0.0, 1.0, 10) ** 2.0
    drawbars[0] = 1.0
    # Drawbars stand for the harmonics 1, 2, 3, 4, 5, 6, 8; the 7th has none.
    drawbars[6] = 0.0
    return Patch(
        name="organ",
        family="organ",
        source=str(rng.choice(["electronic", "acoustic"])),
        drawbars=tuple(float(level) for level in drawbars),
        attack_seconds=_log_uniform(rng, 0.004, 0.04),
        release_seconds=_uniform(rng, 0.03, 0.2),
        vibrato_hz=_log_uniform(rng, 0.8, 7.0),
        vibrato_cents=_uniform(rng, 0.0, 14.0),
        click=_uniform(rng, 0.0, 0.1),
        num_voices=int(rng.integers(1, 3)),
        detune_cents=_uniform(rng, 2.0, 8.0),
    )


def _strings(rng: np.random.Generator) -> Patch:
    return Patch(
        name="strings",
        family="string",
        slope=_uniform(rng, 0.9, 1.4),
        bodies=_draw_bodies(rng, 250.0, 4000.0, 4),
        attack_seconds=_uniform(rng, 0.1, 0.3),
        release_seconds=_uniform(rng, 0.15, 0.4),
        vibrato_hz=_uniform(rng, 4.8, 6.3),
        vibrato_cents=_uniform(rng, 4.0, 14.0),
        num_voices=3,
        detune_cents=_uniform(rng, 6.0, 16.0),
        cutoff_hz=_log_uniform(rng, 2000.0, 6000.0),
        breath=_uniform(rng, 0.0, 0.02),
    )


def _violin(rng: np.random.Generator) -> Patch:
    return dataclasses.replace(
        _strings(rng),
        name="violin",
        num_voices=1,
        attack_seconds=_uniform(rng, 0.03, 0.1),
        vibrato_cents=_uniform(rng, 15.0, 35.0),
        breath=_uniform(rng, 0.01, 0.05),
    )


def _flute(rng: np.random.Generator) -> Patch:
    return _blown(
        "flute",
        "flute",
        rng,
        slope=_uniform(rng, 2.0, 3.2),
        breath=_uniform(rng, 0.06, 0.25),
        bodies=_draw_bodies(rng, 500.0, 2000.0, 1),
    )


def _sax(rng: np.random.Generator) -> Patch:
    return _blown("sax", "reed", rng, slope=_uniform(rng, 0.7, 1.2))


def _clarinet(rng: np.random.Generator) -> Patch:
    return _blown(
        "clarinet",
        "reed",
        rng,
        even=_uniform(rng, 0.05, 0.3),
        vibrato_cents=_uniform(rng, 0.0, 6.0),
    )


def _brass(rng: np.random.Generator) -> Patch:
    return _blown(
        "horns",
        "brass",
        rng,
        slope=_uniform(rng, 0.5, 1.0),
        cutoff_hz=_log_uniform(rng, 1500.0, 4500.0),
        swell_seconds=_uniform(rng, 0.05, 0.16),
        vibrato_cents=_uniform(rng, 0.0, 12.0),
        breath=_uniform(rng, 0.0, 0.02),
        num_voices=int(rng.integers(1, 3)),
        detune_cents=_uniform(rng, 3.0, 9.0),
    )


def _synth_lead(rng: np.random.Generator) -> Patch:
    return Patch(
        name="synth",
        family="synth_lead",
        source="synthetic",
        slope=_uniform(rng, 0.5, 1.2),
        even=float(rng.choice([0.0, 0.5, 1.0])),
        cutoff_hz=_log_uniform(rng, 600.0, 3500.0),
        sweep_octaves=_uniform(rng, 0.0, 3.0),
        sweep_seconds=_log_uniform(rng, 0.04, 0.5),
        attack_seconds=_log_uniform(rng, 0.003, 0.03),
        release_seconds=_uniform(rng, 0.04, 0.15),
        vibrato_cents=_uniform(rng, 0.0, 20.0),
        num_voices=int(rng.integers(1, 4)),
        detune_cents=_uniform(rng, 4.0, 22.0),
        drive=float(rng.choice([0.0, 0.0, 2.0, 4.0])),
    )


def _synth_pad(rng: np.random.Generator) -> Patch:
    return dataclasses.replace(
        _synth_lead(rng),
        num_voices=3,
        attack_seconds=_uniform(rng, 0.15, 0.7),
        release_seconds=_uniform(rng, 0.3, 0.6),
        cutoff_hz=_log_uniform(rng, 400.0, 2500.0),
        sweep_octaves=_uniform(rng, -1.0, 1.5),
        sweep_seconds=_uniform(rng, 0.5, 2.0),
        drive=0.0,
    )


def _synth_pluck(rng: np.random.Generator) -> Patch:
    return dataclasses.replace(
        _synth_lead(rng),
        decay_seconds=_log_uniform(rng, 0.12, 0.6),
        sweep_octaves=_uniform(rng, 1.0, 3.5),
        sweep_seconds=_log_uniform(rng, 0.03, 0.2),
    )


def _mallet(
    name: str,
    ratios: tuple[float, ...],
    decay_range: tuple[float, float],
    rng: np.random.Generator,
) -> Patch:
    modes = tuple(
        (
            ratio * _uniform(rng, 0.97, 1.03) if order else 1.0,
            _uniform(rng, 0.15, 0.8) / (1 + 0.4 * order) if order else 1.0,
            _uniform(rng, 0.25, 0.8) if order else 1.0,
        )
        for order, ratio in enumerate(ratios)
    )
    return Patch(
        name=name,
        family="mallet",
        engine="modal",
        modes=modes,
        decay_seconds=_log_uniform(rng, *decay_range),
        attack_seconds=0.002,
        release_seconds=_uniform(rng, 0.2, 0.5),
        click=_uniform(rng, 0.03, 0.25),
    )


_MARIMBA = ("marimba", (1.0, 3.93, 9.2), (0.15, 0.5))
_VIBRAPHONE = ("vibraphone", (1.0, 4.0, 10.3), (0.8, 2.0))
_BELLS = ("bells", (1.0, 2.0, 2.4, 3.0, 4.5, 5.3), (0.9, 2.2))


def _bass_guitar(rng: np.random.Generator) -> Patch:
    return _string(
        "bass guitar",
        "bass",
        rng,
        source="electronic",
        slope=_uniform(rng, 0.9, 1.5),
        cutoff_hz=_log_uniform(rng, 400.0, 1800.0),
        decay_seconds=_log_uniform(rng, 0.8, 2.0),
        drive=float(rng.choice([0.0, 0.0, 1.5])),
    )


def _upright_bass(rng: np.random.Generator) -> Patch:
    return _string(
        "upright bass",
        "bass",
        rng,
        slope=_uniform(rng, 1.3, 2.0),
        cutoff_hz=_log_uniform(rng, 300.0, 1000.0),
        decay_seconds=_log_uniform(rng, 0.35, 0.9),
        attack_seconds=_uniform(rng, 0.008, 0.02),
    )


def _bowed_bass(rng: np.random.Generator) -> Patch:
    return dataclasses.replace(
        _strings(rng),
        name="cello",
        family="bass",
        num_voices=2,
        slope=_uniform(rng, 1.0, 1.6),
        bodies=_draw_bodies(rng, 100.0, 900.0, 3),
        cutoff_hz=_log_uniform(rng, 500.0, 1600.0),
    )


def _synth_bass(rng: np.random.Generator) -> Patch:
    return dataclasses.replace(
        _synth_pluck(rng),
        name="synth bass",
        family="bass",
        num_voices=int(rng.integers(1, 3)),
        cutoff_hz=_log_uniform(rng, 150.0, 800.0),
        decay_seconds=_log_uniform(rng, 0.3, 2.0),
    )


def _sub_bass(rng: np.random.Generator) -> Patch:
    return Patch(
        name="synth bass",
        family="bass",
        source="synthetic",
        drawbars=(1.0, _uniform(rng, 0.0, 0.3), _uniform(rng, 0.0, 0.25)),
        decay_seconds=_log_uniform(rng, 0.6, 2.5),
        drive=_uniform(rng, 0.5, 3.0),
        click=_uniform(rng, 0.0, 0.1),
    )


PATCH_MAKERS: dict[str, Callable[[np.random.Generator], Patch]] = {
    "acoustic_guitar": _acoustic_guitar,
    "electric_guitar": _electric_guitar,
    "distorted_guitar": _distorted_guitar,
    "harp": _harp,
    "harpsichord": _harpsichord,
    "piano": _piano,
    "electric_piano": _electric_piano,
    "organ": _organ,
    "strings": _strings,
    "violin": _violin,
    "flute": _flute,
    "sax": _sax,
    "clarinet": _clarinet,
    "brass": _brass,
    "synth_lead": _synth_lead,
    "synth_pad": _synth_pad,
    "synth_pluck": _synth_pluck,
    "marimba": functools.partial(_mallet, *_MARIMBA),
    "vibraphone": functools.partial(_mallet, *_VIBRAPHONE),
    "bells": functools.partial(_mallet, *_BELLS),
    "bass_guitar": _bass_guitar,
    "upright_bass": _upright_bass,
    "bowed_bass": _bowed_bass,
    "synth_bass": _synth_bass,
    "sub_bass": _sub_bass,
}


def draw_patch(maker: str, rng: np.random.Generator) -> Patch:
    """Draws a random timbre of one kind; `maker` is a key of PATCH_MAKERS."""
    return PATCH_MAKERS[maker](rng)
