"""Finished files survive a stop at any byte; outputs hold what was given."""

import json

import numpy as np
import pytest

from cola_msa.collection.table import store as store_lib
from cola_msa.collection.table.checks import EmbeddingFileError
from cola_msa.collection.table.earlier import Earlier
from cola_msa.collection.table.read import load_embeddings
from cola_msa.collection.table.store import Store, StoreError
from cola_msa.collection.table.write import (
    Clip,
    OutputError,
    Table,
    check_output,
    write_table,
)
from cola_msa.system.errors import UsageError
from cola_msa.system.locks import Lock

SETTINGS = {"model_hash": "a", "per": "window"}
DIM = 3


def rows_of(number: int) -> np.ndarray:
    return np.arange(number * DIM, dtype=np.float32).reshape(number, DIM) + number


def fill(folder) -> None:
    with Store(folder, DIM, SETTINGS) as store:
        for number in (2, 1, 4):
            store.append(rows_of(number)[:1])
            store.append(rows_of(number)[1:])
            store.finish(f"hash{number}", 10.0 * number)


def check(store, numbers) -> None:
    assert list(store.finished) == [f"hash{number}" for number in numbers]
    for number in numbers:
        found = store.finished[f"hash{number}"]
        assert (found.num_rows, found.seconds) == (number, 10.0 * number)
        rows = store.read(found.first_row, found.num_rows)
        np.testing.assert_array_equal(rows, rows_of(number))


def test_finished_files_are_there_again(tmp_path):
    fill(tmp_path)
    with Store(tmp_path, DIM, SETTINGS) as store:
        check(store, (2, 1, 4))


@pytest.mark.parametrize("name", ["files.jsonl", "rows.f32"])
def test_a_stop_at_any_byte_costs_no_finished_file(tmp_path, name):
    fill(tmp_path / "whole")
    size = (tmp_path / "whole" / name).stat().st_size
    counts = set()
    for cut in (*range(0, size, 5), size):
        folder = tmp_path / str(cut)
        fill(folder)
        with open(folder / name, "r+b") as file:
            file.truncate(cut)
        with Store(folder, DIM, SETTINGS) as store:
            check(store, (2, 1, 4)[: len(store.finished)])
            counts.add(len(store.finished))
            store.append(rows_of(5))
            store.finish("hash5", 50.0)
        with Store(folder, DIM, SETTINGS) as store:
            check(store, [*(2, 1, 4)[: len(store.finished) - 1], 5])
    assert counts == {0, 1, 2, 3}


def test_rows_of_an_unfinished_or_abandoned_file_are_left_out(tmp_path):
    with Store(tmp_path, DIM, SETTINGS) as store:
        store.append(rows_of(7))
        store.abandon()
        store.append(rows_of(2))
        store.finish("hash2", 20.0)
        store.append(rows_of(9))
    with Store(tmp_path, DIM, SETTINGS) as store:
        check(store, [2])


def test_damaged_rows_are_made_again(tmp_path):
    fill(tmp_path)
    with open(tmp_path / "rows.f32", "r+b") as file:
        file.seek(2 * DIM * 4)
        file.write(b"\1\2\3")
    with Store(tmp_path, DIM, SETTINGS) as store:
        check(store, [2])


def test_another_process_and_other_settings_are_refused(tmp_path):
    with Store(tmp_path, DIM, SETTINGS):
        with pytest.raises(StoreError, match="another process"):
            Store(tmp_path, DIM, SETTINGS)
    with pytest.raises(StoreError, match="another model_hash"):
        Store(tmp_path, DIM, {**SETTINGS, "model_hash": "b"})


def test_a_folder_that_goes_as_it_is_locked_is_made_again(tmp_path, monkeypatch):
    tries = []

    def lock(*arguments, **options):
        tries.append(arguments)
        if len(tries) == 1:
            raise FileExistsError  # `mkdir`, where another process removed it just now
        return Lock(*arguments, **options)

    monkeypatch.setattr(store_lib, "Lock", lock)
    with Store(tmp_path / "work", DIM, SETTINGS) as store:
        assert not store.finished and len(tries) == 2


