"""Separation of mixtures of any length: chunks that overlap and are cross-faded.

Chunks begin where a window of the Wiener filter begins, so that the filter of the
whole mixture sees the same windows. What is within half an overlap of a chunk's end
knows less of the music than it should; most of that is thrown away, and the middle of
the overlap is cross-faded.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from cola_msa.audio.resample import Resampler
from cola_msa.config.schema import Checked
from cola_msa.values.fields import within


@dataclasses.dataclass(frozen=True)
class Chunking(Checked):
    """How long mixtures are cut. One window is 300 frames, 7 s for umxhq.

    Attributes:
        chunk_windows: Windows of the Wiener filter in a chunk. A mixture that is not
            longer than a chunk is separated whole.
        overlap_windows: Windows that two chunks share.
        fade_seconds: Length of the cross-fade, in the middle of the overlap.
    """

    chunk_windows: int = within(5, 1, 1000)
    overlap_windows: int = within(1, 0, 1000)
    fade_seconds: float = within(1.0, 0.0)


class ChunkedSeparation:
    """One mixture on its way through the separator, block by block."""

    def __init__(
        self,
        separate: Callable[[np.ndarray], np.ndarray],
        num_channels: int,
        rate_hz: int,
        window_samples: int,
        chunking: Chunking,
    ):
        """Starts a mixture.

        Args:
            separate: float32 [channels, n] to float32 [sources, n].
            num_channels: Channels that it wants.
            rate_hz: Rate that it wants.
            window_samples: Length of the Wiener filter's window.
            chunking: How to cut.
        """
        self._separate = separate
        self._chunk = chunking.chunk_windows * window_samples
        self._overlap = chunking.overlap_windows * window_samples
        self._fade = min(round(chunking.fade_seconds * rate_hz), self._overlap)
        self._waiting = np.zeros((num_channels, 0), np.float32)
        self._parts: list[np.ndarray] = []
        self._num_waiting = 0
        # The last chunk's estimates under the overlap with the next.
        self._tail: np.ndarray | None = None

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """Takes float32 [channels, n]; gives what is done, float32 [sources, m]."""
        self._parts.append(block)
        self._num_waiting += block.shape[1]
        done = []
        # More than a chunk: what is exactly one chunk long is separated whole.
        while self._num_waiting > self._chunk:
            self._join()
            done.append(self._next(self._waiting[:, : self._chunk], is_last=False))
            kept = self._waiting[:, self._chunk - self._overlap :].copy()
            self._parts, self._num_waiting = [kept], kept.shape[1]
        return done

    def finish(self) -> list[np.ndarray]:
        """Ends the mixture; gives the rest."""
        self._join()
        return [self._next(self._waiting, is_last=True)]

    def _join(self) -> None:
        self._waiting = np.concatenate(self._parts, axis=1)
        self._parts = [self._waiting]

    def _next(self, chunk: np.ndarray, is_last: bool) -> np.ndarray:
        estimates = self._separate(chunk)
        if self._tail is not None:
            # Tail, cross-fade, this chunk: under the overlap.
            first = (self._overlap - self._fade) // 2
            rising = np.zeros(self._overlap, np.float32)
            rising[first + self._fade :] = 1
            rising[first : first + self._fade] = np.linspace(
                0, 1, self._fade, dtype=np.float32
            )
            under = estimates[:, : self._overlap]
            length = under.shape[1]
            under *= rising[:length]
            under += self._tail[:, :length] * (1 - rising[:length])
        if is_last:
            return estimates
        self._tail = estimates[:, self._chunk - self._overlap :].copy()
        return estimates[:, : self._chunk - self._overlap]


class StemStream:
    """From a file's blocks to stems at the front end's rate."""

    def __init__(
        self,
        separation: ChunkedSeparation,
        num_sources: int,
        num_channels: int,
        from_hz: int,
        separator_hz: int,
        to_hz: int,
    ):
        """Starts a mixture.

        Args:
            separation: The same mixture's separation.
            num_sources: Stems that it gives.
            num_channels: Channels that it wants.
            from_hz: Rate of the file.
            separator_hz: Rate of the separator.
            to_hz: Rate of the stems.
        """
        self._separation = separation
        self._num_channels = num_channels
        self._down = Resampler(from_hz, separator_hz, num_channels)
        self._up = Resampler(separator_hz, to_hz, num_sources)

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """Takes float32 [channels, n]; gives float32 [sources, m], as far as done."""
        if len(block) != self._num_channels:
            mono = block.mean(axis=0, keepdims=True, dtype=np.float32)
            block = np.repeat(mono, self._num_channels, axis=0)
        done = self._separation.push(self._down.push(block))
        return [self._up.push(part) for part in done]

    def finish(self) -> list[np.ndarray]:
        """Ends the mixture; gives the rest."""
        done = self._separation.push(self._down.finish()) + self._separation.finish()
        return [self._up.push(part) for part in done] + [self._up.finish()]
