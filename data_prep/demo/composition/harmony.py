"""What all parts of a song share: its clock, structure, chords and motifs.

Times are in seconds from the start of the song; steps are sixteenths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from data_prep.demo.composition import styles
from data_prep.demo.synthesis.patch import Patch

STEPS_PER_BEAT = 4
NUM_SECTION_KINDS = 3

_T = TypeVar("_T")
# A motif of two bars: (onset, length) in steps of each note, and its scale degree.
Motif = tuple[list[tuple[int, int]], list[int]]


@dataclasses.dataclass(frozen=True)
class Note:
    """One note: start and held time in seconds, MIDI pitch, velocity 0 to 1."""

    start_seconds: float
    duration_seconds: float
    midi: int
    velocity: float


@dataclasses.dataclass(frozen=True)
class Part:
    """An instrument of bass or other, with its notes and its level."""

    patch: Patch
    role: str
    level: float
    notes: tuple[Note, ...]


@dataclasses.dataclass(frozen=True)
class Section:
    """A few bars: kind (equal kinds share chords and melody) and what plays."""

    first_bar: int
    num_bars: int
    kind: int
    playing: tuple[str, ...]
    lead_part: int | None
    silent_part: int | None


@dataclasses.dataclass(frozen=True)
class Frame:
    """What all parts share: the clock and the harmony."""

    style: styles.Style
    seconds_per_beat: float
    steps_per_bar: int
    offset_seconds: float
    key_midi: int
    scale: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]

    def seconds_at(self, bar: int, step: float) -> float:
        """Time of a step, swung."""
        beats, fraction = divmod(
            bar * self.steps_per_bar / STEPS_PER_BEAT + step / STEPS_PER_BEAT, 1.0
        )
        middle = 0.5 + self.style.swing
        if fraction < 0.5:
            fraction = fraction * middle / 0.5
        else:
            fraction = middle + (fraction - 0.5) * (1.0 - middle) / 0.5
        return (beats + fraction) * self.seconds_per_beat + self.offset_seconds

    def degree_midi(self, degree: int) -> int:
        """MIDI pitch of a scale degree above the key."""
        octave, step = divmod(degree, len(self.scale))
        return self.key_midi + 12 * octave + self.scale[step]

    def chord_degree(self, section: Section, bar: int) -> int:
        """Root degree of the chord in a bar of a section."""
        chords = self.progressions[section.kind]
        return chords[(bar - section.first_bar) % len(chords)]

    def chord(self, section: Section, bar: int, centre_midi: int) -> list[int]:
        """Chord tones (MIDI) close to a centre, ascending."""
        root = self.chord_degree(section, bar)
        if self.style.num_chord_tones == 2:
            low = self.degree_midi(root)
            tones = [low, low + 7, low + 12]
        else:
            tones = [
                self.degree_midi(root + 2 * n)
                for n in range(self.style.num_chord_tones)
            ]
        return sorted(t + 12 * round((centre_midi - t) / 12) for t in tones)


def choose(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    """Draws one of several options."""
    return options[int(rng.integers(len(options)))]


def _draw_rhythm(
    rng: np.random.Generator, num_steps: int, density: float
) -> list[tuple[int, int]]:
    """Onsets and lengths in steps over two bars, with a rest at the end."""
    strength = np.where(np.arange(num_steps) % 4 == 0, 1.0, 0.25)
    strength[np.arange(num_steps) % 4 == 2] = 0.7
    is_onset = rng.random(num_steps) < strength * density
    is_onset[int(num_steps * rng.uniform(0.7, 0.95)) :] = False
    onsets = [int(step) for step in np.flatnonzero(is_onset)] or [0]
    ends = [*onsets[1:], num_steps - 2]
    return [
        (onset, min(max(end - onset, 1), 8))
        for onset, end in zip(onsets, ends, strict=True)
    ]


def _draw_melody(
    rng: np.random.Generator, rhythm: list[tuple[int, int]], num_degrees: int
) -> list[int]:
    """A walk over scale degrees, one a note, within 0 to num_degrees."""
    degree = int(rng.integers(num_degrees))
    melody = []
    for _ in rhythm:
        degree += int(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 4]))
        degree = abs(degree)
        if degree > num_degrees:
            degree = 2 * num_degrees - degree
        melody.append(max(degree, 0))
    return melody


def _snap(midi: int, chord: list[int]) -> int:
    """The chord tone (any octave) nearest to a pitch."""
    options = [tone + 12 * round((midi - tone) / 12) for tone in chord]
    return min(options, key=lambda tone: (abs(tone - midi), tone))


def melodic_line(
    frame: Frame,
    section: Section,
    motifs: list[Motif],
    low_midi: int,
) -> list[tuple[int, int, int, int]]:
    """Notes of a line as (bar, step, steps, midi)."""
    line = []
    # The lowest degree at or above the range's floor.
    base = 0
    while frame.degree_midi(base) > low_midi + 2:
        base -= 7
    while frame.degree_midi(base) < low_midi:
        base += 1
    rhythm, melody = motifs[section.kind]
    for bar in range(section.first_bar, section.first_bar + section.num_bars):
        half = (bar - section.first_bar) % 2
        first, last = half * frame.steps_per_bar, (half + 1) * frame.steps_per_bar
        chord = frame.chord(section, bar, low_midi + 7)
        for (onset, length), degree in zip(rhythm, melody, strict=True):
            if not first <= onset < last:
                continue
            midi = frame.degree_midi(base + degree)
            if onset % STEPS_PER_BEAT == 0:
                midi = _snap(midi, chord)
            line.append((bar, onset - first, length, midi))
    return line


def draw_motifs(frame: Frame, rng: np.random.Generator, density: float) -> list[Motif]:
    """Draws a motif for each kind of section; density is the share of onsets."""
    motifs = []
    for _ in range(NUM_SECTION_KINDS):
        rhythm = _draw_rhythm(rng, 2 * frame.steps_per_bar, density)
        motifs.append((rhythm, _draw_melody(rng, rhythm, 8)))
    return motifs
