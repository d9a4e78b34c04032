"""Stems that were separated once: FLAC of 24 bits, found by the mixture's content.

<cache>/<key[:2]>/<key>/<source>.flac and stems.json; the key stands for the file's
bytes and all that decides its stems (weights, iterations, chunks, rate).
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile

from cola_msa.audio import decode, errors
from cola_msa.system.errors import FileError
from cola_msa.system.files import remove_abandoned, temporary_folder
from cola_msa.system.folders import replace_folder
from cola_msa.values.reading import read_json
from data_prep.stems.waveforms import STEM_BITS, Waveform

_DESCRIPTION = "stems.json"
_BLOCK_SAMPLES = 1 << 20
_MAX_EXPONENT = 127  # of float32


class StemCache:
    """A folder of stems of one separator; several processes may share it."""

    def __init__(self, folder: pathlib.Path, identity: Mapping[str, Any]):
        """Names the folder, which need not exist.

        Args:
            folder: The cache, also of other separators.
            identity: All that decides a stem, but for the file: plain JSON.
        """
        self._folder = folder
        self._identity = dict(identity)

    def _entry(self, path: pathlib.Path) -> pathlib.Path:
        # Not what cannot be read at all: a named pipe would wait for its writer.
        if not path.is_file():
            raise errors.MissingError("the file does not exist, or is no regular file")
        digest = hashlib.sha256()
        digest.update(json.dumps(self._identity, sort_keys=True).encode())
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise errors.UnreadableError(f"cannot be read: {error.strerror}") from error
        key = digest.hexdigest()[:40]
        return self._folder / key[:2] / key

    def has(self, path: pathlib.Path) -> bool:
        """Whether the stems of a mixture's file are there."""
        return (self._entry(path) / _DESCRIPTION).is_file()

    def load(self, path: pathlib.Path) -> dict[str, Waveform] | None:
        """The stems of a mixture's file; None where they are missing or damaged."""
        entry = self._entry(path)
        try:
            exponents = read_json(entry / _DESCRIPTION, check=self._exponents)
            return {
                source: _read(entry / f"{source}.flac", exponent)
                for source, exponent in exponents.items()
            }
        except (OSError, FileError, errors.AudioError):
            return None

    def _exponents(self, content: dict[str, Any]) -> dict[str, int]:
        found = {s: content["exponents"][s] for s in self._identity["sources"]}
        if not all(type(e) is int and abs(e) < _MAX_EXPONENT for e in found.values()):
            raise ValueError("exponents are not all whole numbers")
        return found

    def store(self, path: pathlib.Path, stems: Mapping[str, Waveform]) -> None:
        """Keeps the stems of a mixture's file.

        Args:
            path: The mixture's file.
            stems: Quantized.

        Raises:
            FileError: If they cannot be written.
        """
        entry = self._entry(path)
        with temporary_folder(entry) as temporary:
            for source, stem in stems.items():
                _write(temporary / f"{source}.flac", stem, self._identity["rate_hz"])
            content = {
                "exponents": {source: stem.exponent for source, stem in stems.items()},
                "separator": self._identity,
            }
            text = json.dumps(content, indent=1)
            (temporary / _DESCRIPTION).write_text(text, encoding="utf-8")
            try:
                # What is there is damaged, and gives way.
                replace_folder(temporary, entry, self._listed, "stems")
            except FileError:
                if not (entry / _DESCRIPTION).is_file():
                    raise
                # Another process stored them just now: of equal ones either may stay.

    def _listed(self, _: pathlib.Path) -> list[str]:
        return [_DESCRIPTION, *(f"{name}.flac" for name in self._identity["sources"])]

    def remove_unfinished(self) -> None:
        """Deletes what killed processes left."""
        remove_abandoned(self._folder)


def _write(path: pathlib.Path, stem: Waveform, rate_hz: int) -> None:
    try:
        with open(path, "wb") as file:
            with soundfile.SoundFile(
                file.fileno(),
                "w",
                rate_hz,
                channels=1,
                subtype=f"PCM_{STEM_BITS}",
                format="FLAC",
                closefd=False,
            ) as sound:
                for start in range(0, stem.num_samples, _BLOCK_SAMPLES):
                    values = stem.integers(start, start + _BLOCK_SAMPLES)
                    sound.write(values << (32 - STEM_BITS))
            file.flush()
            os.fsync(file.fileno())
    except soundfile.SoundFileError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def _read(path: pathlib.Path, exponent: int) -> Waveform:
    waveform = Waveform()
    with decode.AudioReader(path) as reader:
        for block in reader.blocks(_BLOCK_SAMPLES):
            # From fractions of 1 to the stem's own scale: exact, a power of two.
            waveform.append(block[0] * np.float32(2.0**exponent))
    return waveform
