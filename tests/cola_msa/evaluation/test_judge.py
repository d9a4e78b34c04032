"""Evaluation as a whole: files, table, repeated numbers, the command, bad input."""

import csv
import dataclasses
import itertools
import os
import pathlib
import shutil

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from sklearn.metrics import average_precision_score

from cola_msa.config.schema import Config, ModelConfig
from cola_msa.evaluation import judge, metrics
from cola_msa.evaluation import results as results_lib
from cola_msa.evaluation import setting as setting_lib
from cola_msa.evaluation.baseline import window_spectra
from cola_msa.evaluation.setting import EvaluationConfig
from cola_msa.evaluation.tasks import TASKS
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.statistics import BatchStatistics
from cola_msa.records.schema import DataError
from cola_msa.runs import directory, kept
from cola_msa.runs import info as info_lib
from cola_msa.system.errors import UsageError
from cola_msa.system.locks import LOCK_NAME, Lock, LockedError
from cola_msa.values import arrays as arrays_lib
from tests.cola_msa.evaluation.probes.test_features import tiny_encoder, write_data
from tests.helpers.commands import run_module

ROOT = pathlib.Path(__file__).parents[3]
PAPER_INFO = info_lib.EncoderInfo(
    "trained", "run", "paper", "multi", 10_000, 640_000, 0
)


def make_clips(prefix, count, is_tags=False, has_tags=True):
    rng = np.random.default_rng(len(prefix) * 1000 + count)
    rows = []
    for number in range(count):
        labels = (number % 3,)
        if is_tags:
            extra = (3,) if rng.random() < 0.3 else ()
            labels = (*labels, *extra) if has_tags else ()
        rows.append((f"{prefix}{number}", labels, int(rng.integers(98, 900))))
    return rows


@pytest.fixture(scope="module")
def fma(tmp_path_factory):
    counts = {"train": 24, "validation": 9, "test": 15}
    clips = {name: make_clips(name, count) for name, count in counts.items()}
    return write_data(tmp_path_factory.mktemp("fma"), clips)


@pytest.fixture(scope="module")
def mtat(tmp_path_factory):
    counts = {"train": 24, "validation": 9, "test": 15}
    clips = {n: make_clips(n, count, is_tags=True) for n, count in counts.items()}
    for name, count in (("train", 5), ("validation", 0), ("test", 6)):
        clips[f"{name}_extra"] = make_clips(f"{name}_extra", count, True, False)
    return write_data(
        tmp_path_factory.mktemp("mtat"), clips, "mtat", "multilabel", num_classes=5
    )


def evaluate(task, data, folder, cache=None, **options):
    info = options.pop("info", info_lib.EncoderInfo())
    config = EvaluationConfig(**{"num_resamples": 50, **options})
    return judge.evaluate(
        tiny_encoder(16),
        "key",
        task,
        data,
        folder,
        config,
        cache_dir=cache or data.data_dir / "cache",
        info=info,
        show_progress=False,
    )


