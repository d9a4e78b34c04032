"""Protocols, probes, labels and tuned encoders through evaluation and its command."""

import contextlib
import dataclasses
import functools

import numpy as np
import pytest

from cola_msa.evaluation import judge
from cola_msa.evaluation import results as results_lib
from cola_msa.evaluation.probes.finetune import TuneConfig, load_tuned
from cola_msa.evaluation.probes.heads import ProbeConfig, ProbeError
from cola_msa.evaluation.results import deviations, has_paper_scale
from cola_msa.evaluation.setting import EvaluationConfig
from cola_msa.evaluation.tasks import get_task
from cola_msa.records.schema import manifest_hash
from cola_msa.runs import directory, kept
from cola_msa.runs import info as info_lib
from cola_msa.system.errors import FileError, UsageError
from cola_msa.system.locks import LockedError
from cola_msa.values import arrays
from tests.cola_msa.evaluation.probes.test_finetune import make_model
from tests.cola_msa.evaluation.test_judge import (
    PAPER_INFO,
    evaluate,
    fma,  # noqa: F401 (a fixture)
    mtat,  # noqa: F401 (a fixture)
    run_command,
    run_dir,  # noqa: F401 (a fixture)
)
from tests.helpers.report_runs import write_data

PROBES = ("linear", "mlp", "ridge")
PROTOCOLS = ("cached", "paper")


@contextlib.contextmanager
def short_heads():
    """Heads stop after four short epochs; what they learn is tested elsewhere."""
    of_task = ProbeConfig.of_task

    def short(*arguments):
        return dataclasses.replace(of_task(*arguments), max_epochs=4)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProbeConfig, "of_task", short)
        tune_config = functools.partial(TuneConfig, min_updates=3)
        patch.setattr(judge, "TuneConfig", tune_config)
        yield


@pytest.fixture(autouse=True)
def few_epochs():
    with short_heads():
        yield


@pytest.fixture
def datasets(request):
    return {name: request.getfixturevalue(name) for name in ("fma", "mtat")}


def without_times(results):
    rows = [{k: v for k, v in r.items() if k != "seconds"} for r in results["heads"]]
    return {**results, "heads": rows}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("task", ["fma", "mtat_unfiltered"])
def test_same_call_same_numbers(datasets, task, probe, protocol, tmp_path):
    data = datasets[task.split("_")[0]]
    first, second = (
        # Caches of their own: embeddings are computed twice, too.
        evaluate(
            task,
            data,
            tmp_path / name,
            tmp_path / name / "cache",
            probe=probe,
            protocol=protocol,
            num_seeds=2,
        )
        for name in "ab"
    )
    assert without_times(first) == without_times(second)
    assert (first["probe"], first["protocol"]) == (probe, protocol)
    assert (first["mode"], first["label_fraction"]) == ("frozen", 1.0)
    score = first["scores"]["pr_auc" if "mtat" in task else "accuracy"]
    if probe == "ridge":  # at the paper's rate the others need more clips
        assert score["value"] > 1.5 * score["chance"]
    scores = np.load(tmp_path / "a" / "clip_scores.npz")["scores"]
    assert len(scores) == len(score["per_seed"]) == 2
    # Only a closed form on the same windows does not depend on the seed.
    is_equal = np.array_equal(scores[0], scores[1])
    assert is_equal == (probe == "ridge" and protocol == "cached")


