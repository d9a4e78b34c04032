"""Configurations from files: types, choices and sizes, before anything is built.

A config.json may be damaged or somebody else's. Every value that decides the size of
something is bounded, so that none takes memory without end.
"""

from typing import Any, TypeGuard

from cola_msa.config.schema import Config, ConfigError, FrontendConfig, from_dict
from cola_msa.values.fields import check_choices

# Products: log-mels of a window (the default has 6,272), and samples of its audio.
_MAX_WINDOW_VALUES = 1 << 17
_MAX_WINDOW_SAMPLES = 1 << 22
_LEAST_MELS = 32  # of Keras's EfficientNet
_LARGEST = 1e30  # of any number; float32 ends at 3e38
_LARGEST_LOG = 1e4  # of a log-mel


def check_config(values: Any) -> Config:
    """Rebuilds a configuration of a run or a pretrained folder.

    Args:
        values: What the file holds; missing fields take their default.

    Raises:
        ConfigError: If a field is unknown, of another type, no choice or too large.
    """
    config: Config = from_dict(Config, values)
    for part in (config.model, config.train):
        check_choices(part, ConfigError)
    _check_frontend(config.frontend)
    num_mels = config.frontend.num_mels
    if config.model.backbone == "efficientnetb0" and num_mels < _LEAST_MELS:
        raise ConfigError(f"frontend: {num_mels} bands are too few for efficientnetb0")
    return config


def check_frontend(values: Any) -> FrontendConfig:
    """Rebuilds a front end, as `check_config` does."""
    frontend: FrontendConfig = from_dict(FrontendConfig, values)
    _check_frontend(frontend)
    return frontend


def check_moments(data: dict[str, Any]) -> None:
    """Refuses a mean and deviation of log-mels that are none.

    Args:
        data: Holds `log_mel_mean` and `log_mel_std`.

    Raises:
        ConfigError: If one is missing, no finite number, or the deviation not above 0.
    """
    mean, deviation = data.get("log_mel_mean"), data.get("log_mel_std")
    if not (_is_finite(mean) and abs(mean) < _LARGEST_LOG):
        raise ConfigError(f"data: log_mel_mean is {mean!r:.40}")
    if not (_is_finite(deviation) and 1e-6 < deviation < _LARGEST_LOG):
        raise ConfigError(f"data: log_mel_std is {deviation!r:.40}")


def _is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a number that float32 holds."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _check_frontend(frontend: FrontendConfig) -> None:
    check_choices(frontend, ConfigError)
    if frontend.window_frames * frontend.num_mels > _MAX_WINDOW_VALUES:
        raise ConfigError(f"frontend: above {_MAX_WINDOW_VALUES:,} values a window")
    # Of the STFT's frames, too, which overlap.
    step = max(frontend.hop_samples, frontend.fft_size)
    if frontend.window_frames * step > _MAX_WINDOW_SAMPLES:
        raise ConfigError(f"frontend: above {_MAX_WINDOW_SAMPLES:,} samples a window")
