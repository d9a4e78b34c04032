"""The guide's vector store: the very code of docs/collection.md, run."""

import pathlib
import re

import pytest

from cola_msa.collection.search.build import build
from cola_msa.collection.search.index import open_index
from cola_msa.collection.search.query import query
from tests.helpers import embedding_tables

pytest.importorskip("lancedb")
GUIDE = pathlib.Path(__file__).parents[4] / "docs" / "collection.md"


def test_the_store_finds_what_search_finds(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    columns = embedding_tables.sample_columns(40)
    columns["path"][5] = "music/song.mp3"
    embedding_tables.write(tmp_path / "embeddings.parquet", columns)
    exec(compile(code, str(GUIDE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    build("embeddings.parquet", "index", "cosine")
    (expected,) = query(open_index("index"), ["music/song.mp3"], 10)
    found = [f"{each['score']:.4f} {each['path']}" for each in expected["results"]]
    assert lines == ["1.0000 music/song.mp3", *found]
