"""Augmentations of log-mel windows: masking, warping, shifting, gain, two from others.

Every augmentation is two functions: one draws parameters for a batch, by counters and
without state, so that equal seeds give equal windows whenever they are asked for; the
other applies given parameters. Both work on whole batches, in graph mode.

`mws` is the paper's baseline. `gain` changes each window's level by itself, so that a
pair cannot be told by its loudness; `transpose` moves a whole mini-batch by the same
few mel bands, so that songs are harder to learn by heart. `remix`, in a module of its
own, mixes the stems of several songs anew. `specaugment` is
tensorflow-io's `freq_mask` and `time_mask`, `cutout` keras-cv's `RandomCutout`; both
need the extra `augment`, and are imported when asked for. Names with `+` between them
are applied one after another.
"""

import sys
import types
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from cola_msa.config.schema import AUGMENTATIONS, FrontendConfig, TrainConfig
from cola_msa.system.errors import UserError

REMIX = "remix"  # of whole batches with their stems: `remix`
Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_MASK_PROBABILITY = 0.5  # of time masks, and of frequency masks
_MOVE_PROBABILITY = 0.4  # of the shift, and of the warp
_MAX_TIME_MASKS, _MAX_TIME_WIDTH = 9, 9
_MAX_MEL_MASKS, _MAX_MEL_WIDTH = 4, 11
_LAST_TIME_START = 11  # a time mask starts at least so many frames before the end
_MAX_SHIFT = 9
_KNEE_LOW, _KNEE_HIGH = 38, 57  # for 98 frames
_KNEE_FRAMES = 98
_SPECAUGMENT_FRAMES, _SPECAUGMENT_MELS = 20, 12  # masks are narrower than these
_MAX_GAIN_DB = 10.0  # both ways
_NEPERS_PER_DB = np.log(10.0) / 20.0  # natural logarithm of a magnitude
_FLOOR_MARGIN = 0.01  # records hold float16, which errs by up to 0.004
_MAX_TRANSPOSE = 6  # mel bands, both ways
_CUTOUT_SHARE = 0.3  # largest rectangle, as a share of frames and of mel bands


class AugmentError(UserError):
    """An augmentation that does not exist, does not fit, or is not installed."""


def _uniform_int(
    seed: tf.Tensor, number: int, shape: Any, low: int, high: int
) -> tf.Tensor:
    """Integers low..high, both included; `number` tells the draws of a seed apart."""
    return tf.random.stateless_uniform(
        shape, _fold(seed, number), low, high + 1, tf.int32
    )


def _coin(
    seed: tf.Tensor, number: int, batch_size: Any, probability: float
) -> tf.Tensor:
    values = tf.random.stateless_uniform([batch_size], _fold(seed, number))
    return values < probability


