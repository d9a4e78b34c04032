"""Paired comparisons: against a plain loop, what is refused, and the command."""

import dataclasses
import shutil

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
)

from cola_msa.reproduction.report import compare, results
from cola_msa.reproduction.report.compare import CompareError, Difference
from cola_msa.system.errors import UsageError
from tests.helpers.commands import run_module
from tests.helpers.report_runs import draw_scores, write_data, write_result, write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two runs: `good` is better on mtat, both are equal on fma."""
    root = tmp_path_factory.mktemp("compare")
    data = write_data(root / "data")
    for name, quality in (("good", 1.0), ("poor", 0.1)):
        run_dir = write_run(root / "runs", "msa", data, name=name)
        write_result(run_dir, "mtat", quality=quality, seed=len(name) + int(quality))
        write_result(run_dir, "fma", quality=0.5)
    write_result(root / "runs" / "good", "nsynth")
    return root


def sides(root, first="good", second="poor"):
    return tuple(compare.load_side(root / "runs" / name) for name in (first, second))


def loop_scores(task, labels, scores):
    """scikit-learn's scores of one resample, for which clips are repeated."""
    if task == "fma":
        guess = scores.argmax(axis=1)
        return {
            "accuracy": float((guess == labels).mean()),
            "balanced_accuracy": balanced_accuracy_score(labels, guess),
        }
    tags = [t for t in range(labels.shape[1]) if 0 < labels[:, t].sum() < len(labels)]
    pairs = [(labels[:, tag], scores[:, tag]) for tag in tags]
    return {
        "roc_auc": np.mean([roc_auc_score(*pair) for pair in pairs]),
        "pr_auc": np.mean([average_precision_score(*pair) for pair in pairs]),
    }


@pytest.mark.parametrize("task", ["mtat", "fma"])
def test_the_bootstrap_equals_a_loop_over_resamples(task):
    num_resamples, seed = 40, 3
    labels, first = draw_scores(task, 0.4, 1, num_clips=40)
    second = draw_scores(task, 0.3, 2, num_clips=40, num_heads=1)[1]
    found = compare.paired_differences(task, labels, first, second, num_resamples, seed)
    rng = np.random.default_rng(seed)
    differences: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        clips = rng.integers(0, 40, 40)
        means = [
            [loop_scores(task, labels[clips], head[clips]) for head in heads]
            for heads in (first, second)
        ]
        for name in means[0][0]:
            a, b = (np.mean([head[name] for head in side]) for side in means)
            differences.setdefault(name, []).append(a - b)
    assert {difference.score for difference in found} == set(differences)
    for difference in found:
        values = np.array(differences[difference.score])
        whole = [
            np.mean(
                [loop_scores(task, labels, head)[difference.score] for head in side]
            )
            for side in (first, second)
        ]
        assert (difference.first, difference.second) == pytest.approx(whole)
        low, high = np.percentile(values, [2.5, 97.5])
        assert (difference.low, difference.high) == pytest.approx((low, high))
        # Where a difference is 0 but for rounding, a loop may see either sign.
        is_near_zero = np.abs(values) < 1e-9
        turned = np.mean(is_near_zero | (values * np.sign(difference.value) < 0))
        assert difference.other_sign == pytest.approx(turned)
        assert difference.clips == 40
        assert difference.num_resamples == num_resamples


def test_a_large_difference_is_one_and_an_equal_score_is_none(root):
    found = {(d.task, d.score): d for d in compare.compare(*sides(root), 300)}
    assert set(found) == {
        ("mtat", "roc_auc"),
        ("mtat", "pr_auc"),
        ("fma", "accuracy"),
        ("fma", "balanced_accuracy"),
    }
    large, equal = found["mtat", "pr_auc"], found["fma", "accuracy"]
    assert large.value > 0.2 and large.is_clear and large.other_sign == 0
    assert equal.value == 0 and not equal.is_clear and equal.other_sign == 1
    turned = {(d.task, d.score): d for d in compare.compare(*sides(root)[::-1], 300)}
    assert turned["mtat", "pr_auc"].low == pytest.approx(-large.high)


def test_folders_of_results_compare_too(root):
    first = compare.load_side(root / "runs" / "good" / "eval" / "mtat")
    second = compare.load_side(root / "runs" / "poor")
    found = compare.compare(first, second, 100)
    assert {difference.task for difference in found} == {"mtat"}
    assert first.name == "eval/mtat" or "mtat" in first.name


def test_clips_in_another_order_are_matched_by_name(root, tmp_path):
    source = root / "runs" / "poor" / "eval" / "mtat"
    copy = shutil.copytree(source, tmp_path / "mtat")
    order = np.random.default_rng(0).permutation(60)
    with np.load(source / "clip_scores.npz") as arrays:
        np.savez(
            copy / "clip_scores.npz",
            clip_ids=arrays["clip_ids"][order],
            labels=arrays["labels"][order],
            scores=arrays["scores"][:, order],
            class_names=arrays["class_names"],
        )
    first = compare.load_side(root / "runs" / "good")
    expected = compare.compare(first, compare.load_side(source), 100)
    assert compare.compare(first, compare.load_side(copy), 100) == expected


