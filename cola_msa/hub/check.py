"""What an export is compared with before it is called done."""

import numpy as np

from cola_msa.audio.frontend import exact_log_mel
from cola_msa.config.schema import FrontendConfig
from cola_msa.hub.loading import OpenedModel
from cola_msa.system.errors import UserError

TOLERANCE = 1e-4  # relative difference between export and encoder
_ROUNDINGS = 10  # a network rounds more often than once
_HIGHEST_TOLERANCE = 1e-2  # beyond it an export is of no use, rounding or not


class ExportError(UserError):
    """The export does not compute what the encoder computes."""


def check_waveforms(frontend: FrontendConfig) -> tuple[np.ndarray, np.ndarray]:
    """Clips of 0.3, 2.5 and 11 s.

    Returns:
        waveform float32 [3, samples], padded with zeros, and lengths int32 [3].
    """
    random = np.random.default_rng(0)
    rate = frontend.sample_rate_hz
    lengths = np.array([int(0.3 * rate), int(2.5 * rate), 11 * rate], np.int32)
    waveform = np.zeros((3, lengths.max()), np.float32)
    for row, length in enumerate(lengths):
        # Tones that come and go over noise: far from what one window's mean shows.
        time = np.arange(length) / rate
        tone = np.sin(2 * np.pi * (220 + 110 * row) * time) * (np.sin(3 * time) > 0)
        waveform[row, :length] = 0.1 * tone + 0.01 * random.standard_normal(length)
    return waveform, lengths


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the expected norm; infinite where NaN is found."""
    difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return difference if np.isfinite(difference) else float("inf")


def tolerance_of(windows: np.ndarray, model: OpenedModel) -> float:
    """How far an export may be from the encoder on these windows.

    Where an encoder multiplies rounding, no export can be nearer: on a window that is
    padding for the most part, one of 200 updates moved by 2.5e-4 where its input moved
    by float32's last bit.

    Args:
        windows: float32 [W, frames, num_mels, 1].
        model: The encoder.

    Returns:
        A relative difference: TOLERANCE, or where it is more, ten times what the
        input's last bit does; never more than 0.01.
    """
    noise = np.random.default_rng(0).choice([-1.0, 1.0], windows.shape)
    changed = (windows * (1.0 + 2.0**-23 * noise)).astype(np.float32)
    rounding = relative_difference(model.embed(changed), model.embed(windows))
    return min(max(TOLERANCE, _ROUNDINGS * rounding), _HIGHEST_TOLERANCE)


def reference_mel(waveform: np.ndarray, frontend: FrontendConfig) -> np.ndarray:
    """Windows of one clip: float32 [samples] -> [W, frames, num_mels, 1]."""
    if frontend.num_frames(len(waveform)) > 0:
        mel = exact_log_mel(waveform, frontend).numpy()
    else:
        mel = np.zeros((0, frontend.num_mels), np.float32)
    missing = max(0, frontend.window_frames - len(mel))
    mel = np.pad(
        mel, ((0, missing), (0, 0)), constant_values=np.log(frontend.log_floor)
    )
    num_windows = len(mel) // frontend.window_frames
    return (
        mel[: num_windows * frontend.window_frames]
        .reshape(num_windows, frontend.window_frames, frontend.num_mels, 1)
        .astype(np.float32)
    )


def reference_windows(waveform: np.ndarray, model: OpenedModel) -> np.ndarray:
    """What a probe sees of one clip: float32 [samples] -> [W, dim]."""
    windows = reference_mel(waveform, model.frontend)
    return np.concatenate(
        [model.embed(windows[i : i + 256]) for i in range(0, len(windows), 256)]
    )
