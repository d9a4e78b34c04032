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
from typing import Any

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from cola_msa.audio import decode
from cola_msa.audio.clip_windows import decode_clip
from cola_msa.audio.errors import AudioError
from cola_msa.audio.files import list_audio, same_name
from cola_msa.evaluation.charts import save_figure
from cola_msa.evaluation.retrieval import rank_scores
from cola_msa.hub.opened import OpenedModel
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import FileError, UserError, one_line
from cola_msa.values.chart_text import plain, wrapped
from cola_msa.values.reading import read_json

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
        """Of the first `count` stretches, float32 [count]; zeros fill the last one."""
        last = self._rest.sum(keepdims=True) / self._span
        return np.concatenate([*self._means, last])[:count]


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
    return rank_scores(np.array(ranks), np.array(counts))


def centred(scores: np.ndarray) -> np.ndarray:
    """Scores less each stem's mean over mixtures: what it has with any mixture."""
    count = np.isfinite(scores).sum(axis=0)  # 0 of a stem without any sound
    return scores - np.nansum(scores, axis=0) / np.maximum(count, 1)


RESULT_NAME, CHART_NAME = "match.json", "match.png"


def project_all(
    model: OpenedModel, paths: Sequence[pathlib.Path], failures: dict[str, str]
) -> Iterator[Projected]:
    """Projects files one by one; what cannot be read is left out and gets a reason.

    Args:
        model: With a matcher.
        paths: Files.
        failures: Reasons by path; added to.

    Yields:
        Each file's windows.
    """
    for path in ProgressBar(paths, desc="project", unit="file"):
        try:
            yield project_file(model, path)
        except AudioError as error:
            failures[str(path)] = str(error)


