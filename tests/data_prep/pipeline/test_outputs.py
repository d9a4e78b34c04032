"""What stands where an output goes is written over only where it is an earlier one."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cola_msa.system import console, files
from cola_msa.system.errors import FileError
from data_prep import copy
from data_prep.checks import download
from data_prep.demo.trees import write as demo_trees
from data_prep.separator import folder
from data_prep.stems.cache import StemCache
from data_prep.stems.waveforms import Waveform
from tests.data_prep.checks.test_download import check, write
from tests.data_prep.checks.test_pictures import run as draw
from tests.data_prep.datasets.test_datasets import execute
from tests.data_prep.pipeline.test_runner import digests
from tests.data_prep.remote.test_remote_errors import copy_values
from tests.helpers import trees
from tests.helpers.buckets import one_line
from tests.helpers.commands import ROOT


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return trees.write_folder(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "out"
    assert execute("folder", raw, output) == 0
    return output


@pytest.mark.parametrize("name", ["manifest.json", "index-photos.npz", "x.tfrecord"])
def test_a_folder_with_files_of_such_names_is_not_prepared_into(
    raw, tmp_path, capsys, name
):
    (tmp_path / name).write_bytes(b"mine")
    (tmp_path / ".lock").write_bytes(b"of another program")
    assert execute("folder", raw, tmp_path) == 1
    assert name in one_line(capsys.readouterr().err) or name == "x.tfrecord"
    assert (tmp_path / name).read_bytes() == b"mine"
    assert (tmp_path / ".lock").read_bytes() == b"of another program"
    assert sorted(os.listdir(tmp_path)) == sorted([name, ".lock"])


def test_a_list_of_problems_is_written_over_another_one_alone(tmp_path, capsys):
    root = write("nsynth", tmp_path / "raw")
    broken = next(root.rglob("*.wav"))
    broken.write_bytes(b"")
    thesis = tmp_path / "thesis.json"
    for text in ('{"chapters": 7}', "[1, 2]", "\\begin{document}"):
        thesis.write_text(text)
        assert check("nsynth", root, f"--output={thesis}") == 1
        assert "nothing is written over it" in one_line(capsys.readouterr().err)
        assert thesis.read_text() == text
    for _ in range(2):
        assert check("nsynth", root, f"--output={tmp_path / 'found.json'}") == 1
    assert broken.name in (tmp_path / "found.json").read_text()
    assert sorted(os.listdir(tmp_path)) == ["found.json", "raw", "thesis.json"]


def test_a_list_of_problems_goes_to_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    download.check_output(tmp_path / "pipe")
    download.write_problems(tmp_path / "pipe", [])
    assert os.read(reader, 100) == b"[]\n"
    os.close(reader)


def test_a_picture_is_drawn_over_another_one_alone(prepared, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG mine")
    assert draw(prepared, photo, "--clip=x") == 1
    assert "nothing is written over it" in one_line(capsys.readouterr().err)
    assert photo.read_bytes() == b"\x89PNG mine"


def test_a_copy_replaces_no_file_of_the_users(prepared, tmp_path, capsys):
    (tmp_path / "preparation.json").write_bytes(b"mine")
    assert console.run(copy.main, copy_values(f"file://{prepared}", tmp_path)) == 1
    assert "nothing is written over them" in one_line(capsys.readouterr().err)
    assert os.listdir(tmp_path) == ["preparation.json"]
    assert (tmp_path / "preparation.json").read_bytes() == b"mine"


def test_copies_at_once_are_whole(prepared, tmp_path):
    target = tmp_path / "copy"
    command = [sys.executable, "-m", "data_prep.copy", f"--output_dir={target}"]
    command.append(f"--data_dir=file://{prepared}")
    copies = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in copies] == [0] * 3
    assert digests(target) == digests(prepared)


@pytest.mark.parametrize("name", ["README.txt", "mtat/paper.pdf", "demo.json"])
def test_built_in_music_leaves_the_users_files_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "notes").write_bytes(b"mine")
    with pytest.raises(FileError, match=name.split("/")[0]):
        demo_trees.write_demo(tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"
    assert (tmp_path / ".work" / "notes").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["report.txt", "separator.json"])
def test_a_separators_folder_is_its_own(tmp_path, name):
    from data_prep.separator.tracks import SeparatorConfig

    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(FileError, match=name):
        folder.open_folder(tmp_path, SeparatorConfig(), [], ["bass"])
    assert (tmp_path / name).read_bytes() == b"mine"


def _stems(seed: int) -> dict[str, Waveform]:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, 4000)
    return {"bass": Waveform(samples.astype(np.float32)).quantize()}


def test_stems_replace_damaged_ones_and_nothing_else(tmp_path):
    song = tmp_path / "song.wav"
    song.write_bytes(b"any")
    cache = StemCache(tmp_path / "cache", {"sources": ["bass"], "rate_hz": 16000})
    cache.store(song, _stems(0))
    (entry,) = (tmp_path / "cache").glob("??/*")
    (entry / "bass.flac").write_bytes(b"damaged")
    assert cache.load(song) is None
    cache.store(song, _stems(0))
    found = cache.load(song)
    assert found is not None
    np.testing.assert_array_equal(found["bass"].read(), _stems(0)["bass"].read())
    assert sorted(os.listdir(entry)) == ["bass.flac", "stems.json"]
    (entry / "stems.json").unlink()
    (entry / "notes.txt").write_bytes(b"mine")
    with pytest.raises(FileError, match="notes.txt"):
        cache.store(song, _stems(0))
    assert (entry / "notes.txt").read_bytes() == b"mine"


def test_what_killed_processes_left_among_stems_is_removed_and_no_more(tmp_path):
    with files.temporary_folder(tmp_path / "ab" / ("ab" * 20)) as being_filled:
        left_over = being_filled.with_name("cd" * 20 + ".0123456789abcdef.tmp")
        left_over.mkdir()
        (left_over / files.MARKER).touch()
        foreign = tmp_path / "ab" / ".photos.tmp"
        foreign.mkdir()
        (foreign / "a.png").write_bytes(b"mine")
        StemCache(tmp_path, {}).remove_unfinished()
        assert not left_over.exists()
        assert being_filled.exists(), "another process fills it"
        assert (foreign / "a.png").read_bytes() == b"mine"
