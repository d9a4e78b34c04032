"""Folders of Parquet shards are read as one table, whoever wrote them."""

import os

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from cola_msa.collection.map.write import write_map
from cola_msa.collection.search.build import build
from cola_msa.collection.search.index import load_index
from cola_msa.collection.table import dataset
from cola_msa.collection.table.checks import EmbeddingFileError
from cola_msa.collection.table.parquet import ParquetReader
from cola_msa.collection.table.read import load_embeddings, open_reader
from tests.helpers import embedding_tables
from tests.helpers.map_pages import read_page

COLUMNS = embedding_tables.sample_columns(num_clips=30)
# Of three shards: the second is empty, the others have several row groups.
BOUNDS = (0, 14, 14, 30)


def part(first, stop):
    return {name: values[first:stop] for name, values in COLUMNS.items()}


def name_of(number, total=3):
    return f"part-{number:05d}-of-{total:05d}.parquet"


def write(folder, names=None, metadata=None):
    """Three shards of the sample's rows, called as given."""
    for number, name in enumerate(names or [name_of(k) for k in range(3)]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        embedding_tables.write(path, part(*BOUNDS[number : number + 2]), metadata)
    return folder


def assert_whole(folder):
    found = load_embeddings(folder)
    assert list(found.paths) == COLUMNS["path"]
    assert list(found.sha256) == COLUMNS["sha256"]
    np.testing.assert_array_equal(found.starts, COLUMNS["start"])
    np.testing.assert_array_equal(found.seconds, COLUMNS["seconds"])
    np.testing.assert_array_equal(found.embeddings, COLUMNS["embedding"])
    assert found.embeddings.dtype == np.float32
    assert found.model_hash == embedding_tables.MODEL_HASH


@pytest.mark.parametrize(
    "names",
    [
        None,
        ["a.parquet", "b.parquet", "c.PARQUET"],
        ["2019/x.parquet", "2020/x.parquet", "2020/y.parquet"],
        # By number, not as text; without the zeros that make both the same.
        ["x-0-of-3.parquet", "x-1-of-3.parquet", "x-2-of-3.parquet"],
        ["test-0-of-1.parquet", "train-0-of-2.parquet", "train-1-of-2.parquet"],
    ],
)
def test_a_folder_is_one_table_in_order(tmp_path, names):
    assert_whole(write(tmp_path / "songs", names))


def test_numbers_count_as_numbers(tmp_path):
    names = [f"p-{number}-of-11.parquet" for number in range(11)]
    for number, name in enumerate(names):
        embedding_tables.write(tmp_path / name, part(number, number + 1))
    assert [path.name for path in dataset.list_shards(tmp_path)] == names
    assert list(load_embeddings(tmp_path).paths) == COLUMNS["path"][:11]


def test_what_is_no_part_of_the_table_is_left_out(tmp_path):
    folder = write(tmp_path)
    for name in ("_SUCCESS", "_x/part.parquet", ".x/part.parquet", "_a.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no table")
    for name in ("README.md", ".hidden.parquet", f"{name_of(0)}.1234.tmp"):
        (folder / name).write_text("no table")
    assert_whole(folder)


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    write(tmp_path / "elsewhere", ["a.parquet", "b.parquet", "c.parquet"])
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(folder)
    assert_whole(folder)


@pytest.mark.parametrize("first", range(0, 30, 7))
@pytest.mark.parametrize("count", [0, 1, 5, 17])
def test_any_rows_are_read(tmp_path, first, count):
    reader = open_reader(write(tmp_path))
    count = min(count, 30 - first)
    assert (reader.num_rows, reader.dim) == (30, 16)
    found = reader.read(first, count)
    np.testing.assert_array_equal(found, COLUMNS["embedding"][first : first + count])
    assert found.dtype == np.float32 and found.shape == (count, 16)
    reader.close()


def test_only_the_shards_that_are_asked_for_are_read(tmp_path, monkeypatch):
    """And few are open at a time, however many there are."""
    for number in range(10):
        embedding_tables.write(tmp_path / f"{number}.parquet", part(number, number + 1))
    loaded, is_open = [], set()
    load, close, start = ParquetReader._load, ParquetReader.close, ParquetReader._open

    def note_load(self, *arguments):
        loaded.append(self._path.name)
        load(self, *arguments)

    def note_open(self, *arguments):
        is_open.add(self)
        start(self, *arguments)

    def note_close(self):
        is_open.discard(self)
        close(self)

    monkeypatch.setattr(ParquetReader, "_load", note_load)
    monkeypatch.setattr(ParquetReader, "_open", note_open)
    monkeypatch.setattr(ParquetReader, "close", note_close)
    reader = open_reader(tmp_path)
    assert not loaded and len(is_open) <= dataset._MAX_OPEN
    reader.read(3, 2)
    assert loaded == ["3.parquet", "4.parquet"]
    reader.read(0, 10)
    assert len(is_open) <= dataset._MAX_OPEN
    reader.close()
    assert not is_open


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ([1], rf"{name_of(1)} is missing; the embed command"),
        ([0, 2], rf"{name_of(0)}, {name_of(2)} are missing;"),
    ],
)
def test_a_missing_shard_is_refused_by_name(tmp_path, gone, message):
    write(tmp_path)
    for number in gone:
        (tmp_path / name_of(number)).unlink()
    with pytest.raises(EmbeddingFileError, match=message):
        open_reader(tmp_path)


