"""An evaluation's frame: what is judged on what, checked first, and what is written.

How heads come about is the business of `judge` (frozen encoders) and `judge_tuned`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.config.published import Yardstick
from cola_msa.config.schema import MULTILABEL, Checked, TrainConfig
from cola_msa.config.strategies import strategy_of
from cola_msa.evaluation import metrics
from cola_msa.evaluation.label_fractions import choose_clips
from cola_msa.evaluation.probes.heads import PROBES, ProbeError, monitor_of, own_probe
from cola_msa.evaluation.probes.kept_heads import (
    OUTPUTS,
    PROBABILITIES,
    Heads,
    Member,
    best_thresholds,
)
from cola_msa.evaluation.results import (
    class_rows,
    exclusive,
    num_counted,
    score_rows,
    write_results,
)
from cola_msa.evaluation.tasks import Splits, TaskSpec, get_task
from cola_msa.frameworks.choose import get_framework
from cola_msa.records.prepared import PreparedData
from cola_msa.records.schema import DataError
from cola_msa.system.versions import package_versions
from cola_msa.values.fields import within

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Checked):
    """How an encoder is judged.

    Attributes:
        protocol: `cached` or `paper`.
        probe: `linear`, `mlp`, `ridge`, or None for the task's own.
        label_fraction: Share of the training clips whose labels are used; which ones
            depends on the head's seed. Validation and test splits stay whole.
        train_clips: `filtered`, or `all` (mtat_unfiltered alone).
        num_seeds: Heads to train, with seeds 0, 1, ...; scores are their means.
        num_resamples: Of the clips, for the 95 % intervals.
        standardize: See ProbeConfig; a ridge always does.
    """

    protocol: str = "cached"
    probe: str | None = None
    label_fraction: float = within(1.0, 1e-9, 1.0)
    train_clips: str = "filtered"
    num_seeds: int = within(1, 1)
    num_resamples: int = within(1000, 1)
    standardize: bool = False


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task on its data, checked.

    Attributes:
        task: The task.
        data: Its prepared data.
        config: EvaluationConfig.
        splits: Names of the splits that there are.
        absent_splits: Names of `_extra` splits that the data lacks.
        labels: float32 [C, K] of `train`, `validation` and `test`.
        test_labels: [C, K] of 0 and 1 (tags), or class numbers [C].
    """

    task: TaskSpec
    data: PreparedData
    config: EvaluationConfig
    splits: Splits
    absent_splits: tuple[str, ...]
    labels: dict[str, np.ndarray]
    test_labels: np.ndarray

    @property
    def probe(self) -> str:
        """The probe, or the task's own."""
        return self.config.probe or own_probe(self.task)

    @property
    def is_tags(self) -> bool:
        """Whether clips may have several labels."""
        return self.task.task_type == MULTILABEL

    def split_names(self, part: str) -> tuple[str, ...]:
        """Names of the splits of `train`, `validation` or `test`."""
        return getattr(self.splits, part)

    def choose_clips(self, seed: int) -> np.ndarray:
        """Numbers of the training clips whose labels the head of a seed gets."""
        return choose_clips(
            self.labels["train"], self.is_tags, self.config.label_fraction, seed
        )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What one seed gave.

    Attributes:
        row: What results.json says of the head.
        scores: float32 [C, K], of the test clips.
        clips: Numbers of the training clips whose labels were used.
        member: The head's weights.
        validation: float32 [C, K], scores of the validation clips.
    """

    row: dict[str, Any]
    scores: np.ndarray
    clips: np.ndarray
    member: Member
    validation: np.ndarray


def prepare(
    task: TaskSpec | str, data: PreparedData, config: EvaluationConfig
) -> Setting:
    """Checks data and options.

    Raises:
        TaskError: If the task or the variant does not exist.
        ProbeError: If probe or protocol do not exist.
        DataError: If the data does not fit the task.
    """
    task = get_task(task) if isinstance(task, str) else task
    splits = task.choose_splits(config.train_clips)
    absent_splits = task.check_data(data, splits)
    splits = splits.without(absent_splits)
    monitor_of(config.protocol)
    if config.probe is not None and config.probe not in PROBES:
        raise ProbeError(
            f"--probe must be one of {', '.join(PROBES)}, not {config.probe!r}"
        )
    _check_clips(task, data, splits)
    labels = {
        part: np.concatenate(
            [
                data.index(name).label_matrix(len(data.class_names))
                for name in getattr(splits, part)
            ]
        )
        for part in PARTS
    }
    test_labels = labels["test"]
    if task.task_type != MULTILABEL:
        test_labels = test_labels.argmax(axis=1)
    elif not metrics.counted_tags(test_labels).any():
        raise DataError(
            f"{data.data_dir}: no tag has both positive and negative test clips"
        )
    return Setting(task, data, config, splits, absent_splits, labels, test_labels)


def _check_clips(task: TaskSpec, data: PreparedData, splits: Splits) -> None:
    """Refuses empty splits, and clips without exactly one class where that is due."""
    for names in (splits.train, splits.validation, splits.test):
        if not any(len(data.index(name).clip_ids) for name in names):
            raise DataError(
                f"{data.data_dir}: split {' + '.join(names)} holds no clips, but "
                f"--task={task.name} needs some"
            )
    if task.task_type == MULTILABEL:
        return
    for name in splits.names:
        index = data.index(name)
        counts = np.diff(index.label_splits)
        if (counts != 1).any():
            bad = int(np.argmax(counts != 1))
            raise DataError(
                f"{data.data_dir}, split {name}: clip {index.clip_ids[bad]} has "
                f"{counts[bad]} classes; --task={task.name} needs one a clip"
            )


def yardstick_for(encoder: dict[str, Any]) -> Yardstick:
    """What an encoder's scores are read beside: the row of its own way to make pairs.

    Args:
        encoder: What results.json says of it, see `EncoderInfo`.

    Returns:
        Its framework's, with the paper's row of its strategy where it has one.
    """
    framework = get_framework(encoder["framework"])
    names = ("source", "batches", "augment", "init_from")
    pairs = {name: encoder[name] for name in names if encoder[name]}
    train = dataclasses.replace(TrainConfig(), **pairs)
    strategy = strategy_of(train, encoder["separator"], framework.name)
    if strategy is None or not strategy.rows:
        return framework.yardstick
    table, row = strategy.rows[0]
    return dataclasses.replace(framework.yardstick, table=table, row=row)


def conclude(
    setting: Setting,
    output_dir: pathlib.Path,
    fitted: Sequence[Fitted],
    num_windows: dict[str, int],
    *,
    mode: str,
    encoder: dict[str, Any],
    head: dict[str, Any],
    tuning: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores the test clips, and writes everything.

    Args:
        setting: From `prepare`.
        output_dir: Where to.
        fitted: One a seed.
        num_windows: By part: all, or of `train` those of an epoch.
        mode: `frozen`, `finetuned` or `supervised`.
        encoder: What results.json says of the encoder.
        head: The same of the heads.
        tuning: The same of the encoder's training with labels; None where it is
            frozen.

    Returns:
        What is in `results.json`.
    """
    task, data, config = setting.task, setting.data, setting.config
    yardstick = yardstick_for(encoder)
    scores = np.stack([seed.scores for seed in fitted])
    labels, test_labels = setting.labels, setting.test_labels
    train_labels = labels["train"][fitted[0].clips]
    num_clips = {part: len(labels[part]) for part in PARTS}
    subset = None
    if config.label_fraction < 1.0:
        subset = {
            "fraction": config.label_fraction,
            "clips": len(train_labels),
            "of": num_clips["train"],
            "clips_per_seed": [len(seed.clips) for seed in fitted],
            "drawn_by": "the head's seed",
            "validation": "whole",
        }
    results = {
        "task": task.name,
        "title": task.title,
        "mode": mode,
        "protocol": config.protocol,
        "probe": setting.probe,
        "paper_probe": own_probe(task),
        "label_fraction": config.label_fraction,
        "label_subset": subset,
        "encoder": encoder,
        "data": {
            "dataset": task.dataset,
            "data_dir": str(data.data_dir),
            "manifest_hash": data.manifest_hash,
            "num_classes": len(data.class_names),
            "num_counted": num_counted(task, test_labels),
        },
        "train_clips": config.train_clips,
        "splits": {
            part: {
                "clips": len(train_labels) if part == "train" else num_clips[part],
                "windows": num_windows[part],
            }
            for part in PARTS
        },
        "absent_splits": setting.absent_splits,
        "paper_clips": dict(zip(PARTS, task.paper_clips or (), strict=False)),
        "paper_scale": dataclasses.asdict(yardstick),
        "head": head,
        "tuning": tuning,
        "seeds": list(range(len(fitted))),
        "bootstrap": {"resamples": config.num_resamples, "over": "test clips"},
        "scores": score_rows(
            task, test_labels, scores, config.num_resamples, yardstick
        ),
        "heads": [seed.row for seed in fitted],
        "per_class": class_rows(
            task, data.class_names, train_labels, test_labels, scores
        ),
        "versions": package_versions(),
    }
    clip_ids = np.concatenate(
        [data.index(name).clip_ids for name in setting.split_names("test")]
    )
    heads = _heads(setting, fitted, results)
    with exclusive(output_dir):
        write_results(output_dir, task, results, clip_ids, test_labels, scores, heads)
    return results


