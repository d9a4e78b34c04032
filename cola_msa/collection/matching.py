"""Scores of stems against mixtures: which vocal belongs to this song.

Windows of 0.98 s are projected and compared by the trained similarity. As in training,
a window of the mixture is compared with the stem's windows within the length of a
segment (3.92 s); the score of a clip is the mean over the windows in which the stem
sounds. Scores are similarities without temperature: they rank, and have no unit.
Files and scores are worked through in blocks: of a file only its projections are held,
2 kB a second.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from cola_msa.audio import decode
from cola_msa.audio.clip_windows import decode_clip
from cola_msa.audio.files import list_audio, same_name
from cola_msa.hub.loading import OpenedModel
from cola_msa.system.errors import UserError

_BATCH = 32  # windows that pass through the network at once
_BLOCK = 512  # windows of a mixture that are compared at once: 8 minutes
# A window is silent below this share of the stem's mean absolute value,
_SILENT_SHARE = 0.1
# and below this mean absolute value: -80 dB of full scale, three steps of 16 bits.
_SILENT_VALUE = 1e-4


class MatchError(UserError):
    """Mixtures or stems that cannot be compared; the message says why."""


@dataclasses.dataclass(frozen=True)
class Projected:
    """A file's windows as the similarity sees them; W windows.

    Attributes:
        path: The file.
        projections: float32 [W, D].
        is_active: bool [W], where it sounds.
    """

    path: pathlib.Path
    projections: np.ndarray
    is_active: np.ndarray

    @property
    def is_silent(self) -> bool:
        """Whether it sounds nowhere, so that nothing can be said of it."""
        return not self.is_active.any()


@dataclasses.dataclass(frozen=True)
class Score:
    """A stem against a mixture.

    Attributes:
        clip: Mean over the windows in which the stem sounds.
        windows: float64 [W]; not a number where the stem is silent or has ended.
    """

    clip: float
    windows: np.ndarray


class _Loudness:
    """Mean absolute values of stretches of a waveform that comes in blocks."""

    def __init__(self, span: int):
        self._span = span
        self._rest = np.zeros(0, np.float32)
        self._means: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        samples = np.concatenate([self._rest, np.abs(block)])
        count = len(samples) // self._span
        whole, self._rest = np.split(samples, [count * self._span])
        self._means.append(whole.reshape(count, self._span).mean(axis=1))

    def means(self, count: int) -> np.ndarray:
        """Of the first `count` stretches, float32 [count]."""
        return np.concatenate(self._means)[:count]


def project_file(model: OpenedModel, path: str | os.PathLike) -> Projected:
    """Decodes a file and projects its windows; memory holds no more than these.

    Args:
        model: With a matcher.
        path: Mixture or stem; shorter than a window is refused.

    Raises:
        MatchError: If the model cannot match.
        AudioError: If the file cannot be read.
        OSError: If the temporary file of a long one cannot be written.
    """
    if model.matcher is None:
        raise MatchError(
            f"{model.path}: this export has no signature match; export the run again "
            "with --format=saved_model, or name the run itself"
        )
    frontend = model.frontend
    loudness = _Loudness(frontend.window_frames * frontend.hop_samples)
    with decode_clip(path, frontend, on_block=loudness.add) as clip:
        decode.check_length(clip.num_samples, frontend)
        num_windows = len(clip.starts())
        parts = (
            model.matcher.project(windows[first : first + _BATCH])
            for windows in clip.windows()
            for first in range(0, len(windows), _BATCH)
        )
        projections = _stacked(parts, num_windows)
    per_window = loudness.means(num_windows)
    bound = max(_SILENT_SHARE * per_window.mean(), _SILENT_VALUE)
    return Projected(pathlib.Path(path), projections, per_window >= bound)


def _stacked(parts: Iterator[np.ndarray], count: int) -> np.ndarray:
    """`count` rows from parts, without ever holding them twice."""
    first_part = next(parts)
    rows = np.empty((count, *first_part.shape[1:]), first_part.dtype)
    first = 0
    for part in itertools.chain([first_part], parts):
        rows[first : first + len(part)] = part
        first += len(part)
    return rows


def score_pair(model: OpenedModel, mixture: Projected, stem: Projected) -> Score:
    """Compares a stem with a mixture that starts at the same time.

    Args:
        model: With a matcher.
        mixture: Of the mixture.
        stem: Of the stem; what goes beyond the shorter of both does not count.

    Raises:
        MatchError: If the stem is silent all the time that both last.
    """
    if model.matcher is None:
        raise MatchError(f"{model.path}: cannot match")
    count = min(len(mixture.projections), len(stem.projections))
    is_active = stem.is_active[:count]
    if not is_active.any():
        raise MatchError(f"{stem.path}: silent as long as {mixture.path} lasts")
    reach = model.frontend.segment_frames // model.frontend.window_frames - 1
    windows = np.full(len(mixture.projections), np.nan)
    for first in range(0, count, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, count))
        columns = np.arange(max(0, first - reach), min(rows[-1] + reach + 1, count))
        scores = model.matcher.score(
            mixture.projections[rows], stem.projections[columns]
        ).astype(np.float64)
        distance = np.abs(np.subtract.outer(rows, columns))
        weight = ((distance <= reach) & is_active[columns]).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            near = (scores * weight).sum(axis=1) / weight.sum(axis=1)
        windows[rows] = np.where(is_active[rows], near, np.nan)
    return Score(float(np.nanmean(windows)), windows)


def find_files(
    root: str | os.PathLike, names: Sequence[str] = ()
) -> list[pathlib.Path]:
    """A file itself, or the audio files below a folder, in sorted order.

    Args:
        root: A file or a folder.
        names: File names without suffix to take; all where there are none.

    Raises:
        MatchError: If there is none.
    """
    root = pathlib.Path(root)
    if root.is_file():
        return [root]
    wanted_names = set(map(same_name, names))
    found = sorted(
        path
        for path in map(pathlib.Path, list_audio(root).paths)
        if not names or same_name(path.stem) in wanted_names
    )
    if not found:
        wanted = f" named {', '.join(names)}" if names else ""
        raise MatchError(f"{root}: no audio file{wanted}")
    return found


def own_stems(
    mixtures: Sequence[pathlib.Path], stems: Sequence[pathlib.Path]
) -> np.ndarray:
    """Which stems are known to belong to which mixture, bool [mixtures, stems].

    A stem belongs to the mixture in its folder, or to the one of its file name.
    """
    folders = [path.resolve().parent for path in mixtures]
    by_folder = len(set(folders)) == len(mixtures) > 1
    return np.array(
        [
            [
                stem.stem == mixture.stem or (by_folder and stem.resolve().parent == f)
                for stem in stems
            ]
            for mixture, f in zip(mixtures, folders, strict=True)
        ]
    )


def rank_own(
    scores: np.ndarray, is_own: np.ndarray, kinds: Sequence[str]
) -> dict[str, float]:
    """How well mixtures find their own stems among stems of the same kind.

    Args:
        scores: float [mixtures, stems]; not a number where there is none.
        is_own: bool [mixtures, stems].
        kinds: Of each stem (its file name): candidates are of the same kind.

    Returns:
        `top1`, `mrr`, what chance gives for both, and `num_queries`; ties count half.
    """
    ranks, counts = [], []
    kind = np.array(kinds)
    for row, own in zip(scores, is_own, strict=True):
        for number in np.flatnonzero(own & np.isfinite(row)):
            rivals = row[(kind == kind[number]) & np.isfinite(row)]
            better = (rivals > row[number]).sum()
            equal = (rivals == row[number]).sum() - 1
            ranks.append(1 + better + equal / 2)
            counts.append(len(rivals))
    if not ranks:
        return {"num_queries": 0}
    harmonic = [np.mean(1 / np.arange(1, n + 1)) for n in counts]
    return {
        "top1": float(np.mean(np.array(ranks) <= 1)),
        "mrr": float(np.mean(1 / np.array(ranks))),
        "chance_top1": float(np.mean(1 / np.array(counts))),
        "chance_mrr": float(np.mean(harmonic)),
        "num_queries": len(ranks),
    }


def centred(scores: np.ndarray) -> np.ndarray:
    """Scores less each stem's mean over mixtures: what it has with any mixture."""
    count = np.isfinite(scores).sum(axis=0)  # 0 of a stem without any sound
    return scores - np.nansum(scores, axis=0) / np.maximum(count, 1)
