"""Reads runs and their results, and says which of them belong together.

Runs that differ by their seed alone are one `Group`: one row of a table, one line of a
figure. Runs that do not even differ by that are one training, which counts once.
Nothing here loads a network.
"""

import collections
import dataclasses
import functools
import glob
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging

from cola_msa.config.published import Yardstick
from cola_msa.config.schema import Config, from_dict, to_dict
from cola_msa.config.strategies import STRATEGIES, Strategy, strategy_of
from cola_msa.frameworks.choose import framework_of
from cola_msa.records.folder_lists import split_names
from cola_msa.records.manifests import read_manifest
from cola_msa.records.schema import MANIFEST_NAME, DataError
from cola_msa.reproduction.report.results import (
    ReportError,
    Result,
    Score,
    read_result,
    summarize,
)
from cola_msa.runs import directory, kept
from cola_msa.system.errors import UserError

# Fields of TrainConfig that do not change what is learned, and those of a strategy.
_BOOKKEEPING = (
    "seed",
    "checkpoint_every_steps",
    "max_to_keep",
    "keep_steps",
    "deterministic",
)
_STRATEGY_FIELDS = ("source", "batches", "augment")


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run and its results.

    Attributes:
        run_dir: Its directory.
        config: Its configuration.
        description: Its config.json.
        done: Its done.json; None while it has not ended.
        manifest: Its data's; None where that is gone or has changed.
        kept_steps: Steps whose encoder was kept.
        results: Its evaluations.
    """

    run_dir: pathlib.Path
    config: Config
    description: dict[str, Any]
    done: dict[str, Any] | None
    manifest: dict[str, Any] | None
    kept_steps: tuple[int, ...]
    results: tuple[Result, ...]

    @property
    def name(self) -> str:
        """For tables."""
        return self.run_dir.resolve().name

    @property
    def separator(self) -> str | None:
        """Name of the separator of its stems, as far as it is known."""
        found = self.description["data"].get("separator")
        if found is None and self.manifest is not None:
            found = self.manifest.get("separator")
        return found.get("name") if isinstance(found, dict) else found

    @property
    def strategy(self) -> Strategy | None:
        """The paper's strategy that it trains; None where it is none."""
        if self.config.strategy in STRATEGIES and not self.config.train.init_from:
            return STRATEGIES[self.config.strategy]
        framework = self.config.framework
        return strategy_of(self.config.train, self.separator, framework)

    @property
    def yardstick(self) -> Yardstick:
        """The published numbers that it is read beside."""
        return framework_of(self.config).yardstick

    @property
    def updates(self) -> int:
        """Updates so far, as far as files say: of its end, or of its last encoder."""
        if self.done is not None:
            return int(self.done["updates"])
        return max(self.kept_steps, default=0) * self.config.train.updates_per_step

    @property
    def pairs(self) -> int:
        """Pairs so far, all replicas together."""
        replicas = self.description.get("num_replicas", 1)
        return self.updates * self.config.train.pairs_per_update(replicas)

    @property
    def train_clips(self) -> int | None:
        """Clips that it trains on."""
        if self.manifest is None:
            return None
        return self.manifest["splits"].get("train", {}).get("num_clips")

    @property
    def scale_key(self) -> str:
        """Equal for runs that differ in strategy, seed and bookkeeping alone."""
        fields = to_dict(self.config)
        for name in ("preset", "strategy"):
            del fields[name]
        for name in (*_BOOKKEEPING, *_STRATEGY_FIELDS):
            del fields["train"][name]
        fields["num_replicas"] = self.description.get("num_replicas", 1)
        return json.dumps(fields, sort_keys=True)

    def is_usual(self, result: Result) -> bool:
        """Whether a result is by the default protocol, with this run's statistics."""
        usual = (None, self.config.train.statistics_inputs)
        return not result.deviations and result.statistics in usual

    def final(self, task: str) -> Result | None:
        """The result of its latest trained encoder by the paper's protocol."""
        found = [
            result
            for result in self.results
            if result.task == task
            and self.is_usual(result)
            and not result.is_untrained
            and result.step is not None
        ]
        return max(found, key=lambda result: result.step or 0, default=None)

    def by_step(self, task: str) -> dict[int, Result]:
        """Results by the paper's protocol at every step judged; 0 is untrained."""
        found = {
            result.step: result
            for result in self.results
            if result.task == task and result.step is not None and self.is_usual(result)
        }
        return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one strategy that differ by their seed alone.

    Attributes:
        strategy: The strategy.
        runs: One a seed, in the order of their seeds.
        copies: Runs of those seeds again, which say nothing more and do not count.
    """

    strategy: Strategy
    runs: tuple[Run, ...]
    copies: tuple[Run, ...] = ()

    @property
    def scale_key(self) -> str:
        """See Run."""
        return self.runs[0].scale_key

    @property
    def pairs(self) -> int:
        """Pairs of its longest run."""
        return max(run.pairs for run in self.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its runs."""
        return tuple(run.config.train.seed for run in self.runs)

    def finals(self, task: str) -> tuple[Result, ...]:
        """Its runs' final results on a task, that can be averaged.

        Those after the most pairs, on the test data that most of them were judged on.
        """
        found = [result for run in self.runs if (result := run.final(task))]
        most = max((result.pairs or 0 for result in found), default=0)
        found = [result for result in found if (result.pairs or 0) == most]
        data = collections.Counter(result.test_data for result in found)
        usual = data.most_common(1)[0][0] if data else None
        return tuple(result for result in found if result.test_data == usual)

    def score(self, task: str, name: str) -> Score | None:
        """A score of its final encoders; None where it has not been judged."""
        return summarize(self.finals(task), name)


