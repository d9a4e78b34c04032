"""Pre-trains an encoder: python -m cola_msa.train --source=multi --data_dir=...

Without --data_dir the built-in music is used, with the preset `demo`. Ctrl-C stops;
the same command goes on.
"""

import dataclasses
import pathlib
import sys
from typing import Any

from absl import flags, logging

from cola_msa.config.presets import PRESETS
from cola_msa.config.schema import ModelConfig, TrainConfig
from cola_msa.config.strategies import STRATEGIES, get_strategy
from cola_msa.frameworks.choose import FRAMEWORKS
from cola_msa.records.joined import open_data
from cola_msa.reproduction import music
from cola_msa.runs import kept
from cola_msa.system import console
from cola_msa.system.errors import UsageError, of_flags
from cola_msa.training.asked import asked_configs, begun_config, unfinished_run
from cola_msa.training.trainer import start_trainer
from cola_msa.training.warm_start import read_warm_start
from cola_msa.training.workers import build_strategy, set_up_cpu
from cola_msa.values.field_flags import define_fields
from cola_msa.values.paths import define_path


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags; those of the configuration come from its fields."""
    add: dict[str, Any] = {"flag_values": values}
    define_path(
        "data_dir",
        None,
        "Prepared data, or several with commas between them; without it the built-in "
        "music.",
        **add,
    )
    flags.DEFINE_list(
        "data_weights",
        None,
        "How often each of several folders is drawn, as 2,1,1; default: by segments.",
        **add,
    )
    text = "Run directory; default runs/<strategy, sources or framework>-<time>."
    define_path("run_dir", None, text, **add)
    flags.DEFINE_enum(
        "framework",
        None,
        list(FRAMEWORKS),
        "Method; default that of the preset or strategy, or cola.",
        **add,
    )
    flags.DEFINE_enum(
        "preset",
        None,
        list(PRESETS),
        "Configuration to start from; see cola_msa.config.presets.",
        **add,
    )
    flags.DEFINE_enum(
        "strategy",
        None,
        list(STRATEGIES),
        "One of the paper's strategies, on any preset; see cola_msa.config.strategies.",
        **add,
    )
    flags.DEFINE_integer(
        "cpu_devices",
        1,
        "Logical CPUs to train on where there is no GPU.",
        lower_bound=1,
        **add,
    )
    flags.DEFINE_integer(
        "threads",
        0,
        "Threads of one operation; 0 lets TensorFlow choose.",
        lower_bound=0,
        **add,
    )
    define_path(
        "init_from",
        None,
        "Run, its kept/*.npz, or pretrained folder (or its address or name), whose "
        "weights training starts from.",
        **add,
    )
    define_fields(TrainConfig, values)
    define_fields(ModelConfig, values)


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    with of_flags():
        asked = asked_configs(options)
    config = begun_config(asked, options.run_dir)
    if config.train.distribution == "multi_worker" and not options.run_dir:
        raise UsageError(
            "--distribution=multi_worker needs --run_dir, which all machines see"
        )
    set_up_cpu(options.cpu_devices, options.threads)
    # TensorFlow wants to know its workers before it does anything else.
    strategy = build_strategy(config.train.distribution)
    start = read_warm_start(options.init_from) if options.init_from else None
    if start is not None:
        train = dataclasses.replace(config.train, init_from=start.fingerprint)
        config = dataclasses.replace(config, train=train)
    if options.data_dir is not None:
        data_dir = options.data_dir
    else:
        data_dir = str(music.ensure("mtat", kind=config.frontend.kind))
        logging.info(
            "no --data_dir: the built-in music in %s, preset %s",
            data_dir,
            config.preset,
        )
    data = open_data(data_dir, config.frontend, options.data_weights)
    if config.strategy:
        for part in data.parts:
            get_strategy(config.strategy).check_data(part.manifest)
    run_dir = pathlib.Path(options.run_dir) if options.run_dir else None
    if run_dir is None:
        config, run_dir = unfinished_run(asked, config.train.init_from, data)
    trainer = start_trainer(config, data, run_dir, strategy, start)
    run_dir = trainer.run_dir
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
    # Of a user's own data only the run knows the place.
    judge = "retrieve" if options.data_dir else "eval --task=mtat"
    console.tell(
        f"{outcome}: {trainer.update} updates, run in {run_dir}",
        f"next: python -m cola_msa.{judge} --run_dir={run_dir}",
    )


if __name__ == "__main__":
    console.start(main, define_flags)
