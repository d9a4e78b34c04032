"""Tasks of the user's own, and those beyond the paper, judged on small data."""

import json
import pathlib

import pytest

from cola_msa.evaluation.judge import evaluate
from cola_msa.evaluation.results import render_table
from cola_msa.evaluation.setting import EvaluationConfig
from cola_msa.evaluation.tasks import OTHER_TASKS, TaskError, get_task
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import kept
from tests.data_prep.datasets.test_datasets import execute
from tests.helpers import trees
from tests.helpers.commands import ROOT, run_module

EXAMPLE = ROOT / "examples" / "my_task.py"


def test_the_example_is_a_task():
    task = get_task(str(EXAMPLE))
    assert (task.name, task.hidden_units) == ("my_task", (256,))
    assert task.published == {} and task.paper_clips is None


@pytest.mark.parametrize("name", list(OTHER_TASKS))
def test_other_tasks_have_no_published_scores(name):
    assert get_task(name).published == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TASK = 3", "must define TASK = TaskSpec"),
        ("", "must define TASK = TaskSpec"),
        ("import nowhere_at_all", "cannot be run .ModuleNotFoundError"),
        ("TASK = SPEC('fma')", "there is a task fma already"),
        ("TASK = SPEC('a/b')", "must be letters"),
        ("TASK = SPEC('mine', task_type='other')", "task_type must be"),
        ("TASK = SPEC('mine', scores=('roc_auc',))", "scores of a multiclass task"),
        ("TASK = SPEC('mine', learning_rate=0)", "learning_rate must be above 0"),
    ],
)
def test_files_that_are_no_task_are_refused(tmp_path, text, message):
    path = tmp_path / "task.py"
    path.write_text(
        "from cola_msa import TaskSpec\n"
        "def SPEC(name, **changed):\n"
        "    fields = dict(name=name, title='t', dataset='d', task_type='multiclass',\n"
        "                  hidden_units=(), learning_rate=1e-3, scores=('accuracy',))\n"
        "    return TaskSpec(**(fields | changed))\n" + text + "\n"
    )
    with pytest.raises(TaskError, match=message):
        get_task(str(path))


def test_a_missing_file_is_named():
    with pytest.raises(TaskError, match="nowhere.py: there is no such file"):
        get_task("nowhere.py")


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("gtzan", "gtzan"),
        ("jamendo", "jamendo"),
        ("labelled_folder", "folder"),
        ("labelled_folder", str(EXAMPLE)),
    ],
    ids=lambda value: pathlib.PurePath(value).name,
)
def test_an_encoder_is_judged_on_it(finished_run, tmp_path, dataset, task):
    getattr(trees, f"write_{dataset}")(tmp_path / "raw")
    assert execute(dataset, tmp_path / "raw", tmp_path / "out") == 0
    encoder = kept.load_model(finished_run).encoder
    results = evaluate(
        encoder,
        "key",
        get_task(task),
        PreparedData(tmp_path / "out"),
        tmp_path / "eval",
        EvaluationConfig(num_resamples=20),
    )
    assert results["task"] == get_task(task).name
    assert results["paper_clips"] == {}
    assert "not a task of the paper's" in render_table(results)
    for row in results["scores"].values():
        assert 0 <= row["value"] <= 1 and row["published"] is None
    assert (tmp_path / "eval" / results["chart"]).is_file()


def test_the_command_takes_the_example(finished_run, tmp_path):
    trees.write_labelled_folder(tmp_path / "raw")
    assert execute("labelled_folder", tmp_path / "raw", tmp_path / "out") == 0
    arguments = (f"--task={EXAMPLE}", f"--run_dir={finished_run}")
    arguments += (f"--data_dir={tmp_path / 'out'}", f"--output_dir={tmp_path / 'eval'}")
    found = run_module("cola_msa.eval", *arguments, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["scores"]


def test_a_task_without_data_says_so(finished_run, tmp_path):
    arguments = ("--task=gtzan", f"--run_dir={finished_run}")
    found = run_module("cola_msa.eval", *arguments, cwd=tmp_path)
    assert found.returncode == 2
    assert "--task=gtzan needs --data_dir" in found.stderr


def test_a_file_that_imports_from_where_names_were_once_is_told_where_they_are(
    tmp_path,
):
    path = tmp_path / "old.py"
    path.write_text("from cola_msa.tasks import TaskSpec\n")
    with pytest.raises(TaskError, match="imported from cola_msa itself"):
        get_task(str(path))
