"""Runs whose embeddings are of maps within the encoder, of one length."""

import dataclasses
import math

import h5py
import keras
import numpy as np
import pytest

from cola_msa.evaluation import validation
from cola_msa.hub import export as export_lib
from cola_msa.hub import loading, pretrained
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.pairs.sampler import PairSampler
from cola_msa.runs import kept
from cola_msa.system.errors import RunError, UserError
from cola_msa.training.trainer import Trainer
from tests.conftest import tiny_config


@pytest.fixture(scope="module", params=[("mean", "length"), ("levels", "rms")])
def config(request):
    plain = tiny_config()
    pooling, scale = request.param
    model = dataclasses.replace(
        plain.model,
        embedding="levels",
        embedding_scale=scale,
        pooling=pooling,
        input_normalization="bands",
    )
    train = dataclasses.replace(plain.train, statistics_inputs="pairs")
    return dataclasses.replace(plain, model=model, train=train)


@pytest.fixture(scope="module")
def run(config, prepared, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("levels") / "run"
    assert Trainer(config, prepared, run_dir).run() == "finished"
    return run_dir


@pytest.fixture(scope="module")
def windows(prepared, config):
    batch = PairSampler(prepared, config.train).batch(5)
    return np.concatenate([batch["anchor"], batch["positive"]])


def described(model, windows):
    """Means and deviations over time of the map, by loops in double precision."""
    network = keras.Model(model.encoder.inputs, model.encoder.get_layer("add").output)
    found = []
    for values in np.array(network(windows, training=False)).astype(np.float64):
        row = []
        for part in (np.mean, np.std):
            for place in range(values.shape[1]):
                for channel in range(values.shape[2]):
                    row.append(part(values[:, place, channel]))
        found.append(row)
    return np.array(found)


def length_of(config, dim):
    return dim**0.5 if config.embedding_scale == "rms" else 1.0


def expected_embeddings(model, windows):
    """The same by loops over windows and values, in double precision."""
    level = model.level_embedding
    mean, deviation = np.array(level.mean), np.array(level.deviation)
    found = described(model, windows)
    for row, window in enumerate(windows):
        for column, value in enumerate(found[row]):
            standard = (value - mean[column]) / deviation[column]
            found[row, column] = math.tanh(standard / 2)
        found[row] /= np.sqrt(sum(value**2 for value in found[row]))
        found[row] *= length_of(model.config, len(found[row]))
        magnitude = np.mean(np.exp(window.astype(np.float64)))
        decibels = 20 * np.log10(magnitude / float(level.magnitude))
        found[row] *= min(max((decibels + 60) / 40, 0.1), 1.0)
    return found


def test_embeddings_equal_a_loop(run, windows):
    model = kept.load_model(run)
    soft = windows.copy()
    soft[1] -= 5.0  # 43 decibels
    soft[2] -= 90.0
    found = np.array(model.embedder()(soft, training=False))
    length = length_of(model.config, found.shape[1])
    expected = expected_embeddings(model, soft)
    np.testing.assert_allclose(found, expected, atol=1e-5 * length)
    norms = np.linalg.norm(found, axis=1) / length
    assert norms.max() < 1.00001 and norms.min() > 0.0999
    assert norms[2] < 0.11


def test_moments_are_those_of_the_training_windows(run, prepared, config):
    model = kept.load_model(run)
    sampler = PairSampler(prepared, config.train)
    rows, magnitudes = [], []
    for number in range(config.train.statistics_batches):
        batch = sampler.batch(validation._STATISTICS_UPDATE + number)
        windows = np.concatenate([batch["anchor"], batch["positive"]])
        rows.append(described(model, windows))
        magnitudes.append(np.exp(windows.astype(np.float64)).mean())
    rows = np.concatenate(rows)
    level = model.level_embedding
    np.testing.assert_allclose(level.mean, rows.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(level.deviation, rows.std(0), rtol=1e-3, atol=1e-4)
    assert float(level.magnitude) == pytest.approx(np.mean(magnitudes), rel=1e-4)


def test_digital_silence_has_a_small_finite_embedding(run, config):
    embedder = kept.load_model(run).embedder()
    silence = np.full((1, 98, 64, 1), np.log(1e-5), np.float32)
    found = np.array(embedder(silence, training=False))
    norm = float(np.linalg.norm(found)) / length_of(config.model, found.shape[1])
    assert norm == pytest.approx(0.1, abs=1e-4)


def test_training_and_matching_see_the_raw_output(run, config, prepared, tmp_path):
    raw = dataclasses.replace(
        config, model=dataclasses.replace(config.model, embedding="raw")
    )
    run_dir = tmp_path / "raw"
    assert Trainer(raw, prepared, run_dir).run() == "finished"
    for found, expected in zip(
        kept.load_model(run_dir).encoder.get_weights(),
        kept.load_model(run).encoder.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    one, other = loading.open_model(run), loading.open_model(run_dir)
    windows = PairSampler(prepared, config.train).batch(3)["anchor"]
    np.testing.assert_array_equal(
        one.matcher.project(windows), other.matcher.project(windows)
    )
    assert one.key != other.key
    assert loading.load_encoder(run).output_shape[-1] == one.dim == 512
    assert other.dim == (512 if config.model.pooling == "levels" else 64)


def test_the_head_sees_standardized_statistics(run, config, windows):
    """Where they are pooled so; by the loops of above."""
    if config.model.pooling != "levels":
        pytest.skip("the head sees the last map's mean")
    model = kept.load_model(run)
    norm = model.encoder.get_layer("level_bn")
    mean, variance = np.array(norm.moving_mean), np.array(norm.moving_variance)
    expected = (described(model, windows) - mean) / np.sqrt(variance + norm.epsilon)
    expected = expected * np.array(norm.gamma) + np.array(norm.beta)
    assert (np.abs(expected) > 5).any()  # so that bounding is seen
    found = model.encoder(windows, training=False)
    np.testing.assert_allclose(found, np.clip(expected, -5, 5), atol=1e-4)
    assert "act1" in [layer.name for layer in model.encoder.layers]
    trained = np.std(model.encoder(windows, training=True), axis=0)
    assert np.median(trained) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", ["saved_model", "pretrained", "tflite", "onnx"])
def test_every_way_out_gives_the_same_embeddings(run, kind, tmp_path, windows):
    if kind == "onnx":
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    folder = tmp_path / kind
    metadata = export_lib.export_encoder(run, folder, file_format=kind)
    assert metadata["relative_difference"] < 1e-3
    expected = loading.open_model(run)
    found = loading.open_model(folder)
    np.testing.assert_allclose(
        found.embed(windows), expected.embed(windows), rtol=1e-3, atol=1e-4
    )
    assert found.key == expected.key
    again = loading.load_encoder(run)(windows, training=False)
    np.testing.assert_allclose(expected.embed(windows), again, rtol=1e-3, atol=1e-4)


def test_a_pretrained_folder_without_the_moments_is_refused(run, tmp_path):
    folder = tmp_path / "folder"
    pretrained.save_pretrained(run, folder)
    with h5py.File(folder / pretrained.STATISTICS_NAME, "a") as file:
        del file[f"pairs/{kept.EMBEDDING_NAME}/mean"]
    model = kept.load_model(run)
    with pytest.raises(RunError, match="not its three arrays"):
        pretrained.read_statistics(folder, "pairs", model)


def test_an_unknown_form_is_refused(config):
    broken = dataclasses.replace(config.model)
    object.__setattr__(broken, "embedding", "round")
    with pytest.raises(ValueError, match="'raw' or 'levels'"):
        ContrastiveModel(broken)


def test_half_precision_takes_half_the_space_and_has_a_key_of_its_own(run, tmp_path):
    whole = export_lib.export_encoder(run, tmp_path / "whole", file_format="pretrained")
    half = export_lib.export_encoder(
        run, tmp_path / "half", file_format="pretrained", weights="float16"
    )
    assert (whole["format_version"], half["format_version"]) == (1, 2)
    assert whole["encoder_key"] != half["encoder_key"]
    sizes = [
        sum(v.size * v.dtype.itemsize for v in _arrays(tmp_path / name))
        for name in ("whole", "half")
    ]
    assert sizes[1] < 0.52 * sizes[0]
    assert 0 < half["relative_difference"] < export_lib.HALF_TOLERANCE
    found = loading.load_encoder(tmp_path / "half").get_weights()
    expected = loading.load_encoder(tmp_path / "whole").get_weights()
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-6)


def _arrays(folder):
    found = []
    with h5py.File(folder / pretrained.WEIGHTS_NAME) as file:
        file.visititems(
            lambda _, item: (
                found.append(item[()]) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def test_weights_that_half_precision_cannot_hold_are_refused(run, tmp_path):
    model = kept.load_model(run)
    model.projector.weights[0].assign(model.projector.weights[0] * 0 + 1e6)
    with pytest.raises(UserError, match="more than float16 can"):
        pretrained._write_weights(tmp_path / "weights.h5", model, "float16")
