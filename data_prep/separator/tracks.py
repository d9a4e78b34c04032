"""Training data of a separator: its configuration, tracks and splits. No torch."""

import dataclasses
import pathlib
from collections.abc import Sequence

import soundfile

from cola_msa.config.schema import SOURCES, Checked
from cola_msa.system.errors import UsageError
from cola_msa.values.fields import setting
from data_prep.datasets import multitrack
from data_prep.datasets.base import (
    Clip,
    DatasetError,
    Failure,
    IndexOptions,
    split_groups,
    text,
)

RATE_HZ = 44100
AUGMENTATIONS = ("gain", "channelswap")
_SPLIT_FOLDERS = {
    "train": "train",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# The tracks of MUSDB18's training folder that the musdb package holds out.
MUSDB_VALIDATION = (
    "Actions - One Minute Smile",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave",
    "Triviul - Angelsaint",
    "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants",
    "Leaf - Summerghost",
    "Skelpolu - Human Mistakes",
    "Young Griffo - Pennies",
    "ANiMAL - Rockshow",
    "James May - On The Line",
    "Meaxic - Take A Step",
    "Traffic Experiment - Sirens",
)


@dataclasses.dataclass(frozen=True)
class SeparatorConfig(Checked):
    """How a separator is trained; defaults are those of Open-Unmix's training script.

    Attributes:
        options: Sources, names of their files, shares of the splits, seed.
        hidden_size: Width of the network's bottleneck.
        fft_size: STFT window and FFT length, in samples.
        hop_samples: STFT hop, in samples.
        bandwidth_hz: The network reads no frequencies above this.
        seq_seconds: Length of a training example.
        samples_per_track: Examples that an epoch has for each training track.
        batch_size: Examples of one update.
        learning_rate: Adam's, before the schedule.
        weight_decay: Adam's L2 penalty.
        patience: Epochs without a better validation loss after which training stops.
        lr_decay_patience: Such epochs after which the rate is multiplied by
            lr_decay_gamma.
        lr_decay_gamma: See lr_decay_patience.
        source_augmentations: `gain` (uniform from 0.25 to 1.25) and `channelswap`
            (with probability 1/2), of each source of each example by itself.
        random_track_mix: Whether an example's sources come from different tracks and
            times; otherwise they are one excerpt of one track.
        cache_gb: Decoded stems are kept in memory up to this size; others are read
            chunk by chunk.
    """

    options: IndexOptions = IndexOptions(sources=SOURCES, test_share=0.15)
    hidden_size: int = setting(512, "Width of the network, even.", 2, 1 << 14)
    fft_size: int = setting(
        4096, "STFT window and FFT length, in samples.", 16, 1 << 16, flag="nfft"
    )
    hop_samples: int = setting(1024, "STFT hop, in samples.", 1, 1 << 16, flag="nhop")
    bandwidth_hz: float = setting(
        16000.0, "The network reads no higher frequencies.", 1.0
    )
    seq_seconds: float = setting(6.0, "Length of a training example.", 0.01)
    samples_per_track: int = setting(
        64, "Examples an epoch for each training track.", 1
    )
    batch_size: int = setting(16, "Examples an update.", 1)
    learning_rate: float = setting(1e-3, "Adam's rate.", 1e-12, 10.0)
    weight_decay: float = setting(1e-5, "L2 penalty.", 0.0)
    patience: int = setting(
        140, "Epochs without a better validation loss before training stops.", 1
    )
    lr_decay_patience: int = setting(80, "Such epochs before the rate is lowered.", 0)
    lr_decay_gamma: float = setting(0.3, "Factor that lowers the rate.", 0.0, 1.0)
    source_augmentations: tuple[str, ...] = setting(
        AUGMENTATIONS,
        "Augmentations of single sources: gain, channelswap; empty for none.",
    )
    random_track_mix: bool = setting(
        True, "Mix an example's sources from different tracks and times."
    )
    cache_gb: float = setting(
        1.0, "Most memory for decoded stems; others are read chunk by chunk.", 0.0
    )

    @property
    def seq_samples(self) -> int:
        """Length of a training example, in samples at RATE_HZ."""
        return round(self.seq_seconds * RATE_HZ)


def check_config(config: SeparatorConfig) -> None:
    """Refuses settings that contradict one another.

    Raises:
        UsageError: If so; the message names the flag of train_separator.
    """
    if not set(config.source_augmentations) <= set(AUGMENTATIONS):
        raise UsageError(
            f"--source_augmentations={','.join(config.source_augmentations)}: only "
            f"{', '.join(AUGMENTATIONS)} are known"
        )
    if config.hidden_size % 2:
        raise UsageError(f"--hidden_size={config.hidden_size} must be even")
    if config.hop_samples > config.fft_size:
        raise UsageError("--nhop must not be larger than --nfft")
    if config.seq_samples < config.fft_size:
        raise UsageError(
            f"--seq_seconds={config.seq_seconds} is shorter than one STFT window of "
            f"--nfft={config.fft_size} samples"
        )


@dataclasses.dataclass(frozen=True)
class Track:
    """One song, or an excerpt of one, with all its stems.

    Attributes:
        name: Its folder, relative to the dataset's root.
        split: `train`, `validation` or `test`.
        mixture: Path relative to the root; None: the sum of the stems.
        stems: Path of each source, in the order of the sources.
        seconds: Duration of its shortest stem.
    """

    name: str
    split: str
    mixture: str | None
    stems: tuple[str, ...]
    seconds: float


def list_tracks(
    dataset_dir: pathlib.Path, config: SeparatorConfig
) -> tuple[tuple[Track, ...], tuple[Failure, ...]]:
    """Lists a dataset's tracks.

    Args:
        dataset_dir: One folder a track at any depth (see data_prep.multitrack), or
            MUSDB18-HQ: such folders under `train` and `test` (and `valid`). Without
            `valid` the training tracks that musdb holds out are the validation split;
            where there are none of them, it is drawn, as everything is that has no
            such folders, by song.
        config: Its options and seq_seconds are used.

    Returns:
        The tracks, and what was left out, with reasons: folders without all the
        sources, files that are not audio, tracks shorter than an example.

    Raises:
        DatasetError: If no track is left for training or validation.
    """
    found = multitrack.index(dataset_dir, config.options)
    failures, usable, seconds = list(found.failures), [], {}
    for clip in found.clips:
        try:
            seconds[clip.clip_id] = _usable_seconds(dataset_dir, clip, config)
            usable.append(clip)
        except DatasetError as error:
            name = text(_folder(clip))
            failures.append(Failure(name, name, "", str(error)))
    # Of what can be used alone: a split must not be lost to a short stem.
    splits = _splits(usable, config.options)
    for split in ("train", "validation"):
        if split not in splits.values():
            reasons = "".join(f"; {f.path}: {f.reason}" for f in failures[:3])
            raise DatasetError(
                f"{dataset_dir}: no track for the {split} split; {len(usable)} of "
                f"{len(found.clips)} folders of stems can be used{reasons}"
            )
    tracks = []
    for clip in usable:
        paths = dict(clip.stem_paths)
        tracks.append(
            Track(
                name=text(_folder(clip)),
                split=splits[clip.clip_id],
                mixture=None if clip.is_sum else clip.path,
                stems=tuple(paths[source] for source in config.options.sources),
                seconds=seconds[clip.clip_id],
            )
        )
    return tuple(tracks), tuple(failures)


def _folder(clip: Clip) -> str:
    return pathlib.PurePosixPath(clip.stem_paths[0][1]).parent.as_posix()


def _splits(clips: Sequence[Clip], options: IndexOptions) -> dict[str, str]:
    """Split by clip id."""
    folders = {c.clip_id: pathlib.PurePosixPath(_folder(c)).parts for c in clips}
    tops = {parts[0] if parts else "" for parts in folders.values()}
    if "train" not in tops or not tops <= _SPLIT_FOLDERS.keys():
        return _draw_splits(clips, options)
    splits = {name: _SPLIT_FOLDERS[parts[0]] for name, parts in folders.items()}
    if "validation" in splits.values():
        return splits
    train = [clip for clip in clips if splits[clip.clip_id] == "train"]
    names = [c.clip_id for c in train if folders[c.clip_id][-1] in MUSDB_VALIDATION]
    if names:
        return splits | dict.fromkeys(names, "validation")
    options = dataclasses.replace(options, test_share=0.0)
    return splits | _draw_splits(train, options)


def _draw_splits(clips: Sequence[Clip], options: IndexOptions) -> dict[str, str]:
    """Split by clip id; whole songs go to one split."""
    groups = {clip.clip_id: clip.group for clip in clips}
    drawn = split_groups(groups.values(), options)
    return {name: drawn[group] for name, group in groups.items()}


def _usable_seconds(
    dataset_dir: pathlib.Path, clip: Clip, config: SeparatorConfig
) -> float:
    """Duration of a clip's shortest stem.

    Raises:
        DatasetError: If the clip cannot be used; the message is the reason.
    """
    paths = dict(clip.stem_paths)
    lacking = [source for source in config.options.sources if source not in paths]
    if lacking:
        raise DatasetError(f"lacks the stem {', '.join(lacking)}")
    seconds = min(_seconds(dataset_dir / path) for path in paths.values())
    if seconds < config.seq_seconds:
        raise DatasetError(
            f"its shortest stem of {seconds:.2f} s is shorter than an example of "
            f"{config.seq_seconds} s"
        )
    return seconds


def _seconds(path: pathlib.Path) -> float:
    try:
        with (
            open(path, "rb") as file,
            soundfile.SoundFile(file.fileno(), closefd=False) as sound,
        ):
            return sound.frames / sound.samplerate
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path.name} is not readable as audio") from error
