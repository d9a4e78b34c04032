"""Pairs of several folders: as of one that holds all, or as often as weights say."""

import collections

import numpy as np
import pytest

from cola_msa.config.schema import SOURCES, TrainConfig
from cola_msa.pairs import draws as draws_lib
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records import joined
from cola_msa.records import prepared as prepared_lib
from tests.conftest import write_prepared

MODES = ("mixed", "active", "uniform", "active_any")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`whole` holds the clips of `a`, then of `b`; `c` knows two sources."""
    path = tmp_path_factory.mktemp("folders")
    write_prepared(path / "a", {"train": 10, "validation": 4})
    write_prepared(path / "b", {"train": 6, "validation": 2}, first=200)
    write_prepared(path / "c", {"train": 8}, first=400, sources=("other", "vocals"))
    write_prepared(path / "plain", {"train": 9}, first=600, sources=())
    write_prepared(path / "tiny", {"train": 1}, first=800)
    return path


def open_folders(root, names, weights=None):
    text = ",".join(str(root / name) for name in names.split(","))
    return joined.open_data(text, weights=weights and weights.split(","))


def draw_folders(data, draws):
    """The folder of every pair, [draws, batch]."""
    rows = np.stack([draw.rows for draw in draws])
    starts = data.index("train").starts
    return np.searchsorted(starts[1:], rows, "right")


def config(**fields):
    return TrainConfig(**{"batch_size": 8, "seed": 5, **fields})


@pytest.mark.parametrize("span", ["segment", "clip"])
@pytest.mark.parametrize("batches", MODES)
def test_without_weights_pairs_are_those_of_one_folder_with_all(root, batches, span):
    data = open_folders(root, "a,b")
    whole = _merged(root, ("a", "b"))
    fields = {"batches": batches, "pair_span": span}
    for split in ("train", "validation"):
        mine = draws_lib.PairDraws(data, config(**fields), split)
        theirs = draws_lib.PairDraws(whole, config(**fields), split)
        found = mine.validation_draws() + [mine.draw(n) for n in range(20)]
        expected = theirs.validation_draws() + [theirs.draw(n) for n in range(20)]
        for a, b in zip(found, expected, strict=True):
            for name in ("rows", "source", "anchor_start", "positive_start"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


class _Merged:
    """Two folders' indices as one, as if they had been prepared together."""

    weights = None

    def __init__(self, parts, indices):
        self.data_dir, self.frontend = "merged", parts[0].frontend
        self.sources, self.parts = parts[0].sources, (self,)
        self._indices = indices

    def index(self, split):
        return self._indices[split]


def _merged(root, names):
    from cola_msa.records.index import merge_indices

    parts = [prepared_lib.PreparedData(root / name) for name in names]
    indices = {
        split: merge_indices([part.index(split) for part in parts], SOURCES)
        for split in ("train", "validation")
    }
    return _Merged(parts, indices)


@pytest.mark.parametrize("batches", ["mixed", "active_any"])
def test_ten_thousand_draws_follow_the_weights(root, batches):
    num_draws = 10_000 if batches == "mixed" else 2000
    data = open_folders(root, "a,b", "1,2")
    sampler = draws_lib.PairDraws(data, config(batches=batches))
    np.testing.assert_allclose(sampler.shares(), [1 / 3, 2 / 3])
    folders = draw_folders(data, [sampler.draw(n) for n in range(num_draws)])
    counts = (folders == 1).sum(axis=1)
    # A batch takes 5.33 of its 8 pairs: 5 or 6, with the mean's four deviations.
    assert set(counts) == {5, 6}
    assert abs(counts.mean() - 16 / 3) < 4 * np.sqrt(2 / 9 / num_draws)


def test_within_a_folder_each_segment_has_the_same_chance(root):
    data = open_folders(root, "a,b", "1,2")
    sampler = draws_lib.PairDraws(data, config(batches="uniform"))
    rows = np.concatenate([sampler.draw(n).rows for n in range(3000)])
    index = data.index("train")
    usable = np.flatnonzero(~index.is_tail[:])
    seen = collections.Counter(rows.tolist())
    assert set(seen) == set(usable.tolist())
    own = [seen[row] for row in usable if row >= index.starts[1]]
    expected = 3000 * 16 / 3 / len(own)
    assert abs(np.array(own) - expected).max() < 5 * np.sqrt(expected)


def test_default_shares_are_by_segments(root):
    data = open_folders(root, "a,b")
    sampler = draws_lib.PairDraws(data, config(source="none"))
    np.testing.assert_allclose(sampler.shares(), [10 / 16, 6 / 16])
    folders = draw_folders(data, [sampler.draw(n) for n in range(2000)])
    # Draws of 8 without repeats vary less than a coin: four of its deviations.
    share = (folders == 0).mean()
    assert abs(share - 10 / 16) < 4 * np.sqrt(10 / 16 * 6 / 16 / 16_000)
    assert sampler.describe_folders()[0].endswith("a: 40 segments, 62.5 % of all pairs")


