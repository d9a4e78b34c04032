"""What the report reads, and what of it belongs together."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from cola_msa.config.published import CLMR
from cola_msa.config.strategies import STRATEGIES
from cola_msa.evaluation import metrics
from cola_msa.records.schema import write_manifest
from cola_msa.reproduction.report import figure_data, missing, runs, tables
from cola_msa.reproduction.report.results import (
    ReportError,
    share_of_published,
    summarize,
)
from cola_msa.values.arrays import write_json
from tests.helpers.report_runs import (
    draw_scores,
    group_of,
    write_data,
    write_result,
    write_run,
)


@pytest.mark.parametrize("pattern", ["runs", "runs/*", "runs/msa*"])
def test_runs_are_found_by_folder_and_by_pattern(report_tree, pattern):
    found = runs.find_runs([str(report_tree / pattern)])
    names = {path.name for path in found}
    assert {"msa", "msa-seed1", "msa_vocals"} <= names
    assert ("cola" in names) == (pattern != "runs/msa*")
    assert len(found) == len(names)


def test_a_pattern_without_runs_is_refused(report_tree):
    with pytest.raises(ReportError, match="neither a run nor a folder of runs"):
        runs.find_runs([str(report_tree / "prepared")])


def test_nothing_of_a_good_tree_is_a_problem(report_collection):
    assert report_collection.problems == ()
    assert len(report_collection.runs) == 11


def test_what_is_damaged_is_left_out_and_said(tmp_path):
    data = write_data(tmp_path / "data")
    good = write_run(tmp_path / "runs", "msa", data)
    write_result(good, "fma")
    path = write_result(good, "mtat") / "results.json"
    path.write_text(path.read_text()[:300])
    half = write_result(good, "nsynth") / "results.json"
    write_json(half, {"task": "nsynth"})
    bad = write_run(tmp_path / "runs", "cola", data)
    (bad / "config.json").write_text("{")
    found = runs.collect(runs.find_runs([str(tmp_path / "runs")]))
    assert [run.name for run in found.runs] == ["msa"]
    assert [result.task for result in found.runs[0].results] == ["fma"]
    assert len(found.problems) == 3
    for name in ("mtat/results.json", "nsynth/results.json", "cola"):
        assert any(name in problem for problem in found.problems)


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_data_that_is_no_longer_the_runs_is_not_described(tmp_path, change):
    data = write_data(tmp_path / "data")
    write_run(tmp_path / "runs", "msa", data)
    if change == "gone":
        (data / "manifest.json").unlink()
    else:
        write_data(data, "umxl")
    found = runs.collect(runs.find_runs([str(tmp_path / "runs")]))
    assert found.runs[0].train_clips is None
    assert change in found.problems[0]


def test_runs_that_differ_by_seed_are_one_group(report_collection):
    group = group_of(report_collection, "msa")
    assert group.seeds == (0, 1)
    keys = {(g.strategy.framework, g.scale_key) for g in report_collection.groups}
    assert len(keys) == len({framework for framework, _ in keys}) == 2


def test_copies_of_a_run_count_once_and_are_named(tmp_path):
    data = write_data(tmp_path / "data")
    root = tmp_path / "runs"
    for seed in (0, 1):
        run_dir = write_run(root, "msa", data, seed=seed)
        write_result(run_dir, "mtat", seed=seed, quality=0.3 + seed)
    alone = runs.collect(runs.find_runs([str(root)]))
    shutil.copytree(root / "msa", root / "again")
    shutil.copytree(root / "msa", root / "zz-again")
    (root / "zz-again" / "done.json").unlink()
    # The same folder by another name is no other run, either.
    places = [str(root), f"{tmp_path}/data/../runs"]
    found = runs.collect(runs.find_runs(places))
    expected, group = group_of(alone, "msa"), group_of(found, "msa")
    assert group.seeds == (0, 1) and len(group.runs) == 2
    assert len(found.runs) == 8 and len(group.copies) == 6
    assert group.score("mtat", "pr_auc") == expected.score("mtat", "pr_auc")
    rows = tables.build_table(1, found).rows
    cell = next(row[1] for row in rows if "here: " in row[1].text)
    assert "2 runs, seeds 0, 1" in cell.note
    assert "not counted, of the same seed again: " in cell.note
    assert "zz-again" in cell.note


def test_of_one_seeds_runs_the_one_that_got_furthest_counts(tmp_path):
    data = write_data(tmp_path / "data")
    write_run(tmp_path / "runs", "msa", data, name="a", kept=(0, 2), is_done=False)
    write_run(tmp_path / "runs", "msa", data, name="b")
    judged = write_run(tmp_path / "runs", "msa", data, name="c")
    write_result(judged, "mtat")
    group = group_of(runs.collect(runs.find_runs([str(tmp_path / "runs")])), "msa")
    assert [run.name for run in group.runs] == ["c"]
    assert sorted(run.name for run in group.copies) == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "is_same"),
    [
        ({"keep_steps": (1, 3)}, True),
        ({"checkpoint_every_steps": 7}, True),
        ({"steps": 9}, False),
        ({"batch_size": 8}, False),
        ({"learning_rate": 0.5}, False),
    ],
)
def test_bookkeeping_does_not_part_groups(tmp_path, fields, is_same):
    data = write_data(tmp_path / "data")
    write_run(tmp_path / "runs", "msa", data)
    write_run(tmp_path / "runs", "msa", data, seed=1, **fields)
    found = runs.collect(runs.find_runs([str(tmp_path / "runs")]))
    assert (len(found.groups_of("msa")) == 1) == is_same


def test_a_strategy_that_was_not_named_is_told_by_its_fields(tmp_path):
    data = write_data(tmp_path / "data", "random")
    path = write_run(tmp_path / "runs", "msa", data) / "config.json"
    content = json.loads(path.read_text())
    content["config"]["strategy"] = ""
    write_json(path, content)
    (run,) = runs.collect([path.parent]).runs
    assert run.strategy is STRATEGIES["cola_random_mask"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"protocol": "paper"}, "paper"),
        ({"mode": "finetuned"}, "finetuned"),
        ({"probe": "ridge", "paper_probe": "linear"}, "ridge"),
        ({"train_clips": "all"}, "all clips"),
        ({"head": {"standardize": True}}, "standardised"),
        ({"label_subset": {"fraction": 0.1, "clips": 4, "of": 40}}, "10 %"),
        ({"encoder": {"statistics": "anchors"}}, "anchors"),
    ],
)
def test_other_protocols_stay_out_of_the_tables(tmp_path, fields, word):
    run_dir = write_run(tmp_path / "runs", "msa", write_data(tmp_path / "data"))
    write_result(run_dir, "mtat", folder="mtat-other", **fields)
    (run,) = runs.collect([run_dir]).runs
    assert run.final("mtat") is None
    table = tables.build_others([run])
    assert word in table.rows[0][2].text


def test_the_last_step_that_was_judged_counts(tmp_path):
    run_dir = write_run(tmp_path / "runs", "msa", write_data(tmp_path / "data"))
    for step in (0, 2):
        write_result(run_dir, "mtat", step=step, folder=f"mtat-{step}")
    (run,) = runs.collect([run_dir]).runs
    assert run.final("mtat").step == 2
    assert list(run.by_step("mtat")) == [0, 2]
    # The run went on since: the last step is still to be judged.
    ((title, commands),) = missing.find(
        runs.collect([run_dir]), [STRATEGIES["msa"]], ["mtat"]
    )
    assert title == "MSA: run msa"
    assert commands[0].module == "cola_msa.eval"


def test_figures_never_mix_scales_or_data(tmp_path):
    small, large = (write_data(tmp_path / name) for name in ("small", "large"))
    manifest = json.loads((large / "manifest.json").read_text())
    manifest["splits"]["train"]["num_clips"] = 80
    write_manifest(large, manifest)
    for name in ("msa", "cola_random_mask", "msa_degraded"):
        write_run(tmp_path / "runs", name, small)
    write_run(tmp_path / "runs", "msa", large, name="larger")
    write_run(tmp_path / "runs", "msa", small, name="longer", steps=9)
    found = runs.collect(runs.find_runs([str(tmp_path / "runs")]))
    assert len(found.groups_of("msa")) == 3
    chosen = found.at_one_scale(figure_data.STEMS_OF)
    assert {g.runs[0].name for g in chosen.values()} == set(figure_data.STEMS_OF)
    # Alone, the group of the most clips among those of the most pairs.
    assert found.at_one_scale(["msa"])["msa"].runs[0].name == "larger"


def test_several_runs_are_averaged_with_their_spread(report_collection):
    group = group_of(report_collection, "msa")
    score = group.score("mtat", "pr_auc")
    labels, first = draw_scores("mtat", 0.2, 0)
    second = draw_scores("mtat", 0.3, 30)[1]
    values = [
        np.mean([metrics.clip_scores(labels, head)["pr_auc"] for head in heads])
        for heads in (first, second)
    ]
    assert score.num_runs == 2 and score.num_heads == 2 and score.clips == 60
    assert score.estimate.value == pytest.approx(np.mean(values))
    assert score.deviation == pytest.approx(np.std(values, ddof=1))
    both = metrics.bootstrap(labels, np.concatenate([first, second]), 1000)["pr_auc"]
    assert (score.estimate.low, score.estimate.high) == (both.low, both.high)


def test_one_run_has_the_interval_and_spread_of_its_heads(report_collection):
    group = group_of(report_collection, "cola")
    row = group.finals("fma")[0].scores["accuracy"]
    score = group.score("fma", "accuracy")
    assert dataclasses.astuple(score.estimate) == (
        row["value"],
        row["low"],
        row["high"],
    )
    assert score.deviation == row["deviation"]


def test_runs_on_different_clips_are_not_averaged(tmp_path):
    data = write_data(tmp_path / "data")
    for seed, num_clips in ((0, 60), (1, 50)):
        run_dir = write_run(tmp_path / "runs", "msa", data, seed=seed)
        write_result(run_dir, "mtat", num_clips=num_clips)
    found = runs.collect(runs.find_runs([str(tmp_path / "runs")]))
    group = group_of(found, "msa")
    score = group.score("mtat", "pr_auc")
    assert (score.num_runs, score.clips) == (1, 60)
    assert "1 of 2 runs" in tables.score_cell(score, 2).note
    with pytest.raises(ReportError, match="different test clips"):
        summarize([run.final("mtat") for run in group.runs], "pr_auc")


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (81_920_000, "100 %"),
        (40_960_000, "50 %"),
        (6_400, "0.0078 %"),
        (80, "0.000098 %"),
        (0, "0 %"),
        (None, "unknown share"),
    ],
)
def test_the_share_of_the_papers_pairs(pairs, text):
    assert share_of_published(pairs) == f"{text} of the paper's"


def test_the_share_of_another_methods_pairs():
    assert share_of_published(76_080_000, CLMR) == "50 % of CLMR's published"