def _change(folder, **changes):
    with np.load(folder / "clip_scores.npz") as arrays:
        np.savez(folder / "clip_scores.npz", **{**arrays, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"clip_ids": np.array([f"x{n}" for n in range(60)])},
            "not judged on the same",
        ),
        ({"class_names": np.array(["a", "b", "c", "d", "e"])}, "different classes"),
        ({"labels": np.ones((60, 5), np.int64)}, "labels of the same clips differ"),
    ],
)
def test_results_that_do_not_fit_are_refused(root, tmp_path, changes, message):
    copy = shutil.copytree(root / "runs" / "poor" / "eval" / "mtat", tmp_path / "mtat")
    _change(copy, **changes)
    first = compare.load_side(root / "runs" / "good")
    with pytest.raises(CompareError, match=message):
        compare.compare(first, compare.load_side(copy), 100)


def test_sides_without_a_common_task_are_refused(root):
    folders = [root / "runs" / "good" / "eval" / task for task in ("fma", "nsynth")]
    with pytest.raises(CompareError, match="no task that both have"):
        compare.compare(*(compare.load_side(folder) for folder in folders), 100)


def test_a_missing_file_of_scores_says_what_to_do(root, tmp_path):
    copy = shutil.copytree(root / "runs" / "poor" / "eval" / "mtat", tmp_path / "mtat")
    (copy / "clip_scores.npz").unlink()
    first = compare.load_side(root / "runs" / "good")
    with pytest.raises(results.ReportError, match="run the evaluation again"):
        compare.compare(first, compare.load_side(copy), 100)


@pytest.mark.parametrize("kind", ["nothing", "not judged"])
def test_what_is_no_side_is_refused(tmp_path, kind):
    if kind == "not judged":
        write_run(tmp_path, "msa", write_data(tmp_path / "data"), name="run")
    message = "neither a run" if kind == "nothing" else "has not been judged yet"
    with pytest.raises(CompareError, match=message):
        compare.load_side(tmp_path / "run")


def test_who_was_not_judged_is_told_a_task_of_the_other_side(root, tmp_path):
    write_run(tmp_path, "msa", write_data(tmp_path / "data"), name="run")
    other = root / "runs" / "good" / "eval" / "fma"
    with pytest.raises(CompareError, match="--task=fma"):
        compare.load_side(tmp_path / "run", other)


DIFFERENCE = Difference("mtat", "pr_auc", 0.427, 0.422, -0.002, 0.012, 0.08, 4332, 2000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "0.427 against 0.422 is no difference that these 4,332 clips can show"),
        ({"low": 0.001}, "0.427 against 0.422 is a difference: A is better than B"),
        (
            {"first": 0.417, "low": -0.009, "high": -0.001},
            "0.417 against 0.422 is a difference: B is better than A",
        ),
        ({"first": 0.422}, "0.422 against 0.422: equal"),
    ],
)
def test_the_answer_in_words(changes, words):
    found = compare.verdict(dataclasses.replace(DIFFERENCE, **changes), "A", "B")
    assert words in found


# The command --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--compare", "runs/good", "runs/poor", "--output_dir=out"],
        ["--output_dir=out", "--compare=runs/good,runs/poor", "--runs=runs"],
    ],
)
def test_the_command_compares_and_reports(root, tmp_path, arguments):
    shutil.copytree(root / "runs", tmp_path / "runs")
    arguments = [*arguments, "--resamples=100", "--tables=", "--figures="]
    found = run_module("cola_msa.report", *arguments, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    row = next(r for r in found.stdout.splitlines() if r.startswith("mtat, PR-AUC  "))
    assert row.split()[-1] == "yes"
    assert "good is better than poor" in found.stdout
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "Comparison: good against poor" in text
        assert "is a difference" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs is neither a run nor a folder of runs"),
        (["--compare", "a", "b"], "a is neither a run (config.json)"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, arguments, message):
    found = run_module("cola_msa.report", *arguments, cwd=tmp_path)
    assert found.returncode == 1
    errors = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "rest", "message"),
    [
        (["a"], [], "two runs or folders of results, not 1: a"),
        (["a"], ["b", "c"], "not 3: a, b, c"),
        ([], ["extra"], "unknown argument 'extra'"),
    ],
)
def test_two_sides_are_needed(given, rest, message):
    with pytest.raises(UsageError, match=message):
        compare.parse_sides(given, rest)


@pytest.mark.parametrize("values", [["4"], ["1", "x"], [""]])
def test_only_the_papers_tables_are_known(values):
    with pytest.raises(UsageError, match="--tables takes 1, 2, 3, not"):
        compare.parse_numbers("tables", values, (1, 2, 3))


def test_numbers_are_sorted_and_named_once():
    assert compare.parse_numbers("tables", ["3", "1", "3"], (1, 2, 3)) == [1, 3]
    assert compare.parse_numbers("tables", [], (1, 2, 3)) == []


def test_tasks_beyond_the_papers_are_compared_too(tmp_path):
    data = write_data(tmp_path / "data")
    for name, quality in (("good", 1.0), ("poor", 0.1)):
        run_dir = write_run(tmp_path / "runs", "msa", data, name=name)
        write_result(run_dir, "folder", quality=quality, seed=int(quality))
        if name == "good":
            write_result(run_dir, "gtzan")
    found = compare.compare(*sides(tmp_path), 200)
    assert [d.task for d in found] == ["folder", "folder"]
    assert found[0].score == "accuracy" and found[0].is_clear and found[0].value > 0
    assert "good is better than poor" in compare.verdict(found[0], "good", "poor")
