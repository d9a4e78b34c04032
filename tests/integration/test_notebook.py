"""The notebook runs from a user's folder, and names no machine."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.commands import ROOT

PATH = ROOT / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(PATH, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    printed = [
        "".join(o.get("text", "") for o in cell.get("outputs", []))
        for cell in notebook.cells
    ]
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1
    assert "is like" in "".join(printed)
    assert "accuracy on" in "".join(printed)
    assert "10 labelled clips" in "".join(printed)
    right, rest = re.search(r"right: (\d+) of (\d+) tracks", printed[-1]).groups()
    assert int(rest) == 22
    assert int(right) >= 5  # of eight genres
    assert any("pretrained starter" in text for text in printed)
    assert not (tmp_path / "runs").exists()  # it needs no training


def test_the_notebook_names_no_machine():
    text = PATH.read_text()
    folders = ("work", "tmp", "home", "root", "opt")
    assert [name for name in folders if f"/{name}/" in text] == []
