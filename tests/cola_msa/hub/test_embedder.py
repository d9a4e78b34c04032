"""Waveforms of any rate and length to embeddings."""

import numpy as np
import pytest
import soxr

import cola_msa
from cola_msa.hub.embedder import Batcher, Embedder
from cola_msa.system.errors import RunError
from tests.cola_msa.audio.test_clip_windows import make_sound, whole_windows


@pytest.fixture(scope="module")
def embedder(finished_run):
    return cola_msa.Embedder.from_pretrained(finished_run, batch_size=16)


def reference(embedder, sound):
    windows = whole_windows(sound, embedder.model.frontend, 98)
    return embedder.model.encoder(windows, training=False).numpy()


def difference(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 0.995, 2.0, 33.3])
def test_a_clip_is_the_mean_of_the_encoder_over_its_windows(embedder, seconds):
    sound = make_sound(round(16000 * seconds))
    expected = reference(embedder, sound)
    starts, windows = embedder.windows(sound, 16000)
    np.testing.assert_allclose(starts, 0.98 * np.arange(len(expected)), atol=1e-9)
    assert windows.dtype == np.float32
    assert difference(windows, expected) < 1e-4
    clip = embedder(sound, 16000)
    assert clip.shape == (embedder.dim,)
    assert difference(clip, expected.mean(0)) < 1e-4


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_any_rate_and_channels(embedder, rate):
    sound = make_sound(rate * 12)
    stereo = np.stack([sound, 0.3 * sound[::-1]])
    mono = soxr.resample(stereo.mean(0, dtype=np.float32), rate, 16000)
    expected = reference(embedder, mono)
    _, found = embedder.windows(stereo, rate)
    assert difference(found, expected) < 1e-4


def test_the_level_of_a_recording_does_not_matter(embedder):
    sound = make_sound(50_000)
    assert difference(embedder(1e-3 * sound, 16000), embedder(sound, 16000)) < 1e-4


def test_a_hop_gives_windows_at_its_starts(embedder):
    sound = make_sound(60_000)
    starts, windows = embedder.windows(sound, 16000, hop_seconds=0.25)
    assert np.allclose(np.diff(starts), 0.25)
    frames = 1 + (len(sound) - 400) // 160
    assert len(starts) == len(windows) == 1 + (frames - 98) // 25
    touching = embedder.windows(sound, 16000, hop_seconds=0.98)[1]
    np.testing.assert_array_equal(touching, embedder.windows(sound, 16000)[1])


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros(0, np.float32), 16000, "no sample"),
        (np.zeros((2, 0), np.float32), 16000, "no sample"),
        (np.zeros((44100, 2), np.float32), 44100, "transpose"),
        (np.zeros((1, 2, 3), np.float32), 16000, "shape"),
        (np.zeros(20000, np.int16), 16000, "int16"),
        (np.full(20000, np.nan, np.float32), 16000, "not a number"),
        (np.zeros(20000, np.float32), 0, "sample_rate is 0"),
    ],
)
def test_other_arrays_are_refused(embedder, waveform, rate, message):
    with pytest.raises(ValueError, match=message):
        embedder(waveform, rate)


@pytest.mark.parametrize("hop", [0, 0.001, float("nan"), -1])
def test_hops_below_a_frame_are_refused(embedder, hop):
    with pytest.raises(ValueError, match="hop_seconds"):
        embedder.windows(np.zeros(20000, np.float32), 16000, hop)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(RunError, match="neither a run"):
        Embedder.from_pretrained(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_batches_are_full_across_clips_and_give_each_its_own(batch_size):
    sizes = []

    def embed(windows):
        sizes.append(len(windows))
        return windows[:, 0, :2, 0] * 2

    found: dict[str, list] = {}
    batcher = Batcher(embed, lambda c, r: found.setdefault(c, []).append(r), batch_size)
    random = np.random.default_rng(0)
    counts = {"a": 5, "b": 1, "c": 0, "d": 9}
    given = {name: random.random((k, 3, 2, 1)) for name, k in counts.items()}
    for name, windows in given.items():
        for part in np.array_split(windows, 2):
            batcher.add(name, part)
    batcher.flush()
    assert sum(sizes) == 15
    assert set(sizes[:-1]) <= {batch_size}
    for name, windows in given.items():
        if len(windows):
            rows = np.concatenate(found[name])
            np.testing.assert_array_equal(rows, windows[:, 0, :, 0] * 2)
