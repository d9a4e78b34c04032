"""One evaluation as the report reads it: results.json and clip_scores.npz."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.config.published import PAPER, Yardstick
from cola_msa.evaluation import metrics, results
from cola_msa.evaluation.tasks import SCORE_TITLES, TASKS
from cola_msa.system.errors import UserError
from cola_msa.values.reading import read_json

NUM_RESAMPLES = 1000


class ReportError(UserError):
    """Runs or results that cannot be reported; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class ClipScores:
    """What `clip_scores.npz` holds.

    Attributes:
        clip_ids: str [C].
        labels: [C, K] of 0 and 1 (tags), or class numbers [C].
        scores: float [S, C, K] for S heads.
        class_names: K names.
    """

    clip_ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        folder: Where its files lie.
        content: Its results.json.
    """

    folder: pathlib.Path
    content: dict[str, Any]

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.content["task"]

    @property
    def is_of_the_paper(self) -> bool:
        """Whether the task is one of the paper's."""
        return self.task in TASKS

    @property
    def title(self) -> str:
        """The task's title."""
        return str(self.content.get("title") or self.task)

    @property
    def step(self) -> int | None:
        """Step of the checkpoint that was judged."""
        return self.content["encoder"]["step"]

    @property
    def pairs(self) -> int | None:
        """Pairs that the encoder had seen; 0 for the untrained network."""
        encoder = self.content["encoder"]
        return 0 if encoder["encoder"] == "untrained" else encoder["pairs"]

    @property
    def is_untrained(self) -> bool:
        """Whether it judges the network that a run starts from."""
        encoder = self.content["encoder"]
        return encoder["encoder"] == "untrained" or (
            encoder["encoder"] == "trained" and encoder["step"] == 0
        )

    @property
    def clips(self) -> int:
        """Test clips."""
        return self.content["splits"]["test"]["clips"]

    @property
    def test_data(self) -> tuple[str, int]:
        """Stands for the test clips: the manifest's hash, and their number."""
        return str(self.content["data"]["manifest_hash"]), self.clips

    @property
    def num_heads(self) -> int:
        """Heads whose scores are averaged."""
        return len(self.content["seeds"])

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The rows of its scores, by name."""
        return self.content["scores"]

    @property
    def yardstick(self) -> Yardstick:
        """The published numbers that it is read beside."""
        return results.yardstick_of(self.content)

    @property
    def deviations(self) -> tuple[str, ...]:
        """In what it departs from the default protocol, in words; () for the tables.

        Fields that earlier versions did not write count as that protocol.
        """
        found = results.deviations(self.content)
        protocol = self.content.get("protocol", "cached")
        if protocol != "cached":
            found.append(f"--protocol={protocol}")
        return tuple(found)

    @property
    def statistics(self) -> str | None:
        """What its batch-norm statistics come from; None where it does not say."""
        found = self.content["encoder"].get("statistics")
        # Earlier versions told only by the folder's name, where it was not the run's.
        by_name = [n for n in ("anchors", "pairs") if f"-{n}" in self.folder.name]
        return found or (by_name[0] if by_name else None)

    def load_scores(self) -> ClipScores:
        """Reads the scores of its test clips.

        Raises:
            ReportError: If the file is missing or damaged.
        """
        return load_clip_scores(self.folder)


def load_clip_scores(folder: pathlib.Path) -> ClipScores:
    """Reads `clip_scores.npz`; see `Result.load_scores`."""
    path = folder / "clip_scores.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return ClipScores(
                arrays["clip_ids"],
                arrays["labels"],
                arrays["scores"],
                tuple(arrays["class_names"].tolist()),
            )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ReportError(
            f"{path}: missing or damaged ({error}); run the evaluation again"
        ) from error


def read_result(folder: pathlib.Path) -> Result:
    """Reads one evaluation.

    Raises:
        ReportError: If its results.json is damaged, or is of no task.
    """
    return read_json(
        folder / "results.json",
        ReportError,
        "it is left out: run the evaluation again",
        check=lambda content: _checked(Result(folder, content)),
    )


def _checked(result: Result) -> Result:
    """Touches whatever the report reads, so that it is known to be there."""
    if not isinstance(result.task, str) or not result.scores:
        raise ValueError(f"task {result.task!r} with scores {list(result.scores)}")
    unknown = sorted(set(result.scores) - set(SCORE_TITLES))
    if unknown:
        raise ValueError(f"scores {unknown}, which no task has")
    _ = (result.step, result.pairs, result.clips, result.num_heads)
    _ = (result.deviations, result.statistics, result.test_data)
    share_of_published(result.pairs, result.yardstick)
    for row in result.scores.values():
        for name in ("value", "low", "high"):
            if type(row[name]) not in (int, float):
                raise ValueError(f"{name} is {row[name]!r:.40}")
    for part in (result.step, result.pairs):
        if type(part) not in (int, type(None)):
            raise ValueError(f"step or pairs are {part!r:.40}")
    if type(result.clips) is not int:
        raise ValueError(f"clips are {result.clips!r:.40}")
    return result


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of a group, as a table shows it.

    Attributes:
        estimate: Mean over runs and heads, and its interval over the test clips.
        deviation: Over runs, or with one run over heads; None with one of each.
        num_runs: Runs with different seeds.
        num_heads: Heads of each.
        clips: Test clips.
        pairs: Pairs that the encoders had seen.
    """

    estimate: metrics.Estimate
    deviation: float | None
    num_runs: int
    num_heads: int
    clips: int
    pairs: int | None


