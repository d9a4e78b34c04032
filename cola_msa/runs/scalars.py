"""Scalars as TensorBoard event files and as lines of JSON."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from cola_msa.system.errors import RunError
from cola_msa.values.reading import read_limited

_MAX_BYTES = 1 << 28


@contextlib.contextmanager
def plain_errors(run_dir: str | os.PathLike) -> Iterator[None]:
    """Makes a RunError of what writing metrics and events raises.

    Raises:
        RunError: If the disk is full or read-only, or the like.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        told = getattr(error, "message", None) or error
        raise RunError(
            f"{run_dir}: metrics cannot be written ({told}); once that is mended the "
            "same command goes on"
        ) from error


class ScalarWriter:
    """Appends to `metrics.jsonl` and to an event file under `logs/`.

    TensorFlow 2.21 does not install TensorBoard, and `tf.summary` needs it; an event
    file is a TFRecord of Event messages, which TensorFlow itself can write.
    """

    def __init__(self, run_dir: str | os.PathLike):
        """Opens both files; earlier ones stay.

        Raises:
            RunError: If they cannot be written.
        """
        self._run_dir = pathlib.Path(run_dir)
        logs = self._run_dir / "logs"
        name = f"events.out.tfevents.{time.time_ns()}"
        with plain_errors(self._run_dir):
            logs.mkdir(parents=True, exist_ok=True)
            self._events = tf.io.TFRecordWriter(str(logs / name))
            self._write(tf.compat.v1.Event(file_version="brain.Event:2"))
            self._lines = open(self._run_dir / "metrics.jsonl", "a")  # noqa: SIM115

    def _write(self, event: tf.compat.v1.Event) -> None:
        event.wall_time = time.time()
        self._events.write(event.SerializeToString())

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes one step's scalars to both.

        Raises:
            RunError: If they cannot be written.
        """
        values = [
            tf.compat.v1.Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
        ]
        summary = tf.compat.v1.Summary(value=values)
        with plain_errors(self._run_dir):
            self._write(tf.compat.v1.Event(step=step, summary=summary))
            self._events.flush()
            self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
            self._lines.flush()

    def close(self) -> None:
        """Closes both files."""
        with plain_errors(self._run_dir):
            self._events.close()
            self._lines.close()


def read_metrics(run_dir: str | os.PathLike) -> list[dict[str, float]]:
    """Reads `metrics.jsonl`; of a step that was run twice, the later line counts.

    Lines that are none are left out, with a warning unless it is the one that a killed
    run was writing.

    Raises:
        RunError: If the file cannot be read.
    """
    rows: dict[int, dict[str, float]] = {}
    path = pathlib.Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        lines = read_limited(path, _MAX_BYTES).split(b"\n")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); move it away, and the run goes on "
            "without the scalars in it"
        ) from error
    wrong = []
    for number, line in enumerate(lines, 1):
        row = _parse_row(line)
        if row is not None:
            rows[int(row["step"])] = row
        elif line and number < len(lines):
            wrong.append(number)
    if wrong:
        logging.warning(
            "%s: %d damaged lines are left out, first line %d",
            path,
            len(wrong),
            wrong[0],
        )
    return [rows[step] for step in sorted(rows)]


def _parse_row(line: bytes) -> dict[str, float] | None:
    """A line's scalars; None where it has none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row if all(type(v) in (int, float) for v in row.values()) else None
