"""Judges a run's encoder: python -m cola_msa.eval --task=fma --run_dir=... .

Without --run_dir the newest run under runs/ is judged, without --data_dir on the
built-in music. Results go to <run_dir>/eval/<task>/ (results.json, per_class.csv,
clip_scores.npz, a chart); options other than the default add parts to that name.
Embeddings are kept in <run_dir>/embeddings/.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import app, flags, logging

from cola_msa.evaluation.judge import (
    _judge_function,
    choose_mode,
    output_name,
)
from cola_msa.evaluation.label_fractions import parse_fractions, write_curve
from cola_msa.evaluation.probes.finetune import DEFAULT_RATES
from cola_msa.evaluation.probes.heads import PROBES, PROTOCOLS
from cola_msa.evaluation.results import render_table, scale_lines
from cola_msa.evaluation.setting import EvaluationConfig
from cola_msa.evaluation.tasks import (
    OTHER_TASKS,
    TASKS,
    TRAIN_CLIPS,
    TaskError,
    TaskSpec,
    get_task,
)
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import directory
from cola_msa.runs.info import encoder_info
from cola_msa.system import signals
from cola_msa.system.console import run_command
from cola_msa.values.numbers import define_float


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
    return directory.parse_step(given)


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
    run_dir = directory.choose_run(options.run_dir)
    config = directory.load_config(run_dir)
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


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main))
