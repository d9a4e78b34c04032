"""What the report says: the blocks of its page, from what was read."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from cola_msa.config.published import PAPER, PAPER_PAIRS, Yardstick
from cola_msa.config.schema import SOURCES
from cola_msa.config.strategies import STRATEGIES
from cola_msa.evaluation.tasks import PAPER_CLIPS, SCORE_TITLES
from cola_msa.reproduction.report import compare, figure_data, results, tables
from cola_msa.reproduction.report import figures as figures_lib
from cola_msa.reproduction.report import missing as missing_lib
from cola_msa.reproduction.report.commands import FIGURES, TABLES, join_text
from cola_msa.reproduction.report.compare import Difference, Side
from cola_msa.reproduction.report.figures import signed
from cola_msa.reproduction.report.page import (
    Block,
    Bullets,
    Cell,
    Code,
    Figure,
    Heading,
    Table,
    Text,
    render_text,
)
from cola_msa.reproduction.report.runs import Collection

TITLE = "Musical source association: measured beside published"


def introduction(collection: Collection) -> list[Block]:
    """How to read the page, and what could not be read."""
    longest = _longest_runs(collection)
    blocks: list[Block] = [
        Heading("How to read this"),
        Bullets(
            (
                "Shaded rows are the paper's own numbers (Garoufis, Zlatintsi and "
                "Maragos, SMC 2023). The other rows were measured here; the second "
                "column says what with.",
                f"The paper trains on {PAPER_PAIRS:,} pairs of MagnaTagATune's "
                f"{PAPER_CLIPS['mtat'][0]:,} training clips. {longest}",
                "Below a score stand its 95 % bootstrap interval over the test clips, "
                "the number of test clips, and the spread: over runs with different "
                "seeds where there are several (the score is then their mean), else "
                "over the heads trained on one encoder.",
                "MTAT* is MagnaTagATune with all test clips, those without any of the "
                "50 tags too. WA, the paper's weighted accuracy, is accuracy over "
                "clips.",
                "Resampling repeats clips, which raises PR-AUC: where tags have few "
                "clips, an interval may lie above its score.",
                "Rows at different scales or on different clips do not compare with "
                "each other, nor with the paper's.",
            )
        ),
    ]
    if collection.problems:
        blocks += [Heading("What could not be read", 3), Bullets(collection.problems)]
    return blocks


def _longest_runs(collection: Collection) -> str:
    """The scale of what was read, a sentence for each method."""
    pairs: dict[Yardstick, int] = {}
    for run in collection.runs:
        found = [run.pairs, *(result.pairs or 0 for result in run.results)]
        pairs[run.yardstick] = max(pairs.get(run.yardstick, 0), *found)
    return " ".join(
        f"The longest run here{'' if yardstick == PAPER else f' of {yardstick.row}'} "
        f"saw {largest:,} pairs, {results.share_of_published(largest, yardstick)}."
        for yardstick, largest in sorted(pairs.items(), key=lambda p: p[0] != PAPER)
    )


def paper_tables(collection: Collection, numbers: Sequence[int]) -> list[Block]:
    """The paper's tables, each with what it lacks."""
    blocks: list[Block] = []
    for number in numbers:
        table = tables.build_table(number, collection)
        blocks += [Heading(tables.CAPTIONS[number]), table]
        blocks += _missing(tables.missing_of(number, collection))
    return blocks


def _missing(found: missing_lib.Missing) -> list[Block]:
    return [
        Code(
            f"Missing: {title} ({len(commands)} "
            f"command{'s' if len(commands) > 1 else ''})",
            join_text(commands),
        )
        for title, commands in found
    ]


def _lacking(
    collection: Collection, names: Sequence[str], steps: bool = False
) -> list[Block]:
    """What a figure lacks."""
    wanted = [STRATEGIES[name] for name in names]
    return _missing(missing_lib.find(collection, wanted, (figure_data.TASK,), steps))


def figure_2(collection: Collection, data_dirs: Sequence[str]) -> list[Block]:
    """Share of active segments a source."""
    found = figure_data.active_shares(collection, data_dirs)
    blocks: list[Block] = [Heading("Figure 2: active sources")]
    if not found:
        text = (
            "None of the runs' data is there and has stems; name some by --data_dirs."
        )
        return [*blocks, Text(text)]
    names = {s for shares in found for s in shares.shares}
    sources = [s for s in SOURCES if s in names] + sorted(names - set(SOURCES))
    note = "; ".join(f"{s.title}: {s.segments:,} training segments" for s in found)
    rows = tuple(
        (
            Cell(shares.title, f"{shares.segments:,} training segments"),
            *(
                Cell(f"{100 * shares.shares[s]:.1f} %" if s in shares.shares else "-")
                for s in sources
            ),
        )
        for shares in found
    )
    data = Table("Share of segments with the source active", ("data", *sources), rows)
    words = "; ".join(
        f"{source} {100 * found[0].shares[source]:.0f} %"
        for source in sources
        if source in found[0].shares
    )
    png = figures_lib.draw_shares(
        {shares.title: shares.shares for shares in found}, sources, note
    )
    caption = (
        "Segments of 3.92 s of the training split; a source is active where the mean "
        "absolute value of its stem is at least 0.01. The paper's figure has no "
        "numbers; its text says that on MagnaTagATune all but the accompaniment "
        "(other) are silent in more than half of the segments."
    )
    alt = f"Bars, share of active segments in {found[0].title}: {words}."
    return [*blocks, Figure("figure2", png, alt, caption, data)]


