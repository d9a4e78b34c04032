"""Rows that are found by their number are those of a list."""

import collections

import numpy as np
import pytest

from cola_msa.config.schema import TrainConfig
from cola_msa.pairs import draws, eligible
from cola_msa.records import index as index_lib
from cola_msa.records import prepared as prepared_lib
from tests.conftest import write_prepared


def rows_of(mask):
    bits = np.zeros((max(1, -(-len(mask) // 1024)), 128), np.uint8)
    packed = np.packbits(mask)
    bits.reshape(-1)[: len(packed)] = packed
    return eligible.Rows(bits)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
@pytest.mark.parametrize("length", [1, 1023, 1024, 5000])
def test_rows_are_those_of_a_list(length, share):
    random = np.random.default_rng([length, int(1000 * share)])
    mask = random.random(length) < share
    mask[length // 2 : length // 2 + 1500] = False  # whole blocks of none
    rows, expected = rows_of(mask), np.flatnonzero(mask)
    assert len(rows) == len(expected)
    np.testing.assert_array_equal(rows.all(), expected)
    for numbers in np.array_split(random.permutation(len(expected)), 9):
        np.testing.assert_array_equal(rows[numbers], expected[numbers])
        np.testing.assert_array_equal(
            rows._look_up(numbers) if len(numbers) else numbers, expected[numbers]
        )
    places = np.arange(length + 1)
    np.testing.assert_array_equal(
        rows.count_below(places), np.searchsorted(expected, places)
    )


def test_an_index_is_read_in_blocks(prepared, monkeypatch):
    index = prepared.index("train")
    usable = ~index.is_tail & (index.num_frames >= 98)
    monkeypatch.setattr(index_lib, "BLOCK_ROWS", 8)
    found, active, present = eligible.find_rows(index, 98, [(0,), (1, 3)], [(2,)])
    np.testing.assert_array_equal(found.all(), np.flatnonzero(usable))
    for rows, mask in (
        (active[0], index.is_active[:, 0]),
        (active[1], index.is_active[:, 1] | index.is_active[:, 3]),
        (present[0], index.has_stem[:, 2]),
    ):
        np.testing.assert_array_equal(rows.all(), np.flatnonzero(usable & mask))


def test_choices_count_and_pick_within_folders():
    random = np.random.default_rng(0)
    masks = random.random((3, 4000)) < 0.3
    starts = np.array([0, 1500, 1500, 4000])
    choices = eligible.Choices([rows_of(m) for m in masks], [0, 2, 5], starts)
    folder = np.searchsorted(starts[1:], np.arange(4000), "right")
    listed = [
        (row, source)
        for mask, source in zip(masks, (0, 2, 5), strict=True)
        for row in np.flatnonzero(mask)
    ]
    rows, source = choices.pick(np.arange(len(choices)))
    assert list(zip(rows, source, strict=True)) == listed
    for number in range(3):
        own = [pair for pair in listed if folder[pair[0]] == number]
        assert choices.counts[number] == len(own)
        rows, source = choices.pick(np.arange(len(own)), number)
        assert list(zip(rows, source, strict=True)) == own


def test_first_rows_are_those_of_a_search():
    clip = np.repeat(np.arange(50, dtype=np.int32), np.arange(50) % 7)
    clips = np.arange(52)
    np.testing.assert_array_equal(
        eligible.first_rows(clip, clips), np.searchsorted(clip, clips)
    )


@pytest.mark.parametrize("batches", ["active", "uniform", "active_any"])
@pytest.mark.parametrize("source", ["multi", "none"])
def test_positives_of_the_clip_are_found_in_order_and_out_of_it(
    prepared, batches, source
):
    config = TrainConfig(
        batch_size=8, pair_span="clip", batches=batches, source=source, seed=3
    )
    ordered, listed = (
        draws.PairDraws(prepared, config),
        draws.PairDraws(prepared, config),
    )
    assert ordered._has_ordered_clips
    listed._has_ordered_clips = False
    for update in range(20):
        np.testing.assert_array_equal(
            ordered.draw(update).positive_rows, listed.draw(update).positive_rows
        )


def test_clips_out_of_order_are_noticed(tmp_path):
    data = prepared_lib.PreparedData(write_prepared(tmp_path / "d", {"train": 6}))
    index = data.index("train")
    assert eligible.has_ordered_clips(index)
    index.clip[:] = index.clip[::-1].copy()
    assert not eligible.has_ordered_clips(index)


@pytest.mark.parametrize("most", [0, 1 << 24])
def test_active_any_has_the_same_chances_for_many_segments(monkeypatch, most):
    """Whether all are permuted or drawn one by one: uniform, and no row twice."""
    monkeypatch.setattr(draws, "_MOST_PERMUTED", most)
    masks = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 0, 1]], bool)
    choices = eligible.Choices([rows_of(m) for m in masks], [0, 1], np.array([0, 5]))
    count = collections.Counter()
    random = np.random.default_rng(7)
    for _ in range(7000):
        rows, source = draws._take_segments(random, choices, 2)
        assert rows[0] != rows[1]
        count[int(rows[0]), int(source[0])] += 1
    assert len(count) == 7
    # Of the first of each draw: four standard deviations of a fair seventh.
    assert all(abs(n - 1000) < 4 * np.sqrt(7000 * 6 / 49) for n in count.values())
    rows, _ = draws._take_segments(random, choices, 5)  # as many as there are
    assert sorted(rows) == [0, 1, 2, 3, 4]
