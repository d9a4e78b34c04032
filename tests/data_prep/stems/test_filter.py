"""Our computation of Open-Unmix against Open-Unmix's own."""

import copy
import pathlib

import numpy as np
import pytest

from data_prep.stems import filter as filter_lib
from data_prep.stems import separator as separator_lib
from data_prep.stems import weights
from tests.helpers import trees


def _model(niter: int, num_channels: int = 2, num_targets: int = 4):
    """A small separator whose every parameter matters, as after training."""
    import torch
    from openunmix import model

    networks = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for k in range(num_targets):
            network = model.OpenUnmix(513, num_channels, hidden_size=16, max_bin=300)
            for name, parameter in network.named_parameters():
                if "bn" in name or "put_" in name:
                    parameter.data = 0.5 + torch.rand_like(parameter)
            for name, buffer in network.named_buffers():
                if "running" in name:
                    buffer.copy_(0.5 + torch.rand_like(buffer))
            networks[f"target{k}"] = network
        separator = model.Separator(
            networks, niter=niter, n_fft=1024, n_hop=256, nb_channels=num_channels
        )
    separator.freeze()
    return separator


def _mixture(kind: str) -> np.ndarray:
    left, right = trees.chirp(1, 44100), trees.chirp(1, 44100, seed=1)
    if kind == "mono":
        return np.stack([left, left])
    if kind == "panned":  # covariances of rank 1
        return np.stack([left, 0.3 * left])
    if kind == "silent end":
        right[20000:] = left[20000:] = 0
    return np.stack([left, right])


def _openunmix(separator, samples: np.ndarray, dtype: str) -> np.ndarray:
    import torch

    exact = copy.deepcopy(separator).to(getattr(torch, dtype))
    with torch.inference_mode():
        given = torch.from_numpy(samples).to(getattr(torch, dtype))
        return exact(given[None])[0].mean(1).numpy()


@pytest.mark.parametrize("niter", [0, 2])
@pytest.mark.parametrize("kind", ["stereo", "panned", "mono", "silent end"])
def test_stems_are_openunmixs(openunmix, niter, kind):
    separator, samples = _model(niter), _mixture(kind)
    exact = _openunmix(separator, samples, "float64")
    found = filter_lib.MonoSeparator(separator)(samples[np.newaxis])[0]
    assert found.shape == exact.shape == (4, samples.shape[1])
    assert np.abs(exact).max() > 0.05
    theirs = np.abs(_openunmix(separator, samples, "float32") - exact).max()
    error = np.abs(found - exact).max()
    # Where Open-Unmix's own determinants cancel, float32 does not give its numbers.
    assert error < max(1.1 * theirs, 2e-6)
    assert error < 1e-3 * np.abs(exact).max()


def test_a_mono_separator(openunmix):
    separator = _model(1, num_channels=1, num_targets=2)
    samples = _mixture("stereo")[:1]
    exact = _openunmix(separator, samples, "float64")
    found = filter_lib.MonoSeparator(separator)(samples[np.newaxis])[0]
    np.testing.assert_allclose(found, exact, atol=2e-6)


def test_a_batch_gives_what_single_mixtures_give(openunmix):
    separate = filter_lib.MonoSeparator(_model(1))
    pair = np.stack([_mixture("stereo"), _mixture("panned")])
    together = separate(pair)
    for k in range(2):
        np.testing.assert_allclose(together[k], separate(pair[k : k + 1])[0], atol=1e-6)


@pytest.mark.parametrize("has_it", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slow_bfloat16_is_warned_of(openunmix, monkeypatch, caplog, dtype, has_it):
    monkeypatch.setattr(separator_lib, "has_bfloat16", lambda: has_it)
    separator_lib.Separator("random", pathlib.Path(), niter=0, seed=0, dtype=dtype)
    warned = "no bfloat16 products" in caplog.text
    assert warned == (dtype == "bfloat16" and not has_it)


def test_bfloat16_is_known_by_torchs_word(openunmix, monkeypatch):
    import torch

    monkeypatch.setattr(weights.platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not weights.has_bfloat16()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert weights.has_bfloat16()


def test_bfloat16_is_near(openunmix):
    separator, samples = _model(1), _mixture("stereo")[np.newaxis]
    exact = filter_lib.MonoSeparator(separator)(samples)
    near = filter_lib.MonoSeparator(separator, "bfloat16")(samples)
    error = np.square(near - exact).sum() / np.square(exact).sum()
    assert 0 < error < 1e-3
