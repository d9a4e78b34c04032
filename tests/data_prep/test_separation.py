"""Separators: random masks, a folder of weights, and what goes wrong."""

import json
import os
import pathlib
import sys

import numpy as np
import pytest

from cola_msa import prepared as prepared_lib
from data_prep import audio, cli, mtat, separation, shards
from tests.data_prep import trees
from tests.data_prep.test_datasets import execute

SOURCES = ("vocals", "drums", "bass", "other")


@pytest.fixture(scope="session")
def openunmix():
    try:
        return separation._import_openunmix()
    except separation.SeparatorError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the extra: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def random_separator(openunmix) -> separation.Separator:
    return separation.Separator("random", pathlib.Path("random"), niter=1, seed=0)


@pytest.fixture(scope="session")
def weights_dir(openunmix, tmp_path_factory) -> pathlib.Path:
    """A tiny Open-Unmix of four targets, in its own folder format."""
    import torch
    from openunmix import model

    path = tmp_path_factory.mktemp("weights")
    settings = {"sample_rate": 44100.0, "nfft": 1024, "nhop": 512, "nb_channels": 2}
    (path / "separator.json").write_text(json.dumps(settings))
    arguments = {"nfft": 1024, "nb_channels": 2, "hidden_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for source in SOURCES:
            target = model.OpenUnmix(513, 2, hidden_size=8, max_bin=300)
            torch.save(target.state_dict(), path / f"{source}.pth")
            (path / f"{source}.json").write_text(json.dumps({"args": arguments}))
    return path


def _load(weights_dir: pathlib.Path, niter: int = 1) -> separation.Separator:
    return separation.Separator("weights", weights_dir, niter, 0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_random_masks_give_stems_that_sum_to_the_mixture(random_separator, channels):
    samples = np.stack([trees.chirp(2, seed=k) for k in range(channels)])
    if channels == 5:
        samples[:] = samples[0]
    decoded = audio.Audio(samples, 16000)
    stems = random_separator.separate(decoded, 16000)
    assert tuple(stems) == SOURCES
    mixture = audio.to_mono(decoded, 16000)
    assert all(stem.dtype == np.float32 for stem in stems.values())
    assert all(abs(len(stem) - len(mixture)) <= 1 for stem in stems.values())
    total = np.sum([stem[:31000] for stem in stems.values()], 0)
    # The Wiener filter with one iteration shares the mixture out.
    assert np.corrcoef(total, mixture[:31000])[0, 1] > 0.99


def test_random_weights_follow_the_seed(openunmix, random_separator):
    same = separation.Separator("random", pathlib.Path("random"), 1, seed=0)
    other = separation.Separator("random", pathlib.Path("random"), 1, seed=1)
    assert same.weights_sha256 == random_separator.weights_sha256
    assert other.weights_sha256 != random_separator.weights_sha256


def test_silence_is_separated_into_silence(random_separator):
    decoded = audio.Audio(np.zeros((2, 44100), np.float32), 44100)
    stems = random_separator.separate(decoded, 16000)
    assert max(np.abs(stem).max() for stem in stems.values()) == 0


def test_a_folder_of_weights_separates_as_openunmix_does(openunmix, weights_dir):
    import torch
    from openunmix import utils

    ours = _load(weights_dir)
    theirs = utils.load_separator(weights_dir, targets=list(SOURCES), niter=1)
    theirs.freeze()
    samples = np.stack([trees.chirp(2, 44100, seed=k) for k in (0, 1)])
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(samples)[None])[0].mean(1).numpy()
    found = ours.separate(audio.Audio(samples, 44100), 44100)
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=1e-6)


@pytest.mark.parametrize("damage", ["missing", "garbage", "incomplete"])
def test_damaged_weights_are_named(openunmix, weights_dir, tmp_path, damage):
    import shutil

    import torch

    path = tmp_path / "weights"
    shutil.copytree(weights_dir, path)
    if damage == "missing":
        (path / "bass.pth").unlink()
    elif damage == "garbage":
        (path / "bass.pth").write_bytes(b"garbage")
    else:
        state = torch.load(path / "bass.pth", weights_only=True)
        del state["fc1.weight"]
        torch.save(state, path / "bass.pth")
    with pytest.raises(separation.SeparatorError, match=str(path)) as error:
        _load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["torch", "openunmix"])
def test_a_missing_extra_names_the_command(monkeypatch, module):
    if module == "openunmix":
        pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(separation.SeparatorError) as error:
        separation.Separator("random", pathlib.Path("random"), 1, 0)
    assert "pip install 'cola_msa[separation]'" in str(error.value)


def test_correlation():
    first = trees.chirp(1)
    second = trees.chirp(1, seed=1) + 0.5 * first
    expected = np.corrcoef(first, second)[0, 1]
    assert separation.correlation(first, second) == pytest.approx(expected, abs=1e-6)
    assert separation.correlation(first, np.zeros_like(first)) is None


def test_mtat_with_a_separator(weights_dir, tmp_path, capsys):
    root = trees.write_mtat(tmp_path / "raw")
    output = tmp_path / "out"
    assert execute("mtat", root, output, f"--separator={weights_dir}") == 0
    data = prepared_lib.PreparedData(output)
    assert data.sources == SOURCES
    described = data.manifest["separator"]
    assert described["weights_sha256"] == _load(weights_dir).weights_sha256
    assert described["niter"] == 1
    assert {"torch", "openunmix"} <= data.manifest["versions"].keys()
    assert data.index("train").has_stem.all()
    assert not data.index("test").has_stem.any()
    assert str(tmp_path) not in (output / "manifest.json").read_text()
    _compare_with_direct_separation(weights_dir, root, data)


def _compare_with_direct_separation(weights_dir, root, data) -> None:
    separator = _load(weights_dir)
    index = data.index("validation")
    found = mtat.index(root, cli.IndexOptions()).clips
    clip = next(c for c in found if c.split == "validation")
    decoded = audio.decode(root / clip.path)
    num_samples = len(audio.to_mono(decoded, 16000))
    for k, stem in enumerate(separator.separate(decoded, 16000).values()):
        stem = np.pad(stem, (0, 9))[:num_samples]
        mel = shards.stored_log_mel(stem, data.frontend)
        for row in range(len(index.segment)):
            first, count = 392 * row, int(index.num_frames[row])
            under = stem[first * 160 : (first + count) * 160]
            assert index.is_active[row, k] == (np.abs(under).mean() >= 0.01)
            if index.is_active[row, k]:
                stored = data.read("validation", 0, index.stem_offset[row, k], count)
                np.testing.assert_array_equal(stored, mel[first : first + count])
    reported = data.manifest["separator"]["stem_correlation"]
    assert list(reported) == list(SOURCES)
    assert all(-1 <= value <= 1 for value in reported.values())
