"""Clips in blocks: to the bit what the whole table in memory gives."""

import json
import os

import numpy as np
import pytest

from cola_msa.collection.table import clips as clips_lib
from cola_msa.collection.table.checks import EmbeddingFileError
from cola_msa.collection.table.clips import Clips
from cola_msa.collection.table.read import load_embeddings
from tests.helpers import embedding_tables


def windows(order: str, num_clips: int = 7, dim: int = 5) -> dict:
    """Rows of clips of one to seven windows; side by side, or in turns."""
    clip = np.repeat(np.arange(num_clips), np.arange(num_clips) + 1)
    number = np.concatenate([np.arange(n + 1) for n in range(num_clips)])
    if order == "in turns":
        turns = np.lexsort((clip, number))
        clip, number = clip[turns], number[turns]
    random = np.random.default_rng(0)
    return {
        "path": [f"m/{n}.ogg" for n in clip],
        "sha256": [f"{n:064x}" for n in clip],
        "start": number * 1.5,
        "seconds": np.full(len(clip), 1.5),
        "embedding": random.normal(size=(len(clip), dim)).astype(np.float32),
    }


TABLES = {
    "clips": (embedding_tables.sample_columns(), {}),
    "side by side": (windows("side by side"), {}),
    "in turns": (windows("in turns"), {}),
    "moments": (windows("in turns"), {"per": "window", "clip_embedding": "moments"}),
}


@pytest.mark.parametrize("suffix", ["npz", "h5", "parquet"])
@pytest.mark.parametrize("sums", ["memory", "file"])
@pytest.mark.parametrize("name", TABLES)
def test_clips_are_those_of_the_whole_table(tmp_path, monkeypatch, name, sums, suffix):
    columns, metadata = TABLES[name]
    path = tmp_path / f"e.{suffix}"
    embedding_tables.write(path, columns, {"model_hash": "a", **metadata})
    monkeypatch.setattr(clips_lib, "_BLOCK_BYTES", 3 * 8 * 5)
    if sums == "file":
        monkeypatch.setattr(clips_lib, "_HELD_BYTES", 0)
    expected = load_embeddings(path)
    with Clips(path, tmp_path) as clips:
        found, again = clips.load(), clips.load()
    for table in (found, again):
        assert table.paths == expected.paths and table.sha256 == expected.sha256
        assert table.metadata == expected.metadata
        np.testing.assert_array_equal(table.embeddings, expected.embeddings)
        np.testing.assert_array_equal(table.starts, expected.starts)
        np.testing.assert_array_equal(table.seconds, expected.seconds)
    assert clips.num_rows == len(expected.paths)
    assert clips.dim == expected.embeddings.shape[1]


def test_what_is_large_takes_its_space_on_the_disk_at_once(tmp_path, monkeypatch):
    """A write to a mapped page that a full disk has no room for ends the process."""
    path = embedding_tables.write(tmp_path / "e.npz", windows("in turns"))
    monkeypatch.setattr(clips_lib, "_HELD_BYTES", 0)
    held = []
    make = clips_lib.new_mapped
    monkeypatch.setattr(
        clips_lib, "new_mapped", lambda *given: held.append(make(*given)) or held[-1]
    )
    with Clips(path, tmp_path) as clips:
        clips.load()
        assert {file.name for file in tmp_path.iterdir()} >= {"values"}
        for array in held:
            status = os.stat(array.filename)
            assert 512 * status.st_blocks >= status.st_size == array.nbytes


def damaged(column: str, value: float) -> dict:
    columns = windows("in turns")
    columns[column] = columns[column].copy()
    columns[column][3] = value
    columns[column][9] = value
    return columns


@pytest.mark.parametrize(
    "columns",
    [
        damaged("embedding", np.nan),
        damaged("embedding", np.inf),
        damaged("start", np.nan),
        {**windows("in turns"), "sha256": [f"{n}" for n in range(28)]},
        {name: value[:0] for name, value in windows("in turns").items()},
    ],
    ids=["nan", "infinite", "start", "two contents", "empty"],
)
def test_what_the_table_refuses_is_refused_in_the_same_words(tmp_path, columns):
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with pytest.raises(EmbeddingFileError) as expected:
        load_embeddings(path)
    with pytest.raises(EmbeddingFileError) as found, Clips(path, tmp_path) as clips:
        clips.load()
    assert str(found.value) == str(expected.value)


def test_metadata_that_are_none_are_refused(tmp_path):
    columns = embedding_tables.sample_columns()
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "metadata": np.array(json.dumps([1]))})
    with pytest.raises(EmbeddingFileError, match="no JSON object"):
        Clips(path, tmp_path)
