"""Separators: random masks, a folder of weights, and what goes wrong."""

import json
import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

from cola_msa.audio import decode, resample
from cola_msa.records import prepared as prepared_lib
from data_prep.datasets import base, mtat
from data_prep.pipeline import segments
from data_prep.stems import separator as separator_lib
from data_prep.stems import waveforms, weights
from data_prep.stems.waveforms import Waveform
from tests.data_prep.datasets.test_datasets import execute
from tests.helpers import trees

SOURCES = ("vocals", "drums", "bass", "other")


@pytest.fixture(scope="session")
def random_separator(openunmix) -> separator_lib.Separator:
    return separator_lib.Separator("random", pathlib.Path("random"), niter=1, seed=0)


def _load(weights_dir: pathlib.Path, niter: int = 1) -> separator_lib.Separator:
    return separator_lib.Separator("weights", weights_dir, niter, 0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_random_masks_give_stems_that_sum_to_the_mixture(random_separator, channels):
    samples = np.stack([trees.chirp(2, seed=k) for k in range(channels)])
    if channels == 5:
        samples[:] = samples[0]
    decoded = decode.Audio(samples, 16000)
    stems = random_separator.separate(decoded, 16000)
    assert tuple(stems) == SOURCES
    mixture = resample.to_mono(decoded, 16000)
    assert all(stem.dtype == np.float32 for stem in stems.values())
    assert all(abs(len(stem) - len(mixture)) <= 1 for stem in stems.values())
    total = np.sum([stem[:31000] for stem in stems.values()], 0)
    # The Wiener filter with one iteration shares the mixture out.
    assert np.corrcoef(total, mixture[:31000])[0, 1] > 0.99


def test_random_weights_follow_the_seed(openunmix, random_separator):
    same = separator_lib.Separator("random", pathlib.Path("random"), 1, seed=0)
    other = separator_lib.Separator("random", pathlib.Path("random"), 1, seed=1)
    assert same.weights_sha256 == random_separator.weights_sha256
    assert other.weights_sha256 != random_separator.weights_sha256


def test_silence_is_separated_into_silence(random_separator):
    decoded = decode.Audio(np.zeros((2, 44100), np.float32), 44100)
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
    found = ours.separate(decode.Audio(samples, 44100), 44100)
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=1e-6)


class _Payload:
    """What a pickle may do when it is loaded without restriction."""

    def __reduce__(self):
        return (os.mkdir, ("payload_ran",))


@pytest.mark.parametrize(
    "damage", ["missing", "garbage", "incomplete", "shape", "pickle", "settings"]
)
def test_damaged_weights_are_named(
    openunmix, weights_dir, tmp_path, monkeypatch, damage
):
    import torch

    monkeypatch.chdir(tmp_path)
    path = shutil.copytree(weights_dir, tmp_path / "weights")
    named = path / ("separator.json" if damage == "settings" else "bass.pth")
    state = torch.load(path / "bass.pth", weights_only=True)
    if damage == "missing":
        named.unlink()
    elif damage == "garbage":
        named.write_bytes(b"garbage")
    elif damage == "incomplete":
        del state["fc1.weight"]
        torch.save(state, named)
    elif damage == "shape":
        torch.save(state | {"fc1.weight": torch.zeros(3, 3)}, named)
    elif damage == "pickle":
        torch.save(state | {"payload": _Payload()}, named)
    else:
        named.write_text('{"sample_rate": 44100.0}')
    with pytest.raises(weights.SeparatorError, match=re.escape(str(named))) as error:
        _load(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "payload_ran").exists()


@pytest.mark.parametrize("lists_targets", [True, False])
@pytest.mark.parametrize("lost", ["bass.json", "bass.pth", "bass.*"])
def test_a_folder_that_misses_a_target_names_the_file(
    weights_dir, tmp_path, lists_targets, lost
):
    path = shutil.copytree(weights_dir, tmp_path / "weights")
    if lists_targets:
        settings = json.loads((path / "separator.json").read_text())
        settings["targets"] = list(SOURCES)
        (path / "separator.json").write_text(json.dumps(settings))
    for file in path.glob(lost):
        file.unlink()
    named = path / ("bass.pth" if lost == "bass.pth" else "bass.json")
    message = f"{re.escape(str(named))} is missing"
    with pytest.raises(weights.SeparatorError, match=message):
        separator_lib.separator_sources("weights", path)


def test_a_missing_target_ends_the_command_in_one_line(weights_dir, tmp_path, capsys):
    path = shutil.copytree(weights_dir, tmp_path / "weights")
    (path / "drums.pth").unlink()
    root = trees.write_mtat(tmp_path / "raw")
    assert execute("mtat", root, tmp_path / "out", f"--separator={path}") == 1
    errors = capsys.readouterr().err
    assert errors == f"error: {path}/drums.pth is missing\n"


