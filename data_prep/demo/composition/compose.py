"""Composes a song: structure, harmony, melody, and the notes of every part.

Times are in seconds from the start of the song; steps are sixteenths.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.demo.composition import accompany, patterns, styles
from data_prep.demo.composition.harmony import (
    NUM_SECTION_KINDS,
    STEPS_PER_BEAT,
    Frame,
    Motif,
    Note,
    Part,
    Section,
    choose,
    draw_motifs,
    melodic_line,
)
from data_prep.demo.synthesis import drums, instruments, voice
from data_prep.demo.synthesis.patch import SampledTone

SOURCES = ("vocals", "drums", "bass", "other")
SECTION_SECONDS = (4.0, 10.0)
BASS_RANGE_MIDI = (28, 45)


@dataclasses.dataclass(frozen=True)
class Song:
    """A composed song, ready to render.

    Attributes:
        style: its style.
        tempo_bpm: quarter notes a minute.
        num_beats: beats a bar, 3 or 4.
        key_midi: tonic between 48 and 59.
        sections: the structure.
        bass: the bass part, or None.
        other: accompaniment parts.
        hits: drum strokes.
        kit: the drums.
        sung: syllables.
        manner: way of singing, see voice.draw_voice.
        singer: the voice.
        reverb_seconds: time constant of the room.
        reverb_level: wet level.
        loudness: level of the song, about 0.4 to 1.4.
        balance: level of each source relative to its usual one.
        sampled_kit: plays the strokes in place of `kit`.
        sampled_choir: sings in place of `singer`.
    """

    style: styles.Style
    tempo_bpm: float
    num_beats: int
    key_midi: int
    sections: tuple[Section, ...]
    bass: Part | None
    other: tuple[Part, ...]
    hits: tuple[drums.Hit, ...]
    kit: drums.DrumKit
    sung: tuple[voice.SungNote, ...]
    manner: str
    singer: voice.VoiceTimbre
    reverb_seconds: float
    reverb_level: float
    loudness: float
    balance: dict[str, float]
    sampled_kit: SampledTone | None = None
    sampled_choir: SampledTone | None = None


def _draw_sections(
    style: styles.Style,
    num_bars: int,
    bar_seconds: float,
    num_parts: int,
    rng: np.random.Generator,
) -> tuple[Section, ...]:
    has = dict(zip(SOURCES, (*(rng.random(3) < style.song_shares), True), strict=True))
    if not (has["vocals"] or num_parts):
        has["vocals"] = True
    sections = []
    bar = 0
    while bar < num_bars:
        length = max(round(rng.uniform(*SECTION_SECONDS) / bar_seconds), 1)
        playing = [
            source
            for source, share in zip(SOURCES, style.section_shares, strict=True)
            if has[source] and rng.random() < share
        ]
        if not playing:
            playing = ["other"]
        # The voice leads where it sings; elsewhere an instrument may.
        lead = int(rng.integers(num_parts)) if "vocals" not in playing else None
        silent = int(rng.integers(num_parts)) if rng.random() < 0.4 else None
        sections.append(
            Section(
                first_bar=bar,
                num_bars=length,
                kind=int(rng.integers(NUM_SECTION_KINDS)),
                playing=tuple(playing),
                lead_part=lead,
                silent_part=silent if num_parts > 1 else None,
            )
        )
        bar += length
    return tuple(sections)


def _sing_section(
    frame: Frame,
    section: Section,
    motifs: list[Motif],
    singer: voice.VoiceTimbre,
    manner: str,
    lyrics: list[tuple[str, str, str]],
) -> list[voice.SungNote]:
    low = singer.range_midi[0] + 1
    line = melodic_line(frame, section, motifs, low)
    notes = []
    for count, (bar, step, length, midi) in enumerate(line):
        consonant, vowel, end_vowel = lyrics[count % len(lyrics)]
        pitch = float(midi)
        if manner == "rap":
            # Speech stays near one pitch and falls towards a phrase's end.
            pitch = low + 2.0 + 0.25 * (midi - low) - 0.15 * step
        elif manner == "growl":
            pitch = low + 0.4 * (midi - low)
        start = frame.seconds_at(bar, step)
        stop = frame.seconds_at(bar, step + length)
        notes.append(
            voice.SungNote(
                start, 0.92 * (stop - start), pitch, 0.8, vowel, end_vowel, consonant
            )
        )
    return notes


_BASS_STEPS: dict[str, tuple[tuple[int, int], ...]] = {
    "eighths": tuple((step, 2) for step in range(0, 16, 2)),
    "sixteenths": tuple(
        (step, 1) for step in (0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15)
    ),
    "offbeat": ((2, 2), (6, 2), (10, 2), (14, 2)),
    "syncopated": ((0, 3), (3, 3), (6, 2), (10, 2), (12, 3)),
    "sparse": ((0, 6), (7, 3), (10, 5)),
    "root_fifth": ((0, 7), (8, 7)),
    "long": ((0, 15),),
    "walking": ((0, 4), (4, 4), (8, 4), (12, 4)),
}


def _bass_section(
    frame: Frame, section: Section, role: str, rng: np.random.Generator
) -> list[Note]:
    notes = []
    low, high = BASS_RANGE_MIDI
    for bar in range(section.first_bar, section.first_bar + section.num_bars):
        degree = frame.chord_degree(section, bar)
        root = frame.degree_midi(degree)
        root -= 12 * ((root - low) // 12)
        for count, (step, length) in enumerate(_BASS_STEPS[role]):
            if step >= frame.steps_per_bar:
                break
            midi = root
            if role == "walking" and count:
                midi = root + frame.degree_midi(degree + 2 * count) % 12 - root % 12
                midi += int(rng.choice([-1, 0, 0, 2])) if count == 3 else 0
            elif role == "root_fifth" and count:
                midi = root + 7
            elif role in ("syncopated", "sixteenths") and rng.random() < 0.2:
                midi = root + int(rng.choice([7, 12, 10]))
            midi = low + (midi - low) % 24 if not low <= midi <= high + 7 else midi
            start = frame.seconds_at(bar, step)
            stop = frame.seconds_at(bar, min(step + length, frame.steps_per_bar))
            notes.append(Note(start, 0.93 * (stop - start), midi, 0.9))
    return notes


def compose_song(
    style: styles.Style, song_seconds: float, rng: np.random.Generator
) -> Song:
    """Composes a song.

    Args:
        style: its style.
        song_seconds: its length; the last bar may run over the end.
        rng: source of everything that is drawn.

    Returns:
        The song.
    """
    tempo_bpm = float(rng.uniform(*style.tempo_bpm))
    num_beats = 3 if rng.random() < style.waltz_share else 4
    seconds_per_beat = 60.0 / tempo_bpm
    bar_seconds = num_beats * seconds_per_beat
    frame = Frame(
        style=style,
        seconds_per_beat=seconds_per_beat,
        steps_per_bar=num_beats * STEPS_PER_BEAT,
        # Clips are cut from songs anywhere, not at a bar line.
        offset_seconds=-float(rng.uniform(0.0, bar_seconds)),
        key_midi=int(rng.integers(48, 60)),
        scale=styles.SCALES[choose(rng, style.scales)],
        progressions=tuple(
            choose(rng, style.progressions) for _ in range(NUM_SECTION_KINDS)
        ),
    )
    num_bars = int(song_seconds / bar_seconds) + 2
    chosen = accompany.draw_parts(style, rng)
    sections = _draw_sections(style, num_bars, bar_seconds, len(chosen), rng)

    manner = choose(rng, style.manners)
    singer = voice.draw_voice(rng, manner)
    density = {"rap": 0.95, "choir": 0.22, "opera": 0.4}.get(
        manner, float(rng.uniform(0.5, 0.8))
    )
    motifs = draw_motifs(frame, rng, density)
    lyrics = [
        (
            choose(rng, list(voice.CONSONANTS)),
            choose(rng, list(voice.VOWEL_FORMANTS_HZ)),
            choose(rng, list(voice.VOWEL_FORMANTS_HZ)),
        )
        for _ in range(24)
    ]
    sung: list[voice.SungNote] = []
    for section in sections:
        if "vocals" in section.playing:
            sung += _sing_section(frame, section, motifs, singer, manner, lyrics)

    bass_patch = instruments.draw_patch(choose(rng, style.bass_patches), rng)
    bass_role = choose(rng, style.bass_roles)
    bass_notes: list[Note] = []
    for section in sections:
        if "bass" in section.playing:
            bass_notes += _bass_section(frame, section, bass_role, rng)

    other = tuple(
        accompany.compose_part(frame, sections, index, maker, role, rng)
        for index, (maker, role) in enumerate(chosen)
    )
    return Song(
        style=style,
        tempo_bpm=tempo_bpm,
        num_beats=num_beats,
        key_midi=frame.key_midi,
        sections=sections,
        bass=Part(bass_patch, bass_role, 1.0, tuple(bass_notes))
        if bass_notes
        else None,
        other=other,
        hits=tuple(_compose_hits(frame, sections, rng)),
        kit=drums.draw_kit(rng, style.is_electronic_kit),
        sung=tuple(sung),
        manner=manner,
        singer=singer,
        reverb_seconds=float(rng.uniform(*style.reverb_seconds)),
        reverb_level=float(rng.uniform(*style.reverb_level)),
        loudness=float(rng.uniform(*style.loudness)),
        balance={source: float(rng.uniform(0.75, 1.3)) for source in SOURCES},
    )


def _compose_hits(
    frame: Frame, sections: tuple[Section, ...], rng: np.random.Generator
) -> list[drums.Hit]:
    name = frame.style.patterns if frame.steps_per_bar == 16 else "waltz"
    drawn = [
        drums.vary_pattern(choose(rng, patterns.PATTERNS[name]), rng)
        for _ in range(NUM_SECTION_KINDS)
    ]
    hits = []
    for section in sections:
        if "drums" not in section.playing:
            continue
        for bar in range(section.first_bar, section.first_bar + section.num_bars):
            pattern = drawn[section.kind]
            is_last = bar == section.first_bar + section.num_bars - 1
            if is_last and name not in ("classical", "ambient", "jazz", "waltz"):
                pattern = drums.fill_pattern(pattern, frame.steps_per_bar)
            for drum, levels in pattern.items():
                for step in np.flatnonzero(levels):
                    velocity = float(levels[step] * rng.uniform(0.85, 1.0))
                    start = frame.seconds_at(bar, int(step))
                    hits.append(drums.Hit(start, drum, velocity))
            if bar == section.first_bar and name in ("rock", "pop", "funk"):
                hits.append(drums.Hit(frame.seconds_at(bar, 0), "crash", 0.7))
    return hits
