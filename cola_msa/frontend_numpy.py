"""The front end in NumPy alone: waveform to level to log-mel to windows.

For users of the ONNX or TFLite export without TensorFlow; nothing here imports it:

    config = read_frontend("encoder/metadata.json")
    windows = clip_windows(waveform, config)    # [W, 98, 64, 1]

Equal to `cola_msa.frontend` within 1e-4, but for bands so far below the loudest (about
90 dB) that TensorFlow's single-precision FFT rounds there.
"""

import functools
import json
import os
import pathlib

import numpy as np

from cola_msa.config import FrontendConfig, from_dict

# The level rule `rms` equals the authors' `l2` rule on a clip of this length.
_REFERENCE_SAMPLES = 16000 * 30
# What metadata.json says, for those who write the front end anew.
FORMULA = (
    "level: rms divides the waveform by RMS x sqrt(16000 x 30), l2 by its L2 norm; "
    "silence stays silence. Frames of window_samples every hop_samples from sample 0, "
    "no padding; periodic Hann window; FFT of fft_size; magnitude. Mel: triangles "
    "between num_mels + 2 points evenly spaced from low_hz to high_hz on the scale "
    "1127 ln(1 + f / 700), of height 1, linear in mel, over the bins' frequencies; the "
    "bin of 0 Hz counts nowhere. Clip to [log_floor, log_ceiling], natural logarithm. "
    "Windows of window_frames frames from frame 0 on, the rest left out; a clip below "
    "one window is filled up with frames of ln(log_floor). Input: [n, window_frames, "
    "num_mels, 1]."
)


def read_frontend(path: str | os.PathLike) -> FrontendConfig:
    """The front end of an export.

    Args:
        path: Its metadata.json, or its folder.

    Raises:
        ValueError: If the file is damaged.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path /= "metadata.json"
    try:
        return from_dict(FrontendConfig, json.loads(path.read_text())["frontend"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no metadata of an export ({error!r})") from error


def normalize_level(waveform: np.ndarray, level: str = "rms") -> np.ndarray:
    """Scales a waveform to a level that does not depend on the recording's gain.

    Args:
        waveform: float32 [..., samples], mono. Digital silence stays silence.
        level: `rms` or `l2`, see `cola_msa.frontend.normalize_level`.

    Returns:
        float32 [..., samples].

    Raises:
        ValueError: If `level` is neither `rms` nor `l2`.
    """
    if level not in ("rms", "l2"):
        raise ValueError(f"level must be 'rms' or 'l2', not {level!r}")
    waveform = np.asarray(waveform, np.float32)
    # Summed in double precision: a long file's squares lose bits in single.
    norm = np.sqrt(np.sum(waveform.astype(np.float64) ** 2, axis=-1, keepdims=True))
    scale = 1.0
    if level == "rms":
        scale = np.sqrt(waveform.shape[-1] / _REFERENCE_SAMPLES)
    return (waveform * (scale / np.where(norm > 0, norm, np.inf))).astype(np.float32)


@functools.lru_cache(maxsize=8)
def mel_matrix(config: FrontendConfig = FrontendConfig()) -> np.ndarray:
    """Weights of spectrogram bins in mel bands.

    Args:
        config: FrontendConfig; fft_size, num_mels and band edges in Hz.

    Returns:
        float32 [fft_size // 2 + 1, num_mels].
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
    return weights.astype(np.float32)


def log_mel(
    waveform: np.ndarray, config: FrontendConfig = FrontendConfig()
) -> np.ndarray:
    """Computes natural-log mel magnitudes.

    Args:
        waveform: float32 [samples], mono, at config.sample_rate_hz.
        config: FrontendConfig; window and hop in samples, band edges in Hz.

    Returns:
        float32 [frames, num_mels]; frames = 1 + (samples - window) // hop, and none
        of a waveform below one STFT window.
    """
    waveform = np.asarray(waveform, np.float32)
    num_frames = config.num_frames(len(waveform))
    if num_frames == 0:
        return np.zeros((0, config.num_mels), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, config.window_samples)
    frames = frames[:: config.hop_samples]
    # In single precision, as TensorFlow's: quiet bands show the difference.
    count = np.arange(config.window_samples, dtype=np.float32)
    phase = np.float32(2 * np.pi) * count / np.float32(config.window_samples)
    window = np.float32(0.5) - np.float32(0.5) * np.cos(phase)
    mel = np.empty((num_frames, config.num_mels), np.float32)
    for start in range(0, num_frames, 4096):  # a long file fits into memory
        part = frames[start : start + 4096] * window
        magnitude = np.abs(np.fft.rfft(part, config.fft_size)).astype(np.float32)
        mel[start : start + 4096] = magnitude @ mel_matrix(config)
    return np.log(np.clip(mel, config.log_floor, config.log_ceiling))


def split_windows(
    mel: np.ndarray, config: FrontendConfig = FrontendConfig()
) -> np.ndarray:
    """Cuts a log-mel into the windows that the encoder sees, from frame 0 on.

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
        is filled up with frames of log(log_floor).
    """
    mel = log_mel(normalize_level(waveform, config.level), config)
    missing = max(0, config.window_frames - len(mel))
    floor = np.float32(np.log(config.log_floor))
    mel = np.pad(mel, ((0, missing), (0, 0)), constant_values=floor)
    return split_windows(mel, config)
