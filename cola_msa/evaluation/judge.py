"""Judges a frozen encoder on a task: embeddings, heads, scores of the test clips.

Validation and test windows are the same under both protocols: all F // 98 windows of
every clip, embedded once and kept. `cached` trains on all windows of the training
clips, `paper` on one random window a segment and epoch, embedded on the fly.
"""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from cola_msa.evaluation.probes.features import (
    EmbeddedSplit,
    Encoder,
    embed_function,
    embed_split,
    join,
)
from cola_msa.evaluation.probes.heads import ProbeConfig, monitor_of
from cola_msa.evaluation.probes.linear import score_clips, train_head
from cola_msa.evaluation.probes.ridge import RidgeConfig, fit_ridge
from cola_msa.evaluation.probes.windows import (
    CachedWindows,
    SampledWindows,
    TrainingWindows,
)
from cola_msa.evaluation.results import check_output
from cola_msa.evaluation.results import has_paper_scale as has_paper_scale
from cola_msa.evaluation.results import read_results as read_results
from cola_msa.evaluation.results import render_table as render_table
from cola_msa.evaluation.setting import (
    PARTS,
    EvaluationConfig,
    Fitted,
    Setting,
    conclude,
)
from cola_msa.evaluation.setting import prepare as prepare
from cola_msa.evaluation.tasks import TaskSpec
from cola_msa.records.prepared import PreparedData
from cola_msa.records.windows import find_segments
from cola_msa.runs.info import EncoderInfo as EncoderInfo

_UNKNOWN_ENCODER = EncoderInfo()
_MAX_EPOCHS = 2000  # of heads on a share of the labels, whose epochs are short


def evaluate(
    encoder: Encoder,
    key: str,
    task: TaskSpec | str,
    data: PreparedData,
    output_dir: str | os.PathLike,
    config: EvaluationConfig = EvaluationConfig(),
    *,
    cache_dir: str | os.PathLike | None = None,
    info: EncoderInfo = _UNKNOWN_ENCODER,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Trains heads on a frozen encoder's embeddings and scores them on test clips.

    Args:
        encoder: float32 [batch, frames, mels, 1] -> [batch, D], in inference mode.
        key: Stands for the encoder's weights (`checkpoints.encoder_key`).
        task: A TaskSpec or its name.
        data: The task's prepared data.
        output_dir: Where `results.json`, `per_class.csv`, `clip_scores.npz` and the
            chart are written.
        config: Protocol, probe, labels, seeds.
        cache_dir: Where embeddings are kept; default: `embeddings` in `output_dir`.
        info: What is written beside the scores.
        show_progress: Whether to show progress bars.

    Returns:
        What is in `results.json`.

    Raises:
        TaskError: If the task or the variant does not exist.
        DataError: If the data does not fit the task.
        ProbeError: If probe or protocol do not exist, or no head can be trained.
    """
    setting = prepare(task, data, config)
    output_dir = pathlib.Path(output_dir)
    check_output(output_dir)
    cache = pathlib.Path(cache_dir or output_dir / "embeddings")
    is_cached = config.protocol == "cached"
    embedded = {
        part: join(
            [
                embed_split(
                    encoder, data, name, cache, key, show_progress=show_progress
                )
                for name in setting.split_names(part)
            ]
        )
        for part in (PARTS if is_cached else PARTS[1:])
    }
    validation, test = embedded["validation"], embedded["test"]
    if is_cached:
        source: _Source = _CachedSource(embedded["train"])
    else:
        source = _SampledSource(setting, encoder, validation.dim)
    is_whole = config.label_fraction == 1.0
    fitted: list[Fitted] = []
    for seed in range(config.num_seeds):
        if fitted and is_cached and setting.probe == "ridge" and is_whole:
            # A closed form on the same windows: every seed gives the same.
            fitted.append(fitted[0])
            continue
        clips = setting.choose_clips(seed)
        windows = source.windows(None if is_whole else clips)
        head = _fit(setting, windows, validation, seed, show_progress)
        fitted.append(Fitted(head.row(), score_clips(head, test), clips))
    num_windows = {part: split.num_windows for part, split in embedded.items()}
    return conclude(
        setting,
        output_dir,
        fitted,
        {**num_windows, "train": fitted[0].row["train_windows"]},
        encoder={**dataclasses.asdict(info), "key": key},
        head=_describe_head(setting),
        mode="frozen",
    )


class _CachedSource:
    """Windows of the embedded training split, of all or of some clips."""

    def __init__(self, train: EmbeddedSplit):
        self._train = train
        self._whole: CachedWindows | None = None

    def windows(self, clips: np.ndarray | None) -> TrainingWindows:
        if clips is not None:
            return CachedWindows(self._train.select(clips))
        self._whole = self._whole or CachedWindows(self._train)
        return self._whole


class _SampledSource:
    """Random windows of the training clips' segments, of all or of some clips."""

    def __init__(self, setting: Setting, encoder: Encoder, dim: int):
        frontend = setting.data.frontend
        shape = (frontend.window_frames, frontend.num_mels)
        self._windows = SampledWindows(
            embed=embed_function(encoder, *shape),
            dim=dim,
            shape=shape,
            segments=find_segments(setting.data, setting.split_names("train")),
            labels=setting.labels["train"],
        )

    def windows(self, clips: np.ndarray | None) -> TrainingWindows:
        if clips is None:
            return self._windows
        segments = self._windows.segments.of_clips(clips)
        return dataclasses.replace(self._windows, segments=segments)


_Source = _CachedSource | _SampledSource


def _fit(
    setting: Setting,
    windows: TrainingWindows,
    validation: EmbeddedSplit,
    seed: int,
    show_progress: bool,
) -> Any:
    title = f"head {seed + 1}/{setting.config.num_seeds}"
    if setting.probe == "ridge":
        return fit_ridge(
            windows,
            validation,
            _ridge_config(setting),
            seed,
            title=title,
            show_progress=show_progress,
        )
    return train_head(
        windows,
        validation,
        _probe_config(setting),
        seed,
        title=title,
        show_progress=show_progress,
    )


def _ridge_config(setting: Setting) -> RidgeConfig:
    return RidgeConfig(setting.task.task_type, monitor_of(setting.config.protocol))


def _probe_config(setting: Setting) -> ProbeConfig:
    config = setting.config
    head = ProbeConfig.of_task(setting.task, setting.probe, config.protocol)
    # A small share of the labels makes epochs of few updates: as many updates more.
    max_epochs = min(round(head.max_epochs / config.label_fraction), _MAX_EPOCHS)
    return dataclasses.replace(
        head, standardize=config.standardize, max_epochs=max_epochs
    )


def _describe_head(setting: Setting) -> dict[str, Any]:
    if setting.probe != "ridge":
        head = dataclasses.asdict(_probe_config(setting))
        return {**head, "loss": setting.task.loss}
    absent = ("hidden_units", "learning_rate", "batch_size", "patience_epochs")
    return {
        **dict.fromkeys((*absent, "max_epochs")),
        **dataclasses.asdict(_ridge_config(setting)),
        "loss": "squared error with an L2 penalty",
    }
