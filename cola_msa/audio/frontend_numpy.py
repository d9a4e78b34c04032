"""The front end in NumPy alone: waveform to level to log-mel to windows.

Where frames are the waveform's own samples (`FrontendConfig.kind`), they are cut and
bounded, and nothing else; what a frame holds is decided here and in `frontend`.

For users of the ONNX or TFLite export without TensorFlow; nothing here imports it:

    config = read_frontend("encoder/metadata.json")
    windows = clip_windows(waveform, config)    # [W, 98, 64, 1]

Equal to `cola_msa.audio.frontend.exact_log_mel`, which the SavedModel and
`cola_msa.embed` compute, within 1e-4 on any audio. Records hold
`cola_msa.audio.frontend.log_mel`, the authors' front end in single precision: equal
within 1e-4 too, but for bands about 80 dB and more below a frame's loudest, near
log_floor, where that one's FFT rounds (there by less than 0.01).
"""

import functools
import os
import pathlib

import numpy as np

from cola_msa.config.checks import check_frontend
from cola_msa.config.schema import FrontendConfig
from cola_msa.values.reading import read_json

# The level rule `rms` equals the authors' `l2` rule on a clip of this length.
_REFERENCE_SAMPLES = 16000 * 30
_LOG_MEL_FORMULA = (
    "level: rms divides the waveform by RMS x sqrt(16000 x 30), l2 by its L2 norm; "
    "silence stays silence. Frames of window_samples every hop_samples from sample 0, "
    "no padding; periodic Hann window; FFT of fft_size; magnitude. Mel: triangles "
    "between num_mels + 2 points evenly spaced from low_hz to high_hz on the scale "
    "1127 ln(1 + f / 700), of height 1, linear in mel, over the bins' frequencies; the "
    "bin of 0 Hz counts nowhere. Clip to [log_floor, log_ceiling], natural logarithm. "
    "Windows of window_frames frames from frame 0 on, the rest left out; a clip below "
    "one window is filled up with frames of ln(log_floor). Input: [n, window_frames, "
    "num_mels, 1]. All in double precision up to the logarithm: single rounds in quiet "
    "bands."
)
_WAVEFORM_FORMULA = (
    "Mono at sample_rate_hz, full scale from -1 to 1, no level rule; what lies beyond "
    "is clipped. Frames of hop_samples samples from sample 0 on, one behind the other; "
    "windows of window_frames frames from frame 0 on, the rest left out; a clip below "
    "one window is filled up with zeros. Input: [n, window_frames, hop_samples, 1], "
    "named log_mel as that of all encoders of this package."
)


