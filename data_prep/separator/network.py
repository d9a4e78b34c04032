"""The network that a separator has for one source, and what it reads.

torch and openunmix are an extra: they are imported inside functions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.system.errors import UserError
from data_prep.separator.chunks import NUM_CHANNELS, StemReader
from data_prep.separator.tracks import RATE_HZ, SeparatorConfig, Track
from data_prep.stems import weights


class TrainingError(UserError):
    """A training that cannot begin or go on; the message says what to do."""


def magnitude_encoder(config: SeparatorConfig) -> Any:
    """Waveforms [batch, channels, n] -> magnitudes [batch, channels, bins, frames]."""
    import torch
    from openunmix import model, transforms

    stft, _ = transforms.make_filterbanks(
        n_fft=config.fft_size, n_hop=config.hop_samples, sample_rate=float(RATE_HZ)
    )
    return torch.nn.Sequential(stft, model.ComplexNorm(mono=False))


def input_statistics(
    reader: StemReader, tracks: Sequence[Track], config: SeparatorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the mixtures' magnitudes, which start the input scaler.

    Args:
        reader: StemReader.
        tracks: The training tracks.
        config: SeparatorConfig.

    Returns:
        Mean and deviation of every frequency bin over all frames of the mixtures,
        magnitudes averaged over channels; a deviation is at least 1e-4 of the largest.

    Raises:
        TrainingError: If all mixtures are silent.
    """
    weights.import_openunmix()
    import torch

    encoder = magnitude_encoder(config)
    num_bins = config.fft_size // 2 + 1
    count, total, squares = 0, np.zeros(num_bins), np.zeros(num_bins)
    for track in tracks:
        mixture, _ = reader.whole(track)
        with torch.inference_mode():
            magnitudes = encoder(torch.from_numpy(mixture)[None])[0].mean(0)
        values = magnitudes.numpy().astype(np.float64)
        count += values.shape[1]
        total += values.sum(axis=1)
        squares += np.square(values).sum(axis=1)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    if not deviation.max() > 0:
        raise TrainingError("the mixtures of the training tracks are silent")
    return mean, np.maximum(deviation, 1e-4 * deviation.max())


def make_network(
    mean: np.ndarray | None, deviation: np.ndarray | None, config: SeparatorConfig
) -> Any:
    """Builds openunmix.model.OpenUnmix; torch's generator draws its weights.

    Args:
        mean: What `input_statistics` gives; None where weights will be loaded.
        deviation: The same.
        config: SeparatorConfig.

    Returns:
        The network, on the CPU.
    """
    openunmix = weights.import_openunmix()
    max_bin = openunmix.utils.bandwidth_to_max_bin(
        RATE_HZ, config.fft_size, config.bandwidth_hz
    )
    return openunmix.model.OpenUnmix(
        nb_bins=config.fft_size // 2 + 1,
        nb_channels=NUM_CHANNELS,
        hidden_size=config.hidden_size,
        input_mean=mean,
        input_scale=deviation,
        max_bin=int(max_bin),
    )
