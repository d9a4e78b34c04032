"""Mono waveforms of any length: in memory while short, else in a temporary file."""

import math
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np

from cola_msa.audio import decode, resample

# Two minutes at 16 kHz; a clip of a published dataset stays in memory.
_MEMORY_BYTES = 16000 * 120 * 4
_BLOCK_SAMPLES = 1 << 20
STEM_BITS = 24


class Waveform:
    """float32 [num_samples], written once from its start to its end, then read.

    Attributes:
        num_samples: Length; set by `fit`, samples beyond what was written are zeros.
        peak: Largest absolute value that was written.
        exponent: See `quantize`.
    """

    def __init__(self, samples: np.ndarray | None = None):
        """Starts with float32 [n], or with nothing."""
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)
        self._num_written = 0
        self.num_samples = 0
        self.peak = 0.0
        self.exponent: int | None = None
        if samples is not None:
            self.append(samples)

    def append(self, block: np.ndarray) -> None:
        """Adds float32 [n] at the end.

        Raises:
            OSError: If the temporary file cannot take it.
        """
        if len(block):
            try:
                self._file.write(np.ascontiguousarray(block, np.float32).data)
            except OSError as error:  # which names no file
                place = f"{tempfile.gettempdir()} (TMPDIR)"
                raise OSError(error.errno, error.strerror, place) from error
            self.peak = max(self.peak, float(np.abs(block).max()))
        self._num_written += len(block)
        self.num_samples = self._num_written

    def fit(self, num_samples: int) -> "Waveform":
        """Trims, or pads with zeros, to num_samples; returns itself."""
        self.num_samples = num_samples
        return self

    def quantize(self, exponent: int | None = None) -> "Waveform":
        """Makes all that is read from now on a multiple of 2^(exponent - 23).

        That is what 24 bits hold: equal values come out of a FLAC file of integers.

        Args:
            exponent: None takes the smallest from 0 on that clips nothing.

        Returns:
            Itself.
        """
        if exponent is None:
            # The largest integer is 2^23 - 1.
            limit = 1.0 - 2.0 ** (1 - STEM_BITS)
            exponent = 0
            if self.peak > limit:
                exponent = math.ceil(math.log2(self.peak / limit))
        self.exponent = exponent
        return self

    def integers(self, start: int, stop: int) -> np.ndarray:
        """int32 of 24 bits; times 2^(exponent - 23) they are the samples."""
        assert self.exponent is not None
        return self._scaled(start, stop).astype(np.int32)

    def _scaled(self, start: int, stop: int) -> np.ndarray:
        samples = self._raw(start, stop)
        if self.exponent is None:
            return samples
        return np.rint(samples * np.float32(2.0 ** (STEM_BITS - 1 - self.exponent)))

    def _raw(self, start: int, stop: int) -> np.ndarray:
        stop = min(stop, self.num_samples)
        count = max(0, min(stop, self._num_written) - start)
        self._file.seek(4 * start)
        samples = np.frombuffer(self._file.read(4 * count), np.float32)
        return np.pad(samples, (0, max(0, stop - start - count)))

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 of samples from start up to stop, or to the end."""
        stop = self.num_samples if stop is None else stop
        samples = self._scaled(start, stop)
        if self.exponent is not None:
            samples *= np.float32(2.0 ** (self.exponent - STEM_BITS + 1))
        return samples

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 of all samples, about a million at a time."""
        for start in range(0, self.num_samples, _BLOCK_SAMPLES):
            yield self.read(start, start + _BLOCK_SAMPLES)

    def sum_of_squares(self) -> float:
        """Over all samples, float64."""
        # Not a dot product: BLAS' result may depend on its number of threads.
        return math.fsum(
            float(np.square(block, dtype=np.float64).sum()) for block in self.blocks()
        )

    def close(self) -> None:
        """Gives memory and file back."""
        self._file.close()


def total(stems: Mapping[str, Waveform]) -> Waveform:
    """The sum of equally long waveforms."""
    result = Waveform()
    for blocks in zip(*(stem.blocks() for stem in stems.values()), strict=True):
        result.append(np.sum(blocks, axis=0))
    return result


def correlation(first: Waveform, second: Waveform) -> float | None:
    """Pearson's correlation of equally long waveforms; None where one is constant."""
    sums = np.zeros(5)
    for a, b in zip(first.blocks(), second.blocks(), strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        # Not dot products, see above.
        sums += [v.sum() for v in (a, b, a * a, b * b, a * b)]
    x, y, xx, yy, xy = sums / max(1, first.num_samples)
    norm = max(0.0, xx - x * x) * max(0.0, yy - y * y)
    # A constant's deviation is rounding, not zero.
    if norm <= (1e-12 * xx) * (1e-12 * yy) or norm == 0:
        return None
    return float((xy - x * y) / math.sqrt(norm))


def _read_mono(
    path: pathlib.Path, rate_hz: int, expected_seconds: float | None = None
) -> Waveform:
    with decode.AudioReader(path, expected_seconds) as reader:
        blocks = resample.mono_blocks(reader.blocks(), reader.info.rate_hz, rate_hz)
        waveform = Waveform()
        for block in blocks:
            waveform.append(block)
    return waveform
