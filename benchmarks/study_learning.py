"""What helps a short run to learn: variants over equal updates, as a table.

    python benchmarks/study_learning.py --data_dir=... --output_dir=... \
        [--variants=a,b] [--seeds=0,1,2] [--updates=250]

Trains each variant and seed with `python -m cola_msa.train` (finished runs are kept),
then judges retrieval on the validation songs and prints a Markdown table: training
loss minus chance over the last fifth of the updates, and top-1 and mean reciprocal
rank of the trained network and of the network that it started from.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import flags

from cola_msa.evaluation.baseline import compare_with_untrained
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import directory
from cola_msa.runs.scalars import read_metrics
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values import arrays
from cola_msa.values.field_flags import whole_numbers
from cola_msa.values.paths import define_path

_BASE = {
    "source": "multi",
    "batches": "active",
    "batch_size": 32,
    "warmup_updates": 50,
    "kernel_init": "identity",
    "kernel_scale": 0.01,
    "kernel_rate": 0.02,
    "temperature": 0.2,
    "drop_connect_rate": 0.0,
    "input_normalization": "dataset",
    "silence": "zeros",
}
_COSINE = {"similarity": "cosine", "temperature": 0.1}
_SCALED = {
    **_COSINE,
    "input_normalization": "bands",
    "input_clip": 3.0,
    "band_channel": True,
}
_LEVELS = {**_SCALED, "pooling": "levels"}
# Each differs from the base in what it names.
VARIANTS: dict[str, dict[str, object]] = {
    "base": {},
    "T1": {"kernel_scale": 0.05, "kernel_rate": 0.1, "temperature": 1.0},
    "kernel_0.005": {"kernel_scale": 0.005, "kernel_rate": 0.1},
    "kernel_0.05": {"kernel_scale": 0.05, "kernel_rate": 0.1},
    "kernel_normal": {"kernel_init": "normal", "kernel_scale": 0.05},
    "kernel_rate_1": {"kernel_rate": 1.0},
    "cosine_T0.1": _COSINE,
    "bands": {**_COSINE, "input_normalization": "bands"},
    "clip_3": {**_COSINE, "input_clip": 3.0},
    "band_channel": {**_COSINE, "band_channel": True},
    "bands_clip_3": {**_COSINE, "input_normalization": "bands", "input_clip": 3.0},
    "bands_clip_3_channel": _SCALED,
    "scaled_mean": {**_SCALED, "pooling": "mean"},
    "scaled_T0.05": {**_SCALED, "temperature": 0.05},
    "scaled_decay": {**_SCALED, "rate_decay": "cosine"},
    "scaled_decay_2e-3": {**_SCALED, "rate_decay": "cosine", "learning_rate": 2e-3},
    "scaled_averaged": {**_SCALED, "average_decay": 0.99},
    "scaled_gain": {**_SCALED, "augment": "gain"},
    "scaled_remix": {**_SCALED, "augment": "remix"},
    "scaled_mws": {**_SCALED, "augment": "mws"},
    "scaled_batch64": {**_SCALED, "batch_size": 64},
    "scaled_batch128": {**_SCALED, "batch_size": 128},
    "scaled_clip_span": {**_SCALED, "pair_span": "clip"},
    "scaled_bilinear": {
        **_SCALED,
        "similarity": "bilinear",
        "temperature": 0.2,
    },
    "scaled_levels": _LEVELS,
    "scaled_levels_batch128": {**_LEVELS, "batch_size": 128},
    "scaled_levels_cola": {**_LEVELS, "source": "none"},
    "scaled_levels_decay": {**_LEVELS, "rate_decay": "cosine"},
    "scaled_levels_bilinear": {
        **_LEVELS,
        "similarity": "bilinear",
        "temperature": 0.2,
    },
    "cosine_decay": {**_COSINE, "rate_decay": "cosine"},
    "cosine_decay_2e-3": {**_COSINE, "rate_decay": "cosine", "learning_rate": 2e-3},
    "cosine_rate_2e-3": {**_COSINE, "learning_rate": 2e-3},
    "cosine_T0.05": {**_COSINE, "temperature": 0.05},
    "cosine_averaged": {**_COSINE, "average_decay": 0.99},
    "no_input_norm": {"input_normalization": "none"},
    "stochastic_depth": {"drop_connect_rate": 0.2},
    "no_warmup": {"warmup_updates": 0},
    "rate_3e-4": {"learning_rate": 3e-4},
    "mixed": {"batches": "mixed"},
    "mixed_floor": {"batches": "mixed", "silence": "floor"},
    "mixed_mean": {"batches": "mixed", "silence": "mean"},
    "mixed_learned": {"batches": "mixed", "silence": "learned"},
    # As they are, but for their length; the data must have the level rule `l2`.
    "authors": {"preset": "authors", "batch_size": 32},
}


def train_variant(
    name: str, seed: int, updates: int, data_dir: str, output_dir: pathlib.Path
) -> pathlib.Path:
    """Trains one variant and seed, unless it stands already; returns its run."""
    run_dir = output_dir / f"{name}-seed{seed}"
    if (run_dir / directory.DONE_NAME).exists():
        return run_dir
    steps = 5
    variant = VARIANTS[name]
    batch_size = variant.get("batch_size", _BASE["batch_size"])
    values = {
        **({} if "preset" in variant else {**_BASE, "preset": "demo"}),
        **variant,
        "seed": seed,
        "steps": steps,
        # Larger batches are compared by pairs, too.
        "updates_per_step": updates * _BASE["batch_size"] // batch_size // steps,
        "validate_every_steps": 0,
        "checkpoint_every_steps": steps,
        "keep_steps": steps,
        "threads": flags.FLAGS.threads,
        "data_dir": data_dir,
        "run_dir": run_dir,
    }
    command = [sys.executable, "-m", "cola_msa.train"]
    subprocess.run([*command, *(f"--{k}={v}" for k, v in values.items())], check=True)
    return run_dir


def judge(run_dir: pathlib.Path, data_dir: str) -> dict[str, float]:
    """Loss minus chance at the end, and retrieval beside the untrained network's."""
    path = run_dir / "eval" / "study.json"
    if not path.exists():
        data = PreparedData(data_dir, directory.load_config(run_dir).frontend)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = compare_with_untrained(run_dir, data, source="multi")
        arrays.write_json(path, found)
    found = json.loads(path.read_text())
    last = read_metrics(run_dir)[-1]
    done = json.loads((run_dir / directory.DONE_NAME).read_text())
    return {
        "loss_above_chance": last["loss_above_chance"],
        "deviation": last["deviation"],
        "top1": found["trained"]["top1"],
        "mrr": found["trained"]["mrr"],
        "untrained_top1": found["untrained"]["top1"],
        "untrained_mrr": found["untrained"]["mrr"],
        "chance_mrr": found["trained"]["chance_mrr"],
        "updates": done["updates"],
    }


