"""CLMR and its waveforms all the way: records, training, probes, files, exports."""

import csv
import dataclasses
import json
import types

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import cola_msa.mteb
from cola_msa.audio import decode, frontend_numpy, resample
from cola_msa.collection.matching import match
from cola_msa.config.presets import get_preset
from cola_msa.config.schema import FrontendConfig, waveform_frontend
from cola_msa.evaluation import baseline
from cola_msa.evaluation.probes import kept_heads
from cola_msa.evaluation.retrieval import (
    retrieval_draws,
    retrieve_without_learning,
    spectral_profiles,
)
from cola_msa.hub import export as export_lib
from cola_msa.hub.embedder import Embedder
from cola_msa.hub.loading import open_model
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.joined import open_data
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import kept
from cola_msa.runs.info import encoder_info
from cola_msa.system.errors import RunError
from cola_msa.training.trainer import Trainer
from cola_msa.training.warm_start import read_warm_start
from tests.conftest import tiny_config, write_waveforms
from tests.data_prep.datasets.test_datasets import execute
from tests.helpers import trees
from tests.helpers.commands import run_module

CONFIG = waveform_frontend()
RATE = 22050


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Labelled clips, prepared both ways, and a run of CLMR's tiny network."""
    root = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    for label, hz in (("low", 220), ("high", 1760)):
        for number in range(12):
            time = np.arange(12 * RATE) / RATE
            sound = 0.3 * np.sin(2 * np.pi * hz * (1 + 0.02 * number) * time)
            sound *= 1 + 0.5 * np.sin(5 * time)
            sound += random.normal(0, 0.01, len(time))
            path = root / "raw" / label / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound, RATE)
    records = "--records=log_mel,waveform"
    flags = (records, "--validation_share=0.25", "--test_share=0.25")
    assert execute("labelled_folder", root / "raw", root / "data", *flags) == 0
    config = get_preset("clmr_smoke")
    train = dataclasses.replace(config.train, updates_per_step=3)
    config = dataclasses.replace(config, train=train)
    data = open_data(root / "data", CONFIG)
    assert Trainer(config, data, root / "run").run() == "finished"
    return root


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """One file below a window, others of several rates and formats."""
    folder = tmp_path_factory.mktemp("songs")
    for name, rate, seconds in (
        ("short.wav", 22050, 1.2),
        ("long.flac", 44100, 14),
        ("low.mp3", 16000, 7),
    ):
        soundfile.write(folder / name, trees.chirp(seconds, rate), rate)
    return folder


