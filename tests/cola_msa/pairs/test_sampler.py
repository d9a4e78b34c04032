import collections
import dataclasses
import json

import numpy as np
import pytest

from cola_msa.config.schema import SOURCES, TrainConfig
from cola_msa.pairs import draws as draws_lib
from cola_msa.pairs import sampler as sampler_lib
from cola_msa.records import prepared as prepared_lib
from tests.conftest import write_prepared


def sampler(prepared, split="train", **fields):
    config = TrainConfig(**{"batch_size": 8, "seed": 5, **fields})
    return sampler_lib.PairSampler(prepared, config, split, silent_value=0.0)


@pytest.fixture(scope="module")
def mixed(prepared):
    return sampler(prepared, batches="mixed")


def facts(prepared, draw, split="train"):
    index = prepared.index(split)
    return index, index.is_active[draw.rows, draw.source]


@pytest.mark.parametrize("batches", ["mixed", "active", "uniform"])
@pytest.mark.parametrize("update", range(0, 40, 13))
def test_a_batch_holds_one_source_and_no_segment_twice(prepared, batches, update):
    draw = sampler(prepared, batches=batches).draw(update)
    assert len(set(draw.source)) == 1
    assert len(set(draw.rows)) == len(draw.rows) == 8
    assert not prepared.index("train").is_tail[draw.rows].any()


@pytest.mark.parametrize("update", range(0, 40, 13))
def test_active_batches_hold_no_silent_positive(prepared, update):
    draw = sampler(prepared, batches="active").draw(update)
    assert facts(prepared, draw)[1].all()


def test_active_any_mixes_sources_and_repeats_no_segment(prepared):
    found = sampler(prepared, batches="active_any")
    for update in range(20):
        draw = found.draw(update)
        assert facts(prepared, draw)[1].all()
        assert len(set(draw.rows)) == 8
    assert len({s for n in range(20) for s in found.draw(n).source}) == 4


def test_mixed_alternates_with_one_half_and_sources_are_uniform(mixed):
    draws = [mixed.draw(n) for n in range(4000)]
    modes = collections.Counter(draw.mode for draw in draws)
    assert set(modes) == {"active", "uniform"}
    # Four standard deviations of a fair coin, and of a fair choice of four.
    assert abs(modes["active"] - 2000) < 4 * np.sqrt(1000)
    sources = collections.Counter(int(draw.source[0]) for draw in draws)
    assert set(sources) == {0, 1, 2, 3}
    assert all(abs(n - 1000) < 4 * np.sqrt(750) for n in sources.values())
    both = collections.Counter((d.mode, int(d.source[0])) for d in draws)
    assert all(abs(n - 500) < 4 * np.sqrt(500 * 7 / 8) for n in both.values())


def test_uniform_batches_hold_silent_positives_at_the_datas_rate(prepared):
    found = sampler(prepared, batches="uniform")
    index = prepared.index("train")
    draws = [found.draw(n) for n in range(500)]
    share = np.mean([facts(prepared, draw)[1].mean() for draw in draws])
    assert share == pytest.approx(index.is_active[~index.is_tail].mean(), abs=0.02)


def test_starts_cover_all_positions_and_differ(mixed):
    draws = [mixed.draw(n) for n in range(400)]
    anchor = np.concatenate([draw.anchor_start for draw in draws])
    positive = np.concatenate([draw.positive_start for draw in draws])
    for starts in (anchor, positive):
        assert set(starts) == set(range(295))
    assert (anchor != positive).mean() > 0.98
    assert abs(np.corrcoef(anchor, positive)[0, 1]) < 0.1


def test_windows_are_what_was_drawn(prepared, mixed):
    for update in range(6):
        draw = mixed.draw(update)
        batch = mixed.read(draw)
        index = prepared.index("train")
        for i, row in enumerate(draw.rows):
            first = index.segment[row] + draw.anchor_start[i] / 1000
            np.testing.assert_allclose(batch["anchor"][i, 0, 0, 0], first, atol=2e-3)
            clip = int(index.clip_ids[index.clip[row]][4:])
            assert batch["anchor"][i, 5, -1, 0] == clip
            active = index.is_active[row, draw.source[i]]
            assert batch["is_active"][i] == active
            if active:
                stem = batch["positive"][i, 0, 0, 0] - 10 * (draw.source[i] + 1)
                first = index.segment[row] + draw.positive_start[i] / 1000
                np.testing.assert_allclose(stem, first, atol=3e-2)
            else:
                assert (batch["positive"][i] == 0).all()


