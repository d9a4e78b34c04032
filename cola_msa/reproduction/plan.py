"""What must run for the paper's tables and figures, in order.

A plan is a list of steps; each is one command in a process of its own, and knows by
its files whether it is done. Nothing here runs anything.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import LOG_MEL, WAVEFORM, Config
from cola_msa.config.strategies import (
    DEGRADED,
    NO_STEMS,
    RANDOM,
    SEPARATED,
    STRATEGIES,
    Strategy,
)
from cola_msa.evaluation.tasks import TASKS
from cola_msa.frameworks.choose import get_framework
from cola_msa.records.kinds import kind_folder
from cola_msa.records.manifests import read_manifest
from cola_msa.records.schema import MANIFEST_NAME
from cola_msa.reproduction.report.commands import (
    Command,
    data_name,
    dataset_of,
    eval_command,
    prepare_commands,
    separator_command,
    train_command,
)
from cola_msa.reproduction.report.figure_data import STEMS_OF, STEPS_OF, TARGETED, TASK
from cola_msa.reproduction.report.tables import strategies_of
from cola_msa.runs import directory
from cola_msa.runs import kept as kept_lib
from cola_msa.system.errors import FileError, UserError
from cola_msa.values.reading import read_json


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        name: What `--scale` takes.
        preset: Of every training, as `Framework.presets` calls it; empty: each
            strategy's own, at the paper's length.
        train: Fields of TrainConfig that differ from the preset's.
        music: Share of the built-in music's default size; 0: the user's data.
        separator: Flags of `data_prep.train_separator` for the degraded stems.
    """

    name: str
    preset: str
    train: tuple[tuple[str, Any], ...] = ()
    music: float = 0.0
    separator: tuple[str, ...] = ()

    def config(self, strategy: Strategy, seed: int) -> Config:
        """What a strategy is trained with."""
        if self.preset:
            presets = get_framework(strategy.framework).presets
            config = strategy.apply(get_preset(presets[self.preset]))
        else:
            config = get_preset(strategy.name)
        train = dataclasses.replace(config.train, seed=seed, **dict(self.train))
        return dataclasses.replace(config, train=train)


# A separator that has seen two epochs of few, short examples: bad, but not random.
_SMALL_SEPARATOR = (
    "--hidden_size=32",
    "--seq_seconds=3",
    "--samples_per_track=2",
    "--report_tracks=2",
    "--report_seconds=10",
)
SCALES: dict[str, Scale] = {
    "paper": Scale("paper", preset=""),
    # 200 updates of 32 pairs a strategy.
    "demo": Scale(
        "demo",
        preset="demo",
        train=(
            ("steps", 20),
            ("updates_per_step", 10),
            ("batch_size", 32),
            ("keep_steps", (5, 10, 15)),
        ),
        music=1.0,
        separator=_SMALL_SEPARATOR,
    ),
    # Whether every part runs: a tiny network on a few clips.
    "smoke": Scale(
        "smoke",
        preset="smoke",
        music=0.02,
        separator=(*_SMALL_SEPARATOR, "--hidden_size=8", "--samples_per_track=1"),
    ),
}