def main(options: flags.FlagValues) -> None:
    """Runs the study."""
    output_dir = pathlib.Path(options.output_dir)
    seeds = whole_numbers("seeds", options.seeds)
    unknown = sorted(set(options.variants) - set(VARIANTS))
    if unknown or not seeds:
        raise UsageError(
            f"--variants takes {', '.join(VARIANTS)}, not {', '.join(unknown)}"
            if unknown
            else "--seeds names none"
        )
    rows = [
        "| variant | seeds | updates | loss - chance | deviation | top-1 | MRR | "
        "untrained top-1 | untrained MRR |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in options.variants or VARIANTS:
        found = [
            judge(
                train_variant(
                    name, seed, options.updates, options.data_dir, output_dir
                ),
                options.data_dir,
            )
            for seed in seeds
        ]

        def cell(key: str, found: list = found) -> str:
            values = [row[key] for row in found]
            text = f"{np.mean(values):.3f}"
            return text + (f" ± {np.std(values, ddof=1):.3f}" if len(found) > 1 else "")

        keys = ("loss_above_chance", "deviation", "top1", "mrr")
        cells = [cell(k) for k in (*keys, "untrained_top1", "untrained_mrr")]
        rows.append(
            f"| {name} | {len(found)} | {found[0]['updates']} | "
            + " | ".join(cells)
            + " |"
        )
    print("\n".join(rows))


def define_flags() -> None:
    """Defines the benchmark's flags."""
    define_path("data_dir", None, "Prepared data.", required=True)
    define_path("output_dir", None, "Runs go here.", required=True)
    flags.DEFINE_list("variants", [], "Names from VARIANTS; default all.")
    flags.DEFINE_list("seeds", ["0"], "Seeds.")
    flags.DEFINE_integer("updates", 250, "Updates a run.", lower_bound=5)
    flags.DEFINE_integer("threads", 1, "Threads a run.", lower_bound=0)


if __name__ == "__main__":
    console.start(main, define_flags)
