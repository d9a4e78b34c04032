"""What records hold of a frame's values, and back; two bytes a value.

Log-mels are float16, which errs by up to 0.004. Samples of a waveform are int16, as in
a 16-bit file: value / 32768, which errs by half a step where the clip has more bits or
another rate. Everything that reads records gets float16 log-mels, or float32 samples.
"""

from typing import Any

import numpy as np

from cola_msa.config.schema import FrontendConfig

FULL_SCALE = 32768.0
VALUE_BYTES = 2


def stored_type(frontend: FrontendConfig) -> np.dtype:
    """The type of a front end's values in records, little-endian."""
    return np.dtype("<i2" if frontend.is_waveform else "<f2")


def read_type(frontend: FrontendConfig) -> Any:
    """The type of values as readers give them."""
    return np.float32 if frontend.is_waveform else np.float16


def to_stored(values: np.ndarray, frontend: FrontendConfig) -> np.ndarray:
    """Values as records hold them.

    Args:
        values: float32 [...], as the front end gives them.
        frontend: FrontendConfig.

    Returns:
        float16 or int16 [...]; samples beyond full scale are clipped.
    """
    if not frontend.is_waveform:
        return values.astype(np.float16)
    steps = np.rint(values * np.float32(FULL_SCALE))
    return np.clip(steps, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_stored(values: np.ndarray) -> np.ndarray:
    """Values of records as readers give them; their type says what they are.

    Args:
        values: float16 or int16 [...].

    Returns:
        float16 [...], the same array, or float32 [...] from -1 to 1.
    """
    if values.dtype.kind != "i":
        return values
    return values.astype(np.float32) / np.float32(FULL_SCALE)


def round_to_stored(windows: np.ndarray, frontend: FrontendConfig) -> np.ndarray:
    """Windows as they would be read from records, float32 of any shape."""
    return from_stored(to_stored(windows, frontend)).astype(np.float32)
