"""From clips to shards: configuration, plan, and one shard as the unit of work."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa import audio, record_index, records
from cola_msa import frontend as frontend_lib
from cola_msa.config import FrontendConfig, config_hash
from data_prep import separation
from data_prep.clips import Clip, Failure, IndexOptions

_MIN_CLIPS_PER_SHARD = 8
_SHARDS_PER_SPLIT = 8


@dataclasses.dataclass(frozen=True)
class PrepConfig:
    """Everything that decides the prepared data, but for the audio itself.

    Attributes:
        dataset: The dataset module's name.
        frontend: Waveform to log-mel; holds the level rule.
        silence_threshold: A source is silent in a segment where the mean absolute
            value of its raw stem is below this.
        sources: Sources in order; () for mixtures alone.
        stems: `none`, `folder`, `stems_dir` or `separator`.
        stems_dir: Folder of stems, relative to the dataset's root.
        separator: `umxhq`, `umxl`, `random`, or a folder relative to the dataset's
            root.
        niter: Iterations of the separator's Wiener filter.
        clips_per_shard: Most clips in a shard; 0: about eight shards a split, of 8 to
            max_clips_per_shard clips.
        max_clips_per_shard: See clips_per_shard.
        options: What was chosen about the dataset; its seed also orders the clips
            and draws the random separator's weights.
    """

    dataset: str = ""
    frontend: FrontendConfig = FrontendConfig()
    silence_threshold: float = 0.01
    sources: tuple[str, ...] = ()
    stems: str = "none"
    stems_dir: str | None = None
    separator: str | None = None
    niter: int = 1
    clips_per_shard: int = 0
    max_clips_per_shard: int = 64
    options: IndexOptions = IndexOptions()


@dataclasses.dataclass(frozen=True)
class Shard:
    """One unit of work: `<split>-00000-of-00004.tfrecord` and its clips, in order."""

    name: str
    split: str
    clips: tuple[Clip, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All shards of a dataset; `hash` stands for every clip and its place."""

    shards: tuple[Shard, ...]
    failures: tuple[Failure, ...]
    hash: str


def make_plan(clips: Sequence[Clip], config: PrepConfig) -> Plan:
    """Assigns clips to shards, in a seeded order that mixes folders.

    Args:
        clips: The dataset's clips, in any order.
        config: `clips_per_shard`, `max_clips_per_shard` and the seed are used.

    Returns:
        The plan; of clips with one id all but the first by path are failures.
    """
    unique: dict[str, Clip] = {}
    failures = []
    for clip in sorted(clips, key=lambda c: (c.clip_id, c.path)):
        first = unique.setdefault(clip.clip_id, clip)
        if first is not clip:
            reason = f"its clip id is also {first.path}'s"
            failures.append(Failure(clip.clip_id, clip.path, clip.split, reason))
    by_split: dict[str, list[Clip]] = {}
    for clip in unique.values():
        by_split.setdefault(clip.split, []).append(clip)
    shards = []
    for split in sorted(by_split, key=_split_order):
        members = by_split[split]
        # crc32, not hash(): the same in every process.
        seed = [config.options.seed, zlib.crc32(split.encode())]
        order = np.random.default_rng(seed).permutation(len(members))
        parts = np.array_split(order, _num_shards(len(members), config))
        for number, part in enumerate(parts):
            name = f"{split}-{number:05d}-of-{len(parts):05d}.tfrecord"
            shards.append(Shard(name, split, tuple(members[k] for k in part)))
    content = json.dumps([dataclasses.asdict(shard) for shard in shards])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Plan(tuple(shards), tuple(failures), digest)


def _split_order(split: str) -> tuple[bool, int]:
    names = ("train", "validation", "test")
    base = split.removesuffix("_extra")
    return split != base, names.index(base) if base in names else len(names)


