"""What a separator's network sees: chunks of stems, mixed anew. No torch here."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile

from cola_msa.audio import decode, errors, resample
from data_prep.separator.tracks import RATE_HZ, SeparatorConfig, Track

NUM_CHANNELS = 2
LOWEST_GAIN, HIGHEST_GAIN = 0.25, 1.25


def to_stereo(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Two channels at RATE_HZ: mono is doubled, further channels are dropped.

    Args:
        samples: float32 [channels, n].
        rate_hz: Rate of `samples`.

    Returns:
        float32 [2, m].

    Source: Open-Unmix's `force_stereo`.
    """
    if len(samples) == 1:
        samples = np.repeat(samples, NUM_CHANNELS, axis=0)
    return resample.resample(samples[:NUM_CHANNELS], rate_hz, RATE_HZ)


def read_whole(path: pathlib.Path) -> np.ndarray:
    """A file's audio, float32 [2, n] at RATE_HZ.

    Raises:
        AudioError: With the file's name.
    """
    try:
        decoded = decode.decode(path)
    except errors.AudioError as error:
        raise type(error)(f"{path}: {error}") from error
    return to_stereo(decoded.samples, decoded.rate_hz)


def read_chunk(path: pathlib.Path, start: int, num_samples: int) -> np.ndarray:
    """An excerpt, read without decoding what lies before it.

    Args:
        path: Anything that libsndfile reads.
        start: First sample, counted at RATE_HZ.
        num_samples: Samples wanted, at RATE_HZ.

    Returns:
        float32 [2, num_samples]; zeros follow where the file ends before.

    Raises:
        AudioError: With the file's name.
    """
    try:
        with (
            open(path, "rb") as file,
            soundfile.SoundFile(file.fileno(), closefd=False) as sound,
        ):
            rate_hz = sound.samplerate
            sound.seek(min(start * rate_hz // RATE_HZ, sound.frames))
            count = -(-num_samples * rate_hz // RATE_HZ)
            samples = sound.read(count, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise errors.UnreadableError(f"{path}: cannot be read: {error}") from error
    if not np.isfinite(samples).all():
        raise errors.NonFiniteError(f"{path}: has samples that are not finite")
    if not len(samples):
        return np.zeros((NUM_CHANNELS, num_samples), np.float32)
    return _fit(to_stereo(np.ascontiguousarray(samples.T), rate_hz), num_samples)


def _fit(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Trims, or pads with zeros, [2, n] to num_samples."""
    missing = num_samples - samples.shape[1]
    return np.pad(samples, ((0, 0), (0, max(0, missing))))[:, :num_samples]


class StemReader:
    """Reads chunks of the training tracks' stems, and whole tracks."""

    def __init__(
        self, dataset_dir: pathlib.Path, tracks: Sequence[Track], cache_gb: float
    ):
        """Decides which stems will be kept in memory.

        Args:
            dataset_dir: The dataset's root.
            tracks: Training tracks; those that come first are kept.
            cache_gb: Most memory for them.
        """
        self._dataset_dir = dataset_dir
        self._kept: dict[str, np.ndarray | None] = {}
        left = cache_gb * 1e9
        # By the list, not by use: a resumed run must keep the same ones, since an
        # excerpt that is resampled by itself differs at its ends.
        for track in tracks:
            left -= len(track.stems) * track.seconds * RATE_HZ * NUM_CHANNELS * 4
            if left < 0:
                break
            self._kept.update(dict.fromkeys(track.stems))

    def chunk(self, path: str, start: int, num_samples: int) -> np.ndarray:
        """float32 [2, num_samples] from sample `start` of a stem; see `read_chunk`."""
        if path not in self._kept:
            return read_chunk(self._dataset_dir / path, start, num_samples)
        stem = self._kept[path]
        if stem is None:
            stem = self._kept[path] = read_whole(self._dataset_dir / path)
        return _fit(stem[:, start : start + num_samples], num_samples)

    def whole(
        self, track: Track, sources: Sequence[int] = ()
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Reads a whole track.

        Args:
            track: Track.
            sources: Numbers of the sources whose stems are wanted.

        Returns:
            The mixture, float32 [2, n], and the stems that are wanted; all are as
            long as the shortest of them.

        Raises:
            AudioError: With the file's name.
        """
        is_sum = track.mixture is None
        needed = range(len(track.stems)) if is_sum else sources
        parts = {s: read_whole(self._dataset_dir / track.stems[s]) for s in needed}
        num_samples = min(
            [part.shape[1] for part in parts.values()], default=np.iinfo(int).max
        )
        if track.mixture is None:
            mixture = np.sum([part[:, :num_samples] for part in parts.values()], axis=0)
        else:
            mixture = read_whole(self._dataset_dir / track.mixture)[:, :num_samples]
        length = mixture.shape[1]
        return mixture, [parts[s][:, :length] for s in sources]


@dataclasses.dataclass(frozen=True)
class Draws:
    """What the examples of an epoch are made of; arrays [examples, sources].

    Attributes:
        track: Number of the training track that a source comes from.
        start: First sample of its chunk, at RATE_HZ.
        gain: Factor.
        is_swapped: Whether left and right change places.
    """

    track: np.ndarray
    start: np.ndarray
    gain: np.ndarray
    is_swapped: np.ndarray


def draw_epoch(
    seconds: Sequence[float], config: SeparatorConfig, seed: Sequence[int]
) -> Draws:
    """Draws an epoch's examples.

    Args:
        seconds: Duration of each training track.
        config: SeparatorConfig.
        seed: Stands for everything that the draws depend on.

    Returns:
        Draws of samples_per_track examples for each track.

    Source: Open-Unmix's MUSDBDataset; differs: without random_track_mix all sources
        are one excerpt, where MUSDBDataset draws the start of each.
    """
    random = np.random.default_rng(list(seed))
    shape = (len(seconds) * config.samples_per_track, len(config.options.sources))
    if config.random_track_mix:
        track = random.integers(len(seconds), size=shape)
        share = random.random(shape)
    else:
        order = random.permutation(shape[0]) // config.samples_per_track
        track = np.repeat(order[:, np.newaxis], shape[1], axis=1)
        share = np.repeat(random.random((shape[0], 1)), shape[1], axis=1)
    last = np.asarray(seconds)[track] * RATE_HZ - config.seq_samples
    gain = np.ones(shape)
    if "gain" in config.source_augmentations:
        gain = random.uniform(LOWEST_GAIN, HIGHEST_GAIN, shape)
    is_swapped = np.zeros(shape, bool)
    if "channelswap" in config.source_augmentations:
        is_swapped = random.random(shape) < 0.5
    start = np.floor(share * np.maximum(last, 0)).astype(np.int64)
    return Draws(track, start, gain.astype(np.float32), is_swapped)


def batches(
    reader: StemReader,
    tracks: Sequence[Track],
    draws: Draws,
    target: int,
    config: SeparatorConfig,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Reads an epoch's batches.

    Args:
        reader: StemReader.
        tracks: The training tracks.
        draws: Draws.
        target: Number of the source to be separated.
        config: SeparatorConfig.

    Yields:
        Mixtures and targets, float32 [batch, 2, seq_samples]; the last may be smaller.
    """
    for first in range(0, len(draws.track), config.batch_size):
        examples = range(first, min(first + config.batch_size, len(draws.track)))
        parts = [
            [
                reader.chunk(
                    tracks[draws.track[k, s]].stems[s],
                    int(draws.start[k, s]),
                    config.seq_samples,
                )[:: -1 if draws.is_swapped[k, s] else 1]
                * draws.gain[k, s]
                for s in range(draws.track.shape[1])
            ]
            for k in examples
        ]
        yield (
            np.stack([np.sum(stems, axis=0) for stems in parts]),
            np.stack([stems[target] for stems in parts]),
        )
