"""The accompaniment: which instruments a song has and how they play its chords."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from data_prep.demo.composition import styles
from data_prep.demo.composition.harmony import (
    Frame,
    Note,
    Part,
    Section,
    draw_motifs,
    melodic_line,
)
from data_prep.demo.synthesis import instruments

STRUM_SECONDS = 0.012
# Strums and stabs as steps of a bar; a song keeps to one of them.
STRUM_STEPS = (
    (0, 4, 6, 10, 12, 14),
    (0, 2, 4, 6, 8, 10, 12, 14),
    (0, 3, 6, 8, 12),
    (0, 4, 8, 12, 14),
)
STAB_STEPS = ((0, 7), (4, 12), (2, 6, 10, 14), (3, 10), (0, 6, 11), (2, 7, 12))
RIFF_STEPS = (
    (0, 2, 3, 4, 6, 7, 8, 10, 12, 14),
    (0, 1, 2, 4, 6, 8, 9, 10, 12, 14),
    (0, 3, 6, 8, 11, 14),
    (0, 4, 6, 7, 8, 12, 14, 15),
)
_ROLE_LEVELS = {"lead": 1.0, "pad": 0.7, "arpeggio": 0.8, "sparkle": 0.8}
_CENTRES_MIDI = {
    "strum": 55,
    "riff": 43,
    "scratch": 62,
    "pad": 60,
    "comp": 62,
    "arpeggio": 65,
    "alberti": 60,
    "sparkle": 76,
}
_LEAD_FLOORS_MIDI = {"distorted_guitar": 57, "flute": 69, "violin": 64, "sax": 54}


def draw_parts(style: styles.Style, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Chooses a song's accompaniment.

    Args:
        style: the song's style.
        rng: source of the choice.

    Returns:
        (patch maker, role) of each part; the first is never a lead.
    """
    weights = np.array([weight for _, _, weight in style.parts])
    num_parts = int(rng.integers(style.num_parts[0], style.num_parts[1] + 1))
    is_chordal = np.array([role != "lead" for _, role, _ in style.parts])
    first = int(
        rng.choice(len(weights), p=weights * is_chordal / (weights @ is_chordal))
    )
    weights[first] = 0.0
    rest = rng.choice(
        len(weights), num_parts - 1, replace=False, p=weights / weights.sum()
    )
    return [style.parts[int(i)][:2] for i in (first, *rest)]


def compose_part(
    frame: Frame,
    sections: tuple[Section, ...],
    index: int,
    maker: str,
    role: str,
    rng: np.random.Generator,
) -> Part:
    """Composes one accompaniment part over all sections.

    Args:
        frame: the song's clock and harmony.
        sections: the song's structure.
        index: the part's number, to which sections refer.
        maker: patch maker of its instrument.
        role: how it plays, see `styles.Style.parts`.
        rng: source of timbre, patterns and melody.

    Returns:
        The part with its notes.
    """
    patch = instruments.draw_patch(maker, rng)
    level = _ROLE_LEVELS.get(role, 0.9) * float(rng.uniform(0.7, 1.2))
    play = _Player(frame, role, maker, rng)
    notes: list[Note] = []
    for section in sections:
        if "other" not in section.playing:
            continue
        if role == "lead":
            # Leads sound where nobody sings, or as an answer now and then.
            if "vocals" in section.playing and rng.random() < 0.7:
                continue
        elif section.silent_part == index:
            continue
        notes += play.play_section(section)
    return Part(patch, role, level, tuple(notes))


