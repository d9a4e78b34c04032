"""The paper's tables and figures: python -m cola_msa.reproduce --table=2 --scale=demo.

Runs whatever is missing, each step a command in a process of its own that is printed
as it starts, then the report in <output_dir>/report. Ctrl-C or a kill stops it; the
same command goes on. `--dry_run` prints the commands and runs none.

    python -m cola_msa.reproduce --table=1,2,3 --figure=2,3,4,5 --scale=paper \
        --mtat_dir=prepared/mtat --mtat_random_dir=prepared/mtat_random \
        --mtat_degraded_dir=prepared/mtat_degraded \
        --nsynth_dir=prepared/nsynth --fma_dir=prepared/fma

`--scale=demo` needs no data: it is the built-in music, at a small share of the paper's
scale, which the report prints beside every number.
"""

import pathlib
from typing import Any

from absl import flags

from cola_msa.evaluation.tasks import TASKS, get_task
from cola_msa.reproduction.plan import SCALES, Request
from cola_msa.reproduction.report import commands
from cola_msa.reproduction.report.compare import parse_numbers
from cola_msa.reproduction.run import dry_run, run_plan
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values.field_flags import whole_numbers
from cola_msa.values.fields import MAX_SEED
from cola_msa.values.paths import define_path

_DATA = ("mtat", "mtat_random", "mtat_degraded", "nsynth", "fma")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags; not at import, so that others can import this.

    Args:
        values: Where to define them.
    """
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_list("table", [], "The paper's tables: 1, 2, 3.", **add)
    flags.DEFINE_list("figure", [], "The paper's figures: 2, 3, 4, 5.", **add)
    flags.DEFINE_enum(
        "scale",
        None,
        list(SCALES),
        "paper (your prepared data, 82 million pairs a strategy), demo (the built-in "
        "music, minutes a strategy) or smoke (whether everything runs).",
        **add,
    )
    define_path("output_dir", "reproduction", "Runs and report go here.", **add)
    flags.DEFINE_list(
        "tasks", list(TASKS), "What the tables' rows are judged on.", **add
    )
    for name in _DATA:
        dataset, _, kind = name.partition("_")
        stems = {"random": ", stems of random masks", "degraded": ", degraded stems"}
        text = f"Prepared {dataset}{stems.get(kind, '')}, for scale paper."
        define_path(f"{name}_dir", None, text, **add)
    flags.DEFINE_list(
        "run_seeds", ["0"], "Seeds: a training of each strategy for each.", **add
    )
    flags.DEFINE_integer(
        "head_seeds", 3, "Heads on each encoder.", lower_bound=1, **add
    )
    flags.DEFINE_integer(
        "threads", 0, "Threads of one operation in training.", lower_bound=0, **add
    )
    flags.DEFINE_bool("dry_run", False, "Print the commands and run none.", **add)


def parse_request(options: flags.FlagValues) -> Request:
    """Turns flags into what is asked for.

    Raises:
        UsageError: If a flag is missing or makes no sense.
        TaskError: If a file of a task is none.
    """
    tables = parse_numbers("table", options.table, commands.TABLES)
    figures = parse_numbers("figure", options.figure, commands.FIGURES)
    if not tables and not figures:
        raise UsageError("name what to make: --table=1,2,3 or --figure=2,3,4,5")
    if options.scale is None:
        raise UsageError(f"--scale must be one of {', '.join(SCALES)}")
    run_seeds = whole_numbers("run_seeds", options.run_seeds, MAX_SEED)
    if not run_seeds:
        raise UsageError("--run_seeds names none")
    given = {name: getattr(options, f"{name}_dir") for name in _DATA}
    named = [f"--{name}_dir" for name, folder in given.items() if folder]
    if named and SCALES[options.scale].music:
        raise UsageError(
            f"{', '.join(named)}: --scale={options.scale} runs on the built-in music; "
            "your data is for --scale=paper"
        )
    return Request(
        scale=SCALES[options.scale],
        tables=tuple(tables),
        figures=tuple(figures),
        output_dir=pathlib.Path(options.output_dir),
        tasks=tuple(get_task(name).name for name in options.tasks),
        data_dirs=tuple((name, folder) for name, folder in given.items() if folder),
        run_seeds=tuple(dict.fromkeys(run_seeds)),
        head_seeds=options.head_seeds,
        threads=options.threads,
    )


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    request = parse_request(options)
    if options.dry_run:
        print(dry_run(request))
        return
    run_plan(request)


if __name__ == "__main__":
    console.start(main, define_flags)