def _heads(
    setting: Setting, fitted: Sequence[Fitted], results: dict[str, Any]
) -> Heads:
    """What is kept of an evaluation, to be applied to other clips."""
    thresholds = None
    if setting.is_tags:
        validation = np.mean([seed.validation for seed in fitted], axis=0)
        thresholds = best_thresholds(setting.labels["validation"], validation)
    task, splits = setting.task, results["splits"]
    return Heads(
        members=tuple(seed.member for seed in fitted),
        class_names=tuple(setting.data.class_names),
        task={"name": task.name, "title": task.title, "task_type": task.task_type},
        encoder_key=results["encoder"]["key"],
        frontend=setting.data.frontend,
        thresholds=thresholds,
        outputs=OUTPUTS if setting.probe == "ridge" else PROBABILITIES,
        details={
            "mode": results["mode"],
            "protocol": results["protocol"],
            "probe": results["probe"],
            "encoder": results["encoder"],
            "label_fraction": results["label_fraction"],
            "scores": {name: row["value"] for name, row in results["scores"].items()},
            "intervals": {
                name: [row["low"], row["high"]]
                for name, row in results["scores"].items()
            },
            "chance": {name: row["chance"] for name, row in results["scores"].items()},
            "clips": {part: splits[part]["clips"] for part in splits},
            # Of encoders that were trained with the labels; they hold heads, too.
            "tuned": [seed.row["weights"] for seed in fitted if "weights" in seed.row],
        },
    )
