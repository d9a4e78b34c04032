"""Stems: from disk, or by Open-Unmix (trained or with random weights).

torch and openunmix are an extra: they are imported when a separator is loaded.
"""

import dataclasses
import hashlib
import multiprocessing
import pathlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from cola_msa.audio import decode, errors, resample
from cola_msa.config.schema import SOURCES, FrontendConfig
from cola_msa.system.processes import environment
from data_prep.stems import cache
from data_prep.stems import filter as filter_lib
from data_prep.stems.stream import ChunkedSeparation, Chunking, StemStream
from data_prep.stems.waveforms import Waveform, _read_mono
from data_prep.stems.weights import (
    SETTINGS_NAME,
    SeparatorError,
    folder_targets,
    has_bfloat16,
    load_folder,
    start_torch,
)

NAMES = ("umxhq", "umxl", "random")


def separator_sources(name: str, folder: pathlib.Path) -> tuple[str, ...]:
    """The sources that a separator makes, in order, without importing torch.

    Args:
        name: `umxhq`, `umxl`, `random`, or anything else for a folder.
        folder: The folder, where it is one.

    Returns:
        The sources; those of the paper in its order, others by name.

    Raises:
        SeparatorError: If the folder is not Open-Unmix's.
    """
    if name in NAMES:
        return SOURCES
    if not (folder / SETTINGS_NAME).is_file():
        raise SeparatorError(
            f"--separator={name} is neither {', '.join(NAMES)} nor a folder with "
            f"{SETTINGS_NAME} and, for every target, <target>.json and <target>.pth"
        )
    targets = folder_targets(folder)
    known = [source for source in SOURCES if source in targets]
    return (*known, *(target for target in targets if target not in known))


