"""Tests of remixing: against a NumPy loop, its draws, and what training is fed."""

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.pairs import augment, remix
from cola_msa.pairs import sampler as sampler_lib

FLOOR = np.log(1e-5)


def seed(number):
    return tf.constant([7, number], tf.int64)


def random_batch(batch=5, sources=3, frames=6, mels=16):
    random = np.random.default_rng(3)
    stems = random.uniform(-8, 2, (batch, sources, frames, mels)).astype(np.float32)
    stems[0, 0, :, :4] = FLOOR
    is_active = random.random((batch, sources)) < 0.7
    source = random.integers(0, sources, batch).astype(np.int32)
    positive = random.uniform(-8, 2, (batch, frames, mels, 1)).astype(np.float32)
    return stems, is_active, positive, source


def moved(window, shift):
    mels = window.shape[1]
    found = np.empty_like(window)
    for band in range(mels):
        origin = abs(band - shift)
        if origin >= mels:
            origin = 2 * (mels - 1) - origin
        found[:, band] = window[:, origin]
    return found


def amplified(window, gain):
    found = window.copy()
    for place in np.ndindex(window.shape):
        if window[place] > FLOOR + 0.05:
            found[place] = max(window[place] + gain[place[1]], FLOOR)
    return found


@pytest.mark.parametrize("in_graph", [False, True])
def test_remix_equals_a_loop(in_graph):
    stems, is_active, positive, source = random_batch()
    batch, sources = is_active.shape
    drawn = remix.draw_remix(seed(1), batch, sources, stems.shape[3])
    apply = tf.function(remix.apply_remix) if in_graph else remix.apply_remix
    anchor, changed = apply(
        tf.constant(stems),
        tf.constant(is_active),
        tf.constant(positive),
        tf.constant(source),
        drawn,
    )
    p = {name: value.numpy() for name, value in drawn.items()}
    for i in range(batch):
        power = np.zeros(stems.shape[2:])
        for k in range(sources):
            is_own = k == source[i]
            donor = i if is_own else p["donor"][i, k]
            if not is_active[donor, k] or not (is_own or p["is_kept"][i, k]):
                continue
            gain = p["filter"][i, k] + p["level"][i, k]
            stem = amplified(moved(stems[donor, k], p["shift"][i, k]), gain)
            power += np.where(stem > FLOOR + 1e-6, np.exp(2 * stem), 0)
        expected = 0.5 * np.log(np.maximum(power, 1e-10))
        np.testing.assert_allclose(anchor[i, ..., 0], expected, atol=1e-4)
        own = moved(positive[i, ..., 0], p["shift"][i, source[i]])
        own = amplified(own, p["filter"][i, source[i]])
        np.testing.assert_allclose(changed[i, ..., 0], own, atol=1e-5)


def test_draws():
    found = remix.draw_remix(seed(0), 4000, 4)
    again = remix.draw_remix(seed(0), 4000, 4)
    for name, value in found.items():
        np.testing.assert_array_equal(value, again[name])
    shift, donor = found["shift"].numpy(), found["donor"].numpy()
    assert (shift.min(), shift.max()) == (-3, 3)
    assert (donor.min(), donor.max()) == (0, 3999)
    assert found["is_kept"].numpy().mean() == pytest.approx(0.85, abs=0.01)
    assert found["level"].numpy().std() == pytest.approx(0.3, abs=0.01)
    # Four cosines of deviation 0.5 with free phases: 0.5 sqrt(4 / 2).
    assert found["filter"].numpy().std() == pytest.approx(0.71, abs=0.02)
    other = remix.draw_remix(seed(1), 4000, 4)
    # Seven shifts: one in seven is equal by chance.
    changed = (other["shift"].numpy() != shift).mean()
    assert changed == pytest.approx(6 / 7, abs=0.02)


def test_a_mixture_of_unchanged_stems_is_their_sum():
    """Of the real front end's mel magnitudes: sums of squares."""
    stems, is_active, positive, source = random_batch(batch=1)
    is_active[:] = True
    drawn = remix.draw_remix(seed(2), 1, 3, 16)
    drawn = {name: tf.zeros_like(value) for name, value in drawn.items()}
    drawn["is_kept"] = tf.ones_like(drawn["is_kept"])
    anchor, changed = remix.apply_remix(stems, is_active, positive, source, drawn)
    power = np.exp(2 * stems.astype(np.float64)).sum(1)
    np.testing.assert_allclose(anchor[..., 0], 0.5 * np.log(power), atol=1e-4)
    np.testing.assert_array_equal(changed, positive)