def test_multiclass_files(fma, tmp_path):
    results = evaluate("fma", fma, tmp_path, num_seeds=2)
    assert results_lib.read_results(tmp_path)["scores"] == results["scores"]
    assert results["splits"]["test"]["clips"] == 15
    arrays = np.load(tmp_path / "clip_scores.npz")
    assert arrays["scores"].shape == (2, 15, 3)
    np.testing.assert_allclose(arrays["scores"].sum(axis=2), 1.0, rtol=1e-5)
    assert arrays["clip_ids"].tolist() == fma.index("test").clip_ids.tolist()
    accuracies = [(s.argmax(1) == arrays["labels"]).mean() for s in arrays["scores"]]
    row = results["scores"]["accuracy"]
    assert row["per_seed"] == accuracies
    assert row["value"] == pytest.approx(np.mean(accuracies))
    assert row["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert row["low"] <= row["value"] <= row["high"]
    assert (row["published"], row["chance"]) == (0.520, pytest.approx(1 / 3))
    with open(tmp_path / "per_class.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(fma.class_names)
    recalls = np.array([float(row["recall"]) for row in rows])
    assert recalls.mean() == pytest.approx(
        results["scores"]["balanced_accuracy"]["value"], rel=1e-6
    )
    assert [row["test_clips"] for row in rows] == ["5", "5", "5"]
    image = matplotlib.image.imread(tmp_path / "confusion.png")
    assert min(image.shape[:2]) > 300 and image[..., :3].std() > 0.05


def test_multilabel_files(mtat, tmp_path):
    results = evaluate("mtat", mtat, tmp_path)
    arrays = np.load(tmp_path / "clip_scores.npz")
    labels, scores = arrays["labels"], arrays["scores"][0]
    assert labels.shape == scores.shape == (15, 5)
    # No clip has tag 4, so that it is not counted.
    assert results["data"]["num_counted"] == 4
    expected = average_precision_score(labels[:, :4], scores[:, :4])
    assert results["scores"]["pr_auc"]["value"] == pytest.approx(expected)
    rows = results["per_class"]
    assert [row["pr_auc"] is None for row in rows] == [False] * 4 + [True]
    assert rows[3]["pr_auc"] == pytest.approx(
        average_precision_score(labels[:, 3], scores[:, 3])
    )
    assert (tmp_path / "per_tag.png").stat().st_size > 5000
    assert "4 of 5" in results_lib.render_table(results)


def test_unfiltered_uses_the_extra_clips(mtat, tmp_path):
    filtered = evaluate("mtat", mtat, tmp_path / "a")
    unfiltered = evaluate("mtat_unfiltered", mtat, tmp_path / "b")
    everything = evaluate("mtat_unfiltered", mtat, tmp_path / "c", train_clips="all")
    clips = [
        tuple(part["clips"] for part in results["splits"].values())
        for results in (filtered, unfiltered, everything)
    ]
    assert clips == [(24, 9, 15), (24, 9, 21), (29, 9, 21)]
    # The same head: equal scores of the clips that both test, but for the rounding of
    # matrix products with other numbers of rows.
    first = np.load(tmp_path / "a" / "clip_scores.npz")
    second = np.load(tmp_path / "b" / "clip_scores.npz")
    np.testing.assert_allclose(
        first["scores"], second["scores"][:, :15], rtol=0, atol=1e-6
    )
    assert second["labels"][15:].sum() == 0
    assert "not the paper's protocol" in results_lib.render_table(everything)


def test_same_call_same_numbers(fma, tmp_path):
    first = evaluate("fma", fma, tmp_path / "a")
    second = evaluate("fma", fma, tmp_path / "b")
    for results in (first, second):
        for head in results["heads"]:
            head.pop("seconds")
    assert first == second
    difference = metrics.paired_bootstrap(
        *(np.load(tmp_path / "a" / "clip_scores.npz")[n] for n in ("labels", "scores")),
        np.load(tmp_path / "b" / "clip_scores.npz")["scores"],
        num_resamples=10,
    )
    assert difference["accuracy"].value == 0


def test_table_states_the_scale(fma, tmp_path):
    info = dataclasses.replace(PAPER_INFO, updates=64, pairs=8192, preset="demo")
    results = evaluate("fma", fma, tmp_path, info=info)
    table = results_lib.render_table(results)
    for text in (
        "WA",
        "0.520",
        "64 updates, 8,192 pairs (paper: 640,000 updates, 81,920,000 pairs)",
        "24 / 9 / 15 for training / validation / test (paper: 6,400 / 800 / 800)",
        "1 seed;",
        "95 % bootstrap over the 15 test clips, 50 resamples",
        "not the paper's scale",
    ):
        assert text in table
    results["splits"] = {
        name: {"clips": count} for name, count in results["paper_clips"].items()
    }
    results["encoder"]["pairs"] = 81_920_000
    assert "not the paper's scale" not in results_lib.render_table(results)


@pytest.mark.parametrize("num_renamed", range(5))
def test_killed_between_two_of_its_files_it_goes_on(
    fma, tmp_path, monkeypatch, num_renamed
):
    rename = os.replace
    done = []

    def killed(source, target):
        if pathlib.Path(target).parent == tmp_path:
            if len(done) == num_renamed:
                raise KeyboardInterrupt
            done.append(pathlib.Path(target).name)
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate("fma", fma, tmp_path)
    monkeypatch.undo()
    assert len(done) == num_renamed
    results = evaluate("fma", fma, tmp_path)
    assert results_lib.read_results(tmp_path)["scores"] == results["scores"]


def test_the_files_of_two_evaluations_do_not_mix(fma, tmp_path, monkeypatch):
    write = setting_lib.write_results
    told = []

    def write_alone(folder, *rest):
        with pytest.raises(LockedError) as caught:
            Lock(folder / LOCK_NAME, "another writes")
        told.append(str(caught.value))
        write(folder, *rest)

    monkeypatch.setattr(setting_lib, "write_results", write_alone)
    evaluate("fma", fma, tmp_path)
    assert told == ["another writes"]
    evaluate("fma", fma, tmp_path)  # and then it is free again


def test_another_methods_encoder_is_read_beside_its_own_numbers(fma, mtat, tmp_path):
    """The paper quotes CLMR on FMA, and not on the filtered clips of MagnaTagATune."""
    info = dataclasses.replace(PAPER_INFO, pairs=8192, updates=64, framework="clmr")
    results = evaluate("fma", fma, tmp_path / "fma", info=info)
    table = results_lib.render_table(results)
    assert "paper (CLMR)" in table and "0.484" in table
    assert "MSA" not in table and "0.520" not in table
    # 10,000 epochs of 317 batches of 48.
    assert "(CLMR as published: 3,170,000 updates, 152,160,000 pairs)" in table
    assert "not CLMR's published scale" in table
    results["splits"] = {
        name: {"clips": count} for name, count in results["paper_clips"].items()
    }
    for pairs, is_enough in ((152_159_999, False), (10_000 * 317 * 48, True)):
        results["encoder"]["pairs"] = pairs
        assert results_lib.has_paper_scale(results) == is_enough
    table = results_lib.render_table(evaluate("mtat", mtat, tmp_path / "m", info=info))
    assert "paper (" not in table and "0.900" not in table
    assert "orientation" not in table
    assert table.splitlines()[1].split()[-1] == "chance"


@pytest.mark.parametrize(
    ("fields", "row", "accuracy"),
    [
        ({"source": "none"}, "COLA", 0.491),
        ({"source": "none", "augment": "mws"}, "COLA + MWS", 0.515),
        ({"source": "vocals"}, "vocals", 0.456),
        ({"batches": "active"}, "Ablation 1", 0.498),
        ({"separator": "random"}, "COLA + random mask", 0.469),
        ({"encoder": "untrained", "source": "none"}, "COLA", 0.491),
        # What the paper has no row of stands beside its own method.
        ({"source": "vocals,drums"}, "MSA", 0.520),
        ({"source": "none", "init_from": "kept/step-00000003.npz"}, "MSA", 0.520),
    ],
)
def test_an_encoder_is_read_beside_the_row_of_its_own_pairs(fields, row, accuracy):
    info = dataclasses.replace(PAPER_INFO, **fields)
    found = setting_lib.yardstick_for(dataclasses.asdict(info))
    assert (found.row, found.scores("fma")) == (row, {"accuracy": accuracy})


def test_the_row_of_an_encoders_own_pairs_is_written_and_printed(fma, tmp_path):
    info = dataclasses.replace(PAPER_INFO, source="vocals")
    evaluate("fma", fma, tmp_path, info=info)
    table = results_lib.render_table(results_lib.read_results(tmp_path))
    assert "paper (vocals)" in table and "0.456" in table and "0.520" not in table


def test_results_of_earlier_versions_are_read_beside_the_papers_own_row(fma, tmp_path):
    results = evaluate("fma", fma, tmp_path, info=PAPER_INFO)
    results["paper_scale"] = {"updates": 640_000, "pairs": 81_920_000}
    table = results_lib.render_table(results)
    assert "paper (MSA)" in table and "81,920,000" in table


def test_unfit_data_is_refused(fma, mtat, tmp_path):
    with pytest.raises(DataError, match="holds dataset 'mtat'"):
        evaluate("fma", mtat, tmp_path)
    with pytest.raises(UsageError, match="must be one of"):
        evaluate("jazz", fma, tmp_path)
    clips = {name: [("a", (0,), 98)] for name in ("train", "validation")}
    two = write_data(tmp_path / "two", {**clips, "test": [("b", (0, 1), 98)]})
    with pytest.raises(DataError, match="clip b has 2 classes"):
        evaluate("fma", two, tmp_path)
    empty = write_data(tmp_path / "empty", {**clips, "test": []})
    with pytest.raises(DataError, match="split test holds no clips"):
        evaluate("fma", empty, tmp_path)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of the tiny backbone that kept steps 0 and 3."""
    path = tmp_path_factory.mktemp("runs") / "multi-test"
    path.mkdir()
    config = Config(preset="demo", model=ModelConfig(backbone="tiny"))
    data = {"log_mel_mean": -3.0, "log_mel_std": 1.0}
    arrays_lib.write_json(path / "config.json", directory.describe_run(config, data, 1))
    for step, seed in ((0, 0), (3, 1)):
        model = ContrastiveModel(config.model, config.frontend, -3.0, 1.0, seed)
        layers = model.batch_norm_layers()
        statistics = BatchStatistics(
            tuple(layer.moving_mean.numpy() for layer in layers),
            tuple(layer.moving_variance.numpy() for layer in layers),
        )
        kept.save_kept(path, model, {"anchors": statistics}, step)
    return path


def run_command(*arguments):
    return run_module("cola_msa.eval", *arguments)


def test_command(run_dir, fma):
    result = run_command(
        "--task=fma",
        f"--run_dir={run_dir}",
        f"--data_dir={fma.data_dir}",
        "--encoder=untrained",
        "--seeds=2",
    )
    assert result.returncode == 0, result.stderr
    assert "untrained of run multi-test (preset demo): 0 updates" in result.stdout
    results = results_lib.read_results(run_dir / "eval" / "fma-untrained")
    assert results["encoder"]["key"] == kept.encoder_key(run_dir, 0)
    assert results["seeds"] == [0, 1]
    assert len(list((run_dir / "embeddings").glob("*.f16"))) == 3


def test_encoder_info(run_dir):
    info = info_lib.encoder_info(run_dir, None, "trained")
    assert info == info_lib.EncoderInfo(
        encoder="trained",
        run="multi-test",
        preset="demo",
        source="multi",
        step=3,
        updates=3 * 64,
        pairs=3 * 64 * 128,
        batches="mixed",
        augment="none",
        updates_per_step=64,
        batch_size=128,
        statistics="anchors",
    )
    assert info_lib.encoder_info(run_dir, 0, "untrained").pairs == 0


def test_unknown_task_is_one_line():
    result = run_command("--task=jazz")
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert lines == [
        "error: --task must be one of mtat, mtat_unfiltered, nsynth, fma, gtzan, "
        "jamendo, folder, or a .py file, not 'jazz'"
    ]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("given", "encoder", "expected"),
    [
        (None, "trained", None),
        (None, "untrained", 0),
        ("300", "trained", 300),
        ("best", "trained", "best"),
    ],
)
def test_choice_of_step(given, encoder, expected):
    assert judge.choose_step(given, encoder) == expected


@pytest.mark.parametrize(("given", "encoder"), [("3", "untrained"), ("x", "trained")])
def test_impossible_step(given, encoder):
    with pytest.raises(UsageError, match="--checkpoint_step"):
        judge.choose_step(given, encoder)


def test_best_checkpoint_knows_its_step(run_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("eval", "*.f16"))
    shutil.copy(folder / "kept" / "step-00000003.npz", folder / "kept" / "best.npz")
    assert info_lib.encoder_info(folder, "best", "trained").step == 3


def test_importing_the_command_defines_no_flags():
    # Other commands import `evaluate` and define flags of the same names.
    assert flags.FLAGS.find_module_defining_flag("task") != "cola_msa.eval"


def test_every_task_has_its_published_scores():
    for task in TASKS.values():
        assert set(task.published) <= set(task.scores)
        assert task.scores[0] in task.published


def test_a_chart_that_cannot_be_drawn_costs_no_result(fma, tmp_path, monkeypatch):
    found = []

    def fail(*_):
        found.append(results_lib.read_results(tmp_path)["scores"])
        raise ValueError("no chart")

    monkeypatch.setattr("cola_msa.evaluation.charts.draw_confusion", fail)
    results = evaluate("fma", fma, tmp_path)
    assert found == [results["scores"]]  # they were there before
    assert results["chart"] is results_lib.read_results(tmp_path)["chart"] is None
    monkeypatch.undo()
    assert evaluate("fma", fma, tmp_path)["chart"] == "confusion.png"
    assert results_lib.read_results(tmp_path)["chart"] == "confusion.png"


def test_classes_may_have_any_name(tmp_path):
    names = ("$_$", "two\nlines", "\ud800")
    counts = {"train": 24, "validation": 9, "test": 15}
    clips = {name: make_clips(name, count) for name, count in counts.items()}
    data = write_data(tmp_path / "data", clips)
    data.class_names = names
    results = evaluate("fma", data, tmp_path / "eval")
    assert [row["class"] for row in results["per_class"]] == list(names)
    assert results["chart"] == "confusion.png"
    assert (tmp_path / "eval" / "confusion.png").stat().st_size > 5000
    assert (tmp_path / "eval" / "per_class.csv").read_text().startswith("class,")


def test_window_spectra_equal_a_loop():
    rng = np.random.default_rng(0)
    windows = rng.normal(-4, 2, (3, 21, 5, 1)).astype(np.float32)
    found = window_spectra(tf.constant(windows)).numpy()
    assert found.shape == (3, 20)
    for row, window in zip(found, windows[..., 0].astype(np.float64), strict=True):
        for band in range(5):
            values = window[:, band]
            changes = [abs(b - a) for a, b in itertools.pairwise(values)]
            expected = [
                sum(values) / 21,
                np.std(values),
                sum(changes) / 20,
                sorted(values)[18],
            ]
            np.testing.assert_allclose(row[band::5], expected, rtol=1e-4)


def test_spectra_are_judged_as_an_encoder_is(finished_run, fma, tmp_path):
    arguments = [
        "--task=fma",
        f"--run_dir={finished_run}",
        f"--data_dir={fma.data_dir}",
    ]
    arguments += ["--encoder=spectra", "--standardize", "--seeds=1"]
    result = run_module("cola_msa.eval", *arguments, f"--output_dir={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert "no network: statistics of log-mels" in result.stdout
    result = run_module("cola_msa.eval", *arguments, "--statistics=pairs")
    assert result.returncode == 2
    assert "--encoder=spectra is no network" in result.stderr
