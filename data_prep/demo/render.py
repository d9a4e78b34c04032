"""Renders a song to four stems that sum to its mixture."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.signal

from data_prep.demo.composition import compose, harmony
from data_prep.demo.synthesis import drums, notes, soundfont, voice
from data_prep.demo.synthesis.patch import add_at

# Mean absolute value that a source has where it plays, before song loudness. The
# silence gate of the preparation is 0.01.
SOURCE_LEVELS = {"vocals": 0.055, "drums": 0.045, "bass": 0.06, "other": 0.06}
MIN_ACTIVE_LEVEL = 0.026
MAX_MIXTURE_PEAK = 0.93
BLOCK_SECONDS = 0.5
DRUM_SECONDS = 0.2  # how long a sampled drum's key is held


@dataclasses.dataclass(frozen=True)
class RenderedSong:
    """A song's audio.

    Attributes:
        stems: source -> float32 [samples]; their sum is the mixture.
        parts: (patch name, float32 [samples]) of every bass and other part, at its
            level in its stem but without the room.
        sample_rate_hz: of all of them.
    """

    stems: dict[str, np.ndarray]
    parts: tuple[tuple[str, np.ndarray], ...]
    sample_rate_hz: int

    def mixture(self) -> np.ndarray:
        """Sums the stems, float32 [samples]."""
        return np.stack(list(self.stems.values())).sum(axis=0)


def active_level(waveform: np.ndarray, sample_rate_hz: int) -> float:
    """Mean absolute value of a waveform over the half seconds where it sounds.

    Args:
        waveform: float [samples].
        sample_rate_hz: its rate.

    Returns:
        The level; 0 for silence.
    """
    block = int(BLOCK_SECONDS * sample_rate_hz)
    num_blocks = max(len(waveform) // block, 1)
    blocks = np.abs(waveform[: num_blocks * block]).reshape(num_blocks, -1).mean(1)
    if not blocks.max() > 0:
        return 0.0
    return float(blocks[blocks > 0.15 * blocks.max()].mean())


def _render_part(
    part: harmony.Part,
    num_samples: int,
    rate_hz: int,
    rng: np.random.Generator,
    font: str | None,
) -> np.ndarray:
    if font and part.patch.sampled:
        strikes = [
            (n.start_seconds, n.duration_seconds, n.midi, n.velocity)
            for n in part.notes
        ]
        return soundfont.play(font, part.patch.sampled, strikes, num_samples, rate_hz)
    output = np.zeros(num_samples, np.float32)
    rendered: dict[tuple[int, int, int], np.ndarray] = {}
    for note in part.notes:
        start = round(note.start_seconds * rate_hz)
        # Songs repeat themselves: a note of a pitch, length and touch is made once.
        key = (note.midi, round(note.duration_seconds * 40), round(note.velocity * 10))
        if start >= num_samples:
            continue
        if key not in rendered:
            rendered[key] = notes.render_note(
                part.patch, note.midi, key[1] / 40, key[2] / 10, rate_hz, rng
            )
        add_at(output, start, rendered[key])
    if part.patch.drive and len(part.notes):
        # Chords through one amplifier intermodulate, notes alone do not.
        peak = max(float(np.abs(output).max()), 1e-6)
        output = np.tanh(output * (0.5 * part.patch.drive / peak))
    return output


def _render_voice(
    song: compose.Song,
    num_samples: int,
    rate_hz: int,
    rng: np.random.Generator,
    font: str | None,
) -> np.ndarray:
    if font and song.sampled_choir:
        strikes = [
            (n.start_seconds, n.duration_seconds, round(n.midi), n.velocity)
            for n in song.sung
        ]
        return soundfont.play(font, song.sampled_choir, strikes, num_samples, rate_hz)
    return voice.sing(list(song.sung), song.singer, num_samples, rate_hz, rng)


def _render_drums(
    song: compose.Song,
    num_samples: int,
    rate_hz: int,
    rng: np.random.Generator,
    font: str | None,
) -> np.ndarray:
    if font and song.sampled_kit:
        strikes = [
            (h.start_seconds, DRUM_SECONDS, soundfont.DRUM_KEYS[h.drum], h.velocity)
            for h in song.hits
        ]
        return soundfont.play(font, song.sampled_kit, strikes, num_samples, rate_hz)
    return drums.render_drums(list(song.hits), song.kit, num_samples, rate_hz, rng)


def _room(song: compose.Song, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Impulse response: the direct sound and a decaying noise tail."""
    num_tail = int(2.5 * song.reverb_seconds * rate_hz)
    seconds = np.arange(num_tail) / rate_hz
    tail = rng.standard_normal(num_tail) * np.exp(-seconds / song.reverb_seconds)
    # Air and walls take the treble first.
    tail = scipy.signal.lfilter([0.45], [1.0, -0.55], tail)
    tail[: int(0.012 * rate_hz)] = 0.0
    tail *= song.reverb_level / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def _duck(song: compose.Song, num_samples: int, rate_hz: int) -> np.ndarray:
    """Gain that falls at every kick and recovers within a fraction of a beat."""
    gain = np.ones(num_samples, np.float32)
    recovery_seconds = 0.4 * 60.0 / song.tempo_bpm
    num_dip = int(2 * recovery_seconds * rate_hz)
    dip = 1.0 - 0.75 * np.exp(-np.arange(num_dip) / (recovery_seconds * rate_hz / 2))
    for hit in song.hits:
        start = round(hit.start_seconds * rate_hz)
        if hit.drum != "kick" or not 0 <= start < num_samples:
            continue
        stop = min(start + num_dip, num_samples)
        gain[start:stop] = np.minimum(gain[start:stop], dip[: stop - start])
    return gain