def figure_3(collection: Collection) -> list[Block]:
    """Scores against steps."""
    names = figure_data.STEPS_OF
    curves = figure_data.step_curves(collection)
    blocks: list[Block] = [Heading("Figure 3: scores against steps")]
    lacking = _lacking(collection, names, steps=True)
    if not curves:
        return [*blocks, Text("No run has been judged at its kept steps."), *lacking]
    note = figure_data.describe_scale(collection, names)
    rows = []
    for curve in curves:
        for place, step in enumerate(curve.steps):
            cells = []
            for score in ("pr_auc", "roc_auc"):
                value, low, high = (part[place] for part in curve.scores[score])
                cells.append(Cell(f"{value:.3f}", f"{low:.3f} to {high:.3f}"))
            name = STRATEGIES[curve.strategy].title
            rows.append((Cell(name), Cell(f"{step:,}"), *cells))
    bands = "; ".join(f"{STRATEGIES[c.strategy].title}: {c.band}" for c in curves)
    data = Table(
        "Scores by step", ("strategy", "step", "PR-AUC", "ROC-AUC"), tuple(rows)
    )
    caption = (
        f"Upright lines: {bands}. The paper's figure has no numbers; its text says "
        "that MSA reaches a PR-AUC of 0.40 within 300 steps of 64 updates of 128 "
        f"pairs (2,457,600 pairs) and that COLA + MWS catches up later. {note}"
    )
    alt = "Lines of PR-AUC and ROC-AUC against steps. " + " ".join(
        f"{STRATEGIES[curve.strategy].title}: PR-AUC "
        f"{curve.scores['pr_auc'][0][0]:.3f} at step {curve.steps[0]}, "
        f"{curve.scores['pr_auc'][0][-1]:.3f} at step {curve.steps[-1]}."
        for curve in curves
    )
    png = figures_lib.draw_steps(curves, note)
    return [*blocks, Figure("figure3", png, alt, caption, data), *lacking]


def figure_4(collection: Collection) -> list[Block]:
    """Relative difference in per-tag PR-AUC to COLA."""
    names = (*figure_data.TARGETED, "cola")
    rows = figure_data.tag_differences(collection)
    blocks: list[Block] = [Heading("Figure 4: tags of the models of one source")]
    lacking = _lacking(collection, names)
    if not rows:
        text = "It needs COLA and at least one model of one source, judged on mtat."
        return [*blocks, Text(text), *lacking]
    note = figure_data.describe_scale(collection, names)
    named = figure_data.named_tag_differences(collection, rows)
    absent = [t for t in figure_data.NAMED_TAGS if t not in {r.tag for r in rows}]
    text = (
        "The paper's text names these tags: fast, drums and techno as strengths of the "
        "drums' model, guitar, piano and synth of the accompaniment's (other), and "
        "classical as one where none outperforms COLA."
    )
    if absent:
        text += f" Among the tags counted in this data there is no {', '.join(absent)}."
    blocks.append(Text(text))
    sources = list(dict.fromkeys(row.source for row in rows))
    caption = (
        "100 (model - COLA) / COLA, of each tag's PR-AUC; in brackets the positive "
        f"test clips, on which its certainty hangs. {note}"
    )
    if named:
        lines = "Lines: 95 % interval over the test clips. "
        png = figures_lib.draw_named_tags(named, f"{lines}{note}")
        blocks.append(
            Figure(
                "figure4",
                png,
                "Bars by tag and source of the relative PR-AUC difference to COLA: "
                + "; ".join(f"{r.tag}, {r.source} {signed(r.percent)} %" for r in named)
                + ".",
                lines + caption,
                _tag_table(named, sources),
            )
        )
    best = max(rows, key=lambda row: row.percent)
    blocks.append(
        Figure(
            "figure4_all",
            figures_lib.draw_all_tags(rows, note),
            f"Map of all tags against the four sources; the largest difference is "
            f"{signed(best.percent)} % of {best.source} at {best.tag}.",
            "All tags. " + caption,
            _tag_table(rows, sources),
        )
    )
    return [*blocks, *lacking]


