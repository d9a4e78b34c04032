"""What clips say without any network: statistics of their log-mels, to compare with."""

import concurrent.futures
import os
from collections.abc import Sequence

import numpy as np

from cola_msa.audio.clip_windows import decode_clip
from cola_msa.audio.errors import AudioError
from cola_msa.config.schema import FrontendConfig
from cola_msa.system.console import progress_bar

_FRONTEND = FrontendConfig()
_SIZE = 4 * _FRONTEND.num_mels
_MOST_WINDOWS = 3600  # an hour; of what is longer the first
MOST_FILES = 500  # that are decoded: a comparison is not what a head waits for


def mel_statistics(mel: np.ndarray) -> np.ndarray:
    """Each band's mean, deviation, mean change and 90th percentile.

    Args:
        mel: float [frames, num_mels].

    Returns:
        float [4 * num_mels].
    """
    change = np.abs(np.diff(mel, axis=0)).mean(0)
    loud = np.percentile(mel, 90, axis=0)
    return np.concatenate([mel.mean(0), mel.std(0), change, loud])


def clip_spectra(path: str) -> np.ndarray:
    """`mel_statistics` of a whole file, float32 [256].

    Args:
        path: An audio file.

    Raises:
        AudioError: If it cannot be decoded.
    """
    parts: list[np.ndarray] = []
    with decode_clip(path, _FRONTEND) as clip:
        for windows in clip.windows():
            parts.append(windows[..., 0].reshape(-1, _FRONTEND.num_mels))
            if sum(map(len, parts)) > _MOST_WINDOWS * _FRONTEND.window_frames:
                break
    return mel_statistics(np.concatenate(parts)).astype(np.float32)


def spectra_of(paths: Sequence[str], most: int = MOST_FILES) -> np.ndarray:
    """`clip_spectra` of many files, in threads, with a bar.

    Args:
        paths: Audio files; some may be gone or damaged.
        most: How many are decoded; of more a random sample, the same each time.

    Returns:
        float32 [n, 256]; NaN where a file cannot be read, or is not in the sample.
    """
    rows = np.full((len(paths), _SIZE), np.nan, np.float32)
    count = min(most, len(paths))
    chosen = np.random.default_rng(0).choice(len(paths), count, replace=False)
    chosen.sort()

    def read(path: str) -> np.ndarray:
        try:
            return clip_spectra(path)
        except (AudioError, OSError, MemoryError):
            return np.full(_SIZE, np.nan, np.float32)

    workers = len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        with progress_bar(count, "log-mel statistics", "file") as bar:
            asked = pool.map(read, [paths[number] for number in chosen])
            for number, row in zip(chosen, asked, strict=True):
                rows[number] = row
                bar.update()
    return rows
