"""Audio that libsndfile cannot read, through the program ffmpeg.

ffmpeg is no dependency: without it such files have a reason that names it.
"""

import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile

import numpy as np

from cola_msa.audio_errors import UnreadableError

# What ffmpeg may take a file for: no playlists, which name other files and addresses.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,aac,ape,wv,tta,mpc,mpc8,dsf,iff,amr"
)
_DURATION = re.compile(rb"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_ERROR = re.compile(rb"\[(?:error|fatal|panic)\] (.+)")
_MAGIC = (
    (0, b"\x1aE\xdf\xa3", "Matroska"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "Windows Media"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA1", "True Audio"),
    (0, b"MPCK", "Musepack"),
    (0, b"DSD ", "DSD"),
    (0, b"#!AMR", "AMR"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (4, b"ftyp", "MPEG-4"),
    (4, b"moov", "MPEG-4"),
    (4, b"mdat", "MPEG-4"),
)
_FLOAT_AU, _AU_HEADER = 6, struct.Struct(">4sIIIII")


def container_name(path: pathlib.Path) -> str | None:
    """The container, if it is one that only ffmpeg reads, by the file's first bytes."""
    with open(path, "rb") as file:
        head = file.read(16)
    for position, magic, name in _MAGIC:
        if head[position:].startswith(magic):
            return name
    return None


class FfmpegSource:
    """Decodes one file in a process of its own.

    Attributes:
        rate_hz: Samples a second.
        num_channels: Channels.
        num_frames: Samples a channel that the file promises; None where it does not.
    """

    def __init__(self, path: pathlib.Path, name: str):
        """Starts ffmpeg.

        Args:
            path: The file.
            name: What the container is called in errors.

        Raises:
            UnreadableError: If ffmpeg is missing or cannot decode the file.
        """
        program = shutil.which("ffmpeg")
        if program is None:
            raise UnreadableError(
                f"not readable without ffmpeg, which is not on the PATH ({name}); "
                "install ffmpeg, or convert the file to FLAC"
            )
        # A file, not a pipe: nobody reads it before the audio ends.
        self._log = tempfile.TemporaryFile()
        command = [program, "-hide_banner", "-nostdin", "-nostats"]
        command += ["-loglevel", "level+info", "-threads", "1"]
        command += ["-protocol_whitelist", "file", "-format_whitelist", _FORMATS]
        command += ["-i", f"file:{path}", "-map", "0:a:0", "-threads", "1"]
        command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        head = self._pipe.read(_AU_HEADER.size)
        if len(head) < _AU_HEADER.size:
            reason = self._reason() or "ffmpeg gave no audio"
            self.close()
            raise UnreadableError(f"not readable as audio ({name}): {reason}")
        magic, start, _, encoding, self.rate_hz, self.num_channels = _AU_HEADER.unpack(
            head
        )
        assert (magic, encoding) == (b".snd", _FLOAT_AU)
        self._pipe.read(start - _AU_HEADER.size)
        duration = _DURATION.search(self._read_log())
        self.num_frames = None
        if duration:
            hours, minutes, seconds = map(float, duration.groups())
            total = 3600 * hours + 60 * minutes + seconds
            self.num_frames = round(total * self.rate_hz)

    def read(self, num_frames: int) -> np.ndarray:
        """float32 [n, channels] of the next samples; fewer than asked at the end.

        Raises:
            UnreadableError: If the file turns out to be damaged.
        """
        data = self._pipe.read(num_frames * self.num_channels * 4)
        if len(data) < num_frames * self.num_channels * 4:
            reason = self._reason()
            if reason:
                raise UnreadableError(f"damaged: {reason}")
        return (
            np.frombuffer(data, ">f4").astype(np.float32).reshape(-1, self.num_channels)
        )

    def _read_log(self) -> bytes:
        # Not seek and read: ffmpeg writes at the same position.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def _reason(self) -> str | None:
        """What ffmpeg complained about, in one line, once it has ended."""
        code = self._process.wait()
        errors = _ERROR.findall(self._read_log())
        if errors:
            # Without the address in brackets; paths are the manifest's.
            text = errors[0].decode("utf-8", "backslashreplace").strip()
            return re.sub(r"^.*?file:.*?: ", "", text)
        return f"ffmpeg ended with code {code}" if code else None

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._log.close()
