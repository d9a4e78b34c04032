"""Music representations by musical source association, in TensorFlow and Keras."""

from typing import Any

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