def summarize(judged: Sequence[Result], name: str) -> Score | None:
    """A score over results of runs that differ by their seed alone.

    Args:
        judged: One a run, on the same task.
        name: Name of the score.

    Returns:
        None where there are no results, or they do not have that score.
    """
    rows = [result.scores[name] for result in judged if name in result.scores]
    if not rows:
        return None
    first = judged[0]
    value = float(np.mean([row["value"] for row in rows]))
    estimate = metrics.Estimate(value, rows[0]["low"], rows[0]["high"])
    deviation = rows[0].get("deviation")
    if len(rows) > 1:
        folders = tuple(result.folder for result in judged)
        estimate = dataclasses.replace(_joint_bootstrap(folders)[name], value=value)
        deviation = float(np.std([row["value"] for row in rows], ddof=1))
    return Score(
        estimate, deviation, len(rows), first.num_heads, first.clips, first.pairs
    )


@functools.lru_cache(maxsize=256)
def _joint_bootstrap(folders: tuple[pathlib.Path, ...]) -> dict[str, metrics.Estimate]:
    """Intervals of the mean over several runs, each weighted alike.

    Raises:
        ReportError: If the runs were judged on different clips.
    """
    parts = [load_clip_scores(folder) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        if not np.array_equal(part.clip_ids, parts[0].clip_ids):
            raise ReportError(
                f"{folder} and {folders[0]} are results of one strategy on different "
                "test clips: report them apart"
            )
    num_heads = np.lcm.reduce([len(part.scores) for part in parts])
    scores = np.concatenate(
        [np.repeat(p.scores, num_heads // len(p.scores), axis=0) for p in parts]
    )
    return metrics.bootstrap(parts[0].labels, scores, NUM_RESAMPLES)


def share_of_published(pairs: int | None, yardstick: Yardstick = PAPER) -> str:
    """Pairs as a share of the published, for instance `0.0078 % of the paper's`.

    Args:
        pairs: How many; None where it is not known.
        yardstick: Of the method that saw them.
    """
    if pairs is None:
        return f"unknown share of {yardstick.owner}"
    percent = 100.0 * pairs / yardstick.pairs
    # Two digits that count, without an exponent.
    digits = 0 if percent >= 10 or not percent else 1 - math.floor(math.log10(percent))
    return f"{percent:.{digits}f} % of {yardstick.owner}"
