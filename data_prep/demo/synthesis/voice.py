"""A singing voice: a pulse train and noise through moving vowel formants.

The filter is applied in the short-time Fourier domain, one smooth spectral
envelope a frame, which makes moving formants cheap.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.fft
import scipy.signal

from data_prep.demo.synthesis.patch import midi_to_hz

FRAME_SIZE = 512
HOP_SIZE = FRAME_SIZE // 4
TABLE_SIZE = 1024
LOWEST_OCTAVE_HZ = 60.0
NUM_OCTAVES = 5

# Adult male formants in Hz (F1 to F5), after tables of sung vowels.
VOWEL_FORMANTS_HZ = {
    "a": (700.0, 1150.0, 2500.0, 3300.0, 4500.0),
    "e": (420.0, 1800.0, 2500.0, 3300.0, 4500.0),
    "i": (290.0, 2150.0, 2850.0, 3400.0, 4500.0),
    "o": (430.0, 820.0, 2450.0, 3200.0, 4400.0),
    "u": (320.0, 700.0, 2350.0, 3200.0, 4400.0),
    "@": (520.0, 1450.0, 2450.0, 3300.0, 4500.0),
}
FORMANT_WIDTHS_HZ = (80.0, 100.0, 130.0, 180.0, 250.0)
FORMANT_LEVELS = (1.0, 0.6, 0.35, 0.25, 0.12)

# Consonants: (noise centre in Hz, noise width in Hz, length in s, level). Level 0
# is a voiced stop or nasal: the voice only dips.
CONSONANTS = {
    "": (0.0, 1.0, 0.0, 0.0),
    "s": (6000.0, 1800.0, 0.11, 0.5),
    "sh": (3200.0, 1200.0, 0.11, 0.5),
    "f": (5000.0, 4000.0, 0.09, 0.25),
    "t": (4200.0, 1800.0, 0.035, 0.8),
    "k": (2000.0, 900.0, 0.045, 0.7),
    "h": (1400.0, 1500.0, 0.08, 0.25),
    "m": (0.0, 1.0, 0.07, 0.0),
    "b": (0.0, 1.0, 0.04, 0.0),
}


@dataclasses.dataclass(frozen=True)
class VoiceTimbre:
    """What tells one singer from another.

    Attributes:
        is_female: sets pitch range and vocal tract length.
        formant_scale: factor on all formant frequencies (shorter tract: above 1).
        formant_shifts: five factors of this singer alone.
        source_slope: glottal harmonic k has level k ** -source_slope.
        breath: level of aspiration noise through the formants.
        vibrato_hz: vibrato rate.
        vibrato_cents: vibrato depth on long notes.
        glide_seconds: time constant of pitch moving between notes.
        roughness: depth of irregular amplitude (growl).
        num_singers: voices in unison (a choir has several).
        range_midi: lowest and highest comfortable pitch.
    """

    is_female: bool
    formant_scale: float
    formant_shifts: tuple[float, ...]
    source_slope: float
    breath: float
    vibrato_hz: float
    vibrato_cents: float
    glide_seconds: float
    roughness: float
    num_singers: int
    range_midi: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class SungNote:
    """One syllable: start and length in seconds, pitch, level, vowels, consonant."""

    start_seconds: float
    duration_seconds: float
    midi: float
    velocity: float
    vowel: str
    end_vowel: str
    consonant: str


def draw_voice(rng: np.random.Generator, manner: str) -> VoiceTimbre:
    """Draws a singer.

    Args:
        rng: source of the timbre's numbers.
        manner: "song", "rap", "growl", "choir", "opera" or "croon".

    Returns:
        The singer's timbre.
    """
    is_female = bool(rng.random() < {"growl": 0.15, "rap": 0.3}.get(manner, 0.5))
    lowest = int(rng.integers(55, 62)) if is_female else int(rng.integers(43, 51))
    if manner == "opera":
        lowest += 4
    scale = rng.uniform(1.08, 1.28) if is_female else rng.uniform(0.88, 1.06)
    vibrato_cents = {"rap": 0.0, "growl": 10.0, "opera": 60.0, "croon": 45.0}
    return VoiceTimbre(
        is_female=is_female,
        formant_scale=float(scale),
        formant_shifts=tuple(float(v) for v in rng.uniform(0.92, 1.08, 5)),
        source_slope=float(rng.uniform(0.75, 1.5)),
        breath=float(rng.uniform(0.01, 0.12)),
        vibrato_hz=float(rng.uniform(4.6, 6.6)),
        vibrato_cents=vibrato_cents.get(manner, 28.0) * float(rng.uniform(0.5, 1.5)),
        glide_seconds=float(rng.uniform(0.01, 0.05)),
        roughness=float(rng.uniform(0.5, 0.9)) if manner == "growl" else 0.0,
        num_singers=int(rng.integers(3, 5)) if manner == "choir" else 1,
        range_midi=(lowest, lowest + 17),
    )


def _pulse_tables(source_slope: float, sample_rate_hz: int) -> np.ndarray:
    """One band-limited glottal cycle an octave, float32 [octaves, TABLE_SIZE]."""
    spectrum = np.zeros((NUM_OCTAVES, TABLE_SIZE // 2 + 1), np.complex64)
    for octave in range(NUM_OCTAVES):
        top_hz = LOWEST_OCTAVE_HZ * 2.0 ** (octave + 1)
        num_harmonics = min(int(0.48 * sample_rate_hz / top_hz), TABLE_SIZE // 4)
        order = np.arange(1, num_harmonics + 1)
        spectrum[octave, 1 : num_harmonics + 1] = -1j * order**-source_slope
    # irfft divides by the size, which would leave a tiny signal.
    return scipy.fft.irfft(spectrum, TABLE_SIZE, axis=1) * (TABLE_SIZE / 2)


def _smooth(track: np.ndarray, seconds: float, frames_per_second: float) -> np.ndarray:
    """One-pole smoothing along the first axis, started at the first value."""
    keep = np.exp(-1.0 / max(seconds * frames_per_second, 1e-3))
    state = track[:1] * keep
    return scipy.signal.lfilter([1.0 - keep], [1.0, -keep], track, axis=0, zi=state)[0]


@dataclasses.dataclass
class _Tracks:
    """Control tracks, one value a hop."""

    midi: np.ndarray
    level: np.ndarray
    vibrato: np.ndarray
    formants_hz: np.ndarray
    noise_level: np.ndarray
    noise_centre_hz: np.ndarray
    noise_width_hz: np.ndarray


def _control_tracks(
    notes: list[SungNote], timbre: VoiceTimbre, num_frames: int, frame_rate: float
) -> _Tracks:
    tracks = _Tracks(
        midi=np.full(num_frames, notes[0].midi),
        level=np.zeros(num_frames),
        vibrato=np.zeros(num_frames),
        formants_hz=np.tile(VOWEL_FORMANTS_HZ["@"], (num_frames, 1)),
        noise_level=np.zeros(num_frames),
        noise_centre_hz=np.full(num_frames, 3000.0),
        noise_width_hz=np.full(num_frames, 1000.0),
    )
    for note in notes:
        centre_hz, width_hz, noise_seconds, noise = CONSONANTS[note.consonant]
        start = int(note.start_seconds * frame_rate)
        stop = int((note.start_seconds + note.duration_seconds) * frame_rate) + 1
        onset = start + round(noise_seconds * frame_rate)
        if start < 0 or onset >= num_frames:
            continue
        stop = min(max(stop, onset + 2), num_frames)
        tracks.midi[start:] = note.midi
        seconds = np.arange(stop - onset) / frame_rate
        tracks.level[onset:stop] = note.velocity
        tracks.level[start:onset] = 0.0 if noise else 0.25 * note.velocity
        tracks.vibrato[onset:stop] = np.clip((seconds - 0.15) / 0.3, 0.0, 1.0)
        blend = np.clip(seconds / max(note.duration_seconds, 0.05), 0, 1)[:, None] ** 2
        tracks.formants_hz[onset:stop] = (1.0 - blend) * np.array(
            VOWEL_FORMANTS_HZ[note.vowel]
        ) + blend * np.array(VOWEL_FORMANTS_HZ[note.end_vowel])
        tracks.formants_hz[stop:] = VOWEL_FORMANTS_HZ[note.end_vowel]
        if noise:
            tracks.noise_level[start:onset] = noise * note.velocity
            tracks.noise_centre_hz[start:onset] = centre_hz
            tracks.noise_width_hz[start:onset] = width_hz
    scale = timbre.formant_scale * np.array(timbre.formant_shifts)
    tracks.formants_hz = _smooth(tracks.formants_hz * scale, 0.03, frame_rate)
    tracks.midi = _smooth(tracks.midi, timbre.glide_seconds, frame_rate)
    tracks.level = _smooth(tracks.level, 0.02, frame_rate)
    return tracks


def _pulses(
    tracks: _Tracks, timbre: VoiceTimbre, num: int, rate_hz: int, rng
) -> np.ndarray:
    """The glottal source, float32 [num]."""
    frame_rate = rate_hz / HOP_SIZE
    num_frames = len(tracks.midi)
    seconds = np.arange(num_frames) / frame_rate
    tables = _pulse_tables(timbre.source_slope, rate_hz)
    source = np.zeros(num, np.float32)
    for singer in range(timbre.num_singers):
        drift = _smooth(rng.standard_normal(num_frames), 0.08, frame_rate) * 25.0
        offset = rng.uniform(-12.0, 12.0) if timbre.num_singers > 1 else 0.0
        wave = np.sin(2 * np.pi * timbre.vibrato_hz * seconds + 1.7 * singer)
        cents = timbre.vibrato_cents * tracks.vibrato * wave + drift + offset
        pitch_hz = midi_to_hz(0.0) * 2.0 ** ((tracks.midi + cents / 100.0) / 12.0)
        per_sample_hz = np.repeat(pitch_hz, HOP_SIZE)[:num]
        cycles = np.cumsum(per_sample_hz) / rate_hz
        octave = np.log2(per_sample_hz / LOWEST_OCTAVE_HZ).astype(np.int64)
        octave = np.clip(octave, 0, NUM_OCTAVES - 1)
        phase = ((cycles % 1.0) * TABLE_SIZE).astype(np.int64)
        source += tables.ravel()[octave * TABLE_SIZE + phase]
    if timbre.roughness:
        growl = np.abs(_smooth(rng.standard_normal(num), 0.004, rate_hz))
        growl /= growl.mean()
        source *= (1.0 - timbre.roughness + timbre.roughness * growl).astype(np.float32)
    return source


def sing(
    notes: list[SungNote],
    timbre: VoiceTimbre,
    num_samples: int,
    sample_rate_hz: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Renders a vocal line.

    Args:
        notes: syllables in order of time.
        timbre: the singer.
        num_samples: length of the result.
        sample_rate_hz: of the result.
        rng: for pitch drift and noise.

    Returns:
        float32 [num_samples], not yet levelled; zero where nobody sings.
    """
    output = np.zeros(num_samples + 2 * FRAME_SIZE, np.float32)
    if not notes:
        return output[:num_samples]
    frame_rate = sample_rate_hz / HOP_SIZE
    num_frames = (num_samples + FRAME_SIZE) // HOP_SIZE
    num_padded = num_frames * HOP_SIZE + FRAME_SIZE
    tracks = _control_tracks(notes, timbre, num_frames, frame_rate)
    active = np.flatnonzero((tracks.level > 1e-3) | (tracks.noise_level > 0))
    if not len(active):
        return output[:num_samples]
    source = np.zeros(num_padded, np.float32)
    num_source = num_frames * HOP_SIZE
    source[:num_source] = _pulses(tracks, timbre, num_source, sample_rate_hz, rng)
    noise = rng.standard_normal(num_padded).astype(np.float32)
    window = np.hanning(FRAME_SIZE + 1)[:-1].astype(np.float32)
    index = active[:, None] * HOP_SIZE + np.arange(FRAME_SIZE)
    voiced = scipy.fft.rfft(source[index] * window, axis=1)
    hiss = scipy.fft.rfft(noise[index] * window, axis=1)
    bins_hz = np.fft.rfftfreq(FRAME_SIZE, 1.0 / sample_rate_hz).astype(np.float32)
    envelope = np.zeros((len(active), len(bins_hz)), np.float32)
    for order, (width_hz, level) in enumerate(
        zip(FORMANT_WIDTHS_HZ, FORMANT_LEVELS, strict=True)
    ):
        centre_hz = tracks.formants_hz[active, order, None].astype(np.float32)
        envelope += level / (1.0 + ((bins_hz - centre_hz) / width_hz) ** 2)
    loudness = tracks.level[active, None].astype(np.float32)
    burst = tracks.noise_level[active, None].astype(np.float32)
    noise_centre_hz = tracks.noise_centre_hz[active, None].astype(np.float32)
    noise_width_hz = tracks.noise_width_hz[active, None].astype(np.float32)
    distance = (bins_hz - noise_centre_hz) / noise_width_hz
    shape = np.exp(-0.5 * distance**2)
    spectrum = loudness * envelope * (voiced + timbre.breath * 8.0 * hiss)
    spectrum += 0.35 * burst * shape * hiss
    # Four Hann windows overlap to twice their amplitude.
    frames = scipy.fft.irfft(spectrum, FRAME_SIZE, axis=1) * 0.5
    padded = np.zeros((num_frames + 3, HOP_SIZE), np.float32)
    for quarter in range(4):
        part = frames[:, quarter * HOP_SIZE : (quarter + 1) * HOP_SIZE]
        padded[active + quarter] += part
    return padded.ravel()[:num_samples]
