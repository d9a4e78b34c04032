"""Files of JSON and checkpoints that are damaged, of another kind, or somebody else's.

Whatever they hold, who reads them takes it or says in one line that it cannot.
"""

import copy
import json
import os
import pathlib
import re
import shutil
import types
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola_msa.config import checks
from cola_msa.config.schema import Config, to_dict
from cola_msa.evaluation import curves as curves_lib
from cola_msa.evaluation import results
from cola_msa.evaluation.probes import features
from cola_msa.hub import export as export_lib
from cola_msa.hub import loading, pretrained
from cola_msa.hub.model_card import read_scores
from cola_msa.hub.sharing import download
from cola_msa.records import verified
from cola_msa.reproduction import demo as demo_lib
from cola_msa.reproduction import run
from cola_msa.reproduction.report import results as results_lib
from cola_msa.runs import directory, resume, scalars
from cola_msa.runs import kept as kept_lib
from cola_msa.system import errors
from cola_msa.system.errors import FileError, UserError
from cola_msa.training import warm_start, workers
from cola_msa.values import arrays as arrays_lib
from cola_msa.values.reading import open_regular, read_json
from data_prep.datasets import multitrack, nsynth
from data_prep.demo.trees import write as demo_trees
from data_prep.pipeline import plan, runner, shards
from data_prep.separator import folder as folder_lib
from data_prep.separator import report
from data_prep.stems import weights
from tests.cola_msa.records.test_damaged_data import VALUES, places
from tests.conftest import tiny_config

RUN = {
    "config": to_dict(tiny_config()),
    "data": {
        "data_dir": "prepared/x",
        "manifest_hash": "0" * 16,
        "dataset": "mtat",
        "sources": ["vocals"],
        "separator": {"name": "umxhq"},
        "log_mel_mean": 2.0,
        "log_mel_std": 1.5,
    },
    "num_replicas": 1,
    "versions": {"numpy": "2"},
    "threads": 0,
    "git_commit": None,
}
SCORE = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1, "deviation": None}
RESULT = {
    "mode": "frozen",
    "task": "mtat",
    "title": "t",
    "protocol": "cached",
    "probe": "linear",
    "paper_probe": "linear",
    "label_fraction": 1.0,
    "label_subset": None,
    "train_clips": "filtered",
    "head": {"standardize": False},
    "encoder": {"encoder": "trained", "step": 4, "pairs": 8, "key": "k"},
    "data": {"manifest_hash": "0" * 16},
    "splits": {"test": {"clips": 3, "windows": 9}},
    "seeds": [0],
    "scores": {"roc_auc": SCORE, "pr_auc": SCORE},
}
SIDECAR = {
    "shard": "train-00000-of-00001.tfrecord",
    "config_hash": "a",
    "plan_hash": "b",
    "clips": ["one"],
    "failures": [{"clip_id": "x", "path": "x.mp3", "split": "train", "reason": "r"}],
    "seconds": 1.0,
    "log_mel": {"count": 1, "sum": 1.0, "sum_of_squares": 1.0},
    "stem_correlation": {"vocals": [0.5, 1]},
    "weights_sha256": None,
}
METADATA = {
    "frontend": to_dict(Config().frontend),
    "encoder_key": "k",
    "embedding_dim": 64,
    "step": 4,
    "config": {},
    "data": {},
    "format": "onnx",
    "files": {"encoder.onnx": "0" * 64},
}


def _open_export(folder):
    (folder / "encoder.onnx").write_bytes(b"")
    with pytest.raises(UserError):  # the file is damaged whatever stands beside it
        loading.open_model(folder)
    export_lib.listed_files(folder)
    demo_lib._key_of(folder / "metadata.json")


def _open_run(folder):
    directory.load_config(folder)
    directory.own_data_dir(folder)


def _notes(folder):
    notes = verified.Notes(folder / "data")
    shutil.copy(folder / "notes.json", _made(notes._path))
    state = verified.FileState(1, 2, 3, 4, 5)
    verified.Notes(folder / "data").find("x", state)


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _cached(folder):
    (folder / "x.f16").write_bytes(bytes(256))
    features._cached_dim(folder / "x.f16", {"version": 1, "num_windows": 1})


def _claim(folder):
    request = types.SimpleNamespace(
        output_dir=folder, scale=types.SimpleNamespace(name="demo")
    )
    run._claim(request)


