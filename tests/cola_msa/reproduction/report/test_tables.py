"""The paper's tables beside what was measured, and what they lack."""

import json
import re

import numpy as np
import pytest

from cola_msa.config.published import PUBLISHED
from cola_msa.config.strategies import STRATEGIES
from cola_msa.reproduction.report import content as content_lib
from cola_msa.reproduction.report import figure_data, missing, page, runs, tables
from cola_msa.values.arrays import write_json
from tests.helpers.report_runs import (
    draw_scores,
    write_data,
    write_result,
    write_run,
)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_published_number_stands_in_its_row(report_collection, number):
    table = tables.build_table(number, report_collection)
    published = [row for row in table.rows if row[2].kind == page.PUBLISHED]
    assert len(published) == len(PUBLISHED[number])
    for row, values in zip(published, PUBLISHED[number].values(), strict=True):
        expected = [
            f"{values[task][score]:.3f}" if score in values[task] else "-"
            for task, score in tables.COLUMNS
        ]
        assert [cell.text for cell in row[2:]] == expected


def test_clmr_is_quoted_with_its_origin_and_trained_beside_it(report_collection):
    quoted, trained = tables.build_table(1, report_collection).rows[:2]
    assert quoted[0].text == trained[0].text == "CLMR"
    assert "10,000 epochs" in quoted[1].note and quoted[5].kind == page.PUBLISHED
    assert (
        trained[1].text == "here: 80 pairs" and "preset clmr_smoke" in trained[1].note
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_measured_number_stands_without_its_scale(report_collection, number):
    table = tables.build_table(number, report_collection)
    measured = [
        row for row in table.rows if any(cell.kind == page.MEASURED for cell in row[2:])
    ]
    assert measured
    for row in measured:
        assert re.match(r"here: [\d,]+ pairs", row[1].text)
        if row[0].text != "untrained (same size)":
            owner = {"CLMR": "0.000053 % of CLMR's published"}
            share = owner.get(row[0].text, "0.000098 % of the paper's")
            assert share in row[1].note
            assert "40 training clips in mtat's layout" in row[1].note
        for cell in row[2:]:
            if cell.kind == page.MEASURED:
                assert re.search(r"\d\.\d{3} to \d\.\d{3}\n60 clips", cell.note)


def test_rows_say_how_many_runs_and_heads(report_collection):
    rows = {r[1].text: r for r in tables.build_table(2, report_collection).rows}
    row = rows["here: 80 pairs"]
    table = tables.build_table(2, report_collection)
    msa = next(r for r in table.rows if r[0].text == "MSA" and "here" in r[1].text)
    assert "2 runs, seeds 0, 1" in msa[1].note
    assert "of 2 runs, 2 heads each" in msa[2].note
    assert row[0].text in ("MSA", "Ablation 1")


def test_the_untrained_network_and_chance_are_marked(report_collection):
    *_, untrained, chance = tables.build_table(1, report_collection).rows
    assert "not in the paper" in untrained[1].note
    assert untrained[1].text == "here: 0 pairs"
    assert [cell.text for cell in untrained[2:4]] != ["missing"] * 2  # step 0
    assert untrained[-1].text != "missing"
    labels = draw_scores("fma", 0.0)[0]
    assert chance[-1].text == f"{np.bincount(labels).max() / len(labels):.3f}"


@pytest.fixture
def clmr_alone(tmp_path):
    """A run of CLMR and one of MSA; CLMR's alone was judged, untrained too."""
    data = write_data(tmp_path / "prepared" / "mtat")
    write_run(tmp_path / "runs", "msa", data)
    run_dir = write_run(tmp_path / "runs", "clmr", data)
    write_result(run_dir, "fma", step=0)
    return runs.collect(runs.find_runs([str(tmp_path / "runs")]))


@pytest.mark.parametrize(("number", "expected"), [(1, ["fma"]), (2, []), (3, [])])
def test_a_network_without_a_row_is_no_yardstick(clmr_alone, number, expected):
    rows = tables.build_table(number, clmr_alone).rows
    found = [row for row in rows if row[0].text == "untrained (same size)"]
    assert ["fma" for row in found if "CLMR's" in row[1].note] == expected
    assert (rows[-1][-1].text == "-") is (not expected)


def test_each_frameworks_untrained_network_is_asked_for(clmr_alone):
    found = dict(tables.missing_of(1, clmr_alone))["untrained network"]
    asked = {command.arguments[0]: [] for command in found}
    for command in found:
        asked[command.arguments[0]] += [
            word.rsplit("/", 1)[-1]
            for word in command.arguments
            if word.startswith("--run_dir=")
        ]
    assert {task: sorted(names) for task, names in asked.items()} == {
        "--task=mtat": ["clmr", "msa"],
        "--task=mtat_unfiltered": ["clmr", "msa"],
        "--task=nsynth": ["clmr", "msa"],
        "--task=fma": ["msa"],
    }


def test_the_table_of_runs_has_the_origin_of_each(report_collection):
    table = tables.build_runs(report_collection.runs)
    row = next(row for row in table.rows if row[0].text == "cola_random_mask")
    cells = dict(zip(table.header, row, strict=True))
    assert cells["strategy"].text == "COLA + random mask"
    assert cells["pairs"].text == "80"
    assert "separator: random" in cells["data"].note
    assert "tensorflow" in cells["code"].note
    assert cells["end"].note == "1.5 min of training"


def test_missing_runs_and_results_come_with_their_commands(report_collection):
    found = dict(tables.missing_of(2, report_collection))
    assert list(found) == [
        "Ablation 2: no run",
        "Ablation 3: no run",
        "untrained network",
    ]
    assert [command.arguments[:2] for command in found["untrained network"]] == [
        ("--task=mtat_unfiltered", "--encoder=untrained"),
        ("--task=nsynth", "--encoder=untrained"),
    ]
    modules = [command.module for command in found["Ablation 2: no run"]]
    assert modules == ["cola_msa.train"] + ["cola_msa.eval"] * 4
    train = found["Ablation 2: no run"][0]
    assert "--preset=smoke" in train.arguments
    assert "--strategy=ablation2" in train.arguments
    found = dict(tables.missing_of(3, report_collection))
    assert list(found)[0] == "MSA, bass: run msa_bass"
    tasks = [command.arguments[0] for command in found["MSA, bass: run msa_bass"]]
    assert tasks == ["--task=mtat_unfiltered", "--task=nsynth", "--task=fma"]


def test_missing_stems_come_with_their_preparation(report_collection):
    strategies = [STRATEGIES[name] for name in figure_data.STEMS_OF]
    found = dict(missing.find(report_collection, strategies, ["mtat"]))
    commands = found["MSA, degraded stems: no run"]
    assert [command.module for command in commands] == [
        "data_prep.train_separator",
        "data_prep.mtat",
        "cola_msa.train",
        "cola_msa.eval",
    ]
    assert "--data_dir=prepared/mtat_degraded" in commands[2].arguments


def test_without_any_run_the_papers_length_is_asked_for():
    empty = runs.Collection(())
    found = dict(missing.find(empty, [STRATEGIES["cola_mws"]], ["fma"]))
    text = [command.text for command in found["COLA + MWS: no run"]]
    assert text[-2] == (
        "python -m cola_msa.train --preset=cola_mws --data_dir=prepared/mtat "
        "--run_dir=runs/cola_mws"
    )


def test_a_run_that_is_there_is_not_proposed_to_be_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "data")
    for name in ("cola_mws", "cola_mws_2"):
        write_run(tmp_path / "runs", "cola", data, name=name)
    found = missing.find(runs.Collection(()), [STRATEGIES["cola_mws"]], ["fma"])
    lines = [command.text for command in found[0][1][-2:]]
    assert all("--run_dir=runs/cola_mws_3" in line for line in lines)


