"""Audio through libsndfile, checked against what its container says of itself."""

import hashlib
import io
import os
import pathlib
from typing import Any

import numpy as np
import soundfile

from cola_msa import containers
from cola_msa.audio_errors import TruncatedError, UnreadableError

_MP3_TOLERANCE_FRAMES = 2304


class _Sequential(soundfile.SoundFile):
    """A file that is read from its start to its end.

    The package seeks after every read, and a decoder of MP3 that was moved decodes
    otherwise than one that was not.
    """

    def seekable(self) -> bool:
        return False


class _WithHeader(io.RawIOBase):
    """A file with some bytes before it."""

    def __init__(self, head: bytes, file: Any):
        super().__init__()
        self._head, self._file, self._position = head, file, 0
        self._size = len(head) + os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self._position, self._size)[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._head[self._position : self._position + len(view)]
        if not data:
            self._file.seek(self._position - len(self._head))
            data = self._file.read(len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class SndfileSource:
    """What libsndfile reads.

    Attributes:
        rate_hz: Samples a second.
        num_channels: Channels.
        num_frames: Samples a channel that the file promises; None where it does not.
        format: libsndfile's name of the container.
        tolerance_frames: Samples that a decoder may trim.
    """

    def __init__(self, path: pathlib.Path):
        """Opens a file and examines its container.

        Args:
            path: The file.

        Raises:
            AudioError: If the container is damaged or cut.
            soundfile.SoundFileError: If libsndfile does not know it.
        """
        # An open file rather than its name: libsndfile cannot take every file name.
        self._file = open(path, "rb")
        try:
            self._sound = _Sequential(self._file.fileno(), closefd=False)
            file_format = self._sound.format
            found = containers.examine(path, file_format)
            if found.reason:
                is_cut = found.reason.startswith("truncated")
                raise (TruncatedError if is_cut else UnreadableError)(found.reason)
            is_mp3 = file_format == "MP3"
            if is_mp3 and found.counted_header:
                # libsndfile guesses the length from the first frame's bit rate, and
                # reads no further than that.
                self._sound.close()
                whole = _WithHeader(found.counted_header, self._file)
                self._sound = _Sequential(io.BufferedReader(whole))
        except BaseException:
            self._file.close()
            raise
        self._md5 = hashlib.md5(usedforsecurity=False) if found.flac_md5 else None
        self._found = found
        self.num_frames = found.num_frames if is_mp3 else self._sound.frames
        self.rate_hz = self._sound.samplerate
        self.num_channels = self._sound.channels
        self.format = file_format
        self.tolerance_frames = _MP3_TOLERANCE_FRAMES if is_mp3 else 0

    def read(self, num_frames: int) -> np.ndarray:
        """float32 [n, channels] of the next samples; fewer than asked at the end.

        Raises:
            UnreadableError: If the samples are not those that were encoded.
            soundfile.SoundFileError: If the decoder fails.
        """
        if self._md5 is None:
            return self._sound.read(num_frames, dtype="float32", always_2d=True)
        block = self._sound.read(num_frames, dtype="int32", always_2d=True)
        bits = self._found.flac_bits
        num_bytes = -(-bits // 8)
        raw = (block >> (32 - bits)).astype("<i4", order="C").view(np.uint8)
        # MD5 covers the samples' own bytes, interleaved, the lowest first.
        self._md5.update(raw.reshape(-1, 4)[:, :num_bytes].tobytes())
        if len(block) < num_frames and self._md5.digest() != self._found.flac_md5:
            raise UnreadableError(
                "damaged: its samples do not have the MD5 of its header"
            )
        return block.astype(np.float32) * np.float32(2.0**-31)

    def close(self) -> None:
        """Closes the file."""
        self._sound.close()
        self._file.close()
