"""The styles: what makes rock differ from jazz."""

from __future__ import annotations

import dataclasses

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "harmonic_minor": (0, 2, 3, 5, 7, 8, 11),
}


@dataclasses.dataclass(frozen=True)
class Style:
    """One style of music.

    Attributes:
        name: tag of the style.
        title: genre name.
        tempo_bpm: range of tempi, quarter notes a minute.
        waltz_share: share of songs with three beats a bar.
        swing: delay of the off-beat eighth, in beats.
        scales: names in SCALES to choose from.
        progressions: scale degrees, one chord a bar.
        num_chord_tones: 2 (power chords), 3 or 4 (sevenths).
        parts: accompaniment as (patch maker, role, weight); roles as in compose.
        num_parts: fewest and most parts in a song.
        bass_patches: patch makers for the bass.
        bass_roles: ways the bass moves.
        patterns: key of patterns.PATTERNS.
        is_electronic_kit: drum machine or acoustic kit.
        manners: ways of singing, see voice.draw_voice.
        song_shares: (vocals, drums, bass): share of songs that have the source.
        section_shares: (vocals, drums, bass, other): share of a song's sections in
            which a source that the song has plays.
        reverb_seconds: range of the reverberation time constant.
        reverb_level: range of the wet level.
        loudness: range of the song's level.
        is_pumping: kick ducks the accompaniment.
    """

    name: str
    title: str
    tempo_bpm: tuple[float, float]
    scales: tuple[str, ...]
    progressions: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[str, str, float], ...]
    bass_patches: tuple[str, ...]
    bass_roles: tuple[str, ...]
    patterns: str
    manners: tuple[str, ...]
    song_shares: tuple[float, float, float]
    section_shares: tuple[float, float, float, float]
    num_parts: tuple[int, int] = (2, 3)
    num_chord_tones: int = 3
    waltz_share: float = 0.0
    swing: float = 0.0
    is_electronic_kit: bool = False
    reverb_seconds: tuple[float, float] = (0.1, 0.35)
    reverb_level: tuple[float, float] = (0.05, 0.25)
    loudness: tuple[float, float] = (0.75, 1.1)
    is_pumping: bool = False