def _state(folder):
    job = types.SimpleNamespace(
        output_dir=folder, config=plan.PrepConfig(), plan_hash="b"
    )
    runner._check_state(job, 3)


# Name of the file, what it holds, and what reads it.
READERS = {
    "run": ("config.json", RUN, _open_run),
    "pretrained": (
        "config.json",
        {**RUN, "format": pretrained.FORMAT, "format_version": 1},
        lambda f: (pretrained.is_pretrained(f), pretrained.read_config(f)),
    ),
    "done": (
        "done.json",
        {"outcome": "finished", "step": 1, "updates": 2, "pairs": 3},
        kept_lib.read_done,
    ),
    "export": ("metadata.json", METADATA, _open_export),
    "result": (
        "results.json",
        RESULT,
        lambda f: (results.read_results(f), results_lib.read_result(f)),
    ),
    "curve": (
        "results.json",
        RESULT,
        lambda f: (
            curves_lib._is_result_of(f / "results.json", "h", "k")
            or read_json(f / "results.json", check=curves_lib._main_score)
        ),
    ),
    "scores": (
        "eval/mtat/results.json",
        RESULT,
        lambda f: read_scores(f, 4),
    ),
    "metrics": (
        "metrics.jsonl",
        {"step": 1, "loss": 0.5},
        scalars.read_metrics,
    ),
    "registry": (
        "registry.json",
        {"models": {"a": {"url": "https://x", "sha256": "0" * 64}}},
        lambda f: download.read_registry(f / "registry.json"),
    ),
    "reproduction": ("reproduction.json", {"scale": "demo"}, _claim),
    "notes": ("notes.json", {"x": [[1, 2, 3, 4, 5], "0" * 64, 7]}, _notes),
    "embeddings": ("x.json", {"version": 1, "dim": 128, "bytes": 256}, _cached),
    "preparation": (
        "preparation.json",
        {"config": to_dict(plan.PrepConfig()), "plan_hash": "b", "num_clips": 3},
        _state,
    ),
    "sidecar": (
        "s.json",
        SIDECAR,
        lambda f: shards.read_sidecar(f / "s.tfrecord", FileError, ""),
    ),
    "separator": (
        "separator.json",
        {"targets": ["vocals"], "nfft": 4096},
        lambda f: (
            weights._listed_targets(f),
            folder_lib.folder_targets(f),
        ),
    ),
    "losses": (
        "vocals.json",
        {
            "epochs_trained": 1,
            "stopped_early": False,
            "best_epoch": 1,
            **dict.fromkeys(
                ("train_loss_history", "valid_loss_history", "train_time_history"), [1]
            ),
        },
        lambda f: report._losses(f / "vocals.json"),
    ),
    "report": (
        "report.json",
        {"held_out": {"key": "k"}},
        lambda f: report._earlier(f / "report.json", "k"),
    ),
    "notes of nsynth": (
        "examples.json",
        {"n": {"instrument_family": 0, "instrument_family_str": "bass"}},
        lambda f: nsynth._read_notes(f / "examples.json"),
    ),
    "meta": ("meta.json", {"piece": "a song"}, multitrack._piece),
    "built-in music": (
        "demo.json",
        {"options": {"seed": 0}, "counts": {}},
        lambda f: demo_trees._read_options(f / "demo.json"),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("foreign")


def read(folder, name, content):
    """Reads a file of these bytes; what it says is one line."""
    file, _, reader = READERS[name]
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _made(folder / file).write_bytes(content)
    try:
        reader(folder)
    except UserError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 2000
        return text
    return None


@pytest.mark.parametrize("name", READERS)
def test_what_was_written_is_read(folder, name):
    error = read(folder, name, json.dumps(READERS[name][1]).encode())
    # The pretrained folder's and the report's own fields stand elsewhere.
    assert error is None or name in ("pretrained", "separator")


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=25, deadline=None)
@given(draw=st.data())
def test_any_change_is_taken_or_refused(folder, name, draw):
    content = copy.deepcopy(READERS[name][1])
    spots = [spot for spot in places(content) if spot]
    *parents, last = draw.draw(st.sampled_from(spots))
    part = content
    for key in parents:
        part = part[key]
    if draw.draw(st.booleans()):
        part[last] = draw.draw(
            VALUES | st.sampled_from([1e308, -1, 10**30, "\0", [[]]])
        )
    elif isinstance(part, dict):
        del part[last]
    read(folder, name, json.dumps(content).encode())


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=15, deadline=None)
@given(draw=st.data())
def test_any_bytes_are_taken_or_refused(folder, name, draw):
    text = json.dumps(READERS[name][1]).encode()
    cut = text[: draw.draw(st.integers(0, len(text)))]
    others = st.binary(max_size=50) | VALUES.map(lambda v: json.dumps(v).encode())
    read(folder, name, draw.draw(st.just(cut) | others))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"a":' * 10**5, b"9" * 10**4])
