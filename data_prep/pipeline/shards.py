"""From clips to shards: configuration, plan, and one shard as the unit of work."""

import dataclasses
import hashlib
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.audio import decode
from cola_msa.config.schema import ConfigError, FrontendConfig, config_hash
from cola_msa.records import index, schema
from cola_msa.system.files import write_bytes
from cola_msa.values.fields import check_fields, within
from cola_msa.values.reading import read_json
from data_prep.datasets.base import Clip, Failure, IndexOptions, text
from data_prep.pipeline.segments import clip_segments
from data_prep.remote.inputs import Inputs
from data_prep.stems import separator as separator_lib
from data_prep.stems import waveforms
from data_prep.stems.stream import Chunking

OnClip = Callable[[bool, float], None]
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
        separator_dtype: `float32` or `bfloat16`: type of the separator's products.
        chunking: How the separator cuts long clips.
        clips_per_shard: Most clips in a shard; 0: about eight shards a split, of 8 to
            max_clips_per_shard clips.
        max_clips_per_shard: See clips_per_shard.
        options: What was chosen about the dataset; its seed also orders the clips
            and draws the random separator's weights.
    """

    dataset: str = ""
    frontend: FrontendConfig = FrontendConfig()
    silence_threshold: float = within(0.01, 0.0)
    sources: tuple[str, ...] = ()
    stems: str = "none"
    stems_dir: str | None = None
    separator: str | None = None
    niter: int = within(1, 0)
    separator_dtype: str = "float32"
    chunking: Chunking = Chunking()
    clips_per_shard: int = within(0, 0)
    max_clips_per_shard: int = within(64, 1)
    options: IndexOptions = IndexOptions()

    def __post_init__(self) -> None:
        """Refuses what cannot be meant, by ConfigError."""
        check_fields(self, ConfigError)


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
            reason = f"its clip id is also {text(first.path)}'s"
            failures.append(Failure(clip.clip_id, text(clip.path), clip.split, reason))
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


def sidecar_path(shard_path: pathlib.Path) -> pathlib.Path:
    """`x.tfrecord` -> `x.json`, which holds what the shard itself does not."""
    return shard_path.with_suffix(".json")


def read_sidecar(
    shard_path: pathlib.Path, error: type[Exception], advice: str
) -> dict[str, Any]:
    """Reads a shard's sidecar, and checks whatever is used of it.

    Args:
        shard_path: The shard.
        error: Class of what is raised.
        advice: What to do.

    Raises:
        FileError: If it is missing or damaged, or `error`.
    """
    return read_json(sidecar_path(shard_path), error, advice, check=_checked_sidecar)


def _checked_sidecar(content: dict[str, Any]) -> dict[str, Any]:
    def require(condition: bool, name: str) -> None:
        if not condition:
            raise ValueError(f"{name} is missing or of another kind")

    def is_number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) < 1e300

    for name in ("shard", "config_hash", "plan_hash"):
        require(isinstance(content.get(name), str), name)
    for name in ("weights_sha256", "sha256", "index_sha256"):
        require(isinstance(content.get(name), str | None), name)
    clips, failures = content.get("clips"), content.get("failures")
    require(isinstance(clips, list) and all(isinstance(c, str) for c in clips), "clips")
    require(
        isinstance(failures, list)
        and all(
            isinstance(failure, dict)
            and {"clip_id", "path", "split", "reason"} <= failure.keys()
            and all(isinstance(value, str | None) for value in failure.values())
            for failure in failures
        ),
        "failures",
    )
    require(is_number(content.get("seconds")), "seconds")
    moments = content.get("log_mel")
    require(
        isinstance(moments, dict)
        and {"count", "sum", "sum_of_squares"} <= moments.keys()
        and all(map(is_number, moments.values())),
        "log_mel",
    )
    correlations = content.get("stem_correlation", {})
    require(
        isinstance(correlations, dict)
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair))
            for pair in correlations.values()
        ),
        "stem_correlation",
    )
    return content


def build_shard(
    shard: Shard,
    plan_hash: str,
    config: PrepConfig,
    source: Inputs,
    output_dir: pathlib.Path,
    separator: separator_lib.Separator | None = None,
    on_clip: OnClip = lambda has_failed, seconds: None,
) -> dict[str, Any]:
    """Decodes a shard's clips and writes shard, index and sidecar.

    Args:
        shard: The clips and the shard's name.
        plan_hash: Goes into the sidecar.
        config: PrepConfig.
        source: Where clips' files come from.
        output_dir: Where shards go.
        separator: A loaded separator, where stems come from one.
        on_clip: Called after every clip with whether it failed, and its seconds.

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

    def segments() -> Iterator[schema.Segment]:
        for clip in shard.clips:
            seconds = sidecar["seconds"]
            try:
                with source.files_of(clip, config.sources) as root:
                    found = _clip_records(clip, config, root, separator, sidecar)
            except decode.AudioError as error:
                source.check_presence(error)
                failure = Failure(clip.clip_id, text(clip.path), clip.split, str(error))
                sidecar["failures"].append(dataclasses.asdict(failure))
                on_clip(True, 0.0)
                continue
            yield from found
            on_clip(False, sidecar["seconds"] - seconds)

    def write_sidecar(digests: dict[str, str]) -> None:
        # Before the shard takes its name: a finished shard has its sidecar.
        sidecar.update(digests)
        text = json.dumps(sidecar, indent=1)
        write_bytes(sidecar_path(path), text.encode())

    frontend_hash = config_hash(config.frontend)
    index.write_shard(path, segments(), config.sources, frontend_hash, write_sidecar)
    return sidecar


def _clip_records(
    clip: Clip,
    config: PrepConfig,
    dataset_dir: pathlib.Path,
    separator: separator_lib.Separator | None,
    sidecar: dict[str, Any],
) -> Iterator[schema.Segment]:
    """A clip's records; what is wrong with its audio is raised before the first."""
    mixture, stems = separator_lib.load_clip(
        clip, config.sources, config.frontend, dataset_dir, config.stems_dir, separator
    )
    found = clip_segments(clip, mixture, stems, config)
    sidecar["seconds"] += mixture.num_samples / config.frontend.sample_rate_hz
    if separator:
        for source, stem in stems.items():
            value = waveforms.correlation(stem, mixture)
            if value is not None:
                sidecar["stem_correlation"][source][0] += value
                sidecar["stem_correlation"][source][1] += 1
    return _counted(found, sidecar["log_mel"], (mixture, *stems.values()))


def _counted(
    found: Iterator[schema.Segment],
    moments: dict[str, Any],
    used: Sequence[waveforms.Waveform],
) -> Iterator[schema.Segment]:
    for segment in found:
        values = segment.mixture.astype(np.float64)
        moments["count"] += values.size
        moments["sum"] += float(values.sum())
        # Not a dot product: BLAS' result may depend on its number of threads.
        moments["sum_of_squares"] += float(np.square(values).sum())
        yield segment
    for waveform in used:
        waveform.close()
