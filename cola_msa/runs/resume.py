"""What a run that was stopped goes on from.

A checkpoint holds the state after an update, whole: every replica's copy of every
variable of model and optimizer (seed generators included), and the loop's own state
with the scalars of an unfinished step. Writing it, validating and keeping encoders
change none of it, so that it does not matter where a run was stopped.
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.model import replicas
from cola_msa.model.contrastive import PairModel
from cola_msa.runs import directory, network
from cola_msa.runs.scalars import plain_errors, read_metrics
from cola_msa.system import files
from cola_msa.system.errors import RunError
from cola_msa.values import arrays as arrays_lib

_CHECKPOINTS = "update-????????.npz"
# What earlier versions, and libraries that write under a name of their own, leave.
_EARLIER_TEMPORARIES = (
    "checkpoints/update-????????.npz.tmp",
    "kept/*.npz.tmp",
    "logs/events.*.tmp",
    "config.json.tmp",
    "done.json.tmp",
    "metrics.jsonl.tmp",
)
_CUT_OFF = 2**62  # stands for the step of an event that was not written whole


@contextlib.contextmanager
def exclusive(run_dir: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from training in a run directory, and clears it.

    Inside, unfinished files of a process that was killed are gone.

    Raises:
        RunError: If another process trains there.
    """
    run_dir = pathlib.Path(run_dir)
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            # The lock ends with the process, however that ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{run_dir}: another process trains there; wait for it, or name "
                "another --run_dir"
            ) from error
        except OSError as error:
            logging.warning(
                "%s: no locks on this file system (%s): start no second training",
                run_dir,
                error,
            )
        if _is_run(run_dir):  # else nothing there is ours to remove
            files.remove_abandoned(run_dir, _EARLIER_TEMPORARIES)
        yield
    finally:
        os.close(descriptor)


def _is_run(run_dir: pathlib.Path) -> bool:
    try:
        directory.load_run(run_dir)
    except RunError:
        return False
    return True


def save_training(
    run_dir: str | os.PathLike,
    model: PairModel,
    state: dict[str, Any],
    update: int,
    max_to_keep: int,
    values: Sequence[Sequence[np.ndarray]] | None = None,
) -> None:
    """Writes what a resumed run starts from, then removes the oldest of its kind.

    Args:
        run_dir: The run.
        model: Compiled model; seed generators and optimizer slots are included.
        state: The loop's state, JSON values.
        update: Updates done; names the file.
        max_to_keep: How many of these checkpoints stay.
        values: Every replica's value of each of `saved_variables`; default: those of
            this process's replicas.

    Raises:
        RunError: If it cannot be written.
    """
    run_dir = pathlib.Path(run_dir)
    # Rows must not be younger than the checkpoint that counts on them.
    for path in [run_dir / "metrics.jsonl", *(run_dir / "logs").glob("*")]:
        if path.exists():
            files.sync(path)
    arrays: dict[str, np.ndarray] = {}
    if values is None:
        values = [replicas.replica_values(v) for v in saved_variables(model)]
    copies = iter(values)
    for prefix, variables in _parts(model):
        for number, variable in enumerate(variables):
            name = network.array_name(prefix, number, variable)
            first, *others = next(copies)
            arrays[name] = first
            for replica, value in enumerate(others, start=1):
                if value.tobytes() != first.tobytes():
                    arrays[_copy_name(replica, prefix, number)] = value
    folder = run_dir / "checkpoints"
    arrays_lib.write_arrays(
        folder / f"update-{update:08d}.npz",
        arrays,
        {"loop": state, "arrays": sorted(arrays)},
    )
    for path in sorted(folder.glob(_CHECKPOINTS))[:-max_to_keep]:
        path.unlink()


def _parts(model: PairModel) -> tuple[tuple[str, list], tuple[str, list]]:
    return ("model", model.variables), ("optimizer", model.optimizer.variables)


def saved_variables(model: PairModel) -> list:
    """Every variable that a checkpoint holds, in order."""
    return [variable for _, variables in _parts(model) for variable in variables]


