"""The HEAR 2021 API (common-api of hearbenchmark.com), TensorFlow flavour.

model = load_model("runs/NAME")
scenes = get_scene_embeddings(audio, model)                  # [n_sounds, dim]
embeddings, times = get_timestamp_embeddings(audio, model)   # [n_sounds, n, dim], ms

Benchmark kits take the module's name, `cola_msa.hear`, and a model's path.
"""

import math

import numpy as np
import tensorflow as tf

from cola_msa.audio.frontend import exact_frames, level_factor
from cola_msa.config.schema import FrontendConfig
from cola_msa.hub.embedder import Batcher, Embedder
from cola_msa.hub.loading import default_model

# The API asks for this or less: events are matched with that tolerance.
_HOP_SECONDS = 0.05


def timestamp_hop_frames(frontend: FrontendConfig) -> int:
    """Frames from one timestamp to the next: 50 ms, or whole frames below that."""
    return max(1, math.floor(_HOP_SECONDS / frontend.seconds(1) + 1e-6))


class HearModel(tf.Module):
    """An encoder with the API's attributes.

    Attributes:
        sample_rate: What sounds must have, Hz: 16000, or 22050 of waveforms.
        scene_embedding_size: Values of a sound's embedding.
        timestamp_embedding_size: Values of a timestamp's embedding.
        embedder: Embedder.
    """

    def __init__(self, embedder: Embedder):
        """Wraps an Embedder."""
        super().__init__()
        self.embedder = embedder
        self.sample_rate = int(embedder.model.frontend.sample_rate_hz)
        self.scene_embedding_size = int(embedder.clip_dim)
        self.timestamp_embedding_size = int(embedder.dim)


def load_model(model_file_path: str = "") -> HearModel:
    """Loads a model.

    Args:
        model_file_path: A run, an export or a pretrained folder; empty for the newest
            run under `runs/`, or else `starter`, the package's own weights.

    Raises:
        RunError: If there is none.
    """
    path = model_file_path or default_model()[0]
    return HearModel(Embedder.from_pretrained(path))


def get_scene_embeddings(audio: tf.Tensor, model: HearModel) -> tf.Tensor:
    """Embeds whole sounds, as `Embedder` does.

    Args:
        audio: float32 [n_sounds, n_samples], mono, at model.sample_rate, within
            [-1, 1].
        model: From `load_model`.

    Returns:
        float32 [n_sounds, model.scene_embedding_size].

    Raises:
        ValueError: If `audio` is no such tensor.
    """
    sounds = _check_sounds(audio)
    return tf.stack([model.embedder(sound, model.sample_rate) for sound in sounds])


def get_timestamp_embeddings(
    audio: tf.Tensor, model: HearModel
) -> tuple[tf.Tensor, tf.Tensor]:
    """Embeds sounds every 50 ms or less, each time by the window that is centred there.

    Beyond a sound's ends there is silence; it does not enter the level.

    Args:
        audio: float32 [n_sounds, n_samples], mono, at model.sample_rate, within
            [-1, 1].
        model: From `load_model`.

    Returns:
        (float32 [n_sounds, n_timestamps, model.timestamp_embedding_size]; centres in
        milliseconds, float32 [n_sounds, n_timestamps], from 0 to the end).

    Raises:
        ValueError: If `audio` is no such tensor.
    """
    sounds = _check_sounds(audio)
    embeddings = tf.stack([_embed_times(sound, model.embedder) for sound in sounds])
    frontend = model.embedder.model.frontend
    hop_ms = 1000 * frontend.seconds(timestamp_hop_frames(frontend))
    times = np.arange(embeddings.shape[1], dtype=np.float32) * np.float32(hop_ms)
    return embeddings, tf.tile(times[np.newaxis], [len(sounds), 1])


def _check_sounds(audio: tf.Tensor) -> np.ndarray:
    sounds = np.asarray(audio, np.float32)
    if sounds.ndim != 2 or not sounds.size:
        raise ValueError(
            f"audio has shape {list(sounds.shape)}, not [n_sounds, n_samples]"
        )
    if not np.isfinite(sounds).all():
        raise ValueError("audio has samples that are infinite or not a number")
    return sounds


def _embed_times(sound: np.ndarray, embedder: Embedder) -> np.ndarray:
    """One sound [n_samples] -> [n_timestamps, dim]."""
    frontend = embedder.model.frontend
    hop_frames = timestamp_hop_frames(frontend)
    hop_samples = hop_frames * frontend.hop_samples
    window_samples = (
        frontend.window_samples + (frontend.window_frames - 1) * frontend.hop_samples
    )
    num_times = 1 + (len(sound) - 1) // hop_samples
    before = window_samples // 2
    total = (num_times - 1) * hop_samples + window_samples
    after = max(0, total - before - len(sound))
    padded = tf.pad(sound, [[before, after]])
    scale = None if frontend.is_waveform else level_factor(sound, frontend.level)
    frames = exact_frames(padded, frontend, scale).numpy()
    found: list[np.ndarray] = []
    batcher = Batcher(
        embedder.model.embed, lambda _, rows: found.append(rows), embedder.batch_size
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        frames, frontend.window_frames, axis=0
    )[::hop_frames][:num_times]
    for first in range(0, num_times, embedder.batch_size):
        part = windows[first : first + embedder.batch_size]
        batcher.add(None, np.moveaxis(part, -1, 1)[..., np.newaxis])
    batcher.flush()
    return np.concatenate(found)
