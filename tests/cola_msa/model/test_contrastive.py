import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import ModelConfig, TrainConfig
from cola_msa.model import losses
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.optimizers import RateSchedule, build_optimizer
from cola_msa.model.statistics import BatchStatistics, StatisticsEstimator
from cola_msa.pairs.sampler import PairSampler

TINY = ModelConfig(backbone="tiny", projection_dim=32, drop_connect_rate=0.0)


def make_model(seed=1, **fields):
    config = dataclasses.replace(TINY, **fields)
    return ContrastiveModel(config, log_mel_mean=0.5, log_mel_std=2.0, seed=seed)


def make_batch(size=8, seed=0, num_silent=2):
    random = np.random.default_rng(seed)
    return {
        "anchor": tf.constant(random.normal(0.5, 2, (size, 98, 64, 1)), tf.float32),
        "positive": tf.constant(random.normal(0.5, 2, (size, 98, 64, 1)), tf.float32),
        "is_active": tf.constant([True] * (size - num_silent) + [False] * num_silent),
        "source": tf.zeros([size], tf.int32),
    }


def weights_of(model):
    return [np.array(v) for v in model.variables]


def test_loss_is_the_losss_on_the_concatenated_projections():
    model, batch = make_model(), make_batch()
    both = model(tf.concat([batch["anchor"], batch["positive"]], 0), training=True)
    anchor, positive = tf.split(both, 2)
    expected = losses.silent_centroid_loss(
        anchor, positive, batch["is_active"], model.similarity, 0.2
    )
    found = make_model().score_pairs(batch, training=True)
    assert float(found["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(found["columns"]) == 7


def test_metrics_by_hand():
    model, batch = make_model(), make_batch()
    scores = model.score_pairs(batch)
    anchor, positive = model.project_pairs(batch)
    kernel = np.array(model.similarity.kernel)
    positive = np.asarray(positive)
    candidates = np.concatenate([positive[:6], positive[6:].mean(0, keepdims=True)])
    logits = np.asarray(anchor) @ kernel @ candidates.T / 0.2
    correct = logits.argmax(1) == np.array([0, 1, 2, 3, 4, 5, 6, 6])
    found = model.test_step(batch)
    assert float(found["accuracy"]) == pytest.approx(correct.mean())
    assert float(found["active_accuracy"]) == pytest.approx(correct[:6].mean())
    assert float(found["loss_above_chance"]) == pytest.approx(
        float(scores["loss"]) - np.log(7), abs=1e-5
    )


@pytest.mark.parametrize("num_silent", [0, 3])
def test_learned_silence_does_not_see_the_silent_windows(num_silent):
    model = make_model(silence="learned")
    batch = make_batch(num_silent=num_silent)
    loss = float(model.score_pairs(batch, training=True)["loss"])
    silent = ~batch["is_active"].numpy()
    changed = batch["positive"].numpy()
    changed[silent] = 100.0
    again = make_model(silence="learned").score_pairs(
        {**batch, "positive": tf.constant(changed)}, training=True
    )
    assert float(again["loss"]) == pytest.approx(loss, rel=1e-6)


def test_learned_silence_is_trained():
    model = make_model(silence="learned", kernel_scale=1.0)
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    batch = make_batch()
    model.train_step(batch)
    assert np.abs(np.array(model.silent_projection.vector)).sum() > 0


def test_cosine_similarity_has_no_kernel():
    model = make_model(similarity="cosine")
    assert not [v for v in model.variables if "similarity" in v.path]
    assert np.isfinite(float(model.score_pairs(make_batch())["loss"]))


def test_the_kernels_own_rate_moves_the_kernel_alone():
    batch = make_batch()
    moved = {}
    for rate in (1.0, 0.1):
        model = make_model()
        before = weights_of(model)
        train = TrainConfig(learning_rate=1e-3, kernel_rate=rate, halve_at_step=0)
        model.compile(optimizer=build_optimizer(train))
        model.train_step(batch)
        moved[rate] = {
            v.path: np.abs(np.array(v) - b).max()
            for v, b in zip(model.variables, before, strict=True)
        }
    kernel = "similarity/kernel"
    assert moved[0.1][kernel] == pytest.approx(0.1 * moved[1.0][kernel], rel=1e-3)
    other = next(p for p in moved[1.0] if p.endswith("projection/kernel"))
    assert moved[0.1][other] == pytest.approx(moved[1.0][other], rel=1e-3)


@pytest.mark.parametrize(
    ("update", "rate"), [(0, 0.01), (4, 0.05), (9, 0.1), (50, 0.1), (100, 0.05)]
)
def test_schedule_warms_up_and_halves(update, rate):
    schedule = RateSchedule(0.1, warmup_updates=10, halve_at_update=100)
    assert float(schedule(update)) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("update", "rate"),
    [(0, 0.01), (9, 0.1), (10, 0.1), (60, 0.05), (85, 0.01464), (110, 0.0), (500, 0.0)],
)
def test_schedule_falls_along_a_cosine_to_zero(update, rate):
    schedule = RateSchedule(0.1, warmup_updates=10, zero_at_update=110)
    assert float(schedule(update)) == pytest.approx(rate, rel=1e-3, abs=1e-7)


def test_the_rate_is_zero_after_the_runs_last_update():
    train = TrainConfig(
        steps=4, updates_per_step=5, halve_at_step=0, rate_decay="cosine"
    )
    rate = build_optimizer(train)._learning_rate
    assert float(rate(0)) == pytest.approx(1e-3)
    assert 0 < float(rate(19)) < 1e-5 and float(rate(20)) == pytest.approx(0, abs=1e-9)


def test_statistics_are_exact_averages_over_batches():
    model = make_model()
    random = np.random.default_rng(0)
    batches = [random.normal(0, 1 + n, (4, 98, 64, 1)) for n in range(3)]
    found = StatisticsEstimator(model).estimate(
        [tf.constant(b, tf.float32) for b in batches]
    )
    first = model.encoder.get_layer("bn0")
    conv = keras.Model(model.encoder.input, model.encoder.get_layer("conv0").output)
    outputs = np.concatenate([conv(b.astype(np.float32)) for b in batches])
    np.testing.assert_allclose(found.means[0], outputs.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found.variances[0], outputs.var((0, 1, 2)), rtol=1e-3)
    assert len(found.means) == 3
    found.assign_to(model)
    np.testing.assert_allclose(first.moving_mean, found.means[0])
    np.testing.assert_allclose(BatchStatistics.of(model).means[0], found.means[0])


def test_inference_on_one_batch_equals_training_mode_with_its_statistics():
    model = make_model()
    windows = make_batch()["anchor"]
    StatisticsEstimator(model).estimate([windows]).assign_to(model)
    np.testing.assert_allclose(
        model(windows, training=False), model(windows, training=True), atol=1e-4
    )


@pytest.fixture
def trained(prepared, tmp_path):
    model = make_model(drop_connect_rate=0.2)
    model.compile(optimizer=build_optimizer(TrainConfig(halve_at_step=0)))
    config = TrainConfig(batch_size=8)
    history = model.fit(
        PairSampler(prepared, config).dataset(0, 6),
        validation_data=PairSampler(prepared, config).dataset(6, 2),
        epochs=1,
        verbose=0,
    )
    return model, history


def test_compile_and_fit_work_on_the_pairs(trained):
    _, history = trained
    assert np.isfinite(history.history["loss"][0])
    assert np.isfinite(history.history["val_loss"][0])


def test_keras_file_reloads_in_a_fresh_process(trained, tmp_path):
    model, _ = trained
    windows = make_batch()["anchor"].numpy()
    np.save(tmp_path / "windows.npy", windows)
    np.save(tmp_path / "expected.npy", model(windows, training=False))
    model.save(tmp_path / "model.keras")
    script = (
        "import sys, keras, numpy as np, cola_msa.model.contrastive\n"
        "folder = sys.argv[1]\n"
        "model = keras.models.load_model(folder + '/model.keras')\n"
        "found = model(np.load(folder + '/windows.npy'), training=False)\n"
        "np.testing.assert_allclose(found, np.load(folder + '/expected.npy'),"
        " atol=1e-5)\n"
        "assert model.optimizer.iterations == 6\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match="similarity"):
        make_model(similarity="euclid")