def _copy_name(replica: int, prefix: str, number: int) -> str:
    """Name of a replica's own value, where it differs from the first replica's."""
    return f"replica-{replica}/{prefix}/{number:04d}"


def _restore(
    path: pathlib.Path, model: PairModel, first_replica: int
) -> dict[str, Any]:
    """Assigns everything or, where something is amiss, nothing.

    Raises:
        RunError: If the file is damaged or does not fit.
    """
    arrays = arrays_lib.read_arrays(path)
    content = arrays_lib.parse_state(path, arrays)
    state, names = content.get("loop"), content.get("arrays")
    if not isinstance(state, dict) or not isinstance(names, list):
        raise RunError(f"{path}: damaged checkpoint, no state")
    del arrays[arrays_lib.STATE]
    missing = sorted(set(map(str, names)) - set(arrays))
    if missing:
        raise RunError(f"{path}: damaged checkpoint, no array {missing[0]}")
    copies = []
    for prefix, variables in _parts(model):
        fitting = network.fitting_values(prefix, variables, arrays)
        for number, (variable, first) in enumerate(fitting):
            values = [
                arrays.get(_copy_name(first_replica + local, prefix, number), first)
                for local in range(len(replicas.replica_values(variable)))
            ]
            copies.append((variable, values))
    network.put_weights(model, copies)
    return state


def restore_training(
    run_dir: str | os.PathLike, model: PairModel, first_replica: int = 0
) -> dict[str, Any] | None:
    """Loads the newest undamaged checkpoint into the model and its optimizer.

    Damaged ones that are newer are skipped with a warning, and renamed.

    Args:
        run_dir: The run.
        model: Compiled model whose optimizer is built.
        first_replica: Number of this process's first replica among those of all.

    Returns:
        The loop's state; None where the run has no checkpoint.

    Raises:
        RunError: If there are checkpoints, but none can be used.
    """
    folder = pathlib.Path(run_dir) / "checkpoints"
    damaged: list[pathlib.Path] = []
    first_error = None
    paths = folder.glob("*-????????.npz")  # step-*: of an early version
    for path in sorted(paths, key=lambda path: path.stem[-8:], reverse=True):
        try:
            state = _restore(path, model, first_replica)
        except RunError as error:
            logging.warning("%s; trying the one before", error)
            damaged.append(path)
            first_error = first_error or error
            continue
        # Else they would count among --max_to_keep, and push out good ones.
        for other in damaged:
            os.replace(other, other.with_name(other.name + ".damaged"))
        return state
    if damaged:
        raise RunError(
            f"{folder}: none of its {len(damaged)} checkpoints can be used "
            f"({first_error}). Put one back from a copy and give the same command; or "
            "name another --run_dir to start anew"
        ) from first_error
    return None


def drop_scalars_after(run_dir: str | os.PathLike, step: int) -> None:
    """Removes scalars of later steps: of those that ran after the last checkpoint.

    Args:
        run_dir: The run.
        step: Steps that the restored checkpoint has behind it.
    """
    run_dir = pathlib.Path(run_dir)
    path = run_dir / "metrics.jsonl"
    if path.exists():
        rows = [row for row in read_metrics(run_dir) if row["step"] <= step]
        arrays_lib.write_bytes(
            path, "".join(json.dumps(r) + "\n" for r in rows).encode()
        )
    for path in sorted((run_dir / "logs").glob("events.*")):
        found = _read_events(path)
        kept = [text for text, number in found if number <= step]
        if len(kept) < len(found):
            with plain_errors(run_dir), files.written_path(path) as temporary:
                with tf.io.TFRecordWriter(str(temporary)) as writer:
                    for text in kept:
                        writer.write(text)


def _read_events(path: pathlib.Path) -> list[tuple[bytes, int]]:
    """Serialized events and their steps, as far as a killed process wrote them."""
    found = []
    try:
        for text in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found.append((text, tf.compat.v1.Event.FromString(text).step))
    except tf.errors.DataLossError:
        found.append((b"", _CUT_OFF))  # so that the file is written anew without it
    return found
