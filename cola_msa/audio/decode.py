"""Decoding; whatever is wrong with a file is a typed error.

`AudioReader` reads files of any length in blocks, `decode` reads them whole.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import soundfile

from cola_msa.audio import ffmpeg, sndfile
from cola_msa.audio.containers import check
from cola_msa.audio.errors import (
    AudioError,
    EmptyError,
    MissingError,
    NonFiniteError,
    TooShortError,
    TruncatedError,
    UnreadableError,
    refused,
)
from cola_msa.config.schema import FrontendConfig

BLOCK_FRAMES = 1 << 16
# Outside of these a header is damaged, or made to fill memory: one second of sound at
# 1 Hz is 16,000 at 16 kHz.
MIN_RATE_HZ, MAX_RATE_HZ = 1000, 1_536_000
MAX_CHANNELS = 256
# Floats that were scaled as 32 bit integers reach 2^31; what is far beyond is no sound,
# and its power no float32.
MAX_SAMPLE = 1e12
# Encoders pad and trim: MPEG-2 layer III by up to 0.13 s at 16 kHz.
_DURATION_TOLERANCE_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Audio:
    """Decoded audio: `samples` float32 [channels, n], `rate_hz` samples a second."""

    samples: np.ndarray
    rate_hz: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples.shape[1] / self.rate_hz


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        rate_hz: Samples a second.
        num_channels: Channels.
        num_frames: Samples a channel that are expected; None where nothing says so.
        format: The container, e.g. `WAV`, `MP3`, `MPEG-4`.
    """

    rate_hz: int
    num_channels: int
    num_frames: int | None
    format: str

    @property
    def seconds(self) -> float | None:
        """Duration that is expected, or None."""
        return None if self.num_frames is None else self.num_frames / self.rate_hz


class _Source(Protocol):
    """What decodes: float32 [n, channels], fewer frames than asked at the end."""

    def read(self, num_frames: int) -> np.ndarray: ...

    def close(self) -> None: ...


