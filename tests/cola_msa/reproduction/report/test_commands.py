"""Commands as text: they parse, and give back the configuration they were made from."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from cola_msa.config.presets import PRESETS, get_preset
from cola_msa.config.schema import Config, from_dict, to_dict
from cola_msa.config.strategies import DEGRADED, NO_STEMS, RANDOM, SEPARATED, STRATEGIES
from cola_msa.reproduction.plan import SCALES
from cola_msa.reproduction.report import commands
from tests.helpers.commands import ROOT
from tests.integration.test_packaging import flags_of

_PARSE = """
import dataclasses, json, sys
from absl import flags
from cola_msa import train
from cola_msa.training import asked
train.define_flags()
found = []
for arguments in json.load(sys.stdin):
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS(["train", *arguments])
    found.append(dataclasses.asdict(asked.config_from_flags()))
print(json.dumps(found))
"""


def configurations() -> list[Config]:
    """All that the report and `reproduce` may ask for, and some with odd fields."""
    found = list(PRESETS.values())
    for scale in SCALES.values():
        found += [scale.config(strategy, 3) for strategy in STRATEGIES.values()]
    odd = get_preset("demo")
    train = dataclasses.replace(
        odd.train, keep_steps=(1, 7), deterministic=True, learning_rate=2e-4
    )
    model = dataclasses.replace(odd.model, similarity="cosine", backbone="tiny")
    return [*found, dataclasses.replace(odd, train=train, model=model)]


def test_the_train_command_gives_the_configuration_back():
    wanted = configurations()
    arguments = [commands.train_command(c, "data", "run").arguments for c in wanted]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    found = subprocess.run(
        [sys.executable, "-c", _PARSE],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    parsed = [from_dict(Config, values) for values in json.loads(found.stdout)]
    assert [to_dict(config) for config in parsed] == [to_dict(c) for c in wanted]


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategy_at_the_papers_length_is_its_preset_alone(name):
    assert commands.config_flags(get_preset(name)) == (f"--preset={name}",)


def given_flags(command):
    return {argument.split("=")[0] for argument in command.arguments}


@pytest.mark.parametrize(
    ("dataset", "stems", "modules"),
    [
        ("mtat", SEPARATED, ["data_prep.mtat"]),
        ("mtat", RANDOM, ["data_prep.mtat"]),
        ("mtat", DEGRADED, ["data_prep.train_separator", "data_prep.mtat"]),
        ("nsynth", NO_STEMS, ["data_prep.nsynth"]),
        ("fma", NO_STEMS, ["data_prep.fma"]),
    ],
)
def test_preparation_has_flags_of_its_commands(dataset, stems, modules):
    found = commands.prepare_commands(dataset, stems)
    assert [command.module for command in found] == modules
    for command in found:
        assert given_flags(command) <= flags_of(command.module)
    separators = [a for a in found[-1].arguments if a.startswith("--separator")]
    assert len(separators) == (dataset == "mtat")
    assert ("--separator=random" in separators) == (stems == RANDOM)


@pytest.mark.parametrize(
    "options",
    [{}, {"step": 0}, {"encoder": "untrained", "seeds": 3}, {"step": 100, "seeds": 2}],
)
def test_evaluation_has_flags_of_its_command(options):
    command = commands.eval_command("fma", "runs/a", "prepared/fma", **options)
    assert given_flags(command) <= flags_of("cola_msa.eval")
    assert ("--checkpoint_step" in given_flags(command)) == ("step" in options)


def test_a_command_is_quoted_for_a_shell():
    command = commands.Command("cola_msa.eval", ("--run_dir=my runs/a",))
    assert command.text == "python -m cola_msa.eval '--run_dir=my runs/a'"
    assert command.argv[1:] == ["-m", "cola_msa.eval", "--run_dir=my runs/a"]