def test_training_sees_remixed_pairs(prepared):
    """The fake stem of source k is the mixture + 10 (k + 1)."""
    config = TrainConfig(batch_size=8, batches="uniform", augment="remix", seed=1)
    sampler = sampler_lib.PairSampler(prepared, config, silent_value=-3.0)
    plain = sampler_lib.PairSampler(
        prepared, TrainConfig(batch_size=8, batches="uniform")
    )
    raw = [sampler.batch(n, with_stems=True) for n in range(4)]
    found = [
        {name: value.numpy() for name, value in batch.items()}
        for batch in sampler.dataset(0, 4)
    ]
    for before, after in zip(raw, found, strict=True):
        assert set(after) == {"anchor", "positive", "is_active", "source"}
        np.testing.assert_array_equal(after["is_active"], before["is_active"])
        for i, k in np.argwhere(before["stem_is_active"]):
            stem = before["anchor"][i, ..., 0].astype(np.float32) + 10 * (k + 1)
            np.testing.assert_allclose(before["stems"][i, k], stem, atol=0.02)
        # Silent positives are the constant; the others differ from what was read.
        active = after["is_active"]
        assert (after["positive"][~active] == -3.0).all()
        difference = np.abs(after["positive"] - before["positive"])[active]
        assert (difference.max(axis=(1, 2, 3)) > 0).all()
        assert np.isfinite(after["anchor"]).all()
        assert np.abs(after["anchor"] - before["anchor"]).max() > 1
    assert not all(batch["is_active"].all() for batch in found)
    late = [batch["anchor"].numpy() for batch in sampler.dataset(2, 2)]
    np.testing.assert_array_equal(late, [batch["anchor"] for batch in found[2:]])
    assert not plain.is_remixed


def test_statistics_and_validation_see_the_mixtures_as_they_are(prepared):
    config = TrainConfig(batch_size=8, augment="remix+gain", seed=1)
    sampler = sampler_lib.PairSampler(prepared, config)
    plain = sampler_lib.PairSampler(prepared, TrainConfig(batch_size=8, seed=1))
    np.testing.assert_array_equal(sampler.batch(3)["anchor"], plain.batch(3)["anchor"])
    assert not sampler_lib.PairSampler(prepared, config, "validation").is_remixed


def test_what_cannot_be_remixed_is_refused(prepared):
    with pytest.raises(augment.AugmentError, match="--source=multi or leave remix out"):
        sampler_lib.PairSampler(prepared, TrainConfig(source="none", augment="remix"))
    with pytest.raises(augment.AugmentError, match="remix comes first"):
        augment.split_remix("gain+remix")
    with pytest.raises(augment.AugmentError, match="--augment=blur"):
        sampler_lib.PairSampler(
            prepared, TrainConfig(batch_size=4, augment="remix+blur")
        )


def test_a_share_of_the_mini_batches_is_remixed_as_a_whole(prepared):
    fields = {"batch_size": 8, "augment": "remix", "seed": 1}
    whole = sampler_lib.PairSampler(prepared, TrainConfig(**fields))
    part = sampler_lib.PairSampler(prepared, TrainConfig(**fields, remix_share=0.4))
    none = sampler_lib.PairSampler(prepared, TrainConfig(**fields, remix_share=0.0))
    kinds = []
    for number, batches in enumerate(
        zip(whole.dataset(0, 40), part.dataset(0, 40), none.dataset(0, 40), strict=True)
    ):
        mixed, either, plain = (
            {k: v.numpy() for k, v in batch.items()} for batch in batches
        )
        raw = part.batch(number)
        for name in ("anchor", "positive"):
            np.testing.assert_array_equal(plain[name], raw[name].astype(np.float32))
        is_mixed = not np.array_equal(either["anchor"], plain["anchor"])
        kinds.append(is_mixed)
        for name in ("anchor", "positive"):
            expected = (mixed if is_mixed else plain)[name]
            np.testing.assert_array_equal(either[name], expected)
    assert 8 <= sum(kinds) <= 24  # of 40, at a share of 0.4
