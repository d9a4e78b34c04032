"""What the dataset commands say and do with bad files, bad usage and real music."""

import collections
import dataclasses
import pathlib

import numpy as np
import pytest

from cola_msa.audio import decode
from cola_msa.records import prepared as prepared_lib
from cola_msa.records import schema
from data_prep.datasets import fma, mtat, nsynth
from data_prep.datasets.base import IndexOptions
from tests.data_prep.datasets.test_datasets import (
    MUSIC,
    dataset_of,
    default_options,
    execute,
)
from tests.helpers import trees


def _spoil(root: pathlib.Path) -> dict[str, str]:
    """Adds the issue's bad files to an MTAT tree; returns reasons by path."""
    rows = (root / "annotations_final.csv").read_text().splitlines()
    bad = {
        "2/empty-0-5.mp3": "the file is empty",
        "2/text-0-5.mp3": "not readable as audio",
        "2/cut-0-5.mp3": "truncated",
        "2/short.mp3": "too short",
        "2/gone-0-5.mp3": "does not exist",
    }
    good = {"2/silent-0-5.mp3": "", "2/stereo-0-5.mp3": ""}
    (root / "2").mkdir()
    (root / "2/empty-0-5.mp3").write_bytes(b"")
    (root / "2/text-0-5.mp3").write_text("not music " * 500)
    whole = (root / "0/a-b-01-x-0-5.mp3").read_bytes()
    (root / "2/cut-0-5.mp3").write_bytes(whole[: len(whole) // 2])
    trees.write_mp3(root / "2/short.mp3", trees.chirp(0.2))
    trees.write_wav(root / "2/silent-0-5.mp3", np.zeros(80000, np.float32))
    stereo = np.stack([trees.chirp(5, 8000, seed=k) for k in (0, 1)], 1)
    trees.write_wav(root / "2/stereo-0-5.mp3", stereo, 8000)
    for number, path in enumerate([*bad, *good]):
        rows.append(f'"{100 + number}"\t"1"\t"0"\t"{path}"')
    (root / "annotations_final.csv").write_text("\n".join(rows))
    trees.write_mp3(root / "3/unlabelled-0-5.mp3", trees.chirp(5))
    return {**bad, "3/unlabelled-0-5.mp3": "no row in annotations_final.csv"}


def test_bad_files_are_counted_and_nothing_else_is_lost(tmp_path, capsys):
    root = trees.write_mtat(tmp_path / "raw")
    expected = _spoil(root)
    output = tmp_path / "out"
    assert execute("mtat", root, output) == 1
    assert "6 of 13 clips failed" in capsys.readouterr().err
    data = prepared_lib.PreparedData(output)
    reasons = {f["path"]: f["reason"] for f in data.manifest["failures"]}
    assert reasons.keys() == expected.keys()
    for path, reason in expected.items():
        assert reason in reasons[path]
    assert sorted(data.index("train").clip_ids) == ["0", "1", "105", "106"]
    # Again: what is there is reused, with the same outcome, and one may allow it.
    assert execute("mtat", root, output) == 1
    assert execute("mtat", root, output, "--max_failures=0.5") == 0


def test_missing_label_rows_of_the_probe_sets(tmp_path: pathlib.Path):
    root = trees.write_nsynth(tmp_path / "nsynth")
    trees.write_wav(root / "nsynth-test/audio/more.wav", trees.chirp(4))
    (root / "nsynth-test/audio/bass_test-060-100.wav").unlink()
    assert [
        (f.path, f.reason) for f in nsynth.index(root, IndexOptions()).failures
    ] == [
        (
            "nsynth-test/audio/bass_test-060-100.wav",
            "the file does not exist, but examples.json names it",
        ),
        ("nsynth-test/audio/more.wav", "no entry in examples.json"),
    ]
    root = trees.write_fma(tmp_path / "fma")
    trees.write_wav(root / "fma_small/009/009999.wav", trees.chirp(3))
    assert [f.path for f in fma.index(root, IndexOptions()).failures] == [
        "fma_small/009/009999.wav"
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    [
        ("mtat", [], 1, "annotations_final.csv does not exist; expected layout"),
        ("nsynth", [], 1, "examples.json does not exist; expected layout"),
        ("fma", [], 1, "tracks.csv does not exist; expected layout"),
        ("folder", [], 1, "no audio file"),
        (
            "folder",
            ["--validation_share=0.6", "--test_share=0.5"],
            2,
            "sum must be below 1",
        ),
        (
            "mtat",
            ["--separator=umxhp"],
            1,
            "is neither umxhq, umxl, random nor a folder",
        ),
        ("mtat", ["--stems_dir=nowhere"], 1, "--stems_dir=nowhere is not a folder"),
        ("multitrack", ["--stem_names=vocals"], 2, "must be source=file"),
        ("multitrack", ["--stem_names=bass=a,bass=b"], 2, "name each source once"),
        ("multitrack", ["--stem_names=bass=mixture"], 2, "mixture and bass are both"),
        ("multitrack", ["--stem_names=bass=drums"], 2, "drums and bass are both"),
        ("multitrack", ["--sources=a,a"], 2, "must be distinct"),
    ],
)
def test_errors_are_one_clear_line(tmp_path, capsys, name, arguments, code, message):
    root = tmp_path / "raw"
    root.mkdir()
    assert execute(name, root, tmp_path / "out", *arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ") and "Traceback" not in error


@pytest.mark.parametrize(
    "name", ["mtat", "nsynth", "fma", "multitrack", "multitrack_two_stems"]
)
def test_real_music_where_it_lies_beside_the_checkout(name: str):
    if not (MUSIC / name).exists():
        pytest.skip("no ../shared/music beside the checkout")
    module = name.removesuffix("_two_stems")
    options = default_options(module)
    if name != module:
        options = dataclasses.replace(options, sources=("guitar", "backing"))
    found = dataset_of(module).index(MUSIC / name, options)
    counts = collections.Counter(clip.split for clip in found.clips)
    assert not found.failures
    assert (
        dict(counts)
        == {
            "mtat": {"train": 94, "validation": 8, "test": 24, "train_extra": 1},
            "nsynth": {"train": 66, "validation": 11, "test": 22},
            "fma": {"train": 56, "validation": 16, "test": 16},
            "multitrack": {"train": 16, "validation": 3},
            "multitrack_two_stems": {"train": 3, "validation": 1},
        }[name]
    )
    clip = found.clips[0]
    decoded = decode.decode(MUSIC / name / clip.path, clip.expected_seconds)
    assert decoded.seconds > 3.9


def test_two_clips_with_one_id(tmp_path: pathlib.Path):
    root = trees.write_mtat(tmp_path / "mtat")
    table = root / "annotations_final.csv"
    trees.write_mp3(root / "1/twin-0-5.mp3", trees.chirp(5))
    table.write_text(table.read_text().rstrip() + '\n"1"\t"1"\t"0"\t"1/twin-0-5.mp3"\n')
    assert execute("mtat", root, tmp_path / "out", "--max_failures=0.2") == 0
    data = prepared_lib.PreparedData(tmp_path / "out")
    assert [(f["path"], f["reason"]) for f in data.manifest["failures"]] == [
        ("1/twin-0-5.mp3", "its clip id is also 1/a-b-02-y-0-5.mp3's")
    ]
    assert list(data.index("train").clip_ids).count("1") == 1
    root = trees.write_fma(tmp_path / "fma")
    trees.write_mp3(root / "fma_small/000/000002.mp3", trees.chirp(3))
    found = fma.index(root, IndexOptions())
    assert [(f.path, f.reason) for f in found.failures] == [
        (
            "fma_small/000/000002.wav",
            "its track id is also fma_small/000/000002.mp3's",
        )
    ]
    assert "fma_small/000/000002.mp3" in {clip.path for clip in found.clips}


def _add_broken_mtat(root: pathlib.Path) -> None:
    trees.add_broken_mtat(root)
    # The same fault elsewhere is the user's own.
    (root / "1/a-b-02-y-0-5.mp3").write_bytes(b"")


def _add_broken_fma(root: pathlib.Path) -> None:
    tracks = root / "fma_metadata/tracks.csv"
    rows = ""
    for number in (98565, 98567, 98569, 99134, 108925, 133297):
        rows += f'"{number}","F","F","training","small","30","Rock"\n'
        path = root / f"fma_small/{number // 1000:03d}/{number:06d}.mp3"
        trees.write_mp3(path, trees.chirp(1.5))
        if number > 99000:
            path.write_bytes(b"ID3" + bytes(1749))
    tracks.write_text(tracks.read_text() + rows)
    (root / "fma_small/000/000005.wav").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "add", "reasons"),
    [
        (
            "mtat",
            _add_broken_mtat,
            {"(an empty file in the published archive): the file is empty": 3},
        ),
        (
            "fma",
            _add_broken_fma,
            {
                "(far shorter than 30 s in the published archive): truncated": 3,
                "(without audio in the published archive): not readable": 3,
            },
        ),
    ],
)
def test_clips_that_are_broken_as_published_are_told_as_such(
    tmp_path, name, add, reasons
):
    root = getattr(trees, f"write_{name}")(tmp_path / "raw")
    add(root)
    assert execute(name, root, tmp_path / "out", "--max_failures=1") == 0
    data = prepared_lib.PreparedData(tmp_path / "out")
    known = "known to be broken in the published dataset "
    failures = data.manifest["failures"]
    named = [f["reason"] for f in failures if f["reason"].startswith(known)]
    assert len(named) == sum(reasons.values()) == len(dataset_of(name).known_broken)
    for reason, count in reasons.items():
        assert sum(text.startswith(known + reason) for text in named) == count
    others = [f["reason"] for f in failures if f["reason"] not in named]
    assert others == ["the file is empty (0 bytes)"]


def test_prepared_data_at_an_address_is_refused():
    with pytest.raises(schema.DataError, match="copy the folder to a local disk"):
        prepared_lib.PreparedData("gs://bucket/prepared")


def test_stems_beyond_a_symbolic_link(tmp_path: pathlib.Path):
    (tmp_path / "far").mkdir()
    root = trees.write_mtat(tmp_path / "far" / "raw")
    (tmp_path / "link").symlink_to(root)
    for clip in mtat.index(root, IndexOptions()).clips:
        stem = tmp_path / "stems" / clip.path.removesuffix(".mp3") / "bass.wav"
        trees.write_wav(stem, trees.chirp(5))
    stems_dir = f"--stems_dir={tmp_path / 'stems'}"
    assert execute("mtat", tmp_path / "link", tmp_path / "out", stems_dir) == 0
