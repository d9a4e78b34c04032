"""A tiny General MIDI sound font, written by the specification alone.

Source: SoundFont technical specification 2.04, sections 5 to 7.
"""

import pathlib
import struct

import numpy as np
import pytest

from cola_msa.system.errors import UserError
from data_prep.demo.synthesis import soundfont

RATE_HZ = 44100
_PERIOD = 100  # samples a cycle: 441 Hz, the root key's pitch
ROOT_KEY = 69


def _has_fluidsynth() -> bool:
    try:
        soundfont._binding()
    except UserError:
        return False
    return True


needs_fluidsynth = pytest.mark.skipif(
    not _has_fluidsynth(), reason="FluidSynth or pyfluidsynth is not installed"
)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, *chunks: bytes) -> bytes:
    return _chunk(b"LIST", name + b"".join(chunks))


def _name(text: str) -> bytes:
    return text.encode()[:19].ljust(20, b"\0")


def write_soundfont(
    path: pathlib.Path, presets: tuple[tuple[int, int], ...] = ((0, 0), (128, 0))
) -> pathlib.Path:
    """Writes one looped sine under several presets.

    Args:
        path: File to write.
        presets: (bank, program) of each; every one plays the same sample.
    """
    phase = np.arange(20 * _PERIOD) / _PERIOD
    sample = (20000 * np.sin(2 * np.pi * phase)).astype("<i2")
    data = sample.tobytes() + b"\0" * 2 * 46
    phdr = b"".join(
        _name(f"preset {i}") + struct.pack("<HHHIII", program, bank, i, 0, 0, 0)
        for i, (bank, program) in enumerate(presets)
    )
    phdr += _name("EOP") + struct.pack("<HHHIII", 0, 0, len(presets), 0, 0, 0)
    pbag = b"".join(struct.pack("<HH", i, 0) for i in range(len(presets) + 1))
    pgen = struct.pack("<HH", 41, 0) * len(presets) + struct.pack("<HH", 0, 0)
    inst = _name("sine") + struct.pack("<H", 0) + _name("EOI") + struct.pack("<H", 1)
    ibag = struct.pack("<HH", 0, 0) + struct.pack("<HH", 2, 0)
    # sampleModes 1: the sample repeats while the key is held.
    igen = struct.pack("<HHHH", 54, 1, 53, 0) + struct.pack("<HH", 0, 0)
    first, last = 4 * _PERIOD, 16 * _PERIOD
    shdr = _name("sine") + struct.pack(
        "<IIIIIBbHH", 0, len(sample), first, last, RATE_HZ, ROOT_KEY, 0, 0, 1
    )
    shdr += _name("EOS") + struct.pack("<IIIIIBbHH", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    modulator = struct.pack("<HHhHH", 0, 0, 0, 0, 0)
    body = b"sfbk" + b"".join(
        (
            _list(
                b"INFO",
                _chunk(b"ifil", struct.pack("<HH", 2, 4)),
                _chunk(b"isng", b"EMU8000\0"),
                _chunk(b"INAM", b"a sine\0\0"),
            ),
            _list(b"sdta", _chunk(b"smpl", data)),
            _list(
                b"pdta",
                _chunk(b"phdr", phdr),
                _chunk(b"pbag", pbag),
                _chunk(b"pmod", modulator),
                _chunk(b"pgen", pgen),
                _chunk(b"inst", inst),
                _chunk(b"ibag", ibag),
                _chunk(b"imod", modulator),
                _chunk(b"igen", igen),
                _chunk(b"shdr", shdr),
            ),
        )
    )
    path.write_bytes(_chunk(b"RIFF", body))
    return path
