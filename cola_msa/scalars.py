"""Scalars as TensorBoard event files and as lines of JSON."""

import json
import os
import pathlib
import time

import tensorflow as tf


class ScalarWriter:
    """Appends to `metrics.jsonl` and to an event file under `logs/`.

    TensorFlow 2.21 does not install TensorBoard, and `tf.summary` needs it; an event
    file is a TFRecord of Event messages, which TensorFlow itself can write.
    """

    def __init__(self, run_dir: str | os.PathLike):
        """Opens both files; earlier ones stay."""
        run_dir = pathlib.Path(run_dir)
        logs = run_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}"
        self._events = tf.io.TFRecordWriter(str(logs / name))
        self._write(tf.compat.v1.Event(file_version="brain.Event:2"))
        self._lines = open(run_dir / "metrics.jsonl", "a")  # noqa: SIM115 (kept open)

    def _write(self, event: tf.compat.v1.Event) -> None:
        event.wall_time = time.time()
        self._events.write(event.SerializeToString())

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes one step's scalars to both."""
        values = [
            tf.compat.v1.Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
        ]
        self._write(
            tf.compat.v1.Event(step=step, summary=tf.compat.v1.Summary(value=values))
        )
        self._events.flush()
        self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
        self._lines.flush()

    def close(self) -> None:
        """Closes both files."""
        self._events.close()
        self._lines.close()


def read_metrics(run_dir: str | os.PathLike) -> list[dict[str, float]]:
    """Reads `metrics.jsonl`; of a step that was run twice, the later line counts."""
    rows: dict[int, dict[str, float]] = {}
    path = pathlib.Path(run_dir) / "metrics.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a killed run was writing
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]
