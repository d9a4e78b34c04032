"""A clip's embedding of its windows': mean and deviation, by every way alike."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

import cola_msa
from cola_msa import hear
from cola_msa.collection import embed as embed_lib
from cola_msa.collection.search import build as build_lib
from cola_msa.collection.search import index as index_lib
from cola_msa.collection.search import query as query_lib
from cola_msa.hub import export as export_lib
from cola_msa.hub import loading, pretrained
from cola_msa.model.embedding import ClipPooling
from cola_msa.runs import kept
from cola_msa.training.trainer import Trainer
from tests.conftest import tiny_config
from tests.helpers.trees import chirp, write_wav


@pytest.fixture(scope="module")
def run_dir(prepared, tmp_path_factory):
    plain = tiny_config()
    model = dataclasses.replace(
        plain.model, pooling="levels", embedding="levels", clip_embedding="moments"
    )
    run_dir = tmp_path_factory.mktemp("moments") / "run"
    config = dataclasses.replace(plain, model=model)
    assert Trainer(config, prepared, run_dir).run() == "finished"
    return run_dir


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for k, seconds in enumerate((5.3, 0.6, 9.1)):  # the second has one window
        fading = chirp(seconds, seed=k) * np.linspace(1, 0.01, round(16000 * seconds))
        write_wav(folder / f"{k}.wav", fading.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def expected(run_dir, music):
    """By loops over windows and values, in double precision."""
    embed = cola_msa.Embedder.from_pretrained(run_dir)
    found = {}
    for path in sorted(music.iterdir()):
        song = cola_msa.decode(str(path))
        windows = embed.windows(song.samples, song.rate_hz)[1].astype(np.float64)
        columns = [list(column) for column in windows.T]
        means = [sum(values) / len(values) for values in columns]
        deviations = [
            np.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
            for values, mean in zip(columns, means, strict=True)
        ]
        found[str(path)] = np.array([*means, *deviations])
    return found


def test_python_and_hear(run_dir, expected):
    embed = cola_msa.Embedder.from_pretrained(run_dir)
    model = hear.load_model(str(run_dir))
    assert (embed.dim, embed.clip_dim) == (512, 1024)
    assert model.scene_embedding_size == 1024
    assert model.timestamp_embedding_size == 512
    for path, values in expected.items():
        song = cola_msa.decode(path)
        found = embed(song.samples, song.rate_hz)
        np.testing.assert_allclose(found, values, atol=1e-6)
        scene = hear.get_scene_embeddings(song.samples, model)
        np.testing.assert_allclose(scene[0], values, atol=1e-5)
        times = hear.get_timestamp_embeddings(song.samples, model)[0]
        assert times.shape[2] == 512


@pytest.mark.parametrize("suffix", ["npz", "h5", "parquet"])
def test_files_of_clips_and_of_windows(run_dir, expected, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    model = loading.open_model(run_dir)
    for per in ("clip", "window"):
        output = tmp_path / f"{per}.{suffix}"
        embed_lib.embed_files(list(expected), output, model, per, is_quiet=True)
        table = cola_msa.load_embeddings(output)
        assert table.paths == tuple(expected)
        for row, values in zip(table.embeddings, expected.values(), strict=True):
            np.testing.assert_allclose(row, values, atol=1e-6)
        raw = cola_msa.load_embeddings(output, per_clip=False)
        assert raw.embeddings.shape[1] == (1024 if per == "clip" else 512)


def test_saved_model(run_dir, expected, tmp_path):
    metadata = export_lib.export_encoder(run_dir, tmp_path / "export")
    assert (metadata["clip_embedding"], metadata["clip_dim"]) == ("moments", 1024)
    songs = [cola_msa.decode(path).samples[0] for path in expected]
    lengths = [len(song) for song in songs]
    batch = np.zeros((len(songs), max(lengths)), np.float32)
    for row, song in zip(batch, songs, strict=True):
        row[: len(song)] = song
    embed = tf.saved_model.load(tmp_path / "export").signatures["embed_waveform"]
    found = embed(waveform=tf.constant(batch), lengths=tf.constant(lengths))
    for row, values in zip(found["clip"].numpy(), expected.values(), strict=True):
        np.testing.assert_allclose(row, values, atol=1e-4)
    opened = cola_msa.Embedder.from_pretrained(tmp_path / "export")
    assert opened.clip_dim == 1024
    path, values = next(iter(expected.items()))
    song = cola_msa.decode(path)
    np.testing.assert_allclose(opened(song.samples, song.rate_hz), values, atol=1e-4)


@pytest.mark.parametrize("kind", ["pretrained", "onnx", "tflite"])
def test_other_ways_out(run_dir, expected, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    export_lib.export_encoder(run_dir, tmp_path / "out", file_format=kind)
    embed = cola_msa.Embedder.from_pretrained(tmp_path / "out")
    for path, values in expected.items():
        song = cola_msa.decode(path)
        found = embed(song.samples, song.rate_hz)
        np.testing.assert_allclose(found, values, atol=1e-3)


def test_search_compares_the_same(run_dir, expected, tmp_path):
    model = loading.open_model(run_dir)
    table = tmp_path / "all.npz"
    embed_lib.embed_files(list(expected)[1:], table, model, is_quiet=True)
    build_lib.build(str(table), str(tmp_path / "index.npz"), "cosine")
    index = index_lib.load_index(tmp_path / "index.npz")
    path, values = next(iter(expected.items()))
    (answer,) = query_lib.query(index, [path], 1, model=str(run_dir))
    best = answer["results"][0]
    other = expected[best["path"]]
    cosine = values @ other / np.linalg.norm(values) / np.linalg.norm(other)
    assert best["score"] == pytest.approx(cosine, abs=1e-5)


def test_it_is_another_encoder_by_its_key(run_dir, tmp_path, prepared):
    """Embeddings of the one are none of the other's, though the weights are."""
    copy = tmp_path / "copy"
    pretrained.save_pretrained(run_dir, copy)
    own = loading.open_model(copy)
    assert own.key == kept.encoder_key(run_dir) and own.clip_embedding == "moments"
    config = json.loads((run_dir / "config.json").read_text())
    config["config"]["model"]["clip_embedding"] = "mean"
    changed = tmp_path / "mean"
    changed.mkdir()
    (changed / "config.json").write_text(json.dumps(config))
    (changed / "kept").symlink_to(run_dir / "kept")
    mean = loading.open_model(changed)
    assert mean.key != own.key and mean.clip_dim == 512


def test_windows_may_come_a_few_at_a_time():
    rows = np.random.default_rng(0).normal(5, 0.01, (37, 8)).astype(np.float32)
    pooling = ClipPooling("moments")
    for first in range(0, 37, 5):
        pooling.add(rows[first : first + 5])
    exact = rows.astype(np.float64)
    expected = np.concatenate([exact.mean(0), exact.std(0)])
    np.testing.assert_allclose(pooling.result(), expected, rtol=1e-5)
