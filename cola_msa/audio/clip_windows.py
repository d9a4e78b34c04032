"""A clip of any length, block by block, to the encoder's windows.

The level rule needs the whole clip before the first window: raw frames (mel magnitudes,
or a waveform's samples) grow with the level in proportion, so they are computed and
kept (on disk beyond a few minutes) before the level is known, and scaled when windows
are cut. Decoding once suffices, and memory does not grow with the clip.
"""

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.audio import decode, resample
from cola_msa.audio.frontend import level_scale, raw_frames
from cola_msa.audio.frontend_numpy import finish_frames, whole_frames
from cola_msa.config.schema import FrontendConfig

_BLOCK_FRAMES = 1000  # frames that one STFT call makes
_MEMORY_BYTES = 1 << 23  # mel magnitudes of 5 minutes; more goes to a file
_READ_WINDOWS = 64  # windows that are cut at once


@functools.lru_cache(maxsize=8)
def frames_function(config: FrontendConfig) -> Callable[[np.ndarray], tf.Tensor]:
    """Compiles waveform float32 [n] -> raw frames float32 [frames, num_mels]."""
    return tf.function(
        lambda waveform: raw_frames(waveform, config),
        input_signature=[tf.TensorSpec([None], tf.float32)],
        autograph=False,
    )


class ClipWindows:
    """Takes a clip's waveform in blocks, and then gives its windows.

    Use it as a context manager: it may hold a file. The clip is taken by one thread
    at a time.
    """

    def __init__(
        self,
        frontend: FrontendConfig,
        folder: str | None = None,
        memory_bytes: int = _MEMORY_BYTES,
    ):
        """Begins an empty clip.

        Args:
            frontend: FrontendConfig; its `level` is the level rule.
            folder: Where long clips' frames go; None for the system's folder of
                temporary files.
            memory_bytes: Raw frames beyond this go to a file there.
        """
        self.frontend = frontend
        self.num_samples = 0
        self.num_frames = 0
        self._folder = folder
        self._square_sum = 0.0
        self._rest = np.zeros(0, np.float32)
        self._file: Any = tempfile.SpooledTemporaryFile(memory_bytes, dir=folder)

    def __enter__(self) -> "ClipWindows":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Forgets the clip."""
        self._file.close()

    @property
    def seconds(self) -> float:
        """Duration of what was added."""
        return self.num_samples / self.frontend.sample_rate_hz

    def add(self, block: np.ndarray) -> None:
        """Adds the next samples, float32 [n], mono at the front end's rate."""
        block = np.asarray(block, np.float32)
        self.num_samples += len(block)
        # Not np.dot: BLAS would start threads of its own for it.
        self._square_sum += float(np.square(block, dtype=np.float64).sum())
        self._rest = np.concatenate([self._rest, block])
        config = self.frontend
        step = _BLOCK_FRAMES * config.hop_samples
        needed = step - config.hop_samples + config.window_samples
        first = 0
        while len(self._rest) - first >= needed:
            self._keep(self._rest[first : first + needed])
            first += step
        self._rest = self._rest[first:]

    def finish(self) -> None:
        """Ends the clip; from here on it has windows."""
        rest = whole_frames(self._rest, self.num_frames, self.frontend)
        if self.frontend.num_frames(len(rest)) > 0:
            self._keep(rest)
        self._rest = self._rest[:0]

    def _keep(self, samples: np.ndarray) -> None:
        frames = frames_function(self.frontend)(samples).numpy()
        self.num_frames += len(frames)
        try:
            self._file.write(np.ascontiguousarray(frames, "<f4").tobytes())
        except OSError as error:  # which names no file
            place = self._folder or f"{tempfile.gettempdir()} (TMPDIR)"
            raise OSError(error.errno, error.strerror, place) from error

    def starts(self, hop_frames: int | None = None) -> np.ndarray:
        """First frames of the windows, int64 [W].

        Args:
            hop_frames: Frames from one window to the next; None for a window's.
        """
        hop = hop_frames or self.frontend.window_frames
        last = max(0, self.num_frames - self.frontend.window_frames)
        return np.arange(0, last + 1, hop)

    def windows(self, hop_frames: int | None = None) -> Iterator[np.ndarray]:
        """Cuts the windows, from frame 0 on; frames at the end that fill none fall out.

        A clip below one window is padded to one by frames of log(log_floor), or of a
        waveform by zeros, as the export does.

        Args:
            hop_frames: Frames from one window to the next; None for a window's.

        Yields:
            float32 [up to 64, window_frames, num_mels, 1], log-mels or samples.
        """
        config = self.frontend
        starts = self.starts(hop_frames)
        scale = level_scale(self._square_sum, self.num_samples, config.level)
        for first in range(0, len(starts), _READ_WINDOWS):
            part = starts[first : first + _READ_WINDOWS]
            frames = self._read(int(part[0]), int(part[-1]) + config.window_frames)
            frames = finish_frames(frames, scale, config)
            rows = (part - part[0])[:, np.newaxis] + np.arange(config.window_frames)
            yield frames[rows][..., np.newaxis]

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Raw frames from start to stop; zeros where the clip has ended."""
        row_bytes = self.frontend.num_mels * 4
        self._file.seek(start * row_bytes)
        content = self._file.read((stop - start) * row_bytes)
        found = np.frombuffer(content, "<f4").reshape(-1, self.frontend.num_mels)
        return np.pad(found, ((0, stop - start - len(found)), (0, 0)))


def decode_clip(
    path: str | os.PathLike,
    frontend: FrontendConfig,
    folder: str | None = None,
    on_block: Callable[[np.ndarray], None] = lambda block: None,
) -> ClipWindows:
    """Decodes a file of any length to its windows.

    Args:
        path: Anything that `audio.AudioReader` reads.
        frontend: FrontendConfig.
        folder: As in `ClipWindows`.
        on_block: Called with each block, float32 [n], mono at the front end's rate;
            what it raises ends the decoding.

    Returns:
        The finished clip, which the caller closes.

    Raises:
        AudioError: If the file cannot be read.
        OSError: If the folder cannot be written to.
    """
    clip = ClipWindows(frontend, folder)
    try:
        with decode.AudioReader(path) as reader:
            for block in resample.mono_blocks(
                reader.blocks(), reader.info.rate_hz, frontend.sample_rate_hz
            ):
                clip.add(block)
                on_block(block)
        clip.finish()
    except BaseException:
        clip.close()
        raise
    return clip
