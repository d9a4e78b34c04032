"""What a check of a download finds, fault by fault."""

import importlib
import json
import pathlib

import numpy as np
import pytest
import soundfile
from absl import flags

from cola_msa.system import console
from data_prep import validate
from data_prep.datasets import base, fma, mtat, nsynth
from data_prep.datasets.base import DatasetError
from tests.helpers import trees

MUSIC = pathlib.Path(__file__).parents[4] / "shared" / "music"
NAMES = ("mtat", "nsynth", "fma")


def check(name: str, root: pathlib.Path, *more: str) -> int:
    values = flags.FlagValues()
    validate.define_flags(values)
    values(["validate", f"--dataset={name}", f"--dataset_dir={root}", *more])
    return console.run(validate.main, values)


def write(name: str, root: pathlib.Path) -> pathlib.Path:
    getattr(trees, f"write_{name}")(root)
    if name == "fma":  # as it is published
        for path in root.rglob("*.wav"):
            trees.write_mp3(path.with_suffix(".mp3"), *soundfile.read(path))
            path.unlink()
    return root


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["--durations", "--nodurations"])
def test_a_good_tree_passes(name, mode, tmp_path, capsys):
    root = write(name, tmp_path)
    assert check(name, root, mode) == 0
    printed = capsys.readouterr().out
    num_clips = {"mtat": 5, "nsynth": 6, "fma": 4}[name]
    assert f"files: {num_clips} of {num_clips} (" in printed
    assert "all is well" in printed
    assert "not the published one, so its counts were not compared" in printed
    assert ("audio: " in printed) == (mode == "--durations")
    dataset = {"mtat": mtat, "nsynth": nsynth, "fma": fma}[name].DATASET
    for text in (dataset.homepage, dataset.licence, dataset.citation, dataset.layout):
        assert text and text in printed


def test_durations_are_those_of_the_files(tmp_path, capsys):
    root = trees.write_nsynth(tmp_path)
    assert check("nsynth", root) == 0
    printed = capsys.readouterr().out
    assert f"audio: {6 * 4 / 3600:.2f} h" in printed
    assert "6 WAV, 16000 Hz, 1 channel(s)" in printed


def test_what_does_not_say_how_long_it_is_is_decoded(tmp_path, capsys):
    root = trees.write_labelled_folder(tmp_path)
    path = root / "calm" / "0.wav"
    content = bytearray(path.read_bytes())
    start = content.find(b"data") + 4
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(content)
    (root / "calm" / "cover.jpg").touch()
    assert check("labelled_folder", root) == 0
    printed = capsys.readouterr().out
    assert f"audio: {12 * 4 / 3600:.2f} h" in printed
    assert "left out: 1 .jpg" in printed


def _cut(path: pathlib.Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])


def spoil_missing(path: pathlib.Path) -> None:
    path.unlink()


def spoil_empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def spoil_tiny(path: pathlib.Path) -> None:
    _cut(path, 0.01)


def spoil_half(path: pathlib.Path) -> None:
    _cut(path, 0.5)


def spoil_page(path: pathlib.Path) -> None:
    path.write_text("<html><body>404 Not Found</body></html>" * 500)


def spoil_link(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def spoil_other(path: pathlib.Path) -> None:
    """Whole, but shorter than the metadata says."""
    form = "MP3" if path.suffix == ".mp3" else "WAV"
    soundfile.write(path, trees.chirp(2), trees.RATE_HZ, format=form)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("spoil", "kind", "needs_durations"),
    [
        (spoil_missing, "missing", False),
        (spoil_empty, "empty", False),
        (spoil_tiny, "short", False),
        (spoil_half, "short", True),
        (spoil_page, "damaged", True),
        (spoil_link, "missing", False),
        (spoil_other, "short", True),
    ],
)
def test_a_bad_file_is_found(name, spoil, kind, needs_durations, tmp_path, capsys):
    root = write(name, tmp_path / "raw")
    suffix = "wav" if name == "nsynth" else "mp3"
    path = sorted(root.rglob(f"*.{suffix}"))[0]
    spoil(path)
    relative = path.relative_to(root).as_posix()
    output = tmp_path / "problems.json"
    assert check(name, root, f"--output={output}") == 1
    printed = capsys.readouterr()
    assert f"{kind}: {relative}: " in printed.out
    assert "1 of " in printed.err and "download or unpack them again" in printed.err
    (problem,) = json.loads(output.read_text())
    assert (problem["path"], problem["kind"]) == (relative, kind)
    assert check(name, root, "--nodurations") == (0 if needs_durations else 1)


def test_a_file_without_a_row_is_found(tmp_path, capsys):
    root = trees.write_fma(tmp_path)
    trees.write_mp3(root / "fma_small/009/009999.mp3", trees.chirp(3))
    assert check("fma", root) == 1
    printed = capsys.readouterr().out
    assert "unlabelled: fma_small/009/009999.mp3: no row" in printed
    assert "files: 4 of 4 (" in printed


def _add_known_broken(root: pathlib.Path) -> None:
    """The six clips that are broken in the published FMA-small."""
    tracks = root / "fma_metadata/tracks.csv"
    rows = ""
    for number in (98565, 98567, 98569, 99134, 108925, 133297):
        rows += f'"{number}","F","F","training","small","30","Rock"\n'
        track = f"{number:06d}"
        path = root / "fma_small" / track[:3] / f"{track}.mp3"
        if number < 99000:
            trees.write_mp3(path, trees.chirp(1.5))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"ID3" + bytes(1749))
    tracks.write_text(tracks.read_text() + rows)


