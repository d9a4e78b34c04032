"""Shares of the labels: which clips are kept, and the curve's files."""

import json

import matplotlib.image
import numpy as np
import pytest

from cola_msa.evaluation import label_fractions
from cola_msa.system.errors import FileError, UsageError

CLASS_COUNTS = (200, 100, 10, 1)


@pytest.fixture
def class_labels():
    classes = np.repeat(np.arange(4), CLASS_COUNTS)
    np.random.default_rng(0).shuffle(classes)
    return np.eye(4, dtype=np.float32)[classes]


@pytest.fixture
def tag_labels():
    """400 clips, 30 tags from frequent to one clip; some clips without any."""
    rng = np.random.default_rng(1)
    share = np.geomspace(0.3, 0.004, 30)
    labels = (rng.random((400, 30)) < share).astype(np.float32)
    labels[[0, 1], [25, 29]] = 1.0
    assert (labels.sum(axis=0) > 0).all()
    return labels


@pytest.mark.parametrize(
    ("fraction", "counts"),
    [(0.01, (2, 1, 1, 1)), (0.1, (20, 10, 1, 1)), (0.5, (100, 50, 5, 1))],
)
def test_every_class_gives_its_share(class_labels, fraction, counts):
    clips = label_fractions.choose_clips(class_labels, False, fraction, seed=0)
    assert class_labels[clips].sum(axis=0).tolist() == list(counts)
    assert (np.diff(clips) > 0).all()


@pytest.mark.parametrize("is_tags", [False, True])
def test_draws_depend_on_the_seed(class_labels, tag_labels, is_tags):
    labels = tag_labels if is_tags else class_labels

    def draw(seed):
        return label_fractions.choose_clips(labels, is_tags, 0.2, seed).tolist()

    assert draw(0) == draw(0) != draw(1)
    everything = label_fractions.choose_clips(labels, is_tags, 1.0, 0)
    assert everything.tolist() == list(range(len(labels)))


def test_a_larger_share_of_classes_holds_the_smaller_one(class_labels):
    small, large = (
        set(label_fractions.choose_clips(class_labels, False, f, 5).tolist())
        for f in (0.05, 0.3)
    )
    assert small < large


@pytest.mark.parametrize("seed", range(5))
def test_every_tag_is_kept_where_it_can_be(tag_labels, seed):
    clips = label_fractions.choose_clips(tag_labels, True, 0.1, seed)
    assert len(clips) == len(set(clips.tolist())) == 40
    plain = np.random.default_rng([seed, 0, 2]).permutation(400)[:40]
    assert (tag_labels[plain].sum(axis=0) == 0).any()  # chance alone loses some
    assert (tag_labels[clips].sum(axis=0) > 0).all()
    # Most clips are those that chance drew.
    assert len(set(clips.tolist()) & set(plain.tolist())) >= 25


def test_too_few_clips_for_all_tags(tag_labels):
    clips = label_fractions.choose_clips(tag_labels, True, 0.005, 0)
    assert len(clips) == 2
    assert len(label_fractions.choose_clips(tag_labels, True, 1e-6, 0)) == 1


def test_parsing():
    assert label_fractions.parse_fractions(["1", "0.01", "0.1", "1"]) == (
        0.01,
        0.1,
        1.0,
    )


@pytest.mark.parametrize("values", [["0"], ["1.5"], ["-1"], ["ten"], ["nan"], []])
def test_impossible_shares(values):
    with pytest.raises(UsageError, match="--label_fraction"):
        label_fractions.parse_fractions(values)


def make_result(fraction, clips, value, deviation):
    row = {"value": value, "low": value - 0.1, "high": value + 0.1, "chance": 0.1}
    return {
        "title": "genre",
        "label_fraction": fraction,
        "splits": {"train": {"clips": clips}, "test": {"clips": 50}},
        "seeds": [0, 1],
        "scores": {"accuracy": {**row, "deviation": deviation, "published": 0.5}},
    }


@pytest.mark.parametrize("suffix", ["json", "md", "png"])
def test_a_users_file_with_a_curves_name_stays(tmp_path, suffix):
    path = tmp_path / f"label_curve.{suffix}"
    path.write_text('{"mine": 1}')
    with pytest.raises(FileError, match=f"holds 'label_curve.{suffix}', and is not"):
        label_fractions.write_curve(
            tmp_path, [make_result(0.1, 8, 0.2, None)], "clips: some"
        )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == '{"mine": 1}'
    path.unlink()
    for _ in range(2):  # its own is written over
        label_fractions.write_curve(
            tmp_path, [make_result(0.1, 8, 0.2, None)], "clips: some"
        )


def test_the_curve_is_written(tmp_path):
    results = [make_result(0.01, 8, 0.25, 0.02), make_result(1.0, 800, 0.5, None)]
    table = label_fractions.write_curve(tmp_path, results, "clips: some")
    assert table.splitlines()[2:] == [
        "| 1 % | 8 | 0.250 | 0.150 to 0.350 | 0.020 |",
        "| 100 % | 800 | 0.500 | 0.400 to 0.600 | - |",
    ]
    text = (tmp_path / "label_curve.md").read_text()
    assert text == f"{table}\n\nclips: some\n"
    rows = json.loads((tmp_path / "label_curve.json").read_text())["rows"]
    assert [row["train_clips"] for row in rows] == [8, 800]
    image = matplotlib.image.imread(tmp_path / "label_curve.png")
    assert min(image.shape[:2]) > 300 and image[..., :3].std() > 0.05
