"""A long file that no disk holds, and what the memory held meanwhile."""

import tracemalloc
import types

import numpy as np

BLOCK_FRAMES = 1 << 16


class LongNoise:
    """Stands for `audio.AudioReader`: 20 minutes, mono at 16 kHz."""

    num_blocks = 20 * 60 * 16000 // BLOCK_FRAMES
    num_bytes = num_blocks * BLOCK_FRAMES * 4

    def __init__(self, path, expected_seconds=None):
        self.info = types.SimpleNamespace(rate_hz=16000, num_channels=1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def blocks(self, block_frames=BLOCK_FRAMES):
        noise = np.random.default_rng(0).normal(size=(1, BLOCK_FRAMES))
        for _ in range(self.num_blocks):
            yield noise.astype(np.float32)


class Peak:
    """The most that Python and NumPy held inside: `bytes`."""

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        self.bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
