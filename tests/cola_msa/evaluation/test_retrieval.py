import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.evaluation.baseline import render
from cola_msa.evaluation.retrieval import (
    paired_interval,
    retrieval_draws,
    retrieve,
    retrieve_without_learning,
    spectral_profiles,
)
from cola_msa.pairs.sampler import PairSampler
from tests.helpers.commands import run_module


@pytest.fixture(scope="module")
def sampler(prepared):
    return PairSampler(prepared, TrainConfig(batch_size=8), "validation")


def test_rounds_hold_active_distinct_segments_from_all_songs(sampler):
    draws = retrieval_draws(sampler, num_candidates=6, num_rounds=2)
    assert len(draws) == 8
    for draw in draws:
        assert len(set(draw.rows)) == len(draw.rows) == 6
        assert sampler.index.is_active[draw.rows, draw.source].all()
        songs = sampler.index.groups[sampler.index.clip[draw.rows]]
        eligible = sampler.index.is_active[:, draw.source[0]] & ~sampler.index.is_tail
        every = sampler.index.groups[sampler.index.clip[eligible]]
        assert set(songs) == set(every)


def test_rounds_are_the_same_for_every_call(sampler):
    for a, b in zip(retrieval_draws(sampler), retrieval_draws(sampler), strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.anchor_start, b.anchor_start)


def by_content(windows):
    """Projects a window to (segment and clip) one-hot: a perfect encoder here."""
    clip = tf.cast(windows[:, 0, -1, 0] % 10, tf.int32)
    first = windows[:, 0, 0, 0] % 10
    segment = tf.cast(tf.floor(first + 0.001), tf.int32)
    return tf.one_hot(clip * 10 + segment, 100)


def dot(a, b):
    return tf.matmul(a, b, transpose_b=True)


def test_a_perfect_encoder_ranks_first(sampler):
    draws = retrieval_draws(sampler, num_candidates=12)
    found = retrieve(sampler, draws, by_content, dot)
    assert found.scores()["top1"] > 0.9


def test_ties_count_half_and_constants_give_chance(sampler):
    draws = retrieval_draws(sampler, num_candidates=8)
    found = retrieve(sampler, draws, lambda w: tf.ones([len(w), 4]), dot)
    assert (found.ranks == 4.5).all()
    assert found.scores()["top1"] == 0.0
    assert found.scores()["chance_top1"] == pytest.approx(1 / 8)
    assert found.scores()["chance_mrr"] == pytest.approx(np.mean(1 / np.arange(1, 9)))


def test_ranks_equal_a_loop(sampler):
    draws = retrieval_draws(sampler, num_candidates=8, num_rounds=1)
    random = np.random.default_rng(0)
    table = random.standard_normal((98 * 64, 5)).astype(np.float32)

    def project(windows):
        return tf.matmul(tf.reshape(windows, [len(windows), -1]), table)

    found = retrieve(sampler, draws, project, dot)
    expected = []
    for draw in draws:
        batch = sampler.read(draw)
        a = batch["anchor"].reshape(len(draw.rows), -1).astype(np.float32) @ table
        b = batch["positive"].reshape(len(draw.rows), -1).astype(np.float32) @ table
        for i in range(len(a)):
            scores = [float(a[i] @ b[j]) for j in range(len(b))]
            expected.append(1 + sum(s > scores[i] for s in scores))
    assert np.mean(np.abs(found.ranks - expected) <= 1) == 1.0


def test_spectral_profiles_equal_a_loop():
    windows = np.random.default_rng(0).normal(-4, 2, (3, 7, 6, 1)).astype(np.float32)
    for window, profile in zip(windows, spectral_profiles(windows), strict=True):
        mean = [sum(float(frame[band, 0]) for frame in window) / 7 for band in range(6)]
        shape = [mean[b] - 0.5 * mean[b - 1] - 0.5 * mean[b + 1] for b in range(1, 5)]
        expected = np.divide(shape, sum(v * v for v in shape) ** 0.5)
        np.testing.assert_allclose(profile, expected, rtol=1e-4)


def test_a_flat_spectrum_has_no_profile():
    windows = np.stack([np.full((4, 6, 1), value) for value in (0.0, -11.5)])
    assert not spectral_profiles(windows).any()