class ReproduceError(UserError):
    """A reproduction that cannot be planned, or a step that failed."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of a plan.

    Attributes:
        title: What it makes.
        command: The command.
        is_done: Whether its results are there.
        is_due: Whether there is anything to do; asked when its turn comes.
    """

    title: str
    command: Command
    is_done: Callable[[], bool]
    is_due: Callable[[], bool] = lambda: True


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        scale: How large.
        tables: The paper's tables.
        figures: Its figures.
        output_dir: Data of the built-in music, runs and the report go here.
        tasks: What the tables' strategies are judged on.
        data_dirs: The user's prepared data by name (`mtat`, `mtat_random`,
            `mtat_degraded`, `nsynth`, `fma`), for the scale `paper`.
        run_seeds: Seeds of the trainings; one run of every strategy for each.
        head_seeds: Heads trained on each encoder.
        threads: Threads of one operation in training; 0 lets TensorFlow choose.
    """

    scale: Scale
    tables: tuple[int, ...]
    figures: tuple[int, ...]
    output_dir: pathlib.Path
    tasks: tuple[str, ...] = tuple(TASKS)
    data_dirs: tuple[tuple[str, str], ...] = ()
    run_seeds: tuple[int, ...] = (0,)
    head_seeds: int = 3
    threads: int = 0

    @property
    def runs_dir(self) -> pathlib.Path:
        """Where the runs lie."""
        return self.output_dir / "runs"

    def run_dir(self, strategy: str, seed: int) -> pathlib.Path:
        """The run of a strategy with a seed."""
        return self.runs_dir / (strategy if seed == 0 else f"{strategy}-seed{seed}")

    def data_dir(self, name: str) -> str:
        """The prepared folder of that name."""
        if self.scale.music:
            return str(self.output_dir / "data" / "prepared" / name)
        return dict(self.data_dirs).get(name) or f"prepared/{name}"


@dataclasses.dataclass
class _Want:
    """What a strategy is judged on, and whether at every kept step."""

    tasks: list[str] = dataclasses.field(default_factory=list)
    steps: bool = False


def wanted(request: Request) -> dict[str, _Want]:
    """The strategies to train, in order, and what each is judged on."""
    found: dict[str, _Want] = {}

    def add(names: Sequence[str], tasks: Sequence[str], steps: bool = False) -> None:
        for name in names:
            want = found.setdefault(name, _Want())
            want.tasks += [task for task in tasks if task not in want.tasks]
            want.steps |= steps

    for table in request.tables:
        rows = strategies_of(table).values()
        add([strategy.name for strategy in rows if strategy], request.tasks)
    if 3 in request.figures:
        add(STEPS_OF, [TASK], steps=True)
    if 4 in request.figures:
        add([*TARGETED, "cola"], [TASK])
    if 5 in request.figures:
        add(list(STEMS_OF), [TASK])
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def _rank(name: str) -> tuple[bool, int]:
    """What trains alike, and on the same stems, stands together; true stems first."""
    strategy = STRATEGIES[name]
    order = {SEPARATED: 0, NO_STEMS: 0, RANDOM: 1, DEGRADED: 2}
    return strategy.framework != Config.framework, order[strategy.stems]


_OF_KIND = {LOG_MEL: "", WAVEFORM: " of waveforms"}


class Records(NamedTuple):
    """What a training or an evaluation reads.

    Attributes:
        dataset: The dataset.
        stems: Whose stems they have.
        kind: What they hold, see `FrontendConfig.kind`.
    """

    dataset: str
    stems: str
    kind: str = LOG_MEL

    @property
    def title(self) -> str:
        """For people."""
        name = data_name(self.dataset, self.stems)
        return f"records of {name}{_OF_KIND[self.kind]}"


def _training_records(strategy: Strategy) -> Records:
    stems = SEPARATED if strategy.stems == NO_STEMS else strategy.stems
    return Records("mtat", stems, get_framework(strategy.framework).frontend_kind)


def _task_records(strategy: Strategy, task: str) -> Records:
    dataset = dataset_of(task)
    stems = SEPARATED if dataset == "mtat" else NO_STEMS
    return Records(dataset, stems, get_framework(strategy.framework).frontend_kind)


def needed_data(request: Request) -> list[Records]:
    """The records that are read, of each prepared folder what it must hold."""
    found = [Records("mtat", SEPARATED)] if 2 in request.figures else []
    for name, want in wanted(request).items():
        strategy = STRATEGIES[name]
        found.append(_training_records(strategy))
        found += [_task_records(strategy, task) for task in want.tasks]
    return list(dict.fromkeys(found))


def _folder(request: Request, records: Records) -> str:
    """The prepared folder that a command is given; it finds the kind itself."""
    return request.data_dir(data_name(records.dataset, records.stems))


def _manifest(request: Request, records: Records) -> pathlib.Path:
    folder = kind_folder(_folder(request, records), records.kind)
    return pathlib.Path(folder) / MANIFEST_NAME


def missing_data(request: Request) -> list[tuple[str, list[Command]]]:
    """The user's prepared folders that lack records, with what prepares them.

    Returns:
        The flag that names the folder and what is amiss there, and the commands; []
        for the built-in music.
    """
    if request.scale.music:
        return []
    found = []
    for records in needed_data(request):
        folder = _folder(request, records)
        if not _manifest(request, records).exists():
            flag = f"--{data_name(records.dataset, records.stems)}_dir={folder}"
            found.append(
                (
                    f"{flag}: not a prepared folder{_OF_KIND[records.kind]}",
                    prepare_commands(*records[:2], folder, records.kind),
                )
            )
    return found


def check_data(request: Request) -> None:
    """Refuses data that some step would fail on, before anything runs.

    Raises:
        ReproduceError: If a prepared folder is missing; the message has the commands.
        StrategyError: If a folder's stems are not a strategy's.
        TaskError: If a task does not exist.
    """
    missing = missing_data(request)
    if missing:
        lines = [
            f"{flag}; name one, or make it:\n"
            + "\n".join(f"    {command.text}" for command in commands)
            for flag, commands in missing
        ]
        raise ReproduceError("prepared data is missing\n" + "\n".join(lines))
    if request.scale.music:
        return
    for name in wanted(request):
        strategy = STRATEGIES[name]
        manifest, _ = read_manifest(_manifest(request, _training_records(strategy)))
        strategy.check_data(manifest)


def build(request: Request) -> list[Step]:
    """All steps but the report, in order."""
    steps = _data_steps(request)
    begun: set[str] = set()  # frameworks: each has an untrained network of its own
    for seed in request.run_seeds:
        for name, want in wanted(request).items():
            strategy = STRATEGIES[name]
            is_first = strategy.framework not in begun
            steps += _strategy_steps(request, strategy, want, seed, is_first)
            begun.add(strategy.framework)
    return steps


def _data_steps(request: Request) -> list[Step]:
    """The built-in music; the user's data are prepared by the user."""
    if not request.scale.music:
        return []
    music = request.output_dir / "data" / "music"
    arguments = (f"--output_dir={music}", f"--scale={request.scale.music}")
    command = Command("data_prep.demo", arguments)
    steps = [_file_step("the built-in music", command, music / "demo.json")]
    for records in needed_data(request):
        dataset, stems, kind = records
        separator = request.output_dir / "data" / "separator_2epochs"
        if stems == DEGRADED:
            command = separator_command(
                music / "mtat_stems", separator, 2, *request.scale.separator
            )
            title = "a separator after two epochs"
            steps.append(_file_step(title, command, separator / "report.json"))
        folder = _folder(request, records)
        flags = [f"--dataset_dir={music / dataset}", f"--output_dir={folder}"]
        flags.append("--num_workers=0")
        source = {
            SEPARATED: f"--stems_dir={music / 'mtat_stems'}",
            RANDOM: "--separator=random",
            DEGRADED: f"--separator={separator}",
        }.get(stems)
        if kind != LOG_MEL:  # which alone have stems
            source = f"--records={kind}"
        command = Command(
            f"data_prep.{dataset}", (*flags, source) if source else tuple(flags)
        )
        steps.append(_file_step(records.title, command, _manifest(request, records)))
    return steps


