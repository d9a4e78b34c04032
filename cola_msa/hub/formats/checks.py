"""Compares exports, run by a fresh process, with the encoder and its heads."""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from cola_msa.audio.frontend import exact_frames
from cola_msa.audio.frontend_numpy import (
    fill_window,
    split_windows,
    whole_frames,
)
from cola_msa.config.schema import FrontendConfig
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.hub.formats.portable import run_file
from cola_msa.hub.formats.saved_model import TAG_SIGNATURE, run_exported
from cola_msa.hub.opened import ExportError, OpenedModel
from cola_msa.model.embedding import ClipPooling
from cola_msa.records.stored import round_to_stored

TOLERANCE = 1e-4  # relative difference between export and encoder
HALF_TOLERANCE = 3e-2  # of weights rounded to float16
_ROUNDINGS = 10  # a network rounds more often than once
_HIGHEST_TOLERANCE = 1e-2  # beyond it an export is of no use, rounding or not
FILE_TOLERANCES = {".tflite": 1e-3, ".onnx": 1e-4}
TAG_TOLERANCE = 1e-5  # of probabilities
TFLITE_TAG_TOLERANCE = 1e-3


def check_waveforms(frontend: FrontendConfig) -> tuple[np.ndarray, np.ndarray]:
    """Clips of 0.3, 2.5 and 11 s.

    Returns:
        waveform float32 [3, samples], padded with zeros, and lengths int32 [3].
    """
    random = np.random.default_rng(0)
    rate = frontend.sample_rate_hz
    lengths = np.array([int(0.3 * rate), int(2.5 * rate), 11 * rate], np.int32)
    waveform = np.zeros((3, lengths.max()), np.float32)
    for row, length in enumerate(lengths):
        # Tones that come and go over noise: far from what one window's mean shows.
        time = np.arange(length) / rate
        tone = np.sin(2 * np.pi * (220 + 110 * row) * time) * (np.sin(3 * time) > 0)
        waveform[row, :length] = 0.1 * tone + 0.01 * random.standard_normal(length)
    return waveform, lengths


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the expected norm; infinite where NaN is found."""
    difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return difference if np.isfinite(difference) else float("inf")


def tolerance_of(windows: np.ndarray, model: OpenedModel) -> float:
    """How far an export may be from the encoder on these windows.

    Where an encoder multiplies rounding, no export can be nearer: on a window that is
    padding for the most part, one of 200 updates moved by 2.5e-4 where its input moved
    by float32's last bit.

    Args:
        windows: float32 [W, frames, num_mels, 1].
        model: The encoder.

    Returns:
        A relative difference: TOLERANCE, or where it is more, ten times what the
        input's last bit does; never more than 0.01.
    """
    noise = np.random.default_rng(0).choice([-1.0, 1.0], windows.shape)
    changed = (windows * (1.0 + 2.0**-23 * noise)).astype(np.float32)
    rounding = relative_difference(model.embed(changed), model.embed(windows))
    return min(max(TOLERANCE, _ROUNDINGS * rounding), _HIGHEST_TOLERANCE)


def reference_mel(waveform: np.ndarray, frontend: FrontendConfig) -> np.ndarray:
    """Windows of one clip: float32 [samples] -> [W, frames, num_mels, 1]."""
    samples = whole_frames(waveform, 0, frontend)
    frames = np.zeros((0, frontend.num_mels), np.float32)
    if frontend.num_frames(len(samples)) > 0:
        frames = exact_frames(samples, frontend).numpy()
    return split_windows(fill_window(frames, frontend), frontend).astype(np.float32)


def reference_windows(waveform: np.ndarray, model: OpenedModel) -> np.ndarray:
    """What a probe sees of one clip: float32 [samples] -> [W, dim]."""
    windows = reference_mel(waveform, model.frontend)
    return np.concatenate(
        [model.embed(windows[i : i + 256]) for i in range(0, len(windows), 256)]
    )


def check_export(export_dir: pathlib.Path, model: OpenedModel) -> float:
    """Compares the export, loaded by a process without cola_msa, with the encoder.

    Args:
        export_dir: The SavedModel.
        model: What it was made from.

    Returns:
        Largest relative difference over clips of 0.3, 2.5 and 11 s: of windows, clips,
        and the scores of one clip's windows against another's.

    Raises:
        ExportError: If windows or clips exceed what `tolerance_of` allows, or scores
            TOLERANCE.
    """
    waveform, lengths = check_waveforms(model.frontend)
    clips = [waveform[row, :length] for row, length in enumerate(lengths)]
    stems, mixtures = (reference_mel(clip, model.frontend) for clip in clips[1:])
    inputs = {"waveform": waveform, "lengths": lengths}
    inputs |= {"mixture_windows": mixtures, "stem_windows": stems}
    exported = run_exported(export_dir, inputs, "embed_waveform", "match")
    assert model.matcher is not None
    scores = model.matcher.score(
        model.matcher.project(mixtures), model.matcher.project(stems)
    )
    compared = [(exported["scores"], scores, TOLERANCE)]
    for row, clip in enumerate(clips):
        expected = reference_windows(clip, model)
        got = exported["windows"][row, : len(expected)]
        if exported["num_windows"][row] != len(expected):
            raise ExportError(
                f"the export gives {exported['num_windows'][row]} windows for a clip "
                f"of {len(clip)} samples instead of {len(expected)}"
            )
        tolerance = tolerance_of(reference_mel(clip, model.frontend), model)
        compared.append((got, expected, tolerance))
        pooling = ClipPooling(model.clip_embedding)
        pooling.add(expected)
        compared.append((exported["clip"][row], pooling.result(), tolerance))
    worst = 0.0
    for found, expected, tolerance in compared:
        difference = relative_difference(found, expected)
        if not difference < tolerance:
            raise ExportError(
                f"the export in {export_dir} differs from the encoder by "
                f"{difference:.2g} (relative), more than {tolerance:.2g}"
            )
        worst = max(worst, difference)
    return worst


def check_pretrained(
    folder: str | os.PathLike, model: OpenedModel, tolerance: float = TOLERANCE
) -> float:
    """Compares a pretrained folder, opened by a fresh process, with its run.

    Raises:
        ExportError: If it differs by more than `tolerance`.
    """
    waveform, lengths = check_waveforms(model.frontend)
    mel = reference_mel(waveform[-1, : lengths[-1]], model.frontend)
    difference = relative_difference(_embed_apart(folder, mel), model.embed(mel))
    if not difference < tolerance:
        raise ExportError(
            f"{folder} differs from its run by {difference:.2g} (relative), more than "
            f"{tolerance:g}"
        )
    return difference


def _embed_apart(folder: str | os.PathLike, mel: np.ndarray) -> np.ndarray:
    """Embeds windows by a pretrained folder in a fresh process."""
    with tempfile.TemporaryDirectory() as check:
        path = pathlib.Path(check) / "mel.npy"
        np.save(path, mel)
        command = [sys.executable, "-c", _PRETRAINED_SCRIPT, str(folder), str(path)]
        subprocess.run(command, check=True)
        return np.load(path)


_PRETRAINED_SCRIPT = """
import sys
import numpy as np
import cola_msa
model = cola_msa.from_pretrained(sys.argv[1])
np.save(sys.argv[2], model.embed(np.load(sys.argv[2])))
"""


def check_file(path: pathlib.Path, model: OpenedModel) -> float:
    """Compares a TFLite or ONNX file, run by a fresh process, with the encoder.

    Args:
        path: The file.
        model: What it was made from.

    Returns:
        Largest relative difference over the windows of clips of 2.5 and 11 s, and over
        one window of twice the length. None is padded: on a window of 0.3 s of sound
        an encoder of 20 updates moved by 7e-5 where its input did by 1e-6, so that
        the order in which a runtime adds shows there.

    Raises:
        ExportError: If it exceeds the format's tolerance, or a value is not finite.
    """
    waveform, lengths = check_waveforms(model.frontend)
    batches = [
        reference_mel(waveform[row, :length], model.frontend)
        for row, length in enumerate(lengths)
        if model.frontend.num_frames(int(length)) >= model.frontend.window_frames
    ]
    longest = batches[-1]
    batches.append(np.concatenate([longest[:1], longest[1:2]], axis=1))
    tolerance = FILE_TOLERANCES[path.suffix]
    worst = 0.0
    for windows, got in zip(batches, run_file(path, batches), strict=True):
        worst = max(worst, relative_difference(got, model.embed(windows)))
    if not worst < tolerance:
        raise ExportError(
            f"{path} differs from the encoder by {worst:.2g} (relative), more than "
            f"{tolerance:g}"
        )
    return worst


def reference_tags(windows: np.ndarray, model: OpenedModel, heads: Heads) -> np.ndarray:
    """What `cola_msa.tag` says of a clip's windows.

    Args:
        windows: float32 [W, frames, num_mels, 1].
        model: The encoder.
        heads: Its heads.

    Returns:
        float32 [W, K]; of heads on whole clips [1, K].
    """
    if heads.are_of_clips:
        pooling = ClipPooling(model.clip_embedding)
        pooling.add(model.embed(windows))
        return heads.score_windows(pooling.result()[np.newaxis])
    return heads.score_windows(model.embed(round_to_stored(windows, model.frontend)))


def tag_tolerance_of(
    windows: np.ndarray, model: OpenedModel, heads: Heads, least: float
) -> float:
    """How far probabilities may be from `reference_tags` on these windows.

    Where the last bit of float32 turns a value over to the next one of half precision,
    no export can be nearer.

    Args:
        windows: float32 [W, frames, num_mels, 1].
        model: The encoder.
        heads: Its heads.
        least: What is allowed anyway.

    Returns:
        A difference: `least`, or where it is more, ten times what the last bit of the
        log-mels does, before and behind their rounding; never more than 0.01.
    """
    random = np.random.default_rng(0)

    def change(mel: np.ndarray) -> np.ndarray:
        noise = random.choice([-1.0, 1.0], mel.shape)
        return (mel * (1.0 + 2.0**-23 * noise)).astype(np.float32)

    changed = change(windows)
    if heads.are_of_clips:
        found = reference_tags(changed, model, heads)
    else:
        found = heads.score_windows(
            model.embed(change(round_to_stored(changed, model.frontend)))
        )
    moved = np.abs(found - reference_tags(windows, model, heads)).max()
    return min(max(least, _ROUNDINGS * float(moved)), _HIGHEST_TOLERANCE)


def check_tags(path: pathlib.Path, model: OpenedModel, heads: Heads) -> float:
    """Compares an export's probabilities, given by a fresh process, with NumPy's.

    Args:
        path: A SavedModel, or tagger.onnx or tagger.tflite.
        model: The encoder that it was made from.
        heads: The heads.

    Returns:
        Largest difference of a window's or a clip's probability, over the clips of
        `check_export`, of a file over those of `check_file`.

    Raises:
        ExportError: If it exceeds what `tag_tolerance_of` allows.
    """
    waveform, lengths = check_waveforms(model.frontend)
    mels = [
        reference_mel(waveform[row, :length], model.frontend)
        for row, length in enumerate(lengths)
    ]
    least = TAG_TOLERANCE
    compared: list[tuple[np.ndarray, np.ndarray, int]] = []
    if path.suffix in FILE_TOLERANCES:
        least = TFLITE_TAG_TOLERANCE if path.suffix == ".tflite" else least
        mels = mels[1:]  # those without padding
        for row, found in enumerate(run_file(path, mels)):
            compared.append((found, reference_tags(mels[row], model, heads), row))
    else:
        inputs = {"waveform": waveform, "lengths": lengths}
        tags = run_exported(path, inputs, TAG_SIGNATURE)
        for row, mel in enumerate(mels):
            expected = reference_tags(mel, model, heads)
            clip = expected.mean(axis=0, dtype=np.float64)
            compared.append((tags["clip"][row], clip, row))
            if not heads.are_of_clips:
                found = tags["windows"][row, : tags["num_windows"][row]]
                compared.append((found, expected, row))
    worst = 0.0
    for found, expected, row in compared:
        difference = _largest_difference(found, expected)
        tolerance = tag_tolerance_of(mels[row], model, heads, least)
        if not difference <= tolerance:
            raise ExportError(
                f"the probabilities of {path} differ from those of cola_msa.tag by "
                f"{difference:.2g}, more than {tolerance:.2g}"
            )
        worst = max(worst, difference)
    return worst


def _largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Infinite where shapes differ or NaN is found."""
    if found.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(found - expected).max())
    return difference if np.isfinite(difference) else float("inf")