def test_cola_takes_both_windows_from_one_segment_of_the_mixture(prepared):
    found = sampler(prepared, source="none")
    batch = found.batch(3)
    assert batch["is_active"].all() and (batch["source"] == draws_lib.COLA).all()
    clip = batch["anchor"][:, 0, -1, 0]
    np.testing.assert_array_equal(clip, batch["positive"][:, 0, -1, 0])
    segment = np.floor(batch["anchor"][:, 0, 0, 0].astype(float) + 1e-3)
    same = np.floor(batch["positive"][:, 0, 0, 0].astype(float) + 1e-3)
    np.testing.assert_array_equal(segment, same)


def test_update_n_is_the_same_in_any_order_of_asking(prepared):
    first, second = sampler(prepared), sampler(prepared)
    backwards = {n: second.batch(n) for n in reversed(range(12))}
    for n in range(12):
        for key, value in first.batch(n).items():
            np.testing.assert_array_equal(value, backwards[n][key])


def test_updates_replicas_and_seeds_differ(prepared):
    draws = [
        sampler(prepared).draw(0),
        sampler(prepared).draw(1),
        sampler(prepared).draw(0, replica=1),
        sampler(prepared, seed=6).draw(0),
    ]
    assert len({(tuple(d.rows), tuple(d.anchor_start)) for d in draws}) == 4


@pytest.mark.parametrize("replicas", [1, 2])
def test_dataset_gives_the_batches_in_order(prepared, replicas):
    found = sampler(prepared)
    elements = list(found.dataset(7, 3, replicas))
    assert len(elements) == 3 * replicas
    for number, element in enumerate(elements):
        expected = found.batch(7 + number // replicas, number % replicas)
        for key, value in expected.items():
            np.testing.assert_array_equal(
                element[key], value.astype(element[key].dtype.as_numpy_dtype)
            )


@pytest.mark.parametrize("source", ["drums", "vocals,other"])
def test_chosen_sources_alone(prepared, source):
    found = sampler(prepared, source=source)
    seen = {SOURCES[found.draw(n).source[0]] for n in range(60)}
    assert seen == set(source.split(","))


def test_pretraining_reads_no_clip_outside_the_filtered_split(prepared, monkeypatch):
    read = []
    original = prepared_lib.PreparedData.read

    def spy(self, split, shard, offset, frames):
        read.append(str(self.index(split).shards[shard]))
        return original(self, split, shard, offset, frames)

    monkeypatch.setattr(prepared_lib.PreparedData, "read", spy)
    found = sampler(prepared)
    for n in range(200):
        found.batch(n)
    assert set(read) == set(prepared.manifest["splits"]["train"]["shards"])


def test_too_few_segments_names_source_count_and_flag(tmp_path):
    data = prepared_lib.PreparedData(write_prepared(tmp_path / "d", {"train": 2}))
    with pytest.raises(
        draws_lib.PairError,
        match=r"source vocals has \d+ eligible .* --batch_size=64",
    ):
        sampler(data, batch_size=64)


def test_unknown_source_lists_those_there_are(prepared):
    with pytest.raises(
        draws_lib.PairError, match="no source guitar; it has vocals, drums"
    ):
        sampler(prepared, source="guitar")


def test_validation_is_fixed_and_shrinks(prepared):
    first = sampler(prepared, "validation", batch_size=64, seed=1).validation_draws()
    second = sampler(prepared, "validation", batch_size=64, seed=2).validation_draws()
    assert len(first) == 8
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.anchor_start, b.anchor_start)
        assert len(set(a.rows)) == len(a.rows) < 64


def test_a_stem_that_does_not_exist_is_never_taken_for_silence(tmp_path):
    path = write_prepared(tmp_path / "d", {"train": 8})
    data = prepared_lib.PreparedData(path)
    index = data.index("train")
    index.has_stem[::2, 0] = False
    index.is_active[::2, 0] = False
    found = sampler(data, source="vocals", batches="uniform")
    assert all(index.has_stem[found.draw(n).rows, 0].all() for n in range(50))


def test_sampling_is_the_manifests_frontend(prepared):
    found = sampler(prepared)
    assert found.window_frames == prepared.frontend.window_frames
    manifest = json.loads((prepared.data_dir / "manifest.json").read_text())
    assert manifest["frontend"]["window_frames"] == found.window_frames
    assert dataclasses.asdict(prepared.frontend)["num_mels"] == found.num_mels