@dataclasses.dataclass(frozen=True)
class Collection:
    """All that was read.

    Attributes:
        runs: The runs, by name.
        problems: What could not be read, in words.
    """

    runs: tuple[Run, ...]
    problems: tuple[str, ...] = ()

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """Runs that differ by their seed alone, those of the paper's strategies."""
        found: dict[tuple, list[Run]] = {}
        for run in self.runs:
            if run.strategy is not None:
                data = run.description["data"].get("manifest_hash")
                key = (run.strategy.name, run.scale_key, data)
                found.setdefault(key, []).append(run)
        return tuple(
            Group(STRATEGIES[key[0]], *_split_copies(runs))
            for key, runs in found.items()
        )

    def groups_of(self, strategy: str) -> list[Group]:
        """A strategy's groups, the largest first."""
        found = [group for group in self.groups if group.strategy.name == strategy]
        return sorted(found, key=lambda group: -group.pairs)

    def at_one_scale(self, strategies: Iterable[str]) -> dict[str, Group]:
        """One group a strategy, all with equal schedules, so that they compare.

        Of several such sets that of the most strategies is taken, then the one with
        the most pairs, then with the most training clips.
        """
        sets: dict[tuple[str, int], dict[str, Group]] = {}
        for name in strategies:
            for group in reversed(self.groups_of(name)):
                # By clips, not by manifest: other stems are another manifest.
                clips = group.runs[0].train_clips or 0
                sets.setdefault((group.scale_key, clips), {})[name] = group
        best = max(
            sets,
            key=lambda key: (
                len(sets[key]),
                max(group.pairs for group in sets[key].values()),
                key[1],
            ),
            default=None,
        )
        return sets[best] if best is not None else {}

    def data_dirs(self, kind: str) -> dict[str, str]:
        """The prepared folder of each task that some result was made with.

        Args:
            kind: What its records hold.
        """
        return {
            result.task: result.content["data"]["data_dir"]
            for run in self.runs
            if run.config.frontend.kind == kind
            for result in run.results
        }


