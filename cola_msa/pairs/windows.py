"""Reads the windows of drawn pairs from prepared data."""

import numpy as np

from cola_msa.pairs.draws import COLA, Draw
from cola_msa.records.index import Index
from cola_msa.records.prepared import PreparedData

STEM_KEYS = ("stems", "stem_is_active")


def read_pairs(
    data: PreparedData,
    split: str,
    index: Index,
    draw: Draw,
    silent_value: float,
) -> dict[str, np.ndarray]:
    """Reads a draw's anchors and positives.

    Args:
        data: The prepared data.
        split: The split that the draw is of.
        index: Its index.
        draw: B pairs.
        silent_value: What a silent source's window is filled with.

    Returns:
        `anchor` and `positive` float16 [B, window_frames, num_mels, 1], `is_active`
        bool [B], `source` int32 [B].
    """
    window_frames, num_mels = data.frontend.window_frames, data.frontend.num_mels
    shape = (len(draw.rows), window_frames, num_mels)
    anchor = np.empty(shape, np.float16)
    positive = np.empty(shape, np.float16)
    is_active = np.ones(len(draw.rows), bool)
    frame_bytes = num_mels * 2
    positive_rows = draw.rows if draw.positive_rows is None else draw.positive_rows
    for i, row in enumerate(draw.rows):
        anchor[i] = data.read(
            split,
            index.shard[row],
            index.mixture_offset[row] + draw.anchor_start[i] * frame_bytes,
            window_frames,
        )
        row = positive_rows[i]
        offset = index.mixture_offset[row]
        if draw.source[i] != COLA:
            is_active[i] = index.is_active[row, draw.source[i]]
            offset = index.stem_offset[row, draw.source[i]]
        if is_active[i]:
            positive[i] = data.read(
                split,
                index.shard[row],
                offset + draw.positive_start[i] * frame_bytes,
                window_frames,
            )
        else:
            positive[i] = silent_value
    return {
        "anchor": anchor[..., np.newaxis],
        "positive": positive[..., np.newaxis],
        "is_active": is_active,
        "source": draw.source,
    }


def read_stems(
    data: PreparedData, split: str, index: Index, draw: Draw
) -> dict[str, np.ndarray]:
    """Reads all stems of a draw's anchor windows.

    Args:
        data: The prepared data.
        split: The split that the draw is of.
        index: Its index.
        draw: B pairs.

    Returns:
        `stems` float16 [B, sources, window_frames, num_mels], the log-mel floor where
        a stem is silent or missing; `stem_is_active` bool [B, sources].
    """
    window_frames, num_mels = data.frontend.window_frames, data.frontend.num_mels
    is_active = index.is_active[draw.rows]
    stems = np.full(
        (*is_active.shape, window_frames, num_mels),
        np.log(data.frontend.log_floor),
        np.float16,
    )
    for i, k in np.argwhere(is_active):
        row = draw.rows[i]
        stems[i, k] = data.read(
            split,
            index.shard[row],
            index.stem_offset[row, k] + draw.anchor_start[i] * num_mels * 2,
            window_frames,
        )
    return {"stems": stems, "stem_is_active": is_active}
