"""Indices that one process opens or adds to as another puts one in their place."""

import itertools

import numpy as np
import pytest

from cola_msa.collection.search import folder
from cola_msa.collection.search import index as index_lib
from cola_msa.collection.search.build import add, build
from cola_msa.collection.search.contract import SearchError
from cola_msa.collection.search.index import open_index
from cola_msa.collection.table.read import load_embeddings
from cola_msa.system.locks import Lock, LockedError
from tests.cola_msa.collection.search.test_kinds import DIM, columns_of
from tests.helpers import embedding_tables


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "e.npz"
    values = np.random.default_rng(0).normal(size=(20, DIM))
    return embedding_tables.write(path, columns_of(values))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_index_that_is_replaced_as_it_is_opened_is_of_one_piece(
    tmp_path, monkeypatch, moment
):
    random = np.random.default_rng(0)
    old, new = (
        embedding_tables.write(
            tmp_path / f"{first}.npz", columns_of(random.normal(size=(5, DIM)), first)
        )
        for first in (0, 100)
    )
    build(str(old), str(tmp_path / "i"), "cosine", "flat")
    read = folder.names.Names
    tries = []

    def read_late(*arguments):
        tries.append(arguments)
        found = read(*arguments) if moment == "after" else None
        if len(tries) == 1:
            build(str(new), str(tmp_path / "i"), "cosine", "flat")
        return found or read(*arguments)

    monkeypatch.setattr(folder.names, "Names", read_late)
    opened = open_index(tmp_path / "i")
    monkeypatch.undo()
    assert len(tries) > 1
    table = load_embeddings(new)
    for row, path in enumerate(table.paths):
        assert opened.path(row) == path
        np.testing.assert_allclose(opened.vector(row), table.embeddings[row])


def test_an_index_without_end_to_its_replacing_is_told(tmp_path, monkeypatch, table):
    build(str(table), str(tmp_path / "i"), "cosine", "flat")
    numbers = itertools.count()
    monkeypatch.setattr(index_lib, "_place", lambda path: next(numbers))
    with pytest.raises(SearchError, match="replaced again and again"):
        open_index(tmp_path / "i")


def test_one_process_writes_at_a_time(table, tmp_path):
    build(str(table), str(tmp_path / "i"), "cosine", "flat")
    with Lock(tmp_path / "i" / folder.STATE, "test"):
        with pytest.raises(LockedError, match="another process writes"):
            add(str(tmp_path / "i"), str(table))
        # Else it would end without what was added meanwhile.
        with pytest.raises(LockedError, match="another process writes"):
            build(str(table), str(tmp_path / "i"), "cosine", "flat")
    with pytest.raises(SearchError, match="there is no such index"):
        add(str(tmp_path / "none"), str(table))
    assert not (tmp_path / "none").exists()