def _tag_table(
    rows: Sequence[figure_data.TagDifference], sources: Sequence[str]
) -> Table:
    found = {(row.tag, row.source): row for row in rows}
    positives = {row.tag: row.positives for row in rows}

    def cell(tag: str, source: str) -> Cell:
        row = found.get((tag, source))
        if row is None:
            return Cell("-")
        note = "" if np.isnan(row.low) else f"{signed(row.low)} to {signed(row.high)} %"
        return Cell(f"{signed(row.percent, 1)} %", note)

    lines = tuple(
        (Cell(tag, f"{positives[tag]} clips"), *(cell(tag, s) for s in sources))
        for tag in positives
    )
    return Table("PR-AUC relative to COLA's", ("tag", *sources), lines)


def figure_5(collection: Collection) -> list[Block]:
    """Scores by the quality of the stems."""
    names = tuple(figure_data.STEMS_OF)
    bars = figure_data.stem_bars(collection)
    blocks: list[Block] = [Heading("Figure 5: quality of the stems")]
    lacking = _lacking(collection, names)
    if not bars:
        return [*blocks, Text("No run of these has been judged on mtat."), *lacking]
    note = figure_data.describe_scale(collection, names)
    rows = tuple(
        (
            Cell(bar.title),
            Cell(SCORE_TITLES[bar.score]),
            Cell(f"{bar.value:.3f}", f"{bar.low:.3f} to {bar.high:.3f}"),
        )
        for bar in bars
    )
    data = Table("Scores by stems", ("stems", "score", "value"), rows)
    caption = (
        "Random: masks of an untrained separator. Degraded: a separator trained for 2 "
        "epochs. Clean: a fully trained separator, or true stems. Lines: 95 % interval "
        "over the test clips. The paper's figure has no numbers; its table 1 gives "
        "0.885 / 0.397 (ROC-AUC / PR-AUC) for random and 0.900 / 0.427 for clean, and "
        f"its text places degraded between them, at the paper's scale. {note}"
    )
    alt = "Bars by stems: " + "; ".join(
        f"{bar.title} {SCORE_TITLES[bar.score]} {bar.value:.3f}" for bar in bars
    )
    png = figures_lib.draw_stems(bars, note)
    return [*blocks, Figure("figure5", png, alt + ".", caption, data), *lacking]


def comparison(
    first: Side, second: Side, found: Sequence[Difference]
) -> tuple[list[Block], str]:
    """A paired comparison with its answer in words, as blocks and as text."""
    table = compare.difference_table(found, first.name, second.name)
    answers = tuple(compare.verdict(d, first.name, second.name) for d in found)
    remarks = compare.remarks(first, second)
    heading = Heading(f"Comparison: {first.name} against {second.name}")
    text = "\n".join([render_text(table), "", *answers, *remarks])
    return [heading, table, Bullets(answers), Bullets(remarks)], text


def runs_and_others(collection: Collection) -> list[Block]:
    """All runs with their scale, and results by other protocols."""
    blocks: list[Block] = [
        Heading("Runs"),
        tables.build_runs(collection.runs),
    ]
    further = tables.build_further(collection.runs)
    if further is not None:
        text = (
            "The paper has no numbers for these: compare with chance, with the "
            "untrained network, and with rows of the same data."
        )
        blocks += [Heading("Tasks beyond the paper's"), Text(text), further]
    others = tables.build_others(collection.runs)
    if others is not None:
        text = "Other probes, protocols or shares of labels than the paper's tables."
        blocks += [Heading("Other protocols"), Text(text), others]
    return blocks


def paper_figures(
    collection: Collection, numbers: Sequence[int], data_dirs: Sequence[str]
) -> list[Block]:
    """The paper's figures that are asked for."""
    shares = functools.partial(figure_2, data_dirs=data_dirs)
    makers: dict[int, Callable[[Collection], list[Block]]]
    makers = {2: shares, 3: figure_3, 4: figure_4, 5: figure_5}
    return [block for number in numbers for block in makers[number](collection)]


def build_blocks(
    collection: Collection,
    sides: Sequence[compare.Side] = (),
    tables: Sequence[int] = TABLES,
    figures: Sequence[int] = FIGURES,
    data_dirs: Sequence[str] = (),
    num_resamples: int = compare.NUM_RESAMPLES,
) -> tuple[list[Block], str]:
    """The report's content, and the comparison as text for a terminal.

    Args:
        collection: Runs and results.
        sides: Two, or none.
        tables: The paper's tables to show.
        figures: The paper's figures to show.
        data_dirs: Further prepared folders for figure 2.
        num_resamples: For the comparison.
    """
    blocks, text = introduction(collection), ""
    if sides:
        first, second = sides
        found = compare.compare(first, second, num_resamples)
        compared, text = comparison(first, second, found)
        blocks += compared
    blocks += paper_tables(collection, tables)
    blocks += paper_figures(collection, figures, data_dirs)
    blocks += runs_and_others(collection)
    return blocks, text