def _fold(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.fold_in(seed, number)


def _keep(
    seed: tf.Tensor,
    number: int,
    batch_size: Any,
    length: int,
    max_masks: int,
    max_width: int,
    last_start: int,
) -> tf.Tensor:
    """Where masks leave values alone, bool [batch, length]."""
    shape = [batch_size, max_masks]
    start = _uniform_int(seed, number, shape, 0, last_start)
    width = _uniform_int(seed, number + 1, shape, 1, max_width)
    num_masks = _uniform_int(seed, number + 2, [batch_size, 1], 1, max_masks)
    is_masking = _coin(seed, number + 3, batch_size, _MASK_PROBABILITY)
    is_used = tf.range(max_masks) < num_masks
    is_used &= is_masking[:, tf.newaxis]
    position = tf.range(length)
    is_inside = (position >= start[..., tf.newaxis]) & (
        position < (start + width)[..., tf.newaxis]
    )
    return ~tf.reduce_any(is_inside & is_used[..., tf.newaxis], axis=1)


def draw_mws(
    seed: tf.Tensor, batch_size: Any, num_frames: int = 98, num_mels: int = 64
) -> dict[str, tf.Tensor]:
    """Draws parameters of masking, warping and shifting, window by window.

    Args:
        seed: int64 [2]; equal seeds give equal parameters.
        batch_size: Windows.
        num_frames: Frames a window.
        num_mels: Mel bands.

    Returns:
        `keep_frames` bool [batch, num_frames], `keep_mels` bool [batch, num_mels]:
        False under a mask; `shift` int32 [batch], mel bands that the window moves
        down by, 0 for none; `knee` int32 [batch], the frame that the warp puts in the
        middle, -1 for none.

    Raises:
        AugmentError: If the window is too small for the masks.

    Source: the paper, section 4 (COLA + MWS), with docs/architecture.md for the ranges;
        differs: each view has masks of its own.
    """
    if num_frames <= _MAX_TIME_WIDTH + _LAST_TIME_START or num_mels <= _MAX_SHIFT:
        raise AugmentError(
            f"--augment=mws: a window of {num_frames} frames and {num_mels} mel bands "
            "is too small for its masks"
        )
    shift = _uniform_int(seed, 8, [batch_size], 1, _MAX_SHIFT)
    scale = num_frames / _KNEE_FRAMES
    knee = _uniform_int(
        seed, 9, [batch_size], round(_KNEE_LOW * scale), round(_KNEE_HIGH * scale)
    )
    is_shifted = _coin(seed, 10, batch_size, _MOVE_PROBABILITY)
    is_warped = _coin(seed, 11, batch_size, _MOVE_PROBABILITY)
    return {
        "keep_frames": _keep(
            seed,
            0,
            batch_size,
            num_frames,
            _MAX_TIME_MASKS,
            _MAX_TIME_WIDTH,
            num_frames - _LAST_TIME_START - 1,
        ),
        "keep_mels": _keep(
            seed, 4, batch_size, num_mels, _MAX_MEL_MASKS, _MAX_MEL_WIDTH, num_mels - 1
        ),
        "shift": tf.where(is_shifted, shift, 0),
        "knee": tf.where(is_warped, knee, -1),
    }


def apply_mws(windows: tf.Tensor, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
    """Masks windows, shifts them down in frequency, then warps them in time.

    Args:
        windows: float32 [batch, frames, num_mels, 1].
        parameters: From `draw_mws`.

    Returns:
        float32 [batch, frames, num_mels, 1]; masked values and freed bands are 0.
    """
    num_frames, num_mels = windows.shape[1], windows.shape[2]
    keep = (
        parameters["keep_frames"][:, :, tf.newaxis]
        & parameters["keep_mels"][:, tf.newaxis, :]
    )
    masked = tf.where(keep[..., tf.newaxis], windows, 0.0)
    band = tf.range(num_mels)[tf.newaxis, :] + parameters["shift"][:, tf.newaxis]
    shifted = tf.gather(masked, tf.minimum(band, num_mels - 1), axis=2, batch_dims=1)
    is_inside = (band < num_mels)[:, tf.newaxis, :, tf.newaxis]
    shifted = tf.where(is_inside, shifted, 0.0)
    # Linear from 0 to the knee over the first half, from there to the end over the
    # second.
    knee = tf.cast(parameters["knee"], tf.float64)[:, tf.newaxis]
    half = num_frames // 2
    first = np.linspace(0.0, 1.0, half) * knee
    second = np.linspace(0.0, 1.0, num_frames - half)
    second = knee + 1.0 + second * (num_frames - 2.0 - knee)
    # Rounding must not push the last position beyond the last frame.
    position = tf.minimum(tf.concat([first, second], axis=1), num_frames - 1.0)
    below = tf.floor(position)
    part = tf.cast(position - below, tf.float32)[:, :, tf.newaxis, tf.newaxis]
    below = tf.maximum(tf.cast(below, tf.int32), 0)
    above = tf.minimum(below + 1, num_frames - 1)
    warped = (1.0 - part) * tf.gather(shifted, below, axis=1, batch_dims=1)
    warped += part * tf.gather(shifted, above, axis=1, batch_dims=1)
    is_warped = (parameters["knee"] >= 0)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(is_warped, warped, shifted)


def _mws(windows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    parameters = draw_mws(
        seed, tf.shape(windows)[0], windows.shape[1], windows.shape[2]
    )
    return apply_mws(windows, parameters)


def draw_gain(seed: tf.Tensor, batch_size: Any) -> tf.Tensor:
    """Draws a gain for every window, uniform over -10 to 10 dB.

    Args:
        seed: int64 [2]; equal seeds give equal gains.
        batch_size: Windows.

    Returns:
        float32 [batch], decibels.
    """
    return tf.random.stateless_uniform(
        [batch_size], _fold(seed, 12), -_MAX_GAIN_DB, _MAX_GAIN_DB
    )


def apply_gain(
    windows: tf.Tensor, gain_db: tf.Tensor, log_floor: float = 1e-5
) -> tf.Tensor:
    """Changes levels as a gain before the front end would: silence stays silence.

    Args:
        windows: float32 [batch, frames, num_mels, 1], natural logarithms.
        gain_db: float32 [batch], decibels.
        log_floor: The magnitude that the front end clips to from below.

    Returns:
        float32 [batch, frames, num_mels, 1], not below the floor.
    """
    floor = float(np.log(log_floor))
    offset = tf.cast(gain_db * _NEPERS_PER_DB, windows.dtype)
    louder = tf.maximum(windows + offset[:, tf.newaxis, tf.newaxis, tf.newaxis], floor)
    return tf.where(windows > floor + _FLOOR_MARGIN, louder, windows)


def draw_transpose(seed: tf.Tensor) -> tf.Tensor:
    """Draws the mel bands that a mini-batch moves up by, int32, uniform -6 to 6.

    Were it drawn pair by pair, a positive could be told by its shift.
    """
    return _uniform_int(seed, 13, [], -_MAX_TRANSPOSE, _MAX_TRANSPOSE)


def apply_transpose(windows: tf.Tensor, bands: tf.Tensor) -> tf.Tensor:
    """Moves windows up by `bands` mel bands; the edge's band fills what is freed.

    Args:
        windows: float32 [batch, frames, num_mels, 1].
        bands: int32 scalar; negative moves down.

    Returns:
        float32 [batch, frames, num_mels, 1].
    """
    num_mels = windows.shape[2]
    band = tf.clip_by_value(tf.range(num_mels) - bands, 0, num_mels - 1)
    return tf.ensure_shape(tf.gather(windows, band, axis=2), windows.shape)


def _missing(name: str, package: str, error: Exception) -> AugmentError:
    return AugmentError(
        f"--augment={name} needs {package}, which cannot be imported ({error}): "
        "pip install '.[augment]' in the checkout"
    )


def _build_specaugment() -> Augment:
    """tensorflow-io's masks, one of each kind a window, with draws by counter."""
    try:
        with warnings.catch_warnings():
            # It says that its native library does not load; the masks need none of it.
            warnings.simplefilter("ignore")
            import tensorflow_io as tfio

        freq_mask, time_mask = tfio.audio.freq_mask, tfio.audio.time_mask
    except (ImportError, AttributeError) as error:
        raise _missing("specaugment", "tensorflow-io", error) from error
    module = sys.modules[freq_mask.__module__]

    def augment(windows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def one(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            window, number = item
            own_seed = tf.random.fold_in(seed, number)
            count = iter(range(100))

            def uniform(**kwargs: Any) -> tf.Tensor:
                return tf.random.stateless_uniform(
                    seed=tf.random.fold_in(own_seed, next(count)), **kwargs
                )

            # Its masks draw from TensorFlow's global generator, whose state a resumed
            # run would not have.
            stateless = types.SimpleNamespace(**vars(tf))
            stateless.random = types.SimpleNamespace(uniform=uniform)
            with mock.patch.object(module, "tf", stateless):
                masked = freq_mask(window[..., 0], _SPECAUGMENT_MELS)
                masked = time_mask(masked, _SPECAUGMENT_FRAMES)
            return masked[..., tf.newaxis]

        numbers = tf.range(tf.shape(windows)[0])
        result = tf.map_fn(one, (windows, numbers), fn_output_signature=windows.dtype)
        return tf.ensure_shape(result, windows.shape)

    return augment


def _build_cutout() -> Augment:
    """keras-cv's RandomCutout, applied to rectangles that are drawn by counter."""
    try:
        import keras_cv

        # It asks for the global generator, which deterministic operations refuse, and
        # never draws from it here.
        generator = tf.random.Generator.from_seed(0)
        with mock.patch.object(tf.random, "get_global_generator", lambda: generator):
            layer = keras_cv.layers.RandomCutout(
                height_factor=_CUTOUT_SHARE, width_factor=_CUTOUT_SHARE, fill_value=0.0
            )
    except (ImportError, AttributeError) as error:
        raise _missing("cutout", "keras-cv", error) from error

    def augment(windows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        frames, mels = windows.shape[1], windows.shape[2]
        size = [tf.shape(windows)[0]]
        rectangles = {
            "centers_x": _uniform_int(seed, 0, size, 0, mels - 1),
            "centers_y": _uniform_int(seed, 1, size, 0, frames - 1),
            "rectangles_width": _uniform_int(
                seed, 2, size, 0, int(_CUTOUT_SHARE * mels)
            ),
            "rectangles_height": _uniform_int(
                seed, 3, size, 0, int(_CUTOUT_SHARE * frames)
            ),
        }
        result = layer.augment_images(windows, transformations=rectangles)
        return tf.ensure_shape(result, windows.shape)

    return augment


def split_remix(name: str, source: str = "multi") -> tuple[bool, str]:
    """Whether a name has `remix` in it, and the rest of it.

    Args:
        name: One of AUGMENTATIONS, or several with `+` between them.
        source: What pairs are drawn from, as `--source` says it.

    Raises:
        AugmentError: If `remix` comes after another augmentation or twice, or there is
            no source to mix anew.
    """
    first, *rest = name.split("+")
    if REMIX in rest:
        raise AugmentError(
            f"--augment={name}: remix comes first and once, as it mixes the windows "
            "that the others change"
        )
    if first != REMIX:
        return False, name
    if source == "none":
        raise AugmentError(
            "--augment=remix mixes a source's stem anew, and --source=none (COLA) has "
            "no source; say --source=multi or leave remix out"
        )
    return True, "+".join(rest) or "none"


def augmentation_names(name: str) -> list[str]:
    """The augmentations, none of them `remix`, that are joined by `+`; [] for `none`.

    Raises:
        AugmentError: If one is unknown or stands there twice.
    """
    names = [] if name == "none" else name.split("+")
    known = set(AUGMENTATIONS) - {"none", REMIX}
    if not set(names) <= known or len(set(names)) < len(names):
        raise AugmentError(
            f"--augment={name}: must be one of {', '.join(AUGMENTATIONS)}, or several "
            "of them, each once, with + between them"
        )
    return names


def build_augmentation(name: str, log_floor: float = 1e-5) -> Augment | None:
    """Looks an augmentation up.

    Args:
        name: One of AUGMENTATIONS but `remix`, or several with `+` between them:
            applied in this order.
        log_floor: The front end's, which `gain` respects.

    Returns:
        A function of windows float32 [batch, frames, num_mels, 1] and a seed
        int64 [2] that returns windows of the same shape; None for `none`.

    Raises:
        AugmentError: If there is none of that name, or its package is missing.
    """
    if name == "none":
        return None
    steps = [_build_one(part, log_floor) for part in augmentation_names(name)]

    def augment(windows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        for number, step in enumerate(steps):
            windows = step(windows, _fold(seed, 1000 + number) if number else seed)
        return windows

    return augment


def log_mel_augmentation(
    train: TrainConfig, frontend: FrontendConfig
) -> Augment | None:
    """What a configuration says of windows of log-mels, but for `remix`.

    Args:
        train: Augment and source are used.
        frontend: Of the windows.

    Returns:
        As `build_augmentation`.

    Raises:
        AugmentError: If it is unknown, does not fit, or its package is missing.
    """
    _, rest = split_remix(train.augment, train.source)
    return build_augmentation(rest, frontend.log_floor)


def _build_one(name: str, log_floor: float) -> Augment:
    if name == "mws":
        return _mws
    if name == "gain":
        return lambda windows, seed: apply_gain(
            windows, draw_gain(seed, tf.shape(windows)[0]), log_floor
        )
    if name == "transpose":
        return lambda windows, seed: apply_transpose(windows, draw_transpose(seed))
    return _build_specaugment() if name == "specaugment" else _build_cutout()
