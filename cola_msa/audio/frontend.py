"""Waveform to level to log-mel to windows, in TensorFlow operations alone.

The same functions run eagerly, inside `tf.data`, and in an exported SavedModel.

`log_mel` is the authors' front end, in single precision. Its FFT errs by about 1e-7 of
a frame's loudest bin, which in bands near log_floor moves the log-mel by up to 0.0055
(an MP3; a record's float16 rounds by 0.004), and by other amounts where the same clip
has another gain or is cut into blocks.
`exact_log_mel` has its FFT in double precision, and is what records hold, in float16,
and what every way from a waveform to an embedding uses: files, Python, the SavedModel
and `cola_msa.audio.frontend_numpy` agree on any audio.
`raw_frames`, `frontend_numpy.finish_frames` and `sound_windows` are of log-mels or of
the waveform itself, as `FrontendConfig.kind` says: nobody else asks.
"""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from cola_msa.audio import frontend_numpy
from cola_msa.config.schema import FrontendConfig

# The level rule `rms` equals the authors' `l2` rule on a clip of this length.
_REFERENCE_SAMPLES = 16000 * 30


def level_scale(square_sum: float, num_samples: int, level: str = "rms") -> float:
    """The factor of `normalize_level`, from a whole waveform's sum of squares.

    Args:
        square_sum: Sum of squared samples.
        num_samples: Samples.
        level: `rms`, `l2`, or `none`, which gives 1.

    Returns:
        What each sample is multiplied by; 0 for digital silence, but by `none`.

    Raises:
        ValueError: If `level` is none of these.
    """
    if level == "none":
        return 1.0
    if level not in ("rms", "l2"):
        raise ValueError(f"level must be 'rms' or 'l2', not {level!r}")
    if square_sum <= 0:
        return 0.0
    scale = 1 / math.sqrt(square_sum)
    if level == "l2":
        return scale
    return scale * math.sqrt(num_samples / _REFERENCE_SAMPLES)


def normalize_level(
    waveform: tf.Tensor, level: str = "rms", num_samples: tf.Tensor | None = None
) -> tf.Tensor:
    """Scales each waveform to a level that does not depend on the recording's gain.

    Args:
        waveform: float32 [..., samples], mono. Digital silence stays silence.
        level: `rms` divides by RMS x sqrt(16000 x 30), whatever the length; `l2`
            divides by the L2 norm, as the authors do, so that the level falls with
            the length. Both are equal on 30 s at 16 kHz.
        num_samples: int [...], each waveform's length where it is padded with zeros
            at its end; padding does not count. None: no padding.

    Returns:
        float32 [..., samples].

    Raises:
        ValueError: If `level` is neither `rms` nor `l2`.

    Source: the authors' preparation (`l2`); differs: `rms` is our default.
    """
    waveform = tf.convert_to_tensor(waveform, tf.float32)
    norm = tf.sqrt(tf.reduce_sum(tf.square(waveform), axis=-1, keepdims=True))
    if level == "l2":
        return tf.math.divide_no_nan(waveform, norm)
    if level != "rms":
        raise ValueError(f"level must be 'rms' or 'l2', not {level!r}")
    if num_samples is None:
        length = tf.cast(tf.shape(waveform)[-1], tf.float32)
    else:
        length = tf.cast(num_samples, tf.float32)[..., tf.newaxis]
    scale = tf.sqrt(length / float(_REFERENCE_SAMPLES))
    return tf.math.divide_no_nan(waveform, norm) * scale


def level_factor(
    waveform: tf.Tensor, level: str = "rms", num_samples: tf.Tensor | None = None
) -> tf.Tensor:
    """What `normalize_level` multiplies a waveform by, summed in double precision.

    Args:
        waveform: float32 [..., samples], mono; zeros where it is padded.
        level: `rms` or `l2`, see `normalize_level`, or `none`, which gives 1.
        num_samples: int [...], lengths without padding; None: no padding.

    Returns:
        float32 [...]; 0 for digital silence, but by `none`.

    Raises:
        ValueError: If `level` is none of these.
    """
    if level == "none":
        return tf.ones(tf.shape(waveform)[:-1])
    if level not in ("rms", "l2"):
        raise ValueError(f"level must be 'rms' or 'l2', not {level!r}")
    waveform = tf.cast(waveform, tf.float64)
    norm = tf.sqrt(tf.reduce_sum(tf.square(waveform), axis=-1))
    scale = tf.ones_like(norm)
    if level == "rms":
        length = tf.shape(waveform)[-1] if num_samples is None else num_samples
        scale *= tf.sqrt(tf.cast(length, tf.float64) / float(_REFERENCE_SAMPLES))
    return tf.cast(tf.math.divide_no_nan(scale, norm), tf.float32)


