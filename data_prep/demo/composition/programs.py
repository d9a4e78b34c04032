"""Which instruments of a sound font play a song, by General MIDI's numbers.

Programs count from 0. A song keeps its notes; what changes is who plays them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.demo.composition import compose
from data_prep.demo.composition.harmony import Part, choose
from data_prep.demo.synthesis.patch import Patch, SampledTone

# Share of parts whose instrument is drawn from all of its role, whatever the style.
ROAMING_SHARE = 0.3
# A choir may be sampled; who sings words is synthesised, as General MIDI has no words.
SAMPLED_CHOIR_SHARE = 0.6
# The built-in instruments' names, and what plays in their place.
BY_NAME: dict[str, tuple[int, ...]] = {
    "piano": (0, 1, 2, 3),
    "electric piano": (4, 5),
    "harpsichord": (6, 7),
    "bells": (8, 9, 10, 14),
    "vibraphone": (11,),
    "marimba": (12, 13),
    "organ": (16, 17, 18, 19, 20),
    "acoustic guitar": (24, 25),
    "electric guitar": (26, 27, 28),
    "distorted guitar": (29, 30),
    "upright bass": (32,),
    "bass guitar": (33, 34, 35, 36, 37),
    "synth bass": (38, 39),
    "violin": (40, 41),
    "cello": (42, 43),
    "strings": (48, 49, 50, 51),
    "harp": (46,),
    "horns": (56, 57, 58, 60, 61, 62, 63),
    "sax": (64, 65, 66, 67),
    "clarinet": (71,),
    "flute": (72, 73, 74, 75),
    "synth": (80, 81, 82, 83, 84, 86, 87, 88, 89, 90, 92, 93, 94, 95),
}
# Further instruments that leads and chords may draw.
FURTHER: dict[str, tuple[int, ...]] = {
    "accordion": (21, 23),
    "harmonica": (22,),
    "trumpet": (56, 59),
    "trombone": (57,),
    "oboe": (68, 69),
    "bassoon": (70,),
    "pan flute": (75, 77),
    "whistle": (78, 79),
    "sitar": (104,),
    "banjo": (105,),
    "koto": (106, 107),
    "kalimba": (108,),
    "bagpipe": (109,),
    "fiddle": (110,),
    "steel drums": (114,),
    "pizzicato": (45,),
}
_LEADS: tuple[str, ...] = (
    "accordion",
    "bagpipe",
    "bassoon",
    "cello",
    "clarinet",
    "electric guitar",
    "fiddle",
    "flute",
    "harmonica",
    "horns",
    "marimba",
    "oboe",
    "pan flute",
    "piano",
    "sax",
    "sitar",
    "steel drums",
    "synth",
    "trombone",
    "trumpet",
    "vibraphone",
    "violin",
    "whistle",
)
_SUSTAINED: tuple[str, ...] = ("accordion", "horns", "organ", "strings", "synth")
_STRUCK: tuple[str, ...] = (
    "acoustic guitar",
    "banjo",
    "bells",
    "electric guitar",
    "electric piano",
    "harp",
    "harpsichord",
    "kalimba",
    "koto",
    "marimba",
    "organ",
    "piano",
    "pizzicato",
    "synth",
    "vibraphone",
)
_CHOIRS = (52, 53, 54, 91)
# Drum kits as their bank has them.
_KITS: dict[str, tuple[int, ...]] = {
    "jazz": (32, 40),
    "classical": (48,),
    "metal": (16, 8),
    "electronic": (24, 25),
    "hiphop": (25, 24, 0),
    "ambient": (24, 25),
}
_USUAL_KITS = (0, 8, 16)
# NSynth's families, in three shares: no program is in two splits.
FAMILY_PROGRAMS: dict[str, tuple[int, ...]] = {
    "bass": (33, 32, 38, 34, 39, 35, 36, 37),
    "brass": (56, 60, 57, 62, 58, 61, 59, 63),
    "flute": (73, 72, 75, 74, 77, 79, 76, 78),
    "guitar": (24, 27, 30, 25, 26, 29, 28, 31),
    "keyboard": (0, 4, 6, 2, 5, 1, 3, 7),
    "mallet": (12, 11, 8, 13, 9, 14, 10, 114),
    "organ": (16, 19, 17, 20, 18, 21, 23, 22),
    "reed": (65, 71, 68, 66, 70, 64, 69, 67),
    "string": (48, 40, 42, 49, 44, 41, 45, 43),
    "synth_lead": (80, 81, 84, 82, 87, 86, 83, 85),
    "vocal": (52, 53, 54),
}
_PEAK_HZ = (80.0, 6000.0)
_PEAK_DECIBELS = 6.0


def draw_tone(
    programs: tuple[int, ...], rng: np.random.Generator, bank: int = 0
) -> SampledTone:
    """Draws a program and how it is equalised.

    Args:
        programs: to choose from.
        rng: source of the choice.
        bank: the sound font's bank that they lie in.

    Returns:
        The tone.
    """
    peaks = tuple(
        (
            float(np.exp(rng.uniform(*np.log(_PEAK_HZ)))),
            float(rng.uniform(-_PEAK_DECIBELS, _PEAK_DECIBELS)),
        )
        for _ in range(2)
    )
    return SampledTone(bank, choose(rng, programs), peaks)


def draw_family_tone(
    family: str, split: int, num_before: int, rng: np.random.Generator
) -> SampledTone:
    """Draws an instrument of a family; splits share no program.

    Args:
        family: a key of FAMILY_PROGRAMS.
        split: 0, 1 or 2.
        num_before: how many instruments of family and split came before: they take
            turns.
        rng: source of its equalisation.

    Returns:
        The tone.
    """
    programs = FAMILY_PROGRAMS[family]
    num_held = max(len(programs) // 4, 1)
    first = len(programs) - 2 * num_held
    bounds = (0, first, first + num_held, len(programs))
    mine = programs[bounds[split] : bounds[split + 1]]
    return draw_tone((mine[num_before % len(mine)],), rng)


def _with_tone(
    part: Part, is_bass: bool, share: float, rng: np.random.Generator
) -> Part:
    if rng.random() >= share:
        return part
    name = part.patch.name
    programs = BY_NAME[name]
    if not is_bass and rng.random() < ROAMING_SHARE:
        name = choose(rng, {"lead": _LEADS, "pad": _SUSTAINED}.get(part.role, _STRUCK))
        programs = FURTHER.get(name) or BY_NAME[name]
    # The amplifier of a synthesised guitar is in the samples already.
    patch = Patch(name=name, family=part.patch.family, sampled=draw_tone(programs, rng))
    return dataclasses.replace(part, patch=patch)


def choose_programs(
    song: compose.Song, share: float, rng: np.random.Generator
) -> compose.Song:
    """Gives a song's parts to instruments of a sound font.

    Args:
        song: as composed.
        share: share of parts that are given to them; the others stay.
        rng: source of the choice.

    Returns:
        The same notes, played by other instruments.
    """
    kits = _KITS.get(song.style.patterns, _USUAL_KITS)
    kit = draw_tone(kits, rng, bank=128) if rng.random() < share else None
    choir = None
    if song.manner == "choir" and rng.random() < share * SAMPLED_CHOIR_SHARE:
        choir = draw_tone(_CHOIRS, rng)
    return dataclasses.replace(
        song,
        bass=_with_tone(song.bass, True, share, rng) if song.bass else None,
        other=tuple(_with_tone(part, False, share, rng) for part in song.other),
        sampled_kit=kit,
        sampled_choir=choir,
    )
