"""Judges an encoder on a task, frozen or trained with the labels; and a whole run.

Validation and test windows are the same under both protocols: all whole windows of
every clip, side by side, embedded once and kept. `cached` trains on all windows of the
training clips, `paper` on one random window a segment and epoch, embedded on the fly.

Above 600 lines: both modes share their splits, heads and results, and what is asked of
a run chooses between them.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.config.schema import Config, config_hash
from cola_msa.evaluation.baseline import (
    SPECTRA_KEY,
    spectra_function,
    untrained_key,
    untrained_model,
)
from cola_msa.evaluation.label_fractions import check_curve, write_curve
from cola_msa.evaluation.probes.features import (
    EmbeddedSplit,
    Encoder,
    embed_function,
    embed_split,
    join,
)
from cola_msa.evaluation.probes.finetune import (
    DEFAULT_RATES,
    MODES,
    LabelledWindows,
    TuneConfig,
    TunedModel,
    save_tuned,
    tune,
)
from cola_msa.evaluation.probes.heads import (
    PROTOCOLS,
    ProbeConfig,
    ProbeError,
    monitor_of,
    own_probe,
)
from cola_msa.evaluation.probes.kept_heads import HEADS_NAME
from cola_msa.evaluation.probes.linear import (
    EMBED_WINDOWS,
    CachedWindows,
    SampledWindows,
    TrainingWindows,
    score_clips,
    train_head,
)
from cola_msa.evaluation.probes.ridge import RidgeConfig, fit_ridge
from cola_msa.evaluation.probes.tuned_file import is_model, read_model
from cola_msa.evaluation.results import (
    check_output,
    exclusive,
    render_table,
    scale_lines,
)
from cola_msa.evaluation.setting import (
    PARTS,
    EvaluationConfig,
    Fitted,
    Setting,
    conclude,
    prepare,
)
from cola_msa.evaluation.tasks import TRAIN_CLIPS, TaskSpec
from cola_msa.frameworks.choose import framework_of
from cola_msa.model.contrastive import PairModel
from cola_msa.records.prepared import PreparedData
from cola_msa.records.stored import read_type
from cola_msa.records.windows import find_segments, plan_windows
from cola_msa.runs import directory, kept, network
from cola_msa.runs.info import EncoderInfo, encoder_info
from cola_msa.system import folders
from cola_msa.system.errors import FileError, RunError, UsageError
from cola_msa.values.arrays import write_json
from cola_msa.values.reading import read_json

_UNKNOWN_ENCODER = EncoderInfo()
_TUNING_LOCK = ".tuning.lock"
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
        key: Stands for the encoder's weights (`kept.encoder_key`).
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
        scores = [score_clips(head, part) for part in (test, validation)]
        fitted.append(Fitted(head.row(), scores[0], clips, head.member(), scores[1]))
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
            embed=embed_function(encoder, *shape, read_type(frontend)),
            dim=dim,
            shape=shape,
            segments=find_segments(setting.data, setting.split_names("train")),
            labels=setting.labels["train"],
            forward_windows=frontend.at_once(EMBED_WINDOWS),
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
    options: dict[str, Any] = {"title": title, "show_progress": show_progress}
    if setting.probe == "ridge":
        ridge = _ridge_config(setting)
        return fit_ridge(windows, validation, ridge, seed, **options)
    head = _probe_config(setting)
    return train_head(windows, validation, head, seed, **options)


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


def evaluate_tuned(
    make_model: Callable[[int], PairModel],
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
        UsageError: If the options do not go together.
        ProbeError: If the loss diverges.
        LockedError: If another process fine-tunes into `output_dir`.
    """
    if mode not in MODES:
        raise ProbeError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    setting = prepare(task, data, config)
    _check_head(mode, config)
    head = ProbeConfig.of_task(setting.task, setting.probe, config.protocol)
    tuning = TuneConfig(mode, head, encoder_rate)
    parts = {
        part: LabelledWindows(
            plan_windows(data, setting.split_names(part)), setting.labels[part]
        )
        for part in ("validation", "test")
    }
    check_output(output_dir)
    for seed in range(config.num_seeds):
        path = output_dir / f"tuned-seed-{seed}.keras"
        folders.check_file(path, is_model, "a fine-tuned model")
    busy = (
        f"{output_dir}: another process fine-tunes there; wait for it, or name another "
        "--output_dir"
    )
    # Weights, their note and the results are of one run.
    with exclusive(output_dir, _TUNING_LOCK, busy):
        identity = _identity(setting, key, tuning)
        fitted = []
        for seed in range(config.num_seeds):
            clips = setting.choose_clips(seed)
            path = output_dir / f"tuned-seed-{seed}.keras"
            tuned = _finished(path, identity, setting.is_tags)
            if tuned is None:
                # The note must never speak for weights that replace its own.
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
            scores = [
                tuned.score_clips(parts[part], data.frontend)
                for part in ("test", "validation")
            ]
            row = {**tuned.row, "weights": path.name}
            fitted.append(Fitted(row, scores[0], clips, tuned.member(), scores[1]))
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
        model = read_model(path)
    except (FileError, RunError) as error:
        logging.warning("%s: cannot be used (%s); it is trained anew", path, error)
        return None
    logging.info("%s was finished before; going on behind it", path)
    return TunedModel(model, is_tags, row)


