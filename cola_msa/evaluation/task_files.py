"""A task of the user's own: `--task=my_task.py`, a file with `TASK = TaskSpec(...)`.

The file is run as Python: name none that you would not run yourself.
"""

import os
import pathlib
import runpy

from cola_msa.evaluation.tasks import (
    CLASS_SCORES,
    MULTICLASS,
    MULTILABEL,
    OTHER_TASKS,
    TAG_SCORES,
    TASKS,
    TaskError,
    TaskSpec,
)

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
        raise TaskError(f"--task={path}: cannot be run ({kind}: {error})") from error
    task = found.get(VARIABLE)
    if not isinstance(task, TaskSpec):
        raise TaskError(
            f"--task={path}: must define {VARIABLE} = TaskSpec(...) of cola_msa.evaluation.tasks, "
            f"not {type(task).__name__}"
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
