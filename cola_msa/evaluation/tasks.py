"""The downstream tasks: data, head, loss and scores.

`TASKS` are the paper's, `OTHER_TASKS` are further ones, and a Python file that defines
`TASK = TaskSpec(...)` is a task of the user's (see `load_task`).
"""

import dataclasses
import os
import pathlib
import runpy
from collections.abc import Collection

from cola_msa.config.published import PAPER, Yardstick
from cola_msa.config.schema import MULTICLASS, MULTILABEL
from cola_msa.records.prepared import PreparedData
from cola_msa.records.schema import DataError
from cola_msa.system.errors import UsageError, UserError

SCORE_TITLES = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "accuracy": "WA",
    "balanced_accuracy": "balanced accuracy",
}
TRAIN_CLIPS = ("filtered", "all")
_EXTRA = "_extra"  # clips without any class


class TaskError(UserError):
    """A task that does not exist, or an option that it does not have."""


@dataclasses.dataclass(frozen=True)
class Splits:
    """Names of the prepared splits that a task trains, stops and tests on."""

    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ("validation",)
    test: tuple[str, ...] = ("test",)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in order."""
        return self.train + self.validation + self.test

    def without(self, names: Collection[str]) -> "Splits":
        """The same but for the splits named."""

        def keep(group: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in group if name not in names)

        return Splits(keep(self.train), keep(self.validation), keep(self.test))


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """One downstream task. Source: the paper, section 4; docs/architecture.md.

    Attributes:
        name: What `--task` takes; for a task in a file, the name of its results.
        title: For tables and charts.
        dataset: The manifest's `dataset` that the task reads.
        task_type: `multilabel` (binary cross-entropy on sigmoids) or `multiclass`
            (softmax cross-entropy). differs: the paper's text swaps the losses.
        hidden_units: Widths of the head's hidden layers.
        learning_rate: Adam's rate.
        scores: The scores of the task, the paper's first.
        splits: What is trained, validated and tested on.
        splits_all: The same for `--train_clips=all`; None where the task has no such
            variant.
        paper_clips: Clips of the paper's training, validation and test splits; None
            where the paper does not have the task.
    """

    name: str
    title: str
    dataset: str
    task_type: str
    hidden_units: tuple[int, ...]
    learning_rate: float
    scores: tuple[str, ...]
    splits: Splits = Splits()
    splits_all: Splits | None = None
    paper_clips: tuple[int, int, int] | None = None

    @property
    def loss(self) -> str:
        """Name of the head's loss."""
        if self.task_type == MULTILABEL:
            return "binary cross-entropy on sigmoids"
        return "softmax cross-entropy"

    @property
    def published(self) -> dict[str, float]:
        """The paper's scores of MSA (Table 1), by score; none for other tasks."""
        return self.published_of(PAPER)

    def published_of(self, yardstick: Yardstick) -> dict[str, float]:
        """The paper's scores of a method, by score; none for other tasks.

        Args:
            yardstick: The method's.
        """
        return yardstick.scores(self.name) if TASKS.get(self.name) == self else {}

    def choose_splits(self, train_clips: str = "filtered") -> Splits:
        """Returns the splits for `--train_clips=filtered|all`.

        Raises:
            UsageError: If `train_clips` is unknown or the task has no such variant.
        """
        if train_clips not in TRAIN_CLIPS:
            raise UsageError(
                f"--train_clips must be {' or '.join(TRAIN_CLIPS)}, not {train_clips!r}"
            )
        if train_clips == "filtered":
            return self.splits
        if self.splits_all is None:
            raise UsageError(
                f"--train_clips=all is for --task=mtat_unfiltered; {self.name} has no "
                "clips outside its splits"
            )
        return self.splits_all

    def check_data(self, data: PreparedData, splits: Splits) -> tuple[str, ...]:
        """Refuses data that the task cannot be judged on.

        Args:
            data: The prepared data.
            splits: What `choose_splits` returned.

        Returns:
            The `_extra` splits that the data lacks, because its collection has no
            such clips.

        Raises:
            DataError: If the data is another dataset's, has another kind of labels,
                or lacks a split.
        """
        dataset = data.manifest.get("dataset")
        if dataset != self.dataset:
            flag = " --records=waveform" if data.frontend.is_waveform else ""
            raise DataError(
                f"{data.data_dir}: holds dataset {dataset!r}, but --task={self.name} "
                f"reads {self.dataset!r}; prepare it by python -m "
                f"data_prep.{self.dataset}{flag}"
            )
        task_type = data.manifest.get("task_type")
        if task_type != self.task_type:
            raise DataError(
                f"{data.data_dir}: its labels are {task_type}, but --task={self.name} "
                f"needs {self.task_type} ones"
            )
        absent = tuple(name for name in splits.names if name not in data.splits)
        missing = [name for name in absent if not name.endswith(_EXTRA)]
        if missing:
            raise DataError(
                f"{data.data_dir}: --task={self.name} needs split "
                f"{', '.join(missing)}; there are only {', '.join(data.splits)}"
            )
        if len(data.class_names) < 2:
            raise DataError(
                f"{data.data_dir}: {len(data.class_names)} class; a task needs two"
            )
        return absent