def choose_mode(
    encoder: str, finetune: bool, rate: float | None, statistics: str | None
) -> str:
    """Whether the encoder is `frozen`, `finetuned` or `supervised`.

    Raises:
        UsageError: If the flags contradict one another.
    """
    if finetune and encoder != "trained":
        raise UsageError(
            f"--finetune starts from a trained encoder, not from --encoder={encoder}; "
            "--encoder=supervised trains fresh weights"
        )
    mode = "supervised" if encoder == "supervised" else "frozen"
    mode = "finetuned" if finetune else mode
    if encoder == "spectra" and statistics is not None:
        raise UsageError("--encoder=spectra is no network: leave out --statistics")
    if mode == "frozen" and rate is not None:
        raise UsageError(
            "--finetune_rate is for --finetune and --encoder=supervised; a frozen "
            "encoder has no rate"
        )
    if mode != "frozen" and statistics is not None:
        raise UsageError(
            "--statistics is for frozen encoders; one that is trained with the labels "
            "gets statistics of their windows"
        )
    return mode


def choose_step(given: str | None, encoder: str) -> int | str | None:
    """The step that `--checkpoint_step` means; 0 where the encoder is not trained.

    Raises:
        UsageError: If it contradicts the encoder.
    """
    if encoder != "trained":
        if given:
            raise UsageError(
                f"--encoder={encoder} is of no step; leave out --checkpoint_step"
            )
        return 0
    return directory.parse_step(given)


