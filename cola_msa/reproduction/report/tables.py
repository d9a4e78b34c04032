"""The paper's tables with what was measured beside them, and the scale of every run."""

from collections.abc import Callable, Iterable, Sequence

from cola_msa.config.published import PAPER_PAIRS, PAPER_UPDATES
from cola_msa.config.published import PUBLISHED as PUBLISHED_TABLES
from cola_msa.config.strategies import STRATEGIES, Strategy
from cola_msa.evaluation.tasks import PAPER_CLIPS, SCORE_TITLES, TASKS
from cola_msa.frameworks.choose import framework_of
from cola_msa.reproduction.report import commands, missing
from cola_msa.reproduction.report.page import MEASURED, MISSING, PUBLISHED, Cell, Table
from cola_msa.reproduction.report.results import (
    Result,
    Score,
    share_of_published,
    summarize,
)
from cola_msa.reproduction.report.runs import Collection, Group, Run

COLUMNS = (
    ("mtat", "roc_auc"),
    ("mtat", "pr_auc"),
    ("mtat_unfiltered", "roc_auc"),
    ("mtat_unfiltered", "pr_auc"),
    ("nsynth", "accuracy"),
    ("fma", "accuracy"),
)
TASK_TITLES = {
    "mtat": "MTAT",
    "mtat_unfiltered": "MTAT*",
    "nsynth": "NSynth",
    "fma": "FMA",
}
CAPTIONS = {
    1: "Table 1: strategies of making pairs",
    2: "Table 2: composition of the batches (ablations)",
    3: "Table 3: models of a single source",
}


def strategies_of(table: int) -> dict[str, Strategy]:
    """The rows of one of the paper's tables and the strategies that make them."""
    made = {
        row: strategy
        for strategy in STRATEGIES.values()
        for number, row in strategy.rows
        if number == table
    }
    return {row: made[row] for row in PUBLISHED_TABLES[table]}


def column_titles() -> tuple[str, ...]:
    """Heads of the score columns."""
    return tuple(f"{TASK_TITLES[t]} {SCORE_TITLES[s]}" for t, s in COLUMNS)


def build_table(number: int, collection: Collection) -> Table:
    """One of the paper's tables.

    Args:
        number: 1, 2 or 3.
        collection: What was read.

    Returns:
        For each row of the paper's its published numbers, then a row for every group
        of runs with their scale, or a row that says that there is none; last the
        untrained network and chance.
    """
    rows: list[tuple[Cell, ...]] = []
    strategies = strategies_of(number)
    for name, strategy in strategies.items():
        rows.append(_published_row(number, name, strategy))
        groups = collection.groups_of(strategy.name)
        rows += [_group_row(strategy.title, group) for group in groups]
        if not groups:
            cells = [Cell("missing", kind=MISSING) for _ in COLUMNS]
            text = "no run; its command stands below"
            rows.append((Cell(strategy.title), Cell(text, kind=MISSING), *cells))
    # A network that no row of the table can have has nothing to be compared with.
    frameworks = {strategy.framework for strategy in strategies.values()}
    runs = [run for run in collection.runs if run.config.framework in frameworks]
    rows += _untrained_rows(runs)
    caption = "Scores, and below them 95 % intervals, test clips and spread"
    return Table(caption, ("strategy", "scale", *column_titles()), tuple(rows))


def _published_row(number: int, name: str, strategy: Strategy) -> tuple[Cell, ...]:
    values = PUBLISHED_TABLES[number][name]
    cells = []
    for task, score in COLUMNS:
        value = values[task].get(score)
        text = "-" if value is None else f"{value:.3f}"
        note = "" if value is None else f"{PAPER_CLIPS[task][2]:,} clips"
        cells.append(Cell(text, note, PUBLISHED))
    if strategy.quoted:
        scale = Cell("quoted by the paper", strategy.quoted, PUBLISHED)
        return (Cell(strategy.title, kind=PUBLISHED), scale, *cells)
    note = f"{PAPER_UPDATES:,} updates\n{PAPER_CLIPS['mtat'][0]:,} training clips"
    scale = Cell(f"paper: {PAPER_PAIRS:,} pairs", note, PUBLISHED)
    return (Cell(strategy.title, kind=PUBLISHED), scale, *cells)


def _group_row(title: str, group: Group) -> tuple[Cell, ...]:
    num_runs = len(group.runs)
    cells = [score_cell(group.score(task, score), num_runs) for task, score in COLUMNS]
    return (Cell(title), _scale_cell(group), *cells)