def read_frontend(path: str | os.PathLike) -> FrontendConfig:
    """The front end of an export.

    Args:
        path: Its metadata.json, or its folder.

    Raises:
        FileError: If the file is missing or damaged; a ValueError.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path /= "metadata.json"
    return read_json(
        path,
        advice="it must be metadata of an export",
        check=lambda content: check_frontend(content["frontend"]),
    )


def formula(config: FrontendConfig) -> str:
    """What metadata.json says, for those who write the front end anew."""
    return _WAVEFORM_FORMULA if config.is_waveform else _LOG_MEL_FORMULA


def normalize_level(waveform: np.ndarray, level: str = "rms") -> np.ndarray:
    """Scales a waveform to a level that does not depend on the recording's gain.

    Args:
        waveform: float32 [..., samples], mono. Digital silence stays silence.
        level: `rms` or `l2`, see `cola_msa.audio.frontend.normalize_level`.

    Returns:
        float32 [..., samples].

    Raises:
        ValueError: If `level` is neither `rms` nor `l2`.
    """
    waveform = np.asarray(waveform, np.float32)
    return (waveform * level_factor(waveform, level)[..., np.newaxis]).astype(
        np.float32
    )


def level_factor(waveform: np.ndarray, level: str = "rms") -> np.ndarray:
    """What `normalize_level` multiplies a waveform by.

    Args:
        waveform: float32 [..., samples], mono.
        level: `rms`, `l2`, or `none`, which gives 1.

    Returns:
        float64 [...]; 0 for digital silence, but by `none`.

    Raises:
        ValueError: If `level` is none of these.
    """
    if level == "none":
        return np.ones(waveform.shape[:-1])
    if level not in ("rms", "l2"):
        raise ValueError(f"level must be 'rms' or 'l2', not {level!r}")
    # Summed in double precision: a long file's squares lose bits in single.
    norm = np.sqrt(np.sum(np.square(waveform, dtype=np.float64), axis=-1))
    scale = np.sqrt(waveform.shape[-1] / _REFERENCE_SAMPLES) if level == "rms" else 1.0
    return scale / np.where(norm > 0, norm, np.inf)


@functools.lru_cache(maxsize=8)
def mel_matrix(config: FrontendConfig = FrontendConfig()) -> np.ndarray:
    """Weights of spectrogram bins in mel bands.

    Args:
        config: FrontendConfig; fft_size, num_mels and band edges in Hz.

    Returns:
        float64 [fft_size // 2 + 1, num_mels].
    """

    def to_mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hertz / 700.0)

    num_bins = config.fft_size // 2 + 1
    bins = to_mel(np.linspace(0.0, config.sample_rate_hz / 2, num_bins))
    low, high = to_mel(np.array([config.low_hz, config.high_hz]))
    edges = np.linspace(low, high, config.num_mels + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, np.newaxis] - lower) / (centre - lower)
    falling = (upper - bins[:, np.newaxis]) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights


def mel_magnitudes(
    waveform: np.ndarray, config: FrontendConfig = FrontendConfig()
) -> np.ndarray:
    """Computes mel magnitudes; they grow with the waveform's level in proportion.

    Args:
        waveform: float32 [samples], mono, at config.sample_rate_hz.
        config: FrontendConfig; window and hop in samples, band edges in Hz.

    Returns:
        float64 [frames, num_mels]; frames = 1 + (samples - window) // hop, and none
        of a waveform below one STFT window.
    """
    num_frames = config.num_frames(len(waveform))
    if num_frames == 0:
        return np.zeros((0, config.num_mels))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, config.window_samples)
    frames = frames[:: config.hop_samples]
    phase = 2 * np.pi * np.arange(config.window_samples) / config.window_samples
    window = 0.5 - 0.5 * np.cos(phase)
    matrix = mel_matrix(config)
    mel = np.empty((num_frames, config.num_mels))
    for start in range(0, num_frames, 4096):  # a long file fits into memory
        part = frames[start : start + 4096] * window
        mel[start : start + 4096] = np.abs(np.fft.rfft(part, config.fft_size)) @ matrix
    return mel


def log_mel(
    waveform: np.ndarray,
    config: FrontendConfig = FrontendConfig(),
    scale: float | np.ndarray = 1.0,
) -> np.ndarray:
    """Computes natural-log mel magnitudes, in double precision.

    Args:
        waveform: float32 [samples], mono, at config.sample_rate_hz.
        config: FrontendConfig; window and hop in samples, band edges in Hz.
        scale: What the waveform is to be multiplied by (`level_factor`).

    Returns:
        float32 [frames, num_mels]; frames = 1 + (samples - window) // hop, and none
        of a waveform below one STFT window.
    """
    mel = mel_magnitudes(np.asarray(waveform, np.float32), config) * scale
    return np.log(np.clip(mel, config.log_floor, config.log_ceiling)).astype(np.float32)


def finish_frames(
    frames: np.ndarray, scale: float | np.ndarray, config: FrontendConfig
) -> np.ndarray:
    """Raw frames, as `frontend.raw_frames` gives them, as the encoder sees them.

    Args:
        frames: float32 [..., num_mels], of the waveform as it was decoded.
        scale: What the waveform is to be multiplied by, of the level rule.
        config: FrontendConfig.

    Returns:
        float32 [..., num_mels]: log-mels, or samples from -1 to 1.
    """
    scaled = frames * np.float32(scale)
    if config.is_waveform:
        return np.clip(scaled, np.float32(-1), np.float32(1))
    return np.log(np.clip(scaled, config.log_floor, config.log_ceiling))


def padding_value(config: FrontendConfig) -> float:
    """What frames hold in which there is no sound: log(log_floor), or 0."""
    return 0.0 if config.is_waveform else float(np.log(config.log_floor))


def whole_frames(
    samples: np.ndarray, num_before: int, config: FrontendConfig
) -> np.ndarray:
    """A clip's last samples, where they are too few for a window filled up with zeros.

    Of log-mels it is frames that are filled up, see `padding_value`: they are left
    alone.

    Args:
        samples: float32 [n].
        num_before: Frames of the clip before them.
        config: FrontendConfig.
    """
    num_frames = num_before + config.num_frames(len(samples))
    if not config.is_waveform or num_frames >= config.window_frames:
        return samples
    return np.pad(samples, (0, -len(samples) % config.hop_samples))


def split_windows(
    mel: np.ndarray, config: FrontendConfig = FrontendConfig()
) -> np.ndarray:
    """Cuts frames into the windows that the encoder sees, from frame 0 on.

    Args:
        mel: float32 [frames, num_mels].
        config: FrontendConfig.

    Returns:
        float32 [frames // window_frames, window_frames, num_mels, 1].
    """
    num_windows = len(mel) // config.window_frames
    used = mel[: num_windows * config.window_frames]
    return used.reshape(num_windows, config.window_frames, config.num_mels, 1)


def clip_windows(
    waveform: np.ndarray, config: FrontendConfig = FrontendConfig()
) -> np.ndarray:
    """All windows of a clip, as the SavedModel's `embed_waveform` cuts them.

    Args:
        waveform: float32 [samples], mono, at config.sample_rate_hz.
        config: FrontendConfig.

    Returns:
        float32 [W, window_frames, num_mels, 1], W at least 1: a clip below one window
        is filled up with frames of log(log_floor), or a waveform with zeros.
    """
    waveform = np.asarray(waveform, np.float32)
    if config.is_waveform:
        waveform = whole_frames(waveform, 0, config)
        used = config.num_frames(len(waveform)) * config.hop_samples
        frames = waveform[:used].reshape(-1, config.num_mels)
        frames = finish_frames(frames, 1.0, config)
    else:
        frames = log_mel(waveform, config, level_factor(waveform, config.level))
    return split_windows(fill_window(frames, config), config)


def fill_window(frames: np.ndarray, config: FrontendConfig) -> np.ndarray:
    """Frames [n, num_mels] of a clip, and `padding_value` up to one window."""
    missing = max(0, config.window_frames - len(frames))
    value = np.float32(padding_value(config))
    return np.pad(frames, ((0, missing), (0, 0)), constant_values=value)
