"""Decoding and resampling; whatever is wrong with a file is a typed error."""

import dataclasses
import os
import pathlib

import numpy as np
import soundfile
import soxr

from cola_msa.config import FrontendConfig
from data_prep import containers

AUDIO_SUFFIXES = frozenset(
    ".aif .aiff .au .caf .flac .m4a .mp3 .oga .ogg .opus .w64 .wav".split()
)
# Encoders pad and trim: MPEG-2 layer III by up to 0.13 s at 16 kHz.
_DURATION_TOLERANCE_SECONDS = 0.2


class AudioError(Exception):
    """A file that cannot be prepared; its message is a reason in one line."""


class MissingError(AudioError):
    """The file does not exist or is not a file."""


class EmptyError(AudioError):
    """The file has no bytes, or no samples."""


class UnreadableError(AudioError):
    """The file is no audio that can be decoded."""


class TruncatedError(AudioError):
    """The file ends before its audio does."""


class TooShortError(AudioError):
    """The audio is shorter than one window of the encoder."""


class NonFiniteError(AudioError):
    """The audio has samples that are infinite or not a number."""


class StemError(AudioError):
    """A stem that does not fit its mixture, or none where stems are wanted."""


@dataclasses.dataclass(frozen=True)
class Audio:
    """Decoded audio: `samples` float32 [channels, n], `rate_hz` samples a second."""

    samples: np.ndarray
    rate_hz: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples.shape[1] / self.rate_hz


def decode(path: str | os.PathLike, expected_seconds: float | None = None) -> Audio:
    """Reads a whole file.

    Args:
        path: Anything that libsndfile reads.
        expected_seconds: Duration by the dataset's metadata; None where unknown.

    Returns:
        The file's audio at its own rate.

    Raises:
        AudioError: One of its subclasses, with the reason.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise MissingError(
            "the file does not exist" if not path.exists() else "not a regular file"
        )
    try:
        if path.stat().st_size == 0:
            raise EmptyError("the file is empty (0 bytes)")
        # An open file rather than its name: libsndfile cannot take every file name.
        with (
            open(path, "rb") as file,
            soundfile.SoundFile(file.fileno(), closefd=False) as sound,
        ):
            promised, rate_hz, kind = sound.frames, sound.samplerate, sound.format
            samples = sound.read(dtype="float32", always_2d=True)
        reason = containers.cut_reason(path, kind)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise UnreadableError(f"not readable as audio: {reason}") from error
    if reason:
        raise TruncatedError(f"truncated: {reason}")
    audio = Audio(np.ascontiguousarray(samples.T), rate_hz)
    if not len(samples):
        raise EmptyError("the file has no samples")
    # For MP3 libsndfile estimates the length from the first frame's bit rate.
    promised_seconds = None if kind == "MP3" else promised / rate_hz
    _check_seconds(audio.seconds, promised_seconds, "in its header")
    _check_seconds(audio.seconds, expected_seconds, "in the dataset's metadata")
    # The sum is quick and finite only if all samples are (unless it overflows).
    if not np.isfinite(samples.sum()) and not np.isfinite(samples).all():
        raise NonFiniteError("has samples that are infinite or not a number")
    return audio


def _check_seconds(seconds: float, expected: float | None, where: str) -> None:
    if expected is not None and seconds < expected - _DURATION_TOLERANCE_SECONDS:
        raise TruncatedError(
            f"truncated: {seconds:.2f} s decoded of {expected:.2f} s {where}"
        )


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Changes the sampling rate.

    Args:
        samples: float32 [n] or [channels, n].
        from_hz: Rate of `samples`.
        to_hz: Wanted rate.

    Returns:
        float32 [m] or [channels, m], m about n * to_hz / from_hz.
    """
    if from_hz == to_hz:
        return samples
    # soxr wants time first.
    return np.ascontiguousarray(soxr.resample(samples.T, from_hz, to_hz).T)


def to_mono(audio: Audio, rate_hz: int) -> np.ndarray:
    """The mean of the channels at `rate_hz`, float32 [n]."""
    mono = audio.samples[0]
    if len(audio.samples) > 1:
        mono = audio.samples.mean(axis=0, dtype=np.float32)
    return resample(mono, audio.rate_hz, rate_hz)


def check_length(samples: np.ndarray, frontend: FrontendConfig) -> None:
    """Refuses what is shorter than one window of the encoder.

    Args:
        samples: float32 [n] at the front end's rate.
        frontend: FrontendConfig.

    Raises:
        TooShortError: If it is.
    """
    if frontend.num_frames(len(samples)) < frontend.window_frames:
        seconds = len(samples) / frontend.sample_rate_hz
        needed = (
            frontend.window_samples
            + (frontend.window_frames - 1) * frontend.hop_samples
        ) / frontend.sample_rate_hz
        raise TooShortError(f"too short: {seconds:.2f} s, below {needed:.3f} s")


def find_audio(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The audio file `<folder>/<name>.<any audio suffix>`, the first by name."""
    try:
        entries = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return None
    for entry in entries:
        stem, suffix = os.path.splitext(entry)
        if stem == name and suffix.lower() in AUDIO_SUFFIXES:
            return folder / entry
    return None
