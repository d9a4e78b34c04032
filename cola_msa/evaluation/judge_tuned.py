"""Judges an encoder that is trained with the labels: fine-tuned, or from scratch.

Each seed's weights are kept as `tuned-seed-<n>.keras`. A command that was stopped goes
on with the first seed that it had not finished.
"""

import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from cola_msa.evaluation.probes.finetune import (
    MODES,
    LabelledWindows,
    TuneConfig,
    TunedModel,
    save_tuned,
    tune,
)
from cola_msa.evaluation.probes.heads import ProbeConfig, ProbeError
from cola_msa.evaluation.results import check_output
from cola_msa.evaluation.setting import (
    EvaluationConfig,
    Fitted,
    Setting,
    conclude,
    prepare,
)
from cola_msa.evaluation.tasks import TaskSpec
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.records.prepared import PreparedData
from cola_msa.records.windows import find_segments, plan_windows
from cola_msa.runs.info import EncoderInfo
from cola_msa.runs.kept import write_json
from cola_msa.system.errors import FileError
from cola_msa.values.reading import read_json


def evaluate_tuned(
    make_model: Callable[[int], ContrastiveModel],
    key: str,
    task: TaskSpec | str,
    data: PreparedData,
    output_dir: pathlib.Path,
    config: EvaluationConfig = EvaluationConfig(),
    *,
    mode: str,
    encoder_rate: float,
    info: EncoderInfo,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Trains encoder and head on the labels and scores them on test clips.

    Training windows are random ones under both protocols; the protocol decides what
    patience watches.

    Args:
        make_model: Seed -> the network that training starts from; each call gives
            weights of its own.
        key: Stands for the weights that training starts from.
        task: A TaskSpec or its name.
        data: The task's prepared data.
        output_dir: Where results and weights are written.
        config: Protocol, probe, labels, seeds.
        mode: `finetuned` or `supervised`.
        encoder_rate: Adam's rate for the encoder; the head's is the task's.
        info: What is written beside the scores.
        show_progress: Whether to show progress bars.

    Returns:
        What is in `results.json`.

    Raises:
        TaskError: If the task or the variant does not exist.
        DataError: If the data does not fit the task.
        ProbeError: If the options do not go together, or the loss diverges.
    """
    if mode not in MODES:
        raise ProbeError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    setting = prepare(task, data, config)
    if setting.probe == "ridge" or config.standardize:
        raise ProbeError(
            "--probe=ridge and --standardize are for frozen encoders: leave them out, "
            "or leave out --finetune and --encoder=supervised"
        )
    head = ProbeConfig.of_task(setting.task, setting.probe, config.protocol)
    tuning = TuneConfig(mode, head, encoder_rate)
    parts = {
        part: LabelledWindows(
            plan_windows(data, setting.split_names(part)), setting.labels[part]
        )
        for part in ("validation", "test")
    }
    check_output(output_dir)
    identity = _identity(setting, key, tuning)
    fitted = []
    for seed in range(config.num_seeds):
        clips = setting.choose_clips(seed)
        path = output_dir / f"tuned-seed-{seed}.keras"
        tuned = _finished(path, identity, setting.is_tags)
        if tuned is None:
            # The note must never speak for weights that replace those it was made for.
            _note(path).unlink(missing_ok=True)
            tuned = tune(
                make_model(seed),
                find_segments(data, setting.split_names("train")).of_clips(clips),
                setting.labels["train"],
                parts["validation"],
                tuning,
                seed,
                title=f"tune {seed + 1}/{config.num_seeds}",
                show_progress=show_progress,
            )
            save_tuned(tuned, path)
            write_json(_note(path), {"identity": identity, "row": tuned.row})
        scores = tuned.score_clips(parts["test"], data.frontend)
        fitted.append(Fitted({**tuned.row, "weights": path.name}, scores, clips))
    results = conclude(
        setting,
        output_dir,
        fitted,
        {
            "train": fitted[0].row["train_windows"],
            **{part: clips.plan.num_windows for part, clips in parts.items()},
        },
        encoder={**dataclasses.asdict(info), "key": key},
        head={**dataclasses.asdict(head), "loss": setting.task.loss},
        mode=mode,
        tuning={
            "encoder_rate": encoder_rate,
            "train_windows": "one random window a segment, drawn anew each time",
            "min_updates_per_epoch": tuning.min_updates,
            "batch_norm": "statistics of the mini-batch in training, re-estimated "
            f"over {tuning.statistics_batches} mini-batches for inference",
        },
    )
    for seed in range(config.num_seeds):
        _note(output_dir / f"tuned-seed-{seed}.keras").unlink(missing_ok=True)
    return results


def _identity(setting: Setting, key: str, tuning: TuneConfig) -> str:
    """Stands for everything that decides a seed's weights."""
    parts = {
        "key": key,
        "task": setting.task.name,
        "data": setting.data.fingerprint(setting.splits.names),
        "train_clips": setting.config.train_clips,
        "label_fraction": setting.config.label_fraction,
        "tuning": dataclasses.asdict(tuning),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _note(path: pathlib.Path) -> pathlib.Path:
    """Says, until all seeds are done, which training the weights come from."""
    return path.with_suffix(".unfinished.json")


def _finished(path: pathlib.Path, identity: str, is_tags: bool) -> TunedModel | None:
    """A seed that a stopped command had finished; None where there is none."""
    if not (_note(path).exists() and path.exists()):
        return None
    try:
        found, row = read_json(
            _note(path),
            advice="it is trained anew",
            check=lambda note: (note["identity"], dict(note["row"])),
        )
        if found != identity:
            return None
        model = keras.saving.load_model(path, compile=False)
    # Keras has no error of its own for files that are damaged.
    except (FileError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logging.warning("%s: cannot be used (%s); it is trained anew", path, error)
        return None
    logging.info("%s was finished before; going on behind it", path)
    return TunedModel(model, is_tags, row)