class AudioReader:
    """Reads a file of any length in blocks, once, from its start to its end.

    with AudioReader(path) as reader:
        for block in reader.blocks():
            ...

    Memory does not depend on the file's length. What can only be known at the end
    (truncation, damage) is raised there.

    Attributes:
        info: AudioInfo.
    """

    info: AudioInfo

    def __init__(self, path: str | os.PathLike, expected_seconds: float | None = None):
        """Opens a file.

        Args:
            path: Anything that libsndfile reads, or ffmpeg where there is one.
            expected_seconds: Duration by the dataset's metadata; None where unknown.

        Raises:
            AudioError: One of its subclasses, with the reason.
        """
        path = pathlib.Path(path)
        self._expected_seconds = expected_seconds
        self._tolerance_frames = 0
        # Before opening: to open a named pipe waits for its writer.
        if not path.is_file():
            raise MissingError(_why_no_file(path))
        try:
            if path.stat().st_size == 0:
                raise EmptyError("the file is empty (0 bytes)")
            self._source = self._open(path)
        except OSError as error:
            raise UnreadableError(f"cannot be read: {error.strerror}") from error
        try:
            _check_header(self.info)
        except AudioError:
            self._source.close()
            raise

    def _open(self, path: pathlib.Path) -> _Source:
        if ffmpeg.is_stems_file(path):
            raise UnreadableError(ffmpeg.STEMS_ADVICE)
        try:
            source = sndfile.SndfileSource(path)
        except (soundfile.SoundFileError, RuntimeError) as error:
            reason = _decoder_message(error)
        else:
            self.info = AudioInfo(
                source.rate_hz, source.num_channels, source.num_frames, source.format
            )
            self._tolerance_frames = source.tolerance_frames
            return source
        found = check.examine(path)
        if found.reason:
            raise refused(found.reason)
        other = ffmpeg.FfmpegSource(path, reason, found.parts)
        num_frames = None if found.is_unbounded else other.num_frames
        self.info = AudioInfo(
            other.rate_hz, other.num_channels, num_frames, other.format
        )
        return other

    def __enter__(self) -> "AudioReader":
        """The reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self._source.close()

    def blocks(self, block_frames: int = BLOCK_FRAMES) -> Iterator[np.ndarray]:
        """Reads on to the end.

        Args:
            block_frames: Samples a channel of every block but the last.

        Yields:
            float32 [channels, n]; at least one sample in all.

        Raises:
            AudioError: One of its subclasses, with the reason.
        """
        num_frames = 0
        rate_hz = self.info.rate_hz
        while True:
            try:
                block = self._source.read(block_frames)
            except OSError as error:
                raise UnreadableError(f"cannot be read: {error.strerror}") from error
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise UnreadableError(
                    f"damaged after {num_frames / rate_hz:.2f} s: "
                    f"{_decoder_message(error)}"
                ) from error
            _check_samples(block)
            num_frames += len(block)
            if len(block):
                yield np.ascontiguousarray(block.T)
            if len(block) < block_frames:
                break
        if not num_frames:
            raise EmptyError("the file has no samples")
        seconds = num_frames / rate_hz
        promised = self.info.seconds
        if promised is not None:
            promised -= self._tolerance_frames / rate_hz
        _check_seconds(seconds, promised, "in its header")
        _check_seconds(seconds, self._expected_seconds, "in the dataset's metadata")


def _check_samples(block: np.ndarray) -> None:
    """Takes float32 [n, channels]."""
    flat = block.reshape(-1)
    # The energy is quick, and tells of every sample that could be wrong.
    if np.vdot(flat, flat) < MAX_SAMPLE**2:
        return
    if not np.isfinite(flat).all():
        raise NonFiniteError("has samples that are infinite or not a number")
    peak = float(np.abs(flat).max())
    if peak >= MAX_SAMPLE:
        raise UnreadableError(f"has samples up to {peak:.1e}, where sound has 1")


def _check_header(info: AudioInfo) -> None:
    if not MIN_RATE_HZ <= info.rate_hz <= MAX_RATE_HZ:
        raise UnreadableError(
            f"its header says {info.rate_hz:,} samples a second; {MIN_RATE_HZ:,} to "
            f"{MAX_RATE_HZ:,} are read"
        )
    if not 1 <= info.num_channels <= MAX_CHANNELS:
        raise UnreadableError(
            f"its header says {info.num_channels:,} channels; up to {MAX_CHANNELS} are "
            "read"
        )


def _why_no_file(path: pathlib.Path) -> str:
    if path.is_symlink() and not path.exists():
        return "the file does not exist (a dangling link)"
    if not path.exists():
        return "the file does not exist"
    kinds = (
        (path.is_dir(), "a directory"),
        (path.is_fifo(), "a named pipe"),
        (path.is_socket(), "a socket"),
    )
    kind = next((name for is_kind, name in kinds if is_kind), "a device")
    return f"not a regular file, but {kind}"


def _decoder_message(error: Exception) -> str:
    text = getattr(error, "error_string", str(error)).strip().rstrip(".")
    code = getattr(error, "code", None)
    return text or f"the decoder gave up (libsndfile's error {code})"


def _check_seconds(seconds: float, expected: float | None, where: str) -> None:
    if expected is not None and seconds < expected - _DURATION_TOLERANCE_SECONDS:
        raise TruncatedError(
            f"truncated: {seconds:.2f} s decoded of {expected:.2f} s {where}"
        )


def decode(path: str | os.PathLike, expected_seconds: float | None = None) -> Audio:
    """Reads a whole file.

    Args:
        path: Anything that libsndfile reads, or ffmpeg where there is one.
        expected_seconds: Duration by the dataset's metadata; None where unknown.

    Returns:
        The file's audio at its own rate.

    Raises:
        AudioError: One of its subclasses, with the reason.
    """
    with AudioReader(path, expected_seconds) as reader:
        blocks = list(reader.blocks())
    return Audio(np.concatenate(blocks, axis=1), reader.info.rate_hz)


def check_length(
    samples: np.ndarray | int, frontend: FrontendConfig = FrontendConfig()
) -> None:
    """Refuses what is shorter than one window of log-mels.

    Windows of waveforms are longer; clips are filled up with zeros to one, so that
    records of both kinds hold the same clips.

    Args:
        samples: float32 [n] at the front end's rate, or n.
        frontend: FrontendConfig.

    Raises:
        TooShortError: If it is.
    """
    num_samples = samples if isinstance(samples, int) else len(samples)
    seconds = num_samples / frontend.sample_rate_hz
    if frontend.is_waveform:
        needed = min(FrontendConfig().window_seconds, frontend.window_seconds)
        is_short = num_samples < int(needed * frontend.sample_rate_hz)
    else:
        needed = frontend.window_seconds
        is_short = frontend.num_frames(num_samples) < frontend.window_frames
    if is_short:
        raise TooShortError(f"too short: {seconds:.2f} s, below {needed:.3f} s")
