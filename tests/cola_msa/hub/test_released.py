"""Checkpoints in the authors' layout: every tensor finds its place, or none does."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.hub import loading, released
from cola_msa.runs import directory, kept
from cola_msa.system.errors import FileError, RunError
from tests.helpers.released_layout import (
    ENCODER,
    KERNEL,
    SUFFIX,
    make_tensors,
    make_variables,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def variables():
    return make_variables()


@pytest.fixture(scope="module")
def tensors(variables):
    return make_tensors(variables)


@pytest.fixture(scope="module")
def checkpoint(tensors, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("released"), tensors)


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("imported") / "run"
    found = released.import_weights(checkpoint, run_dir, "vocals")
    return run_dir, found


def test_the_layout_has_317_keys_of_known_kinds(variables):
    names = [key.split("/")[-3] for key in variables]
    counts = {name: names.count(name) for name in set(names)}
    assert counts == {
        "kernel": 66,
        "gamma": 50,
        "beta": 50,
        "moving_mean": 49,
        "moving_variance": 49,
        "bias": 33,
        "depthwise_kernel": 16,
        "mean": 1,
        "variance": 1,
        "count": 1,
        "bilinear_product_weight": 1,
    }


def test_the_layout_is_the_reference_checkpoints(variables, shared_reference):
    folder = shared_reference / "released_layout_checkpoint"
    key_map = json.loads((folder / "key_map.json").read_text())
    assert set(variables) == set(key_map)
    for key, (owner, _, shape) in key_map.items():
        if owner.startswith("encoder/"):
            assert variables[key].path.split("/")[-2] == owner.split("/")[1]
        if shape is not None:
            assert list(variables[key].shape) == shape


def test_an_import_embeds_as_kerass_own_network_with_these_weights(imported, tensors):
    """Weights by number into `keras.applications`, whose layers none is exchanged."""
    backbone = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(None, 64, 1), pooling="max"
    )
    with_weights = [layer for layer in backbone.layers if layer.weights]
    old_names = {"adapt_mean": "mean", "adapt_variance": "variance"}
    for number, layer in enumerate(with_weights):
        for variable in layer.weights:
            name = old_names.get(variable.name, variable.name)
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                name = "depthwise_kernel"
            if variable.name != "seed_generator_state":
                variable.assign(tensors[f"{ENCODER}{number}/{name}{SUFFIX}"])
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    model = loading.open_model(imported[0])
    mel = np.random.default_rng(0).normal(-3, 2, (3, 98, 64, 1)).astype(np.float32)
    expected = backbone(mel, training=False).numpy()
    found = model.embed(mel)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    head = [
        tensors[f"embedding_model/layer_with_weights-1/{n}{SUFFIX}"]
        for n in ("kernel", "bias")
    ]
    norm = [
        tensors[f"embedding_model/layer_with_weights-2/{n}{SUFFIX}"]
        for n in ("gamma", "beta")
    ]
    hidden = expected @ head[0] + head[1]
    centred = hidden - hidden.mean(1, keepdims=True)
    epsilon = 1e-3  # Keras's layer normalization
    scaled = centred / np.sqrt(hidden.var(1, keepdims=True) + epsilon)
    projected = np.tanh(scaled * norm[0] + norm[1])
    np.testing.assert_allclose(model.matcher.project(mel), projected, atol=1e-4)
    scores = model.matcher.score(projected, projected)
    np.testing.assert_allclose(
        scores, projected @ tensors[KERNEL] @ projected.T, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("frames", [98, 392])
def test_the_reference_checkpoint_gives_its_numbers(
    shared_reference, tmp_path_factory, frames
):
    folder = shared_reference / "released_layout_checkpoint"
    run_dir = tmp_path_factory.getbasetemp() / "reference-run"
    if not run_dir.exists():
        released.import_weights(folder, run_dir)
    model = loading.open_model(run_dir)
    with np.load(folder / "expected.npz") as expected:
        windows = expected[f"x{frames}"]
        pairs = [
            (model.embed(windows), expected[f"enc{frames}"]),
            (model.matcher.project(windows), expected[f"proj{frames}"]),
        ]
        for found, wanted in pairs:
            difference = np.linalg.norm(found - wanted)
            assert difference < 1e-4 * np.linalg.norm(wanted)
        np.testing.assert_array_equal(model.similarity.kernel, expected["W"])


def test_the_run_has_the_authors_settings(imported):
    run_dir, found = imported
    config = directory.load_config(run_dir)
    assert (config.frontend.level, config.model.input_normalization) == ("l2", "none")
    assert (config.model.temperature, config.model.similarity) == (1.0, "bilinear")
    assert (config.preset, config.train.source) == ("authors", "vocals")
    assert found["tensors"] == 317
    assert found["step"] == 3000  # checkpoint-3, in thousands
    assert kept.kept_steps(run_dir) == [3000]
    assert found["encoder_key"] == kept.encoder_key(run_dir)
    done = json.loads((run_dir / directory.DONE_NAME).read_text())
    assert (done["outcome"], done["pairs"]) == ("imported", 3000 * 64 * 128)
    with pytest.raises(RunError, match="imported weights.*--data_dir"):
        directory.own_data_dir(run_dir)


KEY = f"{ENCODER}5/bias{SUFFIX}"


def without(tensors):
    return {k: v for k, v in tensors.items() if k != KEY}, f"missing: {KEY}"


def with_another_shape(tensors):
    value = np.zeros(tensors[KEY].shape[0] + 1, np.float32)
    return {**tensors, KEY: value}, f"{KEY}: shape [9] instead of [8]"


def with_one_more(tensors):
    key = f"embedding_model/layer_with_weights-3/kernel{SUFFIX}"
    return {**tensors, key: np.zeros(3, np.float32)}, f"left over: {key}"


def not_finite(tensors):
    value = np.full(tensors[KEY].shape, np.nan, np.float32)
    return {**tensors, KEY: value}, f"{KEY}: holds values that are not finite"


@pytest.mark.parametrize(
    "change", [without, with_another_shape, with_one_more, not_finite]
)
def test_what_does_not_fit_is_refused_by_name(tensors, variables, tmp_path, change):
    changed, message = change(tensors)
    prefix = write_checkpoint(tmp_path, changed)
    with pytest.raises(RunError, match=re.escape(message)):
        released.read_released(prefix, variables)


def test_a_refused_checkpoint_writes_nothing(tensors, tmp_path):
    prefix = write_checkpoint(tmp_path, without(tensors)[0])
    with pytest.raises(RunError, match="missing"):
        released.import_weights(prefix, tmp_path / "run")
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("run*"))


def test_a_cut_off_data_file_is_refused(tensors, variables, tmp_path):
    prefix = write_checkpoint(tmp_path, tensors)
    (data,) = tmp_path.glob("checkpoint-3.data-*")
    data.write_bytes(data.read_bytes()[:100000])
    with pytest.raises(RunError, match="cannot be read"):
        released.read_released(prefix, variables)


def test_prefix_index_and_folder_name_a_checkpoint(checkpoint, tmp_path):
    assert released.find_prefix(checkpoint) == checkpoint
    assert released.find_prefix(f"{checkpoint}.index") == checkpoint
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "checkpoint-3"\n')
    for path in tf.io.gfile.glob(f"{checkpoint}.*"):
        (tmp_path / path.rsplit("/", 1)[1]).write_bytes(open(path, "rb").read())
    assert released.find_prefix(tmp_path) == str(tmp_path / "checkpoint-3")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "checkpoint-3.index does not exist"),
        (["checkpoint-3.index"], "data-00000-of-00001 is missing beside its index"),
    ],
)
def test_a_checkpoint_that_is_not_there(tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(RunError, match=message):
        released.find_prefix(tmp_path / "checkpoint-3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "guitar"}, "--source=guitar: must be one of multi, vocals"),
        ({"step": 0}, "must be 1 or more"),
    ],
)
def test_settings_that_cannot_be(checkpoint, tmp_path, arguments, message):
    with pytest.raises(RunError, match=message):
        released.import_weights(checkpoint, tmp_path / "run", **arguments)


def test_a_folder_that_holds_something_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="nothing there is replaced; name a new folder"):
        released.import_weights(checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
