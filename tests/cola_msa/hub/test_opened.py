"""An opened model embeds waveforms in parts, which need more memory."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig, waveform_frontend
from cola_msa.hub.opened import OpenedModel
from cola_msa.system.errors import UserError


@pytest.mark.parametrize(
    "frontend, num_windows, largest",
    [(FrontendConfig(), 64, 64), (waveform_frontend(), 64, 8)]
    + [(waveform_frontend(), count, 1) for count in (1, 3, 9)]
    + [(FrontendConfig(), 0, 0), (waveform_frontend(), 0, 0)],
)
def test_a_forward_pass_takes_so_many(frontend, num_windows, largest):
    sizes = []

    def encode(windows):
        def note(count):
            sizes.append(int(count))
            return count

        count = tf.numpy_function(note, [tf.shape(windows)[0]], tf.int32)
        with tf.control_dependencies([count]):
            return tf.reduce_mean(windows, [1, 2])

    model = OpenedModel(
        "run", pathlib.Path(), 1, frontend, "0" * 16, "", {}, lambda: None, encode
    )
    shape = (num_windows, frontend.window_frames, frontend.num_mels, 1)
    windows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = model.embed(windows)
    assert found.shape == (num_windows, 1)
    np.testing.assert_allclose(found, windows.mean((1, 2)), atol=1e-5)
    assert max(sizes) == largest and sum(sizes) == num_windows


@pytest.mark.parametrize("frontend", [FrontendConfig(), waveform_frontend()])
def test_windows_of_another_kind_are_refused(frontend):
    model = OpenedModel(
        "run", pathlib.Path("runs/x"), 1, frontend, "0" * 16, "", {}, lambda: None
    )
    bands = FrontendConfig().num_mels + waveform_frontend().num_mels
    for shape in ((1, 98, bands - frontend.num_mels, 1), (98, frontend.num_mels)):
        with pytest.raises(UserError, match=r"runs/x takes .* windows \[n, frames"):
            model.embed(np.zeros(shape, np.float32))
