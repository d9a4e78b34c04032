"""Pictures of prepared data: their content, and what they say where there is none."""

import json
import pathlib
import shutil

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from cola_msa.config.schema import SOURCES
from cola_msa.records import schema
from cola_msa.records.prepared import PreparedData
from cola_msa.system import console
from data_prep import inspect
from data_prep.checks import pictures
from data_prep.datasets import folder, multitrack
from data_prep.datasets.base import IndexOptions
from data_prep.pipeline import plan, runner
from tests.conftest import write_waveforms
from tests.helpers import trees

CONFIG = plan.PrepConfig(
    dataset="multitrack",
    sources=SOURCES,
    stems="folder",
    options=IndexOptions(sources=SOURCES, validation_share=0.3),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Clips of 10 s: two segments and a tail; the clip `half` has bass in the first."""
    root = tmp_path_factory.mktemp("raw")
    trees.write_stems(root, ("one", "two", "three"), 10.0, 16000)
    bass = trees.chirp(10)
    bass[trees.SEGMENT_SAMPLES :] = 0
    trees.write_wav(root / "half" / "bass.wav", bass)
    trees.write_wav(root / "half" / "drums.wav", np.zeros(160000, np.float32))
    (root / "$bad$").mkdir()
    (root / "$bad$" / "bass.wav").write_text("no audio")
    output = tmp_path_factory.mktemp("prepared")
    runner.prepare(multitrack.DATASET, CONFIG, root, output, show_progress=False)
    return output


def run(data_dir: pathlib.Path, output: pathlib.Path, *more: str) -> int:
    values = flags.FlagValues()
    inspect.define_flags(values)
    values(["inspect", f"--data_dir={data_dir}", f"--output={output}", *more])
    return console.run(inspect.main, values)


def pixels_of(path: pathlib.Path, colour: str) -> np.ndarray:
    """Where a PNG has exactly this colour, bool [height, width]."""
    image = np.round(255 * matplotlib.image.imread(path)[..., :3]).astype(int)
    return (image == np.round(255 * np.array(matplotlib.colors.to_rgb(colour)))).all(-1)


def test_a_clip_is_read_as_it_was_stored(prepared):
    segments = [
        schema.decode_segment(record, SOURCES)
        for path in sorted(prepared.glob("*.tfrecord"))
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    for clip_id in ("one", "half"):
        mine = [s for s in segments if s.clip_id == clip_id]
        clip = pictures.read_clip(PreparedData(prepared), clip_id)
        np.testing.assert_array_equal(
            clip.mixture, np.concatenate([s.mixture for s in mine]).astype(np.float32)
        )
        assert clip.starts.tolist() == [0, 392, 784]
        for source, stem in clip.stems.items():
            for segment, start in zip(mine, clip.starts, strict=True):
                found = stem[start : start + len(segment.mixture)]
                if source in segment.stems:
                    np.testing.assert_array_equal(found, segment.stems[source])
                else:
                    assert np.isnan(found).all()
    assert list(clip.stems) == ["drums", "bass"]
    assert clip.is_active["bass"].tolist() == [True, False, False]
    assert clip.is_active["drums"].tolist() == [False] * 3


def test_the_picture_marks_active_segments(prepared, tmp_path, capsys):
    path = tmp_path / "clip.png"
    assert run(prepared, path, "--clip=half") == 0
    assert capsys.readouterr().out.strip() == str(path)
    # The bar is as long as its share of the 998 frames; the legend's mark is shorter.
    bass = pixels_of(path, "#4878a8").sum(axis=1).max()
    assert run(prepared, path, "--clip=one") == 0
    whole = pixels_of(path, "#4878a8").sum(axis=1).max()
    assert bass / whole == pytest.approx(392 / 998, abs=0.02)
    for colour in ("#8172b3", "#c44e52", "#55a868"):
        assert pixels_of(path, colour).sum(axis=1).max() == pytest.approx(whole, abs=8)


def test_the_chart_shows_the_manifest_shares(prepared, tmp_path):
    manifest = json.loads((prepared / "manifest.json").read_text())
    for shares in ({"bass": 1.0, "drums": 0.5}, {"bass": 0.25, "drums": 0.75}):
        for split in manifest["splits"].values():
            split["active_share"] = {"vocals": None, "other": 1.0, **shares}
        path = tmp_path / "chart.png"
        pictures.draw_shares(path, manifest)
        heights = {
            source: pixels_of(path, colour).sum(axis=0).max()
            for source, colour in pictures._COLOURS.items()
        }
        for source, share in shares.items():
            ratio = heights[source] / heights["other"]
            assert ratio == pytest.approx(share, abs=0.08)
    assert run(prepared, tmp_path / "again.png") == 0
    assert (tmp_path / "again.png").stat().st_size > 5000


def test_an_unknown_clip_gets_suggestions(prepared, tmp_path, capsys):
    assert run(prepared, tmp_path / "x.png", "--clip=thre") == 1
    error = capsys.readouterr().err
    assert "--clip=thre: no such clip" in error
    assert "close to it: three" in error
    assert not (tmp_path / "x.png").exists()


def test_a_clip_that_failed_says_why(prepared, tmp_path, capsys):
    assert run(prepared, tmp_path / "x.png", "--clip=$bad$") == 1
    assert "could not be prepared: stem bass: not readable" in capsys.readouterr().err


def test_data_without_stems(tmp_path, capsys):
    root = trees.write_folder(tmp_path / "$raw$")
    output = tmp_path / "out"
    config = plan.PrepConfig(dataset="folder")
    runner.prepare(folder.DATASET, config, root, output, show_progress=False)
    assert run(output, tmp_path / "x.png") == 1
    assert "this data has no stems" in capsys.readouterr().err
    assert run(output, tmp_path / "x.png", "--clip=x/1.wav") == 0
    assert matplotlib.image.imread(tmp_path / "x.png").std() > 0.1


def test_what_cannot_be_drawn_is_one_line(prepared, tmp_path, capsys):
    assert run(tmp_path, tmp_path / "x.png") == 1
    assert "must name a prepared folder" in capsys.readouterr().err
    copy = shutil.copytree(prepared, tmp_path / "copy")
    for path in copy.glob("*.tfrecord"):
        path.write_bytes(path.read_bytes()[:100])
    assert run(copy, tmp_path / "x.png", "--clip=one") == 1
    assert "not the shard that was indexed" in capsys.readouterr().err
    assert run(prepared, tmp_path / "nowhere" / "x.png") == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_records_of_waveforms_are_not_advised_to_have_stems(tmp_path, capsys):
    write_waveforms(tmp_path / "data" / "waveform", {"train": 4})
    assert run(tmp_path / "data", tmp_path / "x.png") == 1
    error = capsys.readouterr().err
    assert "records of waveforms hold mixtures alone" in error
    assert "--separator" not in error and "--clip=ID" in error
