"""Addresses of Hugging Face without its library, whether it is installed or not."""

import sys

import pytest

from cola_msa.hub import loading, pretrained
from cola_msa.hub.sharing import hugging_face
from cola_msa.system import folders
from cola_msa.system.errors import RunError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(folders.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "hf"


def refused(address, message):
    """What opening says, in one line."""
    with pytest.raises(RunError, match=message) as caught:
        loading.resolve(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_extra_is_one_line(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf://user/name", r"need huggingface_hub .*pip install 'cola_msa\[hub\]'")


def test_nothing_else_asks_for_the_library(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert loading.open_model("starter").kind == "pretrained"


def test_a_commit_that_was_fetched_needs_no_library(finished_run, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = cache / "user" / "name" / ("0" * 40)
    folder.parent.mkdir(parents=True)
    pretrained.save_pretrained(finished_run, folder)
    address = f"hf://user/name@{'0' * 40}"
    model = loading.open_model(address)
    assert model.path == folder and model.description.endswith(f", {address}")
    assert hugging_face.describe(folder) == address
    assert hugging_face.describe(folder.parent) is None
    (folder / pretrained.WEIGHTS_NAME).write_bytes(b"x")
    refused(address, f"remove the folder {folder}, and the same command")


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://gpt2",
        "hf://datasets/user/name",
        "hf://user/name/model.weights.h5",
        "hf://user/name@",
        "hf://user/name@../../x",
        "hf://user/name@a//b",
        "hf://user/name@-x",
        "hf://user/name@a b",
        "hf://user/name#sha256=x",
        "hf://user/name#main",
        "hf://../name",
        "hf://user/..",
        "hf://user/name.git",
        "hf://us--er/name",
        "hf://user/name\n",
        "hf://user/name?token=x",
    ],
)
def test_addresses_that_are_none(cache, address):
    refused(address, "is no address of a model on Hugging Face: hf://user/name")


def test_a_login_in_an_address_is_not_shown(cache, capsys):
    for address in ("hf://me:hf_s3cret@user/name", "hf://hf_s3cret@user/name"):
        told = refused(address, "is no address .*HF_TOKEN")
        assert "s3cret" not in told + "".join(capsys.readouterr())
