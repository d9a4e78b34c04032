"""From waveforms to records: against an independent NumPy computation."""

import pathlib

import numpy as np
import pytest

from cola_msa.audio import errors
from cola_msa.config.schema import FrontendConfig, config_hash
from cola_msa.records import index as index_lib
from data_prep.datasets.base import Clip, IndexOptions
from data_prep.pipeline import plan as plan_lib
from data_prep.pipeline import segments, shards
from data_prep.remote import inputs
from data_prep.stems.waveforms import Waveform
from tests.helpers import trees

SOURCES = ("vocals", "drums", "bass", "other")


def numpy_log_mel(waveform: np.ndarray) -> np.ndarray:
    """Level and log-mel with NumPy alone, frame by frame, in float64."""
    edges_mel = np.linspace(*(1127 * np.log1p(np.array([60.0, 7800.0]) / 700)), 66)
    bins_mel = 1127 * np.log1p(np.arange(513) * 16000 / 1024 / 700)
    matrix = np.zeros((513, 64))
    for band in range(64):
        low, centre, high = edges_mel[band : band + 3]
        rising = (bins_mel - low) / (centre - low)
        falling = (high - bins_mel) / (high - centre)
        matrix[:, band] = np.maximum(0, np.minimum(rising, falling))
    matrix[0] = 0
    waveform = waveform.astype(np.float64)
    rms = np.sqrt(np.mean(waveform**2))
    leveled = waveform / (rms * np.sqrt(16000 * 30)) if rms else waveform
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [
        np.abs(np.fft.rfft(leveled[start : start + 400] * hann, 1024)) @ matrix
        for start in range(0, len(leveled) - 399, 160)
    ]
    return np.log(np.clip(frames, 1e-5, 1e8))


def test_stored_log_mel_equals_numpy():
    waveform = trees.chirp(2.3)
    stored = segments.stored_log_mel(waveform, FrontendConfig())
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, numpy_log_mel(waveform), atol=5e-3)


def test_silence_stays_silence():
    stored = segments.stored_log_mel(np.zeros(32000, np.float32), FrontendConfig())
    np.testing.assert_allclose(stored, np.log(1e-5), atol=5e-3)


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (98, [(0, 98, False)]),
        (391, [(0, 391, False)]),
        (392, [(0, 392, False)]),
        (393, [(0, 392, False), (392, 1, True)]),
        (784, [(0, 392, False), (392, 392, False)]),
        (1000, [(0, 392, False), (392, 392, False), (784, 216, True)]),
    ],
)
def test_segment_bounds(num_frames: int, expected: list[tuple[int, int, bool]]):
    assert segments.segment_bounds(num_frames, 392) == expected


@pytest.mark.parametrize("seed", range(4))
def test_gate_equals_a_plain_loop(seed: int):
    random = np.random.default_rng(seed)
    stem = random.normal(0, 1, 16000 * 13).astype(np.float32)
    # Levels that change in the middle of segments, on both sides of the threshold.
    for start in range(0, len(stem), 20000):
        stem[start : start + 20000] *= random.choice([0, 0.005, 0.0125, 0.03])
    config = plan_lib.PrepConfig()
    num_frames = config.frontend.num_frames(len(stem))
    for first, count, _ in segments.segment_bounds(num_frames, 392):
        total = 0.0
        for position in range(first * 160, (first + count) * 160):
            total += abs(float(stem[position]))
        expected = total / (count * 160) >= 0.01
        assert segments.is_source_active(stem, first, count, config) == expected


def test_records_of_one_clip():
    mixture = trees.chirp(10)
    silent_late = trees.chirp(10, seed=1)
    silent_late[trees.SEGMENT_SAMPLES :] = 0
    stems = {
        "vocals": silent_late,
        "bass": np.zeros_like(mixture),
        "other": trees.chirp(10, seed=2, level=0.2),
    }
    clip = Clip("id", "path", "train", "song", (1, 3))
    config = plan_lib.PrepConfig(sources=SOURCES)
    waves = {source: Waveform(stem) for source, stem in stems.items()}
    found = list(segments.clip_segments(clip, Waveform(mixture), waves, config))
    assert [s.is_tail for s in found] == [False, False, True]
    assert [len(s.mixture) for s in found] == [392, 392, 998 - 784]
    assert [s.is_active for s in found] == [
        (True, False, False, True),
        (False, False, False, True),
        (False, False, False, True),
    ]
    assert all(s.has_stem == (True, False, True, True) for s in found)
    assert [sorted(s.stems) for s in found] == [["other", "vocals"], ["other"]] + [
        ["other"]
    ]
    # A stem has its own level, over the whole clip.
    joined = np.concatenate([s.stems["other"] for s in found])
    np.testing.assert_allclose(joined, numpy_log_mel(stems["other"]), atol=5e-3)
    np.testing.assert_allclose(
        found[0].stems["vocals"], numpy_log_mel(silent_late)[:392], atol=5e-3
    )


