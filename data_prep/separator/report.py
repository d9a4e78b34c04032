"""How good a trained separator is on held-out tracks, beside masks at random."""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from cola_msa.audio import decode
from cola_msa.config.schema import Checked
from cola_msa.system.console import ProgressBar, tell
from cola_msa.system.errors import FileError
from cola_msa.system.files import write_bytes, write_json
from cola_msa.values.fields import within
from cola_msa.values.reading import read_json
from data_prep.separator import folder
from data_prep.separator.chunks import StemReader
from data_prep.separator.network import TrainingError
from data_prep.separator.tracks import RATE_HZ, SeparatorConfig, Track
from data_prep.stems import separator as separator_lib
from data_prep.stems.waveforms import Waveform, correlation

ESTIMATES = ("trained", "random", "mixture")
# A stem this far below its mixture is silent: there is nothing to correlate with.
_SILENT_DB = -60.0
_SI_SDR_LIMIT_DB = 60.0
_PACKAGES = ("torch", "openunmix", "numpy", "soundfile", "soxr")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Checked):
    """On what a separator is judged.

    Attributes:
        num_tracks: Most held-out tracks, the first by name; 0 for all.
        seconds: The middle of each track up to this length.
        niter: Iterations of the Wiener filter; 0 where there is one target alone.
        num_threads: torch's threads.
    """

    num_tracks: int = within(0, 0)
    seconds: float = within(30.0, 0.01)
    niter: int = within(1, 0)
    num_threads: int = within(1, 0)


