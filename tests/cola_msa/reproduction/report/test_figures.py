"""The paper's figures: their numbers, pictures and words."""

import io

import matplotlib.image
import numpy as np
import pytest

from cola_msa.config.strategies import STRATEGIES
from cola_msa.evaluation import metrics
from cola_msa.reproduction.report import content, figure_data, page, runs
from cola_msa.reproduction.report.page import Code, Figure
from cola_msa.reproduction.report.results import (
    ReportError,
    load_clip_scores,
)
from tests.helpers.report_runs import (
    SHARES,
    TAGS,
    draw_scores,
    group_of,
    write_data,
    write_result,
    write_run,
)


def test_active_shares_of_all_data_with_stems(report_collection, report_tree):
    twice = [str(report_tree / "prepared" / "mtat")]
    found = figure_data.active_shares(report_collection, twice)
    assert [part.shares for part in found] == [SHARES, SHARES]
    assert {part.title.split(", ")[-1] for part in found} == {"umxhq", "random"}
    with pytest.raises(ReportError, match="--data_dirs"):
        figure_data.active_shares(report_collection, [str(report_tree)])


def test_curves_are_the_scores_at_every_judged_step(report_collection):
    msa, mws = figure_data.step_curves(report_collection)
    assert (msa.strategy, mws.strategy) == ("msa", "cola_mws")
    assert mws.steps == [0, 2, 4]
    by_step = group_of(report_collection, "cola_mws").runs[0].by_step("mtat")
    expected = [result.scores["roc_auc"]["value"] for result in by_step.values()]
    np.testing.assert_array_equal(mws.scores["roc_auc"][0], expected)
    assert "5 updates of 4 pairs" in mws.title


def test_several_judged_runs_give_mean_and_range(tmp_path):
    data = write_data(tmp_path / "data")
    for seed in (0, 1):
        run_dir = write_run(tmp_path / "runs", "msa", data, seed=seed)
        for step in (0, 4):
            write_result(
                run_dir, "mtat", step=step, folder=f"mtat-{step}", seed=10 * seed + step
            )
    found = runs.collect(runs.find_runs([str(tmp_path / "runs")]))
    (curve,) = figure_data.step_curves(found)
    values = [
        [run.by_step("mtat")[step].scores["pr_auc"]["value"] for step in (0, 4)]
        for run in found.runs
    ]
    mean, low, high = curve.scores["pr_auc"]
    np.testing.assert_allclose(mean, np.mean(values, axis=0))
    np.testing.assert_array_equal(low, np.min(values, axis=0))
    np.testing.assert_array_equal(high, np.max(values, axis=0))
    assert curve.band == "mean and range of 2 runs"


def test_relative_differences_against_a_loop(report_collection):
    rows = figure_data.tag_differences(report_collection)
    labels = draw_scores("mtat", 0.0)[0]
    names = list(STRATEGIES)

    def precision(strategy, tag):
        number = names.index(strategy)
        heads = draw_scores("mtat", 0.2 + 0.05 * number, number)[1]
        values = []
        for head in heads:
            order = np.argsort(-head[:, tag], kind="stable")
            hits, total = 0, 0.0
            for place, clip in enumerate(order, 1):
                if labels[clip, tag]:
                    hits += 1
                    total += hits / place
            values.append(total / hits)
        return np.mean(values)

    assert {row.tag for row in rows} == set(TAGS) - {"rare"}
    assert len(rows) == 4 * 4
    for row in rows:
        tag = TAGS.index(row.tag)
        strategy = next(n for n, s in figure_data.TARGETED.items() if s == row.source)
        cola = precision("cola", tag)
        expected = 100 * (precision(strategy, tag) - cola) / cola
        assert row.percent == pytest.approx(expected, abs=1e-4)
        assert row.positives == labels[:, tag].sum()


def test_named_tags_have_intervals_and_the_papers_order(report_collection):
    rows = figure_data.tag_differences(report_collection)
    named = figure_data.named_tag_differences(report_collection, rows, 200)
    assert list(dict.fromkeys(r.tag for r in named)) == ["fast", "drums", "guitar"]
    assert all(row.low < row.high for row in named)
    group, cola = (
        group_of(report_collection, "msa_vocals"),
        group_of(report_collection, "cola"),
    )
    row = next(r for r in named if r.tag == "drums" and r.source == "vocals")
    first, second = (
        load_clip_scores(part.finals("mtat")[0].folder) for part in (group, cola)
    )
    estimate = metrics.paired_bootstrap(
        first.labels[:, [1]], first.scores[:, :, [1]], second.scores[:, :, [1]], 200
    )["pr_auc"]
    theirs = np.mean(
        [metrics.tag_scores(first.labels, s)["pr_auc"][1] for s in second.scores]
    )
    assert row.low == pytest.approx(100 * estimate.low / theirs)
    assert row.high == pytest.approx(100 * estimate.high / theirs)


def test_bars_of_the_stems_that_there_are(report_collection):
    bars = figure_data.stem_bars(report_collection)
    kinds = [(bar.title, bar.score) for bar in bars]
    assert kinds == [
        (title, score)
        for title in ("random", "clean")
        for score in ("roc_auc", "pr_auc")
    ]


def test_every_figure_is_a_picture_with_words_and_scale(report_blocks):
    figures = [b for b in report_blocks if isinstance(b, Figure)]
    names = [figure.name for figure in figures]
    assert names == ["figure2", "figure3", "figure4", "figure4_all", "figure5"]
    for figure in figures:
        image = matplotlib.image.imread(io.BytesIO(figure.png))
        assert min(image.shape[:2]) > 300 and image[..., :3].std() > 0.03
        assert len(figure.alt) > 40
        assert figure.data.rows
        if figure.name != "figure2":
            assert "0.000098 % of the paper's" in figure.caption
            assert "60 test clips" in figure.caption


def test_tags_that_the_data_lacks_are_named(report_blocks):
    text = " ".join(b.text for b in report_blocks if hasattr(b, "text"))
    assert "there is no techno, piano, synth, classical" in text


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_figure_without_runs_says_so_and_how_to_make_it(number):
    report_blocks = content.paper_figures(runs.Collection(()), [number], [])
    assert not any(isinstance(block, Figure) for block in report_blocks)
    assert isinstance(report_blocks[1], page.Text)
    if number != 2:
        assert any(isinstance(block, Code) for block in report_blocks)


def test_equal_results_give_equal_pictures(report_collection, report_blocks):
    first = [block.png for block in report_blocks if isinstance(block, Figure)][1:]
    again = content.paper_figures(report_collection, [3, 4, 5], [])
    assert first == [block.png for block in again if isinstance(block, Figure)]
