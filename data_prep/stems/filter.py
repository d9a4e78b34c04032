"""Open-Unmix's separation to mono stems: its numbers, in a fraction of its time.

The networks, the initial estimate and the Wiener filter are those of
`openunmix.model.Separator`. What differs is how they are computed: a network's
normalizations are part of its matrices; the estimate is the mask times the mixture
rather than a magnitude with the mixture's phase; the filter uses that covariances of
two channels are Hermitian, and that all sources share one inverse; and the mean of a
stem's channels is taken before the inverse STFT rather than after it.

Source: Stöter et al. 2019 (Open-Unmix), Nugraha et al. 2016 (the filter); differs: the
determinants of the filter's covariances do not cancel for mono mixtures.
"""

import ctypes
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_EPSILON = 1e-10
_SCALE_FACTOR = 10.0
_BINS = 256


@functools.cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def return_memory() -> None:
    """Gives freed memory back to the system, where its C library can."""
    # Else what is left behind between living blocks grows by 200 MB.
    if (trim := _trim()) is not None:
        trim(0)


class Network:
    """One target's network, as four matrices and an LSTM."""

    def __init__(self, network: Any, dtype: Any):
        """Folds the normalizations of `openunmix.model.OpenUnmix` in evaluation mode.

        Args:
            network: The network, with weights.
            dtype: torch's type of the products.
        """
        import torch

        self._dtype = dtype
        self.num_bins, self.num_output_bins = network.nb_bins, network.nb_output_bins
        self._hidden_size = network.hidden_size
        num_channels = network.nb_output_bins and (
            network.fc3.out_features // network.nb_output_bins
        )
        mean = network.input_mean.double().repeat(num_channels)
        scale = network.input_scale.double().repeat(num_channels)
        factor, shift = _affine(network.bn1)
        first = network.fc1.weight.double()
        bias = first @ (mean * scale)
        self._first = _pair(
            factor[:, None] * first * scale, factor * bias + shift, dtype
        )
        factor, shift = _affine(network.bn2)
        second = factor[:, None] * network.fc2.weight.double()
        self._second = _pair(second, shift, dtype)
        factor, shift = _affine(network.bn3)
        scale = network.output_scale.double().repeat(num_channels)
        mean = network.output_mean.double().repeat(num_channels)
        third = (factor * scale)[:, None] * network.fc3.weight.double()
        self._third = _pair(third, shift * scale + mean, dtype)
        self._lstm = network.lstm.to(dtype) if dtype != torch.float32 else network.lstm

    def masks(self, magnitude: Any) -> Any:
        """Masks of all channels.

        Args:
            magnitude: float32 [frames, batch, channels, num_output_bins].

        Returns:
            float32, the same shape, not negative.
        """
        import torch
        from torch.nn import functional

        frames, batch, channels, _ = magnitude.shape
        cropped = magnitude[..., : self.num_bins].reshape(frames * batch, -1)
        hidden = functional.linear(cropped.to(self._dtype), *self._first)
        hidden = hidden.reshape(frames, batch, self._hidden_size).tanh_()
        recurrent, _ = self._lstm(hidden)
        both = torch.cat([hidden, recurrent], -1).reshape(frames * batch, -1)
        hidden = functional.linear(both, *self._second).relu_()
        masks = functional.linear(hidden, *self._third).relu_()
        return masks.float().reshape(frames, batch, channels, self.num_output_bins)


def _affine(norm: Any) -> tuple[Any, Any]:
    """Factor and shift of a batch normalization in evaluation mode, float64."""
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    factor = norm.weight.double() / deviation
    return factor, norm.bias.double() - norm.running_mean.double() * factor


def _pair(weight: Any, bias: Any, dtype: Any) -> tuple[Any, Any]:
    return weight.detach().to(dtype).contiguous(), bias.detach().to(dtype)


