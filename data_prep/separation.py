"""Stems: from disk, or by Open-Unmix (trained or with random weights).

torch and openunmix are an extra: they are imported when a separator is loaded.
"""

import contextlib
import hashlib
import os
import pathlib
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa import audio
from cola_msa.config import SOURCES, FrontendConfig
from data_prep.clips import Clip
from data_prep.separator_weights import (
    SETTINGS_NAME,
    SeparatorError,
    folder_targets,
    load_folder,
    start_torch,
)

NAMES = ("umxhq", "umxl", "random")
_MAX_LENGTH_DIFFERENCE_SECONDS = 0.1


def load_clip(
    clip: Clip,
    sources: Sequence[str],
    frontend: FrontendConfig,
    dataset_dir: pathlib.Path,
    stems_dir: str | None = None,
    separator: "Separator | None" = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads a clip's mixture and its stems.

    Args:
        clip: The clip.
        sources: Sources in order.
        frontend: Its rate is used.
        dataset_dir: The dataset's root.
        stems_dir: Folder of stems relative to it: stems lie in
            `<stems_dir>/<clip's path without suffix>/<source>.<any audio suffix>`.
        separator: Makes the stems, where they do not lie on disk.

    Returns:
        The mixture, float32 [n], mono at the front end's rate, and the same of each
        source that there is, trimmed or padded with zeros to n samples.

    Raises:
        AudioError: For the mixture, or for a stem (its message names the stem).
    """
    rate_hz = frontend.sample_rate_hz
    if clip.is_sum:
        stems = _read_stems(clip.stem_paths, None, rate_hz, dataset_dir)
        return np.stack(list(stems.values())).sum(axis=0), stems
    decoded = audio.decode(dataset_dir / clip.path, clip.expected_seconds)
    mixture = audio.to_mono(decoded, rate_hz)
    if not clip.wants_stems or not sources:
        return mixture, {}
    if separator is not None:
        # Before separating, which costs far more than the check.
        audio.check_length(mixture, frontend)
        stems = {
            source: _fit(stem, len(mixture))
            for source, stem in separator.separate(decoded, rate_hz).items()
        }
        return mixture, stems
    paths = clip.stem_paths
    if stems_dir is not None:
        folder = pathlib.Path(stems_dir) / os.path.splitext(clip.path)[0]
        paths = tuple(
            (source, path.relative_to(dataset_dir).as_posix())
            for source in sources
            if (path := audio.find_audio(dataset_dir / folder, source))
        )
        if not paths:
            raise audio.StemError(
                f"no stem {', '.join(sources)} in <stems_dir>/"
                f"{os.path.splitext(clip.path)[0]}"
            )
    return mixture, _read_stems(paths, len(mixture), rate_hz, dataset_dir)


def _read_stems(
    paths: Sequence[tuple[str, str]],
    num_samples: int | None,
    rate_hz: int,
    dataset_dir: pathlib.Path,
) -> dict[str, np.ndarray]:
    stems = {}
    for source, path in paths:
        try:
            stems[source] = audio.to_mono(audio.decode(dataset_dir / path), rate_hz)
        except audio.AudioError as error:
            raise type(error)(f"stem {source}: {error}") from error
    if num_samples is None:
        num_samples = max(map(len, stems.values()))
    for source, stem in stems.items():
        difference = (len(stem) - num_samples) / rate_hz
        if abs(difference) > _MAX_LENGTH_DIFFERENCE_SECONDS:
            raise audio.StemError(
                f"stem {source} is {abs(difference):.2f} s "
                f"{'longer' if difference > 0 else 'shorter'} than the mixture"
            )
        stems[source] = _fit(stem, num_samples)
    return stems


def _fit(stem: np.ndarray, num_samples: int) -> np.ndarray:
    """Trims, or pads with zeros, to num_samples."""
    if len(stem) >= num_samples:
        return stem[:num_samples]
    return np.pad(stem, (0, num_samples - len(stem)))


def correlation(stem: np.ndarray, mixture: np.ndarray) -> float | None:
    """Pearson's correlation of two waveforms [n]; None where one is constant."""
    first = stem - stem.mean(dtype=np.float64)
    second = mixture - mixture.mean(dtype=np.float64)
    # Not dot products: BLAS' result may depend on its number of threads.
    norm = np.sqrt(np.square(first).sum() * np.square(second).sum())
    return float((first * second).sum() / norm) if norm > 0 else None


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
    """

    def __init__(
        self,
        name: str,
        folder: pathlib.Path,
        niter: int,
        seed: int,
        sources: Sequence[str] | None = None,
        num_threads: int = 1,
    ):
        """Loads the model; takes a second or two.

        Args:
            name: `umxhq`, `umxl` (downloaded once), `random`, or else the folder's.
            folder: Where the weights lie, unless `name` is one of the above.
            niter: Iterations of the Wiener filter.
            seed: Draws the weights of `random`.
            sources: Sources in order; None: see `separator_sources`.
            num_threads: torch's threads in this process.

        Raises:
            SeparatorError: If the extra is missing or the weights cannot be loaded.
        """
        openunmix = start_torch(num_threads)
        import torch

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
                self._model = openunmix.umxhq(
                    targets=list(self.sources), niter=niter, pretrained=False
                )
        elif name in NAMES:
            self._model = _pretrained(openunmix, name, self.sources, niter)
        else:
            self._model = load_folder(folder, self.sources, niter)
        self._model.freeze()
        self._rate_hz = int(self._model.sample_rate)
        first = self._model.target_models[self.sources[0]]
        self._num_channels = first.fc1.in_features // first.nb_bins
        self.weights_sha256 = _digest(self._model.target_models.state_dict())

    def separate(self, decoded: audio.Audio, rate_hz: int) -> dict[str, np.ndarray]:
        """Separates one clip.

        Args:
            decoded: The mixture, any number of channels and rate.
            rate_hz: Rate of the stems.

        Returns:
            float32 [m] of every source, mono.
        """
        import torch

        samples = decoded.samples
        if len(samples) != self._num_channels:
            mono = samples.mean(axis=0, keepdims=True, dtype=np.float32)
            samples = np.repeat(mono, self._num_channels, axis=0)
        samples = audio.resample(samples, decoded.rate_hz, self._rate_hz)
        with torch.inference_mode():
            estimates = self._model(torch.from_numpy(samples)[None])[0]
        mono_stems = estimates.mean(dim=1).numpy()
        if not np.isfinite(mono_stems).all():
            raise audio.StemError("the separator gave samples that are not finite")
        stems = audio.resample(mono_stems, self._rate_hz, rate_hz)
        return dict(zip(self.sources, stems, strict=True))


def _pretrained(openunmix: Any, name: str, sources: Sequence[str], niter: int) -> Any:
    try:
        with _restricted_pickles():
            return getattr(openunmix, name)(targets=list(sources), niter=niter)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise SeparatorError(
            f"the weights of {name} could not be downloaded or read ("
            f"{next(iter(str(error).splitlines()), '')}); fetch "
            "them on another machine into torch.hub's folder of checkpoints, or name a "
            "folder of weights with --separator=PATH"
        ) from error


@contextlib.contextmanager
def _restricted_pickles() -> Iterator[None]:
    """torch.load takes weights alone, in code that does not ask for it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _digest(state: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