def _file_step(title: str, command: Command, path: pathlib.Path) -> Step:
    """A step that writes a certain file last."""
    return Step(title, command, path.exists)


def _strategy_steps(
    request: Request, strategy: Strategy, want: _Want, seed: int, is_first: bool
) -> list[Step]:
    """Training and evaluations of a run; of a first one the untrained network too."""
    config = request.scale.config(strategy, seed)
    run_dir = request.run_dir(strategy.name, seed)
    threads = [f"--threads={request.threads}"] if request.threads else []
    folder = _folder(request, _training_records(strategy))
    command = train_command(config, folder, run_dir, *threads)
    title = f"training {strategy.title}" + (f", seed {seed}" if seed else "")
    steps = [Step(title, command, lambda: _is_trained(run_dir, config))]
    for task in want.tasks:
        folder = _folder(request, _task_records(strategy, task))
        steps.append(_eval_step(request, task, run_dir, folder, task))
        if is_first:
            name = f"{task}-untrained"
            steps.append(_eval_step(request, task, run_dir, folder, name))
    if want.steps:
        kept = sorted({0, *(s for s in config.train.keep_steps)})
        folder = _folder(request, _task_records(strategy, TASK))
        for step in kept:
            # The last step is judged above, the first where the untrained network is.
            if step < config.train.steps and not (step == 0 and is_first):
                name = f"{TASK}-{step}"
                steps.append(_eval_step(request, TASK, run_dir, folder, name, step))
    return steps


def _eval_step(
    request: Request,
    task: str,
    run_dir: pathlib.Path,
    data_dir: str,
    name: str,
    step: int | None = None,
) -> Step:
    is_untrained = name.endswith("-untrained")
    command = eval_command(
        task,
        run_dir,
        data_dir,
        step=step,
        encoder="untrained" if is_untrained else "trained",
        seeds=request.head_seeds,
    )
    judged = f"{run_dir.name} untrained" if is_untrained else run_dir.name
    at_step = "" if step is None else f" at step {step}"
    path = run_dir / "eval" / name / "results.json"
    expected = 0 if is_untrained else step

    def is_due() -> bool:
        # A run that stopped early has not kept all steps that were planned.
        return step is None or step in kept_lib.kept_steps(run_dir)

    return Step(
        f"judging {judged}{at_step} on {task}",
        command,
        lambda: _is_judged(path, run_dir, expected, request.head_seeds),
        is_due,
    )


def _is_trained(run_dir: pathlib.Path, config: Config) -> bool:
    """Whether a run has ended, with this configuration; else train refuses it."""
    if not (run_dir / directory.DONE_NAME).exists():
        return False
    try:
        return directory.load_config(run_dir) == config
    except UserError:
        return False


def _is_judged(
    path: pathlib.Path, run_dir: pathlib.Path, step: int | None, num_heads: int
) -> bool:
    """Whether results are those of a step (None: the last), with as many heads."""
    steps = kept_lib.kept_steps(run_dir)
    if not path.exists() or not steps:
        return False
    try:
        found = read_json(path, check=lambda r: (r["encoder"]["step"], len(r["seeds"])))
    except FileError:
        return False
    return found == (steps[-1] if step is None else step, num_heads)


def report_command(request: Request) -> Command:
    """The last command: the report of what was asked for."""
    arguments = [
        f"--output_dir={request.output_dir / 'report'}",
        f"--tables={','.join(map(str, request.tables))}",
        f"--figures={','.join(map(str, request.figures))}",
    ]
    if wanted(request):
        arguments.insert(0, f"--runs={request.runs_dir}")
    if 2 in request.figures:
        arguments.append(f"--data_dirs={_folder(request, Records('mtat', SEPARATED))}")
    return Command("cola_msa.report", tuple(arguments))
