"""Choices around a run: devices, when to stop, and which run to go on with."""

import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa import checkpoints
from cola_msa.config import Config, differing_fields, from_dict, to_dict
from cola_msa.prepared import PreparedData
from cola_msa.records import manifest_hash


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


def resumable_run(
    root: str | os.PathLike, config: Config, data: PreparedData
) -> pathlib.Path | None:
    """The newest unfinished run under `root` with this configuration and data."""
    found = []
    for path in pathlib.Path(root).glob("*/config.json"):
        run = checkpoints.load_run(path.parent)
        try:
            is_same = from_dict(Config, run["config"]) == config
        except ValueError:
            continue
        is_same &= run["data"]["manifest_hash"] == manifest_hash(data.data_dir)
        if is_same and not (path.parent / checkpoints.DONE_NAME).exists():
            found.append(path)
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def describe_run(config: Config, data: dict[str, Any], replicas: int) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "config": to_dict(config),
        "data": data,
        "num_replicas": replicas,
        "versions": checkpoints.package_versions(),
        "git_commit": checkpoints.git_commit(),
    }


def claim_run_dir(run_dir: str | os.PathLike, description: dict[str, Any]) -> None:
    """Writes config.json, or checks that the one there describes the same run.

    Args:
        run_dir: The run.
        description: From `describe_run`.

    Raises:
        RunError: If the folder holds a run with another configuration, other data or
            another number of devices; the message names what differs.
    """
    run_dir = pathlib.Path(run_dir)
    if not (run_dir / "config.json").exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        checkpoints.write_json(run_dir / "config.json", description)
        return
    found = checkpoints.load_run(run_dir)
    fields = differing_fields(
        from_dict(Config, found["config"]), from_dict(Config, description["config"])
    )
    if found["data"]["manifest_hash"] != description["data"]["manifest_hash"]:
        fields.append(f"data: {found['data']['data_dir']} has changed or is another")
    if found["num_replicas"] != description["num_replicas"]:
        fields.append(
            f"devices: {found['num_replicas']} != {description['num_replicas']}"
        )
    if fields:
        raise checkpoints.RunError(
            f"{run_dir} holds a run with another configuration: {'; '.join(fields)}. "
            "Name another --run_dir, or use its configuration"
        )
