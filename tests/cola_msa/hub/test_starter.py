"""The package's own weights by name, and a pretrained folder as a run."""

import json
import pathlib
import shutil

import h5py
import numpy as np
import pytest
import soundfile

import cola_msa
from cola_msa import hear
from cola_msa.collection.search import build as build_lib
from cola_msa.collection.search import index as index_lib
from cola_msa.collection.search import query as query_lib
from cola_msa.hub import loading, pretrained, released
from cola_msa.runs import directory, kept
from cola_msa.system import files
from cola_msa.system.errors import FileError, RunError
from cola_msa.training import warm_start
from tests.helpers import embedding_tables
from tests.helpers.commands import run_module
from tests.helpers.released_layout import (
    make_tensors,
    make_variables,
    write_checkpoint,
)


def windows(count=5, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(-3, 2, (count, 98, 64, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("shipped") / "starter"
    pretrained.save_pretrained(finished_run, path, weights="float16")
    return path


@pytest.fixture
def shipped(folder, tmp_path, monkeypatch):
    """A package that holds weights, and a folder without any run."""
    monkeypatch.setattr(loading, "STARTER_DIR", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A package without weights."""
    monkeypatch.setattr(loading, "STARTER_DIR", tmp_path / "absent")
    monkeypatch.chdir(tmp_path)


def test_starter_is_what_opens_where_nothing_is_named(shipped):
    name, remark = loading.default_model()
    assert (name, "come with cola_msa" in remark) == ("starter", True)
    model = cola_msa.open_model(name)
    assert (model.kind, model.path) == ("pretrained", shipped)
    own = cola_msa.Embedder.from_pretrained("starter")
    sounds = np.random.default_rng(0).normal(0, 0.1, (1, 32000)).astype(np.float32)
    found = hear.get_scene_embeddings(sounds, hear.load_model())
    np.testing.assert_allclose(found[0], own(sounds, 16000), rtol=1e-5, atol=1e-6)


def test_a_run_goes_before_it(shipped, finished_run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished_run)
    name, remark = loading.default_model()
    assert (name, remark) == ("runs/mine", "no --model: the newest run, runs/mine")


def test_a_run_that_has_only_begun_does_not(shipped, finished_run, tmp_path):
    begun = tmp_path / "runs" / "begun"
    (begun / "kept").mkdir(parents=True)
    shutil.copy(finished_run / "config.json", begun)
    untrained = "step-00000000.npz"
    shutil.copy(finished_run / "kept" / untrained, begun / "kept")
    assert loading.default_model()[0] == "starter"


def test_a_folder_of_that_name_goes_before_it(shipped, tmp_path):
    (tmp_path / "starter").mkdir()
    with pytest.raises(RunError, match="neither a run, an export nor a pretrained"):
        cola_msa.open_model("starter")


def test_without_any_the_message_says_what_to_do(bare):
    with pytest.raises(RunError, match=r"there is no run under runs/: train one"):
        loading.default_model()
    with pytest.raises(RunError, match="starter does not exist"):
        cola_msa.open_model("starter")


def test_search_takes_whichever_model_made_the_index(shipped, tmp_path, finished_run):
    """The newest run is another: the weights in the package are used nevertheless."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished_run)
    embed = cola_msa.Embedder.from_pretrained("starter")
    rng = np.random.default_rng(0)
    sounds = rng.normal(0, 0.1, (4, 48000)) * np.geomspace(1, 0.05, 48000)
    for number, sound in enumerate(sounds):
        soundfile.write(f"{number}.wav", sound, 16000, subtype="FLOAT")
    clips = [cola_msa.decode(f"{number}.wav") for number in range(3)]
    columns = {
        "path": [f"{number}.wav" for number in range(3)],
        "sha256": [files.file_sha256(f"{number}.wav") for number in range(3)],
        "start": np.zeros(3),
        "seconds": np.full(3, 3.0),
        "embedding": np.stack([embed(c.samples, c.rate_hz) for c in clips]),
    }
    for name, key in (("own", embed.model.key), ("other", "f" * 16)):
        table = embedding_tables.write(
            tmp_path / f"{name}.npz", columns, {"model_hash": key}
        )
        build_lib.build(str(table), f"{name}-index.npz", "cosine")
    index = index_lib.load_index(pathlib.Path("own-index.npz"))
    (answer,) = query_lib.query(index, ["3.wav"], 3)
    (named,) = query_lib.query(index, ["3.wav"], 3, model="starter")
    assert answer == named and not answer["in_index"]
    other = index_lib.load_index(pathlib.Path("other-index.npz"))
    with pytest.raises(index_lib.SearchError, match=r"--model=\.\.\. \(the encoder"):
        query_lib.query(other, ["3.wav"], 3)


@pytest.fixture(scope="module")
def imported(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("imported") / "run"
    return run_dir, pretrained.make_run(folder, run_dir)


def test_a_folder_as_a_run_computes_the_same(imported, folder, finished_run):
    run_dir, found = imported
    a, b = (cola_msa.open_model(path) for path in (run_dir, folder))
    np.testing.assert_array_equal(a.embed(windows()), b.embed(windows()))
    pairs = windows(3, 1), windows(3, 2)
    np.testing.assert_array_equal(
        *(m.matcher.score(*(m.matcher.project(w) for w in pairs)) for m in (a, b))
    )
    assert found["tensors"] == len(kept.load_model(finished_run).variables)
    assert found["encoder_key"] == kept.encoder_key(run_dir) == a.key
    assert found["step"] == kept.kept_steps(run_dir)[0] == 4
    assert directory.load_config(run_dir) == directory.load_config(finished_run)
    done, own = kept.read_done(run_dir), kept.read_done(finished_run)
    assert done["outcome"] == "imported"
    assert (done["pairs"], done["updates"]) == (own["pairs"], own["updates"])


def test_such_a_run_is_judged_and_retrieves(imported, prepared):
    run_dir = imported[0]
    arguments = (f"--run_dir={run_dir}", f"--data_dir={prepared.data_dir}")
    judged = run_module("cola_msa.retrieve", *arguments)
    assert judged.returncode == 0, judged.stderr
    results = json.loads((run_dir / "eval" / "retrieval" / "results.json").read_text())
    assert 0 <= results["trained"]["top1"] <= 1
    assert "no_learning" in results
    without = run_module("cola_msa.retrieve", arguments[0])
    assert without.returncode == 1
    assert "imported weights" in without.stderr


def test_the_command(folder, tmp_path):
    run = "cola_msa.import_weights"
    made = run_module(run, f"--pretrained={folder}", "--output_dir=mine", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "the run mine has step 4, key " in made.stdout
    again = run_module(run, f"--pretrained={folder}", "--output_dir=mine", cwd=tmp_path)
    assert again.returncode == 1 and "mine" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a --checkpoint or a --pretrained"),
        (["--checkpoint=a", "--pretrained=b"], "either a --checkpoint or a --pretr"),
        (["--pretrained=b", "--step=3"], "--step is for --checkpoint"),
        (["--pretrained=b", "--source=vocals"], "--source is for --checkpoint"),
    ],
)
def test_contradicting_flags(tmp_path, arguments, message):
    run = "cola_msa.import_weights"
    found = run_module(run, *arguments, "--output_dir=out", cwd=tmp_path)
    assert found.returncode == 2 and message in found.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_or_a_damaged_folder_makes_no_run(folder, finished_run, tmp_path):
    with pytest.raises(RunError, match="is a run, no pretrained folder"):
        loading.find_pretrained(finished_run)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / pretrained.WEIGHTS_NAME).write_bytes(b"x" * 100)
    with pytest.raises(RunError, match=r"damaged or not the original"):
        pretrained.make_run(damaged, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years")
    with pytest.raises(FileError):
        pretrained.make_run(folder, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "years"


def test_training_starts_from_it_by_name(shipped, folder):
    found, same = (warm_start.read_warm_start(name) for name in ("starter", folder))
    assert found.fingerprint == same.fingerprint and found.path == folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pretrained folder of EfficientNetB0, which opens without Keras."""
    root = tmp_path_factory.mktemp("whole")
    checkpoint = write_checkpoint(root, make_tensors(make_variables()))
    released.import_weights(checkpoint, root / "run")
    pretrained.save_pretrained(root / "run", root / "folder")
    assert pretrained.plain_weights(root / "folder") is not None
    return root / "folder"


def relink(file, name, kind, other):
    """Puts a link where an array or a group was."""
    with h5py.File(other, "w") as target:
        file.copy(name, target, "x")
    del file[name]
    file[name] = (
        h5py.SoftLink("/elsewhere") if kind == "soft" else h5py.ExternalLink(other, "x")
    )


@pytest.mark.parametrize("kind", ["external", "soft"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", [pretrained.WEIGHTS_NAME, pretrained.STATISTICS_NAME])
def test_links_are_refused_on_the_short_way_too(whole, tmp_path, name, depth, kind):
    """What it reads lies in the file itself."""
    folder = shutil.copytree(whole, tmp_path / "model")
    with h5py.File(folder / name, "a") as file:
        path = next(iter(file))
        for _ in range(depth - 1):
            path += f"/{next(iter(file[path]))}"
        relink(file, path, kind, tmp_path / "other.h5")
    rehashed(folder, name)
    assert pretrained.plain_weights(folder) is None


def test_and_then_by_keras(whole, tmp_path):
    name = pretrained.WEIGHTS_NAME
    folder = shutil.copytree(whole, tmp_path / "model")
    with h5py.File(folder / name, "a") as file:
        relink(file, "model/0003", "external", tmp_path / "other.h5")
    rehashed(folder, name)
    with pytest.raises(RunError, match=name):
        cola_msa.open_model(folder)


def rehashed(folder, name):
    content = json.loads((folder / "config.json").read_text())
    content["files"][name] = files.file_sha256(folder / name)
    (folder / "config.json").write_text(json.dumps(content))