def check_carried(
    folder: pathlib.Path, model: OpenedModel, heads: Sequence[Heads], weights: str
) -> float:
    """Compares a pretrained folder's probabilities, in a fresh process, with its run's.

    Args:
        folder: The folder.
        model: Its run.
        heads: The folder's heads.
        weights: How it stores its weights.

    Returns:
        Largest difference of a probability over the windows of a clip of 11 s.

    Raises:
        ExportError: If weights that are not rounded give others than
            `tag_tolerance_of` allows.
    """
    waveform, lengths = check_waveforms(model.frontend)
    mel = reference_mel(waveform[-1, : lengths[-1]], model.frontend)
    both = np.concatenate([mel, round_to_stored(mel, model.frontend)])
    embeddings = np.split(_embed_apart(folder, both), 2)
    worst = 0.0
    for one in heads:
        if one.are_of_clips:
            pooling = ClipPooling(model.clip_embedding)
            pooling.add(embeddings[0])
            found = one.score_windows(pooling.result()[np.newaxis])
        else:
            found = one.score_windows(embeddings[1])
        difference = _largest_difference(found, reference_tags(mel, model, one))
        if weights == "float32":
            tolerance = tag_tolerance_of(mel, model, one, TAG_TOLERANCE)
            if not difference <= tolerance:
                raise ExportError(
                    f"{folder}: the probabilities for {one.task['name']} differ from "
                    f"the run's by {difference:.2g}, more than {tolerance:.2g}"
                )
        worst = max(worst, difference)
    return worst