def test_short_clip_is_one_segment_and_a_shorter_one_fails():
    clip = Clip("id", "path", "train", "song")
    config = plan_lib.PrepConfig()
    found = list(segments.clip_segments(clip, Waveform(trees.chirp(2)), {}, config))
    assert [(len(s.mixture), s.is_tail) for s in found] == [(198, False)]
    with pytest.raises(errors.TooShortError):
        segments.clip_segments(clip, Waveform(trees.chirp(0.2)), {}, config)


def _clips(num_clips: int, split: str = "train") -> list[Clip]:
    return [
        Clip(f"{k:03d}", f"{k // 10}/{k:03d}.wav", split, f"{k // 10}")
        for k in range(num_clips)
    ]


def test_plan_mixes_folders_and_does_not_depend_on_order():
    clips = _clips(100)
    config = plan_lib.PrepConfig(clips_per_shard=20)
    plan = plan_lib.make_plan(clips, config)
    assert [s.name for s in plan.shards] == [
        f"train-{k:05d}-of-00005.tfrecord" for k in range(5)
    ]
    assert sorted(c.clip_id for s in plan.shards for c in s.clips) == [
        c.clip_id for c in clips
    ]
    assert all(len({c.group for c in s.clips}) >= 5 for s in plan.shards)
    assert plan_lib.make_plan(clips[::-1], config).hash == plan.hash


@pytest.mark.parametrize("seed", range(3))
def test_ordered_metadata_gives_no_ordered_shards(seed: int):
    options = IndexOptions(seed=seed)
    config = plan_lib.PrepConfig(clips_per_shard=25, options=options)
    plan = plan_lib.make_plan(_clips(200), config)
    # Of 20 folders of ten clips each, in the order of the metadata.
    number_of = {clip.clip_id: k for k, clip in enumerate(_clips(200))}
    order = [number_of[c.clip_id] for shard in plan.shards for c in shard.clips]
    assert sorted(order) == list(range(200))
    # Of a random order: 0 +- 0.07; of the metadata's, or folder by folder: 1.
    assert abs(np.corrcoef(order, np.arange(200))[0, 1]) < 0.3
    assert np.mean(np.diff(np.array(order) // 10) == 0) < 0.15
    assert all(len({c.group for c in s.clips}) > 8 for s in plan.shards)


@pytest.mark.parametrize(
    ("num_clips", "expected"), [(1, 1), (20, 3), (64, 8), (320, 8), (2000, 32)]
)
def test_default_number_of_shards(num_clips: int, expected: int):
    plan = plan_lib.make_plan(_clips(num_clips), plan_lib.PrepConfig())
    assert len(plan.shards) == expected


def test_two_clips_with_one_id():
    twins = [Clip("a", "y.wav", "train", ""), Clip("a", "x.wav", "test", "")]
    plan = plan_lib.make_plan(twins, plan_lib.PrepConfig())
    assert [c.path for s in plan.shards for c in s.clips] == ["x.wav"]
    assert [(f.path, f.reason) for f in plan.failures] == [
        ("y.wav", "its clip id is also x.wav's")
    ]


def test_a_shard_reads_back_with_its_sidecar(tmp_path: pathlib.Path):
    clips = []
    for k in range(3):
        waveform = trees.chirp(5, seed=k)
        trees.write_wav(tmp_path / f"{k}.wav", waveform)
        clips.append(Clip(str(k), f"{k}.wav", "train", "g", (k,)))
    clips.append(Clip("gone", "gone.wav", "train", "g"))
    config = plan_lib.PrepConfig(clips_per_shard=9)
    plan = plan_lib.make_plan(clips, config)
    sidecar = shards.build_shard(
        plan.shards[0], plan.hash, config, inputs.Inputs(tmp_path), tmp_path
    )
    assert [f["path"] for f in sidecar["failures"]] == ["gone.wav"]
    assert sidecar["seconds"] == pytest.approx(15)
    index = index_lib.scan_shard(
        tmp_path / plan.shards[0].name, (), config_hash(config.frontend)
    )
    assert sorted(index.clip_ids) == ["0", "1", "2"]
    values = np.concatenate([numpy_log_mel(trees.chirp(5, seed=k)) for k in range(3)])
    moments = sidecar["log_mel"]
    assert moments["count"] == values.size
    assert moments["sum"] / values.size == pytest.approx(values.mean(), abs=1e-3)
    square = moments["sum_of_squares"] / values.size
    assert square == pytest.approx(np.mean(values**2), rel=1e-3)
