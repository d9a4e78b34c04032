"""From waveforms to records: level, frames, segments, silence gate."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cola_msa.audio import decode
from cola_msa.audio.clip_windows import frames_function
from cola_msa.audio.frontend import level_scale
from cola_msa.audio.frontend_numpy import finish_frames
from cola_msa.config.schema import FrontendConfig
from cola_msa.records import schema
from cola_msa.records.stored import to_stored
from data_prep.datasets.base import Clip
from data_prep.stems.waveforms import Waveform

if TYPE_CHECKING:
    from data_prep.pipeline.plan import PrepConfig

# Segments of which frames are made at a time: a minute or more.
_GROUP_SEGMENTS = 16


def level_factor(waveform: Waveform, frontend: FrontendConfig) -> float:
    """What a whole waveform is multiplied by, so that its level is the rule's.

    Args:
        waveform: At the front end's rate.
        frontend: FrontendConfig; holds the level rule.

    Returns:
        The factor of `frontend.normalize_level`; 0 for digital silence.
    """
    square_sum = waveform.sum_of_squares()
    return level_scale(square_sum, waveform.num_samples, frontend.level)


def _frames(samples: np.ndarray, factor: float, frontend: FrontendConfig) -> np.ndarray:
    """[frames, num_mels] as records store them, and embedding has before rounding.

    Heads that are trained on records then see the same of a file itself.
    """
    frames = frames_function(frontend)(samples).numpy()
    return to_stored(finish_frames(frames, factor, frontend), frontend)


def stored_log_mel(waveform: np.ndarray, frontend: FrontendConfig) -> np.ndarray:
    """Level and log-mel of a whole clip or stem, as records store it.

    Args:
        waveform: float32 [n], mono, at the front end's rate.
        frontend: FrontendConfig.

    Returns:
        float16 [frames, num_mels].
    """
    factor = level_factor(Waveform(waveform), frontend)
    return _frames(waveform, factor, frontend)


def segment_bounds(num_frames: int, segment_frames: int) -> list[tuple[int, int, bool]]:
    """Cuts a clip into segments.

    Args:
        num_frames: Frames of the clip.
        segment_frames: Frames of a whole segment.

    Returns:
        (first frame, frames, is_tail) of each segment. What follows the last whole
        segment is a tail; a clip without a whole segment is one short segment.
    """
    bounds = []
    for start in range(0, num_frames, segment_frames):
        count = min(segment_frames, num_frames - start)
        bounds.append((start, count, start > 0 and count < segment_frames))
    return bounds


def is_source_active(
    stem: np.ndarray | Waveform, first_frame: int, num_frames: int, config: "PrepConfig"
) -> bool:
    """The silence gate, over exactly the samples under a segment.

    Args:
        stem: float32 [n], raw, mono, at the front end's rate.
        first_frame: The segment's first frame.
        num_frames: The segment's frames.
        config: Hop and threshold are used.

    Returns:
        Whether the mean absolute value reaches the threshold.

    Source: docs/architecture.md; differs: the authors gate over windows that drift.
    """
    hop = config.frontend.hop_samples
    first, last = first_frame * hop, (first_frame + num_frames) * hop
    if isinstance(stem, Waveform):
        # Not beyond the end: zeros there would lower the mean.
        samples = stem.read(first, min(last, stem.num_samples))
    else:
        samples = stem[first:last]
    mean = np.abs(samples).mean(dtype=np.float64)
    return bool(mean >= config.silence_threshold)


def clip_segments(
    clip: Clip,
    mixture: Waveform,
    stems: Mapping[str, Waveform],
    config: "PrepConfig",
) -> Iterator[schema.Segment]:
    """Turns a clip's waveforms into records, some minutes at a time.

    Args:
        clip: The clip.
        mixture: Mono, at the front end's rate; of waveforms it is filled up with zeros
            where it is shorter than one window.
        stems: The same of each source that there is.
        config: PrepConfig.

    Returns:
        The clip's segments, in order; at least one.

    Raises:
        AudioError: If the clip is shorter than one window of log-mels.
    """
    frontend = config.frontend
    decode.check_length(mixture.num_samples, frontend)
    if frontend.num_frames(mixture.num_samples) < frontend.window_frames:
        mixture.fit(round(frontend.window_seconds * frontend.sample_rate_hz))
    return _segments(clip, mixture, stems, config)


def _segments(
    clip: Clip,
    mixture: Waveform,
    stems: Mapping[str, Waveform],
    config: "PrepConfig",
) -> Iterator[schema.Segment]:
    frontend = config.frontend
    num_frames = frontend.num_frames(mixture.num_samples)
    bounds = segment_bounds(num_frames, frontend.segment_frames)
    mixture_factor = level_factor(mixture, frontend)
    factors = {source: level_factor(stem, frontend) for source, stem in stems.items()}
    for first in range(0, len(bounds), _GROUP_SEGMENTS):
        group = bounds[first : first + _GROUP_SEGMENTS]
        active = {
            source: [is_source_active(stem, start, n, config) for start, n, _ in group]
            for source, stem in stems.items()
        }
        mixture_frames = _group_frames(mixture, mixture_factor, group, frontend)
        stem_frames = {
            source: _group_frames(stems[source], factors[source], group, frontend)
            for source, flags in active.items()
            if any(flags)
        }
        for k, (start, count, is_tail) in enumerate(group):
            rows = slice(start - group[0][0], start - group[0][0] + count)
            yield schema.Segment(
                clip_id=clip.clip_id,
                group=clip.group,
                segment=first + k,
                is_tail=is_tail,
                labels=clip.labels,
                mixture=mixture_frames[rows],
                stems={s: stem_frames[s][rows] for s in stems if active[s][k]},
                is_active=tuple(s in stems and active[s][k] for s in config.sources),
                has_stem=tuple(s in stems for s in config.sources),
            )


def _group_frames(
    waveform: Waveform,
    factor: float,
    group: list[tuple[int, int, bool]],
    frontend: FrontendConfig,
) -> np.ndarray:
    """[frames, num_mels] of the frames of some segments, as records store them."""
    first, last = group[0][0], group[-1][0] + group[-1][1] - 1
    samples = waveform.read(
        first * frontend.hop_samples,
        last * frontend.hop_samples + frontend.window_samples,
    )
    return _frames(samples, factor, frontend)
