"""Chunks that are cross-faded, and stems of 24 bits."""

import numpy as np
import pytest

from cola_msa import audio
from data_prep import separation
from data_prep.separator_stream import ChunkedSeparation, Chunking
from data_prep.waveforms import Waveform
from tests.data_prep import trees


@pytest.mark.parametrize("num_samples", [1, 999, 1000, 1001, 1150, 5432])
@pytest.mark.parametrize("block", [70, 3000])
def test_chunks_join_to_the_whole(num_samples, block):
    """A separator that does nothing: seams must not show."""
    mixture = np.random.default_rng(0).normal(0, 1, (2, num_samples))
    mixture = mixture.astype(np.float32)
    lengths = []

    def separate_chunk(samples: np.ndarray) -> np.ndarray:
        lengths.append(samples.shape[1])
        return np.stack([samples[0], 2 * samples[1], -samples[0]])

    chunking = Chunking(chunk_windows=10, overlap_windows=2, fade_seconds=0.1)
    stream = ChunkedSeparation(separate_chunk, 2, 500, 100, chunking)
    parts = []
    for start in range(0, num_samples, block):
        parts += stream.push(mixture[:, start : start + block])
    found = np.concatenate(parts + stream.finish(), axis=1)
    expected = np.stack([mixture[0], 2 * mixture[1], -mixture[0]])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert max(lengths) <= 1000
    assert (len(lengths) == 1) == (num_samples <= 1000)


def test_a_chunked_clip_is_near_the_whole(openunmix, weights_dir):
    samples = np.stack([trees.chirp(12, 44100, seed=k) for k in (0, 1)])
    decoded = audio.Audio(samples, 44100)
    found = {}
    for chunk_windows in (8, 2):  # of 3.5 s
        chunking = Chunking(chunk_windows, 1, 0.5)
        separator = separation.Separator(
            "weights", weights_dir, 1, 0, chunking=chunking
        )
        found[chunk_windows] = separator.separate(decoded, 16000)
    for source, whole in found[8].items():
        chunked = found[2][source]
        assert chunked.shape == whole.shape
        error = np.square(chunked - whole).sum() / np.square(whole).sum()
        assert 10 * np.log10(error + 1e-12) < -30


@pytest.mark.parametrize(
    ("peak", "exponent"), [(0.0, 0), (0.5, 0), (1.0, 1), (3.7, 2), (100.0, 7)]
)
def test_quantized_stems_never_clip(peak, exponent):
    samples = np.linspace(-peak, peak, 1001, dtype=np.float32)
    waveform = Waveform(samples).quantize()
    step = 2.0 ** (waveform.exponent - 23)
    assert np.abs(waveform.read() - samples).max() <= step / 2
    assert np.abs(waveform.integers(0, 1001)).max() < 2**23
    assert waveform.exponent == exponent