def _split_copies(runs: Iterable[Run]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Of runs that may differ by their seed alone one a seed, and the others.

    With one seed they make the same pairs from the same weights: the one that got
    furthest stays, of several such the one with the most results.
    """
    by_seed: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (-run.pairs, -len(run.results), run.name)):
        by_seed.setdefault(run.config.train.seed, []).append(run)
    found = [by_seed[seed] for seed in sorted(by_seed)]
    return (
        tuple(first for first, *_ in found),
        tuple(run for _, *rest in found for run in rest),
    )


def find_runs(patterns: Sequence[str]) -> list[pathlib.Path]:
    """The run directories that `--runs` names.

    Args:
        patterns: Run directories, folders of runs, or patterns of either.

    Raises:
        ReportError: If one of them names no run.
    """
    found: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        paths = [pathlib.Path(path) for path in sorted(glob.glob(pattern))]
        runs = [path for path in paths if (path / "config.json").exists()]
        for path in paths:
            runs += sorted(config.parent for config in path.glob("*/config.json"))
        if not runs:
            raise ReportError(
                f"--runs: {pattern} is neither a run nor a folder of runs (a run holds "
                "config.json; python -m cola_msa.train writes one)"
            )
        found.update(dict.fromkeys(runs))
    return list(found)


def collect(run_dirs: Iterable[pathlib.Path]) -> Collection:
    """Reads runs and their results.

    Args:
        run_dirs: The runs.

    Returns:
        The Collection; what cannot be read is among its problems.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for run_dir in run_dirs:
        try:
            runs.append(_read_run(run_dir, problems))
        except UserError as error:
            problems.append(f"{run_dir}: left out: {error}")
    for problem in problems:
        logging.warning("%s", problem)
    return Collection(tuple(runs), tuple(problems))


def _read_run(run_dir: pathlib.Path, problems: list[str]) -> Run:
    description = directory.load_run(run_dir)
    done_path = run_dir / directory.DONE_NAME
    return Run(
        run_dir=run_dir,
        config=from_dict(Config, description["config"]),
        description=description,
        done=kept.read_done(run_dir) if done_path.exists() else None,
        manifest=_read_manifest(run_dir, description["data"], problems),
        kept_steps=tuple(kept.kept_steps(run_dir)),
        results=tuple(_read_results(run_dir, problems)),
    )


def _read_manifest(
    run_dir: pathlib.Path, data: dict[str, Any], problems: list[str]
) -> dict[str, Any] | None:
    if not data.get("data_dir"):  # imported weights have no data of their own
        return None
    if data.get("folders"):
        return _read_manifests(run_dir, data, problems)
    data_dir = pathlib.Path(data["data_dir"])
    if not (data_dir / MANIFEST_NAME).exists():
        problems.append(f"{run_dir}: its data in {data_dir} is gone")
        return None
    try:
        manifest, found = read_manifest(data_dir / MANIFEST_NAME)
    except DataError as error:
        problems.append(f"{run_dir}: {error}")
        return None
    if found != data.get("manifest_hash"):
        problems.append(f"{run_dir}: its data in {data_dir} has changed since")
        return None
    return manifest


def _read_manifests(
    run_dir: pathlib.Path, data: dict[str, Any], problems: list[str]
) -> dict[str, Any] | None:
    """Of a run on several folders: what can be summed over their manifests."""
    names = split_names(data["data_dir"])
    parts = [
        _read_manifest(run_dir, {**part, "data_dir": name}, problems)
        for name, part in zip(names, data["folders"], strict=False)
    ]
    if None in parts or len(names) != len(data["folders"]):
        return None
    found = [part["splits"].get("train", {}) for part in parts if part]
    train: dict[str, Any] = {}
    for name in ("num_clips", "num_segments", "hours"):
        if all(name in split for split in found):
            train[name] = sum(split[name] for split in found)
    return {"dataset": data["dataset"], "splits": {"train": train}}


def _read_results(run_dir: pathlib.Path, problems: list[str]) -> list[Result]:
    found = []
    for path in sorted((run_dir / "eval").glob("*/results.json")):
        if path.parent.name.startswith("retrieval"):
            continue
        try:
            found.append(read_result(path.parent))
        except ReportError as error:
            problems.append(str(error))
    return found