# The first eight are the genres of the FMA tree.
STYLES: tuple[Style, ...] = (
    Style(
        name="rock",
        title="Rock",
        tempo_bpm=(108.0, 150.0),
        scales=("major", "mixolydian", "minor"),
        progressions=((0, 4, 5, 3), (0, 3, 4, 3), (0, 6, 3, 0), (5, 3, 0, 4)),
        parts=(
            ("distorted_guitar", "strum", 3.0),
            ("electric_guitar", "strum", 2.0),
            ("electric_guitar", "arpeggio", 1.0),
            ("distorted_guitar", "lead", 1.0),
            ("organ", "pad", 1.0),
            ("piano", "comp", 0.7),
        ),
        bass_patches=("bass_guitar",),
        bass_roles=("eighths", "root_fifth", "syncopated"),
        patterns="rock",
        manners=("song", "song", "growl"),
        song_shares=(0.88, 0.9, 0.9),
        section_shares=(0.55, 0.55, 0.5, 0.85),
        loudness=(0.9, 1.25),
    ),
    Style(
        name="electronic",
        title="Electronic",
        tempo_bpm=(118.0, 142.0),
        scales=("minor", "dorian", "phrygian"),
        progressions=((0, 0, 5, 6), (0, 0, 0, 0), (0, 5, 2, 6), (0, 3, 0, 4)),
        parts=(
            ("synth_pluck", "arpeggio", 3.0),
            ("synth_pad", "pad", 2.0),
            ("synth_lead", "lead", 1.5),
            ("synth_pluck", "comp", 1.5),
        ),
        bass_patches=("synth_bass", "sub_bass"),
        bass_roles=("offbeat", "sixteenths", "syncopated"),
        patterns="electronic",
        manners=("song", "song"),
        song_shares=(0.53, 0.95, 0.9),
        section_shares=(0.43, 0.6, 0.5, 0.85),
        is_electronic_kit=True,
        is_pumping=True,
        loudness=(0.9, 1.25),
    ),
    Style(
        name="classical",
        title="Classical",
        tempo_bpm=(60.0, 112.0),
        scales=("major", "minor", "harmonic_minor"),
        progressions=(
            (0, 3, 4, 0),
            (0, 5, 1, 4),
            (0, 4, 5, 2, 3, 0, 3, 4),
            (0, 1, 4, 0),
        ),
        parts=(
            ("strings", "pad", 3.0),
            ("piano", "alberti", 2.0),
            ("violin", "lead", 2.0),
            ("flute", "lead", 1.5),
            ("clarinet", "lead", 1.0),
            ("harpsichord", "alberti", 1.2),
            ("harp", "arpeggio", 1.0),
            ("brass", "pad", 1.0),
            ("organ", "pad", 0.5),
        ),
        bass_patches=("bowed_bass",),
        bass_roles=("long", "root_fifth"),
        patterns="classical",
        manners=("opera", "choir"),
        song_shares=(0.43, 0.12, 0.6),
        section_shares=(0.58, 0.5, 0.5, 0.92),
        waltz_share=0.35,
        reverb_seconds=(0.3, 0.7),
        reverb_level=(0.2, 0.5),
        loudness=(0.45, 0.9),
    ),
    Style(
        name="jazz",
        title="Jazz",
        tempo_bpm=(96.0, 190.0),
        scales=("major", "dorian", "mixolydian"),
        progressions=(
            (1, 4, 0, 5),
            (0, 5, 1, 4),
            (2, 5, 1, 4),
            (0, 3, 2, 5, 1, 4, 0, 4),
        ),
        num_chord_tones=4,
        parts=(
            ("piano", "comp", 3.0),
            ("sax", "lead", 2.5),
            ("brass", "lead", 1.5),
            ("vibraphone", "comp", 1.0),
            ("electric_guitar", "comp", 1.2),
            ("electric_piano", "comp", 1.0),
            ("clarinet", "lead", 0.7),
        ),
        bass_patches=("upright_bass",),
        bass_roles=("walking",),
        patterns="jazz",
        manners=("croon",),
        song_shares=(0.53, 0.85, 0.9),
        section_shares=(0.53, 0.6, 0.6, 0.85),
        waltz_share=0.1,
        swing=0.16,
        loudness=(0.6, 0.95),
    ),
    Style(
        name="folk",
        title="Folk",
        tempo_bpm=(76.0, 118.0),
        scales=("major", "major", "dorian"),
        progressions=((0, 3, 0, 4), (0, 5, 3, 4), (0, 4, 3, 0), (0, 0, 3, 4)),
        parts=(
            ("acoustic_guitar", "strum", 3.0),
            ("acoustic_guitar", "arpeggio", 3.0),
            ("flute", "lead", 1.2),
            ("violin", "lead", 1.2),
            ("organ", "pad", 0.4),
            ("harp", "arpeggio", 0.5),
        ),
        num_parts=(1, 2),
        bass_patches=("upright_bass", "bass_guitar"),
        bass_roles=("root_fifth",),
        patterns="folk",
        manners=("song", "croon"),
        song_shares=(0.97, 0.4, 0.55),
        section_shares=(0.63, 0.6, 0.6, 0.9),
        waltz_share=0.3,
        loudness=(0.5, 0.9),
    ),
    Style(
        name="hiphop",
        title="Hip-Hop",
        tempo_bpm=(78.0, 100.0),
        scales=("minor", "dorian"),
        progressions=((0, 0, 5, 5), (0, 0, 3, 4), (0, 0, 0, 0), (0, 5, 0, 6)),
        num_chord_tones=4,
        parts=(
            ("electric_piano", "comp", 2.0),
            ("piano", "arpeggio", 1.5),
            ("strings", "pad", 1.0),
            ("synth_lead", "lead", 1.0),
            ("bells", "arpeggio", 1.0),
            ("flute", "lead", 0.6),
            ("brass", "comp", 0.7),
        ),
        num_parts=(1, 2),
        bass_patches=("sub_bass", "sub_bass", "synth_bass"),
        bass_roles=("sparse", "syncopated"),
        patterns="hiphop",
        manners=("rap",),
        song_shares=(0.97, 0.95, 0.9),
        section_shares=(0.63, 0.6, 0.5, 0.72),
        swing=0.06,
        is_electronic_kit=True,
        loudness=(0.85, 1.2),
    ),
    Style(
        name="metal",
        title="Metal",
        tempo_bpm=(150.0, 200.0),
        scales=("phrygian", "minor", "harmonic_minor"),
        progressions=((0, 0, 1, 0), (0, 5, 6, 0), (0, 0, 0, 1), (0, 3, 2, 1)),
        num_chord_tones=2,
        parts=(
            ("distorted_guitar", "riff", 4.0),
            ("distorted_guitar", "riff", 2.0),
            ("distorted_guitar", "lead", 1.5),
            ("strings", "pad", 0.4),
        ),
        num_parts=(1, 2),
        bass_patches=("bass_guitar",),
        bass_roles=("eighths", "sixteenths"),
        patterns="metal",
        manners=("growl", "growl", "song"),
        song_shares=(0.83, 0.95, 0.95),
        section_shares=(0.53, 0.65, 0.55, 0.9),
        loudness=(1.0, 1.35),
    ),
    Style(
        name="ambient",
        title="Ambient",
        tempo_bpm=(54.0, 80.0),
        scales=("lydian", "major", "minor"),
        progressions=((0, 0, 3, 3), (0, 4, 0, 4), (5, 5, 3, 3), (0, 1, 0, 1)),
        num_chord_tones=4,
        parts=(
            ("synth_pad", "pad", 4.0),
            ("bells", "sparkle", 2.0),
            ("strings", "pad", 1.5),
            ("electric_piano", "sparkle", 1.0),
            ("harp", "sparkle", 1.0),
            ("flute", "lead", 0.6),
        ),
        bass_patches=("sub_bass", "synth_bass"),
        bass_roles=("long",),
        patterns="ambient",
        manners=("choir",),
        song_shares=(0.28, 0.15, 0.35),
        section_shares=(0.53, 0.5, 0.5, 0.93),
        is_electronic_kit=True,
        reverb_seconds=(0.5, 0.9),
        reverb_level=(0.4, 0.8),
        loudness=(0.45, 0.85),
    ),
    Style(
        name="pop",
        title="Pop",
        tempo_bpm=(96.0, 128.0),
        scales=("major", "minor"),
        progressions=((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (3, 4, 2, 5)),
        parts=(
            ("piano", "comp", 2.0),
            ("electric_guitar", "arpeggio", 1.5),
            ("synth_pad", "pad", 1.5),
            ("synth_pluck", "arpeggio", 1.0),
            ("acoustic_guitar", "strum", 1.5),
            ("marimba", "arpeggio", 0.7),
            ("strings", "pad", 0.7),
        ),
        bass_patches=("bass_guitar", "synth_bass"),
        bass_roles=("eighths", "syncopated"),
        patterns="pop",
        manners=("song",),
        song_shares=(0.97, 0.9, 0.85),
        section_shares=(0.63, 0.55, 0.5, 0.85),
        is_electronic_kit=True,
    ),
    Style(
        name="funk",
        title="Funk",
        tempo_bpm=(96.0, 118.0),
        scales=("dorian", "mixolydian"),
        progressions=((0, 0, 3, 3), (0, 3, 0, 3), (0, 0, 0, 4)),
        num_chord_tones=4,
        parts=(
            ("electric_guitar", "scratch", 3.0),
            ("brass", "comp", 2.0),
            ("organ", "comp", 1.5),
            ("electric_piano", "comp", 1.0),
            ("sax", "lead", 1.0),
        ),
        bass_patches=("bass_guitar", "synth_bass"),
        bass_roles=("syncopated", "sixteenths"),
        patterns="funk",
        manners=("song",),
        song_shares=(0.68, 0.95, 0.95),
        section_shares=(0.53, 0.6, 0.55, 0.85),
        swing=0.04,
    ),
)
NUM_GENRES = 8
