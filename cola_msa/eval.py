"""Judges a run's encoder: python -m cola_msa.eval --task=fma --run_dir=... .

Without --run_dir the newest run under runs/ is judged, without --data_dir on the
built-in music. Results go to <run_dir>/eval/<task>/ (results.json, per_class.csv,
clip_scores.npz, a chart); options other than the default add parts to that name.
Embeddings are kept in <run_dir>/embeddings/.
"""

from absl import flags

from cola_msa.evaluation.judge import (
    Judgement,
    choose_mode,
    choose_step,
    judge_run,
)
from cola_msa.evaluation.label_fractions import parse_fractions
from cola_msa.evaluation.probes.finetune import DEFAULT_RATES
from cola_msa.evaluation.probes.heads import PROBES, PROTOCOLS
from cola_msa.evaluation.setting import EvaluationConfig
from cola_msa.evaluation.tasks import (
    OTHER_TASKS,
    TASKS,
    TRAIN_CLIPS,
    get_task,
)
from cola_msa.reproduction.music import check_music, ensure
from cola_msa.runs import directory
from cola_msa.system import console, signals
from cola_msa.values.numbers import define_float
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    names = ", ".join(TASKS | OTHER_TASKS)
    flags.DEFINE_string(
        "task", None, f"What to judge on: {names}, or a .py file with a TASK."
    )
    define_path("run_dir", None, "A training run; default: the newest.")
    define_path("data_dir", None, "Prepared data; default: built-in music.")
    define_path("output_dir", None, "Where results go; default: <run_dir>/eval/<task>.")
    flags.DEFINE_enum(
        "encoder",
        "trained",
        ["trained", "untrained", "supervised", "spectra"],
        "The run's encoder; the network it started from; one with fresh weights that "
        "is trained with the labels alone; or none: statistics of the log-mels.",
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


def main(options: flags.FlagValues) -> None:
    """Runs the command.

    Raises:
        UsageError: If flags contradict one another.
        TaskError: If a file of a task is none.
        RunError: If there is no such run or step.
        DataError: If the data does not fit.
    """
    signals.install()
    task = get_task(options.task)
    task.choose_splits(options.train_clips)
    fractions = parse_fractions(options.label_fraction)
    mode = choose_mode(
        options.encoder, options.finetune, options.finetune_rate, options.statistics
    )
    asked = Judgement(
        task=task,
        encoder=options.encoder,
        step=choose_step(options.checkpoint_step, options.encoder),
        mode=mode,
        statistics=options.statistics,
        encoder_rate=options.finetune_rate,
        fractions=tuple(fractions),
        config=EvaluationConfig(
            protocol=options.protocol,
            probe=options.probe,
            train_clips=options.train_clips,
            num_seeds=options.seeds,
            standardize=options.standardize,
        ),
    )
    if not options.data_dir:
        check_music(task.name, task.dataset)
    run_dir = directory.choose_run(options.run_dir)
    frontend = directory.load_config(run_dir).frontend  # before music is composed
    data_dir = options.data_dir or ensure(task.dataset, kind=frontend.kind)
    for text in judge_run(run_dir, data_dir, asked, options.output_dir):
        print(text)


if __name__ == "__main__":
    console.start(main, define_flags)
