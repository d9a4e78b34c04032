"""Windows that are drawn and embedded on the fly (--protocol=paper)."""

import dataclasses

import numpy as np
import pytest

from cola_msa.evaluation.probes import features
from cola_msa.evaluation.probes import linear as windows_lib
from cola_msa.records import windows
from cola_msa.records.schema import DataError
from tests.cola_msa.evaluation.probes.test_features import DIM, tiny_encoder, write_data
from tests.cola_msa.records.test_windows import make_clips, read

SHAPE = (98, 64)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path, {"train": make_clips("a")})


def make_source(data, encoder=None):
    index = data.index("train")
    return windows_lib.SampledWindows(
        embed=features.embed_function(encoder or tiny_encoder(), *SHAPE),
        dim=DIM,
        shape=SHAPE,
        segments=windows.find_segments(data, ["train"]),
        labels=index.label_matrix(len(data.class_names)),
    )


def collect(batches):
    parts = [(np.array(w), np.array(labels)) for w, labels in batches]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("pass_windows", [2, 256])
def test_embeddings_are_those_of_the_draw(data, size, pass_windows):
    source = dataclasses.replace(make_source(data), forward_windows=pass_windows)
    drawn = source.segments.draw(seed=2, epoch=5)
    batches = list(source.epoch(2, 5, size))
    assert {len(labels) for _, labels in batches[:-1]} <= {size}
    found, labels = collect(batches)
    assert len(found) == source.num_windows == 8
    expected = read(drawn).astype(np.float64).mean(axis=1)[:, :DIM]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_array_equal(labels.argmax(axis=1), drawn.clip % 3)


def test_epochs_differ_and_come_again(data):
    source = make_source(data)
    first, again, other = (collect(source.epoch(0, e, 4))[0] for e in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(np.sort(first, axis=0), np.sort(other, axis=0))
    once, _ = collect(source.once(seed=0))
    np.testing.assert_array_equal(once, first)


def test_the_encoder_is_in_inference_mode(data):
    import keras

    inputs = keras.Input((None, 64, 1))
    hidden = keras.layers.Dropout(0.9)(keras.ops.mean(inputs, axis=1)[:, :DIM, 0])
    source = make_source(data, keras.Model(inputs, hidden))
    first, _ = collect(source.epoch(0, 0, 4))
    assert (first != 0).all()
    np.testing.assert_array_equal(first, collect(source.epoch(0, 0, 4))[0])


def test_embeddings_beyond_float16_are_refused(data):
    source = make_source(data, lambda w: tiny_encoder()(w) * 1e6)
    with pytest.raises(DataError, match="not finite in float16"):
        list(source.epoch(0, 0, 4))
