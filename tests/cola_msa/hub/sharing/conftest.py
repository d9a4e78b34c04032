"""A pretrained folder, which is fetched in several ways."""

import pytest

from cola_msa.hub import pretrained


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "tiny"
    pretrained.save_pretrained(finished_run, path)
    return path