@functools.lru_cache(maxsize=8)
def _mel_matrix(config: FrontendConfig) -> np.ndarray:
    """The [fft_size // 2 + 1, num_mels] float32 matrix, computed once a process."""
    with tf.init_scope():
        matrix = tf.signal.linear_to_mel_weight_matrix(
            num_mel_bins=config.num_mels,
            num_spectrogram_bins=config.fft_size // 2 + 1,
            sample_rate=config.sample_rate_hz,
            lower_edge_hertz=config.low_hz,
            upper_edge_hertz=config.high_hz,
        )
        return matrix.numpy()


def _stft(waveform: tf.Tensor, config: FrontendConfig) -> tf.Tensor:
    return tf.signal.stft(
        waveform,
        frame_length=config.window_samples,
        frame_step=config.hop_samples,
        fft_length=config.fft_size,
        window_fn=tf.signal.hann_window,
        pad_end=False,
    )


def mel_magnitudes(
    waveform: tf.Tensor, config: FrontendConfig = FrontendConfig()
) -> tf.Tensor:
    """Computes mel magnitudes; they grow with the waveform's level in proportion.

    Args:
        waveform: float32 [..., samples], mono, at config.sample_rate_hz.
        config: FrontendConfig; window and hop in samples, band edges in Hz.

    Returns:
        float32 [..., frames, num_mels]; frames = 1 + (samples - window) // hop.

    Source: COLA (Saeed et al. 2021), section 3; differs: none.
    """
    magnitude = tf.abs(_stft(tf.convert_to_tensor(waveform, tf.float32), config))
    return tf.matmul(magnitude, tf.constant(_mel_matrix(config)))


def log_mel(
    waveform: tf.Tensor, config: FrontendConfig = FrontendConfig()
) -> tf.Tensor:
    """Computes natural-log mel magnitudes.

    Args:
        waveform: float32 [..., samples], mono, at config.sample_rate_hz.
        config: FrontendConfig; window and hop in samples, band edges in Hz.

    Returns:
        float32 [..., frames, num_mels]; frames = 1 + (samples - window) // hop.

    Raises:
        ValueError: If the waveform is shorter than one window (where the length is
            known when the graph is built).

    Source: COLA (Saeed et al. 2021), section 3; differs: none.
    """
    waveform = tf.convert_to_tensor(waveform, tf.float32)
    num_samples = waveform.shape[-1]
    if num_samples is not None and num_samples < config.window_samples:
        raise ValueError(
            f"waveform has {num_samples} samples, fewer than one STFT window of "
            f"{config.window_samples}; pad it first"
        )
    mel = mel_magnitudes(waveform, config)
    return tf.math.log(tf.clip_by_value(mel, config.log_floor, config.log_ceiling))


def exact_mel_magnitudes(
    waveform: tf.Tensor, config: FrontendConfig = FrontendConfig()
) -> tf.Tensor:
    """Computes mel magnitudes, whose FFT is in double precision; they grow with level.

    It is the FFT's rounding that matters: the loudest bin's error is in every quiet
    one. What follows it adds numbers above zero, each with its own 24 bits; single
    precision there moves the log-mel by about 1e-6.

    Args:
        waveform: float32 [..., samples], mono, at config.sample_rate_hz.
        config: FrontendConfig; window and hop in samples, band edges in Hz.

    Returns:
        float32 [..., frames, num_mels]; frames = 1 + (samples - window) // hop.
    """
    spectrum = _stft(tf.cast(waveform, tf.float64), config)
    magnitude = tf.abs(tf.cast(spectrum, tf.complex64))
    matrix = tf.constant(frontend_numpy.mel_matrix(config), tf.float32)
    return tf.matmul(magnitude, matrix)


def exact_log_mel(
    waveform: tf.Tensor,
    config: FrontendConfig = FrontendConfig(),
    scale: tf.Tensor | None = None,
) -> tf.Tensor:
    """Level and log-mel of a waveform as it was decoded; the FFT in double precision.

    Args:
        waveform: float32 [..., samples], mono, at config.sample_rate_hz, of any level.
        config: FrontendConfig; `level` is the level rule.
        scale: float32 [...], what `waveform` is to be multiplied by, where it is a
            part of a clip; None takes the level rule's factor for `waveform`.

    Returns:
        float32 [..., frames, num_mels]; frames = 1 + (samples - window) // hop.

    Raises:
        ValueError: If `config.level` is neither `rms` nor `l2`.
    """
    waveform = tf.convert_to_tensor(waveform, tf.float32)
    if scale is None:
        scale = level_factor(waveform, config.level)
    mel = exact_mel_magnitudes(waveform, config) * scale[..., tf.newaxis, tf.newaxis]
    return tf.math.log(tf.clip_by_value(mel, config.log_floor, config.log_ceiling))