def si_sdr(estimate: np.ndarray, stem: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio, in dB.

    Args:
        estimate: float [n].
        stem: The true stem, float [n], not silent.

    Returns:
        10 log10(c^2 / (1 - c^2)), c the cosine of the angle between the two, which
        is the ratio of the definition; limited to -60 to 60 dB, and -60 dB for an
        estimate of zeros.

    Source: Le Roux et al. 2019, "SDR - half-baked or well done?".
    """
    estimate, stem = estimate.astype(np.float64), stem.astype(np.float64)
    norm = np.square(estimate).sum() * np.square(stem).sum()
    square = (estimate * stem).sum() ** 2 / norm if norm > 0 else 0.0
    limit = 1 / (1 + 10 ** (_SI_SDR_LIMIT_DB / 10))
    square = min(max(square, limit), 1 - limit)
    return float(10 * np.log10(square / (1 - square)))


def is_silent(stem: np.ndarray, mixture: np.ndarray) -> bool:
    """Whether a stem's power is below -60 dB of its mixture's."""
    power = np.square(stem, dtype=np.float64).sum()
    return bool(
        power <= 10 ** (_SILENT_DB / 10) * np.square(mixture, dtype=np.float64).sum()
    )


def scores(estimate: np.ndarray, stem: np.ndarray) -> dict[str, float]:
    """Correlation (0 for a constant estimate) and SI-SDR of mono waveforms [n]."""
    value = correlation(Waveform(estimate), Waveform(stem))
    return {
        "correlation": round(value or 0.0, 4),
        "si_sdr_db": round(si_sdr(estimate, stem), 3),
    }


def held_out_tracks(tracks: Sequence[Track], num_tracks: int) -> list[Track]:
    """Test tracks, or validation tracks where there are none."""
    for split in ("test", "validation"):
        found = sorted(
            (track for track in tracks if track.split == split),
            key=lambda track: track.name,
        )
        if found:
            return found[: num_tracks or None]
    return []


def evaluate(
    output_dir: pathlib.Path,
    dataset_dir: pathlib.Path,
    tracks: Sequence[Track],
    config: SeparatorConfig,
    evaluation: EvaluationConfig,
    targets: Sequence[str],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Compares the stems that a folder's weights make with the true ones.

    Args:
        output_dir: The folder of weights.
        dataset_dir: The dataset's root.
        tracks: All tracks.
        config: SeparatorConfig; its seed draws the random separator's weights.
        evaluation: EvaluationConfig.
        targets: All targets of the folder.
        show_progress: Whether to draw a progress bar.

    Returns:
        For every target and over all of them, for every one of ESTIMATES, mean
        correlation and SI-SDR over the held-out stems that are not silent, and in how
        many of them the trained separator's correlation is above the random one's;
        and each track's.

    Raises:
        SeparatorError: If the folder's weights cannot be loaded.
        AudioError: If a file cannot be read.
    """
    held_out = held_out_tracks(tracks, evaluation.num_tracks)
    niter = evaluation.niter if len(targets) > 1 else 0
    separators = {
        name: separator_lib.Separator(
            name,
            output_dir,
            niter,
            config.options.seed,
            targets,
            evaluation.num_threads,
        )
        for name in ("trained", "random")
    }
    numbers = [config.options.sources.index(target) for target in targets]
    reader = StemReader(dataset_dir, (), 0)
    by_track: dict[str, Any] = {}
    for track in ProgressBar(
        held_out, "held-out tracks", unit="track", disable=not show_progress
    ):
        mixture, stems = reader.whole(track, numbers)
        excerpt = _middle(mixture.shape[1], evaluation.seconds)
        mixture = np.ascontiguousarray(mixture[:, excerpt])
        decoded = decode.Audio(mixture, RATE_HZ)
        estimates = {
            name: separator.separate(decoded, RATE_HZ)
            for name, separator in separators.items()
        }
        mono = mixture.mean(axis=0)
        estimates["mixture"] = dict.fromkeys(targets, mono)
        by_track[track.name] = {}
        for target, stem in zip(targets, stems, strict=True):
            truth = stem[:, excerpt].mean(axis=0)
            if is_silent(truth, mono):
                by_track[track.name][target] = None
                continue
            by_track[track.name][target] = {
                name: scores(estimates[name][target], truth) for name in ESTIMATES
            }
    found = {target: [row[target] for row in by_track.values()] for target in targets}
    return {
        "split": held_out[0].split,
        "num_tracks": len(held_out),
        "seconds": evaluation.seconds,
        "niter": niter,
        "random_seed": config.options.seed,
        "weights_sha256": {
            name: separator.weights_sha256 for name, separator in separators.items()
        },
        "mean": {
            target: _mean([row for row in found[target] if row]) for target in targets
        },
        "overall": _mean([row for rows in found.values() for row in rows if row]),
        "by_track": by_track,
    }


def _middle(num_samples: int, seconds: float) -> slice:
    count = min(num_samples, round(seconds * RATE_HZ))
    start = (num_samples - count) // 2
    return slice(start, start + count)


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over stems, and in how many the trained separator beats the random one."""
    mean: dict[str, Any] = {"num_stems": len(rows)}
    if not rows:
        return mean
    for name in ESTIMATES:
        mean[name] = {
            key: round(math.fsum(row[name][key] for row in rows) / len(rows), 4)
            for key in rows[0][name]
        }
    mean["better_than_random"] = sum(
        row["trained"]["correlation"] > row["random"]["correlation"] for row in rows
    )
    return mean


def make(
    output_dir: pathlib.Path,
    dataset_dir: pathlib.Path,
    tracks: Sequence[Track],
    config: SeparatorConfig,
    evaluation: EvaluationConfig,
    log: Callable[[str], None] = tell,
) -> dict[str, Any]:
    """Writes `report.json` and `report.txt` into a folder of weights.

    Args:
        output_dir: The folder.
        dataset_dir: The dataset's root.
        tracks: All tracks.
        config: SeparatorConfig.
        evaluation: EvaluationConfig.
        log: Takes one line.

    Returns:
        The report: losses of every target by epoch, and what `evaluate` gives, or
        None as long as a target of the folder has no weights.

    Raises:
        SeparatorError: If the folder's weights cannot be loaded.
        AudioError: If a file cannot be read.
    """
    targets, missing = folder.folder_targets(output_dir)
    held_out = None
    if missing:
        log(f"no separation of held-out tracks before {', '.join(missing)} is trained")
    else:
        key = _evaluation_key(output_dir, tracks, evaluation, targets)
        held_out = _earlier(output_dir / "report.json", key)
        if held_out is None:
            held_out = evaluate(
                output_dir, dataset_dir, tracks, config, evaluation, targets
            )
            held_out["key"] = key
    report = {
        "num_tracks": {
            split: sum(track.split == split for track in tracks)
            for split in ("train", "validation", "test")
        },
        "losses": {
            target: _losses(output_dir / f"{target}.json")
            for target in targets
            if target not in missing
        },
        "held_out": held_out,
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    write_json(output_dir / "report.json", report)
    write_bytes(output_dir / "report.txt", to_text(report).encode())
    return report


def _evaluation_key(
    output_dir: pathlib.Path,
    tracks: Sequence[Track],
    evaluation: EvaluationConfig,
    targets: Sequence[str],
) -> str:
    """Stands for the weights, the tracks and how they are judged."""
    names = [track.name for track in held_out_tracks(tracks, evaluation.num_tracks)]
    weights = [
        hashlib.sha256((output_dir / f"{target}.pth").read_bytes()).hexdigest()
        for target in targets
    ]
    content = [evaluation.seconds, evaluation.niter, names, list(targets), weights]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _earlier(path: pathlib.Path, key: str) -> dict[str, Any] | None:
    """What an earlier report says of the same weights and tracks."""
    if not path.exists():
        return None
    with contextlib.suppress(FileError):  # it is made anew
        held_out = read_json(path, check=lambda report: dict(report["held_out"]))
        return held_out if held_out.get("key") == key else None
    return None


def _losses(path: pathlib.Path) -> dict[str, Any]:
    return read_json(
        path,
        TrainingError,
        "train this target on: it is written again",
        check=lambda content: {
            "epochs": int(content["epochs_trained"]),
            "stopped_early": bool(content["stopped_early"]),
            "best_epoch": int(content["best_epoch"]),
            "training_loss": [float(v) for v in content["train_loss_history"]],
            "validation_loss": [float(v) for v in content["valid_loss_history"]],
            "seconds": [float(v) for v in content["train_time_history"]],
        },
    )


def to_text(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    counts = ", ".join(f"{n} {split}" for split, n in report["num_tracks"].items())
    lines = [
        f"tracks: {counts}",
        "",
        f"{'target':<10} {'epochs':>6} {'best':>5}   training loss        "
        "validation loss      (mean squared error of magnitudes)",
    ]
    for target, losses in report["losses"].items():
        train, valid = losses["training_loss"], losses["validation_loss"]
        best = valid[losses["best_epoch"] - 1]
        lines.append(
            f"{target:<10} {losses['epochs']:>6} {losses['best_epoch']:>5}   "
            f"{train[0]:8.4f} -> {train[-1]:8.4f} {valid[0]:8.4f} -> {best:8.4f} (best)"
        )
    if report["held_out"]:
        lines += ["", *_held_out_lines(report["held_out"])]
    return "\n".join(lines) + "\n"


def _held_out_lines(held_out: dict[str, Any]) -> list[str]:
    lines = [
        f"{held_out['num_tracks']} {held_out['split']} tracks, up to "
        f"{held_out['seconds']:g} s of each; each true stem against",
        f"{'':<10} {'':>5}" + "".join(f"   {n:^20}" for n in ESTIMATES),
        f"{'target':<10} {'stems':>5}"
        + "   correlation   SI-SDR" * len(ESTIMATES)
        + "   trained above random",
    ]
    for target, mean in (*held_out["mean"].items(), ("all", held_out["overall"])):
        line = f"{target:<10} {mean['num_stems']:>5}"
        for name in ESTIMATES if mean["num_stems"] else ():
            correlation, decibels = mean[name]["correlation"], mean[name]["si_sdr_db"]
            line += f"   {correlation:11.3f} {decibels:5.1f} dB"
        if mean["num_stems"]:
            line += f"   {mean['better_than_random']} of {mean['num_stems']}"
        lines.append(line)
    return lines