class _Player:
    """Plays one role with the habits drawn for one song."""

    def __init__(self, frame: Frame, role: str, maker: str, rng: np.random.Generator):
        self._frame = frame
        self._role = role
        self._rng = rng
        self._strums = STRUM_STEPS[int(rng.integers(len(STRUM_STEPS)))]
        self._stabs = STAB_STEPS[int(rng.integers(len(STAB_STEPS)))]
        self._riff = RIFF_STEPS[int(rng.integers(len(RIFF_STEPS)))]
        self._riff_moves = rng.choice([0, 0, 0, 1, 3, 5], 16)
        self._stride = int(rng.choice([1, 2, 2]))
        self._order = rng.permutation(4)
        self._floor_midi = _LEAD_FLOORS_MIDI.get(maker, 60)
        self._centre_midi = _CENTRES_MIDI.get(role, 60) + int(rng.integers(-3, 4))
        self._motifs = draw_motifs(frame, rng, float(rng.uniform(0.5, 0.95)))

    def play_section(self, section: Section) -> list[Note]:
        if self._role == "lead":
            line = melodic_line(self._frame, section, self._motifs, self._floor_midi)
            return [self._note(*note, 0.85) for note in line]
        play: Callable[[int, list[int]], list[Note]]
        play = getattr(self, f"_play_{self._role}")
        notes = []
        for bar in range(section.first_bar, section.first_bar + section.num_bars):
            notes += play(bar, self._frame.chord(section, bar, self._centre_midi))
        return notes

    def _note(
        self, bar: int, step: int, length: float, midi: int, velocity: float
    ) -> Note:
        start = self._frame.seconds_at(bar, step)
        length = min(length, self._frame.steps_per_bar - step)
        stop = self._frame.seconds_at(bar, step + length)
        return Note(start, 0.95 * (stop - start), int(midi), velocity)

    def _chords(
        self, bar: int, chord: list[int], steps, length: float, stagger_seconds: float
    ) -> list[Note]:
        steps = [step for step in steps if step < self._frame.steps_per_bar]
        notes = []
        for count, step in enumerate(steps):
            following = [*steps, self._frame.steps_per_bar][count + 1]
            velocity = 0.9 if step % 8 == 0 else 0.65
            # Up-strokes on the off-beats run from the highest string down.
            tones = chord if step % 4 == 0 else chord[::-1]
            for order, midi in enumerate(tones):
                note = self._note(
                    bar, step, min(following - step, length), midi, velocity
                )
                start = note.start_seconds + order * stagger_seconds
                notes.append(dataclasses.replace(note, start_seconds=start))
        return notes

    def _play_strum(self, bar: int, chord: list[int]) -> list[Note]:
        full = [*chord, chord[0] + 12]
        return self._chords(bar, full, self._strums, 8, STRUM_SECONDS)

    def _play_scratch(self, bar: int, chord: list[int]) -> list[Note]:
        return self._chords(bar, chord, self._riff, 1, 0.004)

    def _play_comp(self, bar: int, chord: list[int]) -> list[Note]:
        return self._chords(bar, chord, self._stabs, 3, 0.0)

    def _play_pad(self, bar: int, chord: list[int]) -> list[Note]:
        return [self._note(bar, 0, 16, midi, 0.8) for midi in chord]

    def _play_riff(self, bar: int, chord: list[int]) -> list[Note]:
        notes = []
        for step in self._riff:
            if step >= self._frame.steps_per_bar:
                break
            move = int(self._riff_moves[step])
            for midi in chord[:2]:
                notes.append(self._note(bar, step, 2, midi + move, 0.9))
        return notes

    def _play_arpeggio(self, bar: int, chord: list[int]) -> list[Note]:
        tones = [*chord, chord[0] + 12, chord[1] + 12]
        return [
            self._note(
                bar,
                step,
                2 * self._stride,
                tones[int(self._order[count % 4]) % len(tones)],
                0.9 if count % 4 == 0 else 0.7,
            )
            for count, step in enumerate(
                range(0, self._frame.steps_per_bar, self._stride)
            )
        ]

    def _play_alberti(self, bar: int, chord: list[int]) -> list[Note]:
        low, middle, high = chord[0], chord[1], chord[-1]
        notes = [
            self._note(bar, step, 2, (low, high, middle, high)[step // 2 % 4], 0.65)
            for step in range(0, self._frame.steps_per_bar, 2)
        ]
        # The right hand holds a tone above the figure.
        top = high + 12 if self._rng.random() < 0.5 else middle + 12
        return [*notes, self._note(bar, 0, 8, top, 0.9)]

    def _play_sparkle(self, bar: int, chord: list[int]) -> list[Note]:
        steps = self._rng.choice(self._frame.steps_per_bar, 3, replace=False)
        return [
            self._note(bar, int(step), 12, int(self._rng.choice(chord)), 0.8)
            for step in sorted(steps)
        ]
