"""What the report lacks, with the exact commands that make it."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import Config
from cola_msa.config.strategies import DEGRADED, NO_STEMS, RANDOM, SEPARATED, Strategy
from cola_msa.frameworks.choose import framework_of, get_framework
from cola_msa.reproduction.report.commands import (
    PREPARED,
    Command,
    data_name,
    dataset_of,
    eval_command,
    prepare_commands,
    train_command,
    weight_flags,
)
from cola_msa.reproduction.report.runs import Collection, Group, Run

Missing = list[tuple[str, list[Command]]]


def find(
    collection: Collection,
    strategies: Sequence[Strategy],
    tasks: Sequence[str],
    steps: bool = False,
) -> Missing:
    """Lists what is missing for strategies to be compared on tasks.

    Args:
        collection: What was read.
        strategies: All that a table or figure shows.
        tasks: All that it shows.
        steps: Whether every kept step must have been judged, not the last alone.

    Returns:
        Titles, and the commands that make what each names. The runs are as long as
        those that are there; where there are none, as long as the paper's.
    """
    names = [strategy.name for strategy in strategies]
    groups = collection.at_one_scale(names)
    reference = next(iter(groups.values()), None)
    found: Missing = []
    for strategy in strategies:
        group = groups.get(strategy.name)
        if reference and strategy.framework != reference.strategy.framework:
            # Other networks are never at one scale: its longest runs are taken.
            group = next(iter(collection.groups_of(strategy.name)), None)
        if group is None:
            commands = _all_of(collection, strategy, reference, tasks)
            found.append((f"{strategy.title}: no run", commands))
            continue
        for run in group.runs:
            part = _evaluations(collection, run, tasks, steps)
            if part:
                found.append((f"{strategy.title}: run {run.name}", part))
    return found


def untrained(
    collection: Collection, strategies: Sequence[Strategy], tasks: Sequence[str]
) -> Missing:
    """The untrained networks' evaluations, where one was not judged on some task.

    A network for each framework: that of the runs that the table compares.
    """
    names = [strategy.name for strategy in strategies]
    groups = list(collection.at_one_scale(names).values())
    groups += [group for name in names for group in collection.groups_of(name)[:1]]
    firsts: dict[str, Run] = {}
    for group in groups:
        firsts.setdefault(group.strategy.framework, group.runs[0])
    commands = []
    for first in firsts.values():
        network = first.config.framework, first.config.model.backbone
        judged = {
            task
            for run in collection.runs
            for task in tasks
            if (run.config.framework, run.config.model.backbone) == network
            and 0 in run.by_step(task)
        }
        commands += [
            eval_command(
                task,
                first.run_dir,
                _data_of(task, collection, first.config.frontend.kind),
                encoder="untrained",
            )
            for task in tasks
            if task not in judged
        ]
    return [("untrained network", commands)] if commands else []


def _all_of(
    collection: Collection,
    strategy: Strategy,
    reference: Group | None,
    tasks: Iterable[str],
) -> list[Command]:
    """Preparation where it is due, training and evaluations of a strategy."""
    if reference is None:
        config = get_preset(strategy.name)
        run_dir = pathlib.Path("runs") / strategy.name
    else:
        model = reference.runs[0]
        if model.config.framework == strategy.framework:
            config = strategy.apply(model.config)
        else:
            config = _counterpart(model.config, strategy)
        if model.config.preset == reference.strategy.name:  # the paper's length
            config = dataclasses.replace(config, preset=strategy.name)
        run_dir = model.run_dir.parent / strategy.name
    run_dir = _free(run_dir)
    data, commands = _training_data(collection, strategy)
    commands.append(
        train_command(config, data["data_dir"], run_dir, *weight_flags(data))
    )
    for task in tasks:
        folder = _data_of(task, collection, _kind(strategy))
        commands.append(eval_command(task, run_dir, folder))
    return commands


def _free(run_dir: pathlib.Path) -> pathlib.Path:
    """The folder, or the next in number where it holds a run, of another length."""
    found, number = run_dir, 2
    while (found / "config.json").exists():
        found, number = run_dir.with_name(f"{run_dir.name}_{number}"), number + 1
    return found


def _kind(strategy: Strategy) -> str:
    """What the records that a strategy learns from hold."""
    return get_framework(strategy.framework).frontend_kind


def _counterpart(config: Config, strategy: Strategy) -> Config:
    """What a strategy is trained with beside a run of another framework.

    Its own framework's preset of that size; at the published length where the run's
    preset is neither for the demo nor for smoke.
    """
    theirs = framework_of(config).presets
    own = get_framework(strategy.framework).presets
    for size in ("demo", "smoke"):
        if config.preset == theirs[size]:
            return strategy.apply(get_preset(own[size]))
    return get_preset(strategy.name)


def _data_of(task: str, collection: Collection, kind: str) -> str:
    known = collection.data_dirs(kind).get(task)
    if known:
        return known
    dataset = dataset_of(task)
    for run in collection.runs:
        data = run.description["data"]
        is_kind = run.config.frontend.kind == kind
        # A task is judged on one folder.
        if is_kind and data["dataset"] == dataset and not data.get("folders"):
            return data["data_dir"]
    return f"{PREPARED}/{dataset}"


def _training_data(
    collection: Collection, strategy: Strategy
) -> tuple[dict[str, Any], list[Command]]:
    """Data that a strategy can be trained on, and what prepares it if none is known.

    The data as a run's config.json describes it.
    """
    for run in collection.runs:
        if run.config.frontend.kind != _kind(strategy):
            continue
        data = run.description["data"]
        has_stems = bool(data.get("sources"))
        kind = run.strategy.stems if run.strategy else SEPARATED
        if strategy.stems == NO_STEMS and kind in (NO_STEMS, SEPARATED):
            return data, []
        if strategy.stems == kind and has_stems:
            return data, []
        # COLA reads no stems, but its data may have them.
        is_plain = run.separator not in (None, "random")
        if strategy.stems == SEPARATED and kind == NO_STEMS and has_stems and is_plain:
            return data, []
    dataset = "mtat"
    is_special = strategy.stems in (RANDOM, DEGRADED)
    name = data_name(dataset, strategy.stems if is_special else SEPARATED)
    folder = f"{PREPARED}/{name}"
    commands = prepare_commands(dataset, strategy.stems, folder, _kind(strategy))
    return {"data_dir": folder}, commands


def _evaluations(
    collection: Collection, run: Run, tasks: Iterable[str], steps: bool
) -> list[Command]:
    commands = []
    for task in tasks:
        folder = _data_of(task, collection, run.config.frontend.kind)
        final = run.final(task)
        last = max(run.kept_steps, default=0)
        if final is None or (final.step or 0) < last:
            commands.append(eval_command(task, run.run_dir, folder))
        if steps:
            judged = run.by_step(task)
            commands += [
                eval_command(task, run.run_dir, folder, step=step)
                for step in run.kept_steps[:-1]
                if step not in judged
            ]
    return commands
