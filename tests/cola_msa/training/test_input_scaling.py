"""Runs whose encoder scales its input: by band, bounded, with each band's place."""

import dataclasses
import json

import numpy as np
import pytest

from cola_msa.evaluation.baseline import compare_with_untrained
from cola_msa.hub import export as export_lib
from cola_msa.hub import loading
from cola_msa.pairs.sampler import PairSampler
from cola_msa.runs import kept
from cola_msa.runs.directory import load_config
from cola_msa.training.trainer import Trainer
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def config():
    plain = tiny_config()
    model = dataclasses.replace(
        plain.model, input_normalization="bands", input_clip=2.0, band_channel=True
    )
    return dataclasses.replace(plain, model=model)


@pytest.fixture(scope="module")
def run(config, prepared, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("scaled") / "run"
    assert Trainer(config, prepared, run_dir).run() == "finished"
    return run_dir


def test_moments_are_those_of_mixtures_and_sounding_stems(prepared, config):
    sampler = PairSampler(prepared, config.train)
    mean, deviation = sampler.band_moments()
    values = []
    for number in range(1024 // config.train.batch_size):
        batch = sampler.batch(2**41 + number)
        values.append(batch["anchor"])
        values.append(batch["positive"][batch["is_active"]])
    stacked = np.concatenate(values).astype(np.float64)
    np.testing.assert_allclose(mean, stacked.mean((0, 1, 3)), rtol=1e-4)
    np.testing.assert_allclose(deviation, stacked.std((0, 1, 3)), rtol=1e-3, atol=1e-3)


def test_the_run_keeps_them_and_they_are_never_trained(run, prepared, config):
    expected = PairSampler(prepared, config.train).band_moments()
    for step in (0, None):
        layer = kept.load_model(run, step).encoder.get_layer("input_scaling")
        np.testing.assert_array_equal(layer.mean, expected[0])
        np.testing.assert_array_equal(layer.deviation, expected[1])
    assert load_config(run).model == config.model


def test_retrieval_of_such_a_run(run, prepared):
    found = compare_with_untrained(run, prepared)
    assert 0 <= found["trained"]["top1"] <= 1


@pytest.mark.parametrize("kind", ["saved_model", "pretrained", "tflite", "onnx"])
def test_every_way_out_gives_the_same_embeddings(run, kind, tmp_path):
    if kind == "onnx":
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    folder = tmp_path / kind
    metadata = export_lib.export_encoder(run, folder, file_format=kind)
    assert metadata["relative_difference"] < 1e-3
    if kind in ("saved_model", "pretrained"):
        windows = np.random.default_rng(0).normal(-4, 3, (3, 98, 64, 1))
        windows = windows.astype(np.float32)
        expected = loading.open_model(run).embed(windows)
        found = loading.open_model(folder).embed(windows)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_stopped_run_goes_on_to_the_same_weights(run, config, prepared, tmp_path):
    import os
    import signal

    run_dir = tmp_path / "stopped"

    def stop(step, scalars):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert Trainer(config, prepared, run_dir).run(stop) == "interrupted"
    assert Trainer(config, prepared, run_dir).run() == "finished"
    for found, expected in zip(
        kept.load_model(run_dir).encoder.get_weights(),
        kept.load_model(run).encoder.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
