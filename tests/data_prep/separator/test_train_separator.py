"""Training of a separator: what it learns, what it writes, and how it goes on."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags

from cola_msa.audio import decode
from cola_msa.config.schema import SOURCES, from_dict
from cola_msa.system.errors import UserError
from cola_msa.system.locks import Lock
from data_prep import train_separator
from data_prep.separator import report as report_lib
from data_prep.separator import tracks as tracks_lib
from data_prep.separator import training
from data_prep.separator.network import TrainingError
from data_prep.stems import separator as separator_lib
from data_prep.stems.weights import SeparatorError
from tests.data_prep.conftest import TINY_SEPARATOR, parse_tiny
from tests.helpers import trees
from tests.helpers.commands import ROOT, run_fresh, run_module

EPOCHS = 3


def train(dataset_dir, output_dir, *more: str) -> None:
    train_separator.main(parse_tiny(dataset_dir, output_dir, *more))


@pytest.fixture(scope="module")
def trained(openunmix, stems_dir, tmp_path_factory) -> pathlib.Path:
    output_dir = tmp_path_factory.mktemp("trained") / "weights"
    train(stems_dir, output_dir, f"--epochs={EPOCHS}", "--report_seconds=2")
    return output_dir


@pytest.fixture
def copy(trained, tmp_path) -> pathlib.Path:
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.fixture(scope="module")
def report(trained) -> dict:
    return json.loads((trained / "report.json").read_text())


def tensors(path: pathlib.Path) -> dict:
    import torch

    return torch.load(path, weights_only=True)


def assert_same_weights(first: pathlib.Path, second: pathlib.Path) -> None:
    expected, found = tensors(first), tensors(second)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.equal(found[name]), name


@pytest.mark.parametrize("target", SOURCES)
def test_the_loss_falls(report, target):
    losses = report["losses"][target]
    assert len(losses["training_loss"]) == len(losses["validation_loss"]) == EPOCHS
    assert losses["training_loss"][-1] < 0.7 * losses["training_loss"][0]
    best = losses["validation_loss"][losses["best_epoch"] - 1]
    assert best == min(losses["validation_loss"]) < losses["validation_loss"][0]


@pytest.mark.parametrize("target", SOURCES)
def test_held_out_stems_are_better_than_random_masks(report, target):
    held_out = report["held_out"]
    assert (held_out["split"], held_out["num_tracks"]) == ("test", 1)
    mean = held_out["mean"][target]
    assert mean["num_stems"] == mean["better_than_random"] == 1
    for name in ("random", "mixture"):
        assert mean["trained"]["correlation"] > mean[name]["correlation"] + 0.1
        assert mean["trained"]["si_sdr_db"] > mean[name]["si_sdr_db"] + 1


def test_the_report_as_text(trained, report):
    text = (trained / "report.txt").read_text()
    assert text.startswith("tracks: 6 train, 1 validation, 1 test\n")
    for target in SOURCES:
        first, second = (x for x in text.splitlines() if x.startswith(target))
        losses = report["losses"][target]
        assert f"{losses['training_loss'][0]:.4f}" in first
        correlation = report["held_out"]["mean"][target]["trained"]["correlation"]
        assert f"{correlation:.3f}" in second
    means = [mean["trained"] for mean in report["held_out"]["mean"].values()]
    overall = report["held_out"]["overall"]["trained"]
    for key in ("correlation", "si_sdr_db"):
        expected = np.mean([mean[key] for mean in means])
        assert overall[key] == pytest.approx(expected, abs=1e-3)


def test_the_report_compares_what_it_says(trained, stems_dir, report):
    """Each number anew, from the files."""
    [name] = report["held_out"]["by_track"]
    read = {
        role: decode.decode(stems_dir / name / f"{role}.wav").samples
        for role in ("mixture", *SOURCES)
    }
    decoded = decode.Audio(read["mixture"], 44100)
    for kind in ("trained", "random"):
        separator = separator_lib.Separator(kind, trained, 1, 0)
        assert separator.weights_sha256 == report["held_out"]["weights_sha256"][kind]
        estimates = separator.separate(decoded, 44100)
        for source, estimate in estimates.items():
            found = report["held_out"]["by_track"][name][source][kind]
            expected = np.corrcoef(estimate, read[source].mean(axis=0))[0, 1]
            assert found["correlation"] == pytest.approx(expected, abs=1e-3)


def test_the_folder_is_openunmixs(openunmix, trained, stems_dir):
    import torch

    theirs = openunmix.utils.load_separator(str(trained), list(SOURCES), niter=1)
    theirs.freeze()
    # Constant pans make covariances of rank 1, whose determinants cancel in float32.
    theirs.double()
    ours = separator_lib.Separator("weights", trained, niter=1, seed=0)
    assert ours.sources == SOURCES
    decoded = decode.decode(stems_dir / "song0" / "mixture.wav")
    with torch.inference_mode():
        samples = torch.from_numpy(decoded.samples).double()
        expected = theirs(samples[None])[0].mean(1).numpy()
    found = np.stack(list(ours.separate(decoded, 44100).values()))
    # Ours is in float32, whose rounding differs between processors.
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert np.abs(found).max() > 0.05


def test_the_description_has_openunmixs_names(trained):
    content = json.loads((trained / "drums.json").read_text())
    assert content["args"]["target"] == "drums"
    assert content["args"]["hidden_size"] == 16
    assert content["epochs_trained"] == EPOCHS
    assert content["best_loss"] == min(content["valid_loss_history"])


def test_the_defaults_are_openunmixs(openunmix, stems_dir, tmp_path):
    values = flags.FlagValues()
    train_separator.define_flags(values)
    values(["command", f"--dataset_dir={stems_dir}", f"--output_dir={tmp_path}"])
    config, targets = train_separator.parse_config(values)
    assert config == tracks_lib.SeparatorConfig()
    assert targets == SOURCES
    assert values.epochs == 1000


def test_the_same_command_again_changes_nothing(trained, stems_dir, monkeypatch):
    def forbid(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be trained or separated")

    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    monkeypatch.setattr(training.TargetTrainer, "_train_epoch", forbid)
    monkeypatch.setattr(report_lib, "evaluate", forbid)
    train(stems_dir, trained, f"--epochs={EPOCHS}", "--report_seconds=2")
    assert before == {path.name: path.read_bytes() for path in trained.iterdir()}


@pytest.mark.parametrize("target", ["vocals", "bass"])
def test_more_epochs_go_on_as_if_never_stopped(trained, stems_dir, tmp_path, target):
    flag = f"--targets={target}"
    train(stems_dir, tmp_path, "--epochs=1", flag, "--niter=0", "--report_seconds=1")
    train(stems_dir, tmp_path, f"--epochs={EPOCHS}", flag, "--report_seconds=1")
    assert_same_weights(trained / f"{target}.pth", tmp_path / f"{target}.pth")
    first, second = (
        json.loads((path / f"{target}.json").read_text())
        for path in (trained, tmp_path)
    )
    assert first["train_loss_history"] == second["train_loss_history"]
    assert first["valid_loss_history"] == second["valid_loss_history"]


def _start(arguments: tuple[str, ...], cwd: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep.train_separator", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A background shell job would hand down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on(trained, stems_dir, tmp_path, signal_number):
    arguments = (
        f"--dataset_dir={stems_dir}",
        "--output_dir=out",
        "--targets=drums",
        f"--epochs={EPOCHS}",
        "--report_seconds=1",
        *TINY_SEPARATOR,
    )
    process = _start(arguments, tmp_path)
    checkpoint = tmp_path / "out" / "drums.chkpnt"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if signal_number == signal.SIGINT else -9)
    assert "Traceback" not in errors
    epochs = json.loads((tmp_path / "out" / "drums.json").read_text())["epochs_trained"]
    assert 1 <= epochs < EPOCHS
    again = run_module("data_prep.train_separator", *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"drums epoch {EPOCHS}/{EPOCHS}: training loss" in again.stdout
    assert "drums epoch 1/" not in again.stdout
    assert_same_weights(trained / "drums.pth", tmp_path / "out" / "drums.pth")


def test_a_killed_saving_loses_one_epoch(copy, stems_dir, trained, monkeypatch):
    """Weights and description are written, the checkpoint is not."""
    import torch

    for path in copy.glob("*.chkpnt"):
        path.unlink()
    for target in SOURCES[1:]:
        (copy / f"{target}.pth").unlink()
    save = torch.save

    def save_weights_alone(content, path):
        if "optimizer" in content:
            raise KeyboardInterrupt
        save(content, path)

    with monkeypatch.context() as context:
        context.setattr(torch, "save", save_weights_alone)
        with pytest.raises(KeyboardInterrupt):
            train(stems_dir, copy, f"--epochs={EPOCHS}", "--targets=vocals")
    assert not (copy / "vocals.chkpnt").exists()
    assert len(tensors(copy / "vocals.pth")) > 0
    train(stems_dir, copy, f"--epochs={EPOCHS}", "--targets=vocals")
    assert_same_weights(trained / "vocals.pth", copy / "vocals.pth")


@pytest.mark.parametrize("damage", ["garbage", "pickle", "keys", "weights"])
def test_a_damaged_checkpoint_is_named(copy, stems_dir, damage):
    import torch

    path = copy / "bass.chkpnt"
    if damage == "garbage":
        path.write_bytes(b"garbage")
    elif damage == "pickle":
        torch.save({"state_dict": pathlib.Path("/")}, path)
    elif damage == "keys":
        torch.save({"state_dict": {}}, path)
    else:
        (copy / "bass.pth").unlink()
    named = "bass.pth" if damage == "weights" else "bass.chkpnt"
    with pytest.raises(TrainingError, match=f"{named}.*delete it to train bass"):
        train(stems_dir, copy, "--epochs=4", "--targets=bass")


def test_another_configuration_is_refused(copy, stems_dir):
    with pytest.raises(TrainingError, match="seq_seconds: 0.5 != 0.4") as error:
        train(stems_dir, copy, "--seq_seconds=0.4")
    assert "use another --output_dir" in str(error.value)


def test_other_tracks_are_refused(copy, tmp_path):
    root = trees.write_stems(tmp_path / "raw", ("song0", "song1", "song2"))
    with pytest.raises(TrainingError, match="trained on other tracks"):
        train(root, copy)


def test_weights_of_unknown_origin_are_kept(openunmix, stems_dir, tmp_path):
    (tmp_path / "vocals.pth").write_bytes(b"precious")
    with pytest.raises(TrainingError, match="weights of unknown origin"):
        train(stems_dir, tmp_path)
    assert (tmp_path / "vocals.pth").read_bytes() == b"precious"


def test_a_second_process_is_kept_off_a_target(copy, stems_dir):
    with (
        Lock(copy / ".bass.lock", ""),
        pytest.raises(TrainingError, match="another process trains bass"),
    ):
        train(stems_dir, copy, "--epochs=4", "--targets=bass")


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--targets=flute", 2, "--targets: flute is not one of --sources="),
        ("--hidden_size=7", 2, "--hidden_size=7 must be even"),
        ("--nhop=1024", 2, "--nhop must not be larger than --nfft"),
        ("--seq_seconds=0.01", 2, "shorter than one STFT window"),
        ("--source_augmentations=echo", 2, "only gain, channelswap are known"),
        ("--sources=a,b", 1, "no folder with a stem named a, b"),
        ("--dataset_dir=nowhere", 1, "--dataset_dir=nowhere is not a folder"),
    ],
)
def test_wrong_flags(stems_dir, tmp_path, flag, code, message):
    with pytest.raises(UserError, match=message) as error:
        train(stems_dir, tmp_path / "out", flag)
    assert error.value.exit_code == code
    assert not (tmp_path / "out").exists()


def test_no_such_device(openunmix, stems_dir, tmp_path):
    with pytest.raises(SeparatorError, match="--device=abacus cannot be used"):
        train(stems_dir, tmp_path / "out", "--device=abacus")


def test_a_wrong_command_is_one_line(tmp_path):
    found = run_fresh(
        "data_prep.train_separator",
        "--dataset_dir=nowhere",
        "--output_dir=out",
        cwd=tmp_path,
    )
    assert found.returncode == 1
    assert found.stderr == "error: --dataset_dir=nowhere is not a folder\n"


def test_a_missing_extra_names_the_command(stems_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SeparatorError, match="pip install 'cola_msa"):
        train(stems_dir, tmp_path / "out")


def test_one_target_needs_no_wiener_filter(copy, stems_dir, capsys):
    settings = json.loads((copy / "separator.json").read_text())
    settings["targets"] = ["bass"]
    (copy / "separator.json").write_text(json.dumps(settings))
    with pytest.raises(SeparatorError, match="give --niter=0"):
        separator_lib.Separator("weights", copy, niter=1, seed=0)
    separator = separator_lib.Separator("weights", copy, niter=0, seed=0)
    decoded = decode.decode(stems_dir / "song0" / "mixture.wav")
    bass = decode.decode(stems_dir / "song0" / "bass.wav").samples.mean(axis=0)
    found = separator.separate(decoded, 44100)
    assert list(found) == ["bass"]
    assert np.corrcoef(found["bass"], bass)[0, 1] > 0.8


def test_targets_one_by_one(openunmix, stems_dir, tmp_path, capsys):
    flags_ = ("--epochs=1", "--samples_per_track=1", "--report_seconds=1")
    train(stems_dir, tmp_path, *flags_, "--targets=drums,bass")
    held_out = json.loads((tmp_path / "report.json").read_text())["held_out"]
    assert list(held_out["mean"]) == ["drums", "bass"]
    (tmp_path / "drums.pth").rename(tmp_path / "elsewhere")
    (tmp_path / "drums.chkpnt").unlink()
    train(stems_dir, tmp_path, *flags_, "--targets=other")
    assert "before drums is trained" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["held_out"] is None
    assert list(report["losses"]) == ["bass", "other"]
    with pytest.raises(SeparatorError, match="drums.pth is missing"):
        separator_lib.separator_sources("weights", tmp_path)


def test_a_silent_stem_is_not_scored(trained, stems_dir, tmp_path):
    root = shutil.copytree(stems_dir, tmp_path / "raw")
    state = json.loads((trained / "training.json").read_text())
    config = from_dict(tracks_lib.SeparatorConfig, state["config"])
    [name] = state["tracks"]["test"]
    silence = np.zeros((88200, 2), np.float32)
    trees.write_wav(root / name / "vocals.wav", silence, 44100)
    tracks, _ = tracks_lib.list_tracks(root, config)
    held_out = report_lib.evaluate(
        trained,
        root,
        tracks,
        config,
        report_lib.EvaluationConfig(seconds=1.0),
        SOURCES,
        show_progress=False,
    )
    assert held_out["mean"]["vocals"] == {"num_stems": 0}
    assert held_out["by_track"][name]["vocals"] is None
    assert held_out["mean"]["drums"]["num_stems"] == 1
    assert held_out["overall"]["num_stems"] == 3