def match(
    model: OpenedModel,
    mixture: str,
    stems: str,
    mixture_names: Sequence[str] = ("mixture",),
    stem_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores every stem against every mixture.

    Args:
        model: With a matcher.
        mixture: A file, or a folder: its files named like one of `mixture_names`, or
            all where there are none.
        stems: A file or a folder.
        mixture_names: File names without suffix; such files are no stems.
        stem_names: File names without suffix to take as stems; all by default.

    Returns:
        `mixtures`, `stems` (paths), `scores` [mixtures, stems], `windows` [mixtures,
        stems, W], `is_own`, `own` (ranks of own stems; and `own_centred`, of scores
        less each stem's mean), `silent` (stems without any sound, which have no
        score), `failures` (with mixtures without any sound).

    Raises:
        MatchError: If nothing is left to compare.
    """
    if not model.hears_stems:
        logging.warning(
            "%s: this model learned from mixtures alone and has heard no stem: expect "
            "little of its scores, or take one that learned from stems, as python -m "
            "cola_msa.train --source=multi makes it, or --model=starter",
            model.path,
        )
    try:
        mixture_paths = find_files(mixture, mixture_names)
    except MatchError:
        mixture_paths = find_files(mixture)
    taken = {path.resolve() for path in mixture_paths}
    stem_paths = [
        path
        for path in find_files(stems, stem_names)
        if path.resolve() not in taken and path.stem not in mixture_names
    ]
    failures: dict[str, str] = {}
    songs = []
    for song in project_all(model, mixture_paths, failures):
        if song.is_silent:
            failures[str(song.path)] = "a mixture without any sound"
        else:
            songs.append(song)
    if not songs:
        raise _nothing_left("mixture", failures)
    # One stem at a time: only the mixtures' projections are held.
    parts, silent = [], []
    columns: list[np.ndarray] = []
    windows: list[list[list[float | None]]] = [[] for _ in songs]
    for part in project_all(model, stem_paths, failures):
        parts.append(part.path)
        if part.is_silent:
            silent.append(str(part.path))
        columns.append(np.full(len(songs), np.nan))
        for row, song in enumerate(songs):
            values = np.full(len(song.projections), np.nan)
            if not part.is_silent:
                try:
                    found = score_pair(model, song, part)
                    columns[-1][row], values = found.clip, found.windows
                except MatchError as error:
                    logging.warning("%s", error)
            windows[row].append(
                [None if np.isnan(v) else round(float(v), 6) for v in values]
            )
    if not parts:
        raise _nothing_left("stem", failures)
    scores = np.stack(columns, axis=1)
    if not np.isfinite(scores).any():
        raise MatchError("every stem is silent as long as the mixtures last")
    is_own = own_stems([s.path for s in songs], parts)
    kinds = [path.stem for path in parts]
    if len(set(kinds)) == len(kinds):  # each stem has a name of its own
        kinds = [""] * len(kinds)
    result: dict[str, Any] = {
        "model": model.description,
        "model_hash": model.key,
        "window_seconds": model.frontend.seconds(model.frontend.window_frames),
        "mixtures": [str(s.path) for s in songs],
        "stems": [str(path) for path in parts],
        "scores": [[None if np.isnan(v) else float(v) for v in row] for row in scores],
        "windows": windows,
        "is_own": is_own.tolist(),
        "own": rank_own(scores, is_own, kinds),
        "silent": silent,
        "failures": failures,
    }
    if len(songs) > 1:
        result["own_centred"] = rank_own(centred(scores), is_own, kinds)
    return result


def _nothing_left(what: str, failures: dict[str, str]) -> MatchError:
    reasons = "; ".join(f"{path}: {why}" for path, why in failures.items())
    return MatchError(f"no {what} is left to compare ({reasons or 'no file'})")


def render(result: dict[str, Any], num_results: int) -> str:
    """A result as text: rankings, and how often own stems come first."""
    lines = []
    for row, mixture in enumerate(result["mixtures"]):
        scores = np.array(result["scores"][row], float)
        lines += [f"{mixture}:", f"{'':>4}  {'score':>10}"]
        # What is not a number is sorted to the end.
        order = np.argsort(-scores, kind="stable")
        for rank, number in enumerate(order[:num_results], 1):
            own = "  (its own)" if result["is_own"][row][number] else ""
            path = result["stems"][number]
            score = f"{rank:>4}  {scores[number]:>10.4f}"
            if not np.isfinite(scores[number]):
                score = f"{'-':>4}  {'silent':>10}"
            lines.append(f"{score}  {path}{own}")
    for name, title in (("own", "scores"), ("own_centred", "less each stem's mean")):
        found = result.get(name, {})
        if found.get("num_queries"):
            lines.append(
                f"own stems, {title}: top-1 {found['top1']:.3f} (chance "
                f"{found['chance_top1']:.3f}), MRR {found['mrr']:.3f} (chance "
                f"{found['chance_mrr']:.3f}), {found['num_queries']} queries"
            )
    lines += [f"silent, not ranked: {path}" for path in result["silent"]]
    lines += [f"failed: {path}: {why}" for path, why in result["failures"].items()]
    return "\n".join(map(one_line, lines))


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
    """Draws a ranking (one mixture) or the matrix (several)."""
    scores = np.array(result["scores"], float)
    mixtures, stems = result["mixtures"], result["stems"]
    if len(mixtures) == 1:
        order = [
            n
            for n in np.argsort(-scores[0], kind="stable")
            if np.isfinite(scores[0][n])
        ]
        windows = np.array(result["windows"][0], float)
        draw_ranking(
            path,
            [_short(stems[n]) for n in order],
            scores[0][order],
            windows[order],
            result["window_seconds"],
            f"stems for {_short(mixtures[0])}",
        )
        return
    own = result["own"]
    title = f"{len(mixtures)} mixtures, {len(stems)} stems"
    if own["num_queries"]:
        title += (
            f"; own stem first: {own['top1']:.2f} (chance {own['chance_top1']:.2f})"
        )
    draw_matrix(
        path,
        [_short(p) for p in mixtures],
        [_short(p) for p in stems],
        scores,
        np.array(result["is_own"], bool),
        title,
    )


def _short(path: str) -> str:
    """The last folder and the file's name."""
    parts = pathlib.PurePath(path).with_suffix("").parts
    return "/".join(parts[-2:])


def _holds_match(folder: pathlib.Path) -> bool:
    try:
        found = read_json(folder / RESULT_NAME)
    except FileError:
        return False
    return {"model_hash", "mixtures", "stems", "scores"} <= found.keys()


_COLOURS = ("#0067a5", "#d45500", "#00845a", "#b5438b", "#8f6b00")
_REST = "#9aa0a8"
_MOST_BARS = 30


def draw_ranking(
    path: str | os.PathLike,
    names: Sequence[str],
    clip_scores: np.ndarray,
    window_scores: np.ndarray,
    window_seconds: float,
    title: str,
) -> None:
    """Draws the ranked stems of one mixture, and the best ones over time.

    Args:
        path: The PNG file.
        names: Of n stems, the best first.
        clip_scores: float [n].
        window_scores: float [n, W]; gaps where a stem is silent.
        window_seconds: From one window to the next.
        title: The mixture.
    """
    shown = min(len(names), _MOST_BARS)
    labels = [plain(name) for name in names[:shown]]
    height = 1.6 + 0.26 * shown
    figure = Figure((9, height + 3.2), layout="constrained")
    bars, lines = figure.subplots(2, 1, height_ratios=[height, 3])
    colours = [_COLOURS[k] if k < len(_COLOURS) else _REST for k in range(shown)]
    place = np.arange(shown)
    bars.barh(place, clip_scores[:shown], color=colours, height=0.7)
    bars.set_yticks(place, labels)
    bars.invert_yaxis()
    bars.set_xlabel("score over the clip (higher: belongs together)")
    more = f", the first {shown} of {len(names)} stems" if shown < len(names) else ""
    bars.set_title(wrapped(f"{title}{more}", 80))
    seconds = np.arange(window_scores.shape[1]) * window_seconds
    for k in range(min(shown, len(_COLOURS))):
        lines.plot(seconds, window_scores[k], ".-", color=colours[k], label=labels[k])
    lines.set_xlabel("time (s)")
    lines.set_ylabel("score per window")
    lines.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_matrix(
    path: str | os.PathLike,
    mixtures: Sequence[str],
    stems: Sequence[str],
    scores: np.ndarray,
    is_own: np.ndarray,
    title: str,
) -> None:
    """Draws scores of stems (columns) against mixtures (rows); own stems are ringed.

    Args:
        path: The PNG file.
        mixtures: Names of the rows.
        stems: Names of the columns.
        scores: float [mixtures, stems].
        is_own: bool [mixtures, stems].
        title: Above the matrix.
    """
    size = (3.6 + 0.28 * len(stems), 3.0 + 0.28 * len(mixtures))
    figure = Figure((min(size[0], 40), min(size[1], 40)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(scores, cmap="cividis", aspect="auto")
    own_rows, own_columns = np.nonzero(is_own)
    axes.scatter(
        own_columns, own_rows, s=60, facecolors="none", edgecolors="#ff5a36", lw=1.6
    )
    columns = [plain(name) for name in stems]
    axes.set_xticks(np.arange(len(stems)), columns, rotation=90, fontsize=7)
    rows = [plain(name) for name in mixtures]
    axes.set_yticks(np.arange(len(mixtures)), rows, fontsize=7)
    axes.set_xlabel("stem (ring: the mixture's own)")
    axes.set_ylabel("mixture")
    axes.set_title(wrapped(title, 60), fontsize=10)
    figure.colorbar(image, ax=axes, label="score", shrink=0.8)
    save_figure(figure, path, 110)
