"""Prepared data that is not what was made is refused, in one line that names a file."""

import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cola_msa.config.schema import TrainConfig
from cola_msa.records import prepared as prepared_lib
from cola_msa.records import schema
from tests.conftest import write_prepared
from tests.helpers.damages import DAMAGES, SHARD, change_manifest, seal, zero_half


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "data"
    return seal(write_prepared(path, {"train": 4, "validation": 2}, 1))


@pytest.fixture
def data_dir(good, tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_MSA_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(good, tmp_path / "data")


def use(folder):
    data = prepared_lib.PreparedData(folder)
    for split in data.splits:
        for row in range(len(data.index(split).shard)):
            data.mixture(split, row)
    return data.log_mel_moments


def test_good_data_is_used(data_dir):
    assert use(data_dir) == (2.0, 1.5)


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


def test_notes_do_not_hide_a_change_with_its_time_put_back(data_dir, monkeypatch):
    monkeypatch.setattr("cola_msa.records.verified._SETTLED_NS", 0)
    use(data_dir)
    path = data_dir / SHARD
    before = path.stat()
    with monkeypatch.context() as patch:  # the second start reads no shard
        patch.setattr("cola_msa.records.verified.read_file", None)
        use(data_dir)
    zero_half(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(schema.DataError, match=SHARD):
        use(data_dir)


@pytest.mark.parametrize("name", ["manifest.json", "index-train.npz"])
def test_a_file_cut_at_any_byte_is_refused(data_dir, name):
    path = data_dir / name
    content = path.read_bytes()
    end = len(content.rstrip())
    for length in range(0, end, 1 if name == "manifest.json" else 7):
        path.write_bytes(content[:length])
        with pytest.raises(schema.DataError, match=name) as error:
            prepared_lib.PreparedData(data_dir)
        assert "\n" not in str(error.value)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(draw=st.data())
def test_any_bytes_of_an_index_are_refused_or_harmless(data_dir, draw):
    """Whoever changes an index may seal it again: nothing is read beyond a shard."""
    path = data_dir / "index-train.npz"
    original = path.read_bytes()
    try:
        content = bytearray(original)
        for _ in range(draw.draw(st.integers(1, 4))):
            place = draw.draw(st.integers(0, len(content) - 1))
            content[place] = draw.draw(st.integers(0, 255))
        path.write_bytes(content[: draw.draw(st.integers(0, len(content)))])
        seal(data_dir)
        try:
            use(data_dir)
        except schema.DataError as error:
            assert "\n" not in str(error)
    finally:
        path.write_bytes(original)
        seal(data_dir)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=4,
)


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from places(item, (*path, key))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(draw=st.data(), is_sealed=st.booleans())
def test_any_change_of_the_manifest_is_refused_or_harmless(data_dir, draw, is_sealed):
    path = data_dir / "manifest.json"
    original = path.read_text()
    try:
        content = json.loads(original)
        spots = [spot for spot in places(content) if spot]
        *parents, last = draw.draw(st.sampled_from(spots))
        part = content
        for key in parents:
            part = part[key]
        before, part[last] = part[last], draw.draw(VALUES)
        is_same = json.dumps(before) == json.dumps(part[last])
        if is_sealed:  # whoever changes it may seal it too
            schema.write_manifest(data_dir, content)
        else:
            path.write_text(json.dumps(content))
        try:
            use(data_dir)
        except schema.DataError as error:
            assert "\n" not in str(error)
        else:
            assert is_sealed or is_same
    finally:
        path.write_text(original)


def test_pairs_of_an_update_count_accumulated_batches():
    train = TrainConfig(batch_size=8, accumulate=4)
    assert train.pairs_per_update(2) == 64
