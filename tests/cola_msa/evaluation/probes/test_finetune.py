"""Encoder and head trained together: what is learned, statistics, saved weights."""

import dataclasses
import pathlib
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

from cola_msa.config.schema import MULTICLASS, MULTILABEL, FrontendConfig, ModelConfig
from cola_msa.evaluation.probes import finetune, heads
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.records import windows
from cola_msa.system.errors import RunError
from tests.cola_msa.evaluation.probes.test_features import write_data
from tests.cola_msa.evaluation.probes.test_linear import (
    numpy_accuracy,
    numpy_loss,
    numpy_probabilities,
)
from tests.cola_msa.records.test_windows import read

ROOT = pathlib.Path(__file__).parents[4]
NUM_CLASSES = 3


def make_clips(prefix, count):
    rng = np.random.default_rng(count)
    return [
        (f"{prefix}{n}", (n % NUM_CLASSES,), int(rng.integers(98, 900)))
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    clips = {"train": make_clips("train", 24), "validation": make_clips("valid", 9)}
    return write_data(tmp_path_factory.mktemp("data"), clips)


def make_model(seed=0):
    return ContrastiveModel(
        ModelConfig(backbone="tiny", drop_connect_rate=0.2),
        FrontendConfig(),
        log_mel_mean=-3.0,
        log_mel_std=1.0,
        seed=seed,
    )


def make_config(task_type=MULTICLASS, **fields):
    options = {
        "learning_rate": 2e-3,
        "batch_size": 16,
        "max_epochs": 3,
        "patience_epochs": 3,
        **fields,
    }
    head = heads.ProbeConfig(task_type, (), **options)
    return finetune.TuneConfig("supervised", head, encoder_rate=2e-3, min_updates=1)


def labels_of(data, split):
    return data.index(split).label_matrix(NUM_CLASSES)


def held_out(data):
    plan = windows.plan_windows(data, ["validation"])
    return finetune.LabelledWindows(plan, labels_of(data, "validation"))


def tune(data, config=None, seed=0, start=None):
    return finetune.tune(
        start or make_model(),
        windows.find_segments(data, ["train"]),
        labels_of(data, "train"),
        held_out(data),
        config or make_config(),
        seed,
        show_progress=False,
    )


@pytest.fixture(scope="module")
def tuned(data):
    """The tiny network, trained for 30 epochs, and the weights it started from."""
    start = make_model()
    before = [w.copy() for w in start.encoder.get_weights()]
    model = tune(data, make_config(max_epochs=30, patience_epochs=30), start=start)
    return model, before


def test_the_network_learns(tuned):
    model, before = tuned
    after = model.model.layers[1].get_weights()
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(before, after, strict=True)
        if a.ndim == 4  # every convolution
    )
    assert model.row["train_loss"] < 0.5 < np.log(3)
    assert model.row["validation_accuracy"] > 0.8


