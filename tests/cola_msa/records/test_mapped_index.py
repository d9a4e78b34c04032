"""A large index stays in its file, and is looked at once; what it says is the same."""

import dataclasses
import mmap
import os
import shutil

import numpy as np
import pytest

from cola_msa.config.schema import TrainConfig
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records import index as index_lib
from cola_msa.records import index_checks, prepared, schema, verified
from tests.conftest import write_prepared
from tests.helpers.damages import DAMAGES, change_manifest, seal


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "data"
    return seal(write_prepared(path, {"train": 6, "validation": 2}, 2))


@pytest.fixture
def data_dir(good, tmp_path, monkeypatch):
    """A copy, whose indices count as large."""
    monkeypatch.setenv("COLA_MSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "_MAPPED_BYTES", 0)
    monkeypatch.setattr(index_lib, "BLOCK_ROWS", 8)
    return shutil.copytree(good, tmp_path / "data")


def use(folder):
    data = prepared.PreparedData(folder)
    for split in data.splits:
        for row in range(len(data.index(split).shard)):
            data.mixture(split, row)
    return data


def test_a_mapped_index_is_the_one_that_is_read(data_dir, monkeypatch):
    mapped = use(data_dir)
    monkeypatch.setattr(prepared, "_MAPPED_BYTES", 1 << 26)
    read = use(data_dir)
    for split in read.splits:
        for field in dataclasses.fields(index_lib.Index):
            values = getattr(mapped.index(split), field.name)
            expected = getattr(read.index(split), field.name)
            np.testing.assert_array_equal(values, expected)
            assert values.dtype == expected.dtype
            assert isinstance(values.base, mmap.mmap)
    assert mapped.fingerprint(("train",)) == read.fingerprint(("train",))
    config = TrainConfig(batch_size=4, seed=1)
    first, second = PairSampler(mapped, config), PairSampler(read, config)
    for n in range(8):
        for key, value in first.batch(n).items():
            np.testing.assert_array_equal(value, second.batch(n)[key])


@pytest.mark.parametrize("is_earlier", [False, True])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused(data_dir, name, is_earlier):
    if is_earlier:  # a manifest that an earlier version wrote: no checksums

        def strip(manifest):
            del manifest["content_sha256"]
            for split in manifest["splits"].values():
                del split["index_sha256"], split["shard_sha256"]

        change_manifest(data_dir, strip)
        use(data_dir)
    damage, file = DAMAGES[name]
    damage(data_dir)
    with pytest.raises(schema.DataError) as error:
        use(data_dir)
    assert file in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def settled(monkeypatch):
    """Files that were just written are noted at once."""
    monkeypatch.setattr(verified, "_SETTLED_NS", 0)


def test_the_second_start_looks_at_no_row(data_dir, settled, monkeypatch):
    use(data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(verified, "read_file", None)
        patch.setattr(index_checks, "find_fault", None)
        patch.setattr(prepared.PreparedData, "_check_shard", None)
        use(data_dir)


def test_a_changed_index_is_looked_at_again(data_dir, settled):
    use(data_dir)
    path = data_dir / "index-train.npz"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(schema.DataError, match=r"index-train.npz: its bytes are not"):
        prepared.PreparedData(data_dir)


def test_a_manifest_that_says_another_thing_is_compared_again(data_dir, settled):
    """What was noted is of these bytes of index and manifest together."""
    use(data_dir)

    def lie(manifest):
        manifest["splits"]["train"]["num_clips"] = 5

    change_manifest(data_dir, lie)
    seal(data_dir)
    with pytest.raises(schema.DataError, match="num_clips is 5, but the index has 6"):
        use(data_dir)


def test_an_index_that_changes_meanwhile_is_refused(data_dir):
    data = prepared.PreparedData(data_dir)
    path = data_dir / "index-train.npz"
    stored = data._stored_index("train")
    shutil.copy(path, data_dir / "copy")
    os.replace(data_dir / "copy", path)
    with pytest.raises(schema.DataError, match="has changed since"):
        data._open_index(path, "train", stored)


@pytest.mark.parametrize(
    ("names", "is_right"),
    [
        (["a", "b", "ab", ""], True),
        (["a", "b", "a"], False),
        (["", ""], False),
        ([""], True),
        ([f"clip{n}" for n in range(300)], True),
        ([f"clip{n}" for n in range(300)] + ["clip77"], False),
    ],
)
def test_clip_names_that_come_twice_are_found(names, is_right):
    assert index_checks._are_distinct(np.array(names)) is is_right


def test_names_of_equal_hash_are_compared_themselves(monkeypatch):
    monkeypatch.setattr(index_checks, "_hashes", lambda names: np.zeros(len(names)))
    assert index_checks._are_distinct(np.array(["a", "b", "c"]))
    assert not index_checks._are_distinct(np.array(["a", "b", "a"]))
