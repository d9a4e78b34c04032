"""Tasks: registry, splits, published numbers, refused data."""

import types

import pytest

from cola_msa.config.published import PUBLISHED, TABLE_1
from cola_msa.config.schema import FrontendConfig, waveform_frontend
from cola_msa.evaluation.tasks import TASKS, get_task
from cola_msa.records.schema import DataError
from cola_msa.system.errors import UsageError


def fake_data(
    dataset="fma", task_type="multiclass", splits=None, classes=3, frontend=None
):
    return types.SimpleNamespace(
        frontend=frontend or FrontendConfig(),
        data_dir="data",
        manifest={"dataset": dataset, "task_type": task_type},
        splits=splits or ("train", "validation", "test"),
        class_names=tuple(str(n) for n in range(classes)),
    )


@pytest.mark.parametrize(
    ("task", "hidden", "rate", "published"),
    [
        ("mtat", (), 5e-4, {"roc_auc": 0.900, "pr_auc": 0.427}),
        ("mtat_unfiltered", (), 5e-4, {"roc_auc": 0.891, "pr_auc": 0.356}),
        ("nsynth", (512,), 3e-4, {"accuracy": 0.655}),
        ("fma", (), 5e-4, {"accuracy": 0.520}),
    ],
)
def test_tasks_are_the_papers(task, hidden, rate, published):
    spec = get_task(task)
    assert (spec.hidden_units, spec.learning_rate) == (hidden, rate)
    assert spec.published == published


def test_published_tables_hold_every_row():
    assert [len(PUBLISHED[number]) for number in (1, 2, 3)] == [5, 4, 6]
    assert TABLE_1["CLMR"]["mtat"] == {}
    assert TABLE_1["CLMR"]["fma"] == {"accuracy": 0.484}
    assert PUBLISHED[2]["Ablation 2"]["mtat_unfiltered"]["pr_auc"] == 0.359
    assert PUBLISHED[3]["drums"]["fma"]["accuracy"] == 0.496


@pytest.mark.parametrize("name", ["jazz", "", None])
def test_unknown_task_lists_the_tasks(name):
    with pytest.raises(UsageError, match="mtat, mtat_unfiltered, nsynth, fma") as error:
        get_task(name)
    assert "\n" not in str(error.value)


def test_unfiltered_splits():
    task = TASKS["mtat_unfiltered"]
    assert task.choose_splits().train == ("train",)
    assert task.choose_splits().test == ("test", "test_extra")
    assert task.choose_splits("all").train == ("train", "train_extra")
    assert task.choose_splits("all").validation == ("validation", "validation_extra")


@pytest.mark.parametrize(("task", "value"), [("fma", "all"), ("mtat", "some")])
def test_train_clips_are_checked(task, value):
    with pytest.raises(UsageError, match="train_clips"):
        TASKS[task].choose_splits(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (fake_data(dataset="nsynth"), "holds dataset 'nsynth'"),
        (fake_data(dataset="nsynth"), "data_prep.fma$"),
        (
            fake_data(dataset="nsynth", frontend=waveform_frontend()),
            "data_prep.fma --records=waveform$",
        ),
        (fake_data(task_type="multilabel"), "labels are multilabel"),
        (fake_data(splits=("train", "test")), "needs split validation; there are only"),
        (fake_data(classes=1), "1 class"),
    ],
)
def test_unfit_data_is_refused(data, message):
    task = TASKS["fma"]
    with pytest.raises(DataError, match=message):
        task.check_data(data, task.splits)


def test_fit_data_is_accepted():
    assert TASKS["fma"].check_data(fake_data(), TASKS["fma"].splits) == ()


def test_only_extra_splits_may_be_absent():
    task = TASKS["mtat_unfiltered"]
    splits = task.choose_splits("all")
    names = ("train", "validation", "test", "train_extra")
    absent = task.check_data(fake_data("mtat", "multilabel", names), splits)
    assert absent == ("validation_extra", "test_extra")
    assert splits.without(absent).names == ("train", "train_extra", *names[1:3])
    with pytest.raises(DataError, match="needs split test;"):
        names = ("train", "validation", "test_extra")
        task.check_data(fake_data("mtat", "multilabel", names), splits)