class Separator:
    """Open-Unmix, ready to separate.

    Attributes:
        sources: Sources in order.
        weights_sha256: Digest of all weights.
        chunking: How long mixtures are cut.
        cache: Where stems are kept, or None.
        on_seconds: Called in `separate_file` with how many seconds of the mixture are
            separated, after every chunk but the last; or None.
    """

    def __init__(
        self,
        name: str,
        folder: pathlib.Path,
        niter: int,
        seed: int,
        sources: Sequence[str] | None = None,
        num_threads: int = 1,
        dtype: str = "float32",
        chunking: Chunking = Chunking(),
    ):
        """Loads the model; takes a second or two.

        Args:
            name: `umxhq`, `umxl` (downloaded once), `random`, or else the folder's.
            folder: Where the weights lie, unless `name` is one of the above.
            niter: Iterations of the Wiener filter.
            seed: Draws the weights of `random`.
            sources: Sources in order; None: see `separator_sources`.
            num_threads: torch's threads in this process.
            dtype: `float32` or `bfloat16`, the type of the networks' products.
            chunking: How long mixtures are cut.

        Raises:
            SeparatorError: If the extra is missing or the weights cannot be loaded.
        """
        openunmix = start_torch(num_threads)
        import torch

        is_main = multiprocessing.parent_process() is None
        if dtype == "bfloat16" and is_main and not has_bfloat16():
            logging.warning(
                "this processor has no bfloat16 products: --separator_dtype=bfloat16 "
                "is some times slower here than float32"
            )
        self.sources = tuple(sources or separator_sources(name, folder))
        if len(self.sources) == 1 and niter > 0:
            raise SeparatorError(
                f"the Wiener filter needs more than one target, and {folder} holds "
                f"{self.sources[0]} alone: give --niter=0"
            )
        if name == "random":
            # Not load_separator(pretrained=False), which downloads all the same.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = openunmix.umxhq(
                    targets=list(self.sources), niter=niter, pretrained=False
                )
        elif name in NAMES:
            model = _pretrained(openunmix, name, self.sources, niter)
        else:
            model = load_folder(folder, self.sources, niter)
        model.freeze()
        self._rate_hz = int(model.sample_rate)
        first = model.target_models[self.sources[0]]
        self._num_channels = first.fc1.in_features // first.nb_bins
        self.weights_sha256 = _digest(model.target_models.state_dict())
        # The model itself is not kept: its matrices are there once more, folded.
        self._separate = filter_lib.MonoSeparator(model, dtype)
        self._num_threads = num_threads
        self.chunking = chunking
        self.cache: cache.StemCache | None = None
        self.on_seconds: Callable[[float], None] | None = None
        # All that decides a stem, but for the file.
        self._identity = {
            "weights_sha256": self.weights_sha256,
            "sources": list(self.sources),
            "niter": niter,
            "dtype": dtype,
            "chunking": dataclasses.asdict(chunking),
        }

    def use_cache(self, folder: pathlib.Path, rate_hz: int) -> None:
        """Keeps stems in a folder, and takes from there what it holds."""
        identity = {**self._identity, "rate_hz": rate_hz}
        self.cache = cache.StemCache(folder, identity)

    def _separate_chunk(self, samples: np.ndarray) -> np.ndarray:
        import torch

        # Their number decides the last bits, and other code of the process sets it.
        torch.set_num_threads(self._num_threads)
        estimates = self._separate(samples[np.newaxis])[0]
        filter_lib.return_memory()
        if not np.isfinite(estimates.sum()) and not np.isfinite(estimates).all():
            raise errors.StemError("the separator gave samples that are not finite")
        return estimates

    def start(self, from_hz: int, rate_hz: int) -> StemStream:
        """A mixture of any length at `from_hz`; its stems will have `rate_hz`."""
        chunked = ChunkedSeparation(
            self._separate_chunk,
            self._num_channels,
            self._rate_hz,
            self._separate.hop * self._separate.window_frames,
            self.chunking,
        )
        return StemStream(
            chunked,
            len(self.sources),
            self._num_channels,
            from_hz,
            self._rate_hz,
            rate_hz,
        )

    def separate(self, decoded: decode.Audio, rate_hz: int) -> dict[str, np.ndarray]:
        """Separates one clip.

        Args:
            decoded: The mixture, any number of channels and rate.
            rate_hz: Rate of the stems.

        Returns:
            float32 [m] of every source, mono.
        """
        stream = self.start(decoded.rate_hz, rate_hz)
        parts = stream.push(decoded.samples) + stream.finish()
        stems = np.concatenate(parts, axis=1)
        return dict(zip(self.sources, stems, strict=True))

    def separate_file(
        self,
        path: pathlib.Path,
        expected_seconds: float | None,
        frontend: FrontendConfig,
    ) -> tuple[Waveform, dict[str, Waveform]]:
        """Reads a mixture of any length and separates it, or takes stems of the cache.

        Args:
            path: The file.
            expected_seconds: Its duration by the dataset's metadata, or None.
            frontend: FrontendConfig.

        Returns:
            The mixture and the stems, as long as it, of 24 bits; whether they come
            from the cache makes no difference.

        Raises:
            AudioError: With the reason.
        """
        rate_hz = frontend.sample_rate_hz
        if self.cache is not None:
            kept = self.cache.load(path)
            if kept is not None:
                mixture = _read_mono(path, rate_hz, expected_seconds)
                if all(s.num_samples == mixture.num_samples for s in kept.values()):
                    return mixture, kept
        mixture = Waveform()
        stems = {source: Waveform() for source in self.sources}

        def keep(parts: list[np.ndarray]) -> None:
            for part in parts:
                for stem, samples in zip(stems.values(), part, strict=True):
                    stem.append(samples)

        with decode.AudioReader(path, expected_seconds) as reader:
            stream = self.start(reader.info.rate_hz, rate_hz)

            def blocks() -> Iterator[np.ndarray]:
                for block in reader.blocks():
                    parts = stream.push(block)
                    keep(parts)
                    if parts and self.on_seconds is not None:
                        self.on_seconds(stems[self.sources[0]].num_samples / rate_hz)
                    yield block

            for samples in resample.mono_blocks(blocks(), reader.info.rate_hz, rate_hz):
                mixture.append(samples)
        # Before the last chunk, which for most clips is the only one: separating
        # costs far more than the checks that have passed by now.
        decode.check_length(mixture.num_samples, frontend)
        keep(stream.finish())
        for stem in stems.values():
            stem.fit(mixture.num_samples).quantize()
        if self.cache is not None:
            self.cache.store(path, stems)
        return mixture, stems


def _pretrained(openunmix: Any, name: str, sources: Sequence[str], niter: int) -> Any:
    try:
        # torch.load takes weights alone, in code that does not ask for it.
        with environment("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1"):
            return getattr(openunmix, name)(targets=list(sources), niter=niter)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise SeparatorError(
            f"the weights of {name} could not be downloaded or read ("
            f"{next(iter(str(error).splitlines()), '')}); fetch "
            "them on another machine into torch.hub's folder of checkpoints, or name a "
            "folder of weights with --separator=PATH"
        ) from error


def _digest(state: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
