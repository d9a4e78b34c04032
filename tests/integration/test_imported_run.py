"""What users do with imported weights: every command that reads a run.

Such a run has no data of its own and no untrained network. The small network's tests
take a finished run for one that was imported; the slow ones import EfficientNetB0.
"""

import json
import shutil

import numpy as np
import pytest
import soundfile

import cola_msa
from cola_msa.config.schema import FrontendConfig
from cola_msa.evaluation import baseline, results
from cola_msa.runs import info as info_lib
from cola_msa.runs import kept
from tests.conftest import write_prepared
from tests.helpers.commands import run_module
from tests.helpers.released_layout import (
    make_tensors,
    make_variables,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def imported(finished_run, tmp_path_factory):
    """A finished run as an import would have left it."""
    run_dir = tmp_path_factory.mktemp("imported") / "run"
    shutil.copytree(finished_run, run_dir)
    (run_dir / "kept" / "step-00000000.npz").unlink()
    run = json.loads((run_dir / "config.json").read_text())
    run["data"] |= {"data_dir": "", "manifest_hash": None}
    (run_dir / "config.json").write_text(json.dumps(run))
    return run_dir


def test_the_untrained_network_is_the_one_of_its_seed(imported, finished_run, prepared):
    """On the run's own data it is, bit for bit, what the run had kept as step 0."""
    found = baseline.untrained_model(imported, prepared, "pairs")
    expected = kept.load_model(finished_run, 0, "pairs")
    for a, b in zip(found.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    last = kept.load_model(finished_run, None, "pairs")
    assert any(
        (np.array(a) != np.array(b)).any()
        for a, b in zip(found.variables, last.variables, strict=True)
    )


def test_few_active_segments_make_small_batches(imported, tmp_path):
    from cola_msa.records.prepared import PreparedData

    data = PreparedData(write_prepared(tmp_path / "data", {"train": 2}, 1))
    index = data.index("train")
    assert (index.is_active & ~index.is_tail[:, None]).sum(axis=0).min() in (1, 2)
    model = baseline.untrained_model(imported, data, "pairs")
    assert all(
        np.isfinite(layer.moving_mean).all() for layer in model.batch_norm_layers()
    )


def test_its_statistics_for_probes_need_no_stems(imported, tmp_path):
    from cola_msa.records.prepared import PreparedData

    folder = write_prepared(tmp_path / "data", {"train": 3})
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        assert content["sources"]
    data = PreparedData(folder)
    model = baseline.untrained_model(imported, data, "anchors")
    for layer in model.batch_norm_layers():
        assert np.isfinite(layer.moving_mean).all()
        assert (np.array(layer.moving_variance) >= 0).all()
    other = baseline.untrained_key(imported, data, "anchors")
    assert len(other) == 16
    assert other != baseline.untrained_key(imported, data, "pairs")


@pytest.mark.parametrize("encoder", ["untrained", "supervised"])
def test_info_of_a_network_that_was_not_kept(imported, encoder):
    info = info_lib.encoder_info(imported, 0, encoder)
    assert (info.encoder, info.step, info.pairs) == (encoder, 0, 0)


def test_eval_judges_the_untrained_network(imported, prepared_dir, tmp_path):
    arguments = [f"--run_dir={imported}", f"--data_dir={prepared_dir}", "--task=mtat"]
    ran = run_module("cola_msa.eval", *arguments, "--encoder=untrained", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "kept no untrained network: one with fresh weights" in ran.stderr
    found = results.read_results(imported / "eval" / "mtat-untrained")
    assert (found["encoder"]["encoder"], found["encoder"]["step"]) == ("untrained", 0)


# EfficientNetB0 -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a user has it: a checkpoint, data, songs; and the imported run."""
    folder = tmp_path_factory.mktemp("user")
    prefix = write_checkpoint(folder, make_tensors(make_variables()))
    ran = run_module(
        "cola_msa.import_weights",
        f"--checkpoint={prefix}",
        "--output_dir=runs/r",
        cwd=folder,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "assigned 317 of 317 tensors" in ran.stdout
    counts = {"train": 6, "validation": 4, "test": 4}
    write_prepared(folder / "data", counts, 2, FrontendConfig(level="l2"))
    random = np.random.default_rng(0)
    (folder / "song").mkdir()
    for name in ("mixture", "vocals", "drums"):
        sound = 0.1 * random.standard_normal(16000 * 3)
        soundfile.write(folder / "song" / f"{name}.wav", sound, 16000)
    return folder


RUN, DATA = "--run_dir=runs/r", "--data_dir=data"
COMMANDS = {
    "eval": ["eval", RUN, DATA, "--task=mtat"],
    "eval untrained": ["eval", RUN, DATA, "--task=mtat", "--encoder=untrained"],
    "eval finetune": ["eval", RUN, DATA, "--task=mtat", "--finetune"],
    "embed": ["embed", "--model=runs/r", "--input=song", "--output=rows.npz"],
    "export": ["export", RUN, "--output_dir=saved_model"],
    "tflite": ["export", RUN, "--output_dir=tflite", "--format=tflite"],
    "onnx": ["export", RUN, "--output_dir=onnx", "--format=onnx"],
    "pretrained": ["export", RUN, "--output_dir=mine", "--format=pretrained"],
    "retrieve": ["retrieve", RUN, DATA],
    "match": [
        "match",
        "--model=runs/r",
        "--mixture=song/mixture.wav",
        "--stems=song",
        "--output_dir=match",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_command_on_imported_weights(name, place):
    if name == "onnx":
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    module, *arguments = COMMANDS[name]
    ran = run_module(f"cola_msa.{module}", *arguments, cwd=place)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.slow
def test_a_pretrained_folder_of_imported_weights_opens(place):
    from cola_msa.hub import pretrained

    pretrained.save_pretrained(place / "runs" / "r", place / "handed-on")
    mel = np.random.default_rng(0).normal(-3, 2, (2, 98, 64, 1)).astype(np.float32)
    found = cola_msa.from_pretrained(place / "handed-on")
    expected = cola_msa.open_model(place / "runs" / "r")
    np.testing.assert_allclose(found.embed(mel), expected.embed(mel), rtol=1e-4)
    assert found.frontend.level == "l2"
