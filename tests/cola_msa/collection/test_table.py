"""Files of embeddings: every format gives one table, and bad ones are refused."""

import numpy as np
import pytest

from cola_msa.collection.table.checks import EmbeddingFileError
from cola_msa.collection.table.read import load_embeddings
from tests.helpers import embedding_tables

SUFFIXES = (".parquet", ".npz", ".h5")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    columns = embedding_tables.sample_columns()
    path = embedding_tables.write(tmp_path / f"e{suffix}", columns)
    found = load_embeddings(path)
    assert list(found.paths) == columns["path"]
    assert list(found.sha256) == columns["sha256"]
    np.testing.assert_array_equal(found.embeddings, columns["embedding"])
    np.testing.assert_array_equal(found.seconds, columns["seconds"])
    assert found.embeddings.dtype == np.float32
    assert found.model_hash == embedding_tables.MODEL_HASH


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_windows_are_averaged_to_clips(tmp_path, suffix):
    columns = {
        "path": ["b.wav", "b.wav", "a.wav"],
        "sha256": ["2" * 64, "2" * 64, "1" * 64],
        "start": np.array([0.0, 0.98, 0.0]),
        "seconds": np.array([0.98, 0.98, 0.98]),
        "embedding": np.array([[1, 2], [3, 6], [5, 5]], np.float32),
    }
    path = embedding_tables.write(tmp_path / f"e{suffix}", columns)
    found = load_embeddings(path)
    assert found.paths == ("b.wav", "a.wav")
    assert found.sha256 == ("2" * 64, "1" * 64)
    np.testing.assert_allclose(found.embeddings, [[2, 4], [5, 5]])
    np.testing.assert_allclose(found.seconds, [1.96, 0.98])
    assert len(load_embeddings(path, per_clip=False).paths) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_named(tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    path.write_bytes(b"PK\x03\x04 not this" * 20)
    with pytest.raises(EmbeddingFileError, match=f"e{suffix}: not readable as"):
        load_embeddings(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_column_is_named(tmp_path, suffix):
    columns = embedding_tables.sample_columns()
    del columns["sha256"]
    path = embedding_tables.write(tmp_path / f"e{suffix}", columns)
    with pytest.raises(EmbeddingFileError, match="no column sha256"):
        load_embeddings(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.npz", "there is no such file"), ("e.csv", "read from .parquet, .npz, .h5")],
)
def test_other_files_are_refused(tmp_path, name, message):
    (tmp_path / "e.csv").write_text("path\n")
    with pytest.raises(EmbeddingFileError, match=message):
        load_embeddings(tmp_path / name)


def test_values_that_are_not_finite_are_refused_by_path(tmp_path):
    columns = embedding_tables.sample_columns()
    columns["embedding"][3, 2] = np.nan
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with pytest.raises(EmbeddingFileError, match="track 3.ogg is not finite"):
        load_embeddings(path)


def test_no_row_is_refused(tmp_path):
    columns = embedding_tables.sample_columns(0)
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with pytest.raises(EmbeddingFileError, match="holds no embedding"):
        load_embeddings(path)


def test_pickles_are_never_opened(tmp_path):
    columns = embedding_tables.sample_columns()
    columns["path"] = np.array(columns["path"], object)
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with pytest.raises(EmbeddingFileError, match="not readable as .npz"):
        load_embeddings(path)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
def test_two_contents_under_one_path_are_no_clip(tmp_path, suffix):
    path = tmp_path / f"songs{suffix}"
    columns = embedding_tables.sample_columns(num_clips=6)
    columns["path"] = ["a.wav", "b.wav", "a.wav", "c.wav", "d.wav", "e.wav"]
    embedding_tables.write(path, columns)
    with pytest.raises(EmbeddingFileError, match=r"rows of a\.wav have different"):
        load_embeddings(path)
    assert len(load_embeddings(path, per_clip=False).paths) == 6
    columns["sha256"][2] = columns["sha256"][0]
    embedding_tables.write(path, columns)
    assert len(load_embeddings(path).paths) == 5