def _num_shards(num_clips: int, config: PrepConfig) -> int:
    size = config.clips_per_shard
    if not size:
        size = -(-num_clips // _SHARDS_PER_SPLIT)
        size = min(max(size, _MIN_CLIPS_PER_SHARD), config.max_clips_per_shard)
    return -(-num_clips // size)


@functools.lru_cache(maxsize=4)
def _log_mel_function(frontend: FrontendConfig) -> Callable[..., tf.Tensor]:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def level_and_log_mel(waveform: tf.Tensor) -> tf.Tensor:
        leveled = frontend_lib.normalize_level(waveform, frontend.level)
        return frontend_lib.log_mel(leveled, frontend)

    return level_and_log_mel


def stored_log_mel(waveform: np.ndarray, frontend: FrontendConfig) -> np.ndarray:
    """Level and log-mel of a whole clip or stem, as records store it.

    Args:
        waveform: float32 [n], mono, at the front end's rate.
        frontend: FrontendConfig.

    Returns:
        float16 [frames, num_mels].
    """
    return _log_mel_function(frontend)(waveform).numpy().astype(np.float16)


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
    stem: np.ndarray, first_frame: int, num_frames: int, config: PrepConfig
) -> bool:
    """The silence gate, over exactly the samples under a segment.

    Args:
        stem: float32 [n], raw, mono, at the front end's rate.
        first_frame: The segment's first frame.
        num_frames: The segment's frames.
        config: Hop and threshold are used.

    Returns:
        Whether the mean absolute value reaches the threshold.

    Source: DESIGN section 5; differs: the authors gate over windows that drift.
    """
    hop = config.frontend.hop_samples
    samples = stem[first_frame * hop : (first_frame + num_frames) * hop]
    mean = np.abs(samples).mean(dtype=np.float64)
    return bool(mean >= config.silence_threshold)


def clip_segments(
    clip: Clip, mixture: np.ndarray, stems: dict[str, np.ndarray], config: PrepConfig
) -> list[records.Segment]:
    """Turns a clip's waveforms into records.

    Args:
        clip: The clip.
        mixture: float32 [n], mono, at the front end's rate.
        stems: The same of each source that there is.
        config: PrepConfig.

    Returns:
        The clip's segments, in order; at least one.

    Raises:
        AudioError: If the clip is shorter than one window.
    """
    audio.check_length(mixture, config.frontend)
    mixture_mel = stored_log_mel(mixture, config.frontend)
    bounds = segment_bounds(len(mixture_mel), config.frontend.segment_frames)
    active = {
        source: [is_source_active(stem, start, n, config) for start, n, _ in bounds]
        for source, stem in stems.items()
    }
    stem_mels = {
        source: stored_log_mel(stems[source], config.frontend)
        for source, flags in active.items()
        if any(flags)
    }
    return [
        records.Segment(
            clip_id=clip.clip_id,
            group=clip.group,
            segment=k,
            is_tail=is_tail,
            labels=clip.labels,
            mixture=mixture_mel[start : start + count],
            stems={
                s: stem_mels[s][start : start + count] for s in stems if active[s][k]
            },
            is_active=tuple(s in stems and active[s][k] for s in config.sources),
            has_stem=tuple(s in stems for s in config.sources),
        )
        for k, (start, count, is_tail) in enumerate(bounds)
    ]


def sidecar_path(shard_path: pathlib.Path) -> pathlib.Path:
    """`x.tfrecord` -> `x.json`, which holds what the shard itself does not."""
    return shard_path.with_suffix(".json")


def build_shard(
    shard: Shard,
    plan_hash: str,
    config: PrepConfig,
    dataset_dir: pathlib.Path,
    output_dir: pathlib.Path,
    separator: separation.Separator | None = None,
    on_clip: Callable[[bool], None] = lambda has_failed: None,
) -> dict[str, Any]:
    """Decodes a shard's clips and writes shard, index and sidecar.

    Args:
        shard: The clips and the shard's name.
        plan_hash: Goes into the sidecar.
        config: PrepConfig.
        dataset_dir: The dataset's root.
        output_dir: Where shards go.
        separator: A loaded separator, where stems come from one.
        on_clip: Called after every clip with whether it failed.

    Returns:
        The sidecar: hashes of configuration, plan, shard and index, clips, failures,
        seconds, sums over the log-mels, correlations of stems with their mixtures.

    Raises:
        OSError: If writing fails; what was finished before stays intact.
    """
    path = output_dir / shard.name
    sidecar: dict[str, Any] = {
        "shard": shard.name,
        "config_hash": config_hash(config),
        "plan_hash": plan_hash,
        "clips": [clip.clip_id for clip in shard.clips],
        "failures": [],
        "seconds": 0.0,
        "log_mel": {"count": 0, "sum": 0.0, "sum_of_squares": 0.0},
        "stem_correlation": {source: [0.0, 0] for source in config.sources},
        "weights_sha256": separator.weights_sha256 if separator else None,
    }

    def segments() -> Iterator[records.Segment]:
        for clip in shard.clips:
            try:
                found = _clip_records(clip, config, dataset_dir, separator, sidecar)
            except audio.AudioError as error:
                if not dataset_dir.is_dir():
                    # An unmounted disk is no reason to give up on every clip.
                    raise FileNotFoundError(f"{dataset_dir} has vanished") from error
                failure = Failure(clip.clip_id, clip.path, clip.split, str(error))
                sidecar["failures"].append(dataclasses.asdict(failure))
                on_clip(True)
                continue
            yield from found
            on_clip(False)

    def write_sidecar(digests: dict[str, str]) -> None:
        # Before the shard takes its name: a finished shard has its sidecar.
        sidecar.update(digests)
        _write_json(sidecar_path(path), sidecar)

    frontend_hash = config_hash(config.frontend)
    record_index.write_shard(
        path, segments(), config.sources, frontend_hash, write_sidecar
    )
    return sidecar


def _clip_records(
    clip: Clip,
    config: PrepConfig,
    dataset_dir: pathlib.Path,
    separator: separation.Separator | None,
    sidecar: dict[str, Any],
) -> list[records.Segment]:
    mixture, stems = separation.load_clip(
        clip, config.sources, config.frontend, dataset_dir, config.stems_dir, separator
    )
    found = clip_segments(clip, mixture, stems, config)
    sidecar["seconds"] += len(mixture) / config.frontend.sample_rate_hz
    for segment in found:
        values = segment.mixture.astype(np.float64)
        sidecar["log_mel"]["count"] += values.size
        sidecar["log_mel"]["sum"] += float(values.sum())
        # Not a dot product: BLAS' result may depend on its number of threads.
        sidecar["log_mel"]["sum_of_squares"] += float(np.square(values).sum())
    if separator:
        for source, stem in stems.items():
            value = separation.correlation(stem, mixture)
            if value is not None:
                sidecar["stem_correlation"][source][0] += value
                sidecar["stem_correlation"][source][1] += 1
    return found


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