def test_weights_are_among_the_folders_that_have_the_source(root):
    data = open_folders(root, "a,c", "1,1")
    sampler = draws_lib.PairDraws(data, config(batches="active"))
    np.testing.assert_allclose(sampler.shares(), [0.75, 0.25])
    draws = [sampler.draw(n) for n in range(2000)]
    sources = collections.Counter(int(draw.source[0]) for draw in draws)
    # Sources stay uniform, whatever folders have them.
    assert all(abs(n - 500) < 4 * np.sqrt(375) for n in sources.values())
    folders = draw_folders(data, draws)
    for draw, own in zip(draws, folders, strict=True):
        has_both = SOURCES[draw.source[0]] in ("vocals", "other")
        assert (own == 1).sum() == (4 if has_both else 0)
        index = data.index("train")
        assert index.is_active[draw.rows, draw.source].all()


@pytest.mark.parametrize("weights", [None, "3,1,2"])
def test_batches_hold_no_segment_twice_and_come_in_any_order(root, weights):
    data = open_folders(root, "a,b,c", weights)
    first, second = (PairSampler(data, config()) for _ in range(2))
    backwards = {n: second.batch(n) for n in reversed(range(12))}
    for n in range(12):
        assert len(set(first.draw(n).rows)) == 8
        for key, value in first.batch(n).items():
            np.testing.assert_array_equal(value, backwards[n][key])


def test_windows_are_those_of_the_folders(root):
    data = open_folders(root, "a,b,c", "1,1,1")
    sampler = PairSampler(data, config(batches="active"))
    index = data.index("train")
    for n in range(20):
        draw, batch = sampler.draw(n), sampler.batch(n, with_stems=True)
        folder = draw_folders(data, [draw])[0]
        for i, row in enumerate(draw.rows):
            part = data.parts[folder[i]].index("train")
            own = row - index.starts[folder[i]]
            clip = int(part.clip_ids[part.clip[own]][4:])
            assert batch["anchor"][i, 5, -1, 0] == clip
            # The stem of source k is the mixture plus 10 * (k + 1).
            number = int(draw.source[i])
            assert batch["positive"][i, 5, -1, 0] == clip + 10 * (number + 1)
            for k in range(4):
                if batch["stem_is_active"][i, k]:
                    assert batch["stems"][i, k, 5, -1] == clip + 10 * (k + 1)


def test_replicas_that_share_a_draw_have_distinct_parts_of_all_folders(root):
    data = open_folders(root, "a,b", "1,1")
    sampler = PairSampler(data, config(global_negatives=True), num_replicas=2)
    both = [[sampler.draw(n, replica) for replica in range(2)] for n in range(200)]
    for pair in both:
        assert len(set(pair[0].rows) | set(pair[1].rows)) == 16
    share = (draw_folders(data, [pair[0] for pair in both]) == 0).mean()
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 1600)


def test_what_cannot_be_followed_is_refused(root):
    def draws(names, weights=None, **fields):
        return draws_lib.PairDraws(open_folders(root, names, weights), config(**fields))

    with pytest.raises(draws_lib.PairError, match="plain has no source in common"):
        draws("a,plain")
    draws("a,plain", source="none")
    with pytest.raises(draws_lib.PairError, match="plain has no segment in train that"):
        draws("a,plain", source="vocals")
    with pytest.raises(draws_lib.PairError, match="c has no segment in train that"):
        draws("a,c", source="drums,bass")
    # The smallest folder can give its share by segments, but not nine tenths.
    draws("a,tiny", source="none")
    with pytest.raises(
        draws_lib.PairError,
        match="tiny: there are 4 segments .* the 8 that its --data_weights takes of",
    ):
        draws("a,tiny", "1,9", source="none")
    draws("a,tiny", "9,1", source="none")


def test_sources_of_no_folder_are_in_common(tmp_path):
    write_prepared(tmp_path / "a", {"train": 9}, sources=("vocals", "bass"))
    write_prepared(tmp_path / "b", {"train": 9}, first=50, sources=("drums", "other"))
    data = joined.open_data(f"{tmp_path}/a,{tmp_path}/b")
    with pytest.raises(
        draws_lib.PairError, match="no source in common with .*: vocals, bass and drums"
    ):
        draws_lib.PairDraws(data, config())
    draws_lib.PairDraws(data, config(source="vocals,drums"))


def test_few_shards_are_open_at_a_time(root, monkeypatch):
    expected = PairSampler(open_folders(root, "a,b"), config())
    monkeypatch.setattr(prepared_lib.PreparedData, "most_mapped", 2)
    data = open_folders(root, "a,b")
    sampler = PairSampler(data, config())
    for n in range(10):
        for key, value in sampler.batch(n).items():
            np.testing.assert_array_equal(value, expected.batch(n)[key])
    assert [len(part._maps) for part in data.parts] == [1, 1]
