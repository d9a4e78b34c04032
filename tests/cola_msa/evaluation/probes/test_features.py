"""Embeddings: which windows, in which order, and the cache. Also synthetic data."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig, config_hash, to_dict
from cola_msa.evaluation.probes import features
from cola_msa.records import index as index_lib
from cola_msa.records import prepared as prepared_lib
from cola_msa.records import schema
from cola_msa.records.reader import read_ahead
from tests.helpers.damages import seal

FRONTEND = FrontendConfig()
DIM = 6


def write_data(
    folder: pathlib.Path,
    clips: dict[str, list[tuple[str, tuple[int, ...], int]]],
    dataset: str = "fma",
    task_type: str = "multiclass",
    num_classes: int = 3,
    clips_per_shard: int = 3,
) -> prepared_lib.PreparedData:
    """Writes prepared data whose log-mels depend on the clip's labels.

    Args:
        folder: Where to.
        clips: (clip_id, labels, frames) of each split's clips.
        dataset: For the manifest.
        task_type: For the manifest.
        num_classes: Number of classes.
        clips_per_shard: Clips in one shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frontend_hash = config_hash(FRONTEND)
    splits: dict[str, dict] = {}
    for split, rows in clips.items():
        shards, parts = [], []
        count = -(-len(rows) // clips_per_shard)
        for number in range(count):
            name = f"{split}-{number:05d}-of-{count:05d}.tfrecord"
            segments = [
                segment
                for row in rows[number * clips_per_shard : (number + 1) * 3]
                for segment in make_segments(*row)
            ]
            parts.append(
                index_lib.write_shard(folder / name, segments, (), frontend_hash)
            )
            shards.append(name)
        index_lib.merge_indices(parts, ()).save(folder / f"index-{split}.npz")
        splits[split] = {"shards": shards, "num_clips": len(rows)}
    schema.write_manifest(
        folder,
        {
            "schema_version": schema.SCHEMA_VERSION,
            "dataset": dataset,
            "task_type": task_type,
            "sources": [],
            "class_names": [f"class {n}" for n in range(num_classes)],
            "frontend": to_dict(FRONTEND),
            "splits": splits,
        },
    )
    return prepared_lib.PreparedData(folder)


def clip_mel(clip_id: str, labels: tuple[int, ...], num_frames: int) -> np.ndarray:
    """Noise whose band `label` is louder, float16 [frames, 64]."""
    rng = np.random.default_rng(list(clip_id.encode()))
    mel = rng.normal(-3.0, 1.0, (num_frames, FRONTEND.num_mels))
    mel[:, list(labels)] += 1.5
    return mel.astype(np.float16)


def make_segments(
    clip_id: str, labels: tuple[int, ...], num_frames: int
) -> list[schema.Segment]:
    """Cuts a clip into segments and a tail, as preparation does."""
    mel = clip_mel(clip_id, labels, num_frames)
    size = FRONTEND.segment_frames
    return [
        schema.Segment(
            clip_id=clip_id,
            group=clip_id,
            segment=number,
            is_tail=number > 0 and len(mel[start:]) < size,
            labels=labels,
            mixture=mel[start : start + size],
            stems={},
            is_active=(),
            has_stem=(),
        )
        for number, start in enumerate(range(0, num_frames, size))
    ]


def tiny_encoder(dim: int = DIM) -> keras.Model:
    """Means of the first `dim` bands, [batch, frames, 64, 1] -> [batch, dim]."""
    inputs = keras.Input((None, FRONTEND.num_mels, 1))
    return keras.Model(inputs, keras.ops.mean(inputs, axis=1)[:, :dim, 0])


@pytest.fixture
def clips() -> dict[str, list[tuple[str, tuple[int, ...], int]]]:
    # One window; short segment; whole segments alone; a tail; a tail below a window.
    frames = (98, 250, 784, 1000, 800, 98, 400)
    return {"train": [(f"clip{n}", (n % 3,), f) for n, f in enumerate(frames)]}


def expected_windows(clips) -> tuple[np.ndarray, np.ndarray]:
    """By a loop: every clip's F // 98 windows from its frame 0 on, as band means."""
    rows, splits = [], [0]
    for clip_id, labels, num_frames in clips:
        mel = clip_mel(clip_id, labels, num_frames).astype(np.float64)
        for window in range(num_frames // 98):
            rows.append(mel[window * 98 : (window + 1) * 98, :DIM].mean(axis=0))
        splits.append(len(rows))
    return np.array(rows), np.array(splits)


@pytest.mark.parametrize("batch_windows", [1, 4, 256])
def test_windows_are_those_of_whole_clips(tmp_path, clips, batch_windows):
    data = write_data(tmp_path / "data", clips)
    split = features.embed_split(
        tiny_encoder(),
        data,
        "train",
        tmp_path / "cache",
        "key",
        batch_windows=batch_windows,
        show_progress=False,
    )
    windows, clip_splits = expected_windows(clips["train"])
    assert split.windows.dtype == np.float16
    np.testing.assert_allclose(split.windows, windows, atol=2e-3)
    np.testing.assert_array_equal(split.clip_splits, clip_splits)
    assert split.clip_ids.tolist() == [clip[0] for clip in clips["train"]]
    np.testing.assert_array_equal(
        split.labels.argmax(1), [c[1][0] for c in clips["train"]]
    )
    np.testing.assert_array_equal(
        split.window_clips(), np.repeat(np.arange(7), np.diff(clip_splits))
    )
    np.testing.assert_array_equal(split.read(2, 9), split.windows[2:9])


class CountingEncoder:
    """Counts its calls' windows; a plain callable."""

    def __init__(self, scale: float = 1.0):
        self.scale = scale
        self.num_windows = tf.Variable(0)

    def __call__(self, windows: tf.Tensor) -> tf.Tensor:
        self.num_windows.assign_add(tf.shape(windows)[0])
        return tf.reduce_mean(windows, axis=1)[:, :DIM, 0] * self.scale


def embed(encoder, data, cache, key="key"):
    return features.embed_split(encoder, data, "train", cache, key, show_progress=False)


def test_cache_is_reused_and_keyed(tmp_path, clips):
    data = write_data(tmp_path / "data", clips)
    encoder = CountingEncoder()
    first = embed(encoder, data, tmp_path / "cache")
    seen = int(encoder.num_windows)
    second = embed(encoder, data, tmp_path / "cache")
    assert int(encoder.num_windows) == seen
    np.testing.assert_array_equal(first.windows, second.windows)
    embed(encoder, data, tmp_path / "cache", key="another encoder")
    assert int(encoder.num_windows) == 2 * seen
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    schema.write_manifest(tmp_path / "data", {**manifest, "note": "changed"})
    data = prepared_lib.PreparedData(tmp_path / "data")
    embed(encoder, data, tmp_path / "cache")
    assert int(encoder.num_windows) == 3 * seen
    assert not list((tmp_path / "cache").glob("*.tmp"))


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_cache_does_not_hide_changed_data(tmp_path, clips, is_sealed):
    folder = tmp_path / "data"
    data = write_data(folder, clips)
    if is_sealed:
        data = prepared_lib.PreparedData(seal(folder))
    encoder = CountingEncoder()
    embed(encoder, data, tmp_path / "cache")
    seen = int(encoder.num_windows)
    path = next(folder.glob("train-*.tfrecord"))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # a value of the last array, and the record's CRC with it
    path.write_bytes(bytes(content))
    with pytest.raises(schema.DataError, match=path.name):
        embed(encoder, prepared_lib.PreparedData(folder), tmp_path / "cache")
    assert int(encoder.num_windows) == seen


@pytest.mark.parametrize("damage", ["short", "bytes", "no sidecar", "bad sidecar"])
def test_damaged_cache_is_computed_again(tmp_path, clips, damage):
    data = write_data(tmp_path / "data", clips)
    first = np.array(embed(CountingEncoder(), data, tmp_path / "cache").windows)
    path = next((tmp_path / "cache").glob("*.f16"))
    content = path.read_bytes()
    if damage == "short":
        path.write_bytes(content[:-2])
    elif damage == "bytes":
        path.write_bytes(content[:-2] + b"\x00\x01")
    elif damage == "no sidecar":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("{")
    encoder = CountingEncoder()
    again = embed(encoder, data, tmp_path / "cache")
    assert int(encoder.num_windows) > 0
    np.testing.assert_array_equal(again.windows, first)


def test_interrupted_embedding_leaves_no_cache(tmp_path, clips):
    data = write_data(tmp_path / "data", clips)
    with pytest.raises(schema.DataError, match="not finite"):
        embed(CountingEncoder(scale=1e6), data, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_empty_split(tmp_path, clips):
    data = write_data(tmp_path / "data", {**clips, "test_extra": []})
    split = features.embed_split(
        tiny_encoder(), data, "test_extra", tmp_path / "c", "key", show_progress=False
    )
    assert split.windows.shape == (0, DIM)
    train = embed(tiny_encoder(), data, tmp_path / "c")
    joined = features.join([train, split, train])
    assert joined.num_windows == 2 * train.num_windows
    np.testing.assert_array_equal(
        joined.windows, np.concatenate([train.windows, train.windows])
    )
    last = train.num_windows
    np.testing.assert_array_equal(
        joined.read(last - 2, last + 1), joined.windows[last - 2 : last + 1]
    )


def test_missing_segment_and_short_clip_are_refused(tmp_path, clips):
    data = write_data(tmp_path / "data", clips)
    index = data.index("train")
    keep = np.arange(len(index.clip)) != np.flatnonzero(index.num_frames == 392)[0]
    for name in ("shard", "mixture_offset", "num_frames", "segment", "clip"):
        setattr(index, name, getattr(index, name)[keep])
    with pytest.raises(schema.DataError, match="clip2 lacks a segment"):
        embed(tiny_encoder(), data, tmp_path / "cache")
    data = write_data(tmp_path / "short", {"train": [("tiny", (0,), 97)]})
    with pytest.raises(schema.DataError, match="tiny is shorter than a window"):
        embed(tiny_encoder(), data, tmp_path / "cache")


def test_read_ahead_keeps_order_and_errors():
    assert list(read_ahead(iter(range(9)), 3)) == list(range(9))

    def broken():
        yield 1
        raise OSError("disk")

    items = read_ahead(broken(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)


_MEMORY_SCRIPT = """
import resource, sys
from tests.cola_msa.evaluation.probes.test_features import tiny_encoder
from cola_msa.evaluation.probes import features
from cola_msa.records import prepared as prepared_lib
data = prepared_lib.PreparedData(sys.argv[1])
embed = lambda split: features.embed_split(
    tiny_encoder(64), data, split, sys.argv[2], "key", show_progress=False)
embed("validation")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(embed("train").num_windows)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_does_not_grow_with_the_split(tmp_path):
    # 125 MB of log-mels, all segments the same bytes under other names.
    mel = np.zeros((FRONTEND.segment_frames, FRONTEND.num_mels), np.float16)
    size = 2500

    def segments(count):
        for number in range(count):
            yield schema.Segment(f"c{number}", "g", 0, False, (0,), mel, {}, (), ())

    write_data(tmp_path, {"train": [], "validation": []})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for split, count in (("train", size), ("validation", 300)):
        name = f"{split}-00000-of-00001.tfrecord"
        index = index_lib.write_shard(
            tmp_path / name, segments(count), (), config_hash(FRONTEND)
        )
        index.save(tmp_path / f"index-{split}.npz")
        manifest["splits"][split] = {"shards": [name]}
    schema.write_manifest(tmp_path, manifest)
    result = subprocess.run(
        [sys.executable, "-c", _MEMORY_SCRIPT, tmp_path, tmp_path / "cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(__file__).parents[4],
    )
    assert result.returncode == 0, result.stderr
    num_windows, growth_bytes = map(int, result.stdout.split())
    assert num_windows == 4 * size
    assert growth_bytes < 60e6