def test_clip_scores_are_mean_probabilities(data, tuned):
    model, clips = tuned[0], held_out(data)
    found = model.score_clips(clips, data.frontend)
    log_mel = read(clips.plan).astype(np.float32)[..., np.newaxis]
    logits = model.model.predict(log_mel, verbose=0)
    values = numpy_probabilities(logits, MULTICLASS)
    splits = clips.plan.clip_splits
    for clip, (a, b) in enumerate(zip(splits[:-1], splits[1:], strict=True)):
        np.testing.assert_allclose(found[clip], values[a:b].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("task_type", [MULTILABEL, MULTICLASS])
@pytest.mark.parametrize("monitor", [heads.LOSS, heads.ACCURACY])
def test_the_best_epoch_is_restored(data, task_type, monitor):
    config = make_config(task_type, monitor=monitor, max_epochs=4)
    model = tune(data, config)
    clips = held_out(data)
    log_mel = read(clips.plan).astype(np.float32)[..., np.newaxis]
    logits = model.model.predict(log_mel, verbose=0).astype(np.float64)
    labels = clips.labels[clips.window_clips()]
    row = model.row
    loss = numpy_loss(logits, labels, task_type)
    assert row["validation_loss"] == pytest.approx(loss, rel=1e-4)
    accuracy = numpy_accuracy(logits, labels, task_type)
    assert row["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_statistics_are_exact_averages_of_the_mini_batches(data):
    # A rate of 0 leaves the weights alone, so that NumPy can follow the statistics.
    config = make_config(max_epochs=1)
    config = dataclasses.replace(config, encoder_rate=0.0, statistics_batches=2)
    start = make_model()
    model = tune(data, config, start=start)
    encoder = model.model.layers[1]
    first = encoder.get_layer("bn0")
    below = keras.Model(encoder.inputs, first.input)
    drawn = windows.find_segments(data, ["train"]).draw(0, 0)
    count = -(-drawn.num_windows // 16)
    bounds = [n * drawn.num_windows // count for n in range(3)]  # two mini-batches
    means, variances = [], []
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        log_mel = read(drawn.part(a, b)).astype(np.float32)[..., np.newaxis]
        values = below.predict(log_mel, verbose=0).astype(np.float64)
        means.append(values.mean(axis=(0, 1, 2)))
        variances.append(values.var(axis=(0, 1, 2)))
    np.testing.assert_allclose(first.moving_mean, np.mean(means, axis=0), rtol=1e-4)
    expected = np.mean(variances, axis=0) + np.var(means, axis=0)
    np.testing.assert_allclose(first.moving_variance, expected, rtol=1e-3)


@pytest.mark.parametrize(("min_updates", "draws"), [(1, 1), (4, 2), (7, 4)])
def test_short_epochs_are_filled_up(data, min_updates, draws):
    config = dataclasses.replace(make_config(max_epochs=1), min_updates=min_updates)
    num_segments = windows.find_segments(data, ["train"]).num_segments
    assert 16 < num_segments <= 32  # two mini-batches of at most 16
    assert tune(data, config).row["draws_per_epoch"] == draws


def test_same_seed_same_numbers(data):
    first, second, other = (tune(data, seed=seed) for seed in (0, 0, 1))
    for row in (first.row, second.row):
        row.pop("seconds")
    assert first.row == second.row
    for a, b in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.row["validation_loss"] != other.row["validation_loss"]


def test_a_diverging_loss_is_refused(data):
    config = dataclasses.replace(make_config(), encoder_rate=1e30)
    with pytest.raises(heads.ProbeError, match="validation loss is"):
        tune(data, config)


_RELOAD_SCRIPT = """
import sys
import numpy as np
from cola_msa.evaluation.probes.finetune import load_tuned
encoder, head = load_tuned(sys.argv[1])
with np.load(sys.argv[2]) as arrays:
    embeddings = encoder(arrays["log_mel"], training=False)
    logits = head(embeddings, training=False)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)
print(embeddings.shape[1], encoder.count_params())
"""


def test_saved_weights_are_read_in_a_fresh_process(tuned, data, tmp_path):
    model = tuned[0]
    path = tmp_path / "tuned-seed-0.keras"
    finetune.save_tuned(model, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    log_mel = read(held_out(data).plan)[:5].astype(np.float32)[..., np.newaxis]
    logits = model.model.predict(log_mel, verbose=0)
    np.savez(tmp_path / "expected.npz", log_mel=log_mel, logits=logits)
    result = subprocess.run(
        [sys.executable, "-c", _RELOAD_SCRIPT, path, tmp_path / "expected.npz"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    count = model.model.layers[1].count_params()
    assert result.stdout.split() == ["64", str(count)]


def rewritten(source: pathlib.Path, target: pathlib.Path, members: dict) -> None:
    """A copy of a zip with some members replaced or added; None leaves one out."""
    with zipfile.ZipFile(source) as old:
        content = {name: old.read(name) for name in old.namelist()} | members
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in content.items():
            if data is not None:
                new.writestr(name, data)


def h5_bytes(path: pathlib.Path, make) -> bytes:
    with h5py.File(path, "w") as file:
        make(file)
    return path.read_bytes()


def huge(file):  # a few kB
    file.create_dataset("a/vars/0", (1 << 15, 1 << 15), "f4", compression=9)


def linked(file):
    file["a"] = h5py.ExternalLink("other.h5", "/a")


def elsewhere(file):
    where = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("a/vars/0", (100,), "u1", external=where)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model.weights.h5": b"no HDF5"}, "damaged"),
        ({"model.weights.h5": None}, "holds not just"),
        ({"model.weights.h5": bytes((256 << 20) + 1)}, "has 268,435,457 bytes, too"),
        ({"config.json": b" " * ((4 << 20) + 1)}, "has 4,194,305 bytes, too much"),
        ({"config.json": b"{}"}, "damaged"),
        ({"assets/other": bytes((64 << 20) + 1)}, "holds more than 67,108,864 bytes"),
        ({f"assets/{n}": b"" for n in range(1001)}, "members"),
        ({"../model.weights.h5": b""}, "a path that leads elsewhere"),
        (huge, "do not lie in the file as they are"),
        (linked, "is a link"),
        (elsewhere, "do not lie in the file as they are"),
    ],
)
def test_tuned_files_are_opened_within_bounds(
    tuned, tmp_path, monkeypatch, members, message
):
    good, bad = tmp_path / "good.keras", tmp_path / "bad.keras"
    finetune.save_tuned(tuned[0], good)
    if callable(members):
        members = {"model.weights.h5": h5_bytes(tmp_path / "w.h5", members)}
    rewritten(good, bad, members)
    assert bad.stat().st_size < 1 << 20
    if members != {"config.json": b"{}"}:
        monkeypatch.setattr(keras.saving, "load_model", None)  # is not asked
    with pytest.raises(RunError, match=message) as caught:
        finetune.load_tuned(bad)
    assert str(caught.value).startswith(str(bad)) and "\n" not in str(caught.value)


def test_a_tuned_file_that_is_cut_or_missing_is_named(tuned, tmp_path):
    path = tmp_path / "a.keras"
    finetune.save_tuned(tuned[0], path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(RunError, match="a.keras: "):
        finetune.load_tuned(path)
    path.unlink()
    with pytest.raises(RunError, match="there is no such file"):
        finetune.load_tuned(path)