def _level(stem: np.ndarray, target: float, rate_hz: int) -> tuple[np.ndarray, float]:
    """Brings a stem to a level and rounds its peaks; also the gain that was used."""
    level = active_level(stem, rate_hz)
    if not level:
        return stem, 0.0
    gain = target / level
    ceiling = 9.0 * target
    return (ceiling * np.tanh(stem * (gain / ceiling))).astype(np.float32), gain


def render_song(
    song: compose.Song,
    num_samples: int,
    sample_rate_hz: int,
    rng: np.random.Generator,
    font: str | None = None,
) -> RenderedSong:
    """Renders a song.

    Args:
        song: the composed song.
        num_samples: length of the result.
        sample_rate_hz: of the result.
        rng: for noise in instruments and room.
        font: file of the sound font that plays what has a sampled tone; see
            `programs.choose_programs`.

    Returns:
        Stems and parts.
    """
    raw = {source: np.zeros(num_samples, np.float32) for source in compose.SOURCES}
    if song.sung:
        raw["vocals"] = _render_voice(song, num_samples, sample_rate_hz, rng, font)
    if song.hits:
        raw["drums"] = _render_drums(song, num_samples, sample_rate_hz, rng, font)
    buses = []
    for source, part in [("bass", song.bass), *(("other", p) for p in song.other)]:
        if part is None or not part.notes:
            continue
        bus = _render_part(part, num_samples, sample_rate_hz, rng, font)
        level = active_level(bus, sample_rate_hz)
        if level:
            bus *= part.level / level
            buses.append((source, part.patch.name, bus))
            raw[source] += bus
    if song.style.is_pumping and song.hits:
        raw["other"] *= _duck(song, num_samples, sample_rate_hz)
    room = _room(song, sample_rate_hz, rng)
    stems = {}
    gains = {}
    for source in compose.SOURCES:
        stem = raw[source]
        # Engineers keep the low end dry; drums have a room of their own.
        if source in ("vocals", "other") and np.any(stem):
            stem = scipy.signal.oaconvolve(stem, room)[:num_samples]
        target = SOURCE_LEVELS[source] * song.loudness * song.balance[source]
        target = max(target, MIN_ACTIVE_LEVEL)
        stems[source], gains[source] = _level(stem, target, sample_rate_hz)
    mixture_peak = float(np.abs(np.sum(list(stems.values()), axis=0)).max())
    scale = np.float32(min(1.0, MAX_MIXTURE_PEAK / max(mixture_peak, 1e-6)))
    return RenderedSong(
        stems={source: stem * scale for source, stem in stems.items()},
        parts=tuple(
            (name, bus * np.float32(gains[source] * scale))
            for source, name, bus in buses
        ),
        sample_rate_hz=sample_rate_hz,
    )
