"""Synthesised drums: a kit drawn for each song, and its strokes."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.signal

from data_prep.demo.synthesis.patch import add_at

_HIT_LEVELS = {"x": 1.0, "o": 0.5}
_FILL = {"tom": "x.xx", "snare": ".x.o"}
ROOM_SECONDS = 0.12


@dataclasses.dataclass(frozen=True)
class DrumKit:
    """One song's drums: tuning, lengths and colours.

    Attributes:
        is_electronic: pure sweeps and short noise rather than ringing shells.
        kick_hz: resting frequency of the kick.
        kick_sweep: how many times that the kick starts at.
        kick_seconds: its decay.
        kick_click: level of the beater.
        snare_hz: shell frequency of the snare.
        snare_seconds: decay of its noise.
        snare_tone: share of the shell in the snare.
        metal_hz: base frequency of hats and cymbals.
        hat_seconds: decay of the closed hat.
        tom_hz: frequency of the middle tom.
        noise_hz: centre of claps, shakers and brushes.
        drive: gain before a tanh over the whole kit.
        room: level of a short room.
    """

    is_electronic: bool
    kick_hz: float
    kick_sweep: float
    kick_seconds: float
    kick_click: float
    snare_hz: float
    snare_seconds: float
    snare_tone: float
    metal_hz: float
    hat_seconds: float
    tom_hz: float
    noise_hz: float
    drive: float
    room: float


@dataclasses.dataclass(frozen=True)
class Hit:
    """One stroke: time in seconds, drum, velocity 0 to 1."""

    start_seconds: float
    drum: str
    velocity: float


def draw_kit(rng: np.random.Generator, is_electronic: bool) -> DrumKit:
    """Draws a drum kit.

    Args:
        rng: source of the kit's numbers.
        is_electronic: drum machine or acoustic kit.

    Returns:
        The kit.
    """
    kick_seconds = rng.uniform(0.12, 0.45) if is_electronic else rng.uniform(0.08, 0.2)
    return DrumKit(
        is_electronic=is_electronic,
        kick_hz=float(rng.uniform(42, 60) if is_electronic else rng.uniform(52, 85)),
        kick_sweep=float(rng.uniform(2.5, 7.0)),
        kick_seconds=float(kick_seconds),
        kick_click=float(rng.uniform(0.05, 0.5)),
        snare_hz=float(rng.uniform(150, 270)),
        snare_seconds=float(rng.uniform(0.06, 0.2)),
        snare_tone=float(rng.uniform(0.2, 0.8)),
        metal_hz=float(rng.uniform(270, 520)),
        hat_seconds=float(rng.uniform(0.02, 0.07)),
        tom_hz=float(rng.uniform(85, 170)),
        noise_hz=float(np.exp(rng.uniform(np.log(900), np.log(4500)))),
        drive=float(rng.choice([0.0, 0.0, 1.5, 3.0])),
        room=float(rng.uniform(0.05, 0.35)),
    )


def _sweep(
    seconds: np.ndarray, rest_hz: float, times: float, fall_seconds: float
) -> np.ndarray:
    """A sine that falls from times * rest_hz to rest_hz."""
    swept = seconds + (times - 1.0) * fall_seconds * (
        1.0 - np.exp(-seconds / fall_seconds)
    )
    return np.sin(2 * np.pi * rest_hz * swept)


def _band(
    noise: np.ndarray, low_hz: float, high_hz: float, sample_rate_hz: int
) -> np.ndarray:
    nyquist_hz = sample_rate_hz / 2
    edges = [low_hz / nyquist_hz, min(high_hz / nyquist_hz, 0.97)]
    sections = scipy.signal.butter(2, edges, "band", output="sos")
    return scipy.signal.sosfilt(sections, noise)


def _metal(kit: DrumKit, seconds: np.ndarray, rate_hz: int, noise: np.ndarray):
    """Six squares at inharmonic ratios and noise: hats and cymbals."""
    tone = np.zeros(len(seconds))
    for ratio in (1.0, 1.342, 1.2312, 1.6532, 1.9523, 2.1523):
        tone += np.sign(np.sin(2 * np.pi * kit.metal_hz * ratio * seconds))
    low_hz = 3000.0 if kit.is_electronic else 4200.0
    return _band(0.25 * tone + 0.6 * noise, low_hz, 9000.0, rate_hz)


def _render_stroke(
    kit: DrumKit, drum: str, rate_hz: int, rng: np.random.Generator
) -> np.ndarray:
    lengths = {"open": 0.5, "ride": 0.9, "crash": 1.6, "timpani": 1.2, "kick": 0.9}
    num = int(lengths.get(drum, 0.4) * rate_hz)
    seconds = np.arange(num) / rate_hz
    noise = rng.standard_normal(num)

    def fade(decay_seconds: float) -> np.ndarray:
        return np.exp(-seconds / decay_seconds)

    if drum == "kick":
        stroke = _sweep(seconds, kit.kick_hz, kit.kick_sweep, 0.02)
        stroke = stroke * fade(kit.kick_seconds) + kit.kick_click * noise * fade(0.004)
    elif drum == "snare":
        shell = _sweep(seconds, kit.snare_hz, 1.6, 0.01) * fade(0.07)
        wires = _band(noise, 1200.0, 7500.0, rate_hz) * fade(kit.snare_seconds)
        stroke = kit.snare_tone * shell + 0.9 * wires
    elif drum in ("hat", "foot", "open", "ride", "crash"):
        decay = {
            "hat": kit.hat_seconds,
            "foot": 0.6 * kit.hat_seconds,
            "open": 0.13,
            "ride": 0.22,
            "crash": 0.5,
        }[drum]
        level = {"hat": 0.45, "foot": 0.4, "open": 0.5, "ride": 0.4, "crash": 0.8}[drum]
        stroke = level * _metal(kit, seconds, rate_hz, noise) * fade(decay)
        if drum == "ride":
            ping = np.sin(2 * np.pi * kit.metal_hz * 7.3 * seconds)
            stroke += 0.12 * ping * fade(0.08)
    elif drum == "tom":
        stroke = _sweep(seconds, kit.tom_hz, 1.5, 0.05) * fade(0.13) + 0.05 * noise * (
            fade(0.02)
        )
    elif drum == "timpani":
        stroke = sum(
            level * np.sin(2 * np.pi * kit.tom_hz * 0.7 * ratio * seconds) * fade(decay)
            for ratio, level, decay in ((1, 1, 0.5), (1.5, 0.5, 0.35), (2, 0.3, 0.25))
        )
    elif drum == "clap":
        bursts = sum(
            np.where(seconds >= delay, np.exp(-(seconds - delay) / 0.012), 0.0)
            for delay in (0.0, 0.011, 0.023)
        )
        band = _band(noise, 0.7 * kit.noise_hz, 2.0 * kit.noise_hz, rate_hz)
        stroke = 1.2 * band * (bursts + 0.6 * fade(0.09))
    elif drum == "rim":
        stroke = np.sin(2 * np.pi * 1650.0 * seconds) * fade(0.012) + 0.4 * np.sin(
            2 * np.pi * 5.0 * kit.snare_hz * seconds
        ) * fade(0.03)
    elif drum == "tambourine":
        band = _band(noise, 4500.0, 7800.0, rate_hz)
        stroke = 0.7 * band * fade(0.08)
    elif drum == "brush":
        rise = np.minimum(seconds / 0.05, 1.0)
        stroke = 0.6 * _band(noise, 800.0, 5000.0, rate_hz) * rise * fade(0.09)
    else:
        rise = np.minimum(seconds / 0.02, 1.0)
        band = _band(noise, 1.2 * kit.noise_hz, 7800.0, rate_hz)
        stroke = 0.6 * band * rise * fade(0.035)
    num_tail = rate_hz // 100
    stroke[-num_tail:] *= np.linspace(1.0, 0.0, num_tail)
    return stroke.astype(np.float32)


def vary_pattern(
    pattern: dict[str, str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Makes a song's own version of a style's pattern.

    Args:
        pattern: drum -> string of a bar.
        rng: chooses a few added and dropped strokes.

    Returns:
        drum -> float [steps], the level of each sixteenth.
    """
    varied = {}
    for drum, line in pattern.items():
        levels = np.array([_HIT_LEVELS.get(symbol, 0.0) for symbol in line])
        # The first stroke of a bar stays, or the style's pulse would be lost.
        for step in range(1, len(levels)):
            chance = rng.random()
            if levels[step] and chance < 0.05:
                levels[step] = 0.0
            elif not levels[step] and chance < 0.03:
                levels[step] = 0.5
        varied[drum] = levels
    return varied


