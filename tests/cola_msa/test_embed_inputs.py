"""What --input may name."""

import os

import pytest

from cola_msa.embed_inputs import InputError, find_inputs


@pytest.fixture
def music(tmp_path):
    for name in ("b/2.mp3", "b/1.FLAC", "a.wav", "b/.hidden.wav", ".trash/3.ogg"):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "music" / "cover.jpg").touch()
    return tmp_path / "music"


def test_a_folder_is_searched_at_any_depth(music):
    found = [os.path.relpath(path, music) for path in find_inputs(music)]
    assert found == ["a.wav", "b/1.FLAC", "b/2.mp3"]


def test_a_file_is_itself(music):
    assert find_inputs(str(music / "a.wav")) == [str(music / "a.wav")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "a.wav\n\n# remark\nb/2.mp3\na.wav\nmissing.wav\n"),
        ("list.m3u", "#EXTM3U\r\n#EXTINF:3,Song\r\na.wav\r\nb/2.mp3\r\nmissing.wav"),
        ("list.m3u8", "\ufeffa.wav\nb/2.mp3\nmissing.wav\n"),
        ("list.csv", 'title,Path\n"one, two",a.wav\nx,b/2.mp3\ny,missing.wav\n'),
        ("plain.csv", "a.wav,1\nb/2.mp3,2\nmissing.wav,3\n"),
    ],
)
def test_lists_name_files_beside_them(music, name, content):
    (music / name).write_text(content, encoding="utf-8")
    expected = [str(music / entry) for entry in ("a.wav", "b/2.mp3", "missing.wav")]
    assert find_inputs(music / name) == expected


def test_lists_name_files_elsewhere(music, tmp_path, monkeypatch):
    monkeypatch.chdir(music)
    path = tmp_path / "lists" / "list.txt"
    path.parent.mkdir()
    path.write_text(f"b/2.mp3\n{music / 'a.wav'}\nfile://{music}/b/x%20y.wav\n")
    expected = ["b/2.mp3", str(music / "a.wav"), f"{music}/b/x y.wav"]
    assert find_inputs(path) == expected


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\xfa"])
def test_lists_that_name_nothing_are_refused(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="list.txt"):
        find_inputs(path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        find_inputs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no audio file"):
        find_inputs(tmp_path)
