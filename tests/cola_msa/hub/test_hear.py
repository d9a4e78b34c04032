"""The HEAR 2021 API, and what its embeddings are."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from cola_msa import hear
from cola_msa.audio.frontend import log_mel, normalize_level
from cola_msa.config.schema import waveform_frontend
from cola_msa.hub.embedder import Embedder
from cola_msa.hub.opened import OpenedModel
from tests.cola_msa.audio.test_clip_windows import make_sound


@pytest.fixture(scope="module")
def model(finished_run):
    return hear.load_model(str(finished_run))


@pytest.fixture(scope="module")
def sounds():
    return np.stack([make_sound(36_000, seed) for seed in range(3)])


def test_a_model_has_the_attributes_of_the_api(model):
    assert isinstance(model, tf.Module)
    assert model.sample_rate == 16000
    sizes = model.scene_embedding_size, model.timestamp_embedding_size
    assert all(type(size) is int and size == model.embedder.dim for size in sizes)


def test_scenes_are_the_embeddings_of_clips(model, sounds):
    found = hear.get_scene_embeddings(tf.constant(sounds), model)
    assert found.dtype == tf.float32
    expected = [model.embedder(sound, 16000) for sound in sounds]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_timestamps_are_centres_of_windows(model, sounds):
    embeddings, times = hear.get_timestamp_embeddings(tf.constant(sounds), model)
    assert embeddings.dtype == times.dtype == tf.float32
    assert embeddings.shape == (*times.shape, model.timestamp_embedding_size)
    # From 0 to the end of 2.25 s, each 50 ms.
    np.testing.assert_array_equal(times, np.tile(np.arange(45) * 50.0, (3, 1)))
    # Independently: cut the samples around each time, with silence beyond the ends.
    for number in (0, 3, 22, 44):
        centre = number * 800
        level = normalize_level(sounds[1]).numpy()
        padded = np.pad(level, 8000)
        window = padded[8000 + centre - 7960 : 8000 + centre + 7960]
        mel = log_mel(window).numpy()[np.newaxis, ..., np.newaxis]
        expected = model.embedder.model.embed(mel)[0]
        np.testing.assert_allclose(
            embeddings[1, number], expected, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("num_samples", [1, 800, 801, 16000])
def test_every_length_has_a_timestamp_each_50_ms(model, num_samples):
    sound = make_sound(num_samples)[np.newaxis]
    embeddings, times = hear.get_timestamp_embeddings(sound, model)
    assert times.shape == (1, -(-num_samples // 800))
    assert np.isfinite(embeddings).all()


def test_other_tensors_are_refused(model):
    for bad in (np.zeros(16000), np.zeros((0, 16000)), np.full((1, 9), np.nan)):
        with pytest.raises(ValueError, match="audio has"):
            hear.get_scene_embeddings(bad, model)


def test_timestamps_of_waveforms_are_centres_of_samples():
    """What embeds them here tells the sample in a window's middle, and its mean."""

    def encode(windows):
        samples = tf.reshape(windows, [-1, 59049])
        return tf.stack([samples[:, 29524], tf.reduce_mean(samples, 1)], 1)

    opened = OpenedModel(
        "run", pathlib.Path(), 2, waveform_frontend(), "0" * 16, "", {}, None, encode
    )
    model = hear.HearModel(Embedder(opened))
    assert model.sample_rate == 22050
    sound = make_sound(70_000)
    sound /= np.abs(sound).max()
    (found,), (times,) = hear.get_timestamp_embeddings(sound[np.newaxis], model)
    # 972 samples are the most whole frames of 243 in 50 ms.
    centres = np.arange(0, 70_000, 972)
    np.testing.assert_allclose(times, 1000 * centres / 22050, rtol=1e-6)
    np.testing.assert_allclose(found[:, 0], sound[centres], atol=1e-6)
    padded = np.pad(sound, 59049)
    for number in (0, 40, len(centres) - 1):
        first = 59049 + centres[number] - 29524
        expected = padded[first : first + 59049].mean()
        np.testing.assert_allclose(found[number, 1], expected, atol=1e-6)
