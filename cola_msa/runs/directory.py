"""Choices around a run: devices, when to stop, and which run to go on with."""

import contextlib
import itertools
import os
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.config.schema import Config, differing_fields, from_dict, to_dict
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import arrays, kept
from cola_msa.runs.arrays import RunError
from cola_msa.system import files, folders
from cola_msa.system.errors import UserError
from cola_msa.training import workers


def has_stalled(validation: list[list[float]], patience_steps: int) -> bool:
    """Whether the running average of the validation loss has stopped improving.

    Args:
        validation: [step, loss] of every validation so far, in order.
        patience_steps: Window of the running average, in steps; 0 never stalls.

    Returns:
        True if the average over the last window is no better than over the one
        before it.

    Source: section 5 ("after the running average of the validation loss over 1000
        steps did not improve").
    """
    if not patience_steps or not validation:
        return False
    now = validation[-1][0]
    last = [v for step, v in validation if now - patience_steps < step <= now]
    before = [
        v
        for step, v in validation
        if now - 2 * patience_steps < step <= now - patience_steps
    ]
    is_full = validation[0][0] <= now - 2 * patience_steps + (
        validation[1][0] - validation[0][0] if len(validation) > 1 else 0
    )
    if not before or not is_full:
        return False
    return float(np.mean(last)) >= float(np.mean(before))


def default_strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all GPUs, or over all logical CPUs without a GPU."""
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if devices:
            return tf.distribute.MirroredStrategy([device.name for device in devices])
    raise RuntimeError("TensorFlow found no device")


def build_strategy(distribution: str) -> tf.distribute.Strategy:
    """TensorFlow's strategy of `--distribution`; call it before anything else runs.

    Raises:
        WorkerError: If the workers of `multi_worker` are not named or do not meet.
    """
    if distribution == "multi_worker":
        return workers.multi_worker_strategy()
    return default_strategy()


def resumable_run(
    root: str | os.PathLike, config: Config, data: PreparedData
) -> pathlib.Path | None:
    """The newest unfinished run under `root` with this configuration and data."""
    found = []
    for path in pathlib.Path(root).glob("*/config.json"):
        try:
            run = kept.load_run(path.parent)
            is_same = from_dict(Config, run["config"]) == config
        except UserError:  # damaged, or another version's: not ours to go on with
            continue
        is_same &= run["data"]["manifest_hash"] == data.manifest_hash
        if is_same and not (path.parent / kept.DONE_NAME).exists():
            found.append(path)
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def describe_run(config: Config, data: dict[str, Any], replicas: int) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "config": to_dict(config),
        "data": data,
        "num_replicas": replicas,
        "versions": kept.package_versions(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "git_commit": kept.git_commit(),
    }


def new_run_dir(root: str | os.PathLike, name: str) -> pathlib.Path:
    """Makes a folder that no other run has: `<name>-<time>`, or with a number."""
    root = pathlib.Path(root)
    files.make_folder(root)
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("not reached")


def check_run_dir(run_dir: str | os.PathLike) -> None:
    """Refuses a folder in which a run's names are somebody else's files.

    Raises:
        FileError: If it is a file, or holds such names and no config.json.
    """
    folders.check_names(
        run_dir,
        kept.RUN_NAMES,
        lambda folder: (folder / "config.json").exists(),
        "a run: it has no config.json",
    )


def claim_run_dir(run_dir: str | os.PathLike, description: dict[str, Any]) -> None:
    """Writes config.json, or checks that the one there describes the same run.

    Only inside of `resume.exclusive`: else two processes may both write it.

    Args:
        run_dir: The run.
        description: From `describe_run`.

    Raises:
        RunError: If the folder holds a run with another configuration, other data or
            another number of devices; the message names what differs; or if it cannot
            be written. Other versions
            of packages, and another number of threads, are warned of.
        FileError: As `check_run_dir`.
    """
    run_dir = pathlib.Path(run_dir)
    check_run_dir(run_dir)
    if not (run_dir / "config.json").exists():
        arrays.write_json(run_dir / "config.json", description)
        return
    found = kept.load_run(run_dir)
    config = from_dict(Config, description["config"])
    fields = differing_fields(from_dict(Config, found["config"]), config)
    if found["data"]["manifest_hash"] != description["data"]["manifest_hash"]:
        fields.append(f"data: {found['data']['data_dir']} has changed or is another")
    if found["num_replicas"] != description["num_replicas"]:
        fields.append(
            f"devices: {found['num_replicas']} != {description['num_replicas']}"
        )
    if fields:
        raise RunError(
            f"{run_dir} holds a run with another configuration: {'; '.join(fields)}. "
            "Name another --run_dir, or use its configuration"
        )
    changes = [
        f"{name} {found['versions'].get(name)} then, {version} now"
        for name, version in description["versions"].items()
        if found.get("versions", {}).get(name) != version
    ]
    threads = found.get("threads"), description["threads"]
    if config.train.deterministic and threads[0] != threads[1]:
        changes.append(f"--threads={threads[0]} then, {threads[1]} now")
    if changes:
        logging.warning(
            "%s was started with %s: weights may differ in the last bits from those "
            "of a run that was not stopped",
            run_dir,
            "; ".join(changes),
        )


def summarize_updates(
    rows: list[dict[str, float]], sources: tuple[str, ...]
) -> dict[str, float]:
    """Means of the scalars of a step's updates.

    Args:
        rows: One dictionary an update; `count/<source>` is 1 where the update was
            of this source, and `loss/<source>` its loss then, else 0.
        sources: The data's sources.

    Returns:
        Means; `loss/<source>` over the updates of this source, if there were any.
    """
    sums = {name: sum(row[name] for row in rows) for name in rows[0]}
    scalars = {
        name: value / len(rows)
        for name, value in sums.items()
        if not name.startswith(("count/", "loss/"))
    }
    for name in sources:
        if sums.get(f"count/{name}"):
            scalars[f"loss/{name}"] = sums[f"loss/{name}"] / sums[f"count/{name}"]
    return scalars