def rows_of_command(model, songs, tmp_path, *more):
    ran = run_module(
        "cola_msa.embed",
        f"--model={model}",
        f"--input={songs}",
        f"--output={tmp_path / 'rows.npz'}",
        "--per=window",
        *more,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    with np.load(tmp_path / "rows.npz") as rows:
        return {
            path.name: rows["embedding"][rows["path"] == str(path)]
            for path in sorted(songs.iterdir())
        }


def test_files_python_and_the_saved_model_agree(world, songs, tmp_path):
    export_lib.export_encoder(world / "run", tmp_path / "export")
    expected = rows_of_command(world / "run", songs, tmp_path)
    assert {k: len(v) for k, v in expected.items()} == {
        "short.wav": 1,
        "long.flac": 5,
        "low.mp3": 2,
    }
    embed = tf.saved_model.load(str(tmp_path / "export")).signatures["embed_waveform"]
    embedder = Embedder.from_pretrained(world / "run")
    exported = rows_of_command(tmp_path / "export", songs, tmp_path)
    for name, wanted in expected.items():
        sound = decode.decode(songs / name)
        samples = resample.to_mono(sound, RATE)
        found = {
            "Python": embedder.windows(sound.samples, sound.rate_hz)[1],
            "SavedModel": embed(
                waveform=tf.constant(samples[np.newaxis]),
                lengths=tf.constant([len(samples)]),
            )["windows"][0].numpy(),
            "windows": embedder.model.embed(
                frontend_numpy.clip_windows(samples, CONFIG)
            ),
            "SavedModel by the command": exported[name],
        }
        for way, rows in found.items():
            assert rows.shape == wanted.shape, way
            worst = np.linalg.norm(rows - wanted, axis=1) / np.linalg.norm(wanted)
            assert worst.max() < 1e-4, way
    stated = json.loads((tmp_path / "export" / "metadata.json").read_text())
    assert stated["frontend"]["kind"] == "waveform"
    assert stated["sample_rate_hz"] == RATE
    assert frontend_numpy.read_frontend(tmp_path / "export") == CONFIG
    assert "Hann" not in stated["frontend_formula"]
    signatures = json.dumps(stated["signatures"])
    assert "hop_samples, 1], samples" in signatures and "log-mel" not in signatures
    assert "of one clip" in stated["signatures"]["match"]["outputs"]["scores"]


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_files_of_other_programs_take_windows(world, songs, tmp_path, file_format):
    if file_format == "onnx":
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    export_lib.export_encoder(world / "run", tmp_path / "x", file_format=file_format)
    expected = rows_of_command(world / "run", songs, tmp_path)
    found = rows_of_command(tmp_path / "x", songs, tmp_path)
    for name, wanted in expected.items():
        difference = np.linalg.norm(found[name] - wanted) / np.linalg.norm(wanted)
        assert difference < 1e-3
    stated = json.loads((tmp_path / "x" / "metadata.json").read_text())
    assert "samples from -1 to 1" in stated["inputs"]["log_mel"]


def test_heads_on_records_say_the_same_of_files(world, tmp_path):
    """Probes read `data/waveform`; `tag` says of a file what its records said."""
    ran = run_module(
        "cola_msa.eval",
        "--task=folder",
        f"--run_dir={world / 'run'}",
        f"--data_dir={world / 'data'}",
        f"--output_dir={tmp_path / 'eval'}",
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["data"]["data_dir"] == str(world / "data" / "waveform")
    tagged = run_module(
        "cola_msa.tag",
        f"--model={world / 'run'}",
        f"--head={tmp_path / 'eval' / 'heads.npz'}",
        f"--input={world / 'raw'}",
        f"--output={tmp_path / 'tags.csv'}",
    )
    assert tagged.returncode == 0, tagged.stderr[-2000:]
    with open(tmp_path / "tags.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    heads = kept_heads.read_heads(tmp_path / "eval" / "heads.npz")
    names = heads.class_names
    with np.load(tmp_path / "eval" / "clip_scores.npz") as scores:
        ids, found = scores["clip_ids"], scores["scores"].mean(axis=0)
    assert len(ids) >= 6
    for clip_id, wanted in zip(ids, found, strict=True):
        row = rows[str(world / "raw" / str(clip_id))]
        given = [float(row[name]) for name in names]
        np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_spectra_of_waveforms_tell_low_from_high(world, tmp_path):
    """The baseline without a network computes log-mels: 220 Hz is not 1,760 Hz."""
    ran = run_module(
        "cola_msa.eval",
        "--task=folder",
        "--encoder=spectra",
        "--probe=ridge",
        f"--run_dir={world / 'run'}",
        f"--data_dir={world / 'data'}",
        f"--output_dir={tmp_path / 'eval'}",
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["scores"]["accuracy"]["value"] == 1.0


def test_retrieval_without_learning_hears_spectra(world):
    """Its rounds are ranked as by the log-mels of what `read` gives."""
    data = PreparedData(world / "data", CONFIG)
    train = tiny_config(source="none", pair_span="clip", batch_size=2).train
    sampler = PairSampler(data, train, "validation")
    draws = retrieval_draws(sampler, num_candidates=6, num_rounds=2)
    found = retrieve_without_learning(sampler, draws)
    ranks = []
    for draw in draws:
        batch = sampler.read(draw)
        profiles = []
        for part in ("anchor", "positive"):
            mels = [one_log_mel(window.ravel()) for window in batch[part]]
            profiles.append(spectral_profiles(np.stack(mels)[..., np.newaxis]))
        scores = profiles[0] @ profiles[1].T
        for k, row in enumerate(scores):
            ranks.append(1 + int((row > row[k] + 1e-6).sum()))
    assert np.abs(found.ranks - ranks).mean() < 0.2
    assert found.top1.mean() > 1 / 3


def one_log_mel(waveform):
    config = FrontendConfig(
        sample_rate_hz=RATE, window_samples=552, hop_samples=220, fft_size=2048
    )
    scale = frontend_numpy.level_factor(waveform)
    return frontend_numpy.log_mel(waveform, config, scale)


def test_the_run_is_compared_with_its_beginning(world):
    data = open_data(world / "data", CONFIG)
    results = baseline.compare_with_untrained(world / "run", data)
    for name in ("trained", "untrained", "no_learning"):
        assert results[name]["num_queries"] > 0
    # The cosine has no kernel that could be put behind the untrained network.
    assert "untrained_trained_kernel" not in results
    table = baseline.render(results)
    assert "kernel" not in table and "trained minus untrained =" in table


@pytest.mark.parametrize("kind", ["run", "saved_model", "pretrained"])
def test_of_whose_a_stem_is_little_is_promised(world, songs, tmp_path, kind, caplog):
    """It has heard no stems. What is shorter than a window counts, filled up."""
    model = world / "run"
    if kind != "run":
        model = tmp_path / "model"
        export_lib.export_encoder(world / "run", model, file_format=kind)
    opened = open_model(model)
    assert not opened.hears_stems
    with caplog.at_level("WARNING"):
        found = match(opened, str(songs / "long.flac"), str(songs))
    (line,) = [r.getMessage() for r in caplog.records if "no stem" in r.getMessage()]
    assert "--source=multi" in line and "\n" not in line
    assert len(found["stems"]) == 2 and not found["silent"] and not found["failures"]
    assert np.isfinite(np.asarray(found["scores"], float)).all()


@pytest.mark.parametrize("form", ["run", "pretrained"])
def test_training_starts_from_another_run_of_it(world, tmp_path, form):
    start_from = world / "run"
    if form == "pretrained":
        start_from = tmp_path / "folder"
        export_lib.export_encoder(world / "run", start_from, file_format=form)
    start = read_warm_start(start_from)
    config = get_preset("clmr_smoke")
    train = dataclasses.replace(
        config.train,
        init_from=start.fingerprint,
        steps=1,
        updates_per_step=2,
        seed=7,
        keep_steps=(),
    )
    config = dataclasses.replace(config, train=train)
    data = open_data(world / "data", CONFIG)
    run_dir = tmp_path / "run"
    assert Trainer(config, data, run_dir, start=start).run() == "finished"
    expected = kept.load_model(world / "run")
    found = kept.load_model(run_dir, "init")
    last = kept.load_model(run_dir)
    trained = {v.path for v in expected.trainable_variables}
    assert len(trained) > 10
    for variable, other, moved in zip(
        expected.trainable_variables,
        found.trainable_variables,
        last.trainable_variables,
        strict=True,
    ):
        np.testing.assert_array_equal(variable, other, err_msg=variable.path)
        assert (np.asarray(moved) != np.asarray(other)).any(), variable.path
    info = encoder_info(run_dir, None, "trained")
    assert info.framework == "clmr" and info.init_from


def test_training_does_not_start_from_another_methods_run(
    world, finished_run, tmp_path
):
    start = read_warm_start(finished_run)
    config = get_preset("clmr_smoke")
    train = dataclasses.replace(config.train, init_from=start.fingerprint)
    config = dataclasses.replace(config, train=train)
    data = open_data(world / "data", CONFIG)
    with pytest.raises(RunError, match="another network.*same --framework"):
        Trainer(config, data, tmp_path / "run", start=start)
    assert not (tmp_path / "run").exists()


def test_several_folders_of_waveforms_are_trained_and_compared_on(world, tmp_path):
    write_waveforms(tmp_path / "more" / "waveform", {"train": 6, "validation": 5}, 50)
    names = f"{world / 'data'},{tmp_path / 'more'}"
    data = open_data(names, CONFIG, ["2", "1"])
    config = get_preset("clmr_smoke")
    train = dataclasses.replace(config.train, steps=2, updates_per_step=2)
    config = dataclasses.replace(config, train=train)
    run_dir = tmp_path / "run"
    assert Trainer(config, data, run_dir).run() == "finished"
    results = baseline.compare_with_untrained(run_dir, open_data(names, CONFIG))
    parts = [
        PreparedData(name, CONFIG).index("validation") for name in names.split(",")
    ]
    songs = [set(map(str, part.groups)) for part in parts]
    assert all(songs) and not songs[0] & songs[1]
    assert results["trained"]["num_songs"] == len(songs[0] | songs[1])
    ran = run_module("cola_msa.curves", f"--run_dir={run_dir}")
    assert ran.returncode == 0, ran.stderr[-2000:]
    curve = json.loads((run_dir / "curves.json").read_text())["retrieval"]
    assert len(curve) == 2  # untrained, and the last


def test_mtebs_clips_are_embedded_as_by_the_embedder(world):
    embedder = Embedder.from_pretrained(world / "run", batch_size=2)
    given = [
        (trees.chirp(1.0, RATE), RATE),  # below a window
        (trees.chirp(9.0, 44100), 44100),
        (np.stack([trees.chirp(6.0, 16000), np.zeros(96_000)]), 16000),
    ]
    batch = [
        {"array": np.asarray(x, np.float32), "sampling_rate": hz} for x, hz in given
    ]
    task = types.SimpleNamespace(name="Styles")
    found = cola_msa.mteb.MtebEncoder(embedder).encode(
        [{"audio": batch[:2]}, {"audio": batch[2:]}],
        task_metadata=task,
        hf_split="test",
        hf_subset="default",
        show_progress_bar=False,
    )
    assert found.shape == (3, embedder.clip_dim) and found.dtype == np.float32
    for row, (samples, rate_hz) in zip(found, given, strict=True):
        expected = embedder(np.asarray(samples, np.float32), rate_hz)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--finetune", "--encoder=supervised"])
def test_an_encoder_of_waveforms_is_trained_with_labels(world, tmp_path, flag):
    ran = run_module(
        "cola_msa.eval",
        "--task=folder",
        flag,
        f"--run_dir={world / 'run'}",
        f"--data_dir={world / 'data'}",
        f"--output_dir={tmp_path / 'eval'}",
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["scores"]["accuracy"]["value"] >= 0.5
