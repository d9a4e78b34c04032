"""Windows: which are drawn, and how they are read."""

import numpy as np
import pytest

from cola_msa.records import reader as reader_lib
from cola_msa.records import windows
from cola_msa.records.schema import DataError
from tests.cola_msa.evaluation.probes.test_features import clip_mel, write_data

# One window; a short segment; whole segments alone; a tail; a tail below a window.
FRAMES = (98, 250, 784, 1000, 800)
SHAPE = (98, 64)


def make_clips(prefix, frames=FRAMES):
    return [(f"{prefix}{n}", (n % 3,), f) for n, f in enumerate(frames)]


@pytest.fixture
def clips():
    return {"train": make_clips("a"), "train_extra": make_clips("b", (392, 500))}


@pytest.fixture
def data(tmp_path, clips):
    return write_data(tmp_path, clips)


def read(drawn):
    reader = reader_lib.WindowReader(drawn.paths, *SHAPE)
    try:
        return reader.read(drawn.shard, drawn.byte_offset)
    finally:
        reader.close()


def segment_starts(rows):
    """By a loop: clip number and first frame of every segment that windows come from.

    A tail behind whole segments is none, a clip shorter than a segment is one.
    """
    found = []
    for number, (_, _, num_frames) in enumerate(rows):
        for first in range(0, max(num_frames - 391, 1), 392):
            found.append((number, first, min(392, num_frames - first)))
    return found


def locate(window, rows, clip):
    """The frame at which a window starts in its clip."""
    mel = clip_mel(*rows[clip])
    for first in range(len(mel) - 97):
        if (mel[first] == window[0]).all() and (
            mel[first : first + 98] == window
        ).all():
            return first
    raise AssertionError(f"not a window of clip {clip}")


def test_a_draw_has_one_window_of_every_segment(data, clips):
    rows = clips["train"] + clips["train_extra"]
    segments = windows.find_segments(data, ["train", "train_extra"])
    drawn = segments.draw(seed=3, epoch=1)
    found = []
    for window, clip in zip(read(drawn), drawn.clip, strict=True):
        start = locate(window, rows, clip)
        first = next(
            first
            for number, first, size in segment_starts(rows)
            if number == clip and first <= start <= first + size - 98
        )
        found.append((int(clip), first))
    assert sorted(found) == sorted((c, first) for c, first, _ in segment_starts(rows))
    assert found != sorted(found)  # in random order


def test_draws_depend_on_seed_and_epoch_alone(data):
    segments = windows.find_segments(data, ["train"])

    def offsets(seed, epoch):
        return segments.draw(seed, epoch).byte_offset.tolist()

    assert offsets(0, 0) == offsets(0, 0)
    assert len({tuple(sorted(offsets(s, e))) for s in range(3) for e in range(3)}) == 9


def test_starts_are_uniform(data):
    segments = windows.find_segments(data, ["train"])
    row = int(np.argmax(segments.num_starts))
    one = segments.of_clips(segments.clip[row : row + 1])
    assert one.num_starts[0] == 295
    frames = np.concatenate(
        [
            (np.sort(one.draw(0, epoch).byte_offset) - one.byte_offset) / 128
            for epoch in range(4000)
        ]
    )
    counts = np.bincount(frames.astype(int), minlength=295)
    assert len(counts) == 295 and counts.min() > 0
    expected = counts.sum() / 295
    # 294 degrees of freedom: a deviation of 24; five of them are not chance.
    assert (np.square(counts - expected) / expected).sum() < 294 + 5 * 24.2


def test_segments_of_some_clips_keep_their_numbers(data):
    segments = windows.find_segments(data, ["train", "train_extra"])
    some = segments.of_clips(np.array([3, 5]))
    # 1000 frames are two whole segments, 392 one.
    assert sorted(some.draw(0, 0).clip.tolist()) == [3, 3, 5]


def test_splits_without_windows_are_refused(tmp_path):
    data = write_data(tmp_path, {"train": [("tiny", (0,), 97)]})
    with pytest.raises(DataError, match="no segment of at least 98 frames"):
        windows.find_segments(data, ["train"])


def test_plans_of_several_splits_follow_one_another(data, clips):
    plan = windows.plan_windows(data, ["train", "train_extra"])
    expected = []
    for clip_id, labels, num_frames in clips["train"] + clips["train_extra"]:
        mel = clip_mel(clip_id, labels, num_frames)
        expected += [mel[n * 98 : (n + 1) * 98] for n in range(num_frames // 98)]
    np.testing.assert_array_equal(read(plan), np.stack(expected))
    counts = [f // 98 for f in (*FRAMES, 392, 500)]
    np.testing.assert_array_equal(np.diff(plan.clip_splits), counts)


def test_few_open_files_read_the_same(data, monkeypatch):
    drawn = windows.find_segments(data, ["train", "train_extra"]).draw(0, 0)
    assert len(set(drawn.shard.tolist())) > 2
    expected = read(drawn)
    monkeypatch.setattr(reader_lib, "_MAX_OPEN_FILES", 1)
    np.testing.assert_array_equal(read(drawn), expected)
    bounds = reader_lib.fixed_bounds(drawn.num_windows, 2)
    with reader_lib.open_windows(drawn, SHAPE, bounds) as batches:
        np.testing.assert_array_equal(np.concatenate(list(batches)), expected)


def test_a_shard_that_ends_too_early_is_named(data):
    drawn = windows.find_segments(data, ["train"]).draw(0, 0)
    path = drawn.paths[drawn.shard[0]]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{path.name}: ends too early"):
        read(drawn)


@pytest.mark.parametrize(
    ("num_windows", "size", "sizes"),
    [
        (10, 4, [3, 3, 4]),
        (129, 128, [64, 65]),
        (128, 128, [128]),
        (1, 128, [1]),
    ],
)
def test_even_bounds(num_windows, size, sizes):
    bounds = reader_lib.even_bounds(num_windows, size)
    assert (bounds[0], bounds[-1]) == (0, num_windows)
    assert np.diff(bounds).tolist() == sizes


def test_fixed_bounds():
    assert reader_lib.fixed_bounds(10, 4) == [0, 4, 8, 10]
    assert reader_lib.fixed_bounds(8, 4) == [0, 4, 8]
    assert reader_lib.fixed_bounds(0, 4) == [0]
