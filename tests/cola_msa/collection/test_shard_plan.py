"""Lists of files cut into shards: whatever is there, nothing is lost or made twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_msa.collection.shards import plan as plan_lib
from cola_msa.collection.table.write import OutputError


def names(numbers) -> list[str]:
    return [f"music/{number:03d}.wav" for number in numbers]


class Dataset:
    """Shards as a run would leave them, without their rows."""

    def __init__(self):
        self.shards: dict[str, tuple[plan_lib.Found, tuple[str, ...]]] = {}

    def plan(self, paths, size):
        found = [shard for shard, _ in self.shards.values()]
        files_of = {shard.name: files for shard, files in self.shards.values()}
        return plan_lib.make_plan(
            paths, str, size, found, lambda shard: files_of[shard.name], "songs"
        )

    def rename(self, plan, count=None):
        for old, new in list(plan.renamed.items())[:count]:
            shard, files = self.shards.pop(old)
            assert new not in self.shards
            kept = plan_lib.Found(
                new, shard.digest, shard.num_files, shard.begin, shard.num_rows
            )
            self.shards[new] = kept, files

    def make(self, plan, which=lambda shard: True):
        for shard in filter(which, plan.shards):
            assert shard.name not in self.shards
            found = plan_lib.Found(
                shard.name, shard.digest, len(shard.paths), shard.begin, 1
            )
            self.shards[shard.name] = found, shard.paths

    def run(self, paths, size, which=lambda shard: True):
        plan = self.plan(paths, size)
        self.rename(plan)
        self.make(plan, which)
        return plan

    def files(self):
        return [name for key in sorted(self.shards) for name in self.shards[key][1]]


def test_a_list_is_cut_in_its_order():
    dataset = Dataset()
    plan = dataset.run(names(range(10)), 4)
    assert [shard.name for shard in plan.shards] == [
        f"part-{number:05d}-of-00003.parquet" for number in range(3)
    ]
    assert [len(shard.paths) for shard in plan.shards] == [4, 4, 2]
    assert dataset.files() == names(range(10))


@pytest.mark.parametrize("finished", [(), (0,), (2,), (0, 2), (0, 1, 2)])
def test_a_killed_run_goes_on_with_the_same_shards(finished):
    whole, killed = Dataset(), Dataset()
    whole.run(names(range(10)), 4)
    killed.run(names(range(10)), 4, lambda shard: shard.number in finished)
    plan = killed.run(names(range(10)), 4)
    assert not plan.renamed and len(plan.shards) == 3 - len(finished)
    assert killed.shards == whole.shards


def test_new_files_become_shards_behind_the_others():
    """Wherever they are in the list; what is there is renamed, not made again."""
    dataset = Dataset()
    dataset.run(names(range(0, 20, 2)), 4)
    plan = dataset.run(names(range(20)), 4)
    assert plan.renamed == {
        f"part-{number:05d}-of-00003.parquet": f"part-{number:05d}-of-00006.parquet"
        for number in range(3)
    }
    assert dataset.files() == names([*range(0, 20, 2), *range(1, 20, 2)])
    again = dataset.plan(names(range(20)), 4)
    assert not again.shards and not again.renamed


def test_another_size_of_shards_makes_nothing_again():
    dataset = Dataset()
    dataset.run(names(range(10)), 4)
    assert not dataset.plan(names(range(10)), 3).shards


def test_files_that_are_gone_stay():
    dataset = Dataset()
    dataset.run(names(range(10)), 4)
    plan = dataset.run(names([*range(1, 10), 20]), 4)
    assert plan.gone == {*names([0])}
    assert sorted(dataset.files()) == names([*range(10), 20])


def test_another_list_is_refused():
    dataset = Dataset()
    dataset.run(names(range(10)), 4)
    with pytest.raises(OutputError, match=r"10 files \(music/000.wav.*names none"):
        dataset.plan(names(range(20, 30)), 4)


def test_two_shards_of_one_number_are_refused():
    dataset = Dataset()
    dataset.run(names(range(10)), 4)
    other = Dataset()
    other.run(names(range(20)), 4)
    dataset.shards |= other.shards
    with pytest.raises(OutputError, match="part-00002-of-00003.* and part-00002-of-0"):
        dataset.plan(names(range(20)), 4)


def test_a_shard_with_two_names_is_one():
    dataset = Dataset()
    dataset.run(names(range(10)), 4)
    found = [shard for shard, _ in dataset.shards.values()]
    copy = plan_lib.Found(plan_lib.shard_name(1, 5), found[1].digest, 4, 0, 1)
    plan = plan_lib.make_plan(
        names(range(10)), str, 4, [*found, copy], lambda shard: [], "songs"
    )
    assert plan.doubles == (copy.name,) and not plan.shards and not plan.renamed


@given(
    st.lists(
        st.tuples(
            st.integers(1, 40),  # how far the list has grown
            st.integers(1, 7),  # files of a shard
            st.sets(st.integers(0, 12)),  # shards that are finished before a kill
            st.integers(0, 12),  # names that are changed before a kill
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_happens_every_file_is_there_once(runs):
    dataset = Dataset()
    most = 0
    for count, size, finished, num_renamed in runs:
        most = max(most, count)
        plan = dataset.plan(names(range(most)), size)
        dataset.rename(plan, num_renamed)
        if len(plan.renamed) <= num_renamed:
            dataset.make(plan, lambda shard, done=finished: shard.number in done)
        # The same list goes on with the same plan.
        again = dataset.plan(names(range(most)), size)
        left = {(s.number, s.digest) for s in plan.shards}
        assert {(s.number, s.digest) for s in again.shards} <= left
    plan = dataset.run(names(range(most)), runs[-1][1])
    assert sorted(dataset.files()) == names(range(most))
    numbers = sorted(plan_lib.parse_name(name) for name in dataset.shards)
    assert numbers == [(number, plan.total) for number in range(plan.total)]


@pytest.mark.parametrize(
    ("count", "per", "size"),
    [(1, "clip", 8), (100, "clip", 13), (10**6, "clip", 1000), (10**6, "window", 100)],
)
def test_sizes_without_a_flag(count, per, size):
    assert plan_lib.default_size(count, per) == size