def test_depth_and_length_are_refused(folder, name, content):
    error = read(folder, name, content)
    # Of these a damaged file is as good as none.
    silent = "export scores metrics notes embeddings report meta curve"
    assert error is not None or name in silent.split()


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "nowhere", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "x.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        target = {"loop": "x.json", "nowhere": "y", "device": "/dev/zero"}[kind]
        path.symlink_to(target)
    with pytest.raises(FileError, match=r"x\.json: cannot be read"):
        read_json(path)
    with pytest.raises(OSError):
        open_regular(path)


def test_a_long_file_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(FileError, match="more than"):
        read_json(path)


def test_a_defect_of_ours_is_not_the_files_fault(tmp_path):
    (tmp_path / "x.json").write_text("{}")

    def broken(content):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError):
        read_json(tmp_path / "x.json", check=broken)


# Runs from elsewhere -----------------------------------------------------------------

GIGABYTES = {
    "projection": {"model": {"projection_dim": 1 << 14}},
    "negative": {"model": {"projection_dim": -1}},
    "mels": {"frontend": {"num_mels": 1 << 20}},
    "window": {"frontend": {"window_frames": 1 << 20}},
    "window and mels": {"frontend": {"window_frames": 1 << 14, "num_mels": 1024}},
    "fft": {"frontend": {"fft_size": 1 << 30}},
    "rate": {"frontend": {"sample_rate_hz": 10**12}},
    "backbone": {"model": {"backbone": "../x"}},
    "too few mels": {
        "model": {"backbone": "efficientnetb0"},
        "frontend": {"num_mels": 8},
    },
    "list": {"model": []},
    "text": {"train": {"seed": "0"}},
    "seed": {"train": {"seed": 1 << 32}},
    "endless": {"model": {"temperature": float("inf")}},
}


@pytest.fixture(scope="module")
def run_dir(finished_run, tmp_path_factory):
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("name", GIGABYTES)
def test_a_run_that_would_take_gigabytes_is_refused(run_dir, tmp_path, name):
    content = json.loads((run_dir / "config.json").read_text())
    for part, values in GIGABYTES[name].items():
        if isinstance(values, dict):
            content["config"][part].update(values)
        else:
            content["config"][part] = values
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "kept").symlink_to(run_dir / "kept")
    for opened in (loading.open_model, kept_lib.load_model):
        with pytest.raises(errors.RunError, match=r"config\.json: damaged"):
            opened(tmp_path)


def test_every_choice_of_the_flags_is_taken():
    from cola_msa.config.schema import SILENCES

    for silence in SILENCES:
        values = to_dict(Config())
        values["model"]["silence"] = silence
        assert checks.check_config(values).model.silence == silence


def test_every_preset_is_within_bounds():
    from cola_msa.config.presets import PRESETS

    for config in PRESETS.values():
        assert checks.check_config(to_dict(config)) == config


def repacked(source, target, change, compression=zipfile.ZIP_STORED):
    """Writes an .npz anew, with arrays changed."""
    arrays = change(arrays_lib.read_arrays(source))
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=True)


def first_weight(arrays):
    return next(n for n, v in arrays.items() if n.startswith("model/") and v.ndim > 1)


def replaced(make):
    def change(arrays):
        name = first_weight(arrays)
        return {**arrays, name: make(arrays[name])}

    return change


