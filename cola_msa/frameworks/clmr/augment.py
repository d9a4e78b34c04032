"""CLMR's chain of waveform augmentations, by which two crops of a clip become views.

Effects come in the published order, each with its own chance for every window by
itself: polarity, noise, gain, high- or low-pass filter, delay, pitch shift, reverb. An
effect is computed for the windows that drew it alone.

Source: CLMR (Spijkervet and Burgoyne 2021). Chances: `config/config.yaml`
    (`transforms_*`) and order: `main.py` of github.com/Spijkervet/CLMR, commit 423414d;
    ranges: at each effect; differs: samples beyond full scale are clipped once, at the
    end of the chain, where sox clips after each of its effects.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from cola_msa.frameworks.clmr import echoes, filters, levels, pitch

PROBABILITIES = {
    "polarity": 0.8,
    "noise": 0.01,
    "gain": 0.3,
    "filter": 0.8,
    "delay": 0.3,
    "pitch": 0.6,
    "reverb": 0.6,
}
Draw = Callable[[tf.Tensor, Any], dict[str, tf.Tensor]]

_DRAWS: dict[str, Draw] = {
    "polarity": lambda seed, num_windows: {},
    "noise": levels.draw_noise,
    "gain": levels.draw_gain,
    "filter": filters.draw_filter,
    "delay": echoes.draw_delay,
    "pitch": pitch.draw_pitch,
    "reverb": echoes.draw_reverb,
}


def draw_chain(
    seed: tf.Tensor,
    num_windows: Any,
    probabilities: Mapping[str, float] = PROBABILITIES,
) -> dict[str, dict[str, tf.Tensor]]:
    """Draws which windows get which effect, and its parameters.

    Args:
        seed: int64 [2]; equal seeds give equal draws.
        num_windows: Windows.
        probabilities: Chance of each effect; as published if not given.

    Returns:
        For each effect in order `is_chosen` bool [windows] and the effect's parameters
        for all windows, see the `draw_*` of its module.
    """
    drawn = {}
    for number, (name, draw) in enumerate(_DRAWS.items()):
        part = tf.random.stateless_uniform(
            [num_windows], tf.random.fold_in(seed, 2 * number)
        )
        parameters = draw(tf.random.fold_in(seed, 2 * number + 1), num_windows)
        drawn[name] = {"is_chosen": part < probabilities[name], **parameters}
    return drawn


def apply_chain(
    waveforms: tf.Tensor, drawn: dict[str, dict[str, tf.Tensor]], sample_rate_hz: int
) -> tf.Tensor:
    """Applies drawn effects to the windows that they were drawn for.

    Args:
        waveforms: float32 [windows, samples] in [-1, 1], samples known.
        drawn: From `draw_chain`.
        sample_rate_hz: Samples a second.

    Returns:
        float32 [windows, samples] in [-1, 1].
    """
    rate = {"sample_rate_hz": sample_rate_hz}
    effects: list[tuple[str, Callable[..., tf.Tensor], dict[str, int]]] = [
        ("polarity", levels.apply_polarity, {}),
        ("noise", levels.apply_noise, {}),
        ("gain", levels.apply_gain, {}),
        ("filter", filters.apply_filter, rate),
        ("delay", echoes.apply_delay, rate),
        ("pitch", pitch.apply_pitch, rate),
        ("reverb", echoes.apply_reverb, rate),
    ]
    for name, effect, constants in effects:
        parameters = dict(drawn[name])
        rows = tf.where(parameters.pop("is_chosen"))

        # Bound by default values, as tracing comes after the loop has gone on.
        def change(
            waveforms: tf.Tensor = waveforms,
            rows: tf.Tensor = rows,
            effect: Callable[..., tf.Tensor] = effect,
            parameters: dict[str, tf.Tensor] = parameters,
            constants: dict[str, int] = constants,
        ) -> tf.Tensor:
            own = {k: tf.gather(v, rows[:, 0]) for k, v in parameters.items()}
            changed = effect(tf.gather(waveforms, rows[:, 0]), **own, **constants)
            return tf.tensor_scatter_nd_update(waveforms, rows, changed)

        waveforms = tf.cond(tf.shape(rows)[0] > 0, change, lambda w=waveforms: w)
    return tf.clip_by_value(waveforms, -1.0, 1.0)


def build_chain(
    sample_rate_hz: int, probabilities: Mapping[str, float] = PROBABILITIES
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes the chain a function, for `tf.data` or outside of it.

    Args:
        sample_rate_hz: Samples a second; CLMR's is 22,050.
        probabilities: Chance of each effect; as published if not given.

    Returns:
        A function of windows float32 [windows, ...], whose other axes are known and
        are one waveform in order, and a seed int64 [2], that returns windows of the
        same shape; equal seeds give equal windows, and every window draws its own.
    """

    def augment(windows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        num_samples = windows.shape[1:].num_elements()
        waveforms = tf.reshape(windows, [-1, num_samples])
        drawn = draw_chain(seed, tf.shape(windows)[0], probabilities)
        waveforms = apply_chain(waveforms, drawn, sample_rate_hz)
        return tf.ensure_shape(tf.reshape(waveforms, tf.shape(windows)), windows.shape)

    return augment