def output_name(
    task: TaskSpec,
    encoder: str,
    step: int | str | None,
    mode: str,
    config: EvaluationConfig,
    statistics: str | None = None,
) -> str:
    """Name of the default output folder under <run_dir>/eval/.

    Args:
        task: The task; alone it stands for the last weights and all defaults.
        encoder: `trained`, `untrained`, `supervised` or `spectra`.
        step: A kept step, `best`, or None for the last.
        mode: `frozen`, `finetuned` or `supervised`.
        config: Protocol, probe, labels.
        statistics: Batch-norm statistics other than the run's.
    """
    parts = [task.name]
    if encoder != "trained":
        parts.append(encoder)
    elif step is not None:
        parts.append(str(step))
    if mode == "finetuned":
        parts.append(mode)
    if statistics:
        parts.append(statistics)
    if config.standardize:
        parts.append("standardized")
    if config.train_clips != TRAIN_CLIPS[0]:
        parts.append(config.train_clips)
    if config.protocol != PROTOCOLS[0]:
        parts.append(config.protocol)
    if config.probe not in (None, own_probe(task)):
        parts.append(str(config.probe))
    if config.label_fraction != 1.0:
        parts.append(f"labels{config.label_fraction:g}")
    return "-".join(parts)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is asked of a run.

    Attributes:
        task: The task.
        encoder: `trained`, `untrained`, `supervised` or `spectra`.
        step: A kept step, `best`, `init`, or None for the last.
        mode: From `choose_mode`.
        statistics: Batch-norm statistics; None for the run's own.
        encoder_rate: Adam's rate of an encoder that is trained; None for the mode's.
        fractions: Shares of the training clips whose labels are used.
        config: How heads are trained, but for the share.
    """

    task: TaskSpec
    encoder: str = "trained"
    step: int | str | None = None
    mode: str = "frozen"
    statistics: str | None = None
    encoder_rate: float | None = None
    fractions: tuple[float, ...] = (1.0,)
    config: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        """Refuses what does not go together, by UsageError."""
        _check_head(self.mode, self.config)


def _check_head(mode: str, config: EvaluationConfig) -> None:
    if mode != "frozen" and (config.probe == "ridge" or config.standardize):
        raise UsageError(
            "--probe=ridge and --standardize are for frozen encoders: leave them out, "
            "or leave out --finetune and --encoder=supervised"
        )


def judge_run(
    run_dir: pathlib.Path,
    data_dir: str | os.PathLike,
    asked: Judgement,
    output_dir: str | os.PathLike | None = None,
) -> Iterator[str]:
    """Judges a run's encoder, and writes results as they are there.

    Args:
        run_dir: The run.
        data_dir: The task's prepared data.
        asked: Task, encoder, mode, shares of labels.
        output_dir: Where results go; default <run_dir>/eval/<name of what is asked>.

    Yields:
        For people: each share's table and files, then their curve where there are
        several.

    Raises:
        RunError: If there is no such run or step.
        DataError: If the data does not fit.
    """
    task, common = asked.task, asked.config
    config = directory.load_config(run_dir)
    own = config.train.statistics_inputs
    statistics = asked.statistics or own
    info = encoder_info(run_dir, asked.step, asked.encoder, statistics)
    logging.info("Judging step %s of %s on %s", info.step, run_dir, data_dir)
    data = PreparedData(data_dir, config.frontend)
    splits = task.choose_splits(common.train_clips)
    absent = task.check_data(data, splits)
    for split in splits.names:  # before anything is computed
        if split not in absent:
            data.index(split)
    # Heads draw from seeds of their own; this makes operations on a GPU repeatable.
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    judge = _judge_function(run_dir, config, asked, statistics, info, data)
    other = statistics if statistics != own else None
    parts = (task, asked.encoder, asked.step, asked.mode)
    name = output_name(*parts, common, other)
    curve_dir = pathlib.Path(output_dir or run_dir / "eval" / f"{name}-label_curve")
    if len(asked.fractions) > 1:
        check_curve(curve_dir)
    found = []
    for fraction in asked.fractions:
        part = dataclasses.replace(common, label_fraction=fraction)
        folder = run_dir / "eval" / output_name(*parts, part, other)
        if output_dir:
            folder = pathlib.Path(output_dir)
            if len(asked.fractions) > 1:
                folder /= f"labels{fraction:g}"
        found.append(judge(task, data, folder, part))
        files = ["results.json", "per_class.csv", found[-1]["chart"], HEADS_NAME]
        listed = f"  files: {folder}/{', '.join(filter(None, files))}"
        yield f"{render_table(found[-1])}\n{listed}"
    if len(found) > 1:
        curve = write_curve(curve_dir, found, "; ".join(scale_lines(found[-1])[:2]))
        files_of_curve = "label_curve.png, label_curve.md, label_curve.json"
        yield f"\n{curve}\n  files: {curve_dir}/{files_of_curve}"


def _judge_function(
    run_dir: pathlib.Path,
    config: Config,
    asked: Judgement,
    statistics: str,
    info: EncoderInfo,
    data: PreparedData,
) -> Callable[[TaskSpec, PreparedData, pathlib.Path, EvaluationConfig], dict[str, Any]]:
    """What judges the encoder, (task, data, output_dir, config) -> results."""
    step, mode = asked.step, asked.mode
    if mode == "frozen":
        encoder: Encoder
        if info.encoder == "spectra":
            encoder, key = spectra_function(data.frontend), SPECTRA_KEY
        elif info.encoder == "untrained":
            encoder = untrained_model(run_dir, data, statistics).embedder()
            key = untrained_key(run_dir, data, statistics)
        else:
            encoder = kept.load_model(run_dir, step, statistics).embedder()
            key = kept.encoder_key(run_dir, step, statistics)
        return functools.partial(
            evaluate, encoder, key, cache_dir=run_dir / "embeddings", info=info
        )
    rate = asked.encoder_rate or DEFAULT_RATES[mode]
    info = dataclasses.replace(info, statistics=None)  # estimated anew
    key = f"fresh-{config_hash(config.model)}"
    if mode == "finetuned":
        key = kept.encoder_key(run_dir, step, statistics)

    def make_model(seed: int) -> PairModel:
        if mode == "finetuned":
            return kept.load_model(run_dir, step)  # of its weights no seed decides
        model = network.fresh_network(run_dir, seed)
        framework_of(config).copy_input(model, lambda: kept.load_model(run_dir))
        return model

    return functools.partial(
        evaluate_tuned, make_model, key, mode=mode, encoder_rate=rate, info=info
    )