def test_known_broken_clips_of_fma_are_named_as_such(tmp_path, capsys):
    root = trees.write_fma(tmp_path)
    _add_known_broken(root)
    assert check("fma", root) == 0
    printed = capsys.readouterr().out.splitlines()
    known = [line for line in printed if line.startswith("known: ")]
    assert len(known) == 6
    assert sum("without audio in the published archive" in line for line in known) == 3
    assert sum("shorter than 30 s in the published" in line for line in known) == 3
    # Something else beside them is still an error.
    spoil_empty(sorted(root.rglob("*.wav"))[0])
    assert check("fma", root) == 1


def test_known_broken_clips_of_mtat_are_named_as_such(tmp_path, capsys):
    root = trees.write_mtat(tmp_path)
    trees.add_broken_mtat(root)
    assert check("mtat", root) == 0
    printed = capsys.readouterr().out
    assert printed.count("an empty file in the published archive") == 3
    assert len(mtat.KNOWN_BROKEN) == 3


def test_two_processes_find_the_same(tmp_path, capsys):
    root = tmp_path
    notes = {}
    for k in range(40):
        path = root / "nsynth-train" / "audio" / f"note{k:02d}.wav"
        seconds = 4 if k % 7 else 3
        trees.write_wav(path, np.full(16000 * seconds, 0.1, np.float32))
        notes[path.stem] = {"instrument_family": 0, "instrument_family_str": "bass"}
    for folder in ("nsynth-train", "nsynth-valid", "nsynth-test"):
        (root / folder / "audio").mkdir(parents=True, exist_ok=True)
        content = notes if folder == "nsynth-train" else {}
        (root / folder / "examples.json").write_text(json.dumps(content))
    assert check("nsynth", root) == 1
    alone = capsys.readouterr().out
    assert alone.count("short: ") == 6  # five paths, and one line for the sixth
    assert check("nsynth", root, "--num_workers=2") == 1
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_the_dataset(name, tmp_path, capsys):
    assert check(name, tmp_path) == 1
    error = capsys.readouterr().err
    assert "does not exist; expected layout" in error and "get it from https" in error
    assert check(name, tmp_path / "nowhere") == 1


def test_the_published_metadata_with_other_counts_is_refused(tmp_path, monkeypatch):
    """As many rows and tags as the real annotations, but other splits."""
    root = trees.write_mtat(tmp_path)
    monkeypatch.setattr(mtat, "_REAL_ROWS", 5)
    monkeypatch.setattr(mtat, "_REAL_TAGS", 2)
    assert check("mtat", root) == 1
    counts = {"train": 2, "validation": 1, "test": 1, "test with test_extra": 1}
    monkeypatch.setattr(mtat, "_REAL_COUNTS", counts)
    assert check("mtat", root) == 0
    with pytest.raises(DatasetError, match="counts differ"):
        monkeypatch.setattr(mtat, "_REAL_COUNTS", {"train": 3})
        mtat.index(root, base.IndexOptions())


@pytest.mark.parametrize("name", NAMES)
def test_real_music_where_it_lies_beside_the_checkout(name, capsys):
    if not (MUSIC / name).exists():
        pytest.skip("no ../shared/music beside the checkout")
    assert check(name, MUSIC / name, "--nodurations") == 0


# Tasks beyond the paper's -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_clips", "splits"),
    [
        ("gtzan", 6, "test 2, train 2, validation 2"),
        ("jamendo", 6, "test 2, train 2, validation 2"),
        ("labelled_folder", 12, "test "),
    ],
)
def test_a_good_tree_of_another_task_passes(name, num_clips, splits, tmp_path, capsys):
    root = write(name, tmp_path)
    assert check(name, root) == 0
    printed = capsys.readouterr().out
    assert f"files: {num_clips} of {num_clips} ({splits}" in printed
    dataset = importlib.import_module(f"data_prep.datasets.{name}").DATASET
    for text in (dataset.licence, dataset.citation, dataset.layout):
        assert text in printed
    has_source = name != "labelled_folder"
    assert ("get it from: http" in printed) == has_source
    assert ("metadata: not the published one" in printed) == has_source


@pytest.mark.parametrize("name", ["gtzan", "jamendo", "labelled_folder"])
@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(spoil_missing, "missing"), (spoil_empty, "empty"), (spoil_half, "short")],
)
def test_a_bad_file_of_another_task_is_found(name, spoil, kind, tmp_path, capsys):
    root = write(name, tmp_path)
    path = sorted(p for p in root.rglob("*.*") if p.suffix in (".mp3", ".wav"))[0]
    spoil(path)
    is_gone = name == "labelled_folder" and kind == "missing"
    assert check(name, root) == (0 if is_gone else 1)  # no list says it should be there
    printed = capsys.readouterr()
    if not is_gone:
        assert f"{kind}: " in printed.out and path.stem in printed.out
        assert "1 of " in printed.err


def test_lists_may_lie_elsewhere(tmp_path, capsys):
    root = trees.write_gtzan(tmp_path / "raw")
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in root.glob("*_filtered.txt"):
        path.rename(lists / path.name)
    assert check("gtzan", root) == 1
    assert "train_filtered.txt" in capsys.readouterr().err
    assert check("gtzan", root, f"--split_dir={lists}") == 0
    assert check("nsynth", root, f"--split_dir={lists}") == 2
    assert "--split_dir is not for --dataset=nsynth" in capsys.readouterr().err
