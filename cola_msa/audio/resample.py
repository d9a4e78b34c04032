"""Any rate and any channels to mono at one rate, whole or block by block."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from cola_msa.audio.decode import Audio


class Resampler:
    """Changes the sampling rate block by block.

    What it gives is bit for bit what `resample` gives for the whole, whatever the
    blocks.
    """

    def __init__(self, from_hz: int, to_hz: int, num_channels: int):
        """Starts a stream.

        Args:
            from_hz: Rate of what comes in.
            to_hz: Rate of what goes out.
            num_channels: Channels of both.
        """
        self._num_channels = num_channels
        self._stream = None
        if from_hz != to_hz:
            self._stream = soxr.ResampleStream(
                from_hz, to_hz, num_channels, dtype="float32"
            )

    def push(self, block: np.ndarray) -> np.ndarray:
        """Takes float32 [channels, n], gives what is ready, float32 [channels, m]."""
        return self._chunk(block, False)

    def finish(self) -> np.ndarray:
        """Ends the stream; float32 [channels, m], the rest."""
        return self._chunk(np.zeros((self._num_channels, 0), np.float32), True)

    def _chunk(self, block: np.ndarray, is_last: bool) -> np.ndarray:
        if self._stream is None:
            return block
        # soxr wants time first.
        given = np.ascontiguousarray(block.T)
        return np.ascontiguousarray(self._stream.resample_chunk(given, is_last).T)


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Changes the sampling rate.

    Args:
        samples: float32 [n] or [channels, n].
        from_hz: Rate of `samples`.
        to_hz: Wanted rate.

    Returns:
        float32 [m] or [channels, m], m about n * to_hz / from_hz.
    """
    if from_hz == to_hz:
        return samples
    # soxr wants time first.
    return np.ascontiguousarray(soxr.resample(samples.T, from_hz, to_hz).T)


def _channel_mean(samples: np.ndarray) -> np.ndarray:
    if len(samples) == 1:
        return samples[0]
    return samples.mean(axis=0, dtype=np.float32)


def to_mono(audio: Audio, rate_hz: int) -> np.ndarray:
    """The mean of the channels at `rate_hz`, float32 [n]."""
    return resample(_channel_mean(audio.samples), audio.rate_hz, rate_hz)


def mono_blocks(
    blocks: Iterable[np.ndarray], from_hz: int, rate_hz: int
) -> Iterator[np.ndarray]:
    """`to_mono` for audio of any length.

    Args:
        blocks: float32 [channels, n] each, as `AudioReader.blocks` gives them.
        from_hz: Their rate.
        rate_hz: Wanted rate.

    Yields:
        float32 [m]; joined, bit for bit what `to_mono` gives for the whole.
    """
    resampler = Resampler(from_hz, rate_hz, 1)
    for block in blocks:
        yield resampler.push(_channel_mean(block)[np.newaxis])[0]
    yield resampler.finish()[0]
