"""Judges a run's encoder: python -m cola_msa.eval --task=fma --run_dir=... .

Without --run_dir the newest run under runs/ is judged, without --data_dir on the
built-in music. Results go to <run_dir>/eval/<task>/ (results.json, per_class.csv,
clip_scores.npz, a chart); embeddings are kept in <run_dir>/embeddings/.
"""

import json
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from cola_msa import checkpoints
from cola_msa.console import run_command
from cola_msa.judge import EncoderInfo, evaluate, render_table
from cola_msa.prepared import PreparedData
from cola_msa.tasks import TASKS, TRAIN_CLIPS, TaskError, TaskSpec, get_task

__all__ = ["EncoderInfo", "encoder_info", "evaluate", "main", "render_table"]


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    flags.DEFINE_string("task", None, f"What to judge on: {', '.join(TASKS)}.")
    flags.DEFINE_string("run_dir", None, "A training run; default: the newest.")
    flags.DEFINE_string("data_dir", None, "Prepared data; default: built-in music.")
    flags.DEFINE_string(
        "output_dir", None, "Where results go; default: <run_dir>/eval/<task>."
    )
    flags.DEFINE_enum(
        "encoder",
        "trained",
        ["trained", "untrained"],
        "The run's encoder, or the network it started from.",
    )
    flags.DEFINE_string(
        "checkpoint_step", None, "A kept step, or `best`; default: the last."
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


def encoder_info(
    run_dir: pathlib.Path, step: int | str | None, encoder: str
) -> EncoderInfo:
    """What a kept checkpoint was trained for.

    Args:
        run_dir: The run.
        step: A kept step, `best`, or None for the last.
        encoder: `trained` or `untrained`.

    Raises:
        RunError: If there is no such run or step.
    """
    run = checkpoints.load_run(run_dir)
    config = checkpoints.load_config(run_dir)
    path = checkpoints.kept_path(run_dir, step)
    if path.stem == "best":
        with np.load(path, allow_pickle=False) as arrays:
            age = int(json.loads(str(arrays["state"]))["step"])
    else:
        age = int(path.stem.split("-")[1])
    updates = age * config.train.updates_per_step
    return EncoderInfo(
        encoder=encoder,
        run=run_dir.resolve().name,
        preset=config.preset,
        source=config.train.source,
        step=age,
        updates=updates,
        pairs=updates * config.train.batch_size * run.get("num_replicas", 1),
    )


def _choose_data(given: str | None, task: TaskSpec) -> pathlib.Path:
    if given:
        return pathlib.Path(given)
    from cola_msa import demo_data

    return demo_data.ensure(task.dataset)


def _choose_step(given: str | None, encoder: str) -> int | str | None:
    if encoder == "untrained":
        if given:
            raise TaskError(
                "--encoder=untrained is step 0; leave out --checkpoint_step"
            )
        return 0
    if given is None or given == "best":
        return given
    if not given.isdigit():
        raise TaskError(f"--checkpoint_step must be a number or best, not {given!r}")
    return int(given)


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        TaskError: If a flag's value does not fit.
        RunError: If there is no such run or step.
        DataError: If the data does not fit.
    """
    if len(argv) > 1:
        raise TaskError(f"unknown argument {argv[1]!r}; see --help")
    options = flags.FLAGS
    task = get_task(options.task)
    task.choose_splits(options.train_clips)
    step = _choose_step(options.checkpoint_step, options.encoder)
    run_dir = checkpoints.choose_run(options.run_dir)
    config = checkpoints.load_config(run_dir)
    info = encoder_info(run_dir, step, options.encoder)
    data_dir = _choose_data(options.data_dir, task)
    logging.info("Judging step %s of %s on %s", info.step, run_dir, data_dir)
    data = PreparedData(data_dir, config.frontend)
    task.check_data(data, task.choose_splits(options.train_clips))
    name = task.name
    if options.encoder == "untrained":
        name += "-untrained"
    elif step is not None:
        name += f"-{step}"
    statistics = options.statistics or config.train.statistics_inputs
    if statistics != config.train.statistics_inputs:
        name += f"-{statistics}"
    if options.standardize:
        name += "-standardized"
    if options.train_clips != TRAIN_CLIPS[0]:
        name += f"-{options.train_clips}"
    output_dir = pathlib.Path(options.output_dir or run_dir / "eval" / name)
    # Heads draw from seeds of their own; this makes operations on a GPU repeatable.
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    results = evaluate(
        checkpoints.load_encoder(run_dir, step, statistics),
        checkpoints.encoder_key(run_dir, step, statistics),
        task,
        data,
        output_dir,
        cache_dir=run_dir / "embeddings",
        info=info,
        train_clips=options.train_clips,
        num_seeds=options.seeds,
        standardize=options.standardize,
    )
    print(render_table(results))
    print(f"  files: {output_dir}/results.json, per_class.csv, {results['chart']}")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main))
