"""Labels from what `tag` writes in each of its forms, and from others' tables."""

import json
import types

import numpy as np
import pytest

from cola_msa.collection.label_tables import read_label_table
from cola_msa.collection.labels import match_rows, read_labels
from cola_msa.collection.map.layout import MapError
from cola_msa.collection.table.read import Embeddings
from cola_msa.tagging.files import Labelled, write_labels
from cola_msa.tagging.labels import read_clip_labels
from cola_msa.values.tables import TableError
from tests.helpers import embedding_tables

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PATHS = tuple(f"music/{n}/track {n}.ogg" for n in range(9))
LABELS = ("rock", "rock; loud", "tags", "no tag")
FORMS = ("tags.csv", "tags.json", "tags.parquet", "tags")


def labelled(rows: slice, per: str = "clip") -> Labelled:
    scores = np.random.default_rng(3).random((9, 4)).astype(np.float32)
    scores[:, 3] /= 4  # a label that no track has
    heads = types.SimpleNamespace(
        class_names=LABELS,
        thresholds=np.full(4, 0.5),
        task={"name": "mtat"},
        encoder_key="key",
        choose=lambda scores: scores > 0.5,
    )
    count = len(PATHS[rows])
    starts = np.arange(9.0)[rows]
    table = Embeddings(
        PATHS[rows], ("0",) * count, starts, np.ones(count), scores[rows], {"per": per}
    )
    return Labelled(table, heads, per)


def write_forms(root, per: str = "clip") -> None:
    for name in FORMS[:3]:
        write_labels(root / name, labelled(slice(0, 9), per))
    (root / "tags").mkdir()
    for number, rows in enumerate((slice(0, 4), slice(4, 4), slice(4, 9))):
        shard = root / "tags" / f"part-0000{number}-of-00003.parquet"
        write_labels(shard, labelled(rows, per))


@pytest.mark.parametrize("name", FORMS[1:])
def test_every_form_of_tags_is_read_alike(tmp_path, name):
    write_forms(tmp_path)
    tables = [read_label_table(tmp_path / form).table for form in ("tags.csv", name)]
    assert tables[0].columns == tables[1].columns
    assert [row.cells for row in tables[0].rows] == [r.cells for r in tables[1].rows]
    paths = (*PATHS[::-1], "music/other.ogg")
    expected = read_labels(tmp_path / "tags.csv", paths)
    found = read_labels(tmp_path / name, paths)
    assert found.schemes == expected.schemes
    names = [scheme.name for scheme in found.schemes]
    assert names == ["tags", "rock", "rock; loud", "tags (label)", "no tag"]
    assert found.schemes[0].groups[0] in LABELS


@pytest.mark.parametrize("name", FORMS)
def test_windows_are_refused_in_every_form(tmp_path, name):
    write_forms(tmp_path, "window")
    with pytest.raises(MapError, match="has a row a window"):
        read_labels(tmp_path / name, PATHS)


def test_values_of_other_tables_become_what_a_csv_holds(tmp_path):
    table = pyarrow.table(
        {
            " Path ": ["a.ogg", "b.ogg", "nowhere"],
            "genre": pyarrow.array(["rock", None, "jazz"]).dictionary_encode(),
            "live": [True, False, None],
            "year": [1969, None, 2001],
            "sure": pyarrow.array([0.25, 1.0, None], pyarrow.float32()),
            "moods": [["calm", "slow"], [], None],
            "day": pyarrow.array([0, 1, None], pyarrow.date32()),
        }
    )
    parquet.write_table(table, tmp_path / "l.parquet", row_group_size=2)
    found = match_rows(tmp_path / "l.parquet", ["a.ogg", "b.ogg"])
    assert [[*row.cells.values()] for row in found.rows] == [
        ["rock", "1", "1969", "0.25", "calm; slow", "1970-01-01"],
        ["", "0", "", "1", "", "1970-01-02"],
    ]
    assert found.columns == ("genre", "live", "year", "sure", "moods", "day")
    assert "rows for no track: 1 ('nowhere'; row 3)" in found.remarks


def test_a_head_is_fitted_to_labels_of_parquet(tmp_path):
    rows = {"path": ["a.ogg", "b.ogg", "c.ogg"], "calm": [1, 0, None]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_text("path,calm\na.ogg,1\nb.ogg,0\nc.ogg,\n")
    found, expected = (
        read_clip_labels([tmp_path / name], rows["path"], ["1", "2", "3"])
        for name in ("l.parquet", "l.csv")
    )
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.class_names == expected.class_names == ("calm",)


def damaged(root):
    write_labels(root / "t.parquet", labelled(slice(0, 9)))
    content = bytearray((root / "t.parquet").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) // 2)
    (root / "t.parquet").write_bytes(content)
    return root / "t.parquet"


def embeddings(root):
    columns = embedding_tables.sample_columns(4)
    return embedding_tables.write(root / "e.parquet", columns)


def unlike_shards(root):
    for number, name in enumerate(("rock", "jazz")):
        table = pyarrow.table({"path": ["a.ogg"], name: [1]})
        parquet.write_table(table, root / f"part-{number}-of-2.parquet")
    return root


def doubled(root):
    names = ["path", "rock", "rock "]
    table = pyarrow.table([["a.ogg"], [1], [1]], names)
    parquet.write_table(table, root / "t.parquet")
    return root / "t.parquet"


def json_of(content):
    def write(root):
        (root / "t.json").write_text(json.dumps(content))
        return root / "t.json"

    return write


ROW = {"path": "a.ogg", "tags": [], "scores": [0.5]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damaged, r"t\.parquet: not readable as Parquet"),
        (embeddings, "column embedding is .*; labels are columns of texts or numbers"),
        (unlike_shards, "part-1-of-2.parquet: its columns are others than those of"),
        (doubled, "two columns have one name"),
        (lambda root: root, "a folder without a .parquet file"),
        (lambda root: root / "none.parquet", "No such file"),
        (lambda root: root / "none.json", "cannot be read"),
        (json_of({"labels": []}), "class_names is missing.*tag --output=NAME.json"),
        (json_of([1]), "holds a JSON array"),
        (
            json_of({"class_names": ["a", "b"], "per": "clip", "rows": [ROW]}),
            "row 1 has 1 scores",
        ),
        (
            json_of({"class_names": ["a"], "per": "clip", "rows": [ROW | {"path": 3}]}),
            "3 is no text",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(TableError, match=message) as told:
        read_label_table(path)
    assert "\n" not in str(told.value)
    with pytest.raises(MapError, match="^--labels="):
        read_labels(path, PATHS)
