"""Music representations by musical source association, in TensorFlow and Keras."""

import os
from typing import Any

# TensorFlow reads this when it is imported. On processors without AVX-512 it leaves its
# oneDNN kernels off, and an update then takes 1.8 times the CPU seconds.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"
__all__ = [
    "ContrastiveModel",
    "Embedder",
    "from_pretrained",
    "load_encoder",
    "log_mel",
    "normalize_level",
    "open_model",
]

_HOMES = {
    "ContrastiveModel": "cola_msa.model",
    "Embedder": "cola_msa.embedder",
    "from_pretrained": "cola_msa.loading",
    "load_encoder": "cola_msa.loading",
    "log_mel": "cola_msa.frontend",
    "normalize_level": "cola_msa.frontend",
    "open_model": "cola_msa.loading",
}


def __getattr__(name: str) -> Any:
    """Imports public names when they are first used: TensorFlow takes seconds."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cola_msa' has no attribute {name!r}")
