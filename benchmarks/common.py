"""What the benchmarks share: CPU seconds, paired repetitions, tables, the machine."""

import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Before TensorFlow, whose oneDNN kernels it switches on.
import cola_msa  # noqa: F401


def cpu_seconds() -> float:
    """User and system seconds of this process so far, all of its threads."""
    return time.process_time()


def paired_medians(
    functions: Mapping[str, Callable[[], Any]], repetitions: int
) -> dict[str, dict[str, float]]:
    """Times functions in turns, so that whatever else runs disturbs all alike.

    Args:
        functions: Name to what is timed; each is called once before, untimed.
        repetitions: Rounds; in each every function is called once.

    Returns:
        For each name `cpu` and `wall`, medians in seconds, and `ratio`, the median over
        rounds of its CPU seconds over the first function's.
    """
    for function in functions.values():
        function()
    cpu: dict[str, list[float]] = {name: [] for name in functions}
    wall: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    for _ in range(repetitions):
        for name, function in functions.items():
            cpu_start, wall_start = cpu_seconds(), time.monotonic()
            function()
            cpu[name].append(cpu_seconds() - cpu_start)
            wall[name].append(time.monotonic() - wall_start)
    first = next(iter(functions))
    return {
        name: {
            "cpu": statistics.median(cpu[name]),
            "wall": statistics.median(wall[name]),
            "ratio": statistics.median(
                a / max(b, 1e-9) for a, b in zip(cpu[name], cpu[first], strict=True)
            ),
        }
        for name in functions
    }


def resident_bytes() -> tuple[int, int]:
    """Memory of this process now: (its own, pages that it shares with files)."""
    with open("/proc/self/statm") as file:
        _, resident, shared, *_ = (int(field) for field in file.read().split())
    page = os.sysconf("SC_PAGE_SIZE")
    return (resident - shared) * page, shared * page


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers get three significant digits."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.3g}" if value else "0"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> str:
    """One line: CPU, cores, system, versions."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":")[1].strip() for line in file if "model name" in line
            ]
        model = names[0] if names else model
    except OSError:
        pass  # not Linux
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow", "keras", "numpy")
    )
    python = platform.python_version()
    return f"{model}, {os.cpu_count()} cores, Python {python}, {versions}"


def random_pairs(
    num_pairs: int, seed: int = 0, frames: int = 98, mels: int = 64
) -> Any:
    """A mini-batch of noise in the form that `ContrastiveModel.train_step` takes."""
    import tensorflow as tf

    random = np.random.default_rng(seed)
    shape = (num_pairs, frames, mels, 1)
    return {
        "anchor": tf.constant(random.normal(-3, 2, shape), tf.float32),
        "positive": tf.constant(random.normal(-3, 2, shape), tf.float32),
        "is_active": tf.constant(np.arange(num_pairs) % 4 > 0),
        "source": tf.zeros(num_pairs, tf.int32),
    }


def load() -> str:
    """Processes that wanted a core in the last minute, as the system says it."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
