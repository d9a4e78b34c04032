"""The windows that a head is trained on, epoch by epoch.

`CachedWindows`: every window of every clip, embedded once, in a new order each epoch.
`SampledWindows` (`--protocol=paper`): one random window a segment, drawn anew each
epoch and embedded on the fly.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import tensorflow as tf

from cola_msa.evaluation.probes.features import EmbeddedSplit, check_finite
from cola_msa.records.reader import fixed_bounds, open_windows
from cola_msa.records.windows import Draw, Segments

Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]
Arrays = Iterator[tuple[np.ndarray, np.ndarray]]

# Below this a split is read once; above, in shuffled blocks, a chunk at a time.
_RESIDENT_BYTES = 1_250_000_000
_CHUNK_BYTES = 400_000_000
_BLOCK_WINDOWS = 1024
_READ_WINDOWS = 4096  # read at once, where the order does not matter
_EMBED_WINDOWS = 256  # a forward pass


class TrainingWindows(Protocol):
    """What a head is trained on."""

    @property
    def num_windows(self) -> int:
        """Windows an epoch."""

    @property
    def dim(self) -> int:
        """Width of the embeddings, D."""

    @property
    def num_classes(self) -> int:
        """K."""

    @property
    def call_batches(self) -> int:
        """Mini-batches that one call of the training loop should get."""

    def epoch(self, seed: int, epoch: int, size: int) -> Batches:
        """Yields an epoch as float16 [<= size, D] and labels float32 [<= size, K]."""

    def once(self, seed: int) -> Arrays:
        """Yields windows once as arrays of the same shapes, for closed forms."""


class CachedWindows:
    """Windows of an embedded split with their labels; see TrainingWindows."""

    call_batches = 32  # a mini-batch costs less than a call does

    def __init__(self, split: EmbeddedSplit):
        """Reads the split into memory where it is small enough."""
        self._split = split
        self._clips = split.window_clips()
        self.num_windows = split.num_windows
        self.dim = split.dim
        self.num_classes = split.labels.shape[1]
        is_resident = split.num_bytes <= _RESIDENT_BYTES
        self._resident = split.read(0, split.num_windows) if is_resident else None

    def _read(self, start: int, stop: int) -> np.ndarray:
        if self._resident is not None:
            return self._resident[start:stop]
        return self._split.read(start, stop)

    def in_order(self, size: int) -> Arrays:
        """Yields windows float16 [<= size, D] and labels float32 [<= size, K]."""
        for start in range(0, self.num_windows, size):
            stop = min(start + size, self.num_windows)
            yield (
                self._read(start, stop),
                self._split.labels[self._clips[start:stop]],
            )

    def once(self, seed: int) -> Arrays:
        """Yields every window, in order; the seed has no part in it."""
        del seed
        return self.in_order(_READ_WINDOWS)

    def epoch(self, seed: int, epoch: int, size: int) -> Batches:
        """Yields every window in an order that seed and epoch decide.

        Resident splits are permuted as a whole. Larger ones are read in blocks drawn
        without replacement, and permuted within chunks of such blocks, so that the
        disk is read in long runs; every window still comes once an epoch.
        """
        random = np.random.default_rng([seed, epoch])
        for windows, clips in self._chunks(random):
            order = random.permutation(len(clips))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                yield (
                    tf.constant(windows.take(rows, axis=0)),
                    tf.constant(self._split.labels[clips[rows]]),
                )

    def _chunks(self, random: np.random.Generator) -> Arrays:
        if self._resident is not None:
            yield self._resident, self._clips
            return
        total = self.num_windows
        blocks = random.permutation(-(-total // _BLOCK_WINDOWS))
        chunk_blocks = max(1, _CHUNK_BYTES // (_BLOCK_WINDOWS * self.dim * 2))
        for first in range(0, len(blocks), chunk_blocks):
            starts = blocks[first : first + chunk_blocks] * _BLOCK_WINDOWS
            spans = [(int(s), min(int(s) + _BLOCK_WINDOWS, total)) for s in starts]
            chunk = np.empty((sum(b - a for a, b in spans), self.dim), np.float16)
            position = 0
            for a, b in spans:
                chunk[position : position + b - a] = self._split.read(a, b)
                position += b - a
            yield chunk, np.concatenate([self._clips[a:b] for a, b in spans])


@dataclasses.dataclass(frozen=True)
class SampledWindows:
    """One random window a segment and epoch; see TrainingWindows.

    Attributes:
        embed: float16 [batch, frames, mels] -> float16 [batch, D], of
            `embeddings.embed_function`: in inference mode.
        dim: D.
        shape: Frames and mels of a window.
        segments: The training clips' segments.
        labels: float32 [C, K], of the clips that the segments are numbered by.

    Source: section 4; differs: the encoder is in inference mode, where the authors'
        code leaves stochastic depth on.
    """

    embed: Callable[[np.ndarray], tf.Tensor]
    dim: int
    shape: tuple[int, int]
    segments: Segments
    labels: np.ndarray
    call_batches: int = 4  # embedding is what costs; short calls stop soon at Ctrl-C

    @property
    def num_windows(self) -> int:
        """Windows an epoch: one a segment."""
        return self.segments.num_segments

    @property
    def num_classes(self) -> int:
        """K."""
        return self.labels.shape[1]

    def _embedded(self, draw: Draw, size: int) -> Arrays:
        bounds = fixed_bounds(draw.num_windows, _EMBED_WINDOWS)
        with open_windows(draw, self.shape, bounds) as batches:
            kept = np.zeros((0, self.dim), np.float16)
            position = 0
            for windows in batches:
                found = check_finite(self.embed(windows).numpy(), "train")
                kept = np.concatenate([kept, found])
                while len(kept) >= size:
                    yield kept[:size], self.labels[draw.clip[position:][:size]]
                    kept, position = kept[size:], position + size
            if len(kept):
                yield kept, self.labels[draw.clip[position:]]

    def once(self, seed: int) -> Arrays:
        """Yields the windows of epoch 0."""
        return self._embedded(self.segments.draw(seed, 0), _EMBED_WINDOWS)

    def epoch(self, seed: int, epoch: int, size: int) -> Batches:
        """Yields windows that seed and epoch decide, in random order."""
        for windows, labels in self._embedded(self.segments.draw(seed, epoch), size):
            yield tf.constant(windows), tf.constant(labels)
