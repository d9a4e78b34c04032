"""Judges a run's encoder: python -m cola_msa.eval --task=fma --run_dir=... .

Without --run_dir the newest run under runs/ is judged, without --data_dir on the
built-in music. Results go to <run_dir>/eval/<task>/ (results.json, per_class.csv,
clip_scores.npz, a chart); options other than the default add parts to that name.
Embeddings are kept in <run_dir>/embeddings/.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags, logging

from cola_msa.config.schema import Config, config_hash
from cola_msa.evaluation.baseline import untrained_key, untrained_model
from cola_msa.evaluation.judge import evaluate, render_table
from cola_msa.evaluation.judge_tuned import evaluate_tuned
from cola_msa.evaluation.label_fractions import parse_fractions, write_curve
from cola_msa.evaluation.probes.finetune import DEFAULT_RATES
from cola_msa.evaluation.probes.heads import PROBES, PROTOCOLS, own_probe
from cola_msa.evaluation.results import scale_lines
from cola_msa.evaluation.setting import EvaluationConfig
from cola_msa.evaluation.tasks import (
    OTHER_TASKS,
    TASKS,
    TRAIN_CLIPS,
    TaskError,
    TaskSpec,
    get_task,
)
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import kept
from cola_msa.runs.info import EncoderInfo, encoder_info
from cola_msa.system import signals
from cola_msa.system.console import run_command
from cola_msa.values.numbers import define_float

__all__ = ["EncoderInfo", "encoder_info", "evaluate", "main", "render_table"]


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    names = ", ".join(TASKS | OTHER_TASKS)
    flags.DEFINE_string(
        "task", None, f"What to judge on: {names}, or a .py file with a TASK."
    )
    flags.DEFINE_string("run_dir", None, "A training run; default: the newest.")
    flags.DEFINE_string("data_dir", None, "Prepared data; default: built-in music.")
    flags.DEFINE_string(
        "output_dir", None, "Where results go; default: <run_dir>/eval/<task>."
    )
    flags.DEFINE_enum(
        "encoder",
        "trained",
        ["trained", "untrained", "supervised"],
        "The run's encoder; the network it started from; or one with fresh weights "
        "that is trained with the labels alone.",
    )
    flags.DEFINE_bool(
        "finetune", False, "Train the encoder too, from the run's weights."
    )
    define_float(
        "finetune_rate",
        None,
        "Adam's rate for the encoder that is trained; default: "
        + ", ".join(f"{rate:g} ({mode})" for mode, rate in DEFAULT_RATES.items()),
        lower_bound=1e-12,
        upper_bound=10.0,
    )
    flags.DEFINE_enum(
        "protocol",
        PROTOCOLS[0],
        PROTOCOLS,
        "cached: every window embedded once, patience on validation loss; paper: one "
        "random window a segment and epoch, patience on validation accuracy.",
    )
    flags.DEFINE_enum(
        "probe", None, PROBES, "What is trained on embeddings; default: the paper's."
    )
    flags.DEFINE_list(
        "label_fraction",
        ["1"],
        "Share of the training clips whose labels are used (1 % is 0.01); several, "
        "with commas between them, give a curve.",
    )
    flags.DEFINE_string(
        "checkpoint_step", None, "A kept step, `best` or `init`; default: the last."
    )
    flags.DEFINE_enum(
        "statistics",
        None,
        ["anchors", "pairs"],
        "Batch-norm statistics from mixtures or whole batches; default: the run's.",
    )
    flags.DEFINE_bool(
        "standardize",
        False,
        "Scale features by their training mean and deviation (the paper does not).",
    )
    flags.DEFINE_integer("seeds", 1, "Heads to train.", lower_bound=1)
    flags.DEFINE_string(
        "train_clips",
        TRAIN_CLIPS[0],
        "Clips that mtat_unfiltered's heads are trained on: filtered (those with a "
        "top tag, the paper's) or all.",
    )


def _choose_data(given: str | None, task: TaskSpec) -> pathlib.Path:
    if given:
        return pathlib.Path(given)
    from cola_msa.reproduction import music

    if task.dataset not in music.TASKS:
        raise TaskError(
            f"--task={task.name} needs --data_dir: the built-in music has no such "
            f"data (python -m data_prep.{task.dataset} prepares it)"
        )
    return music.ensure(task.dataset)


def _choose_step(given: str | None, encoder: str) -> int | str | None:
    if encoder != "trained":
        if given:
            raise TaskError(
                f"--encoder={encoder} is step 0; leave out --checkpoint_step"
            )
        return 0
    return kept.parse_step(given)


def choose_mode(
    encoder: str, finetune: bool, rate: float | None, statistics: str | None
) -> str:
    """Whether the encoder is `frozen`, `finetuned` or `supervised`.

    Raises:
        TaskError: If the flags contradict one another.
    """
    if finetune and encoder != "trained":
        raise TaskError(
            f"--finetune starts from a trained encoder, not from --encoder={encoder}; "
            "--encoder=supervised trains fresh weights"
        )
    mode = "supervised" if encoder == "supervised" else "frozen"
    mode = "finetuned" if finetune else mode
    if mode == "frozen" and rate is not None:
        raise TaskError(
            "--finetune_rate is for --finetune and --encoder=supervised; a frozen "
            "encoder has no rate"
        )
    if mode != "frozen" and statistics is not None:
        raise TaskError(
            "--statistics is for frozen encoders; one that is trained with the labels "
            "gets statistics of their windows"
        )
    return mode


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
        encoder: `trained`, `untrained` or `supervised`.
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


def _kept_model(
    run_dir: pathlib.Path, step: int | str | None, seed: int
) -> ContrastiveModel:
    """The run's network as it was kept; the seed decides nothing of it."""
    del seed
    return kept.load_model(run_dir, step)


