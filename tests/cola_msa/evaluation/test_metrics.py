"""Metrics against scikit-learn, with ties, weights and missing classes."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cola_msa.evaluation import metrics


def tags(seed=0, clips=150, num_tags=6, decimals=1):
    """Labels and scores; few decimals make many ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, num_tags)) < rng.uniform(0.05, 0.6, num_tags)) * 1.0
    scores = np.round(rng.random((clips, num_tags)) + 0.3 * labels, decimals)
    return labels.astype(np.float32), scores.astype(np.float32)


def classes(seed=0, clips=120, num_classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 3, 4], clips)  # class 2 has no clips
    scores = rng.random((clips, num_classes)) + 0.5 * np.eye(num_classes)[labels]
    return labels, scores.astype(np.float32)


def draw_weights(clips, columns=7, seed=3):
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, clips, (columns, clips))
    return np.stack([np.bincount(d, minlength=clips) for d in draws], 1).astype("i4")


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("tag", range(3))
def test_weighted_tag_scores_equal_sklearn(decimals, tag):
    labels, scores = tags(decimals=decimals)
    weights = draw_weights(len(labels))
    roc_auc, pr_auc = metrics._tag_scores(labels[:, tag] > 0, scores[:, tag], weights)
    for column in range(weights.shape[1]):
        arguments = (labels[:, tag], scores[:, tag])
        weight = weights[:, column]
        np.testing.assert_allclose(
            roc_auc[column], sk.roc_auc_score(*arguments, sample_weight=weight)
        )
        np.testing.assert_allclose(
            pr_auc[column], sk.average_precision_score(*arguments, sample_weight=weight)
        )


def test_macro_scores_run_over_tags_with_both_kinds():
    labels, scores = tags(num_tags=5)
    labels[:, 1], labels[:, 3] = 0.0, 1.0
    assert metrics.counted_tags(labels).tolist() == [True, False, True, False, True]
    counted = [0, 2, 4]
    result = metrics.clip_scores(labels, scores)
    arguments = labels[:, counted], scores[:, counted]
    np.testing.assert_allclose(result["roc_auc"], sk.roc_auc_score(*arguments))
    np.testing.assert_allclose(result["pr_auc"], sk.average_precision_score(*arguments))
    per_tag = metrics.tag_scores(labels, scores)
    assert np.isnan(per_tag["roc_auc"]).tolist() == [False, True, False, True, False]
    np.testing.assert_allclose(np.nanmean(per_tag["pr_auc"]), result["pr_auc"])


def test_accuracies_equal_sklearn_with_a_missing_class():
    labels, scores = classes()
    predicted = scores.argmax(axis=1)
    result = metrics.clip_scores(labels, scores)
    assert result["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    # scikit-learn counts only classes that occur among the labels, and warns that
    # class 2 was predicted.
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = sk.balanced_accuracy_score(labels, predicted)
    assert result["balanced_accuracy"] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, scores),
        sk.confusion_matrix(labels, predicted, labels=range(5)),
    )


def test_weighted_accuracies_equal_sklearn():
    labels, scores = classes()
    weights = draw_weights(len(labels))
    result = metrics._weighted_scores(labels, scores, weights)
    predicted = scores.argmax(axis=1)
    for column in range(weights.shape[1]):
        expected = sk.accuracy_score(
            labels, predicted, sample_weight=weights[:, column]
        )
        assert result["accuracy"][column] == pytest.approx(expected)
        recalls = sk.recall_score(
            labels,
            predicted,
            labels=[0, 1, 3, 4],
            average="macro",
            sample_weight=weights[:, column],
        )
        assert result["balanced_accuracy"][column] == pytest.approx(recalls, rel=1e-5)


@pytest.mark.parametrize("kind", [tags, classes])
def test_bootstrap_interval_equals_resampling_by_hand(kind):
    labels, scores = kind()
    estimates = metrics.bootstrap(labels, scores, num_resamples=60, seed=5)
    rng = np.random.default_rng(5)
    values = []
    for _ in range(60):
        rows = rng.integers(0, len(labels), len(labels))
        values.append(metrics.clip_scores(labels[rows], scores[rows]))
    for name, estimate in estimates.items():
        assert estimate.value == metrics.clip_scores(labels, scores)[name]
        low, high = np.percentile([value[name] for value in values], [2.5, 97.5])
        np.testing.assert_allclose([estimate.low, estimate.high], [low, high], 1e-6)
        assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize("kind", [tags, classes])
def test_bootstrap_in_blocks_is_the_same(kind, monkeypatch):
    labels, scores = kind()
    whole = metrics.bootstrap(labels, scores, num_resamples=20)
    monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 3 * len(labels))
    assert metrics.bootstrap(labels, scores, num_resamples=20) == whole


def test_tags_that_a_resample_loses_do_not_count():
    labels, scores = tags(clips=40, num_tags=2)
    labels[:, 1] = 0.0
    labels[7, 1] = 1.0  # absent from 37 % of the resamples
    estimate = metrics.bootstrap(labels, scores, num_resamples=50)["roc_auc"]
    assert np.isfinite([estimate.low, estimate.high]).all()


def test_heads_are_averaged():
    labels, scores = tags()
    other = tags(seed=9)[1]
    both = metrics.bootstrap(labels, np.stack([scores, other]), num_resamples=10)
    each = [metrics.clip_scores(labels, head)["pr_auc"] for head in (scores, other)]
    assert both["pr_auc"].value == pytest.approx(np.mean(each))


def test_paired_bootstrap():
    labels, scores = tags(clips=400)
    worse = tags(seed=9, clips=400)[1]
    same = metrics.paired_bootstrap(labels, scores, scores, 20)["pr_auc"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    better = metrics.paired_bootstrap(labels, scores, worse, 100)
    expected = {
        name: metrics.clip_scores(labels, scores)[name] - value
        for name, value in metrics.clip_scores(labels, worse).items()
    }
    for name, estimate in better.items():
        assert estimate.value == pytest.approx(expected[name])
        assert 0 < estimate.low < estimate.value < estimate.high
    with pytest.raises(ValueError, match="not over the same"):
        metrics.paired_bootstrap(labels, scores, worse[:-1])


def test_chance():
    labels, _ = tags()
    scores = metrics.clip_scores(labels, np.zeros_like(labels))
    assert scores == pytest.approx(metrics.chance_scores(labels), rel=1e-6)
    assert metrics.chance_scores(np.array([0, 0, 0, 2])) == {
        "accuracy": 0.75,
        "balanced_accuracy": 0.5,
    }


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 2)), np.ones((4, 2)), np.zeros((0, 2))]
)
def test_nothing_to_score(labels):
    with pytest.raises(ValueError, match="no "):
        metrics.clip_scores(labels, np.zeros_like(labels))