def make_table(counts, metadata=SETTINGS) -> Table:
    clips = []
    for number, count in enumerate(counts):
        rows = np.random.default_rng(number).random((count, DIM)).astype(np.float32)
        clips.append(
            Clip(
                f"müsic/{number}.wav",
                f"{number:064x}",
                0.5 * np.arange(count),
                np.full(count, 0.995),
                lambda first, size, rows=rows: rows[first : first + size],
            )
        )
    return Table(clips, DIM, metadata)


COUNTS = (1, 3000, 2, 2047, 1, 5000)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
def test_tables_are_written_in_chunks_and_read_in_parts(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"rows{suffix}"
    table = make_table(COUNTS)
    write_table(path, table)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    earlier = Earlier(path, SETTINGS)
    assert earlier.paths == {clip.path: clip.sha256 for clip in table.clips}
    for clip, count in zip(table.clips, COUNTS, strict=True):
        found = earlier.finished[clip.sha256]
        assert found.num_rows == count
        assert found.seconds == pytest.approx(0.5 * (count - 1) + 0.995)
        middle = count // 2
        rows = earlier.read(found.first_row + middle, count - middle)
        np.testing.assert_array_equal(rows, clip.read(middle, count - middle))
    earlier.close()
    with pytest.raises(OutputError, match="another per"):
        Earlier(path, {**SETTINGS, "per": "clip"})


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
def test_a_bit_that_flips_among_the_values_is_noticed(tmp_path, suffix):
    """Embeddings that are wrong in silence give wrong neighbours in silence."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"rows{suffix}"
    table = make_table((40, 7, 400))
    write_table(path, table)
    whole = path.read_bytes()
    values = load_embeddings(path, per_clip=False).embeddings
    begin = whole.index(values[3:5].tobytes())  # they lie in the file as they are
    random = np.random.default_rng(0)
    for _ in range(20):
        place = begin + int(random.integers(2 * 4 * DIM))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(EmbeddingFileError, match=f"rows{suffix}: not readable"):
            load_embeddings(path, per_clip=False)
    path.write_bytes(whole)
    assert np.array_equal(load_embeddings(path, per_clip=False).embeddings, values)


def test_parquet_has_the_documented_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "rows.parquet", make_table((2, 1)))
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert [f"{field.name}: {field.type}" for field in table.schema] == [
        "path: string",
        "sha256: string",
        "start: double",
        "seconds: double",
        f"embedding: fixed_size_list<element: float>[{DIM}]",
    ]
    assert json.loads(table.schema.metadata[b"metadata"]) == SETTINGS
    assert table["path"].to_pylist() == ["müsic/0.wav"] * 2 + ["müsic/1.wav"]


def test_npz_is_read_by_numpy_alone(tmp_path):
    table = make_table((2, 3))
    write_table(tmp_path / "rows.npz", table)
    with np.load(tmp_path / "rows.npz") as arrays:
        assert json.loads(str(arrays["metadata"])) == SETTINGS
        assert arrays["path"].tolist() == ["müsic/0.wav"] * 2 + ["müsic/1.wav"] * 3
        assert arrays["start"].tolist() == [0, 0.5, 0, 0.5, 1]
        assert arrays["embedding"].dtype == np.float32
        expected = np.concatenate([c.read(0, 9) for c in table.clips])
        np.testing.assert_array_equal(arrays["embedding"], expected)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
def test_a_damaged_output_is_refused_by_name(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"rows{suffix}"
    for content in (b"", b"nonsense" * 50):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=f"rows{suffix} is there"):
            Earlier(path, SETTINGS)


def test_outputs_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="must end in"):
        check_output(tmp_path / "rows.csv")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"pip install 'cola_msa\[embed\]'"):
        check_output(tmp_path / "rows.parquet")


def test_a_users_folder_of_that_name_is_refused(tmp_path):
    """A work folder is known by its settings; rows.f32 alone may be anybody's."""
    (tmp_path / "rows.f32").write_bytes(b"mine")
    with pytest.raises(StoreError, match="'rows.f32' and is no work folder"):
        Store(tmp_path, DIM, SETTINGS)
    assert (tmp_path / "rows.f32").read_bytes() == b"mine"


def test_what_a_user_put_into_a_work_folder_stays(tmp_path):
    folder = tmp_path / "songs.npz.work"
    fill(folder)
    with Store(folder, DIM, SETTINGS) as store:
        (folder / "notes.txt").write_text("mine")
        store.remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    fill(folder)
    with Store(folder, DIM, SETTINGS) as store:
        store.remove()
    assert not folder.exists()
