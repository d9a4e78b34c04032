"""Tracks, splits and chunks that a separator is trained on. No torch needed."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from cola_msa.audio import errors
from cola_msa.config.schema import SOURCES
from data_prep.datasets.base import DatasetError, IndexOptions
from data_prep.separator import chunks
from data_prep.separator import tracks as tracks_lib
from data_prep.separator.tracks import RATE_HZ, SeparatorConfig
from tests.helpers import trees

CONFIG = SeparatorConfig(seq_seconds=0.5, samples_per_track=5, batch_size=4)


def _splits(root, config=CONFIG) -> dict[str, str]:
    tracks, _ = tracks_lib.list_tracks(root, config)
    return {track.name: track.split for track in tracks}


def test_songs_are_never_divided(tmp_path):
    names = tuple(f"song{k}_{part}" for k in range(6) for part in "ab")
    trees.write_stems(tmp_path, names, seconds=1.0)
    for name in names:
        meta = json.dumps({"piece": name.split("_")[0]})
        (tmp_path / name / "meta.json").write_text(meta)
    found = _splits(tmp_path)
    assert set(found.values()) == {"train", "validation", "test"}
    assert all(found[f"song{k}_a"] == found[f"song{k}_b"] for k in range(6))
    assert found == _splits(tmp_path)
    options = dataclasses.replace(CONFIG.options, seed=3)
    assert found != _splits(tmp_path, dataclasses.replace(CONFIG, options=options))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ("train/A", "train/Leaf - Summerghost", "train/B", "test/C"),
            {"train": 2, "validation": 1, "test": 1},
        ),
        (("train/A", "train/B", "train/D", "test/C"), {"train": 2, "validation": 1}),
        (("train/A", "valid/B", "test/C"), {"train": 1, "validation": 1, "test": 1}),
        (("train/A", "train/B"), {"train": 1, "validation": 1, "test": 0}),
    ],
)
def test_split_folders(tmp_path, names, expected):
    found = _splits(trees.write_stems(tmp_path, names, seconds=1.0))
    for split, count in expected.items():
        assert list(found.values()).count(split) == count
    assert found.get("train/Leaf - Summerghost") in (None, "validation")
    assert found.get("test/C") in (None, "test")


def test_musdb_holds_out_fourteen_tracks():
    assert len(set(tracks_lib.MUSDB_VALIDATION)) == 14


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path):
    names = ("a", "b", "c", "no_bass", "short", "text")
    root = trees.write_stems(tmp_path, names, seconds=1.0)
    (root / "no_bass" / "bass.wav").unlink()
    (root / "text" / "bass.wav").write_text("no audio")
    trees.write_wav(root / "short" / "drums.wav", trees.chirp(0.1, 44100), 44100)
    tracks, failures = tracks_lib.list_tracks(root, CONFIG)
    assert sorted(track.split for track in tracks) == ["test", "train", "validation"]
    reasons = {failure.path: failure.reason for failure in failures}
    assert reasons.keys() == {"no_bass", "short", "text"}
    assert reasons["no_bass"] == "lacks the stem bass"
    assert reasons["short"].startswith("its shortest stem of 0.10 s is shorter than")
    assert reasons["text"] == "bass.wav is not readable as audio"


def test_a_dataset_without_validation_tracks_is_refused(tmp_path):
    root = trees.write_stems(tmp_path, ("a",), seconds=1.0)
    with pytest.raises(DatasetError, match="no track for the validation split"):
        tracks_lib.list_tracks(root, CONFIG)


def test_other_names_of_sources(tmp_path):
    root = trees.write_stems(tmp_path, ("a", "b"), seconds=1.0)
    options = IndexOptions(
        sources=("guitar", "backing"),
        stem_names=(("backing", "other"), ("guitar", "bass")),
    )
    config = dataclasses.replace(CONFIG, options=options)
    tracks, _ = tracks_lib.list_tracks(root, config)
    assert tracks[0].stems == ("a/bass.wav", "a/other.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("start", [0, 1, 30000])
def test_a_chunk_is_the_whole_files(tmp_path, suffix, start):
    stereo = np.stack([trees.chirp(2, RATE_HZ, seed=k) for k in (0, 1)])
    path = tmp_path / f"stem.{suffix}"
    soundfile.write(path, stereo.T, RATE_HZ)
    whole = chunks.read_whole(path)
    found = chunks.read_chunk(path, start, 20000)
    np.testing.assert_array_equal(found, whole[:, start : start + 20000])
    assert found.dtype == np.float32


def test_a_chunk_is_filled_with_zeros(tmp_path):
    path = trees.write_wav(tmp_path / "a.wav", trees.chirp(1, RATE_HZ), RATE_HZ)
    found = chunks.read_chunk(path, RATE_HZ - 100, 300)
    assert found.shape == (2, 300)
    assert np.abs(found[:, :100]).max() > 0
    assert not found[:, 100:].any()
    assert not chunks.read_chunk(path, 2 * RATE_HZ, 300).any()


def test_mono_is_doubled_and_rates_are_changed(tmp_path):
    samples = trees.chirp(1, 22050)
    path = trees.write_wav(tmp_path / "a.wav", samples, 22050)
    whole = chunks.read_whole(path)
    assert whole.shape == (2, RATE_HZ)
    np.testing.assert_array_equal(whole[0], whole[1])
    np.testing.assert_allclose(whole[0, ::2][500:-500], samples[500:-500], atol=0.05)
    chunk = chunks.read_chunk(path, 10000, 8000)
    assert chunk.shape == (2, 8000)
    inner = slice(500, -500)
    expected = whole[:, 10000:18000][:, inner]
    np.testing.assert_allclose(chunk[:, inner], expected, atol=2e-3)


def test_further_channels_are_dropped():
    samples = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = chunks.to_stereo(samples, RATE_HZ)
    np.testing.assert_array_equal(found, samples[:2])


def _read_chunk(path):
    return chunks.read_chunk(path, 0, 1000)


@pytest.mark.parametrize("content", ["text", "nan"])
@pytest.mark.parametrize("read", [chunks.read_whole, _read_chunk])
def test_a_damaged_file_is_named(tmp_path, content, read):
    path = tmp_path / "bass.wav"
    if content == "text":
        path.write_text("no audio")
    else:
        trees.write_wav(path, np.full(4000, np.nan, np.float32), RATE_HZ)
    with pytest.raises(errors.AudioError, match="bass.wav"):
        read(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = trees.write_stems(tmp_path_factory.mktemp("stems"), ("a", "b", "c"), 1.0)
    tracks = tuple(
        tracks_lib.Track(
            name=name,
            split="train",
            mixture=None if name == "c" else f"{name}/mixture.wav",
            stems=tuple(f"{name}/{source}.wav" for source in SOURCES),
            seconds=1.0,
        )
        for name in "abc"
    )
    return root, tracks


@pytest.mark.parametrize("cache_gb", [0.0, 0.003, 1.0])
def test_what_is_kept_in_memory_changes_nothing(dataset, cache_gb):
    root, tracks = dataset
    reader = chunks.StemReader(root, tracks, cache_gb)
    for track in tracks:
        found = reader.chunk(track.stems[1], 777, 5000)
        expected = soundfile.read(root / track.stems[1], dtype="float32")[0].T
        np.testing.assert_array_equal(found, expected[:, 777:5777])


@pytest.mark.parametrize("number", [0, 2])
def test_a_whole_track(dataset, number):
    root, tracks = dataset
    reader = chunks.StemReader(root, tracks, 0)
    mixture, stems = reader.whole(tracks[number], [2, 0])
    files = [
        soundfile.read(root / path, dtype="float32")[0].T
        for path in tracks[number].stems
    ]
    np.testing.assert_allclose(mixture, np.sum(files, axis=0), atol=1e-6)
    np.testing.assert_array_equal(stems[0], files[2])
    np.testing.assert_array_equal(stems[1], files[0])


def test_draws_are_a_function_of_the_seed():
    first = chunks.draw_epoch([3.0, 4.0], CONFIG, (0, 1, 2))
    again = chunks.draw_epoch([3.0, 4.0], CONFIG, (0, 1, 2))
    later = chunks.draw_epoch([3.0, 4.0], CONFIG, (0, 1, 3))
    for name in ("track", "start", "gain", "is_swapped"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert (getattr(first, name) != getattr(later, name)).any()


def test_what_is_drawn():
    config = dataclasses.replace(CONFIG, samples_per_track=2000)
    draws = chunks.draw_epoch([1.0, 2.0, 5.0], config, (0,))
    assert draws.track.shape == (6000, 4)
    counts = np.bincount(draws.track.ravel()) / draws.track.size
    np.testing.assert_allclose(counts, 1 / 3, atol=0.02)
    # The sources of an example are drawn each by itself.
    assert np.mean(draws.track[:, 0] == draws.track[:, 1]) == pytest.approx(
        1 / 3, abs=0.03
    )
    for number, seconds in enumerate([1.0, 2.0, 5.0]):
        starts = draws.start[draws.track == number] / RATE_HZ
        assert 0 <= starts.min() < 0.02 * seconds
        assert 0.98 * (seconds - 0.5) < starts.max() <= seconds - 0.5
    assert 0.25 <= draws.gain.min() < 0.26
    assert 1.24 < draws.gain.max() <= 1.25
    assert draws.gain.mean() == pytest.approx(0.75, abs=0.01)
    assert draws.is_swapped.mean() == pytest.approx(0.5, abs=0.01)


def test_without_mixing_an_example_is_one_excerpt():
    config = dataclasses.replace(
        CONFIG, random_track_mix=False, source_augmentations=()
    )
    draws = chunks.draw_epoch([1.0, 2.0, 3.0], config, (0,))
    assert (draws.track == draws.track[:, :1]).all()
    assert (draws.start == draws.start[:, :1]).all()
    np.testing.assert_array_equal(np.bincount(draws.track[:, 0]), [5, 5, 5])
    assert (np.diff(draws.track[:, 0]) < 0).any()
    assert (draws.gain == 1).all()
    assert not draws.is_swapped.any()


def test_batches_against_a_loop(dataset):
    root, tracks = dataset
    reader = chunks.StemReader(root, tracks, 1)
    draws = chunks.draw_epoch([1.0] * 3, CONFIG, (5,))
    found = list(chunks.batches(reader, tracks, draws, 2, CONFIG))
    assert [len(mixtures) for mixtures, _ in found] == [4, 4, 4, 3]
    mixtures = np.concatenate([mixtures for mixtures, _ in found])
    targets = np.concatenate([targets for _, targets in found])
    for k in range(15):
        total = np.zeros((22050, 2))
        for s, source in enumerate(SOURCES):
            name = "abc"[draws.track[k, s]]
            samples, _ = soundfile.read(root / name / f"{source}.wav")
            samples = samples[draws.start[k, s] : draws.start[k, s] + 22050]
            if draws.is_swapped[k, s]:
                samples = samples[:, ::-1]
            samples = samples * draws.gain[k, s]
            total += samples
            if source == "bass":
                np.testing.assert_allclose(targets[k], samples.T, atol=1e-6)
        np.testing.assert_allclose(mixtures[k], total.T, atol=1e-6)
