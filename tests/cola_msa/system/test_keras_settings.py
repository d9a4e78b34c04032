"""Keras set to what the project cannot use: one line, before Keras fails on it."""

import json
import os
import subprocess
import sys

import keras
import pytest

from cola_msa.model.encoder import build_encoder
from cola_msa.system import keras_settings
from cola_msa.system.keras_settings import KerasSettingsError, find_problem

GOOD = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "backend": "tensorflow",
    "image_data_format": "channels_last",
}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes keras.json."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return lambda text: (tmp_path / "keras.json").write_text(text)


@pytest.mark.parametrize("text", [json.dumps(GOOD), "{}", "not JSON", ""])
def test_settings_that_do_no_harm(settings, text):
    assert find_problem() is None  # there is no file
    settings(text)
    assert find_problem() is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_data_format": "channels_first"}, "image_data_format"),
        ({"image_data_format": ["\n"] * 100}, "image_data_format"),
        ({"backend": "torch"}, 'sets "backend" to "torch"'),
        ({"floatx": "float16"}, 'needs "float32"'),
        ({"floatx": None}, "floatx"),
        ({"epsilon": "small"}, "holds no settings"),
    ],
)
def test_a_file_that_does_harm_is_named(settings, tmp_path, changed, message):
    settings(json.dumps(GOOD | changed))
    problem = find_problem()
    assert problem and message in problem and str(tmp_path / "keras.json") in problem
    assert "\n" not in problem


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000])
def test_a_file_of_another_shape_is_named(settings, text):
    settings(text)
    assert "holds no settings: delete it" in (find_problem() or "")


def test_the_environment_comes_first(settings, monkeypatch):
    settings(json.dumps(GOOD | {"backend": "jax"}))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert find_problem() is None
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert "unset it, or set KERAS_BACKEND=tensorflow" in (find_problem() or "")


def test_keras_that_was_set_otherwise_builds_no_encoder():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(KerasSettingsError, match="needs 'channels_last'"):
            build_encoder()
    finally:
        keras.config.set_image_data_format("channels_last")
    keras_settings.check_loaded()


def run(arguments, **changed):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **changed},
        capture_output=True,
        text=True,
    )


def test_a_command_says_it_in_one_line():
    found = run(["-m", "cola_msa.eval", "--task=mtat"], KERAS_BACKEND="torch")
    assert found.returncode == 1
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: KERAS_BACKEND='torch' is set")


def test_python_gets_an_error_where_keras_is_needed_alone(settings, tmp_path):
    settings(json.dumps(GOOD | {"image_data_format": "channels_first"}))
    code = (
        "import sys, cola_msa.config.schema, cola_msa.audio.frontend_numpy\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
        "try:\n"
        "    from cola_msa.model import losses\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    found = run(["-c", code], KERAS_HOME=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("KerasSettingsError")
    assert "channels_first" in found.stdout
