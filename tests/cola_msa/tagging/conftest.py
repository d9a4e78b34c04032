"""Small tables of embeddings with known content, labels, and judged runs."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from cola_msa.config.schema import FrontendConfig
from cola_msa.training.trainer import Trainer
from tests.conftest import tiny_config
from tests.helpers.judged_runs import TASKS, judge

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


@pytest.fixture(scope="session")
def levels_run(prepared, tmp_path_factory):
    """A run of the tiny network with the embeddings of the default preset.

    They are standardised. Raw ones are large beside what tells windows apart: there one
    value that half precision rounds the other way moves a short clip's probability by
    more than 1e-5.
    """
    config = tiny_config()
    model = dataclasses.replace(
        config.model,
        embedding="levels",
        pooling="mean",
        input_normalization="bands",
        clip_embedding="moments",
    )
    run_dir = tmp_path_factory.mktemp("levels") / "run"
    trainer = Trainer(dataclasses.replace(config, model=model), prepared, run_dir)
    assert trainer.run() == "finished"
    return run_dir


@pytest.fixture(scope="session", params=TASKS)
def judged(request, levels_run, tmp_path_factory):
    """A run with kept heads for a task: (task, run, music, expected scores by path)."""
    root = tmp_path_factory.mktemp(f"judged-{request.param}")
    return judge(request.param, levels_run, root)