TAG_SCORES = ("roc_auc", "pr_auc")
CLASS_SCORES = ("accuracy", "balanced_accuracy")
_UNFILTERED_TEST = ("test", "test_extra")

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="mtat",
            title="music tagging, MagnaTagATune, clips with a top tag",
            dataset="mtat",
            task_type=MULTILABEL,
            hidden_units=(),
            learning_rate=5e-4,
            scores=TAG_SCORES,
            paper_clips=(15_244, 1_529, 4_332),
        ),
        TaskSpec(
            name="mtat_unfiltered",
            title="music tagging, MagnaTagATune, all test clips (MTAT*)",
            dataset="mtat",
            task_type=MULTILABEL,
            hidden_units=(),
            learning_rate=5e-4,
            scores=TAG_SCORES,
            splits=Splits(test=_UNFILTERED_TEST),
            splits_all=Splits(
                train=("train", "train_extra"),
                validation=("validation", "validation_extra"),
                test=_UNFILTERED_TEST,
            ),
            paper_clips=(15_244, 1_529, 5_329),
        ),
        TaskSpec(
            name="nsynth",
            title="instrument family, NSynth",
            dataset="nsynth",
            task_type=MULTICLASS,
            hidden_units=(512,),
            learning_rate=3e-4,
            scores=CLASS_SCORES,
            paper_clips=(289_205, 12_678, 4_096),
        ),
        TaskSpec(
            name="fma",
            title="genre, FMA-small",
            dataset="fma",
            task_type=MULTICLASS,
            hidden_units=(),
            learning_rate=5e-4,
            scores=CLASS_SCORES,
            paper_clips=(6_400, 800, 800),
        ),
    )
}

# Clips of the paper's training, validation and test splits, where it is its task.
PAPER_CLIPS: dict[str, tuple[int, int, int]] = {
    name: spec.paper_clips for name, spec in TASKS.items() if spec.paper_clips
}

# Beyond the paper, with its head for FMA and MagnaTagATune.
OTHER_TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="gtzan",
            title="genre, GTZAN, fault-filtered split",
            dataset="gtzan",
            task_type=MULTICLASS,
            hidden_units=(),
            learning_rate=5e-4,
            scores=CLASS_SCORES,
        ),
        TaskSpec(
            name="jamendo",
            title="music tagging, MTG-Jamendo, top 50 tags",
            dataset="jamendo",
            task_type=MULTILABEL,
            hidden_units=(),
            learning_rate=5e-4,
            scores=TAG_SCORES,
        ),
        TaskSpec(
            name="folder",
            title="own labels, a folder a class",
            dataset="labelled_folder",
            task_type=MULTICLASS,
            hidden_units=(),
            learning_rate=5e-4,
            scores=CLASS_SCORES,
        ),
    )
}


def get_task(name: str | None) -> TaskSpec:
    """Looks a task up.

    Args:
        name: A task's name, or the path of a Python file that defines one.

    Raises:
        UsageError: If there is none of that name; the message lists the tasks.
        TaskError: If the file is none.
    """
    if name and name.endswith(".py"):
        return load_task(name)
    known = TASKS | OTHER_TASKS
    if not name or name not in known:
        given = f"not {name!r}" if name else "and none was given"
        raise UsageError(
            f"--task must be one of {', '.join(known)}, or a .py file, {given}"
        )
    return known[name]


VARIABLE = "TASK"


def load_task(path: str | os.PathLike) -> TaskSpec:
    """Reads a task from a Python file, and checks it.

    Args:
        path: The file; it defines `TASK`.

    Raises:
        TaskError: If there is no such file, it cannot be run, or its task is none.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise TaskError(f"--task={path}: there is no such file")
    try:
        found = runpy.run_path(str(path))
    except Exception as error:  # whatever a user's file raises
        kind = type(error).__name__
        advice = ""
        if isinstance(error, ModuleNotFoundError) and "'cola_msa." in str(error):
            advice = "; public names such as TaskSpec are imported from cola_msa itself"
        raise TaskError(
            f"--task={path}: cannot be run ({kind}: {error}){advice}"
        ) from error
    task = found.get(VARIABLE)
    if not isinstance(task, TaskSpec):
        raise TaskError(
            f"--task={path}: must define {VARIABLE} = TaskSpec(...) of "
            f"cola_msa, not {type(task).__name__}"
        )
    _check(path, task)
    return task


def _check(path: pathlib.Path, task: TaskSpec) -> None:
    if task.name in TASKS | OTHER_TASKS:
        raise TaskError(f"--task={path}: there is a task {task.name} already")
    if not task.name.replace("_", "").isalnum():
        raise TaskError(
            f"--task={path}: name {task.name!r} must be letters, digits and _, since "
            "folders of results are named after it"
        )
    known = {MULTILABEL: TAG_SCORES, MULTICLASS: CLASS_SCORES}
    if task.task_type not in known:
        raise TaskError(
            f"--task={path}: task_type must be {MULTILABEL} or {MULTICLASS}, not "
            f"{task.task_type!r}"
        )
    wrong = [name for name in task.scores if name not in known[task.task_type]]
    if wrong or not task.scores:
        raise TaskError(
            f"--task={path}: scores of a {task.task_type} task are "
            f"{', '.join(known[task.task_type])}, not {', '.join(wrong) or 'none'}"
        )
    if not task.learning_rate > 0:
        raise TaskError(f"--task={path}: learning_rate must be above 0")
