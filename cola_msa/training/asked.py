"""What the flags of `cola_msa.train` ask for, and of which run.

A preset may be another than it was when a run was begun. The command that began the run
goes on with it none the less, with the preset's values of then.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from absl import flags, logging

from cola_msa.config.presets import FORMER_PRESETS, PRESETS, get_preset
from cola_msa.config.schema import Config, ModelConfig, TrainConfig
from cola_msa.config.strategies import get_strategy
from cola_msa.frameworks.choose import framework_of, get_framework
from cola_msa.records.joined import PairData
from cola_msa.runs.directory import load_config, resumable_run
from cola_msa.system.errors import UsageError
from cola_msa.training.checks import check_config
from cola_msa.values.field_flags import given_fields


def config_from_flags(
    values: flags.FlagValues = flags.FLAGS,
    presets: Mapping[str, Config] = PRESETS,
) -> Config:
    """The preset with every flag that was given.

    Raises:
        UserError: If a flag has a value that cannot be meant, or contradicts another.
    """
    strategy = get_strategy(values.strategy) if values.strategy else None
    framework = get_framework(
        values.framework or (strategy or Config).framework  # named by it, or the usual
    )
    preset = values.preset or framework.presets["data" if values.data_dir else "demo"]
    config = presets.get(preset) or get_preset(preset)
    if values.framework not in (None, config.framework):
        raise UsageError(
            f"--framework={values.framework} contradicts --preset={preset}, which is "
            f"one of {config.framework}: leave one of them out, or say "
            f"--preset={framework.presets['data']}"
        )
    given = given_fields(TrainConfig, values)
    if strategy:
        strategy.check_fields(given)
        config = strategy.apply(config)
    of_model = given_fields(ModelConfig, values)
    framework_of(config).check_fields(given | of_model)
    train = dataclasses.replace(config.train, **given)
    model = dataclasses.replace(config.model, **of_model)
    config = dataclasses.replace(config, model=model, train=train)
    check_config(config)
    return config


def asked_configs(values: flags.FlagValues) -> tuple[Config, ...]:
    """What the flags ask for, and what they asked for in earlier versions.

    Raises:
        UserError: As `config_from_flags`.
    """
    configs = [config_from_flags(values)]
    for presets in FORMER_PRESETS:
        former = config_from_flags(values, presets)
        if former not in configs:
            configs.append(former)
    return tuple(configs)


def begun_config(
    asked: tuple[Config, ...], run_dir: str | os.PathLike | None
) -> Config:
    """That of `asked_configs` with which a run was begun; else the first."""
    if run_dir is None or not (pathlib.Path(run_dir) / "config.json").exists():
        return asked[0]
    begun = load_config(run_dir)
    begun = _with_start(begun, "")
    if begun in asked[1:]:
        _announce(run_dir, begun)
        return begun
    return asked[0]


def unfinished_run(
    asked: tuple[Config, ...], start: str, data: PairData
) -> tuple[Config, pathlib.Path | None]:
    """The newest run below `runs` that ends with what was asked for.

    Args:
        asked: From `asked_configs`.
        start: Fingerprint of the warm start, see `TrainConfig.init_from`.
        data: The data.

    Returns:
        Its configuration, and the run; the first configuration, and None, where there
        is none.
    """
    configs = [_with_start(config, start) for config in asked]
    for number, config in enumerate(configs):
        run_dir = resumable_run("runs", config, data)
        if run_dir is not None:
            if number:
                _announce(run_dir, config)
            logging.info("no --run_dir: going on with the unfinished run %s", run_dir)
            return config, run_dir
    return configs[0], None


def _with_start(config: Config, start: str) -> Config:
    train = dataclasses.replace(config.train, init_from=start)
    return dataclasses.replace(config, train=train)


def _announce(run_dir: str | os.PathLike, config: Config) -> None:
    logging.info(
        "%s was begun when the preset %s was another: it goes on as that was",
        run_dir,
        config.preset,
    )