def test_of_many_missing_shards_a_few_are_named(tmp_path):
    embedding_tables.write(tmp_path / name_of(7, 99999), part(0, 5))
    with pytest.raises(EmbeddingFileError, match=r"\(99,998 in all\)"):
        open_reader(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*map(name_of, range(3)), name_of(3)], f"{name_of(3)} is no shard of 3"),
        ([name_of(0), name_of(1), name_of(7)], f"{name_of(7)} is no shard of 3"),
        ([*map(name_of, range(3)), "part-1-of-00003.parquet"], "have the same number"),
        ([*map(name_of, range(3)), name_of(1).upper()], "have the same number|shards"),
        ([name_of(1).replace("parquet", "PARQUET")], "are missing"),
        ([name_of(1, 10**18)], r"\(999,999,999,999,999,999 in all\)"),
    ],
)
def test_shards_that_are_too_many_are_refused(tmp_path, names, message):
    for name in names:
        embedding_tables.write(tmp_path / name, part(0, 5))
    with pytest.raises(EmbeddingFileError, match=message):
        open_reader(tmp_path)


def test_shards_of_a_program_that_counts_from_one(tmp_path):
    assert_whole(write(tmp_path, [name_of(number) for number in (1, 2, 3)]))


def test_shards_of_two_numberings_are_refused(tmp_path):
    write(tmp_path)
    embedding_tables.write(tmp_path / name_of(0, 4), part(0, 5))
    with pytest.raises(EmbeddingFileError, match="shards of 00003 and 00004"):
        open_reader(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model_hash": "another"}, "another model_hash than .*part-00000-of-00003"),
        ({"model_hash": embedding_tables.MODEL_HASH, "per": "window"}, "another per"),
        ({"kind": "run"}, "another model_hash"),
        (["no object"], "another metadata, model_hash"),
    ],
)
def test_shards_of_another_encoder_are_refused_by_name(tmp_path, metadata, message):
    write(tmp_path)
    embedding_tables.write(tmp_path / name_of(2), part(14, 30), metadata)
    with pytest.raises(EmbeddingFileError, match=f"{name_of(2)}: .*{message}"):
        open_reader(tmp_path)


def test_what_does_not_decide_values_may_differ(tmp_path):
    write(tmp_path)
    more = {"model_hash": embedding_tables.MODEL_HASH, "model": "elsewhere", "x": 1}
    embedding_tables.write(tmp_path / name_of(2), part(14, 30), more)
    assert_whole(tmp_path)


