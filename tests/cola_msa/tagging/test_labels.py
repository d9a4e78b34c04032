"""Labels that users hand in: a class a file or tags, in one file or several."""

import numpy as np
import pytest

from cola_msa.tagging.labels import (
    LabelError,
    content_numbers,
    labels_of_folders,
    read_clip_labels,
)

PATHS = [f"m/a{k // 2}/{k}.wav" for k in range(6)]
HASHES = [f"{k:064x}" for k in range(6)]


def read(*files, column=None, hashes=HASHES):
    return read_clip_labels(files, PATHS, hashes, column)


def test_one_column_of_text_is_a_class_each(make_labels):
    found = read(make_labels("path,Genre", [(PATHS[0], "rock"), ("3.wav", " folk ")]))
    assert found.class_names == ("folk", "rock") and not found.is_tags
    assert found.values.tolist() == [1, -1, -1, 0, -1, -1]
    assert found.is_known.tolist() == [1, 0, 0, 1, 0, 0]
    assert any("rows that found a track: 2 of 2" in line for line in found.remarks)


def test_the_column_label_goes_before_others(make_labels):
    table = make_labels("path,mood,Label,year", [(PATHS[0], "sad", "rock", 1990)])
    found = read(table)
    assert found.class_names == ("rock",)
    assert any("columns left out: 'mood', 'year'" in line for line in found.remarks)
    assert read(table, column="year").class_names == ("1990",)
    with pytest.raises(LabelError, match="no column 'yaer', but mood, Label, year"):
        read(table, column="yaer")


def test_columns_of_0_and_1_are_tags(make_labels):
    rows = [(PATHS[0], 1, "0.0"), (PATHS[2], "", "TRUE"), (PATHS[3], "", "")]
    found = read(make_labels("path,drums,bass", rows))
    assert found.class_names == ("drums", "bass") and found.is_tags
    np.testing.assert_array_equal(found.values[[0, 2]], [[1, 0], [np.nan, 1]])
    assert found.is_known.tolist() == [1, 0, 1, 0, 0, 0]
    named = make_labels("path,name,drums", [(PATHS[0], "One", 1)], "n.csv")
    assert read(named).class_names == ("drums",)
    digits = make_labels("path,label", [(PATHS[0], 1), (PATHS[1], 0)], "d.csv")
    assert not read(digits).is_tags


def test_a_tag_that_is_no_0_or_1_is_named(make_labels):
    table = make_labels("path,drums,bass", [(PATHS[0], 1, 0), (PATHS[1], "yes", 0)])
    with pytest.raises(LabelError, match=r"line 3: column 'drums' has 'yes'"):
        read(table)


def test_files_are_read_together_and_the_later_counts(make_labels):
    first = make_labels("path,genre", [(PATHS[0], "rock"), (PATHS[1], "folk")])
    later = make_labels(
        "path,label", [(PATHS[1], "jazz"), (PATHS[2], "rock"), (PATHS[0], "")], "2.csv"
    )
    empty = make_labels("path,label", [(PATHS[3], "")], "3.csv")
    found = read(first, later, empty)
    assert found.class_names == ("jazz", "rock")
    assert found.values.tolist() == [1, 0, 1, -1, -1, -1]
    assert any("3.csv: no label is filled in" in line for line in found.remarks)
    (line,) = [line for line in found.remarks if "contradicting" in line]
    assert f"{PATHS[1]} 'folk' ({first}, line 3)" in line
    assert f"{PATHS[1]} 'jazz' ({later}, line 2)" in line
    with pytest.raises(LabelError, match="no label is filled in"):
        read(empty)


def test_tags_of_several_files_are_joined(make_labels):
    first = make_labels("path,drums", [(PATHS[0], 1), (PATHS[1], 0)])
    later = make_labels(
        "path,drums,bass", [(PATHS[1], 1, ""), (PATHS[2], "", 1)], "2.csv"
    )
    found = read(first, later)
    assert found.class_names == ("drums", "bass")
    np.testing.assert_array_equal(
        found.values[:3], [[1, np.nan], [1, np.nan], [np.nan, 1]]
    )
    classes = make_labels("path,genre", [(PATHS[0], "rock")], "c.csv")
    with pytest.raises(LabelError, match="files of one kind"):
        read(first, classes)


def test_a_content_has_one_label_wherever_it_lies(make_labels):
    hashes = [HASHES[0], *HASHES[:5]]
    table = make_labels("path,label", [(PATHS[1], "rock"), (PATHS[0], "folk")])
    found = read(table, hashes=hashes)
    assert found.values.tolist() == [0, 0, -1, -1, -1, -1]  # the later row: folk
    assert any("contradicting labels" in line for line in found.remarks)
    # Where no hash is known paths are contents.
    assert content_numbers(["a", "b", "a"], ["", "", ""]).tolist() == [0, 1, 0]


def test_too_many_and_alike_classes_are_told(make_labels):
    found = read(make_labels("path,label", [(PATHS[0], "Rock"), (PATHS[1], "rock")]))
    assert any("'Rock and rock'" in line for line in found.remarks)
    paths = [f"{k}.wav" for k in range(1001)]
    table = make_labels("path,title", [(p, f"t {p}") for p in paths], "t.csv")
    with pytest.raises(LabelError, match="1,001 different labels"):
        read_clip_labels([table], paths, [""] * 1001)
    long = make_labels("path,title", [(PATHS[0], "x" * 1001)], "l.csv")
    with pytest.raises(LabelError, match="1,001 characters"):
        read(long)


def test_folders_name_classes():
    found = labels_of_folders([*PATHS[:3], "b.wav"], HASHES[:4])
    assert found.class_names == ("a0", "a1")
    assert found.values.tolist() == [0, 0, 1, -1]
    assert any("files without a folder: 1 ('b.wav')" in line for line in found.remarks)
    with pytest.raises(LabelError, match="no file lies in a folder"):
        labels_of_folders(["a.wav"], HASHES[:1])
