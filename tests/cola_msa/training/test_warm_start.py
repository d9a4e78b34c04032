"""A warm start: whose weights training begins with, and what `untrained` means then."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from cola_msa.config.strategies import strategy_of
from cola_msa.hub import pretrained
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.runs import directory, kept, network
from cola_msa.runs.info import encoder_info
from cola_msa.system.errors import RunError
from cola_msa.training import warm_start
from cola_msa.training.trainer import Trainer
from cola_msa.values.arrays import read_arrays
from tests.cola_msa.runs.test_resume import (
    TINY,
    assert_equal_runs,
    forked,
    train_arguments,
    train_until,
)
from tests.conftest import tiny_config
from tests.helpers.commands import run_module


def started_config(start, **fields):
    config = tiny_config(**fields)
    train = dataclasses.replace(config.train, init_from=start.fingerprint)
    return dataclasses.replace(config, train=train)


def weights_of(path):
    """Float arrays of a kept checkpoint's model, by number."""
    return {
        name: value
        for name, value in read_arrays(path).items()
        if name.startswith("model/") and value.dtype.kind == "f"
    }


@pytest.fixture(scope="module")
def warm_run(prepared, finished_run, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("warm") / "run"
    start = warm_start.read_warm_start(finished_run)
    config = started_config(start, seed=7)
    assert Trainer(config, prepared, run_dir, start=start).run() == "finished"
    return run_dir


def test_the_first_weights_are_the_last_of_the_other_run(warm_run, finished_run):
    found = weights_of(kept.kept_path(warm_run, "init"))
    expected = weights_of(kept.kept_path(finished_run))
    assert set(found) == set(expected) and len(found) > 20
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_what_holds_no_weights_to_start_from_is_refused_by_its_flag(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "encoder.onnx").touch()
    for name, why in (("export", "holds no config.json"), ("x.npz", "no such file")):
        with pytest.raises(RunError, match=f"--init_from=.*{why}") as found:
            warm_start.read_warm_start(tmp_path / name)
        assert "--run_dir" not in str(found.value)


def test_the_loaded_start_computes_what_the_other_run_does(warm_run, finished_run):
    windows = np.random.default_rng(0).normal(-3, 1, (4, 98, 64, 1)).astype(np.float32)
    found = kept.load_model(warm_run, "init", "pairs")
    expected = kept.load_model(finished_run, None, "pairs")
    # Both were prepared from the same data: the statistics agree but for the draws.
    for model in (found, expected):
        for layer in model.batch_norm_layers():
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
            layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    np.testing.assert_allclose(found(windows), expected(windows), rtol=1e-5, atol=1e-6)


def test_step_0_is_a_network_with_fresh_weights(warm_run, prepared):
    config = tiny_config(seed=7)
    manifest = prepared.manifest
    fresh = ContrastiveModel(
        config.model,
        config.frontend,
        manifest["log_mel_mean"],
        manifest["log_mel_std"],
        seed=7,
    )
    found = read_arrays(kept.kept_path(warm_run, 0))
    values = network.fitting_values("model", fresh.variables, found)
    for variable, value in values:
        np.testing.assert_array_equal(value, np.array(variable), err_msg=variable.path)
    kernel = next(n for n in found if n.endswith("conv0/kernel"))
    init = read_arrays(kept.kept_path(warm_run, "init"))
    assert np.abs(found[kernel] - init[kernel]).max() > 0.01


def test_the_run_says_where_it_came_from(warm_run, finished_run):
    run = directory.load_run(warm_run)
    last = kept.kept_path(finished_run)
    assert run["init"]["path"] == str(last.resolve())
    assert run["init"]["fingerprint"] == run["config"]["train"]["init_from"] != ""
    info = encoder_info(warm_run, None, "trained")
    assert info.init_from == str(last.resolve())
    assert encoder_info(warm_run, "init", "trained").step == 0
    assert encoder_info(warm_run, 0, "untrained").init_from is None
    train = directory.load_config(warm_run).train
    assert strategy_of(train) is None
    assert strategy_of(dataclasses.replace(train, init_from="")) is not None


def test_the_input_normalization_comes_along(warm_run, finished_run):
    found = kept.load_model(warm_run).encoder.get_layer("normalization")
    expected = kept.load_model(finished_run).encoder.get_layer("normalization")
    np.testing.assert_array_equal(found.adapt_mean, expected.adapt_mean)
    np.testing.assert_array_equal(found.mean, expected.mean)


def test_a_kept_file_and_its_run_give_the_same_start(finished_run):
    last = warm_start.read_warm_start(finished_run)
    path = kept.kept_path(finished_run)
    assert warm_start.read_warm_start(path).fingerprint == last.fingerprint
    first = warm_start.read_warm_start(kept.kept_path(finished_run, 0))
    assert first.fingerprint != last.fingerprint


def test_a_pretrained_folder_gives_its_runs_weights(finished_run, tmp_path):
    pretrained.save_pretrained(finished_run, tmp_path / "model")
    found = warm_start.read_warm_start(tmp_path / "model").weights
    expected = warm_start.read_warm_start(finished_run).weights
    assert set(found) == set(expected)
    # Its batch-norm statistics are the re-estimated ones, which training moves anyway.
    for name in expected:
        if "moving_" not in name:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_another_head_begins_with_fresh_weights(finished_run):
    start = warm_start.read_warm_start(finished_run)
    config = tiny_config().model
    config = dataclasses.replace(config, similarity="cosine", silence="learned")
    model = ContrastiveModel(config, seed=3)
    assert warm_start.assign(model, start) == ["silent_projection/vector"]
    kernel = next(v for v in model.variables if v.path.endswith("conv0/kernel"))
    np.testing.assert_array_equal(np.array(kernel), start.weights["conv0/kernel"])


def test_another_network_is_refused_and_nothing_assigned(finished_run):
    start = warm_start.read_warm_start(finished_run)
    weights = dict(start.weights, **{"branch_conv/kernel": np.zeros((1, 1, 8, 8))})
    damaged = dataclasses.replace(start, weights=weights)
    model = ContrastiveModel(tiny_config().model, seed=3)
    before = [np.array(variable) for variable in model.variables]
    with pytest.raises(RunError, match="encoder branch_conv/kernel, of shape"):
        warm_start.assign(model, damaged)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


@pytest.mark.parametrize("source", ["nowhere", "run/kept/step-99.npz", "song.wav"])
def test_what_is_no_run_is_refused(source, tmp_path):
    with pytest.raises(RunError, match="--init_from"):
        warm_start.read_warm_start(tmp_path / source)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "kept.npz").write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match=r"kept\.npz: damaged"):
        warm_start.read_warm_start(tmp_path / "kept.npz")