class MonoSeparator:
    """Separates float32 [batch, channels, n] into [batch, sources, n], mono."""

    def __init__(self, model: Any, dtype: str = "float32"):
        """Takes what it needs from an `openunmix.model.Separator`.

        Args:
            model: The separator, with weights.
            dtype: `float32` or `bfloat16`, the type of the networks' products.
        """
        import torch

        networks: Mapping[str, Any] = model.target_models
        self._networks = [
            Network(network, getattr(torch, dtype)) for network in networks.values()
        ]
        self._niter = model.niter
        self._stft = model.stft
        self.hop = model.stft.n_hop
        self.window_frames = model.wiener_win_len or 300

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Separates a batch of equally long mixtures."""
        import torch

        with torch.inference_mode():
            return self._separate(torch.from_numpy(samples)).numpy()

    def _separate(self, samples: Any) -> Any:
        import torch

        batch, channels, num_samples = samples.shape
        options = {
            "n_fft": self._stft.n_fft,
            "hop_length": self._stft.n_hop,
            "window": self._stft.window,
            "center": True,
        }
        spectrum = torch.stft(
            samples.reshape(batch * channels, num_samples),
            pad_mode="reflect",
            return_complex=True,
            **options,
        )
        bins, frames = spectrum.shape[-2:]
        # [frames, batch, channels, bins], as the networks take it.
        spectrum = spectrum.reshape(batch, channels, bins, frames)
        spectrum = spectrum.permute(3, 0, 1, 2).contiguous()
        return_memory()
        estimates = torch.empty(batch, len(self._networks), num_samples)
        # One source at a time: the estimates of all would take four times as much.
        if self._niter == 0:
            sources = self._masked(spectrum)
        else:
            sources = iter(self._filtered(spectrum))
        del spectrum
        for source, mono in enumerate(sources):
            estimates[:, source] = torch.istft(
                mono.permute(1, 2, 0), length=num_samples, **options
            )
        return estimates

    def _masked(self, spectrum: Any) -> Iterator[Any]:
        """Every source's STFT, complex64 [frames, batch, bins]."""
        channels = spectrum.shape[2]
        magnitude = spectrum.abs()
        for network in self._networks:
            masks = network.masks(magnitude)
            mono = masks[:, :, 0] * spectrum[:, :, 0]
            for channel in range(1, channels):
                mono += masks[:, :, channel] * spectrum[:, :, channel]
            del masks
            return_memory()
            yield mono.div_(channels)

    def _filtered(self, spectrum: Any) -> Any:
        """complex64 [sources, frames, batch, bins], after the Wiener filter."""
        import torch

        frames, batch, channels, bins = spectrum.shape
        num_sources = len(self._networks)
        masks = torch.empty((num_sources, *spectrum.shape))
        magnitude = spectrum.abs()
        for source, network in enumerate(self._networks):
            masks[source] = network.masks(magnitude)
            return_memory()
        del magnitude
        if channels == 2:
            # In place: two masks take what one complex number takes.
            pairs = masks.view(num_sources, frames, batch, bins, 2)
            mono = torch.view_as_complex(pairs)
        else:
            mono = torch.empty((num_sources, frames, batch, bins), dtype=spectrum.dtype)
        for first in range(0, frames, self.window_frames):
            window = slice(first, min(first + self.window_frames, frames))
            for k in range(batch):
                mono[:, window, k] = wiener_mono(
                    masks[:, window, k], spectrum[window, k], self._niter
                )
            return_memory()
        return mono


def wiener_mono(masks: Any, spectrum: Any, niter: int) -> Any:
    """The Wiener filter of one window, summed up to mono.

    Args:
        masks: float32 [sources, frames, channels, bins]; channels are 1 or 2.
        spectrum: complex64 [frames, channels, bins], the mixture.
        niter: Iterations, at least 1.

    Returns:
        complex64 [sources, frames, bins], the mean of each stem's channels.
    """
    import torch

    scale = max(1.0, float(spectrum.abs().max()) / _SCALE_FACTOR)
    bins = spectrum.shape[-1]
    # Bins know nothing of each other: a part of them takes less memory and cache.
    return torch.cat(
        [
            _filter(masks[..., part], spectrum[..., part] / scale, niter).mul_(scale)
            for first in range(0, bins, _BINS)
            for part in [slice(first, first + _BINS)]
        ],
        dim=-1,
    )


def _filter(masks: Any, mixture: Any, niter: int) -> Any:
    """`wiener_mono` of some bins, scaled."""
    channels = mixture.shape[1]
    left, right = mixture[:, 0], mixture[:, -1]
    estimates_left, estimates_right = masks[:, :, 0] * left, masks[:, :, -1] * right
    noise = _EPSILON**0.5
    for iteration in range(niter):
        # Power of each source, [sources, frames, bins].
        power = estimates_left.abs().square_()
        left_left = power.sum(1)
        if channels == 2:
            power_right = estimates_right.abs().square_()
            right_right = power_right.sum(1)
            left_right = (estimates_left * estimates_right.conj()).sum(1)
            power = power.add_(power_right).mul_(0.5)
        # Spatial covariance of each source, [sources, bins].
        weight = power.sum(1) + _EPSILON
        left_left = left_left / weight
        total_left = (power * left_left[:, None]).sum(0)
        is_last = iteration == niter - 1
        if channels == 1:
            solved = left / (total_left + noise)
            estimates_left = power * (left_left[:, None] * solved)
            estimates_right = estimates_left
            continue
        right_right, left_right = right_right / weight, left_right / weight
        total_right = (power * right_right[:, None]).sum(0)
        total_cross = (power * left_right[:, None]).sum(0)
        cross_power = total_cross.abs().square_()
        rest = (total_left * total_right - cross_power).clamp_(min=0)
        determinant = rest + noise * (total_left + total_right + noise)
        solved_left = (total_right * left - total_cross * right + noise * left) / (
            determinant
        )
        solved_right = (
            total_left * right - total_cross.conj() * left + noise * right
        ) / determinant
        if is_last:
            from_left = 0.5 * (left_left + left_right.conj())
            from_right = 0.5 * (left_right + right_right)
            return power * (
                from_left[:, None] * solved_left + from_right[:, None] * solved_right
            )
        estimates_left = power * (
            left_left[:, None] * solved_left + left_right[:, None] * solved_right
        )
        estimates_right = power * (
            left_right.conj()[:, None] * solved_left
            + right_right[:, None] * solved_right
        )
    return estimates_left
