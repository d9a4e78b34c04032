"""The built-in music, generated and prepared where it is missing.

Learning never imports preparation: the commands that a user would type run as
processes of their own.
"""

import pathlib
import subprocess
import sys

from absl import logging

from cola_msa.config.schema import LOG_MEL
from cola_msa.system.errors import UsageError, UserError


class DemoDataError(UserError):
    """The built-in music could not be made."""


ROOT = pathlib.Path("demo_data")
TASKS = ("mtat", "nsynth", "fma")


def ensure(
    task: str,
    root: pathlib.Path = ROOT,
    scale: float = 1.0,
    kind: str = LOG_MEL,
) -> pathlib.Path:
    """Returns a prepared folder of the built-in music, made if it is missing.

    Args:
        task: `mtat` (also what pre-training uses), `nsynth` or `fma`.
        root: Where the music and its records lie.
        scale: Share of the default number of songs, tracks and notes.
        kind: What its records hold, a front end's `kind`.

    Returns:
        The prepared folder; of waveforms the one around them, see `records.kinds`.

    Raises:
        DemoDataError: If the task is unknown, or generation or preparation failed.
    """
    if task not in TASKS:
        raise DemoDataError(f"the built-in music has {', '.join(TASKS)}, not {task}")
    music, prepared = root / "music", root / "prepared" / task
    _run("data_prep.demo", f"--output_dir={music}", f"--scale={scale}")
    arguments = [f"--dataset_dir={music / task}", f"--output_dir={prepared}"]
    arguments.append("--num_workers=0")
    if kind != LOG_MEL:
        arguments.append(f"--records={kind}")
    elif task == "mtat":
        arguments.append(f"--stems_dir={music / 'mtat_stems'}")
    _run(f"data_prep.{task}", *arguments)
    return prepared


def check_music(task: str, dataset: str) -> None:
    """Refuses a task that the built-in music has no data for.

    Args:
        task: The task's name, for the message.
        dataset: The dataset that it reads.

    Raises:
        UsageError: If so.
    """
    if dataset not in TASKS:
        raise UsageError(
            f"--task={task} needs --data_dir: the built-in music has no such data "
            f"(python -m data_prep.{dataset} prepares it)"
        )


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    logging.info("%s", " ".join(["python", *command[1:]]))
    if subprocess.run(command, check=False).returncode:
        raise DemoDataError(f"{module} failed; its message stands above")