def fill_pattern(
    pattern: dict[str, np.ndarray], num_steps: int
) -> dict[str, np.ndarray]:
    """Replaces the last beat of a bar by a fill; levels as in `vary_pattern`."""
    filled = {drum: levels.copy() for drum, levels in pattern.items()}
    for drum, line in _FILL.items():
        levels = filled.setdefault(drum, np.zeros(num_steps))
        levels[-4:] = [_HIT_LEVELS.get(symbol, 0.0) for symbol in line]
    return filled


def render_drums(
    hits: list[Hit],
    kit: DrumKit,
    num_samples: int,
    sample_rate_hz: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Renders strokes.

    Args:
        hits: strokes in any order.
        kit: the drums.
        num_samples: length of the result.
        sample_rate_hz: of the result.
        rng: for the noise in the drums.

    Returns:
        float32 [num_samples], not yet levelled.
    """
    output = np.zeros(num_samples, np.float32)
    strokes = {
        drum: _render_stroke(kit, drum, sample_rate_hz, rng)
        for drum in sorted({hit.drum for hit in hits})
    }
    for hit in hits:
        start = round(hit.start_seconds * sample_rate_hz)
        add_at(output, start, hit.velocity * strokes[hit.drum])
    if kit.room and hits:
        num_room = int(ROOM_SECONDS * sample_rate_hz)
        room = rng.standard_normal(num_room) * np.exp(-np.linspace(0.0, 5.0, num_room))
        room *= kit.room / np.sqrt(np.sum(room**2))
        room[0] += 1.0
        output = scipy.signal.oaconvolve(output, room.astype(np.float32))[:num_samples]
    if kit.drive:
        output = np.tanh(kit.drive * output) / kit.drive
    return output.astype(np.float32)
