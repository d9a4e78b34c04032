"""Audio through libsndfile, checked against what its container says of itself."""

import hashlib
import io
import os
import pathlib

import numpy as np
import soundfile

from cola_msa.audio.containers import check
from cola_msa.audio.containers.findings import Part, View
from cola_msa.audio.containers.mp3 import mp3_start
from cola_msa.audio.errors import UnreadableError, check_alike, refused

_MP3_TOLERANCE_FRAMES = 2304


class _Sequential(soundfile.SoundFile):
    """A file that is read from its start to its end.

    The package seeks after every read, and a decoder of MP3 that was moved decodes
    otherwise than one that was not.
    """

    def seekable(self) -> bool:
        return False


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
            soundfile.SoundFileError: If libsndfile does not know it, or a part of it.
        """
        # An open file rather than its name: libsndfile cannot take every file name.
        self._file = open(path, "rb")
        try:
            self._sound, first = self._open_any(path)
            self.format = self._sound.format
            found = check.examine(path, self.format, first)
            if found.reason:
                raise refused(found.reason)
            self.rate_hz = self._sound.samplerate
            self.num_channels = self._sound.channels
            self._parts = list(found.parts)
            num_frames = self._sound.frames
            if self._parts:
                # libsndfile reads no further than the first of joined files, and
                # guesses the length of an MP3 from its first frame's bit rate.
                num_frames = self._check_parts()
                self._sound.close()
                self._sound = self._open_part(self._parts.pop(0))
        except BaseException:
            self._file.close()
            raise
        is_mp3 = self.format == "MP3"
        self._md5 = hashlib.md5(usedforsecurity=False) if found.flac_md5 else None
        self._found = found
        self.num_frames: int | None = found.num_frames if is_mp3 else num_frames
        is_given = bool(found.parts) and self.format != "FLAC"
        if found.is_unbounded and not is_given:
            self.num_frames = None
        # What follows the samples of a FLAC, a tag or padding, is no part of it.
        self._frames_left = self.num_frames if self.format == "FLAC" else None
        self.tolerance_frames = 0
        if is_mp3:
            self.tolerance_frames = _MP3_TOLERANCE_FRAMES * max(1, len(found.parts))

    def _open_any(self, path: pathlib.Path) -> tuple[_Sequential, int]:
        """The file, or where that is an MP3 after something else; and where."""
        try:
            return _Sequential(self._file.fileno(), closefd=False), 0
        except soundfile.SoundFileError:
            if parts := check.examine(path).parts:
                return self._open_part(parts[0]), 0
            is_other = check.guess(self._file) not in ("", "MP3")
            first = None if is_other else mp3_start(path)
            if first is None:
                raise
        size = os.fstat(self._file.fileno()).st_size
        return self._open_part(Part(b"", first, size)), first

    def _open_part(self, part: Part) -> _Sequential:
        return _Sequential(io.BufferedReader(View(part, self._file)))

    def _check_parts(self) -> int:
        """Samples a channel of all parts, which must be alike."""
        num_frames, kinds = 0, []
        for part in self._parts:
            with self._open_part(part) as sound:
                kinds.append((sound.samplerate, sound.channels))
                num_frames += sound.frames
        check_alike(kinds)
        return num_frames

    def read(self, num_frames: int) -> np.ndarray:
        """float32 [n, channels] of the next samples; fewer than asked at the end.

        Raises:
            UnreadableError: If the samples are not those that were encoded.
            soundfile.SoundFileError: If the decoder fails.
        """
        wanted = num_frames
        if self._frames_left is not None:
            wanted = min(num_frames, self._frames_left)
            self._frames_left -= wanted
        if self._md5 is None:
            return self._read_parts(wanted)
        block = self._sound.read(wanted, dtype="int32", always_2d=True)
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

    def _read_parts(self, num_frames: int) -> np.ndarray:
        block = self._sound.read(num_frames, dtype="float32", always_2d=True)
        while len(block) < num_frames and self._parts:
            self._sound.close()
            self._sound = self._open_part(self._parts.pop(0))
            wanted = num_frames - len(block)
            more = self._sound.read(wanted, dtype="float32", always_2d=True)
            block = np.concatenate([block, more])
        return block

    def close(self) -> None:
        """Closes the file."""
        self._sound.close()
        self._file.close()