def test_a_start_that_the_configuration_does_not_name_is_refused(
    prepared, finished_run, tmp_path
):
    start = warm_start.read_warm_start(finished_run)
    with pytest.raises(RunError, match="starts from fresh weights"):
        Trainer(tiny_config(), prepared, tmp_path / "run", start=start)
    with pytest.raises(RunError, match="not from fresh weights"):
        Trainer(started_config(start), prepared, tmp_path / "run")


def test_killed_and_resumed_equals_uninterrupted(prepared_dir, finished_run, tmp_path):
    # The finished run is of the paper's method, see `tiny_config`.
    method = ("--similarity=bilinear", "--input_normalization=dataset")
    method += ("--input_clip=0", "--noband_channel", "--embedding=raw")
    method += ("--pooling=max", "--clip_embedding=mean")
    arguments = (*TINY, *method, "--steps=8", f"--init_from={finished_run}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run_module(*train_arguments(prepared_dir, whole, *arguments))
    assert result.returncode == 0, result.stderr
    # On the built-in music nobody would judge a run of data of their own.
    assert f"next: python -m cola_msa.retrieve --run_dir={whole}" in result.stdout
    command = train_arguments(prepared_dir, killed, *arguments)
    for first_update in (-1, 20):
        code = train_until(forked(*command), killed, first_update, 0.05, signal.SIGKILL)
        assert code == -signal.SIGKILL
    result = run_module(*command)
    assert result.returncode == 0, result.stderr
    assert_equal_runs(killed, whole)


def test_the_same_run_with_another_start_is_refused(prepared_dir, warm_run, tmp_path):
    other = kept.kept_path(warm_run, 0)
    arguments = [f"--run_dir={warm_run}", f"--data_dir={prepared_dir}"]
    arguments += [f"--init_from={other}", "--preset=smoke"]
    result = run_module("cola_msa.train", *arguments)
    assert result.returncode == 1
    assert "init_from" in result.stderr
    assert json.loads((warm_run / "done.json").read_text())["outcome"] == "finished"


def test_a_start_of_another_network_leaves_no_run(prepared, finished_run, tmp_path):
    start = warm_start.read_warm_start(finished_run)
    weights = dict(start.weights)
    del weights["branch_conv/kernel"]
    other = dataclasses.replace(start, weights=weights)
    config = tiny_config(init_from=start.fingerprint)
    with pytest.raises(RunError, match="belongs to another network"):
        Trainer(config, prepared, tmp_path / "run", start=other)
    assert not (tmp_path / "run").exists()
