"""Published datasets on disk as people keep them: links, other suffixes, strays."""

import os
import pathlib
import shutil

import pytest

from cola_msa.audio import errors
from cola_msa.config.schema import FrontendConfig
from data_prep.datasets import base
from data_prep.stems import clip as clip_lib
from tests.cola_msa.audio import test_files
from tests.data_prep.datasets import test_datasets
from tests.helpers import trees

# A folder of clips, and a clip in it, of each dataset's tree.
PLACES = {
    "mtat": ("0", "a-b-01-x-0-5.mp3"),
    "nsynth": ("nsynth-valid/audio", "bass_alid-060-100.wav"),
    "fma": ("fma_small/000", "000005.wav"),
    "gtzan": ("genres/jazz", "jazz.00001.wav"),
    "jamendo": ("01", "1.low.mp3"),
    "labelled_folder": ("calm", "0.wav"),
    "folder": ("x", "1.wav"),
}


def index(name: str, root: pathlib.Path) -> base.DatasetIndex:
    return test_datasets.index_of(name, root)


@pytest.fixture(params=PLACES)
def dataset(request, tmp_path):
    name = request.param
    (tmp_path / "raw").mkdir()
    test_datasets.write_tree(name, tmp_path / "raw")
    folder, clip = PLACES[name]
    assert (tmp_path / "raw" / folder / clip).is_file()
    return name, tmp_path / "raw", folder, clip


def test_a_linked_folder_is_as_good(dataset, tmp_path):
    name, root, folder, _ = dataset
    expected = index(name, root)
    shutil.move(root / folder, tmp_path / "elsewhere")
    (root / folder).symlink_to(tmp_path / "elsewhere")
    assert index(name, root) == expected


def test_the_case_of_a_suffix_is_none(dataset):
    name, root, folder, clip = dataset
    expected = index(name, root)
    stem, suffix = os.path.splitext(clip)
    other = stem + suffix.upper()
    (root / folder / clip).rename(root / folder / other)
    found = index(name, root)
    assert not found.failures and len(found.clips) == len(expected.clips)
    paths = {c.path for c in expected.clips} - {f"{folder}/{clip}"}
    assert {c.path for c in found.clips} == paths | {f"{folder}/{other}"}


def test_a_folder_without_permission_ends_nothing(dataset, monkeypatch):
    name, root, folder, _ = dataset
    before = len(index(name, root).clips)
    test_files.forbid(monkeypatch, root / folder)
    if name == "labelled_folder":  # one class is no task
        shutil.copytree(root / "loud", root / "third")
    found = index(name, root)
    (failure,) = (f for f in found.failures if f.path == folder)
    assert failure.reason == "cannot be read: Permission denied"
    assert 0 < len(found.clips) <= before + 6
    if name not in ("folder", "labelled_folder"):  # which have no list of clips
        lost = [failure for failure in found.failures if failure.path != folder]
        assert len(lost) == before - len(found.clips) > 0
        assert all("Permission denied" in f.reason for f in lost)
        assert not any("does not exist" in f.reason for f in lost)


def test_what_is_left_out_is_said(dataset):
    name, root, folder, _ = dataset
    expected = index(name, root).clips
    (root / folder / "cover.jpg").touch()
    (root / folder / "._mac.wav").touch()
    (root / folder / "again").symlink_to(root / folder)
    (root / folder / "self").symlink_to(root / folder / "self")
    found = index(name, root)
    assert found.clips == expected and not found.failures
    said = "\n".join(found.remarks)
    assert "1 .jpg" in said and "1 hidden" in said
    assert f"listed already: {folder}/again" in said


@pytest.mark.parametrize("name", ["mtat", "nsynth", "fma", "gtzan", "jamendo"])
def test_audio_out_of_place_is_counted(tmp_path, name):
    test_datasets.write_tree(name, tmp_path)
    folder, clip = PLACES[name]
    expected = index(name, tmp_path).clips
    (tmp_path / folder / "deep").mkdir()
    shutil.copy(tmp_path / folder / clip, tmp_path / folder / "deep" / clip)
    found = index(name, tmp_path)
    assert found.clips == expected
    assert any("1 of audio at another depth" in line for line in found.remarks)


@pytest.mark.parametrize("name", ["gtzan", "jamendo"])
def test_audio_in_no_list_is_counted(tmp_path, name):
    test_datasets.write_tree(name, tmp_path)
    folder, clip = PLACES[name]
    before = [
        line for line in index(name, tmp_path).remarks if "files of audio" in line
    ]
    shutil.copy(tmp_path / folder / clip, tmp_path / folder / "other.flac")
    after = [line for line in index(name, tmp_path).remarks if "files of audio" in line]
    assert len(after) == 1 and after != before


@pytest.mark.parametrize("name", ["folder", "labelled_folder"])
def test_names_of_any_bytes_are_said_in_one_line(tmp_path, name):
    test_datasets.write_tree(name, tmp_path)
    folder = tmp_path / PLACES[name][0]
    for link in (b"caf\xe9", b"two\nlines"):
        os.symlink(os.fsencode(folder), os.path.join(os.fsencode(folder), link))
    said = index(name, tmp_path).remarks
    assert all(line.isprintable() for line in said)
    assert any("caf\\udce9" in line and "two\\nlines" in line for line in said)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Vocals.WAV", "DRUMS.Flac"), ["drums", "vocals"]),
        (("vocals.wav", "my drums.wav"), ["vocals"]),
    ],
)
def test_stems_beside_the_mixtures_have_any_case(tmp_path, names, expected):
    trees.write_wav(tmp_path / "a.wav", trees.chirp(2))
    for name in names:
        trees.write_wav(tmp_path / "stems" / "a" / name, trees.chirp(2))
    clip = base.Clip("a", "a.wav", "train", "a", wants_stems=True)
    sources = ("vocals", "drums")
    stems = clip_lib.load_clip(
        clip, sources, FrontendConfig(), tmp_path, stems_dir="stems"
    )[1]
    assert sorted(stems) == expected


def test_a_folder_of_stems_without_permission_fails_its_clip(tmp_path, monkeypatch):
    trees.write_wav(tmp_path / "a.wav", trees.chirp(2))
    (tmp_path / "stems" / "a").mkdir(parents=True)
    listdir = os.listdir

    def refuse(path):
        if pathlib.Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    clip = base.Clip("a", "a.wav", "train", "a", wants_stems=True)
    with pytest.raises(errors.StemError, match="cannot be read: Permission denied"):
        clip_lib.load_clip(
            clip, ("vocals",), FrontendConfig(), tmp_path, stems_dir="stems"
        )