WEIGHTS = {
    "another type": replaced(lambda v: v.astype(np.float64)),
    "texts": replaced(lambda v: np.full(v.shape, "x")),
    "objects": replaced(lambda v: np.array([{}], object)),
    "another shape": replaced(lambda v: v[..., :1]),
    "a name": lambda a: {**a, "model/x": np.zeros(3)},
    "another name": lambda a: {
        k.replace("model/0001", "model/0999"): v for k, v in a.items()
    },
    "statistics": lambda a: {
        k: np.zeros(3, np.float32) if "statistics" in k else v for k, v in a.items()
    },
    "statistics of another type": lambda a: {
        k: v.astype("U") if "statistics" in k else v for k, v in a.items()
    },
    "no statistics": lambda a: {k: v for k, v in a.items() if "statistics" not in k},
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_the_networks_are_refused(run_dir, tmp_path, name):
    copied = shutil.copytree(run_dir, tmp_path / "run")
    path = kept_lib.kept_path(copied)
    repacked(kept_lib.kept_path(run_dir), path, WEIGHTS[name])
    if name == "a name":  # what is superfluous changes nothing
        kept_lib.load_model(copied)
        warm_start.read_warm_start(copied)
        return
    with pytest.raises(errors.RunError):
        kept_lib.load_model(copied)


def test_a_bomb_is_not_unpacked(run_dir, tmp_path):
    path = tmp_path / "bomb.npz"
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a.npy", "w", force_zip64=True) as member:
            shape = {**header, "shape": (1 << 24,)}
            np.lib.format.write_array_header_1_0(member, shape)
            for _ in range(64):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(errors.RunError, match="larger than the file"):
        arrays_lib.read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as member:
        shape = {**header, "shape": (1 << 40,)}
        np.lib.format.write_array_header_1_0(member, shape)
    with pytest.raises(errors.RunError, match="cut off"):
        arrays_lib.read_arrays(path)


@settings(max_examples=60, deadline=None)
@given(draw=st.data())
def test_any_bytes_of_a_checkpoint_are_read_or_refused(folder, draw):
    path = folder / "x.npz"
    arrays_lib.write_arrays(path, {"a": np.arange(3)}, {"step": 1})
    content = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(content) - 1))
        content[place] = draw.draw(st.integers(0, 255))
    path.write_bytes(content[: draw.draw(st.integers(0, len(content)))])
    try:
        arrays_lib.read_arrays(path)
    except errors.RunError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "state", ["[]", "1", "[" * 10**5, '{"loop": [], "arrays": {}}']
)
def test_a_state_of_another_kind_is_refused(tmp_path, state):
    path = tmp_path / "checkpoints" / "update-00000001.npz"
    path.parent.mkdir()
    np.savez(path, state=np.array(state))
    with pytest.raises(errors.RunError):
        resume.restore_training(tmp_path, None)
    kept = tmp_path / "kept" / "best.npz"
    kept.parent.mkdir()
    shutil.copy(path, kept)
    with pytest.raises(errors.RunError):
        kept_lib.kept_step(kept)


def test_names_in_kept_are_no_steps(tmp_path):
    for name in ("step-abc.npz", "step-.npz", "step-00000004.npz", "step-1.npz"):
        _made(tmp_path / "kept" / name).touch()
    assert kept_lib.kept_steps(tmp_path) == [4]


@pytest.mark.parametrize(
    "url",
    [
        "http://exa mple.org/x.tar.gz",
        "http://127.0.0.1:1/a b.tar.gz",
        "file:///nowhere/a b c.tar.gz",
        "http://[::1",
        "http://",
        "http://a\0b/x",
        "http://127.0.0.1:1/\n",
        "http://\udcff/x",
        "http://127.0.0.1:1/\u00e4",
        "http://127.0.0.1:99999/x",
        "file://",
    ],
)
def test_an_address_that_is_none_is_one_line(url):
    with pytest.raises(errors.RunError) as error:
        loading.resolve(url)
    assert "\n" not in str(error.value)


@given(st.text() | VALUES.map(json.dumps))
def test_any_tf_config_is_taken_or_refused(text):
    try:
        workers.parse_tf_config(text)
    except UserError as error:
        assert re.search("TF_CONFIG", str(error))


def test_no_module_unpickles():
    root = pathlib.Path(__file__).parents[2]
    for path in [*root.glob("cola_msa/**/*.py"), *root.glob("data_prep/**/*.py")]:
        text = path.read_text()
        assert "allow_pickle=True" not in text and "pickle.load" not in text, path
        for call in re.findall(r"torch\.load\(.*?\)", text, re.S):
            assert "weights_only=True" in call, path