def _scale_cell(group: Group) -> Cell:
    """The scale of a group: pairs of what was judged, updates, clips, seeds."""
    judged = {result.pairs or 0 for task in TASKS for result in group.finals(task)} or {
        group.pairs
    }
    low, high = min(judged), max(judged)
    pairs = f"{high:,} pairs" if low == high else f"{low:,} to {high:,} pairs"
    run = group.runs[0]
    per_update = run.config.train.pairs_per_update(
        run.description.get("num_replicas", 1)
    )
    seeds = ", ".join(map(str, group.seeds))
    notes = [
        share_of_published(high, run.yardstick),
        f"{high // per_update:,} updates",
        _clips_line(run),
        *_weights_line(run),
        f"preset {run.config.preset}",
        f"{len(group.runs)} runs, seeds {seeds}"
        if len(group.runs) > 1
        else f"1 run, seed {seeds}",
    ]
    if group.copies:
        names = ", ".join(run.name for run in group.copies)
        notes.append(f"not counted, of the same seed again: {names}")
    if any(run.done is None for run in group.runs):
        notes.append("not ended yet")
    return Cell(f"here: {pairs}", "\n".join(notes), MEASURED)


def _weights_line(run: Run) -> list[str]:
    weights = commands.folder_weights(run.description["data"])
    if not weights:
        return []
    return [f"folders drawn with weights {', '.join(f'{w:g}' for w in weights)}"]


def _clips_line(run: Run) -> str:
    if run.train_clips is None:
        return "an unknown number of training clips"
    dataset = str(run.description["data"]["dataset"])
    is_paper = dataset == "mtat" and run.train_clips == PAPER_CLIPS["mtat"][0]
    # The built-in music and cuts of MagnaTagATune have the dataset's name too.
    kind = "(mtat)" if is_paper else f"in {dataset}'s layout"
    return f"{run.train_clips:,} training clips {kind}"


def score_cell(score: Score | None, num_runs: int = 1) -> Cell:
    """A measured score with its interval, test clips, and spread over seeds.

    Args:
        score: The score; None where it is missing.
        num_runs: Runs that should have it.
    """
    if score is None:
        return Cell("missing", kind=MISSING)
    estimate = score.estimate
    notes = [f"{estimate.low:.3f} to {estimate.high:.3f}", f"{score.clips:,} clips"]
    heads = f"{score.num_heads} head{'s' if score.num_heads > 1 else ''}"
    if score.num_runs > 1:
        notes.append(f"sd {score.deviation:.3f} of {score.num_runs} runs, {heads} each")
    elif score.deviation is not None:
        notes.append(f"sd {score.deviation:.3f} of {heads}")
    else:
        notes.append(heads)
    if score.num_runs < num_runs:
        notes.append(f"{score.num_runs} of {num_runs} runs")
    return Cell(f"{estimate.value:.3f}", "\n".join(notes), MEASURED)


def _untrained_rows(runs: Sequence[Run]) -> list[tuple[Cell, ...]]:
    """The untrained network, and chance on the same clips; not in the paper."""
    found: dict[tuple[str, str], dict[str, Result]] = {}
    for run in runs:
        key = framework_of(run.config).title, run.config.model.backbone
        for task in TASKS:
            result = run.by_step(task).get(0)
            if result is not None:
                # One is enough: all runs of a backbone start from the like of it.
                found.setdefault(key, {}).setdefault(task, result)
    rows: list[tuple[Cell, ...]] = []
    for (framework, backbone), results in found.items():
        cells = [_first_cell(results.get(task), score) for task, score in COLUMNS]
        note = f"{backbone}, {framework}'s; not in the paper"
        scale = Cell("here: 0 pairs", note, MEASURED)
        rows.append((Cell("untrained (same size)"), scale, *cells))
    chances = [_chance_cell(runs, task, score) for task, score in COLUMNS]
    scale = Cell("here", "the test clips' class shares alone; not in the paper")
    return [*rows, (Cell("chance"), scale, *chances)]


def _chance_cell(runs: Sequence[Run], task: str, name: str) -> Cell:
    values = {
        f"{result.scores[name]['chance']:.3f}"
        for run in runs
        for result in run.results
        if result.task == task and name in result.scores
    }
    # Runs that were judged on different clips have different chances.
    return Cell(" or ".join(sorted(values)) or "-")


def _first_cell(result: Result | None, name: str) -> Cell:
    return score_cell(summarize([result], name) if result is not None else None)


def missing_of(
    number: int, collection: Collection
) -> list[tuple[str, list[commands.Command]]]:
    """What a table lacks: titles, and the commands that make it."""
    wanted = list(strategies_of(number).values())
    found = missing.find(collection, wanted, tuple(TASKS))
    return found + missing.untrained(collection, wanted, tuple(TASKS))


