"""Ridge probe: against scikit-learn, the choice of the strength, sums in chunks."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from cola_msa.config.schema import MULTICLASS, MULTILABEL
from cola_msa.evaluation.probes import linear as windows_lib
from cola_msa.evaluation.probes import ridge
from cola_msa.evaluation.probes.heads import ACCURACY, LOSS, ProbeError
from cola_msa.records.schema import DataError
from tests.cola_msa.evaluation.probes.test_linear import DIM, make_split


def make_tags(split, seed):
    """Turns the classes into tags: class k, and a tag of its own at random."""
    labels = split.labels.copy()
    is_set = np.random.default_rng(seed).random(len(labels)) < 0.4
    labels[is_set, 0] = 1.0
    return dataclasses.replace(split, labels=labels)


@pytest.fixture(params=[MULTICLASS, MULTILABEL])
def task_type(request):
    return request.param


@pytest.fixture
def splits(tmp_path, task_type):
    found = [make_split(tmp_path, n, s) for n, s in (("train", 1), ("validation", 2))]
    if task_type == MULTILABEL:
        found = [make_tags(split, seed) for seed, split in enumerate(found)]
    return found


def fit(splits, task_type, **fields):
    return ridge.fit_ridge(
        windows_lib.CachedWindows(splits[0]),
        splits[1],
        ridge.RidgeConfig(task_type, **fields),
        show_progress=False,
    )


def window_labels(split):
    return split.labels[split.window_clips()]


def sklearn_outputs(splits, strength):
    """Outputs for validation windows; alpha is strength x training windows."""
    train, validation = (np.array(s.windows, np.float64) for s in splits)
    scaler = StandardScaler().fit(train)
    model = Ridge(alpha=strength * len(train), solver="cholesky")
    model.fit(scaler.transform(train), window_labels(splits[0]))
    return model.predict(scaler.transform(validation))


@pytest.mark.parametrize("strength", [1e-6, 1e-2, 1e3])
def test_outputs_are_scikit_learns(splits, task_type, strength):
    head = fit(splits, task_type, strengths=(strength,))
    expected = sklearn_outputs(splits, strength)
    found = head.scorer()(np.array(splits[1].windows))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    error = np.square(expected - window_labels(splits[1])).mean()
    assert head.validation_loss == (pytest.approx(error),)
    scores = windows_lib.score_clips(head, splits[1])
    first = expected[: splits[1].clip_splits[1]].mean(axis=0)
    np.testing.assert_allclose(scores[0], first, rtol=1e-5)


@pytest.mark.parametrize("monitor", [LOSS, ACCURACY])
def test_the_strength_validates_best(splits, task_type, monitor):
    head = fit(splits, task_type, monitor=monitor)
    labels = window_labels(splits[1])
    quality = []
    for strength in ridge.STRENGTHS:
        outputs = sklearn_outputs(splits, strength)
        if monitor == LOSS:
            quality.append(-np.square(outputs - labels).mean())
        elif task_type == MULTILABEL:
            quality.append(((outputs > 0.5) == (labels > 0.5)).mean())
        else:
            quality.append((outputs.argmax(1) == labels.argmax(1)).mean())
    best = [
        s for s, q in zip(ridge.STRENGTHS, quality, strict=True) if q == max(quality)
    ]
    assert head.strength == best[-1]
    values = head.validation_loss if monitor == LOSS else head.validation_accuracy
    expected = -np.array(quality) if monitor == LOSS else quality
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    row = head.row()
    assert row["strength"] == head.strength and row["epochs"] is None


def test_chunks_and_large_means_lose_no_digits(
    tmp_path, splits, task_type, monkeypatch
):
    expected = fit(splits, task_type, strengths=(1e-3,))
    monkeypatch.setattr(windows_lib, "_READ_WINDOWS", 7)
    chunked = fit(splits, task_type, strengths=(1e-3,))
    np.testing.assert_allclose(chunked.kernel, expected.kernel, rtol=1e-9, atol=1e-12)

    def batches(offset):
        for windows, labels in windows_lib.CachedWindows(splits[0]).once(0):
            yield windows.astype(np.float64) + offset, labels

    plain, moved = (ridge._accumulate(batches(offset)) for offset in (0.0, 1e6))
    np.testing.assert_allclose(moved.gram, plain.gram, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moved.mean - 1e6, plain.mean, atol=1e-6)


def test_a_constant_feature_changes_nothing(tmp_path, splits, task_type):
    def widened(split, name):
        windows = np.array(split.windows)
        constant = np.full((len(windows), 1), 3.0, np.float16)
        path = tmp_path / name
        np.concatenate([windows, constant], axis=1).tofile(path)
        return dataclasses.replace(split, files=(path,), dim=DIM + 1)

    plain = fit(splits, task_type)
    wide = fit([widened(s, f"wide{n}") for n, s in enumerate(splits)], task_type)
    assert wide.strength == plain.strength
    np.testing.assert_allclose(wide.kernel[:DIM], plain.kernel, atol=1e-12)
    assert (wide.kernel[DIM] == 0).all()


def test_unfit_embeddings_are_refused(tmp_path, splits, task_type):
    empty = make_split(tmp_path, "empty", 3, clips=0)
    with pytest.raises(DataError, match="validation split holds no clips"):
        fit([splits[0], empty], task_type)
    with pytest.raises(DataError, match="training split holds no clips"):
        fit([empty, splits[1]], task_type)
    infinite = make_split(tmp_path, "inf", 3, signal=np.inf)
    with pytest.raises(ProbeError, match="not finite"):
        fit([infinite, splits[1]], task_type)
