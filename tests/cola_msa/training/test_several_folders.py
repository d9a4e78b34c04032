"""A run on several folders, from the first update to what is said of it after."""

import json
import logging
import shutil

import pytest

from cola_msa.evaluation.baseline import compare_with_untrained
from cola_msa.evaluation.curves import retrieval_curve
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.folder_lists import split_names
from cola_msa.records.joined import open_data
from cola_msa.records.schema import DataError
from cola_msa.reproduction.report import commands, runs, tables
from cola_msa.runs import directory
from cola_msa.system.errors import RunError
from cola_msa.training.trainer import Trainer
from tests.conftest import tiny_config, write_prepared
from tests.helpers.commands import run_module


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folder `b` knows two sources and has a comma in its name."""
    path = tmp_path_factory.mktemp("folders")
    write_prepared(path / "a", {"train": 10, "validation": 4})
    write_prepared(
        path / "b,c",
        {"train": 8, "validation": 3},
        first=200,
        sources=("drums", "bass"),
        dataset="fma",
        log_mel_mean=1.0,
    )
    return path


def names(root):
    return f"{root}/a,{root}/b\\,c"


@pytest.fixture(scope="module")
def run_dir(root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    data = open_data(names(root), weights=["3", "1"])
    assert Trainer(tiny_config(), data, run_dir).run() == "finished"
    return run_dir


def test_config_says_what_it_was_trained_on(root, run_dir):
    data = directory.load_run(run_dir)["data"]
    assert split_names(data["data_dir"]) == [str(root / "a"), str(root / "b,c")]
    assert data["dataset"] == "mtat + fma"
    assert data["sources"] == ["vocals", "drums", "bass", "other"]
    assert [folder["weight"] for folder in data["folders"]] == [0.75, 0.25]
    assert data["log_mel_mean"] == pytest.approx(0.75 * 2.0 + 0.25 * 1.0)


def test_each_folders_share_is_logged(root, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        Trainer(tiny_config(), open_data(names(root)), tmp_path / "run")
    # Of four sources `a` has two alone; the others are drawn by segments.
    assert "a: 40 segments, " in caplog.text and "b,c: 32 segments, " in caplog.text
    assert caplog.text.count("% of all pairs") == 2


@pytest.mark.parametrize(
    ("folders", "weights", "message"),
    [
        ("a,b\\,c", ["1", "1"], "data_weights: 0.75,0.25 != 0.5,0.5"),
        ("a,b\\,c", None, "data_weights: 0.75,0.25 != by segments"),
        ("b\\,c,a", ["1", "3"], "data: .* in another order"),
        ("a", None, "data: .* has changed or is another"),
    ],
)
def test_other_folders_or_weights_do_not_go_on(
    root, run_dir, monkeypatch, folders, weights, message
):
    monkeypatch.chdir(root)
    data = open_data(folders, weights=weights)
    with pytest.raises(RunError, match=message):
        Trainer(tiny_config(), data, run_dir)


def test_folders_may_move_together(root, run_dir, tmp_path):
    for name in ("a", "b,c"):
        shutil.copytree(root / name, tmp_path / name)
    data = open_data(names(tmp_path), weights=["3", "1"])
    assert Trainer(tiny_config(), data, run_dir).run() == "finished"


@pytest.mark.parametrize("module", ["retrieve", "curves"])
def test_moved_folders_are_named_and_taken(root, run_dir, tmp_path, module):
    shutil.copytree(run_dir, tmp_path / "run")
    change_data_dir(tmp_path / "run", names(tmp_path / "gone"))
    arguments = (f"cola_msa.{module}", f"--run_dir={tmp_path / 'run'}")
    found = run_module(*arguments)
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("error:")]
    assert found.returncode == 1 and "gone/a/manifest.json does not exist" in line
    assert line.endswith("--data_dir says where it is now")
    found = run_module(*arguments, f"--data_dir={names(root)}")
    assert found.returncode == 0, found.stderr
    assert "retrieval" in found.stdout or "curves.json" in found.stdout


def test_folders_that_changed_since_are_told_of(root, run_dir, tmp_path, caplog):
    shutil.copytree(run_dir, tmp_path / "run")
    told = "is not what it was when"
    directory.open_pairs(tmp_path / "run")  # though it has no weights here
    assert told not in caplog.text
    change_data_dir(tmp_path / "run", str(root / "a"))
    directory.open_pairs(tmp_path / "run")
    assert told in caplog.text


@pytest.mark.parametrize("given", ["{}/b,d", "{}/a,{}/gone", "{}/a,{}/b\\,d"])
def test_a_comma_is_explained(root, given):
    with pytest.raises(DataError, match=r"manifest.json does not exist.*\\, is one"):
        open_data(given.replace("{}", str(root)))


def change_data_dir(run_dir, data_dir):
    config = json.loads((run_dir / "config.json").read_text())
    config["data"]["data_dir"] = data_dir
    (run_dir / "config.json").write_text(json.dumps(config))


def test_validation_is_of_all_folders(root, run_dir):
    data = open_data(directory.own_data_dir(run_dir))
    sampler = PairSampler(data, tiny_config().train, "validation")
    rows = {row for draw in sampler.validation_draws() for row in draw.rows}
    starts = data.index("validation").starts
    assert min(rows) < starts[1] <= max(rows)
    compared = compare_with_untrained(run_dir, data)
    assert compared["trained"]["num_songs"] == 2 + 2
    assert set(compared["top1_per_source"]) == {"vocals", "drums", "bass", "other"}
    curve = retrieval_curve(run_dir, data)
    assert set(curve) == {0, 2, 4} and curve[4]["num_songs"] == 4


def test_the_report_knows_its_folders(root, run_dir, tmp_path):
    found = runs.collect([run_dir])
    assert not found.problems
    assert found.runs[0].train_clips == 18
    data = found.runs[0].description["data"]
    assert commands.weight_flags(data) == ("--data_weights=0.75,0.25",)
    # Of several such runs the weights tell which is which.
    found_tables = tables.build_table(2, found), tables.build_runs(found.runs)
    for table in found_tables:
        notes = [cell.note for row in table.rows for cell in row]
        assert sum("drawn with weights 0.75, 0.25" in note for note in notes) == 1
    moved = tmp_path / "run"
    shutil.copytree(run_dir, moved)
    change_data_dir(moved, names(tmp_path))
    lost = runs.collect([moved])
    assert "is gone" in lost.problems[0] and lost.runs[0].train_clips is None


@pytest.mark.parametrize(
    "folders", [3, [3], [{}], [{"manifest_hash": "a", "weight": float("nan")}]]
)
def test_a_damaged_list_of_folders_is_one_line(run_dir, tmp_path, folders):
    config = json.loads((run_dir / "config.json").read_text())
    config["data"]["folders"] = folders
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="config.json: damaged") as error:
        directory.load_run(tmp_path)
    assert "\n" not in str(error.value)
