"""TFLite, ONNX and pretrained exports, and the front end that needs no TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest

from cola_msa.audio import frontend, frontend_numpy
from cola_msa.config.schema import FrontendConfig
from cola_msa.hub import export as export_lib
from cola_msa.hub import loading
from cola_msa.hub.formats import checks, portable
from cola_msa.hub.opened import ExportError
from cola_msa.system.errors import FileError
from tests.helpers.commands import ROOT

RATE = 16000
FILES = {"tflite": portable.TFLITE_NAME, "onnx": portable.ONNX_NAME}


@pytest.fixture(scope="module")
def opened(finished_run):
    return loading.open_model(finished_run)


@pytest.fixture(scope="module", params=list(FILES))
def exported(request, finished_run, tmp_path_factory):
    if request.param == "onnx":
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    folder = tmp_path_factory.mktemp("formats") / request.param
    metadata = export_lib.export_encoder(
        finished_run, folder, file_format=request.param
    )
    return request.param, folder, metadata


def music(seconds=3.0, seed=0):
    """A chord over noise: no band is silent."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277, 330))
    return (0.1 * tones + 0.01 * random.standard_normal(len(time))).astype(np.float32)


def test_a_file_gives_the_encoders_embeddings(exported, opened):
    name, folder, metadata = exported
    tolerance = 1e-3 if name == "tflite" else 1e-4
    assert metadata["relative_difference"] < tolerance
    random = np.random.default_rng(3)
    batches = [
        random.normal(-3, 2, shape).astype(np.float32)
        for shape in ((1, 98, 64, 1), (7, 98, 64, 1), (2, 200, 64, 1))
    ]
    for windows, found in zip(
        batches, portable.run_file(folder / FILES[name], batches), strict=True
    ):
        expected = opened.embed(windows)
        difference = np.linalg.norm(found - expected)
        assert difference < tolerance * np.linalg.norm(expected)


def test_metadata_of_a_file(exported, opened):
    name, folder, metadata = exported
    stored = json.loads((folder / "metadata.json").read_text())
    assert stored == json.loads(json.dumps(metadata))
    assert (stored["format"], stored["file"]) == (name, FILES[name])
    assert stored["encoder_key"] == opened.key
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [FILES[name], "metadata.json"]
    )
    assert frontend_numpy.read_frontend(folder) == opened.frontend


def test_a_wrong_file_is_not_called_done(finished_run, tmp_path, monkeypatch):
    def other(path, windows):
        return [1.01 * found for found in run_file(path, windows)]

    run_file = portable.run_file
    monkeypatch.setattr(checks, "run_file", other)
    with pytest.raises(ExportError, match="differs from the encoder"):
        export_lib.export_encoder(
            finished_run, tmp_path / "model", file_format="tflite"
        )
    assert not (tmp_path / "model").exists()


def test_an_unknown_format(finished_run, tmp_path):
    with pytest.raises(ExportError, match="--format=pickle: must be one of"):
        export_lib.export_encoder(finished_run, tmp_path / "a", file_format="pickle")


def test_without_the_extra_one_line_names_the_command(
    finished_run, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ExportError, match=r"pip install '\.\[formats\]'"):
        export_lib.export_encoder(finished_run, tmp_path / "a", file_format="onnx")


def test_a_pretrained_export_has_a_card(finished_run, opened, tmp_path):
    content = export_lib.export_encoder(
        finished_run, tmp_path / "mine", file_format="pretrained", licence="CC0-1.0"
    )
    assert content["relative_difference"] < 1e-4
    card = (tmp_path / "mine" / "README.md").read_text()
    for text in ("# mine", "CC0-1.0", opened.key, "steps | 4", "None was measured"):
        assert text in card
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert names == {"config.json", "model.weights.h5", "statistics.h5", "README.md"}
    with pytest.raises(FileError, match="nothing there is replaced"):
        export_lib.export_encoder(
            finished_run, tmp_path / "mine", file_format="pretrained"
        )


# The front end in NumPy --------------------------------------------------------------


@pytest.mark.parametrize("level", ["rms", "l2"])
@pytest.mark.parametrize("seconds", [0.03, 1.0, 7.3])
def test_numpy_and_tensorflow_agree(level, seconds):
    waveform = music(seconds)
    normalized = frontend_numpy.normalize_level(waveform, level)
    expected = frontend.normalize_level(waveform, level).numpy()
    np.testing.assert_allclose(normalized, expected, rtol=1e-5)
    found = frontend_numpy.log_mel(normalized)
    np.testing.assert_allclose(found, frontend.log_mel(expected).numpy(), atol=1e-4)


def test_the_mel_matrix_is_tensorflows():
    found, expected = (
        frontend_numpy.mel_matrix(),
        frontend._mel_matrix(FrontendConfig()),
    )
    assert found.shape == (513, 64)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_reference_log_mels(shared_reference):
    with np.load(shared_reference / "logmel.npz") as reference:
        found = frontend_numpy.log_mel(reference["wave_clip29s"])
        expected = reference["logmel_clip29s"]
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert np.quantile(np.abs(found - expected), 0.999) < 1e-3


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.3, 0.99, 2.2])
def test_clips_of_any_length_give_the_exports_windows(seconds):
    from cola_msa.hub.formats.checks import reference_mel

    waveform = music(seconds)
    found = frontend_numpy.clip_windows(waveform)
    expected = reference_mel(waveform, FrontendConfig()) if len(waveform) else found
    assert found.shape == expected.shape == (max(1, int(seconds)), 98, 64, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.isfinite(found).all()


def test_silence_stays_silence():
    found = frontend_numpy.clip_windows(np.zeros(20000, np.float32))
    np.testing.assert_allclose(found, np.log(1e-5), rtol=1e-6)


_WITHOUT_TENSORFLOW = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "absl", "sklearn", "scipy"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import numpy as np
import onnxruntime
from cola_msa.audio.frontend_numpy import clip_windows, read_frontend
folder, path = sys.argv[1:]
session = onnxruntime.InferenceSession(folder + "/encoder.onnx")
windows = clip_windows(np.load(path), read_frontend(folder))
(found,) = session.run(["embedding"], {"log_mel": windows})
np.save(path, found)
"""


def test_a_user_without_tensorflow_gets_the_same_embeddings(exported, opened, tmp_path):
    from cola_msa.hub.formats.checks import reference_windows

    name, folder, _ = exported
    if name != "onnx":
        pytest.skip("ONNX alone runs without TensorFlow")
    waveform = music(4.2)
    np.save(tmp_path / "clip.npy", waveform)
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TENSORFLOW, folder, tmp_path / "clip.npy"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = np.load(tmp_path / "clip.npy")
    expected = reference_windows(waveform, opened)
    assert found.shape == expected.shape == (4, 64)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
