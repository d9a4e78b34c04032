"""The public API: lazy, whole, typed and documented."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import cola_msa

FILE = pathlib.Path(cola_msa.__file__)
NAMES = [name for name in cola_msa.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_documented(name):
    value = getattr(cola_msa, name)
    assert name in dir(cola_msa)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)
        assert value.__name__ == name


def test_checkers_see_what_is_imported_lazily():
    tree = ast.parse(FILE.read_text())
    typed = {
        f"{node.module}.{alias.name}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {f"{home}.{name}" for name, home in cola_msa._HOMES.items()}
    assert set(NAMES) == set(cola_msa._HOMES)


def test_nothing_is_imported_before_it_is_used():
    script = (
        "import sys, cola_msa, cola_msa.config.presets\n"
        "cola_msa.PRESETS, cola_msa.TrainConfig, cola_msa.UserError\n"
        "print([m for m in ('tensorflow', 'numpy', 'keras') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Encoder'"):
        cola_msa.Encoder  # noqa: B018
