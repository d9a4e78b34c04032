"""Rows by path, place, content and composition, looked up on the disk."""

import numpy as np
import pytest

from cola_msa.collection.search.contract import SearchError
from cola_msa.collection.search.index import find_row
from cola_msa.collection.search.names import Names, write_names
from cola_msa.collection.table.read import Embeddings
from cola_msa.system.files import file_sha256
from cola_msa.values.names import escape

PATHS = (
    "music/a.ogg",
    "music/b.ogg",
    "m/cafe\u0301.ogg",
    "m/\u00e9\u0301.ogg",
    "m/e\u0301\u0301.ogg",
    escape("m/\udcff.ogg"),
    "m/\U0001f3b5.ogg",
    "",
    "m/nul\0.ogg",
)


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.ogg").write_bytes(b"first")
    hashes = [f"{n:064x}" for n in range(len(PATHS))]
    hashes[1] = file_sha256("music/a.ogg")  # b was like a once
    (tmp_path / "index").mkdir()
    write_names(tmp_path / "index", PATHS, hashes)
    return Names(tmp_path / "index", len(PATHS))


def test_texts_are_read_back(names):
    assert tuple(names.text("path", row) for row in range(len(PATHS))) == PATHS
    assert names.text("sha256", 3) == f"{3:064x}"
    assert names.content(PATHS[3]) == f"{3:064x}" and names.content("no") is None


def test_files_are_found_as_in_an_index_of_one_file(names, tmp_path):
    zeros = np.zeros(len(PATHS))
    hashes = [names.text("sha256", row) for row in range(len(PATHS))]
    table = Embeddings(PATHS, tuple(hashes), zeros, zeros, np.zeros((len(PATHS), 1)))
    copy = tmp_path / "copy.ogg"
    copy.write_bytes(b"first")
    (tmp_path / "link.ogg").symlink_to("music/a.ogg")
    asked = {
        "music/b.ogg": 1,
        "./music/../music/b.ogg": 1,
        str(tmp_path / "music" / "b.ogg"): 1,
        "link.ogg": 0,
        "copy.ogg": 1,
        "m/caf\u00e9.ogg": 2,
        "m/\u00e9\u0301.ogg": 3,
        "m/\udcff.ogg": 5,
        "m/\U0001f3b5.ogg": 6,
        "music/c.ogg": None,
    }
    assert {file: names.find(file) for file in asked} == asked
    assert {file: find_row(table, file) for file in asked} == asked


def test_a_composition_of_two_files_is_no_name_of_either(names, tmp_path):
    paths = ("e\u0301\u0323.ogg", "\u00e9\u0323.ogg")
    write_names(tmp_path / "index", paths, ("a", "b"))
    found = Names(tmp_path / "index", 2)
    assert [found.find(path) for path in paths] == [0, 1]
    assert found.find("e\u0323\u0301.ogg") is None


def test_a_path_is_found_without_a_look_at_the_disk(names):
    assert names.find_path("music/a.ogg") == 0
    assert names.find_path("m/caf\u00e9.ogg") == 2
    assert names.find_path("./music/a.ogg") is None


def test_rows_are_written_behind_those_of_another_index(names, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "other").mkdir()
    write_names(tmp_path / "more", ["music/c.ogg"], ["c"], names)
    more = Names(tmp_path / "more", len(PATHS) + 1)
    hashes = [names.text("sha256", row) for row in range(len(PATHS))]
    write_names(tmp_path / "other", [*PATHS, "music/c.ogg"], [*hashes, "c"])
    for file in (tmp_path / "other").iterdir():
        assert (tmp_path / "more" / file.name).read_bytes() == file.read_bytes()
    assert more.find("music/c.ogg") == len(PATHS) and more.find("music/b.ogg") == 1


@pytest.mark.parametrize("name", ["path.texts", "path.ends", "keys", "key_rows"])
def test_damage_is_an_answer_or_one_line(names, tmp_path, name):
    """Whatever a byte says: no other exception, no row that is not there."""
    path = tmp_path / "index" / name
    content = path.read_bytes()
    random = np.random.default_rng(0)
    num_told = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        found = Names(tmp_path / "index", len(PATHS))
        for file in PATHS[:7]:
            try:
                row = found.find_path(file)
                assert row is None or 0 <= row < len(PATHS)
                found.text("path", 3)
            except SearchError as error:
                num_told += 1
                assert "build the index again" in str(error)
    assert num_told or name == "keys"
    path.write_bytes(content[:-3])
    if name != "path.texts":
        with pytest.raises(SearchError, match="has .* bytes"):
            Names(tmp_path / "index", len(PATHS))