def raw_frames(waveform: tf.Tensor, config: FrontendConfig) -> tf.Tensor:
    """Frames of a waveform before its level is known: they grow with it in proportion.

    Args:
        waveform: float32 [..., samples], mono, at config.sample_rate_hz.
        config: FrontendConfig.

    Returns:
        float32 [..., frames, num_mels], frames = 1 + (samples - window) // hop: mel
        magnitudes, or the samples themselves. `frontend_numpy.finish_frames` goes on.
    """
    if not config.is_waveform:
        return exact_mel_magnitudes(waveform, config)
    waveform = tf.convert_to_tensor(waveform, tf.float32)
    hop = config.hop_samples
    return tf.signal.frame(waveform, hop, hop)


def exact_frames(
    waveform: tf.Tensor, config: FrontendConfig, scale: tf.Tensor | None = None
) -> tf.Tensor:
    """`exact_log_mel`, or the samples of a waveform from -1 to 1, which has no level.

    Args:
        waveform: float32 [..., samples], mono, at config.sample_rate_hz.
        config: FrontendConfig.
        scale: As in `exact_log_mel`.

    Returns:
        float32 [..., frames, num_mels].
    """
    if config.is_waveform:
        return tf.clip_by_value(raw_frames(waveform, config), -1.0, 1.0)
    return exact_log_mel(waveform, config, scale)


def sound_windows(
    sounds: tf.Tensor, num_frames: tf.Tensor, scale: tf.Tensor, config: FrontendConfig
) -> tf.Tensor:
    """Windows as the encoder sees them, of the sound that each is made of.

    Args:
        sounds: float32 [n, samples], a window each, zeros behind a clip's end.
        num_frames: int32 [n], frames of each that are no padding.
        scale: float32 [n], what each is to be multiplied by, of the level rule.
        config: FrontendConfig.

    Returns:
        float32 [n, window_frames, num_mels, 1].
    """
    frames = exact_frames(sounds, config, scale)
    if config.is_waveform:
        return frames[..., tf.newaxis]
    is_frame = tf.sequence_mask(tf.maximum(0, num_frames), config.window_frames)
    floor = tf.math.log(tf.constant(config.log_floor, tf.float32))
    return tf.where(is_frame[..., tf.newaxis], frames, floor)[..., tf.newaxis]


def window_log_mels(windows: tf.Tensor, config: FrontendConfig) -> tf.Tensor:
    """Log-mels of the encoder's windows, for what compares spectra.

    Of waveforms they are those of a front end with the default's times and bands at
    the waveforms' own rate, each window at the level rule's level.

    Args:
        windows: float32 [n, window_frames, num_mels, 1].
        config: The windows' FrontendConfig.

    Returns:
        float32 [n, frames, mels, 1]; the windows themselves where they are log-mels.
    """
    if not config.is_waveform:
        return windows
    default = FrontendConfig()
    rate = config.sample_rate_hz
    stretch = rate / default.sample_rate_hz
    spectral = dataclasses.replace(
        default,
        sample_rate_hz=rate,
        # Even: of an odd length TensorFlow's periodic window is a symmetric one.
        window_samples=2 * round(default.window_samples * stretch / 2),
        hop_samples=round(default.hop_samples * stretch),
        fft_size=2 ** math.ceil(math.log2(default.fft_size * stretch)),
        high_hz=min(default.high_hz, rate / 2),
    )
    waveform = tf.reshape(windows, [tf.shape(windows)[0], -1])
    return exact_log_mel(waveform, spectral)[..., tf.newaxis]


def split_windows(
    mel: tf.Tensor, config: FrontendConfig = FrontendConfig()
) -> tf.Tensor:
    """Cuts a log-mel into the windows that the encoder sees, from frame 0 on.

    Args:
        mel: float32 [frames, num_mels], at least one window long.
        config: FrontendConfig.

    Returns:
        float32 [frames // window_frames, window_frames, num_mels, 1].
    """
    num_windows = tf.shape(mel)[0] // config.window_frames
    used = mel[: num_windows * config.window_frames]
    return tf.reshape(used, [-1, config.window_frames, config.num_mels, 1])