def test_embeddings_of_another_length_are_refused_by_name(tmp_path):
    write(tmp_path)
    shorter = {**part(14, 30), "embedding": COLUMNS["embedding"][14:, :8]}
    embedding_tables.write(tmp_path / name_of(2), shorter)
    with pytest.raises(EmbeddingFileError, match=f"{name_of(2)}: .* 8 values.* 16"):
        open_reader(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    write(tmp_path)
    content = (tmp_path / name_of(2)).read_bytes()
    (tmp_path / name_of(2)).write_bytes(content[: len(content) // 2])
    with pytest.raises(EmbeddingFileError, match=f"{name_of(2)}: not readable"):
        open_reader(tmp_path)


def test_values_are_checked_by_shard(tmp_path):
    write(tmp_path)
    bad = part(14, 30)
    bad["embedding"] = bad["embedding"].copy()
    bad["embedding"][3, 4] = np.nan
    embedding_tables.write(tmp_path / name_of(2), bad)
    with pytest.raises(EmbeddingFileError, match="track 17.ogg is not finite"):
        load_embeddings(tmp_path)


def test_a_shard_that_is_replaced_meanwhile_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_MAX_OPEN", 1)
    reader = open_reader(write(tmp_path))
    embedding_tables.write(tmp_path / name_of(0), part(3, 9))
    with pytest.raises(EmbeddingFileError, match=f"{name_of(0)}: was replaced"):
        reader.read(0, 30)


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_shards_of_other_programs(tmp_path, kind):
    """Without metadata, with columns of their own, and lists of any length."""
    kinds = {
        "list": pyarrow.list_(pyarrow.float64()),
        "large_list": pyarrow.large_list(pyarrow.float32()),
        "fixed": pyarrow.list_(pyarrow.float32(), 16),
    }
    for number, name in enumerate("abc"):
        rows = part(*BOUNDS[number : number + 2])
        values = pyarrow.array(rows.pop("embedding").tolist(), kinds[kind])
        table = pyarrow.table({"note": rows["path"], **rows, "embedding": values})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    found = load_embeddings(tmp_path)
    np.testing.assert_array_equal(found.embeddings, COLUMNS["embedding"])
    assert found.model_hash is None


@pytest.mark.parametrize("names", [[], ["song.wav"], ["_x.parquet", "a/.b.parquet"]])
def test_a_folder_without_shards_says_what_would_be_one(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(EmbeddingFileError, match=r"without a \.parquet file"):
        open_reader(tmp_path)


@pytest.mark.timeout(30)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    folder = write(tmp_path / "songs")
    os.mkfifo(folder / "pipe.parquet")
    with pytest.raises(EmbeddingFileError, match=r"pipe\.parquet: is no file"):
        open_reader(folder)
    (folder / "pipe.parquet").unlink()
    (folder / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(EmbeddingFileError, match=r"gone\.parquet: is no file"):
        open_reader(folder)


def test_names_need_not_be_utf_8(tmp_path):
    folder = write(tmp_path / "songs", ["a.parquet", "b.parquet", "c.parquet"])
    (folder / "a.parquet").rename(folder / "a\udcff.parquet")
    assert_whole(folder.rename(tmp_path / "s\udcff"))


def test_a_setting_that_is_no_number_is_like_itself(tmp_path):
    metadata = {"model_hash": embedding_tables.MODEL_HASH, "hop_seconds": float("nan")}
    reader = open_reader(write(tmp_path / "songs", metadata=metadata))
    assert reader.num_rows == 30
    reader.close()


def test_an_address_says_what_to_do():
    with pytest.raises(EmbeddingFileError, match=r"\*\*\*@.* is an address.*copy"):
        open_reader("s3://user:secret@host/songs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "songs")
    (tmp_path / "songs").chmod(0)
    with pytest.raises(EmbeddingFileError, match="songs: cannot be read"):
        open_reader(tmp_path / "songs")


def test_index_and_map_of_a_folder_are_those_of_a_file(tmp_path):
    folder = write(tmp_path / "songs")
    whole = embedding_tables.write(tmp_path / "songs.parquet", COLUMNS)
    for name, source in (("folder", folder), ("file", whole)):
        build(str(source), str(tmp_path / f"{name}.npz"), "cosine")
        write_map(source, tmp_path / f"{name}.html")
    folders, files = (load_index(tmp_path / f"{n}.npz") for n in ("folder", "file"))
    assert folders.table.paths == files.table.paths
    np.testing.assert_array_equal(folders.table.embeddings, files.table.embeddings)
    pages = [tmp_path / f"{n}.html" for n in ("folder", "file")]
    assert read_page(pages[0])["paths"] == list(COLUMNS["path"])
    assert pages[0].read_bytes() == pages[1].read_bytes()
