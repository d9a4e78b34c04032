"""Waveforms to embeddings: six lines for whoever has a model and some audio.

embed = cola_msa.Embedder.from_pretrained("runs/NAME")
clip = embed(waveform, sample_rate)                 # [clip_dim], of all its windows
starts, windows = embed.windows(waveform, sample_rate, hop_seconds=0.5)
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cola_msa.audio import resample
from cola_msa.audio.clip_windows import ClipWindows
from cola_msa.config.schema import FrontendConfig
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import OpenedModel
from cola_msa.model.embedding import ClipPooling
from cola_msa.system.errors import UserError

BATCH_SIZE = 64  # windows that pass through the network at once
_BLOCK_SECONDS = 10.0
_MAX_HOP_SECONDS = 1e9


def hop_to_frames(hop_seconds: float | None, frontend: FrontendConfig) -> int:
    """Frames from one window to the next, the whole number next to `hop_seconds`.

    Args:
        hop_seconds: Wanted distance; None for windows that touch (0.98 s).
        frontend: FrontendConfig.

    Raises:
        UserError: If it is less than one frame, or no length of any audio.
    """
    if hop_seconds is None:
        return frontend.window_frames
    frame_seconds = frontend.seconds(1)
    if not frame_seconds * 0.999 <= hop_seconds <= _MAX_HOP_SECONDS:
        raise UserError(
            f"hop_seconds is {hop_seconds}; it must be at least one frame, "
            f"{frame_seconds:g}, and up to {_MAX_HOP_SECONDS:g}"
        )
    return round(hop_seconds / frame_seconds)


class Batcher:
    """Fills batches with windows of one clip after another, whatever their lengths."""

    def __init__(
        self,
        embed: Callable[[np.ndarray], np.ndarray],
        receive: Callable[[Any, np.ndarray], None],
        batch_size: int = BATCH_SIZE,
    ):
        """Begins with an empty batch.

        Args:
            embed: float32 [n, frames, num_mels, 1] -> [n, dim].
            receive: Called with a clip and its next embeddings [k, dim], in the order
                in which windows were added.
            batch_size: Windows of a batch; only the last may have fewer.
        """
        self._embed = embed
        self._receive = receive
        self._batch_size = batch_size
        self._parts: list[tuple[Any, np.ndarray]] = []
        self._count = 0

    def add(self, clip: Any, windows: np.ndarray) -> None:
        """Adds windows [k, frames, num_mels, 1] of a clip; embeds full batches."""
        while self._count + len(windows) >= self._batch_size:
            taken = self._batch_size - self._count
            self._parts.append((clip, windows[:taken]))
            self.flush()
            windows = windows[taken:]
        if len(windows):
            self._parts.append((clip, windows))
            self._count += len(windows)

    def flush(self) -> None:
        """Embeds what is there."""
        parts, self._parts, self._count = self._parts, [], 0
        if not parts:
            return
        embeddings = self._embed(np.concatenate([windows for _, windows in parts]))
        first = 0
        for clip, windows in parts:
            self._receive(clip, embeddings[first : first + len(windows)])
            first += len(windows)


class Embedder:
    """Embeds waveforms by a trained encoder."""

    def __init__(self, model: OpenedModel, batch_size: int = BATCH_SIZE):
        """Wraps a model.

        Args:
            model: From `cola_msa.hub.loading.open_model`.
            batch_size: Windows that pass through the network at once.
        """
        self.model = model
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        checkpoint_step: int | str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> "Embedder":
        """Opens a run, a pretrained folder or an export.

        Args:
            path: The folder.
            checkpoint_step: For a run: a kept step, `best`, or None for the last.
            batch_size: Windows that pass through the network at once.

        Raises:
            RunError: If the folder is none of these.
        """
        return cls(open_model(path, checkpoint_step), batch_size)

    @property
    def dim(self) -> int:
        """Values of a window's embedding."""
        return self.model.dim

    @property
    def clip_dim(self) -> int:
        """Values of a clip's embedding."""
        return self.model.clip_dim

    def __call__(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Embeds a clip by its windows, which touch: their mean, or as the model says.

        Args:
            waveform: float32 [n] or [channels, n], any level; channels are averaged.
            sample_rate: Its rate, Hz; any.

        Returns:
            float32 [clip_dim].

        Raises:
            ValueError: If it is not such a waveform, has no sample, or has samples
                that are infinite or not a number.
        """
        pooling = ClipPooling(self.model.clip_embedding)
        pooling.add(self.windows(waveform, sample_rate)[1])
        return pooling.result()

    def windows(
        self,
        waveform: np.ndarray,
        sample_rate: int,
        hop_seconds: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds a clip window by window.

        The level is the whole clip's. A clip below one window is padded to one by
        silence; what fills no window at the end falls out.

        Args:
            waveform: float32 [n] or [channels, n], any level; channels are averaged.
            sample_rate: Its rate, Hz; any.
            hop_seconds: From one window to the next, rounded to whole frames (10 ms);
                None for windows that touch (0.98 s).

        Returns:
            (starts float64 [W], seconds; embeddings float32 [W, dim]).

        Raises:
            ValueError: See `__call__`; or if the hop is below one frame.
        """
        frontend = self.model.frontend
        hop_frames = hop_to_frames(hop_seconds, frontend)
        found: list[np.ndarray] = []
        blocks = waveform_blocks(waveform, sample_rate)
        with self.clip_windows(blocks, sample_rate) as clip:
            starts = clip.starts(hop_frames)
            batcher = Batcher(
                self.model.embed, lambda _, rows: found.append(rows), self.batch_size
            )
            for windows in clip.windows(hop_frames):
                batcher.add(None, windows)
            batcher.flush()
        seconds = starts * frontend.hop_samples / frontend.sample_rate_hz
        return seconds, np.concatenate(found)

    def clip_windows(
        self, blocks: Iterable[np.ndarray], sample_rate: int
    ) -> ClipWindows:
        """Makes a clip's windows, which nothing has embedded yet.

        Args:
            blocks: The clip, float32 [channels, n] each, as `waveform_blocks` checks
                them.
            sample_rate: Its rate, Hz.

        Returns:
            The finished clip, which the caller closes.
        """
        frontend = self.model.frontend
        clip = ClipWindows(frontend)
        try:
            for block in resample.mono_blocks(
                blocks, sample_rate, frontend.sample_rate_hz
            ):
                clip.add(block)
            clip.finish()
        except BaseException:
            clip.close()
            raise
        return clip


def waveform_blocks(waveform: np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
    """Checks a waveform, and cuts it into blocks of some seconds.

    Args:
        waveform: float32 [n] or [channels, n].
        sample_rate: Its rate, Hz; any.

    Returns:
        float32 [channels, up to 10 s] each.

    Raises:
        ValueError: See `Embedder.__call__`.
    """
    waveform = _check_waveform(waveform)
    if not 0 < sample_rate < math.inf:
        raise ValueError(f"sample_rate is {sample_rate}; it must be above 0 (Hz)")
    size = max(1, int(_BLOCK_SECONDS * sample_rate))
    starts = range(0, waveform.shape[1], size)
    return (waveform[:, first : first + size] for first in starts)


def _check_waveform(waveform: np.ndarray) -> np.ndarray:
    """A user's array as float32 [channels, n]."""
    waveform = np.asarray(waveform)
    shape = list(waveform.shape)
    if waveform.dtype.kind != "f":
        raise ValueError(
            f"the waveform is {waveform.dtype}, not floating point; divide integer "
            "samples by their largest value first"
        )
    if waveform.ndim == 1:
        waveform = waveform[np.newaxis]
    if waveform.ndim != 2:
        raise ValueError(f"the waveform has shape {shape}, not [n] or [channels, n]")
    if not waveform.size:
        raise ValueError("the waveform has no sample")
    if waveform.shape[0] > waveform.shape[1]:
        raise ValueError(
            f"the waveform has shape {shape}: [channels, n] is wanted, transpose it"
        )
    if not np.isfinite(waveform).all():
        raise ValueError("the waveform has samples that are infinite or not a number")
    return waveform.astype(np.float32, copy=False)
