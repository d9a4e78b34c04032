"""GTZAN, MTG-Jamendo and own labels: splits come from the files that a user has."""

import collections

import pytest

from data_prep.datasets import gtzan, jamendo, labelled_folder
from data_prep.datasets.base import DatasetError, IndexOptions
from tests.data_prep.datasets.test_datasets import execute
from tests.helpers import trees


def test_gtzan_follows_the_lists(tmp_path):
    found = gtzan.index(trees.write_gtzan(tmp_path), IndexOptions())
    assert found.class_names == ("jazz", "pop")
    splits = {c.clip_id: (c.split, c.labels) for c in found.clips}
    assert splits == {
        "jazz/jazz.00000": ("train", (0,)),
        "pop/pop.00000": ("train", (1,)),
        "jazz/jazz.00001": ("validation", (0,)),
        "pop/pop.00001": ("validation", (1,)),
        "jazz/jazz.00002": ("test", (0,)),
        "pop/pop.00002": ("test", (1,)),
    }  # jazz.00003 is in no list


def test_lists_may_lie_elsewhere(tmp_path):
    root = trees.write_gtzan(tmp_path / "raw")
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in root.glob("*.txt"):
        path.rename(lists / path.name)
    assert execute("gtzan", root, tmp_path / "none") == 1
    assert execute("gtzan", root, tmp_path / "out", f"--split_dir={lists}") == 0


def test_an_excerpt_without_a_file_is_a_failure(tmp_path):
    root = trees.write_gtzan(tmp_path)
    (root / "genres/jazz/jazz.00001.wav").unlink()
    (failure,) = gtzan.index(root, IndexOptions()).failures
    assert failure.path == "jazz/jazz.00001.wav"
    assert "valid_filtered.txt names it" in failure.reason


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("jazz.00000", "line 3: 'jazz.00000' is not like"),
        ("pop/pop.00002.wav", "twice"),
    ],
)
def test_other_lists_are_refused(tmp_path, line, message):
    root = trees.write_gtzan(tmp_path)
    with open(root / "train_filtered.txt", "a") as file:
        file.write(line)
    with pytest.raises(DatasetError, match=message):
        gtzan.index(root, IndexOptions())


def test_jamendo_reads_tags_artists_and_both_downloads(tmp_path):
    found = jamendo.index(trees.write_jamendo(tmp_path), IndexOptions())
    assert found.class_names == ("genre---rock", "mood/theme---happy")
    assert [(c.clip_id, c.path, c.split, c.group, c.labels) for c in found.clips][
        :3
    ] == [
        ("track_0000000", "00/0.mp3", "train", "artist_000000", (0,)),
        ("track_0000001", "01/1.low.mp3", "train", "artist_000000", (0, 1)),
        ("track_0000100", "00/100.mp3", "validation", "artist_000001", (0,)),
    ]


def test_jamendo_refuses_other_files(tmp_path):
    root = trees.write_jamendo(tmp_path)
    path = root / "autotagging_top50tags-test.tsv"
    text = path.read_text()
    train = root / "autotagging_top50tags-train.tsv"
    path.write_text(train.read_text())
    with pytest.raises(DatasetError, match="listed twice"):
        jamendo.index(root, IndexOptions())
    path.write_text(text.replace("TAGS", "LABELS"))
    with pytest.raises(DatasetError, match="its header must be"):
        jamendo.index(root, IndexOptions())


@pytest.mark.parametrize(
    ("name", "module", "change"),
    [("gtzan", gtzan, 6), ("jamendo", jamendo, 6)],
)
def test_real_lists_must_give_the_published_counts(
    tmp_path, monkeypatch, name, module, change
):
    monkeypatch.setattr(module, "_REAL_FROM", change)
    root = getattr(trees, f"write_{name}")(tmp_path)
    with pytest.raises(DatasetError, match="instead of"):
        module.index(root, IndexOptions())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_class_is_divided_by_whole_albums(tmp_path, seed):
    root = trees.write_labelled_folder(tmp_path)
    options = IndexOptions(validation_share=0.3, test_share=0.3, seed=seed)
    found = labelled_folder.index(root, options)
    assert found.class_names == ("calm", "loud")
    counts = collections.Counter((c.labels[0], c.split) for c in found.clips)
    assert counts == {
        (label, split): 2
        for label in (0, 1)
        for split in ("train", "validation", "test")
    }
    splits = collections.defaultdict(set)
    for clip in found.clips:
        splits[clip.group].add(clip.split)
    assert all(len(of_group) == 1 for of_group in splits.values())


def test_one_class_is_no_task(tmp_path):
    trees.write_wav(tmp_path / "calm" / "1.wav", trees.chirp(4))
    trees.write_wav(tmp_path / "beside.wav", trees.chirp(4))
    with pytest.raises(DatasetError, match="1 folder with audio"):
        labelled_folder.index(tmp_path, IndexOptions())