def build_runs(runs: Iterable[Run]) -> Table:
    """Every run with its scale and its origin."""
    columns: dict[str, Callable[[Run], Cell]] = {
        "run": lambda run: Cell(run.name),
        "strategy": _strategy_cell,
        "preset": lambda run: Cell(run.config.preset, run.config.model.backbone),
        "pairs": lambda run: Cell(
            f"{run.pairs:,}", share_of_published(run.pairs, run.yardstick)
        ),
        "updates": lambda run: Cell(
            f"{run.updates:,}", f"of {run.config.train.batch_size} pairs a replica"
        ),
        "data": _data_cell,
        "seed": lambda run: Cell(str(run.config.train.seed)),
        "end": _end_cell,
        "code": _code_cell,
    }
    rows = [tuple(make(run) for make in columns.values()) for run in runs]
    return Table("Every run that was read", tuple(columns), tuple(rows))


def _strategy_cell(run: Run) -> Cell:
    if run.strategy is None:
        text = framework_of(run.config).describe_pairs(run.config.train)
        start = run.description.get("init")
        if start:
            text += f"\nits first weights came from {start['path']}"
        return Cell("none of the paper's", text)
    note = "" if run.config.strategy else "by its fields; none was named"
    return Cell(run.strategy.title, note)


def _data_cell(run: Run) -> Cell:
    data = run.description["data"]
    notes = []
    if run.train_clips is not None:
        notes.append(f"{run.train_clips:,} training clips")
    notes += _weights_line(run)
    hours = (run.manifest or {}).get("splits", {}).get("train", {}).get("hours")
    if hours is not None:
        notes.append(f"{hours:.1f} h")
    notes.append(f"separator: {run.separator or 'none or unknown'}")
    notes.append(f"manifest {data['manifest_hash']}")
    return Cell(str(data["dataset"]), "\n".join(notes))


def _end_cell(run: Run) -> Cell:
    if run.done is None:
        planned = run.config.train.steps * run.config.train.updates_per_step
        return Cell("not ended yet", f"{planned:,} updates were asked for", MISSING)
    minutes = run.done.get("training_seconds", 0.0) / 60
    return Cell(str(run.done["outcome"]), f"{minutes:.1f} min of training")


def _code_cell(run: Run) -> Cell:
    commit = run.description.get("git_commit")
    versions = run.description.get("versions", {})
    text = "\n".join(f"{name} {version}" for name, version in versions.items())
    return Cell(str(commit)[:10] if commit else "no commit", text)


def _protocol_words(run: Run, result: Result) -> list[str]:
    """In what a result departs from the default protocol."""
    words = list(result.deviations)
    if result.statistics not in (None, run.config.train.statistics_inputs):
        words.append(f"batch-norm statistics of {result.statistics}")
    return words


def build_further(runs: Iterable[Run]) -> Table | None:
    """Results on tasks that the paper does not have; None where there are none."""
    rows = []
    for run in runs:
        title = run.strategy.title if run.strategy else run.name
        for result in run.results:
            if result.is_of_the_paper:
                continue
            words = "; ".join(_protocol_words(run, result)) or "default"
            who = "untrained" if result.is_untrained else title
            share = share_of_published(result.pairs, run.yardstick)
            scale = Cell(f"{result.pairs or 0:,} pairs", share)
            data = str(result.content["data"]["manifest_hash"])
            for name, row in result.scores.items():
                cell = score_cell(summarize([result], name))
                rows.append(
                    (
                        Cell(result.task, f"{result.title}\nmanifest {data}"),
                        Cell(who, f"{run.name}, step {result.step}"),
                        Cell(words),
                        scale,
                        Cell(SCORE_TITLES[name], f"chance {row['chance']:.3f}"),
                        cell,
                    )
                )
    rows.sort(key=lambda row: (row[0].text, row[0].note))
    header = ("task", "encoder", "protocol", "scale", "score", "value")
    return Table("Results on further tasks", header, tuple(rows)) if rows else None


def build_others(runs: Iterable[Run]) -> Table | None:
    """Results by other protocols, which the paper's tables leave out."""
    rows = []
    for run in runs:
        title = run.strategy.title if run.strategy else run.name
        for result in run.results:
            if run.is_usual(result) or not result.is_of_the_paper:
                continue
            words = _protocol_words(run, result)
            for name, row in result.scores.items():
                text = f"{row['low']:.3f} to {row['high']:.3f}\n{result.clips:,} clips"
                rows.append(
                    (
                        Cell(title, run.name),
                        Cell(TASK_TITLES[result.task]),
                        Cell("; ".join(words)),
                        Cell(
                            f"{result.pairs:,} pairs" if result.pairs else "0 pairs",
                            share_of_published(result.pairs, run.yardstick),
                        ),
                        Cell(SCORE_TITLES[name]),
                        Cell(f"{row['value']:.3f}", text, MEASURED),
                    )
                )
    header = ("strategy", "task", "protocol", "scale", "score", "value")
    return Table("Results by other protocols", header, tuple(rows)) if rows else None