def test_without_learning_a_source_within_its_mixture_is_found(sampler):
    """Each pair's windows get a peak at a band of their own, at any level."""

    class Marked:
        sources, window_frames = sampler.sources, sampler.window_frames
        index, data = sampler.index, sampler.data

        def read(self, draw):
            random = np.random.default_rng(0)
            count = len(draw.rows)
            shape = np.zeros((count, self.window_frames, 64, 1), np.float32)
            shape[np.arange(count), :, 2 + 4 * np.arange(count)] = 3.0
            noise = [random.normal(0, 0.1, shape.shape) for _ in range(2)]
            return {"anchor": shape + noise[0], "positive": shape - 5.0 + noise[1]}

    draws = retrieval_draws(sampler, num_candidates=8, num_rounds=1)
    found = retrieve_without_learning(Marked(), draws)
    assert found.scores()["top1"] == 1.0


def results_with(trained: float, without: float, interval: list[float]) -> dict:
    row = {"mrr": 0.2, "chance_top1": 0.02, "chance_mrr": 0.07, "num_songs": 9}
    row |= {"num_queries": 99}
    names = ("untrained", "untrained_trained_kernel")
    difference = {"difference": trained - without, "ratio": 1.0, "interval": interval}
    return {
        "trained": {**row, "top1": trained},
        **{name: {**row, "top1": 0.02} for name in names},
        "no_learning": {**row, "top1": without},
        "difference": {"top1": {**difference, "against": "untrained"}},
        "difference_no_learning": {"top1": {**difference, "against": "no_learning"}},
        "split": "validation",
        "num_candidates": 64,
    }


@pytest.mark.parametrize(
    ("trained", "interval", "told"),
    [
        (0.3, [0.05, 0.15], "the run beats"),
        (0.21, [-0.02, 0.04], "finds no more than .* has not learned"),
        (0.1, [-0.15, -0.05], "finds less than .* has not learned"),
    ],
)
def test_the_table_says_whether_it_beats_no_learning(trained, interval, told):
    lines = render(results_with(trained, 0.2, interval)).splitlines()
    assert any(re.match(r"no learning .* 0\.200", line) for line in lines)
    assert re.search(told, lines[-1])


def test_interval_covers_a_clear_difference_and_no_difference():
    random = np.random.default_rng(0)
    songs = np.repeat(np.arange(20), 10)
    second = random.random(200)
    low, high = paired_interval(second + 0.3, second, songs)
    assert low == pytest.approx(0.3) and high == pytest.approx(0.3)
    low, high = paired_interval(random.random(200), random.random(200), songs)
    assert low < 0 < high


def test_interval_resamples_whole_songs():
    songs = np.repeat([0, 1], 500)
    first = np.where(songs == 0, 1.0, -1.0)
    low, high = paired_interval(first, np.zeros(1000), songs)
    assert (low, high) == (-1.0, 1.0)


def test_the_command_compares_trained_and_untrained(finished_run, prepared_dir):
    result = run_module("cola_msa.retrieve", f"--run_dir={finished_run}")
    assert result.returncode == 0, result.stderr
    assert "untrained, trained kernel" in result.stdout
    path = finished_run / "eval" / "retrieval" / "results.json"
    results = json.loads(path.read_text())
    assert results["trained"]["num_queries"] == results["untrained"]["num_queries"]
    assert set(results["top1_per_source"]) == {"vocals", "drums", "bass", "other"}
    assert "no learning (spectra, cosine)" in result.stdout
    assert 0 <= results["no_learning"]["top1"] <= 1
    low, high = results["difference"]["mrr"]["interval"]
    assert low <= results["difference"]["mrr"]["difference"] <= high


def test_a_file_of_the_users_is_not_written_over(finished_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    shutil.rmtree(run_dir / "eval", ignore_errors=True)
    path = run_dir / "eval" / "retrieval" / "results.json"
    path.parent.mkdir(parents=True)
    for content in ("MINE", '{"my": "notes"}', "[]"):
        path.write_text(content)
        ended = run_module("cola_msa.retrieve", f"--run_dir={run_dir}")
        assert ended.returncode == 1 and str(path) in ended.stderr
        assert path.read_text() == content
