"""Several prepared folders are read as the one that holds all of them."""

import json
import os
import shutil

import numpy as np
import pytest

from cola_msa.config.schema import SOURCES, FrontendConfig
from cola_msa.records import joined, prepared, schema
from cola_msa.records.folder_lists import join_names, parse_weights, split_names
from cola_msa.system.errors import UsageError
from tests.conftest import write_prepared

ROW_FIELDS = ("num_frames", "is_tail", "segment")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders, and one that holds the clips of both in the same order."""
    root = tmp_path_factory.mktemp("folders")
    write_prepared(root / "a", {"train": 5, "validation": 2}, 3)
    write_prepared(root / "b", {"train": 3}, 2, first=50, sources=("bass", "vocals"))
    return root


def opened(root, *names):
    return joined.open_data(",".join(str(root / name) for name in names))


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_rows_are_those_of_the_folders_in_order(folders, names):
    data = opened(folders, *names)
    parts = [prepared.PreparedData(folders / name).index("train") for name in names]
    index = data.index("train")
    rows = np.random.default_rng(0).permutation(len(index.shard))
    for name in ROW_FIELDS:
        expected = np.concatenate([getattr(part, name) for part in parts])
        column = getattr(index, name)
        np.testing.assert_array_equal(column[:], expected)
        np.testing.assert_array_equal(column[rows], expected[rows])
        np.testing.assert_array_equal(column[3:17], expected[3:17])
        assert column[int(rows[0])] == expected[rows[0]]
        assert column[rows].dtype == expected.dtype
    for row in rows:
        part = int(row >= len(parts[0].shard))
        own = row - part * len(parts[0].shard)
        mine = data.parts[part].mixture("train", own)
        read = data.read(
            "train", index.shard[row], index.mixture_offset[row], len(mine)
        )
        np.testing.assert_array_equal(read, mine)


def test_clips_and_songs_are_numbered_through(folders):
    index = opened(folders, "a", "b").index("train")
    clips = index.clip[:]
    assert len(np.unique(clips)) == 8 and (np.diff(clips) >= 0).all()
    assert len(index.songs()) == 8


def test_songs_of_one_dataset_are_the_same_by_name(tmp_path):
    write_prepared(tmp_path / "a", {"train": 2})  # both of song0
    write_prepared(tmp_path / "b", {"train": 2}, 3, licence="another")
    write_prepared(tmp_path / "c", {"train": 2}, 3, dataset="fma")
    same = opened(tmp_path, "a", "b").index("train").songs()
    other = opened(tmp_path, "a", "c").index("train").songs()
    assert len(np.unique(same)) == 1 and len(np.unique(other)) == 2


def test_sources_are_joined_by_name(folders):
    data = opened(folders, "a", "b")
    assert data.sources == SOURCES
    index, own = data.index("train"), data.parts[1].index("train")
    rows = np.arange(index.starts[1], index.starts[2])
    for source, place in (("vocals", 1), ("bass", 0)):
        k = SOURCES.index(source)
        for name in ("is_active", "has_stem", "stem_offset"):
            np.testing.assert_array_equal(
                getattr(index, name)[rows, k], getattr(own, name)[:, place]
            )
    for source in ("drums", "other"):
        k = SOURCES.index(source)
        assert not index.has_stem[rows, k].any() and not index.is_active[rows, k].any()
        assert (index.stem_offset[rows, k] == -1).all()
    np.testing.assert_array_equal(
        index.is_active[rows], index.is_active[:][rows[0] : rows[-1] + 1]
    )
    np.testing.assert_array_equal(
        index.is_active[rows, np.zeros(len(rows), int)], index.is_active[rows, 0]
    )
    assert opened(folders, "b", "a").sources == ("bass", "vocals", "drums", "other")


def test_rows_that_are_not_there_are_refused(folders):
    index = opened(folders, "a", "b").index("train")
    for row in (-1, len(index.shard)):
        with pytest.raises(IndexError):
            index.shard[np.array([0, row])]


def test_a_split_may_be_missing_in_a_folder_but_not_in_all(folders):
    data = opened(folders, "b", "a")
    index = data.index("validation")
    assert index.starts.tolist() == [0, 0, 2 * 4]
    assert len(index.is_active[:]) == 8 and index.shard[0] == 0
    with pytest.raises(schema.DataError, match="no folder has a split 'dev'"):
        data.index("dev")


def test_moments_are_those_of_all_mixtures(tmp_path):
    for name, first, mean, std in (("a", 0, 2.0, 1.5), ("b", 9, -1.0, 0.5)):
        write_prepared(
            tmp_path / name,
            {"train": 3 if name == "a" else 1},
            first=first,
            log_mel_mean=mean,
            log_mel_std=std,
        )
    values = np.repeat([2.0 - 1.5, 2.0 + 1.5, -1.0 - 0.5, -1.0 + 0.5], [3, 3, 1, 1])
    mean, std = opened(tmp_path, "a", "b").log_mel_moments
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert std == pytest.approx(values.std(), rel=1e-12)
    weighted = joined.open_data(f"{tmp_path}/a,{tmp_path}/b", weights=["1", "1"])
    assert weighted.log_mel_moments[0] == pytest.approx(0.5)
    assert weighted.log_mel_moments[1] == pytest.approx(
        np.array([0.5, 3.5, -1.5, -0.5]).std()
    )


def test_another_front_end_names_folder_and_field(folders, tmp_path):
    write_prepared(tmp_path / "c", {"train": 2}, frontend=FrontendConfig(level="l2"))
    with pytest.raises(schema.DataError, match=r"c was prepared .*: level l2 != rms"):
        joined.open_data(f"{folders}/a,{tmp_path}/c")
    with pytest.raises(schema.DataError, match=r"/c/.*level l2 \(data\) != rms"):
        joined.open_data(f"{folders}/a,{tmp_path}/c", FrontendConfig())


def test_a_copy_of_a_folder_is_refused(folders, tmp_path):
    shutil.copytree(folders / "a", tmp_path / "copy")
    with pytest.raises(schema.DataError, match="copy holds the same data as"):
        joined.open_data(f"{folders}/a,{tmp_path}/copy")


def test_order_and_weights_are_part_of_the_hash(folders):
    text = ",".join(str(folders / name) for name in "ab")
    hashes = [
        joined.open_data(text).manifest_hash,
        opened(folders, "b", "a").manifest_hash,
        joined.open_data(text, weights=["2", "1"]).manifest_hash,
        joined.open_data(text, weights=["1", "2"]).manifest_hash,
    ]
    assert len(set(hashes)) == 4
    assert hashes[2] == joined.open_data(text, weights=["4", "2"]).manifest_hash


def test_description_has_paths_in_one_field_alone(folders):
    data = opened(folders, "a", "b")
    found = data.describe()
    assert split_names(found.pop("data_dir")) == [
        os.path.realpath(folders / name) for name in "ab"
    ]
    assert str(folders) not in json.dumps(found)
    assert found["dataset"] == "mtat" and found["sources"] == list(SOURCES)
    assert [part["weight"] for part in found["folders"]] == [None, None]


def test_one_folder_is_what_it_was(folders, monkeypatch):
    monkeypatch.chdir(folders)
    for weights in (None, ["3"]):
        assert type(joined.open_data("a", weights=weights)) is prepared.PreparedData


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a , b", ["a", "b"]),
        (r"x\,y,b", ["x,y", "b"]),
        ("x,y", ["x,y"]),  # it exists
        ("memory://a,memory://b", ["memory://a", "memory://b"]),
    ],
)
def test_names(tmp_path, monkeypatch, text, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x,y").mkdir()
    assert split_names(text) == names
    assert split_names(join_names(names)) == names


@pytest.mark.parametrize("text", ["a,,b", "a,", ",a", " , ", ","])
def test_empty_entries_are_refused(text):
    with pytest.raises(UsageError, match="names nothing"):
        split_names(text)


@pytest.mark.parametrize("text", ["a,a", "a,./a", "b,a,link", "a,a/"])
def test_a_folder_twice_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(UsageError, match="twice"):
        split_names(text)


@pytest.mark.parametrize(
    "given",
    ["1", "1,2,3", "", "1,0", "1,-1", "nan,1", "1,inf", "a,1", "1,", "1,1e-9", "1e9,1"],
)
def test_weights_that_cannot_be_meant_are_refused(given):
    with pytest.raises(UsageError, match="--data_weights=") as error:
        parse_weights(given.split(","), 2)
    assert "\n" not in str(error.value)


def test_a_list_where_one_folder_is_meant_is_named_so(folders):
    with pytest.raises(schema.DataError, match="one prepared folder is meant here"):
        prepared.PreparedData(f"{folders}/a,{folders}/b")


def test_an_address_among_folders_is_refused(folders):
    with pytest.raises(schema.DataError, match="--data_dir=memory://b is an address"):
        joined.open_data(f"{folders}/a,memory://b")