def _fresh_model(
    run_dir: pathlib.Path, data: dict[str, Any], config: Config, seed: int
) -> ContrastiveModel:
    """The run's network with fresh weights."""
    return kept.build_model(run_dir / "config.json", config, data, seed)


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        TaskError: If a flag's value does not fit.
        ProbeError: If probe and mode do not go together.
        RunError: If there is no such run or step.
        DataError: If the data does not fit.
    """
    if len(argv) > 1:
        raise TaskError(f"unknown argument {argv[1]!r}; see --help")
    signals.install()
    options = flags.FLAGS
    task = get_task(options.task)
    task.choose_splits(options.train_clips)
    fractions = parse_fractions(options.label_fraction)
    mode = choose_mode(
        options.encoder, options.finetune, options.finetune_rate, options.statistics
    )
    step = _choose_step(options.checkpoint_step, options.encoder)
    run_dir = kept.choose_run(options.run_dir)
    config = kept.load_config(run_dir)
    statistics = options.statistics or config.train.statistics_inputs
    info = encoder_info(run_dir, step, options.encoder, statistics)
    data_dir = _choose_data(options.data_dir, task)
    logging.info("Judging step %s of %s on %s", info.step, run_dir, data_dir)
    data = PreparedData(data_dir, config.frontend)
    splits = task.choose_splits(options.train_clips)
    absent = task.check_data(data, splits)
    for split in splits.names:  # before anything is computed
        if split not in absent:
            data.index(split)
    # Heads draw from seeds of their own; this makes operations on a GPU repeatable.
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    judge = _judge_function(run_dir, config, step, mode, statistics, info, data)
    common = EvaluationConfig(
        protocol=options.protocol,
        probe=options.probe,
        train_clips=options.train_clips,
        num_seeds=options.seeds,
        standardize=options.standardize,
    )
    other = statistics if statistics != config.train.statistics_inputs else None
    whole_name = output_name(task, options.encoder, step, mode, common, other)
    found = []
    for fraction in fractions:
        part = dataclasses.replace(common, label_fraction=fraction)
        name = output_name(task, options.encoder, step, mode, part, other)
        output_dir = run_dir / "eval" / name
        if options.output_dir:
            output_dir = pathlib.Path(options.output_dir)
            if len(fractions) > 1:
                output_dir /= f"labels{fraction:g}"
        found.append(judge(task, data, output_dir, part))
        print(render_table(found[-1]))
        files = ["results.json", "per_class.csv", found[-1]["chart"]]
        print(f"  files: {output_dir}/{', '.join(filter(None, files))}")
    if len(fractions) > 1:
        curve_dir = run_dir / "eval" / f"{whole_name}-label_curve"
        curve_dir = pathlib.Path(options.output_dir or curve_dir)
        note = "; ".join(scale_lines(found[-1])[:2])
        print(f"\n{write_curve(curve_dir, found, note)}")
        print(f"  files: {curve_dir}/label_curve.png, label_curve.md, label_curve.json")


def _judge_function(
    run_dir: pathlib.Path,
    config: Config,
    step: int | str | None,
    mode: str,
    statistics: str,
    info: EncoderInfo,
    data: PreparedData,
) -> Callable[[TaskSpec, PreparedData, pathlib.Path, EvaluationConfig], dict[str, Any]]:
    """What judges the encoder, (task, data, output_dir, config) -> results."""
    if mode == "frozen":
        if info.encoder == "untrained":
            encoder = untrained_model(run_dir, data, statistics).encoder
            key = untrained_key(run_dir, data, statistics)
        else:
            encoder = kept.load_encoder(run_dir, step, statistics)
            key = kept.encoder_key(run_dir, step, statistics)
        return functools.partial(
            evaluate, encoder, key, cache_dir=run_dir / "embeddings", info=info
        )
    rate = flags.FLAGS.finetune_rate or DEFAULT_RATES[mode]
    info = dataclasses.replace(info, statistics=None)  # estimated anew
    if mode == "supervised":
        key = f"fresh-{config_hash(config.model)}"
        of_data = kept.load_run(run_dir)["data"]
        make_model = functools.partial(_fresh_model, run_dir, of_data, config)
    else:
        key = kept.encoder_key(run_dir, step, statistics)
        make_model = functools.partial(_kept_model, run_dir, step)
    return functools.partial(
        evaluate_tuned, make_model, key, mode=mode, encoder_rate=rate, info=info
    )


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main))
