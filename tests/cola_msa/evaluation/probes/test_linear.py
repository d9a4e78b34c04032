"""Probes: training against a NumPy loop, stopping, chunks, clip scores."""

import dataclasses

import numpy as np
import pytest

from cola_msa.config.schema import MULTICLASS, MULTILABEL
from cola_msa.evaluation.probes import features, heads
from cola_msa.evaluation.probes import linear as windows_lib
from cola_msa.evaluation.tasks import get_task
from cola_msa.records.schema import DataError

DIM, NUM_CLASSES = 12, 4


def make_split(
    folder, name, seed, clips=60, signal=1.0, dtype=np.float16
) -> features.EmbeddedSplit:
    """Clips of 1 to 5 windows around their class's centre."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(NUM_CLASSES, DIM))
    classes = rng.integers(0, NUM_CLASSES, clips)
    counts = rng.integers(1, 6, clips)
    windows = signal * centres[np.repeat(classes, counts)]
    windows = (windows + rng.normal(size=windows.shape)).astype(dtype)
    path = folder / f"{name}.f16"
    windows.tofile(path)
    return features.EmbeddedSplit(
        files=(path,),
        file_windows=(len(windows),),
        dim=DIM,
        clip_ids=np.array([f"{name}{n}" for n in range(clips)]),
        clip_splits=np.concatenate([[0], np.cumsum(counts)]),
        labels=np.eye(NUM_CLASSES, dtype=np.float32)[classes],
    )


@pytest.fixture
def splits(tmp_path):
    return tuple(make_split(tmp_path, n, s) for n, s in (("train", 1), ("valid", 2)))


def make_config(task_type=MULTICLASS, hidden=(), **fields):
    return heads.ProbeConfig(
        task_type, hidden, **{"learning_rate": 5e-3, "batch_size": 16, **fields}
    )


def train(splits, config, seed=0):
    windows = windows_lib.CachedWindows(splits[0])
    return windows_lib.train_head(windows, splits[1], config, seed, show_progress=False)


def numpy_probabilities(logits, task_type):
    if task_type == MULTILABEL:
        return 1 / (1 + np.exp(-logits))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def numpy_loss(logits, labels, task_type):
    p = numpy_probabilities(logits, task_type)
    if task_type == MULTILABEL:
        return -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    return -np.mean(np.sum(labels * np.log(p), axis=1))


def numpy_training(splits, config, epochs, seed=0):
    """A linear head by hand: Adam as published, the same start and order."""
    windows = np.array(splits[0].windows, np.float64)
    labels = splits[0].labels[splits[0].window_clips()].astype(np.float64)
    model = heads.build_head(config, DIM, NUM_CLASSES, seed)
    weights = [np.array(w, np.float64) for w in model.get_weights()]
    moments = [[np.zeros_like(w), np.zeros_like(w)] for w in weights]
    losses, update = [], 0
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(windows))
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            batch = windows[rows]
            logits = batch @ weights[0] + weights[1]
            error = numpy_probabilities(logits, config.task_type) - labels[rows]
            error /= error.size if config.task_type == MULTILABEL else len(rows)
            update += 1
            for w, moment, g in zip(
                weights, moments, (batch.T @ error, error.sum(axis=0)), strict=True
            ):
                moment[0] = 0.9 * moment[0] + 0.1 * g
                moment[1] = 0.999 * moment[1] + 0.001 * g * g
                rate = config.learning_rate * np.sqrt(1 - 0.999**update)
                rate /= 1 - 0.9**update
                w -= rate * moment[0] / (np.sqrt(moment[1]) + 1e-7)
        held_out = np.array(splits[1].windows, np.float64)
        losses.append(
            numpy_loss(
                held_out @ weights[0] + weights[1],
                splits[1].labels[splits[1].window_clips()],
                config.task_type,
            )
        )
    return weights, losses


@pytest.mark.parametrize("task_type", [MULTILABEL, MULTICLASS])
def test_training_equals_numpy(splits, task_type):
    config = make_config(task_type, max_epochs=4)
    head = train(splits, config)
    weights, losses = numpy_training(splits, config, 4)
    np.testing.assert_allclose(head.validation_loss, losses, rtol=1e-4)
    assert head.best_epoch == 3
    for ours, expected in zip(head.model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_early_stopping_restores_the_best_epoch(splits):
    config = make_config(learning_rate=0.05, patience_epochs=3, max_epochs=100)
    head = train(splits, config)
    losses = np.array(head.validation_loss)
    assert head.best_epoch == losses.argmin()
    assert len(losses) == head.best_epoch + 1 + 3 < 100
    window_labels = splits[1].labels[splits[1].window_clips()]
    kernel, bias = head.model.get_weights()
    logits = np.array(splits[1].windows, np.float64) @ kernel + bias
    restored = numpy_loss(logits, window_labels, MULTICLASS)
    assert restored == pytest.approx(losses.min(), rel=1e-4)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_same_seed_same_numbers(splits, hidden):
    config = make_config(hidden=hidden, max_epochs=3)
    first, second = train(splits, config), train(splits, config)
    other = train(splits, config, seed=1)
    assert first.validation_loss == second.validation_loss != other.validation_loss
    for a, b in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", ["mtat", "nsynth"])
def test_heads_are_the_tasks(task):
    config = heads.ProbeConfig.of_task(get_task(task))
    assert (config.batch_size, config.patience_epochs) == (128, 5)
    head = heads.build_head(config, 1280, 11, seed=0)
    shapes = [tuple(w.shape) for w in head.weights]
    assert (
        shapes
        == {
            "mtat": [(1280, 11), (11,)],
            "nsynth": [(1280, 512), (512,), (512, 11), (11,)],
        }[task]
    )
    activations = [layer.activation.__name__ for layer in head.layers]
    assert activations[-1] == "linear"
    assert set(activations[:-1]) <= {"relu"}


@pytest.mark.parametrize("is_resident", [True, False])
def test_an_epoch_brings_every_window_once(splits, is_resident, monkeypatch):
    if not is_resident:
        monkeypatch.setattr(windows_lib, "_RESIDENT_BYTES", 0)
        monkeypatch.setattr(windows_lib, "_BLOCK_WINDOWS", 7)
        monkeypatch.setattr(windows_lib, "_CHUNK_BYTES", 7 * 5 * DIM * 2)
    windows = windows_lib.CachedWindows(splits[0])
    expected = np.array(splits[0].windows)
    expected_labels = splits[0].labels[splits[0].window_clips()]
    orders = []
    for seed in (0, 1):
        parts = list(windows.epoch(seed, 0, 16))
        found = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        # Rows are told apart by content; no two windows are equal.
        rows = [int(np.flatnonzero((expected == row).all(1))[0]) for row in found]
        np.testing.assert_array_equal(np.sort(rows), np.arange(len(expected)))
        np.testing.assert_array_equal(labels, expected_labels[rows])
        orders.append(rows)
    assert orders[0] != orders[1]
    assert np.abs(np.diff(orders[0])).mean() > 10
    in_order = np.concatenate([part[0] for part in windows.in_order(16)])
    np.testing.assert_array_equal(in_order, expected)


def test_chunks_learn_as_well(splits, monkeypatch):
    config = make_config(max_epochs=60)
    resident = train(splits, config)
    monkeypatch.setattr(windows_lib, "_RESIDENT_BYTES", 0)
    monkeypatch.setattr(windows_lib, "_BLOCK_WINDOWS", 7)
    monkeypatch.setattr(windows_lib, "_CHUNK_BYTES", 7 * 5 * DIM * 2)
    chunked = train(splits, config)
    best = min(resident.validation_loss), min(chunked.validation_loss)
    assert best[0] == pytest.approx(best[1], rel=0.05)


@pytest.mark.parametrize("task_type", [MULTILABEL, MULTICLASS])
def test_clip_scores_are_mean_probabilities(splits, task_type, monkeypatch):
    monkeypatch.setattr(windows_lib, "_EVALUATION_WINDOWS", 10)
    head = train(splits, make_config(task_type, max_epochs=2))
    scores = windows_lib.score_clips(head, splits[1])
    kernel, bias = head.model.get_weights()
    logits = np.array(splits[1].windows, np.float64) @ kernel + bias
    values = numpy_probabilities(logits, task_type)
    for clip, (a, b) in enumerate(
        zip(splits[1].clip_splits[:-1], splits[1].clip_splits[1:], strict=True)
    ):
        np.testing.assert_allclose(scores[clip], values[a:b].mean(axis=0), atol=1e-5)


def test_empty_and_diverging_splits_are_refused(tmp_path, splits):
    empty = make_split(tmp_path, "empty", 3, clips=0)
    with pytest.raises(DataError, match="validation split holds no clips"):
        train((splits[0], empty), make_config())
    infinite = make_split(tmp_path, "inf", 3, signal=np.inf)
    with pytest.raises(heads.ProbeError, match="validation loss is nan"):
        train((infinite, infinite), make_config())


def test_standardized_heads_do_not_see_the_features_scale(tmp_path, splits):
    def scaled(split, name):
        windows = np.array(split.windows, np.float32) * 50.0 + 7.0
        path = tmp_path / name
        windows.astype("<f2").tofile(path)
        return dataclasses.replace(split, files=(path,))

    once = windows_lib.CachedWindows(splits[0]).once(seed=0)
    mean, variance = windows_lib.feature_moments(once, DIM)
    values = np.array(splits[0].windows, np.float64)
    np.testing.assert_allclose(mean, values.mean(0), atol=1e-4)
    np.testing.assert_allclose(variance, values.var(0), rtol=1e-3)
    config = make_config(standardize=True, max_epochs=5)
    first = train(splits, config)
    second = train([scaled(s, f"scaled{n}") for n, s in enumerate(splits)], config)
    np.testing.assert_allclose(first.validation_loss, second.validation_loss, rtol=2e-2)


def numpy_accuracy(logits, labels, task_type):
    if task_type == MULTILABEL:  # Keras's binary accuracy at 0.5
        return ((numpy_probabilities(logits, task_type) > 0.5) == (labels > 0.5)).mean()
    return (logits.argmax(axis=1) == labels.argmax(axis=1)).mean()


@pytest.mark.parametrize("task_type", [MULTILABEL, MULTICLASS])
def test_accuracy_is_watched_where_the_protocol_says_so(splits, task_type):
    config = make_config(
        task_type, learning_rate=0.05, patience_epochs=4, max_epochs=100
    )
    config = dataclasses.replace(config, monitor=heads.ACCURACY)
    head = train(splits, config)
    accuracies = np.array(head.validation_accuracy)
    # The first of equals: another epoch as good is no better one.
    assert head.best_epoch == accuracies.argmax()
    assert len(accuracies) == head.best_epoch + 1 + 4 < 100
    labels = splits[1].labels[splits[1].window_clips()]
    kernel, bias = head.model.get_weights()
    logits = np.array(splits[1].windows, np.float64) @ kernel + bias
    assert numpy_accuracy(logits, labels, task_type) == pytest.approx(
        accuracies.max(), abs=1e-6
    )
    row = head.row()
    assert row["validation_accuracy"] == accuracies.max()
    assert row["validation_loss"] == head.validation_loss[head.best_epoch]


def test_what_protocols_and_probes_mean():
    of_task = heads.ProbeConfig.of_task
    nsynth, mtat = get_task("nsynth"), get_task("mtat")
    assert of_task(nsynth).monitor == "validation loss"
    assert of_task(nsynth, None, "paper").monitor == "validation accuracy"
    assert of_task(nsynth, "linear").hidden_units == ()
    assert of_task(mtat, "mlp").hidden_units == (512,)
    assert of_task(mtat, "mlp").learning_rate == 5e-4
    assert (heads.own_probe(nsynth), heads.own_probe(mtat)) == ("mlp", "linear")
    with pytest.raises(heads.ProbeError, match="--protocol"):
        of_task(mtat, None, "authors")
    with pytest.raises(heads.ProbeError, match="--probe"):
        of_task(mtat, "ridge")


def test_selected_clips_are_those_clips(splits):
    clips = np.array([7, 3, 4, 5, 30])
    part = splits[0].select(clips)
    expected = np.concatenate(
        [
            splits[0].windows[splits[0].clip_splits[c] : splits[0].clip_splits[c + 1]]
            for c in clips
        ]
    )
    np.testing.assert_array_equal(part.windows, expected)
    np.testing.assert_array_equal(part.read(2, 6), expected[2:6])
    assert part.read(3, 3).shape == (0, DIM)
    assert part.clip_ids.tolist() == [f"train{c}" for c in clips]
    np.testing.assert_array_equal(part.labels, splits[0].labels[clips])
    again = part.select(np.array([4, 0]))
    first = np.diff(part.clip_splits)[4]
    np.testing.assert_array_equal(again.windows[:first], expected[-first:])
    with pytest.raises(ValueError, match="before selecting"):
        features.join([part, part])