@pytest.mark.parametrize(
    ("protocol", "monitor", "is_every_window"),
    [("cached", "validation loss", True), ("paper", "validation accuracy", False)],
)
def test_what_a_protocol_trains_on(
    datasets, protocol, monitor, is_every_window, tmp_path
):
    data = datasets["fma"]
    results = evaluate("fma", data, tmp_path, protocol=protocol)
    assert results["head"]["monitor"] == monitor
    index = data.index("train")
    expected = int((~index.is_tail).sum())
    if is_every_window:
        expected = int((index.num_frames // 98).sum())
    assert results["splits"]["train"]["windows"] == expected
    for part in ("validation", "test"):
        every = int((data.index(part).num_frames // 98).sum())
        assert results["splits"][part]["windows"] == every


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("probe", ["linear", "ridge"])
def test_a_share_of_the_labels(datasets, probe, protocol, tmp_path):
    data = datasets["fma"]
    options = {"probe": probe, "protocol": protocol, "label_fraction": 0.25}
    results = evaluate("fma", data, tmp_path, num_seeds=2, **options)
    # Two of the eight clips of each of the three classes.
    assert results["splits"]["train"]["clips"] == 6
    assert results["splits"]["validation"]["clips"] == 9
    subset = results["label_subset"]
    assert (subset["clips"], subset["of"], subset["validation"]) == (6, 24, "whole")
    assert subset["clips_per_seed"] == [6, 6]
    assert [row["train_clips"] for row in results["per_class"]] == [2, 2, 2]
    assert results["heads"][0]["train_windows"] < 24
    assert "25 % of the labels, 6 of 24 clips" in results_lib.render_table(results)
    scores = np.load(tmp_path / "clip_scores.npz")["scores"]
    assert not np.array_equal(scores[0], scores[1])  # other clips
    if probe == "linear":
        assert results["head"]["max_epochs"] == 16


def test_departures_from_the_paper_are_named(datasets, tmp_path):
    data = datasets["fma"]
    plain = evaluate("fma", data, tmp_path)
    assert deviations(plain) == []
    assert deviations(evaluate("fma", data, tmp_path, protocol="paper")) == []
    ridge = evaluate("fma", data, tmp_path, probe="ridge")
    assert deviations(ridge) == ["probe ridge, the paper's is linear"]
    scaled = evaluate("fma", data, tmp_path, standardize=True)
    assert deviations(scaled) == ["features are standardised"]
    # What earlier versions wrote has none of the fields.
    old = {k: v for k, v in plain.items() if k not in ("mode", "probe", "paper_probe")}
    old.pop("label_subset")
    assert deviations(old) == []


def test_a_share_of_the_labels_is_not_the_papers_scale(datasets, tmp_path):
    results = evaluate("fma", datasets["fma"], tmp_path, label_fraction=0.25)
    results["encoder"]["pairs"] = 81_920_000
    for name in ("validation", "test"):
        results["splits"][name]["clips"] = results["paper_clips"][name]
    assert not has_paper_scale(results)
    results["splits"]["train"]["clips"] = results["paper_clips"]["train"]
    assert has_paper_scale(results)


def test_unknown_probe_and_protocol(datasets, tmp_path):
    for option, value in (("probe", "svm"), ("protocol", "authors")):
        with pytest.raises(ProbeError, match=f"--{option} must be"):
            evaluate("fma", datasets["fma"], tmp_path, **{option: value})


def evaluate_tuned(data, folder, make=make_model, mode="supervised", **options):
    return judge.evaluate_tuned(
        make,
        "key",
        "fma",
        data,
        folder,
        EvaluationConfig(**{"num_resamples": 50, **options}),
        mode=mode,
        encoder_rate=1e-3,
        info=PAPER_INFO,
        show_progress=False,
    )


@pytest.fixture(scope="module")
def tuned(fma, tmp_path_factory):  # noqa: F811
    """Folder and results of an evaluation of two seeds that nothing stopped."""
    folder = tmp_path_factory.mktemp("tuned")
    with short_heads():
        return folder, evaluate_tuned(fma, folder, num_seeds=2)


def test_tuned_encoders_give_the_same_numbers_twice(datasets, tuned, tmp_path):
    folder, first = tuned
    second = evaluate_tuned(datasets["fma"], tmp_path)
    assert without_times(first)["heads"][:1] == without_times(second)["heads"]
    scores = np.load(folder / "clip_scores.npz")["scores"]
    again = np.load(tmp_path / "clip_scores.npz")["scores"]
    np.testing.assert_array_equal(scores[0], again[0])
    assert not np.array_equal(scores[0], scores[1])
    assert first["mode"] == "supervised"
    assert first["tuning"]["encoder_rate"] == 1e-3
    names = {path.name for path in folder.iterdir()}
    assert {"tuned-seed-0.keras", "tuned-seed-1.keras", "results.json"} <= names
    assert not any("unfinished" in name for name in names)
    assert "trained with the labels (supervised)" in results_lib.render_table(first)


def test_the_protocol_decides_what_patience_watches(datasets, tmp_path):
    results = evaluate_tuned(datasets["fma"], tmp_path, protocol="paper")
    assert results["head"]["monitor"] == "validation accuracy"
    assert results["protocol"] == "paper"


def test_a_stopped_command_goes_on_behind_the_seeds_it_finished(
    datasets, tuned, tmp_path
):
    data = datasets["fma"]
    seeds = []

    def make(seed):
        seeds.append(seed)
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return make_model(seed)

    with pytest.raises(KeyboardInterrupt):
        evaluate_tuned(data, tmp_path, make, num_seeds=2)
    assert not (tmp_path / "results.json").exists()
    resumed = evaluate_tuned(data, tmp_path, make, num_seeds=2)
    assert seeds == [0, 1, 1]
    assert resumed["scores"] == tuned[1]["scores"]
    # A finished command starts anew.
    seeds.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate_tuned(data, tmp_path, make, num_seeds=2)
    assert seeds == [0, 1]
    # So does one with other options, whatever was stopped before.
    evaluate_tuned(data, tmp_path, make, label_fraction=0.5)
    assert seeds == [0, 1, 0]


def test_one_command_tunes_into_a_folder_at_a_time(datasets, tmp_path):
    """Else the weights of one could stand beside the scores of the other."""
    told = []

    def make(seed):
        with pytest.raises(LockedError) as caught:
            evaluate_tuned(datasets["fma"], tmp_path, make_model)
        told.append(str(caught.value))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_tuned(datasets["fma"], tmp_path, make)
    assert "another process fine-tunes there" in told[0]


@pytest.mark.parametrize("option", [{"probe": "ridge"}, {"standardize": True}])
def test_what_tuned_encoders_do_not_have(datasets, option, tmp_path):
    with pytest.raises(UsageError, match="for frozen encoders"):
        evaluate_tuned(datasets["fma"], tmp_path, **option)


@pytest.mark.parametrize(
    ("encoder", "finetune", "rate", "statistics", "message"),
    [
        ("untrained", True, None, None, "--finetune starts from a trained encoder"),
        ("supervised", True, None, None, "--finetune starts from a trained encoder"),
        ("trained", False, 1e-4, None, "--finetune_rate is for"),
        ("trained", True, None, "pairs", "--statistics is for frozen encoders"),
    ],
)
def test_flags_that_contradict_one_another(
    encoder, finetune, rate, statistics, message
):
    with pytest.raises(UsageError, match=message):
        judge.choose_mode(encoder, finetune, rate, statistics)


@pytest.mark.parametrize(
    ("task", "encoder", "step", "mode", "options", "statistics", "expected"),
    [
        ("mtat", "trained", None, "frozen", {}, None, "mtat"),
        ("mtat", "trained", None, "frozen", {"probe": "linear"}, None, "mtat"),
        ("nsynth", "trained", None, "frozen", {"probe": "mlp"}, None, "nsynth"),
        ("nsynth", "trained", 300, "frozen", {"probe": "linear"}, None,
         "nsynth-300-linear"),
        ("fma", "untrained", 0, "frozen", {"protocol": "paper"}, None,
         "fma-untrained-paper"),
        ("fma", "trained", "best", "finetuned", {"label_fraction": 0.01}, None,
         "fma-best-finetuned-labels0.01"),
        ("fma", "supervised", 0, "supervised", {}, None, "fma-supervised"),
        ("mtat_unfiltered", "trained", None, "frozen",
         {"standardize": True, "train_clips": "all"}, "pairs",
         "mtat_unfiltered-pairs-standardized-all"),
    ],
)  # fmt: skip
def test_output_names(task, encoder, step, mode, options, statistics, expected):
    name = judge.output_name(
        get_task(task), encoder, step, mode, EvaluationConfig(**options), statistics
    )
    assert name == expected


def check_command(run_dir, data, *arguments):  # noqa: F811
    result = run_command(
        "--task=fma", f"--run_dir={run_dir}", f"--data_dir={data.data_dir}", *arguments
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_curve_command(run_dir, datasets):  # noqa: F811
    stdout = check_command(
        run_dir, datasets["fma"], "--probe=ridge", "--label_fraction=0.25,1"
    )
    folder = run_dir / "eval"
    assert "| 25 % | 6 |" in stdout and "| 100 % | 24 |" in stdout
    small = results_lib.read_results(folder / "fma-ridge-labels0.25")
    whole = results_lib.read_results(folder / "fma-ridge")
    assert (small["label_fraction"], whole["label_fraction"]) == (0.25, 1.0)
    curve = folder / "fma-ridge-label_curve"
    assert {path.suffix for path in curve.iterdir()} == {".json", ".md", ".png"}


def test_a_users_curve_is_seen_before_any_head_is_trained(
    run_dir,  # noqa: F811
    datasets,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    (tmp_path / "label_curve.md").write_text("mine")
    asked = judge.Judgement(get_task("fma"), fractions=(0.25, 1.0))
    monkeypatch.setattr(judge, "_judge_function", lambda *arguments: None)
    with pytest.raises(FileError, match="holds 'label_curve.md', and is not"):
        next(judge.judge_run(run_dir, datasets["fma"].data_dir, asked, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["label_curve.md"]


def test_a_users_file_with_a_tuned_models_name_stays(
    run_dir,  # noqa: F811
    datasets,  # noqa: F811
    tmp_path,
):
    path = tmp_path / "tuned-seed-0.keras"
    path.write_text("mine")
    asked = judge.Judgement(get_task("fma"), mode="finetuned")
    with pytest.raises(FileError, match="is not a fine-tuned model"):
        next(judge.judge_run(run_dir, datasets["fma"].data_dir, asked, tmp_path))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("flag", "mode", "name"),
    [
        ("--finetune", "finetuned", "fma-finetuned-labels0.25"),
        pytest.param(
            "--encoder=supervised",
            "supervised",
            "fma-supervised-labels0.25",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_command_trains_the_encoder_too(run_dir, datasets, flag, mode, name):  # noqa: F811
    options = ("--finetune_rate=0.002", "--label_fraction=0.25")  # few clips: fast
    stdout = check_command(run_dir, datasets["fma"], flag, *options)
    results = results_lib.read_results(run_dir / "eval" / name)
    assert (results["mode"], results["tuning"]["encoder_rate"]) == (mode, 0.002)
    assert f"trained with the labels ({mode})" in stdout
    assert results["encoder"]["statistics"] is None
    encoder, head = load_tuned(run_dir / "eval" / name / "tuned-seed-0.keras")
    start = kept.load_model(run_dir, 3 if mode == "finetuned" else 0).encoder
    kernels = [model.get_layer("conv0").kernel.numpy() for model in (encoder, start)]
    assert 0 < np.abs(kernels[0] - kernels[1]).max() < 0.3
    assert head.output_shape == (None, 3)


def test_encoder_info_names_the_separator(run_dir, tmp_path):  # noqa: F811
    data_dir = write_data(tmp_path / "data", separator="random")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "kept").symlink_to(run_dir / "kept")
    run = directory.load_run(run_dir)

    def separator(**data):
        run["data"] = {**run["data"], "data_dir": str(data_dir), **data}
        arrays.write_json(folder / "config.json", run)
        info = info_lib.encoder_info(folder, 3, "trained")
        return info.separator, info.manifest_hash

    good = manifest_hash(data_dir)
    assert separator(manifest_hash=good) == ("random", good)
    # Another manifest says nothing of the data that the run was trained on.
    assert separator(manifest_hash="0" * 16) == (None, "0" * 16)
    assert separator(separator="umxhq")[0] == "umxhq"
