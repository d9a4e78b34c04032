"""The chain: chances, seeds, graph, and that nothing breaks it."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.frameworks.clmr import augment, echoes, levels, pitch
from tests.helpers.signals import RATE, SAMPLES, noise, tone

PUBLISHED = {
    "polarity": 0.8,
    "noise": 0.01,
    "gain": 0.3,
    "filter": 0.8,
    "delay": 0.3,
    "pitch": 0.6,
    "reverb": 0.6,
}


def seed(update, number=0):
    return tf.constant([number, update], tf.int64)


def only(*names):
    return {name: float(name in names) for name in PUBLISHED}


@pytest.fixture(scope="module")
def windows():
    """Eight windows of a tone in noise, as the encoder gets them."""
    music = [noise(i) + tone(200.0 * (i + 1)) for i in range(8)]
    return tf.reshape(np.stack(music), [8, 243, 243, 1])


def test_the_order_is_the_published_one():
    assert list(augment.draw_chain(seed(0), 1)) == list(PUBLISHED)


def test_chances_over_ten_thousand_windows():
    drawn = augment.draw_chain(seed(5), 10_000)
    chosen = {name: values["is_chosen"].numpy() for name, values in drawn.items()}
    for name, probability in PUBLISHED.items():
        deviation = (probability * (1 - probability) / 10_000) ** 0.5
        assert abs(chosen[name].mean() - probability) < 4 * deviation, name
    together = np.corrcoef(list(chosen.values()))
    assert np.abs(together - np.eye(len(PUBLISHED))).max() < 0.04


def test_chances_over_updates():
    """Seeds of a run's updates, not windows of one batch."""
    counted = np.zeros(len(PUBLISHED))
    for update in range(100):
        drawn = augment.draw_chain(seed(update), 100)
        counted += [values["is_chosen"].numpy().mean() for values in drawn.values()]
    np.testing.assert_allclose(counted / 100, list(PUBLISHED.values()), atol=0.02)


def test_equal_seeds_equal_windows_and_others_differ(windows):
    chain = tf.function(augment.build_chain(RATE))
    first = chain(windows, seed(1)).numpy()
    assert first.shape == windows.shape
    np.testing.assert_array_equal(first, chain(windows, seed(1)))
    for other in (seed(2), seed(1, number=1)):
        assert np.abs(first - chain(windows, other).numpy()).max() > 0.01


def test_every_window_draws_its_own():
    same = tf.constant(np.stack([noise(0)] * 12))
    changed = augment.build_chain(RATE)(same, seed(3)).numpy()
    for one in range(12):
        for other in range(one):
            assert np.abs(changed[one] - changed[other]).max() > 1e-3


def test_eager_graph_and_dataset_agree(windows):
    chain = augment.build_chain(RATE)
    eager = chain(windows, seed(7)).numpy()
    graph = tf.function(chain)(windows, seed(7))
    # What is computed in another order differs, most at the end of a reverberation.
    np.testing.assert_allclose(graph, eager, atol=1e-3)
    dataset = tf.data.Dataset.from_tensors(windows).map(
        lambda batch: chain(batch, seed(7)), num_parallel_calls=2
    )
    assert dataset.element_spec.shape == windows.shape
    mapped = next(iter(dataset)).numpy()
    np.testing.assert_allclose(mapped, eager, atol=1e-3)
    # A run that goes on must get what it would have got, bit for bit.
    for again in dataset.repeat(3):
        np.testing.assert_array_equal(again, mapped)


def test_unknown_batch_sizes(windows):
    chain = augment.build_chain(RATE)
    spec = [
        tf.TensorSpec([None, 243, 243, 1], tf.float32),
        tf.TensorSpec([2], tf.int64),
    ]
    graph = tf.function(chain, input_signature=spec)
    np.testing.assert_allclose(
        graph(windows[:3], seed(1)), chain(windows[:3], seed(1)), atol=1e-3
    )
    # Whatever one window draws, none of an effect among it.
    for update in range(8):
        assert graph(windows[:1], seed(update)).shape == (1, 243, 243, 1)


def test_no_effect_leaves_windows_as_they_are(windows):
    chain = augment.build_chain(RATE, only())
    np.testing.assert_array_equal(chain(windows, seed(1)), windows)


def test_effects_touch_only_windows_that_drew_them(windows):
    chances = only() | {"pitch": 0.5}
    changed = augment.build_chain(RATE, chances)(windows, seed(1)).numpy()
    is_chosen = augment.draw_chain(seed(1), 8, chances)["pitch"]["is_chosen"].numpy()
    assert 0 < is_chosen.sum() < 8
    for row in range(8):
        is_same = np.array_equal(changed[row], windows[row])
        assert is_same != is_chosen[row]


def test_a_window_is_one_waveform_and_effects_follow_in_order(windows):
    names = ("polarity", "gain", "delay", "pitch", "reverb")
    drawn = augment.draw_chain(seed(9), 8, only(*names))
    expected = -tf.reshape(windows, [8, SAMPLES])
    expected = levels.apply_gain(expected, drawn["gain"]["gain_db"])
    expected = echoes.apply_delay(expected, drawn["delay"]["delay_ms"], RATE)
    expected = pitch.apply_pitch(expected, drawn["pitch"]["cents"], RATE)
    rooms = {k: v for k, v in drawn["reverb"].items() if k != "is_chosen"}
    expected = echoes.apply_reverb(expected, **rooms, sample_rate_hz=RATE)
    result = augment.build_chain(RATE, only(*names))(windows, seed(9))
    result = tf.reshape(result, [8, SAMPLES])
    np.testing.assert_allclose(result, tf.clip_by_value(expected, -1, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["silence", "square", "constant", "least", "click"])
def test_finite_within_full_scale_whatever_comes(kind):
    time = np.arange(SAMPLES)
    waveform = {
        "silence": np.zeros(SAMPLES),
        "square": np.sign(np.sin(time * 0.05) + 1e-9),
        "constant": np.ones(SAMPLES),
        "least": np.where(time % 2, 1, -1) / 32768,
        "click": (time == 30_000) * 1.0,
    }[kind]
    batch = tf.constant(np.stack([waveform] * 12), tf.float32)
    chances = dict.fromkeys(PUBLISHED, 0.9)
    changed = augment.build_chain(RATE, chances)(batch, seed(2)).numpy()
    assert np.isfinite(changed).all() and np.abs(changed).max() <= 1.0
    assert changed.any() == (kind != "silence")


@pytest.mark.parametrize("samples", [27, 729, 6_561])
def test_short_windows(samples):
    batch = tf.constant(np.stack([noise(i, samples) for i in range(6)]))
    changed = augment.build_chain(RATE, dict.fromkeys(PUBLISHED, 1.0))(batch, seed(2))
    assert changed.shape == batch.shape and np.isfinite(changed).all()
