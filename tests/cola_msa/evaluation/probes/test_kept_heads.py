"""Heads that an evaluation keeps: applied again they give its scores."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import f1_score

from cola_msa.config.schema import FrontendConfig
from cola_msa.evaluation import judge
from cola_msa.evaluation.probes import held_heads, kept_heads
from cola_msa.evaluation.probes.features import embed_split
from cola_msa.evaluation.probes.heads_graph import HeadsGraph, to_half_and_back
from cola_msa.evaluation.probes.kept_heads import Heads, Member
from cola_msa.evaluation.setting import EvaluationConfig
from cola_msa.system.errors import RunError
from cola_msa.values import arrays as arrays_lib
from tests.cola_msa.evaluation.probes.test_features import tiny_encoder
from tests.cola_msa.evaluation.test_judge import fma, mtat  # noqa: F401

rng = np.random.default_rng(0)


def sample_heads(is_tags=True, seeds=2, widths=(8, 5, 3), is_scaled=True):
    random = np.random.default_rng(1)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    members = []
    for _ in range(seeds):
        layers = [
            (normal(a, b), normal(b))
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        moments = (normal(widths[0]), np.abs(normal(widths[0])) + 0.1)
        members.append(Member(tuple(layers), *(moments if is_scaled else ())))
    return Heads(
        tuple(members),
        ("piano", "ünïcode, with comma", "bass")[: widths[-1]],
        {
            "name": "mtat",
            "title": "t",
            "task_type": "multilabel" if is_tags else "multiclass",
        },
        "f" * 16,
        FrontendConfig(),
        np.array([0.2, 0.5, 0.9]) if is_tags else None,
        details={"scores": {"roc_auc": 0.7}},
    )


def expected_scores(heads, embeddings):
    """By loops over windows, seeds, layers and units, in double precision."""
    found = np.zeros((len(embeddings), len(heads.class_names)))
    for row, embedding in enumerate(embeddings):
        for member in heads.members:
            hidden = [float(np.float16(value)) for value in embedding]
            if member.mean is not None:
                hidden = [
                    (v - float(m)) / float(d)
                    for v, m, d in zip(
                        hidden, member.mean, member.deviation, strict=True
                    )
                ]
            for number, (kernel, bias) in enumerate(member.layers):
                if number:
                    hidden = [max(value, 0.0) for value in hidden]
                hidden = [
                    sum(v * float(k) for v, k in zip(hidden, column, strict=True))
                    + float(b)
                    for column, b in zip(kernel.T, bias, strict=True)
                ]
            if heads.is_tags:
                values = [1 / (1 + np.exp(-value)) for value in hidden]
            else:
                exps = [np.exp(value) for value in hidden]
                values = [value / sum(exps) for value in exps]
            found[row] += np.array(values) / len(heads.members)
    return found


@pytest.mark.parametrize("is_tags", [True, False])
@pytest.mark.parametrize("is_scaled", [True, False])
@pytest.mark.parametrize("widths", [(8, 3), (8, 5, 3)])
def test_scores_are_those_of_a_loop(is_tags, is_scaled, widths):
    heads = sample_heads(is_tags, 2, widths, is_scaled)
    embeddings = rng.normal(size=(7, 8)).astype(np.float32)
    found = heads.score_windows(embeddings)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected_scores(heads, embeddings), atol=1e-5)


def test_large_logits_give_no_warning():
    heads = sample_heads(widths=(8, 3), is_scaled=False)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = heads.score_windows(np.full((1, 8), 3e4, np.float32))
    assert np.isfinite(found).all()


def test_thresholds_have_the_highest_f1():
    labels = (rng.random((60, 4)) < [0.1, 0.5, 0.9, 0.3]).astype(int)
    scores = np.round(np.clip(labels * 0.2 + rng.random((60, 4)) * 0.8, 0, 1), 2)
    found = kept_heads.best_thresholds(labels, scores.astype(np.float32))
    for truth, column, threshold in zip(labels.T, scores.T, found, strict=True):
        own = f1_score(truth, column >= threshold)
        grid = np.unique(column)
        assert own == pytest.approx(max(f1_score(truth, column >= t) for t in grid))
        assert threshold not in column  # as far from both neighbours as can be


def test_a_tag_without_clips_has_a_half():
    labels = np.array([[0, 1], [0, 1], [0, 1]])
    found = kept_heads.best_thresholds(labels, np.array([[0.9, 0.2]] * 3))
    assert found.tolist() == [0.5, 0.1]  # all have the second: from anything on


@pytest.mark.parametrize("is_tags", [True, False])
def test_what_was_written_is_read(tmp_path, is_tags):
    heads = sample_heads(is_tags)
    kept_heads.save_heads(tmp_path / "heads.npz", heads)
    found = kept_heads.read_heads(tmp_path / "heads.npz")
    embeddings = rng.normal(size=(7, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        found.score_windows(embeddings), heads.score_windows(embeddings)
    )
    plain = {"members": (), "thresholds": None}
    assert dataclasses.replace(found, **plain) == dataclasses.replace(heads, **plain)
    if is_tags:
        assert found.thresholds.tolist() == heads.thresholds.tolist()
    else:
        assert found.thresholds is None
    np.load(tmp_path / "heads.npz", allow_pickle=False)


def change_state(**values):
    def change(arrays, state):
        state.update(values)

    return change


def drop(name):
    return lambda arrays, state: arrays.pop(name)


def replace(name, value):
    def change(arrays, state):
        arrays[name] = value

    return change


DAMAGES = [
    (change_state(format="other"), "holds no heads"),
    (change_state(version=2), "upgrade"),
    (change_state(class_names=["a"]), "damaged"),
    (change_state(class_names="abc"), "damaged"),
    (change_state(class_names=["a" * 2000, "b", "c"]), "damaged"),
    (change_state(members=10**9), "damaged"),
    (change_state(layers=0), "damaged"),
    (change_state(layers=1), "damaged"),
    (change_state(thresholds=[0.1]), "damaged"),
    (change_state(thresholds=None), "damaged"),
    (change_state(thresholds=[float("nan")] * 3), "damaged"),
    (change_state(task={"name": "x"}), "damaged"),
    (change_state(task={"name": "x", "title": "y", "task_type": "z"}), "damaged"),
    (change_state(frontend={"num_mels": 10**9}), "damaged"),
    (change_state(frontend=[]), "damaged"),
    (change_state(outputs="logits"), "damaged"),
    (change_state(encoder_key=3), "damaged"),
    (change_state(details=[]), "damaged"),
    (change_state(thresholds=[10**400] * 3), "damaged"),
    (change_state(class_names=["a\x1b[2J", "b", "c"]), "damaged"),
    (change_state(class_names=["a\ud800", "b", "c"]), "damaged"),
    (change_state(encoder_key="f\nf"), "damaged"),
    (change_state(encoder_key="f" * 2000), "damaged"),
    (drop("1/0/kernel"), "damaged"),
    (drop("0/mean"), "damaged"),
    (replace("0/0/kernel", np.zeros((8, 4), np.float32)), "damaged"),
    (replace("0/1/bias", np.zeros(4, np.float32)), "damaged"),
    (replace("0/1/bias", np.full(3, np.nan, np.float32)), "damaged"),
    (replace("0/1/bias", np.array(["a", "b", "c"])), "damaged"),
    (replace("0/0/kernel", np.zeros((9, 5), np.float32)), "damaged"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_what_was_not_written_so_is_refused(tmp_path, change, message):
    arrays, state = kept_heads.pack_heads(sample_heads())
    state = json.loads(json.dumps(state))
    change(arrays, state)
    path = tmp_path / "heads.npz"
    arrays_lib.write_arrays(path, arrays, state)
    with pytest.raises(RunError, match=rf"heads\.npz.*{message}"):
        kept_heads.read_heads(path)


def test_labels_that_no_terminal_shows_are_kept_escaped(tmp_path):
    names = ("a\nb", "c\ud800", "ünïcode")
    heads = dataclasses.replace(sample_heads(), class_names=names)
    kept_heads.save_heads(tmp_path / "heads.npz", heads)
    found = kept_heads.read_heads(tmp_path / "heads.npz")
    assert found.class_names == (r"a\u000ab", r"c\ud800", "ünïcode")


@pytest.mark.parametrize(
    "scores", [{"a": "x", "b": 0.5, "c\n": 1, "d": 10**400, "e": None}, [1], "x", None]
)
def test_scores_of_others_are_shown_where_they_are_numbers(scores):
    heads = dataclasses.replace(sample_heads(), details={"scores": scores})
    shown = ", b 0.500" if isinstance(scores, dict) else ""
    assert kept_heads.describe(heads) == f"mtat: 3 tags, 2 heads{shown}"
    found = held_heads.summarize(heads)["scores"]
    assert found == ({"b": 0.5} if isinstance(scores, dict) else {})


def test_a_folder_s_heads_are_read_up_to_what_it_may_hold(tmp_path, monkeypatch):
    (tmp_path / "heads").mkdir()
    for name in "abc":
        kept_heads.save_heads(tmp_path / "heads" / f"{name}.npz", sample_heads())
    monkeypatch.setattr(held_heads, "MAX_HEADS", 2)
    found, damaged = held_heads.list_heads(tmp_path)
    assert [path.name for path in found] == ["a.npz", "b.npz"]
    (line,) = damaged
    assert "c.npz: is beyond the 2 heads" in line
    size = (tmp_path / "heads" / "a.npz").stat().st_size
    monkeypatch.setattr(held_heads, "MAX_BYTES", size)
    assert [path.name for path in held_heads.list_heads(tmp_path)[0]] == ["a.npz"]


@pytest.mark.parametrize("damage", [b"", b"PK", b"x" * 5000, None])
def test_damaged_files(tmp_path, damage):
    path = tmp_path / "heads.npz"
    kept_heads.save_heads(path, sample_heads())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(RunError, match=r"heads\.npz"):
        kept_heads.read_heads(path)
    with pytest.raises(RunError, match="there is no such file"):
        kept_heads.read_heads(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("task", ["fma", "mtat"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_seeds": 2},
        {"probe": "mlp", "standardize": True},
        {"standardize": True, "protocol": "paper"},
        {"probe": "ridge"},
    ],
    ids=str,
)
def test_an_evaluation_keeps_what_gave_its_scores(
    request, tmp_path, task, options, monkeypatch
):
    data = request.getfixturevalue(task)
    results = judge.evaluate(
        tiny_encoder(16),
        "key",
        task,
        data,
        tmp_path,
        EvaluationConfig(num_resamples=10, **options),
        show_progress=False,
    )
    heads = kept_heads.read_heads(tmp_path / "heads.npz")
    arrays = np.load(tmp_path / "clip_scores.npz")
    split = embed_split(
        tiny_encoder(16), data, "test", tmp_path / "again", "key", show_progress=False
    )
    for number, expected in enumerate(arrays["scores"].mean(axis=0)):
        rows = split.read(*split.clip_splits[number : number + 2])
        found = heads.score_windows(rows).mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert heads.class_names == tuple(arrays["class_names"])
    assert heads.task["name"] == task and heads.encoder_key == "key"
    assert len(heads.members) == len(results["seeds"])
    assert heads.outputs == (
        "outputs" if "ridge" in options.values() else heads.outputs
    )
    for name, row in results["scores"].items():
        assert heads.details["scores"][name] == row["value"]
    assert (heads.thresholds is None) == (task == "fma")


@pytest.mark.parametrize("is_tags", [True, False])
@pytest.mark.parametrize("is_scaled", [True, False])
@pytest.mark.parametrize("widths", [(8, 3), (8, 5, 3)])
@pytest.mark.parametrize("outputs", ["probabilities", "outputs"])
def test_a_graph_says_the_same(is_tags, is_scaled, widths, outputs):
    heads = sample_heads(is_tags, 2, widths, is_scaled)
    members = heads.members
    if outputs == "outputs":  # a ridge's, in double precision
        members = tuple(
            dataclasses.replace(
                member,
                layers=tuple(
                    (k.astype(np.float64), b.astype(np.float64))
                    for k, b in member.layers
                ),
            )
            for member in members
        )
    heads = dataclasses.replace(heads, outputs=outputs, members=members)
    embeddings = rng.normal(size=(200, 8)).astype(np.float32)
    embeddings[0] *= 1e-6  # below what half precision holds as a normal number
    expected = heads.score_windows(embeddings)
    for is_single in (False, True):
        graph = HeadsGraph(heads, is_single)
        found = tf.function(graph)(tf.constant(embeddings)).numpy()
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


def test_a_graph_rounds_as_numpy_does():
    values = np.concatenate(
        [rng.normal(size=5000) * scale for scale in (1e-7, 1e-4, 1.0, 1e4)]
    ).astype(np.float32)
    values = np.append(values, np.float32([65519.0, 65521.0, 1e6, -1e6, 0.0]))
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    found = tf.function(to_half_and_back)(tf.constant(values[:, None])).numpy()
    np.testing.assert_array_equal(found[:, 0], expected)