def test_a_run_of_no_strategy_is_listed_apart(tmp_path):
    path = write_run(tmp_path, "msa", write_data(tmp_path / "data")) / "config.json"
    content = json.loads(path.read_text())
    content["config"]["strategy"] = ""
    content["config"]["train"]["source"] = "vocals,drums"
    write_json(path, content)
    found = runs.collect([path.parent])
    assert found.groups == ()
    row = tables.build_runs(found.runs).rows[0]
    assert row[1].text == "none of the paper's"
    assert "mixture and vocals,drums, mixed batches" in row[1].note


def test_tasks_beyond_the_papers_have_a_table_of_their_own(tmp_path):
    run_dir = write_run(tmp_path, "msa", write_data(tmp_path / "data"))
    write_result(run_dir, "mtat")
    write_result(run_dir, "folder", quality=0.9)
    untrained = {"encoder": "untrained", "step": 0}
    write_result(run_dir, "folder", folder="folder-untrained", encoder=untrained)
    path = write_result(run_dir, "jamendo", folder="my_task") / "results.json"
    content = json.loads(path.read_text()) | {"task": "my_task", "title": "my labels"}
    write_json(path, content)  # a task from a file has any name
    found = runs.collect([run_dir])
    assert found.problems == ()
    table = tables.build_further(found.runs)
    rows = {(r[0].text, r[1].text, r[4].text): r for r in table.rows}
    assert len(rows) == len(table.rows) == 6  # two scores each
    row = rows["folder", "MSA", "WA"]
    stored = json.loads((run_dir / "eval" / "folder" / "results.json").read_text())
    assert row[5].text == f"{stored['scores']['accuracy']['value']:.3f}"
    assert "60 clips" in row[5].note and "chance" in row[4].note
    assert ("folder", "untrained", "WA") in rows
    assert "my labels" in rows["my_task", "MSA", "PR-AUC"][0].note
    assert tables.build_others(found.runs) is None
    headings = [
        b.text for b in content_lib.build_blocks(found)[0] if hasattr(b, "text")
    ]
    assert "Tasks beyond the paper's" in headings


def test_a_score_that_no_task_has_is_left_out_by_name(tmp_path):
    run_dir = write_run(tmp_path, "msa", write_data(tmp_path / "data"))
    path = write_result(run_dir, "folder") / "results.json"
    content = json.loads(path.read_text())
    content["scores"]["beauty"] = content["scores"]["accuracy"]
    write_json(path, content)
    (problem,) = runs.collect([run_dir]).problems
    assert "beauty" in problem and str(path) in problem
