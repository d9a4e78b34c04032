"""The commands of this project as a user would type them, with every flag.

The report names the command that makes what is missing, and `reproduce` runs it: both
take it from here.
"""

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from cola_msa.config.presets import PRESETS
from cola_msa.config.schema import LOG_MEL, Config
from cola_msa.config.strategies import DEGRADED, NO_STEMS, RANDOM, STRATEGIES
from cola_msa.evaluation.tasks import TASKS
from cola_msa.frameworks.choose import framework_of
from cola_msa.values.field_flags import flag_fields

TABLES, FIGURES = (1, 2, 3), (2, 3, 4, 5)  # of the paper
# Where the documents' examples keep datasets and what was prepared from them.
RAW, PREPARED = "raw", "prepared"


@dataclasses.dataclass(frozen=True)
class Command:
    """`python -m module arguments`.

    Attributes:
        module: The command's module.
        arguments: Its arguments, one string each.
    """

    module: str
    arguments: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What a user would type."""
        return shlex.join(["python", "-m", self.module, *self.arguments])

    @property
    def argv(self) -> list[str]:
        """The same for this process's Python."""
        return [sys.executable, "-m", self.module, *self.arguments]


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return f"--{name}={value}"


def config_flags(config: Config) -> tuple[str, ...]:
    """The flags of `cola_msa.train` that give a configuration.

    Args:
        config: Any configuration; of fields without a flag the preset's value stands.

    Returns:
        `--preset`, `--strategy` where the preset is not the strategy's own, and a flag
        for each field that differs from what these two give.
    """
    preset = config.preset
    if preset not in PRESETS:
        preset = framework_of(config).presets["data"]
    flags = [_flag("preset", preset)]
    base = PRESETS[preset]
    if config.strategy in STRATEGIES and config.strategy != base.strategy:
        flags.append(_flag("strategy", config.strategy))
        base = STRATEGIES[config.strategy].apply(base)
    for part in ("train", "model"):
        mine, theirs = getattr(config, part), getattr(base, part)
        for field in flag_fields(type(mine)):
            value = getattr(mine, field.name)
            if value != getattr(theirs, field.name):
                flags.append(_flag(field.name, value))
    return tuple(flags)


def weight_flags(data: dict[str, Any]) -> tuple[str, ...]:
    """`--data_weights` of a run on several folders that were drawn by weights.

    Args:
        data: What its config.json says of its data.
    """
    weights = folder_weights(data)
    if not weights:
        return ()
    return (_flag("data_weights", ",".join(map(repr, weights))),)


def folder_weights(data: dict[str, Any]) -> tuple[float, ...]:
    """The weights that a run on several folders was given; () where it had none."""
    weights = tuple(folder.get("weight") for folder in data.get("folders") or ())
    return () if None in weights else weights


def train_command(
    config: Config,
    data_dir: str | pathlib.Path,
    run_dir: str | pathlib.Path,
    *extra: str,
) -> Command:
    """The command that trains a configuration.

    Args:
        config: The configuration.
        data_dir: Prepared data.
        run_dir: The run's directory.
        *extra: Further flags.
    """
    folders = (_flag("data_dir", data_dir), _flag("run_dir", run_dir))
    return Command("cola_msa.train", (*config_flags(config), *folders, *extra))


def eval_command(
    task: str,
    run_dir: str | pathlib.Path,
    data_dir: str | pathlib.Path,
    *,
    step: int | None = None,
    encoder: str = "trained",
    seeds: int = 1,
) -> Command:
    """The command that judges a run on a task.

    Args:
        task: The task.
        run_dir: The run.
        data_dir: The task's prepared data.
        step: A kept step; None is the last.
        encoder: `trained` or `untrained`.
        seeds: Heads.
    """
    arguments = [_flag("task", task)]
    if encoder != "trained":
        arguments.append(_flag("encoder", encoder))
    if step is not None:
        arguments.append(_flag("checkpoint_step", step))
    if seeds != 1:
        arguments.append(_flag("seeds", seeds))
    arguments += [_flag("run_dir", run_dir), _flag("data_dir", data_dir)]
    return Command("cola_msa.eval", tuple(arguments))


def data_name(dataset: str, stems: str = NO_STEMS) -> str:
    """Name of the prepared folder of a dataset with a strategy's stems."""
    suffix = {RANDOM: "_random", DEGRADED: "_degraded"}.get(stems, "")
    return dataset + suffix


def prepare_commands(
    dataset: str,
    stems: str = NO_STEMS,
    output_dir: str | pathlib.Path | None = None,
    kind: str = LOG_MEL,
) -> list[Command]:
    """The commands that prepare a published dataset.

    Args:
        dataset: `mtat`, `nsynth` or `fma`.
        stems: What the stems shall be; see `strategies`.
        output_dir: The prepared folder; default: below `prepared`.
        kind: What records hold; waveforms are of mixtures alone.

    Returns:
        One command, or for degraded stems two: the separator is trained first.
    """
    raw = f"{RAW}/{dataset}"
    output_dir = output_dir or f"{PREPARED}/{data_name(dataset, stems)}"
    arguments = [_flag("dataset_dir", raw), _flag("output_dir", output_dir)]
    commands = []
    if kind != LOG_MEL:
        arguments.append(_flag("records", kind))
    elif dataset == "mtat":  # the others are for probes, which read no stems
        separator = "random" if stems == RANDOM else "umxhq"
        if stems == DEGRADED:
            separator = "separators/2epochs"
            commands.append(separator_command(f"{RAW}/musdb18hq", separator, 2))
        arguments.append(_flag("separator", separator))
    arguments.append(_flag("num_workers", 0))
    return [*commands, Command(f"data_prep.{dataset}", tuple(arguments))]


def separator_command(
    dataset_dir: str | pathlib.Path,
    output_dir: str | pathlib.Path,
    epochs: int,
    *extra: str,
) -> Command:
    """The command that trains a separator on stems.

    Args:
        dataset_dir: Folders of stems.
        output_dir: Where its weights go, for `--separator`.
        epochs: Two make the paper's degraded stems.
        *extra: Further flags.
    """
    arguments = (
        _flag("dataset_dir", dataset_dir),
        _flag("epochs", epochs),
        _flag("output_dir", output_dir),
    )
    return Command("data_prep.train_separator", (*arguments, *extra))


def join_text(commands: Sequence[Command]) -> str:
    """Commands as lines to paste into a shell; each once, in their order."""
    return "\n".join(dict.fromkeys(command.text for command in commands))


def dataset_of(task: str) -> str:
    """The dataset whose prepared folder a task reads."""
    return TASKS[task].dataset
