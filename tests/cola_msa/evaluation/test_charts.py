"""Charts of anybody's names and numbers, and results that outlive a failing chart."""

import logging
import warnings

import matplotlib.image
import numpy as np
import pytest

from cola_msa.collection import matching
from cola_msa.evaluation import charts
from cola_msa.reproduction.report import figures
from cola_msa.reproduction.report.figure_data import Bar, Curve, TagDifference
from data_prep.checks import pictures
from tests.cola_msa.values.test_chart_text import ODD_NAMES

COUNT = len(ODD_NAMES)
LONG = "$_$ " + "word " * 3000


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw_confusion(path):
    charts.draw_confusion(path, np.eye(COUNT), ODD_NAMES, LONG, LONG)


def draw_tags(path):
    values = np.linspace(0, 1, COUNT)
    charts.draw_tags(path, ODD_NAMES, values, values, values, LONG, LONG)


def draw_ranking(path):
    windows = np.ones((COUNT, 5))
    matching.draw_ranking(path, ODD_NAMES, windows[:, 0], windows, 0.98, LONG)


def draw_matrix(path):
    scores = np.ones((COUNT, COUNT))
    matching.draw_matrix(path, ODD_NAMES, ODD_NAMES, scores, scores > 0, LONG)


def draw_prepared_shares(path):
    shares = dict.fromkeys(ODD_NAMES, 0.5)
    manifest = {
        "splits": {name: {"active_share": shares, "num_segments": 3} for name in "ab"},
        "sources": ODD_NAMES,
        "dataset": LONG,
        "silence_threshold": 0.01,
        "separator": {"name": LONG},
    }
    pictures.draw_shares(path, manifest)


@pytest.mark.parametrize(
    "draw",
    [draw_confusion, draw_tags, draw_ranking, draw_matrix, draw_prepared_shares],
)
def test_odd_names_end_no_chart(draw, tmp_path):
    draw(tmp_path / "chart.png")
    image = matplotlib.image.imread(tmp_path / "chart.png")
    assert min(image.shape[:2]) > 300 and image[..., :3].std() > 0.02


def report_tags():
    rows = [
        TagDifference(n, "drums", 9, 1.0, 0.5, 2.0) for n in dict.fromkeys(ODD_NAMES)
    ]
    return figures.draw_all_tags(rows, LONG)


def report_shares():
    sets = {name: {"$_$": 0.3, "_x": 0.5} for name in ODD_NAMES[:5]}
    return figures.draw_shares(sets, ["$_$", "_x"], LONG)


def report_steps():
    scores = {
        name: (np.ones(2), np.ones(2), np.ones(2)) for name in ("pr_auc", "roc_auc")
    }
    return figures.draw_steps([Curve("msa", LONG, (0, 1), scores, "")], LONG)


def report_stems():
    bars = [Bar("$_$", "clean", name, 0.5, 0.4, 0.6) for name in ("pr_auc", "roc_auc")]
    return figures.draw_stems(bars, LONG)


@pytest.mark.parametrize(
    "draw", [report_tags, report_shares, report_steps, report_stems]
)
def test_odd_names_end_no_figure_of_the_report(draw):
    assert draw()[:4] == b"\x89PNG"


def test_many_classes_fit_into_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "_MAX_SIDE", 6.0)
    monkeypatch.setattr(charts, "_MAX_HEIGHT", 4.0)
    monkeypatch.setattr(charts, "_MAX_NUMBERS", 30)
    names = [f"class {number}" for number in range(60)]
    charts.draw_confusion(tmp_path / "a.png", np.eye(60), names, "title")
    share = np.full(60, 0.5)
    charts.draw_tags(tmp_path / "b.png", names, share, share, share, "title")
    sizes = [matplotlib.image.imread(tmp_path / f"{n}.png").shape[:2] for n in "ab"]
    assert sizes == [(6.6 * 130, 7.2 * 130), (4 * 130, 8 * 130)]


def test_a_failing_chart_is_a_warning(tmp_path, caplog):
    path = tmp_path / "chart.png"
    path.write_bytes(b"of earlier results")

    def fail():
        raise RuntimeError("no font")

    with caplog.at_level(logging.WARNING, "absl"):
        assert not charts.try_to_draw(path, fail)
    assert "chart.png could not be drawn: RuntimeError('no font')" in caplog.text
    assert not path.exists()
    assert charts.try_to_draw(path, lambda: path.write_bytes(b"new") and None)
    assert path.read_bytes() == b"new"
