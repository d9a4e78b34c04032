"""Published beside measured: python -m cola_msa.report --runs=runs --output_dir=report.

Reads runs and their results and writes report.html, one page that needs nothing else,
and report.md with its figures beside it. `--compare A B` says whether A is better than
B (paired bootstrap over the test clips), each a run or a folder of results:

    python -m cola_msa.report --compare runs/msa runs/cola_mws --output_dir=report
"""

import pathlib

from absl import flags, logging

from cola_msa.reproduction.report import commands, compare, content
from cola_msa.reproduction.report.compare import parse_numbers, parse_sides
from cola_msa.reproduction.report.content import build_blocks
from cola_msa.reproduction.report.page import (
    check_output,
    write_report,
)
from cola_msa.reproduction.report.results import ReportError
from cola_msa.reproduction.report.runs import Collection, collect, find_runs
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    flags.DEFINE_list(
        "runs", [], "Runs, folders of runs, or patterns; default: all under runs/."
    )
    define_path("output_dir", "report", "Where the report goes.")
    flags.DEFINE_list(
        "tables", list(map(str, commands.TABLES)), "The paper's tables to show."
    )
    flags.DEFINE_list(
        "figures", list(map(str, commands.FIGURES)), "Its figures to show."
    )
    flags.DEFINE_list(
        "data_dirs", [], "Prepared folders for figure 2, beside those of the runs."
    )
    flags.DEFINE_list(
        "compare", [], "Two runs, or two folders of results: --compare A B."
    )
    flags.DEFINE_integer(
        "resamples",
        compare.NUM_RESAMPLES,
        "Resamples of the test clips for --compare.",
        lower_bound=100,
    )


def main(options: flags.FlagValues, *words: str) -> None:
    """Runs the command.

    Raises:
        UsageError: If a flag's value does not fit.
        ReportError: If a run does not.
    """
    for name in ("runs", "data_dirs", "compare"):  # no tables is a choice
        if options[name].present and not options[name].value:
            raise UsageError(f"--{name}= names nothing")
    paths = parse_sides(options.compare, words)
    tables = parse_numbers("tables", options.tables, commands.TABLES)
    figures = parse_numbers("figures", options.figures, commands.FIGURES)
    check_output(options.output_dir)
    sides = [compare.load_side(*pair) for pair in zip(paths, paths[::-1], strict=True)]
    patterns = list(options.runs)
    if not patterns:
        compared = [p for p in paths if (pathlib.Path(p) / "config.json").exists()]
        patterns = compared if paths else [] if options.data_dirs else ["runs"]
    collection = collect(find_runs(patterns)) if patterns else Collection(())
    if patterns and not collection.runs:
        raise ReportError(f"no run could be read: {'; '.join(collection.problems)}")
    logging.info(
        "%d runs, %d results",
        len(collection.runs),
        sum(len(run.results) for run in collection.runs),
    )
    blocks, text = build_blocks(
        collection, sides, tables, figures, options.data_dirs, options.resamples
    )
    page, markdown = write_report(options.output_dir, content.TITLE, blocks)
    if text:
        print(text, end="\n\n")
    console.tell(str(page), str(markdown))


if __name__ == "__main__":
    # The second run of `--compare A B` is a word.
    console.start(main, define_flags, most_arguments=1)
