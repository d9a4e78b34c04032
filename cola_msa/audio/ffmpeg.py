"""Audio that libsndfile cannot read, through the programs ffprobe and ffmpeg.

ffprobe describes the first audio stream in JSON, ffmpeg decodes it to a pipe; what
metadata say is never taken for what the programs say. Both are confined to the one
file: no playlist, no other file, no network. They are no dependency: without them such
files have a reason that names them.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.audio.containers.findings import Part
from cola_msa.audio.errors import UnreadableError, check_alike

# What a file may be taken for. None of these names other files or addresses, as
# playlists, concat scripts, HLS and DASH do, nor is a picture or a text.
_FORMATS = (
    "3dostr,aa,aac,aax,ac3,act,adx,aea,aiff,alaw,amr,amrnb,amrwb,ape,aptx,aptx_hd,asf,"
    "asf_o,ast,au,avi,boa,bonk,brstm,bfstm,caf,codec2,dfpwm,dsf,dts,dtshd,eac3,flac,"
    "flv,g722,gsm,iff,ircam,kvag,laf,loas,m4v,matroska,webm,mlp,mmf,mov,mp4,"
    "m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,nut,oma,ogg,osq,paf,pvf,qcp,"
    "qoa,rm,shn,sox,tak,truehd,tta,voc,vqf,w64,wav,wsd,wv,wve,xa,xwma"
)
# Of these a stream's duration is its container's own record; of others an estimate
# from the bit rate. Of Matroska the whole file's, if there is no other stream.
_TIMED = {"mov", "wv", "tta", "ape", "mpc", "mpc8", "dsf", "caf", "aiff", "tak", "shn"}
_TIMED_ALONE = {"matroska"}
# A line of the log: who speaks, how severe it is, what.
_ERROR = re.compile(
    r"^(?:\[(?P<who>[^\]]*) @ 0x[0-9a-f]+\] )*\[(?:error|fatal|panic)\] (?P<what>.+)"
)
_DECODERS = {"av1": ("libdav1d", "libaom-av1")}  # that are not called as their codec
_NAMES = {
    "mov": "MPEG-4",
    "matroska": "Matroska",
    "asf": "Windows Media",
    "ape": "Monkey's Audio",
    "wv": "WavPack",
    "tta": "True Audio",
    "mpc": "Musepack",
    "mpc8": "Musepack",
    "dsf": "DSD",
    "amr": "AMR",
}
_PART_SECONDS = 0.2
_MAX_PARTS = 1000  # each takes a process
_PROBE_SECONDS = 60.0
_BLOCK_SECONDS = 300.0  # for one block, of a second or so
_STEMS_SUFFIXES = (".stem.mp4", ".stem.m4a")
STEMS_ADVICE = (
    "a .stem.mp4 holds a mixture and its stems as five streams of one file: split it "
    "into a folder a song for data_prep.multitrack, by ffmpeg -i SONG.stem.mp4 "
    "-map 0:a:0 mixture.wav -map 0:a:1 drums.wav -map 0:a:2 bass.wav "
    "-map 0:a:3 other.wav -map 0:a:4 vocals.wav"
)


def is_stems_file(path: str | os.PathLike) -> bool:
    """Whether a name is that of MUSDB18's songs, five streams in one file."""
    return os.fspath(path).lower().endswith(_STEMS_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class _Stream:
    """The first audio stream, as ffprobe describes it; codecs of all but audio."""

    format: str
    rate_hz: int
    num_channels: int
    promised_seconds: float | None
    others: frozenset[str]


def _programs(reason: str) -> tuple[str, str]:
    found = [shutil.which(name) for name in ("ffmpeg", "ffprobe")]
    if found[0] is None or found[1] is None:
        missing = "ffmpeg" if found[0] is None else "ffprobe (a part of ffmpeg)"
        raise UnreadableError(
            f"not readable as audio without {missing}, which is not on the PATH "
            f"(libsndfile: {reason}); install ffmpeg, or convert the file to FLAC"
        )
    return found[0], found[1]


def _confined(program: str) -> list[str]:
    return [
        *(program, "-hide_banner", "-loglevel", "level+error", "-threads", "1"),
        *("-protocol_whitelist", "file,subfile", "-format_whitelist", _FORMATS),
    ]


def _signal_name(code: int) -> str:
    """Of a process's negative return code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _address(path: pathlib.Path, part: Part | None) -> str:
    """A file, or a part of it, for ffmpeg; whatever its name looks like."""
    if part is None:
        return f"file:{path}"
    return f"subfile,,start,{part.start},end,{part.end},,:file:{path}"


def _number(values: dict[str, Any], name: str) -> float | None:
    try:
        return float(values[name])
    except (KeyError, TypeError, ValueError):
        return None


def _probe(program: str, address: str, reason: str) -> _Stream:
    """Asks ffprobe for the first audio stream.

    Raises:
        UnreadableError: If there is none.
    """
    command = [*_confined(program), "-print_format", "json", "-show_entries"]
    command += ["format=format_name,duration,start_time:stream=codec_type"]
    command[-1] += ",codec_name,sample_rate,channels,start_time,duration"
    command[-1] += ":stream_disposition=attached_pic"
    try:
        found = subprocess.run(
            [*command, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
            start_new_session=True,  # a terminal's Ctrl-C is not the file's fault
        )
        content = json.loads(found.stdout)
    except subprocess.TimeoutExpired as error:
        raise UnreadableError(
            f"not readable as audio: ffprobe has not ended after {_PROBE_SECONDS:.0f} s"
        ) from error
    except OSError as error:
        raise UnreadableError(f"ffprobe does not start: {error.strerror}") from error
    except ValueError:
        content = {}
    if found.returncode < 0:
        raise UnreadableError(
            "not readable as audio: ffprobe was ended by "
            f"{_signal_name(found.returncode)}"
        )
    streams = content.get("streams", [])
    sounds = [s for s in streams if s.get("codec_type") == "audio"]
    if found.returncode or not streams:
        raise UnreadableError(f"not readable as audio: {reason}")
    if not sounds:
        raise UnreadableError("not readable as audio: it has no audio stream")
    sound, whole = sounds[0], content.get("format", {})
    name = str(whole.get("format_name", "")).split(",")[0]
    rate_hz, channels = _number(sound, "sample_rate"), _number(sound, "channels")
    if not rate_hz or not channels:
        codec = sound.get("codec_name", "unknown")
        raise UnreadableError(
            f"not readable as audio ({_NAMES.get(name, name)}): ffmpeg does not know "
            f"its audio ({codec})"
        )
    promised = None
    others = [s for s in streams if not s.get("disposition", {}).get("attached_pic")]
    if name in _TIMED:
        promised = _number(sound, "duration")
    elif name in _TIMED_ALONE and len(others) == 1:
        promised = _number(whole, "duration")
        # Counted from zero, though the sound may begin later.
        if promised is not None:
            promised -= max(0.0, _number(sound, "start_time") or 0.0)
    codecs = {str(s.get("codec_name")) for s in streams if s not in sounds}
    for codec in tuple(codecs):
        codecs.update(_DECODERS.get(codec, ()))
    return _Stream(name, int(rate_hz), int(channels), promised, frozenset(codecs))


class FfmpegSource:
    """Decodes one file, or parts of it one after another, each in its own process.

    Attributes:
        rate_hz: Samples a second.
        num_channels: Channels.
        num_frames: Samples a channel that the file promises; None where it does not.
        format: What the container is called.
    """

    def __init__(self, path: pathlib.Path, reason: str, parts: Sequence[Part] = ()):
        """Starts ffmpeg.

        Args:
            path: The file.
            reason: Why libsndfile does not read it.
            parts: What to decode of it; all of it if empty.

        Raises:
            UnreadableError: If ffmpeg is missing or cannot decode the file, or the
                parts differ.
        """
        if len(parts) > _MAX_PARTS:
            raise UnreadableError(
                f"is joined from {len(parts)} files; up to {_MAX_PARTS} are read: "
                "split it"
            )
        self._program, probe = _programs(reason)
        self._waiting = [_address(path, part) for part in parts or (None,)]
        streams = [_probe(probe, address, reason) for address in self._waiting]
        first = streams[0]
        self._others = first.others
        self.rate_hz, self.num_channels = first.rate_hz, first.num_channels
        check_alike([(stream.rate_hz, stream.num_channels) for stream in streams])
        self.format = _NAMES.get(first.format, first.format)
        self.num_frames = None
        promised = [s.promised_seconds for s in streams if s.promised_seconds]
        if len(promised) == len(streams):
            # Of each part but one the decoder may trim what it may of the last.
            seconds = sum(promised) - _PART_SECONDS * (len(streams) - 1)
            self.num_frames = round(seconds * self.rate_hz)
        self._has_read = False
        self._start()

    def _start(self) -> None:
        # A file, not a pipe: nobody reads it before the audio ends.
        self._log = tempfile.TemporaryFile()
        command = [*_confined(self._program), "-nostdin", "-nostats"]
        command += ["-err_detect", "crccheck", "-i", self._waiting.pop(0)]
        command += ["-map", "0:a:0", "-threads", "1"]
        command += ["-map_metadata", "-1", "-c:a", "pcm_f32le", "-f", "f32le"]
        command += ["-ar", str(self.rate_hz), "-ac", str(self.num_channels), "pipe:1"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,  # as ffprobe
            )
        except OSError as error:
            self._log.close()
            raise UnreadableError(f"ffmpeg does not start: {error.strerror}") from error
        assert self._process.stdout is not None
        self._pipe = self._process.stdout

    def read(self, num_frames: int) -> np.ndarray:
        """float32 [n, channels] of the next samples; fewer than asked at the end.

        Raises:
            UnreadableError: If the file turns out to be damaged.
        """
        wanted = num_frames * 4 * self.num_channels
        data = self._read_bytes(wanted)
        while len(data) < wanted and self._waiting:
            self.close()
            self._start()
            data += self._read_bytes(wanted - len(data))
        return (
            np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, self.num_channels)
        )

    def _read_bytes(self, num_bytes: int) -> bytes:
        """Whole samples of the part that is being decoded."""
        timer = threading.Timer(_BLOCK_SECONDS, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            data = self._pipe.read(num_bytes)
        finally:
            timer.cancel()
        if len(data) < num_bytes:
            reason = self._reason()
            if reason:
                begin = "damaged" if self._has_read or data else "not readable as audio"
                raise UnreadableError(f"{begin} ({self.format}): {reason}")
        self._has_read = True
        frame_bytes = 4 * self.num_channels
        return data[: len(data) // frame_bytes * frame_bytes]

    def _reason(self) -> str | None:
        """What ffmpeg complained about, in one line, once it has ended."""
        code = self._process.wait()
        # Not seek and read: ffmpeg writes at the same position.
        size = min(1 << 20, os.fstat(self._log.fileno()).st_size)
        text = os.pread(self._log.fileno(), size, 0).decode("utf-8", "backslashreplace")
        for line in text.splitlines():
            found = _ERROR.match(line)
            if found is None or found["who"] in self._others:
                continue  # a picture's decoder: the sound is none of its business
            if not _is_harmless(found["what"]):
                # Without the address; paths are the manifest's.
                return re.sub(r"^.*?file:.*?: ", "", found["what"]).strip()
        if code == -signal.SIGKILL:
            return f"ffmpeg gave nothing for {_BLOCK_SECONDS:.0f} s, or was killed"
        if code < 0:
            return f"ffmpeg was ended by {_signal_name(code)}"
        return f"ffmpeg ended with code {code}" if code else None

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._log.close()


def _is_harmless(message: str) -> bool:
    """What ffmpeg says of time stamps, of which raw samples have none."""
    return "non monotonically increasing dts" in message
