"""Clips in blocks give the windows of whole clips, whatever their length."""

import numpy as np
import pytest

from cola_msa.audio.clip_windows import ClipWindows
from cola_msa.audio.frontend import log_mel, normalize_level
from cola_msa.config.schema import FrontendConfig

WINDOW_SAMPLES = 97 * 160 + 400


def make_sound(num_samples: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    time = np.arange(num_samples) / 16000
    swell = 0.2 + np.sin(0.7 * time) ** 2
    tone = np.sin(2 * np.pi * (200 + 40 * np.sin(time)) * time)
    noise = 0.05 * random.standard_normal(num_samples)
    return (swell * tone + noise).astype(np.float32)


def whole_windows(sound: np.ndarray, config: FrontendConfig, hop: int) -> np.ndarray:
    """Level, log-mel and windows of the whole clip at once, window by window."""
    level = normalize_level(sound, config.level)
    mel = np.zeros((0, 64), np.float32)
    if len(sound) >= config.window_samples:
        mel = log_mel(level, config).numpy()
    if len(mel) < 98:
        pad = np.full((98 - len(mel), 64), np.log(1e-5), np.float32)
        mel = np.concatenate([mel, pad])
    starts = range(0, len(mel) - 97, hop)
    return np.stack([mel[s : s + 98] for s in starts])[..., np.newaxis]


def stream(sound, config, block, hop=None, **options):
    with ClipWindows(config, **options) as clip:
        for first in range(0, len(sound), block):
            clip.add(sound[first : first + block])
        clip.finish()
        assert clip.num_samples == len(sound)
        found = list(clip.windows(hop))
        starts = clip.starts(hop)
    return starts, np.concatenate(found)


@pytest.mark.parametrize("level", ["rms", "l2"])
@pytest.mark.parametrize(
    "num_samples",
    [1, 399, 400, 8000, WINDOW_SAMPLES - 1, WINDOW_SAMPLES, 160_239, 160_240, 533_333],
)
def test_blocks_equal_the_whole(num_samples, level):
    config = FrontendConfig(level=level)
    sound = 0.01 * make_sound(num_samples)
    expected = whole_windows(sound, config, 98)
    for block in (7_777, 10**9):
        starts, found = stream(sound, config, block)
        assert starts.tolist() == [98 * k for k in range(len(expected))]
        np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("hop", [1, 37, 98, 150])
def test_hops_cut_overlapping_windows(hop):
    sound = make_sound(100_000)
    expected = whole_windows(sound, FrontendConfig(), hop)
    starts, found = stream(sound, FrontendConfig(), 20_000, hop)
    assert starts.tolist() == [hop * k for k in range(len(expected))]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_what_does_not_fit_into_memory_goes_to_a_file(tmp_path):
    sound = make_sound(400_000)
    expected = stream(sound, FrontendConfig(), 30_000)[1]
    options = {"folder": str(tmp_path), "memory_bytes": 10_000}
    found = stream(sound, FrontendConfig(), 30_000, **options)[1]
    np.testing.assert_array_equal(found, expected)
    assert not list(tmp_path.iterdir())


def test_silence_stays_silence():
    found = stream(np.zeros(50_000, np.float32), FrontendConfig(), 50_000)[1]
    np.testing.assert_allclose(found, np.log(1e-5), rtol=1e-6)
