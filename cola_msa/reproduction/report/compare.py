"""Whether one encoder is better than another: paired bootstrap over the test clips.

Both are scored on the same resamples of the same clips, so that clips that are hard
for both do not blur the difference.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from cola_msa.evaluation import metrics
from cola_msa.evaluation.tasks import SCORE_TITLES, TASKS
from cola_msa.reproduction.report.page import MEASURED, Cell, Table
from cola_msa.reproduction.report.results import (
    ReportError,
    Result,
    read_result,
    share_of_published,
)
from cola_msa.reproduction.report.runs import collect, find_runs
from cola_msa.system.errors import UsageError

NUM_RESAMPLES = 2000


class CompareError(ReportError):
    """Two results that cannot be compared; the message says why."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: For tables.
        results: By task.
    """

    name: str
    results: dict[str, Result]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference of a score.

    Attributes:
        task: The task.
        score: Name of the score.
        first: The first's score on all test clips, mean over its heads.
        second: The second's.
        low: 2.5th percentile of first - second over resamples of the clips.
        high: 97.5th percentile.
        other_sign: Share of resamples in which the difference has the other sign than
            on all clips, or none.
        clips: Test clips.
        num_resamples: Resamples.
    """

    task: str
    score: str
    first: float
    second: float
    low: float
    high: float
    other_sign: float
    clips: int
    num_resamples: int

    @property
    def value(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero, and lies on the difference's side."""
        return self.low > 0 < self.value or self.high < 0 > self.value


def load_side(path: str | pathlib.Path, other: str | pathlib.Path = "") -> Side:
    """Reads one side of a comparison.

    Args:
        path: A run (its last encoder's results by the paper's protocol are taken), or
            a folder of results.
        other: The side that it is to be compared with; where this one has not been
            judged, the error names a task of that one's.

    Raises:
        CompareError: If it is neither, or has no results.
    """
    path = pathlib.Path(path)
    if (path / "results.json").exists():
        result = read_result(path)
        return Side(f"{path.parent.parent.name}/{path.name}", {result.task: result})
    if not (path / "config.json").exists():
        raise CompareError(
            f"--compare: {path} is neither a run (config.json) nor a folder of results "
            "(results.json)"
        )
    collection = collect(find_runs([str(path)]))
    if not collection.runs:
        raise CompareError(f"--compare: {'; '.join(collection.problems)}")
    run = collection.runs[0]
    names = dict.fromkeys((*TASKS, *(result.task for result in run.results)))
    results = {task: found for task in names if (found := run.final(task))}
    if not results:
        raise CompareError(
            f"--compare: {path} has not been judged yet: python -m cola_msa.eval "
            f"--task={_judged_task(other)} --run_dir={path} --data_dir=..."
        )
    return Side(run.name, results)


def _judged_task(path: str | pathlib.Path) -> str:
    """A task that a side was judged on, as far as it was; else the paper's first."""
    first = next(iter(TASKS))
    if not str(path):
        return first
    try:
        return next(iter(load_side(path).results))
    except ReportError:  # that one is told for itself
        return first


def compare(
    first: Side, second: Side, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Compares two sides on every task that both have.

    Args:
        first: The one.
        second: The other.
        num_resamples: Resamples of the test clips.
        seed: Of the resamples.

    Returns:
        One Difference a task and score.

    Raises:
        CompareError: If they share no task, or were judged on different clips.
    """
    names = dict.fromkeys((*TASKS, *first.results))
    shared = [t for t in names if t in first.results and t in second.results]
    if not shared:
        raise CompareError(
            f"--compare: no task that both have: {first.name} has "
            f"{', '.join(first.results)}, {second.name} has {', '.join(second.results)}"
        )
    found = []
    for task in shared:
        found += compare_results(
            first.results[task], second.results[task], num_resamples, seed
        )
    return found


def compare_results(
    first: Result, second: Result, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Compares two results on one task; see `compare`."""
    a, b = first.load_scores(), second.load_scores()
    if a.class_names != b.class_names:
        raise CompareError(
            f"{first.folder} and {second.folder} have different classes: judge both on "
            "one prepared folder"
        )
    if set(a.clip_ids.tolist()) != set(b.clip_ids.tolist()):
        raise CompareError(
            f"{first.folder} ({len(a.clip_ids)} test clips) and {second.folder} "
            f"({len(b.clip_ids)}) were not judged on the same clips: judge both on one "
            "prepared folder, with the same --task and --train_clips"
        )
    # Records prepared anew may hold the same clips in another order.
    place = {clip: number for number, clip in enumerate(b.clip_ids.tolist())}
    order = [place[clip] for clip in a.clip_ids.tolist()]
    if not np.array_equal(a.labels, b.labels[order]):
        raise CompareError(
            f"{first.folder} and {second.folder}: labels of the same clips differ: "
            "judge both on one prepared folder"
        )
    return paired_differences(
        first.task, a.labels, a.scores, b.scores[:, order], num_resamples, seed
    )


def paired_differences(
    task: str,
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    num_resamples: int,
    seed: int,
) -> list[Difference]:
    """Paired bootstrap of every score of a task.

    Args:
        task: Name of the task.
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].
        first: float [S, C, K], S heads of the one.
        second: The other's; the number of heads may differ.
        num_resamples: Resamples.
        seed: Of the resamples.

    Returns:
        One Difference a score. The same resamples as `metrics.paired_bootstrap`'s;
        here each resample's difference is needed, for its sign.
    """
    a, b = (
        metrics.resampled_scores(labels, scores, num_resamples, seed)
        for scores in (first, second)
    )
    found = []
    for score in a:
        differences = a[score][1:] - b[score][1:]
        differences = differences[~np.isnan(differences)]
        value = float(a[score][0] - b[score][0])
        low, high = np.percentile(differences, [2.5, 97.5])
        found.append(
            Difference(
                task=task,
                score=score,
                first=float(a[score][0]),
                second=float(b[score][0]),
                low=float(low),
                high=float(high),
                other_sign=float(np.mean(differences * np.sign(value) <= 0)),
                clips=len(labels),
                num_resamples=num_resamples,
            )
        )
    return found


def verdict(difference: Difference, first: str, second: str) -> str:
    """Whether it is a difference, in words."""
    title = f"{difference.task}, {SCORE_TITLES[difference.score]}"
    scores = f"{difference.first:.3f} against {difference.second:.3f}"
    better, worse = (first, second) if difference.value > 0 else (second, first)
    interval = f"{difference.low:+.3f} to {difference.high:+.3f}"
    share = f"{100 * difference.other_sign:.1f} % of the resamples"
    if difference.value == 0:
        return f"{title}: {scores}: equal."
    if difference.is_clear:
        return (
            f"{title}: {scores} is a difference: {better} is better than {worse} on "
            f"these {difference.clips:,} clips beyond their choice (interval "
            f"{interval}; the sign turns in {share})."
        )
    return (
        f"{title}: {scores} is no difference that these {difference.clips:,} clips can "
        f"show: the interval {interval} holds zero or turns the sign, which happens in "
        f"{share}."
    )


def remarks(first: Side, second: Side) -> tuple[str, ...]:
    """What the comparison says nothing of, and the scale of both sides."""
    lines = []
    for side in (first, second):
        for result in list(side.results.values())[:1]:
            pairs = result.pairs
            count = "an unknown number of" if pairs is None else f"{pairs:,}"
            share = share_of_published(pairs, result.yardstick)
            lines.append(f"{side.name}: {count} pairs, {share}.")
    lines.append(
        "The intervals are over the choice of test clips. Another seed of training may "
        "move either side by more: train both several times to know."
    )
    lines.append(
        "Each line is a test of its own: of twenty lines without any difference, one "
        "is expected to leave out zero."
    )
    return tuple(lines)


def difference_table(
    differences: Sequence[Difference], first: str, second: str
) -> Table:
    """The differences as a table."""
    rows = tuple(
        (
            Cell(f"{d.task}, {SCORE_TITLES[d.score]}"),
            Cell(f"{d.first:.3f}", kind=MEASURED),
            Cell(f"{d.second:.3f}", kind=MEASURED),
            Cell(f"{d.value:+.3f}"),
            Cell(f"{d.low:+.3f} to {d.high:+.3f}"),
            Cell(f"{100 * d.other_sign:.1f} %"),
            Cell(f"{d.clips:,}"),
            Cell("yes" if d.is_clear else "no"),
        )
        for d in differences
    )
    header = (
        "task, score",
        f"A: {first}",
        f"B: {second}",
        "A - B",
        "95 % interval",
        "other sign",
        "test clips",
        "a difference?",
    )
    resamples = differences[0].num_resamples if differences else 0
    caption = f"Paired bootstrap over the test clips, {resamples:,} resamples"
    return Table(caption, header, rows)


def parse_numbers(name: str, values: Sequence[str], known: Sequence[int]) -> list[int]:
    """Turns a list flag into numbers.

    Raises:
        UsageError: If one of them is not known.
    """
    wrong = [value for value in values if value not in map(str, known)]
    if wrong:
        raise UsageError(
            f"--{name} takes {', '.join(map(str, known))}, not {', '.join(wrong)}"
        )
    return sorted({int(value) for value in values})


def parse_sides(given: Sequence[str], rest: Sequence[str]) -> list[str]:
    """The two sides of `--compare A B` or `--compare=A,B`; [] without the flag.

    Raises:
        UsageError: If there are not two, or arguments are left over.
    """
    if not given:
        if rest:
            raise UsageError(
                f"unknown argument {rest[0]!r}: flags begin with --; see --help"
            )
        return []
    sides = [*given, *rest]
    if len(sides) != 2:
        raise UsageError(
            f"--compare takes two runs or folders of results, not {len(sides)}: "
            f"{', '.join(sides)}"
        )
    return sides
