"""Which clips go into which shard, and everything that decides the prepared data."""

import dataclasses
import hashlib
import json
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np

from cola_msa.config.schema import Checked, FrontendConfig
from cola_msa.values.fields import within
from data_prep.datasets.base import Clip, Failure, IndexOptions, text
from data_prep.stems.stream import Chunking

_MIN_CLIPS_PER_SHARD = 8
_SHARDS_PER_SPLIT = 8


@dataclasses.dataclass(frozen=True)
class PrepConfig(Checked):
    """Everything that decides the prepared data, but for the audio itself.

    Attributes:
        dataset: The dataset module's name.
        frontend: What records hold, log-mels or waveforms; holds the level rule.
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
