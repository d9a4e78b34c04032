"""Listings leave nothing out in silence."""

import os
import pathlib

import pytest

from cola_msa.audio.files import AUDIO_SUFFIXES, find_audio, list_audio
from cola_msa.collection.inputs import InputError, list_inputs


def make(root: pathlib.Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: pathlib.Path) -> list[str]:
    return [os.path.relpath(path, root) for path in list_audio(root).paths]


def forbid(monkeypatch, *folders: pathlib.Path) -> None:
    """As if nobody might read these folders; root may read all."""
    scan = os.scandir

    def scandir(path):
        if not isinstance(path, int) and pathlib.Path(path) in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    root, other = tmp_path / "music", tmp_path / "disk"
    make(root, "a.wav", "album/b.wav")
    make(other, "c.wav", "deep/d.wav")
    (root / "linked").symlink_to(other)
    (root / "album" / "up").symlink_to(root)
    (root / "0 again").symlink_to(root / "album")
    (other / "itself").symlink_to(other)
    (root / "self").symlink_to(root / "self")
    assert listed(root) == ["a.wav", "album/b.wav", "linked/c.wav", "linked/deep/d.wav"]
    repeated = [os.path.relpath(path, root) for path in list_audio(root).repeated]
    assert repeated == ["0 again", "album/up", "linked/itself"]
    assert "3 links to folders that are listed already" in list_audio(root).remarks()[1]


def test_a_linked_root_is_searched(tmp_path):
    make(tmp_path / "music", "a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "music")
    assert list_inputs(tmp_path / "link").paths == [str(tmp_path / "link" / "a.wav")]


def test_folders_without_permission_are_named(tmp_path, monkeypatch):
    make(tmp_path, "a.wav", "secret/b.wav", "open/c.wav")
    forbid(monkeypatch, tmp_path / "secret")
    inputs = list_inputs(tmp_path)
    assert [os.path.basename(path) for path in inputs.paths] == ["a.wav", "c.wav"]
    assert inputs.failures == {
        str(tmp_path / "secret"): "cannot be read: Permission denied"
    }
    assert f"1 folders that cannot be read: {tmp_path / 'secret'}" in inputs.remarks[0]
    forbid(monkeypatch, tmp_path)
    with pytest.raises(InputError, match="no audio file.*cannot be read"):
        list_inputs(tmp_path)


def test_other_files_are_counted_by_suffix(tmp_path):
    make(tmp_path, "a.wav", "1.jpg", "b/2.JPG", "notes", ".DS_Store", ".git/x.wav")
    make(tmp_path, "album.mp3/c.wav")
    (tmp_path / "empty.flac").mkdir()
    found = list_audio(tmp_path)
    assert found.left_out == {".jpg": 2, "without a suffix": 1, "hidden": 2}
    assert found.remarks() == ("left out: 2 .jpg, 2 hidden, 1 without a suffix",)
    assert found.folders == (str(tmp_path / "empty.flac"),)


@pytest.mark.parametrize(
    "suffix", ".wv .tta .webm .mp4 .mpc .ape .ac3 .mka .mov .spx .mp2 .aifc".split()
)
def test_what_decodes_is_audio(tmp_path, suffix):
    assert suffix in AUDIO_SUFFIXES
    make(tmp_path, f"a{suffix.upper()}")
    assert listed(tmp_path) == [f"a{suffix.upper()}"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Vocals.WAV"], "Vocals.WAV"),
        (["VOCALS.flac", "vocals.wav"], "vocals.wav"),
        (["vocals.mp4", "vocals.wav"], "vocals.wav"),
        (["vocals.mp3", "vocals.flac"], "vocals.flac"),
        (["my vocals.wav", "vocals.txt"], None),
    ],
)
def test_stems_are_found_whatever_their_case(tmp_path, names, expected):
    make(tmp_path, *names)
    found = find_audio(tmp_path, "vocals")
    assert (found.name if found else None) == expected
