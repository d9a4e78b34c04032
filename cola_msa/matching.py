"""Scores of stems against mixtures: which vocal belongs to this song.

Windows of 0.98 s are projected and compared by the trained similarity. As in training,
a window of the mixture is compared with the stem's windows within the length of a
segment (3.92 s); the score of a clip is the mean over the windows in which the stem
sounds. Scores are similarities without temperature: they rank, and have no unit.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from cola_msa import audio
from cola_msa.audio_files import list_audio, same_name
from cola_msa.frontend import exact_log_mel, split_windows
from cola_msa.loading import OpenedModel
from cola_msa.system.errors import UserError

_BATCH = 64  # windows that pass through the network at once
# A window is silent below this share of the stem's mean absolute value.
_SILENT_SHARE = 0.1


class MatchError(UserError):
    """Mixtures or stems that cannot be compared; the message says why."""


@dataclasses.dataclass(frozen=True)
class Projected:
    """A file's windows as the similarity sees them; W windows.

    Attributes:
        path: The file.
        projections: float32 [W, D].
        is_active: bool [W]; at least one is true.
    """

    path: pathlib.Path
    projections: np.ndarray
    is_active: np.ndarray


@dataclasses.dataclass(frozen=True)
class Score:
    """A stem against a mixture.

    Attributes:
        clip: Mean over the windows in which the stem sounds.
        windows: float64 [W]; not a number where the stem is silent or has ended.
    """

    clip: float
    windows: np.ndarray


def project_file(model: OpenedModel, path: str | os.PathLike) -> Projected:
    """Decodes a file and projects its windows.

    Args:
        model: With a matcher.
        path: Mixture or stem; shorter than a window is refused.

    Raises:
        MatchError: If the model cannot match.
        AudioError: If the file cannot be read.
    """
    if model.matcher is None:
        raise MatchError(
            f"{model.path}: this export has no signature match; export the run again "
            "with --format=saved_model, or name the run itself"
        )
    frontend = model.frontend
    decoded = audio.decode(path)
    waveform = audio.to_mono(decoded, frontend.sample_rate_hz)
    audio.check_length(waveform, frontend)
    mel = exact_log_mel(waveform, frontend)
    windows = split_windows(mel, frontend).numpy()
    parts = [
        model.matcher.project(windows[i : i + _BATCH])
        for i in range(0, len(windows), _BATCH)
    ]
    span = frontend.window_frames * frontend.hop_samples
    loudness = np.abs(waveform[: len(windows) * span])
    loudness = np.pad(loudness, (0, len(windows) * span - len(loudness)))
    per_window = loudness.reshape(len(windows), span).mean(axis=1)
    is_active = per_window >= _SILENT_SHARE * per_window.mean()
    return Projected(pathlib.Path(path), np.concatenate(parts), is_active)


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
    scores = model.matcher.score(
        mixture.projections[:count], stem.projections[:count]
    ).astype(np.float64)
    reach = model.frontend.segment_frames // model.frontend.window_frames - 1
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    weight = ((distance <= reach) & is_active).astype(np.float64)
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        near = (scores * weight).sum(axis=1) / total
    windows = np.full(len(mixture.projections), np.nan)
    windows[:count] = np.where(is_active, near, np.nan)
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
    return scores - np.nanmean(scores, axis=0, keepdims=True)
