"""One way to open runs, pretrained folders and exports: the same numbers from each."""

import json
import shutil

import keras
import numpy as np
import pytest

import cola_msa
from cola_msa.hub import export as export_lib
from cola_msa.hub import loading, pretrained
from cola_msa.hub import opened as opened_lib
from cola_msa.runs import kept
from cola_msa.system.errors import RunError


@pytest.fixture(scope="module")
def folders(finished_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("opened")
    pretrained.save_pretrained(finished_run, root / "pretrained", licence="CC0-1.0")
    export_lib.export_encoder(finished_run, root / "export")
    return {
        "run": finished_run,
        "pretrained": root / "pretrained",
        "export": root / "export",
    }


@pytest.fixture(scope="module")
def opened(folders):
    return {kind: loading.open_model(path) for kind, path in folders.items()}


def windows(frames=98, count=5, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(-3, 2, (count, frames, 64, 1)).astype(np.float32)


@pytest.mark.parametrize("kind", opened_lib.KINDS)
@pytest.mark.parametrize("frames", [98, 40, 392])
def test_every_kind_embeds_as_the_run_does(opened, finished_run, kind, frames):
    model = opened[kind]
    expected = kept.load_model(finished_run).encoder(windows(frames), training=False)
    found = model.embed(windows(frames))
    assert found.shape == (5, model.dim) == (5, 64)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (model.kind, model.frontend) == (
        kind,
        cola_msa.model.contrastive.FrontendConfig(),
    )
    assert model.key == kept.encoder_key(finished_run)


@pytest.mark.parametrize("kind", ["run", "pretrained"])
def test_the_matcher_scores_as_the_pretext_model_does(opened, finished_run, kind):
    """a^T W p by NumPy, of projections with the statistics of whole batches."""
    model = kept.load_model(finished_run, statistics="pairs")
    mixtures, stems = windows(seed=1), windows(count=3, seed=2)
    anchors = model(mixtures, training=False).numpy()
    candidates = model(stems, training=False).numpy()
    matcher = opened[kind].matcher
    np.testing.assert_allclose(matcher.project(mixtures), anchors, atol=1e-5)
    kernel = np.array(opened[kind].similarity.kernel)
    expected = np.array([[a @ kernel @ p for p in candidates] for a in anchors])
    found = matcher.score(matcher.project(mixtures), matcher.project(stems))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["run", "pretrained"])
def test_matching_leaves_the_encoder_as_it_is(opened, kind):
    """Statistics of mixtures and of whole batches differ, or this shows nothing."""
    model = opened[kind]
    before = model.embed(windows())
    projected = model.matcher.project(windows())
    np.testing.assert_array_equal(model.embed(windows()), before)
    own = model.projector(model.encoder(windows(), training=False)).numpy()
    assert np.abs(own - projected).max() > 1e-3


def test_the_package_offers_both(finished_run, folders):
    assert cola_msa.open_model is loading.open_model
    found = [
        cola_msa.load_encoder(folders[kind])(windows(), training=False)
        for kind in ("run", "pretrained")
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert isinstance(cola_msa.load_encoder(folders["pretrained"]), keras.Model)
    with pytest.raises(RunError, match=r"an export is no Keras model.*open_model"):
        cola_msa.load_encoder(folders["export"])


def test_a_run_has_steps_and_the_others_have_not(folders):
    untrained = loading.open_model(folders["run"], 0)
    assert untrained.key == kept.encoder_key(folders["run"], 0)
    assert "step-00000000" in untrained.description
    for kind in ("pretrained", "export"):
        with pytest.raises(RunError, match="a checkpoint step can be chosen of a run"):
            loading.open_model(folders[kind], 2)


def make_nothing(path):
    return "does not exist"


def make_file(path):
    path.write_text("x")
    return "is a file"


def make_empty(path):
    path.mkdir()
    return "neither a run, an export nor a pretrained folder"


def make_saved_model(path):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"x")
    return "SavedModel without metadata.json"


def make_foreign_config(path):
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["Wav2Vec2Model"]}')
    return "config.json: damaged"


@pytest.mark.parametrize(
    "make",
    [make_nothing, make_file, make_empty, make_saved_model, make_foreign_config],
)
def test_anything_else_is_refused(tmp_path, make):
    path = tmp_path / "model"
    message = make(path)
    with pytest.raises(RunError, match=message) as error:
        loading.open_model(path)
    assert str(path) in str(error.value)


def test_a_folder_of_runs_names_one(finished_run):
    with pytest.raises(RunError, match=f"{finished_run} is a run"):
        loading.open_model(finished_run.parent)


def test_a_folder_opens_where_layers_are_of_other_classes(folders, monkeypatch):
    """On a GPU the network has Keras's own layers, on a CPU it has not."""
    expected = loading.open_model(folders["pretrained"]).embed(windows())
    monkeypatch.setattr("cola_msa.model.encoder.default_kernels", lambda: "keras")
    model = loading.open_model(folders["pretrained"])
    classes = {type(layer).__name__ for layer in model.encoder.layers}
    assert not any(name.startswith("Cpu") for name in classes)
    np.testing.assert_allclose(model.embed(windows()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [pretrained.WEIGHTS_NAME, pretrained.STATISTICS_NAME])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_pretrained_folder_is_refused(folders, tmp_path, name, damage):
    path = tmp_path / "model"
    shutil.copytree(folders["pretrained"], path)
    if damage == "missing":
        (path / name).unlink()
    else:
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 255
        (path / name).write_bytes(content)
    with pytest.raises(RunError, match=name):
        loading.open_model(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 3, "upgrade it"),
        ("files", {}, "damaged"),
        ("step", None, "damaged"),
        ("config", {"model": {"unheard_of": 1}}, "another version"),
    ],
)
def test_a_pretrained_config_that_does_not_fit(
    folders, tmp_path, field, value, message
):
    path = tmp_path / "model"
    shutil.copytree(folders["pretrained"], path)
    content = json.loads((path / "config.json").read_text())
    if value is None:
        del content[field]
    else:
        content[field] = value
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=message):
        loading.open_model(path)


def test_a_damaged_export_is_refused(folders, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(folders["export"], path)
    (path / "metadata.json").write_text("{")
    with pytest.raises(RunError, match=r"metadata.json: damaged.*export again"):
        loading.open_model(path)