@pytest.mark.parametrize("name", ["bass-0123abcd.pth", "bass_0123abcd.pth"])
def test_names_of_torch_hub(openunmix, weights_dir, tmp_path, name):
    path = shutil.copytree(weights_dir, tmp_path / "weights")
    (path / "bass.pth").rename(path / name)
    assert separator_lib.separator_sources("weights", path) == SOURCES
    assert _load(path).weights_sha256 == _load(weights_dir).weights_sha256


@pytest.mark.parametrize("is_safe", [True, False])
def test_downloaded_weights_are_loaded_with_weights_only(
    openunmix, tmp_path, monkeypatch, is_safe
):
    """Files where torch.hub keeps what it downloaded; Open-Unmix does not restrict."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    scale = torch.full((2049,), 0.25)
    for name in (
        "vocals-b62c91ce",
        "drums-9619578f",
        "bass-8d85a5bd",
        "other-b52fbbf7",
    ):
        content = {"output_scale": scale} if is_safe else {"payload": _Payload()}
        torch.save(content, folder / f"{name}.pth")
    if is_safe:
        loaded = []
        monkeypatch.setattr(
            separator_lib.filter_lib,
            "MonoSeparator",
            lambda model, dtype: loaded.append(model),
        )
        separator_lib.Separator("umxhq", tmp_path, 1, 0)
        networks = loaded[0].target_models.values()
        assert all(network.output_scale.equal(scale) for network in networks)
    else:
        with pytest.raises(weights.SeparatorError, match="weights of umxhq") as error:
            separator_lib.Separator("umxhq", tmp_path, 1, 0)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "payload_ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("module", ["torch", "openunmix"])
def test_a_missing_extra_names_the_command(monkeypatch, module):
    if module == "openunmix":
        pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(weights.SeparatorError) as error:
        separator_lib.Separator("random", pathlib.Path("random"), 1, 0)
    assert "pip install 'cola_msa[separation]'" in str(error.value)


def test_correlation():
    first = trees.chirp(1)
    second = trees.chirp(1, seed=1) + 0.5 * first
    expected = np.corrcoef(first, second)[0, 1]
    found = waveforms.correlation(Waveform(first), Waveform(second))
    assert found == pytest.approx(expected, abs=1e-6)
    for constant in (0, 0.3):
        other = Waveform(np.full_like(first, constant))
        assert waveforms.correlation(Waveform(first), other) is None


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


def test_random_masks_are_recorded_and_reproducible(openunmix, tmp_path, capsys):
    root = trees.write_mtat(tmp_path / "raw")
    flags = ("--separator=random", "--seed=3", "--stem_splits=validation")
    described = []
    for name in ("first", "second"):
        assert execute("mtat", root, tmp_path / name, *flags) == 0
        content = json.loads((tmp_path / name / "manifest.json").read_text())
        described.append(content["separator"])
    assert described[0] == described[1]
    assert (described[0]["name"], described[0]["seed"]) == ("random", 3)
    separator = separator_lib.Separator("random", tmp_path, 1, seed=3)
    assert described[0]["weights_sha256"] == separator.weights_sha256
    decoded = decode.decode(next((root / "c").glob("*.mp3")))
    mixture = resample.to_mono(decoded, 16000)
    expected = {}
    for source, stem in separator.separate(decoded, 16000).items():
        stem = np.pad(stem, (0, 9))[: len(mixture)]
        expected[source] = pytest.approx(np.corrcoef(stem, mixture)[0, 1], abs=1e-4)
    assert described[0]["stem_correlation"] == expected
    printed = ", ".join(
        f"{source} {value:.3f}"
        for source, value in described[0]["stem_correlation"].items()
    )
    line = "separator random (seed 3): correlation of its stems with the mixture: "
    assert capsys.readouterr().out.count(line + printed) == 2


def _compare_with_direct_separation(weights_dir, root, data) -> None:
    separator = _load(weights_dir)
    index = data.index("validation")
    found = mtat.index(root, base.IndexOptions()).clips
    clip = next(c for c in found if c.split == "validation")
    decoded = decode.decode(root / clip.path)
    num_samples = len(resample.to_mono(decoded, 16000))
    for k, stem in enumerate(separator.separate(decoded, 16000).values()):
        stem = Waveform(np.pad(stem, (0, 9))[:num_samples]).quantize().read()
        mel = segments.stored_log_mel(stem, data.frontend)
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
