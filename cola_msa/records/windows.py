"""Windows of prepared clips: where they lie, and which are drawn.

Two choices of windows. `plan_windows`: all F // 98 windows of every clip, from its
frame 0 on. `find_segments` and `Segments.draw`: one window a segment, which starts at
random, anew each epoch.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.records.prepared import PreparedData
from cola_msa.records.schema import DataError
from cola_msa.records.stored import VALUE_BYTES, stored_type

_HALF = np.dtype("<f2")
_SEGMENT_STREAM = 1  # keeps these draws apart from others of the same seed


@dataclasses.dataclass(frozen=True)
class Windows:
    """Where windows lie; V windows.

    Attributes:
        paths: The shards.
        shard: int32 [V], into `paths`.
        byte_offset: int64 [V], of each window's first frame.
        stored_type: Of the values, see `stored`.
    """

    paths: tuple[pathlib.Path, ...]
    shard: np.ndarray
    byte_offset: np.ndarray
    stored_type: np.dtype = dataclasses.field(default=_HALF, kw_only=True)

    @property
    def num_windows(self) -> int:
        """V."""
        return len(self.shard)


@dataclasses.dataclass(frozen=True)
class WindowPlan(Windows):
    """All windows of some clips, clip by clip; C clips.

    Attributes:
        clip_splits: int64 [C + 1]; clip c has windows clip_splits[c] to
            clip_splits[c + 1].
    """

    clip_splits: np.ndarray


def plan_windows(data: PreparedData, splits: Sequence[str]) -> WindowPlan:
    """Lists all windows, clip by clip, from each clip's frame 0 on.

    Args:
        data: The prepared data.
        splits: Names of splits; their clips follow one another.

    Raises:
        DataError: If a clip lacks a segment or is shorter than a window.
    """
    plans = [_plan_split(data, split) for split in splits]
    bases = np.cumsum([0] + [len(plan.paths) for plan in plans])
    counts = [np.diff(plan.clip_splits) for plan in plans]
    return WindowPlan(
        paths=tuple(path for plan in plans for path in plan.paths),
        shard=_joined(
            [p.shard + b for p, b in zip(plans, bases, strict=False)], np.int32
        ),
        byte_offset=_joined([plan.byte_offset for plan in plans], np.int64),
        clip_splits=np.concatenate([[0], np.cumsum(_joined(counts, np.int64))]),
        stored_type=stored_type(data.frontend),
    )


def _joined(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _plan_split(data: PreparedData, split: str) -> WindowPlan:
    index = data.index(split)
    frames = data.frontend.window_frames
    if data.frontend.segment_frames % frames:
        raise DataError(
            f"{data.data_dir}: a segment's {data.frontend.segment_frames} frames are "
            f"no multiple of a window's {frames}, so windows would cross segments"
        )
    order = np.lexsort((index.segment, index.clip))
    clip, number = index.clip[order], index.segment[order]
    num_frames = index.num_frames[order]
    is_first = np.diff(clip, prepend=-1) != 0
    is_last = np.diff(clip, append=-1) != 0
    # A hole, or a short segment before the last, would shift the clip's windows.
    expected = np.arange(len(order)) - np.maximum.accumulate(
        np.where(is_first, np.arange(len(order)), 0)
    )
    is_wrong = (number != expected) | (
        ~is_last & (num_frames != data.frontend.segment_frames)
    )
    if is_wrong.any():
        bad = index.clip_ids[clip[np.argmax(is_wrong)]]
        raise DataError(
            f"{data.data_dir}, split {split}: clip {bad} lacks a segment; run the "
            "preparation again"
        )
    num_windows = num_frames // frames
    per_clip = np.bincount(clip, num_windows, len(index.clip_ids)).astype(np.int64)
    if len(per_clip) and per_clip.min() == 0:
        raise DataError(
            f"{data.data_dir}, split {split}: clip "
            f"{index.clip_ids[np.argmin(per_clip)]} is shorter than a window"
        )
    row = np.repeat(order, num_windows)
    starts = np.cumsum(num_windows) - num_windows
    within = np.arange(len(row)) - np.repeat(starts, num_windows)
    window_bytes = frames * data.frontend.num_mels * VALUE_BYTES
    return WindowPlan(
        paths=tuple(data.data_dir / str(name) for name in index.shards),
        shard=index.shard[row],
        byte_offset=index.mixture_offset[row] + within * window_bytes,
        clip_splits=np.concatenate([[0], np.cumsum(per_clip)]),
    )


@dataclasses.dataclass(frozen=True)
class Draw(Windows):
    """One window a segment, in random order.

    Attributes:
        clip: int64 [V], each window's clip.
    """

    clip: np.ndarray

    def part(self, start: int, stop: int) -> "Draw":
        """Windows start to stop."""
        return Draw(
            self.paths,
            self.shard[start:stop],
            self.byte_offset[start:stop],
            self.clip[start:stop],
            stored_type=self.stored_type,
        )


@dataclasses.dataclass(frozen=True)
class Segments:
    """Segments of some clips, in which windows start at random; G segments.

    Attributes:
        paths: The shards.
        shard: int32 [G], into `paths`.
        byte_offset: int64 [G], of the segment's first frame.
        num_starts: int64 [G], frames at which a window may start.
        clip: int64 [G], number of the segment's clip.
        frame_bytes: Bytes of a frame.
        stored_type: Of the values, see `stored`.
    """

    paths: tuple[pathlib.Path, ...]
    shard: np.ndarray
    byte_offset: np.ndarray
    num_starts: np.ndarray
    clip: np.ndarray
    frame_bytes: int
    stored_type: np.dtype = _HALF

    @property
    def num_segments(self) -> int:
        """G, and how many windows a draw has."""
        return len(self.shard)

    def of_clips(self, clips: np.ndarray) -> "Segments":
        """The segments of some clips; clips keep their numbers.

        Args:
            clips: Numbers of clips.
        """
        is_kept = np.isin(self.clip, clips)
        return dataclasses.replace(
            self,
            shard=self.shard[is_kept],
            byte_offset=self.byte_offset[is_kept],
            num_starts=self.num_starts[is_kept],
            clip=self.clip[is_kept],
        )

    def draw(self, seed: int, epoch: int) -> Draw:
        """Draws an epoch: a window of every segment, uniform over all starts.

        Equal arguments give equal draws.

        Source: section 4 ("random segments of 98 frames were cropped, at each
            training iteration").
        """
        random = np.random.default_rng([seed, epoch, _SEGMENT_STREAM])
        starts = random.integers(0, self.num_starts)
        order = random.permutation(self.num_segments)
        offsets = self.byte_offset + starts * self.frame_bytes
        return Draw(
            self.paths,
            self.shard[order],
            offsets[order],
            self.clip[order],
            stored_type=self.stored_type,
        )


def find_segments(data: PreparedData, splits: Sequence[str]) -> Segments:
    """Finds the whole segments of splits; a clip shorter than one is a segment too.

    The tail behind a clip's last whole segment is left out, as in pre-training.

    Args:
        data: The prepared data.
        splits: Names of splits; clips are numbered through, in the splits' order.

    Raises:
        DataError: If there is none that holds a window.
    """
    frames = data.frontend.window_frames
    parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    paths: list[pathlib.Path] = []
    num_clips = 0
    for split in splits:
        index = data.index(split)
        rows = np.flatnonzero(~index.is_tail & (index.num_frames >= frames))
        parts["shard"].append(index.shard[rows] + len(paths))
        parts["offset"].append(index.mixture_offset[rows])
        parts["starts"].append(index.num_frames[rows].astype(np.int64) - frames + 1)
        parts["clip"].append(index.clip[rows].astype(np.int64) + num_clips)
        paths += [data.data_dir / str(name) for name in index.shards]
        num_clips += len(index.clip_ids)
    segments = Segments(
        paths=tuple(paths),
        shard=_joined(parts["shard"], np.int32),
        byte_offset=_joined(parts["offset"], np.int64),
        num_starts=_joined(parts["starts"], np.int64),
        clip=_joined(parts["clip"], np.int64),
        frame_bytes=data.frontend.num_mels * VALUE_BYTES,
        stored_type=stored_type(data.frontend),
    )
    if not segments.num_segments:
        raise DataError(
            f"{data.data_dir}: split {' + '.join(splits)} has no segment of at least "
            f"{frames} frames"
        )
    return segments
