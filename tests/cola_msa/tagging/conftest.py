"""Small tables of embeddings with known content, and labels beside them."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from cola_msa.config.schema import FrontendConfig

METADATA = {
    "model_hash": "a" * 16,
    "frontend": dataclasses.asdict(FrontendConfig()),
    "model": "a test's",
    "kind": "run",
}


@pytest.fixture
def make_table(tmp_path):
    """(paths, embeddings [n, D]) -> a file of embeddings."""

    def make(paths, embeddings, *, contents=None, metadata=None, name="e.npz"):
        contents = contents or paths
        found = METADATA if metadata is None else metadata
        np.savez(
            tmp_path / name,
            path=np.array(paths),
            sha256=np.array([hashlib.sha256(c.encode()).hexdigest() for c in contents]),
            start=np.zeros(len(paths)),
            seconds=np.ones(len(paths)),
            embedding=np.asarray(embeddings, np.float32),
            metadata=np.array(json.dumps(found)),
        )
        return tmp_path / name

    return make


@pytest.fixture
def make_labels(tmp_path):
    """(header, rows) -> a CSV."""

    def make(header, rows, name="labels.csv"):
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return make
