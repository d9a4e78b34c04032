"""Pre-trains an encoder: python -m cola_msa.train --source=multi --data_dir=...

Without --data_dir the built-in music is used, with the preset `demo`. Ctrl-C stops;
the same command goes on.
"""

import contextlib
import dataclasses
import pathlib
import sys
from typing import Any

import tensorflow as tf
from absl import app, flags, logging

from cola_msa.config.presets import PRESETS, get_preset
from cola_msa.config.schema import Config, ModelConfig, TrainConfig
from cola_msa.config.strategies import STRATEGIES, get_strategy
from cola_msa.model.acceleration import JIT_COMPILE, MIXED_PRECISION
from cola_msa.pairs.augment import AUGMENTATIONS
from cola_msa.pairs.draws import BATCHES, PAIR_SPANS, SILENCES
from cola_msa.records.prepared import PreparedData
from cola_msa.reproduction import music
from cola_msa.runs import kept
from cola_msa.runs.directory import new_run_dir, resumable_run
from cola_msa.system.console import run_command
from cola_msa.system.errors import UsageError
from cola_msa.training.devices import build_strategy
from cola_msa.training.trainer import Trainer
from cola_msa.training.warm_start import read_warm_start
from cola_msa.values.numbers import define_number, define_seed

_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Prepared data; without it the built-in music."
)
_RUN_DIR = flags.DEFINE_string(
    "run_dir", None, "Run directory; default runs/<source>-<time>."
)
_PRESET = flags.DEFINE_enum(
    "preset",
    None,
    list(PRESETS),
    "Configuration to start from; see cola_msa.config.presets.",
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    None,
    list(STRATEGIES),
    "One of the paper's strategies, on any preset; see cola_msa.config.strategies.",
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 1, "Logical CPUs to train on where there is no GPU.", lower_bound=1
)
_THREADS = flags.DEFINE_integer(
    "threads", 0, "Threads of one operation; 0 lets TensorFlow choose.", lower_bound=0
)
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Run, its kept/*.npz, or pretrained folder, whose weights training starts from.",
)
_TRAIN_FLAGS = {
    "source": flags.DEFINE_string(
        "source", None, "multi, one source, a,b or none (COLA)."
    ),
    "batches": flags.DEFINE_enum("batches", None, BATCHES, "Composition of batches."),
    "augment": flags.DEFINE_string(
        "augment",
        None,
        f"Of both windows of a pair: {', '.join(AUGMENTATIONS)}, or several as a+b.",
    ),
    "pair_span": flags.DEFINE_enum(
        "pair_span", None, PAIR_SPANS, "Whether a pair shares its segment or its clip."
    ),
    "batch_size": define_number(
        TrainConfig, "batch_size", "Pairs a mini-batch and replica."
    ),
    "global_negatives": flags.DEFINE_bool(
        "global_negatives", None, "Contrast over the batches of all replicas."
    ),
    "accumulate": define_number(
        TrainConfig, "accumulate", "Mini-batches an update, each contrasted alone."
    ),
    "micro_batch": define_number(
        TrainConfig,
        "micro_batch",
        "Pairs that go through the network at a time, by cached gradients; 0: all.",
    ),
    "steps": define_number(TrainConfig, "steps", "Length in steps."),
    "updates_per_step": define_number(
        TrainConfig, "updates_per_step", "Updates a step."
    ),
    "learning_rate": define_number(TrainConfig, "learning_rate", "Adam's rate."),
    "warmup_updates": define_number(
        TrainConfig, "warmup_updates", "Updates of linear warm-up."
    ),
    "halve_at_step": define_number(
        TrainConfig, "halve_at_step", "Step from which the rate is halved; 0: never."
    ),
    "kernel_rate": define_number(
        TrainConfig, "kernel_rate", "The similarity kernel's rate, as a multiple."
    ),
    "average_decay": define_number(
        TrainConfig,
        "average_decay",
        "Decay of the weights' running average, which is validated and kept; 0: none.",
    ),
    "validate_every_steps": define_number(
        TrainConfig, "validate_every_steps", "Distance of validations; 0: none."
    ),
    "patience_steps": define_number(
        TrainConfig, "patience_steps", "Window of early stopping, in steps; 0: none."
    ),
    "statistics_batches": define_number(
        TrainConfig,
        "statistics_batches",
        "Batches that batch-norm statistics are re-estimated from.",
    ),
    "statistics_inputs": flags.DEFINE_enum(
        "statistics_inputs",
        None,
        ["anchors", "pairs"],
        "What the encoder's statistics come from: mixtures or whole batches.",
    ),
    "checkpoint_every_steps": define_number(
        TrainConfig, "checkpoint_every_steps", "Distance of checkpoints."
    ),
    "max_to_keep": define_number(
        TrainConfig, "max_to_keep", "Checkpoints to resume from that stay."
    ),
    "keep_steps": flags.DEFINE_list(
        "keep_steps", None, "Steps whose encoder is kept for ever."
    ),
    "seed": define_seed(None, "Seed."),
    "distribution": flags.DEFINE_enum(
        "distribution",
        None,
        ["mirrored", "multi_worker"],
        "All devices of this machine, or of the machines in TF_CONFIG.",
    ),
    "deterministic": flags.DEFINE_bool(
        "deterministic", None, "Deterministic operations (slower)."
    ),
    "jit_compile": flags.DEFINE_enum(
        "jit_compile", None, JIT_COMPILE, "XLA; auto: off, as it loses on CPUs."
    ),
    "mixed_precision": flags.DEFINE_enum(
        "mixed_precision",
        None,
        MIXED_PRECISION,
        "What the encoder computes in; auto: float32.",
    ),
}
_MODEL_FLAGS = {
    "similarity": flags.DEFINE_enum(
        "similarity", None, ["bilinear", "cosine"], "Similarity of projections."
    ),
    "temperature": define_number(ModelConfig, "temperature", "Divides similarities."),
    "kernel_init": flags.DEFINE_enum(
        "kernel_init", None, ["identity", "normal"], "The kernel's initial value."
    ),
    "kernel_scale": define_number(
        ModelConfig,
        "kernel_scale",
        "Factor of the identity, or the normal's deviation.",
    ),
    "drop_connect_rate": define_number(
        ModelConfig, "drop_connect_rate", "Stochastic depth."
    ),
    "input_normalization": flags.DEFINE_enum(
        "input_normalization", None, ["dataset", "none"], "Of the log-mels."
    ),
    "silence": flags.DEFINE_enum(
        "silence", None, SILENCES, "Positive window of a silent source."
    ),
    "sync_batch_norm": flags.DEFINE_bool(
        "sync_batch_norm", None, "Batch statistics over all replicas (slower)."
    ),
    "backbone": flags.DEFINE_enum(
        "backbone", None, ["efficientnetb0", "tiny"], "Network; tiny is for tests."
    ),
}


def config_from_flags() -> Config:
    """The preset with every flag that was given."""
    preset = _PRESET.value or ("default" if _DATA_DIR.value else "demo")
    config = get_preset(preset)
    if _STRATEGY.value:
        config = get_strategy(_STRATEGY.value).apply(config)

    def given(group: dict[str, Any]) -> dict[str, Any]:
        values = {name: f.value for name, f in group.items() if f.value is not None}
        if "keep_steps" in values:
            steps = [step.strip() for step in values["keep_steps"]]
            if not all(step.isdecimal() and len(step) < 10 for step in steps):
                raise UsageError(
                    f"--keep_steps={','.join(steps)}: must be whole numbers with "
                    "commas between them, as in 100,300"
                )
            values["keep_steps"] = tuple(int(step) for step in steps)
        return values

    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **given(_MODEL_FLAGS)),
        train=dataclasses.replace(config.train, **given(_TRAIN_FLAGS)),
    )


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    config = config_from_flags()
    if _CPU_DEVICES.value > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * _CPU_DEVICES.value
        )
    if _THREADS.value:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    if config.train.distribution == "multi_worker" and not _RUN_DIR.value:
        raise app.UsageError(
            "--distribution=multi_worker needs --run_dir, which all machines see"
        )
    # TensorFlow wants to know its workers before it does anything else.
    strategy = build_strategy(config.train.distribution)
    start = read_warm_start(_INIT_FROM.value) if _INIT_FROM.value else None
    if start is not None:
        train = dataclasses.replace(config.train, init_from=start.fingerprint)
        config = dataclasses.replace(config, train=train)
    if _DATA_DIR.value is not None:
        data_dir = pathlib.Path(_DATA_DIR.value)
    else:
        data_dir = music.ensure("mtat")
        logging.info(
            "no --data_dir: the built-in music in %s, preset %s",
            data_dir,
            config.preset,
        )
    data = PreparedData(data_dir, config.frontend)
    if config.strategy:
        get_strategy(config.strategy).check_data(data.manifest)
    run_dir = pathlib.Path(_RUN_DIR.value) if _RUN_DIR.value else None
    if run_dir is None:
        run_dir = resumable_run("runs", config, data)
        if run_dir is not None:
            logging.info("no --run_dir: going on with the unfinished run %s", run_dir)
    is_fresh = run_dir is None
    if run_dir is None:
        name = config.strategy or config.train.source.replace(",", "-")
        run_dir = new_run_dir("runs", name)
    logging.info("run directory: %s", run_dir)
    try:
        trainer = Trainer(config, data, run_dir, strategy, start)
    except BaseException:
        if is_fresh:
            with contextlib.suppress(OSError):  # it holds a run already
                run_dir.rmdir()
        raise
    outcome = trainer.run()
    if outcome == "interrupted":
        logging.info(
            "stopped at update %d of %d; the same command goes on",
            trainer.update,
            trainer.num_updates,
        )
        sys.exit(130)
    last = kept.kept_path(run_dir)
    logging.info("%s at update %d; encoder: %s", outcome, trainer.update, last)
    print(
        f"{outcome}: {trainer.update} updates, run in {run_dir}\n"
        f"next: python -m cola_msa.eval --task=mtat --run_dir={run_dir}"
    )


if __name__ == "__main__":
    app.run(run_command(main))
