import pytest
from absl import flags

from cola_msa.values import numbers
from tests.helpers.commands import run_module


def parsed(argument):
    values = flags.FlagValues()
    numbers.define_float("rate", 1.0, "", 0.5, 2.0, flag_values=values)
    numbers.define_seed(0, "", flag_values=values)
    values(["command", argument])
    return values


@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "-inf", "1e999", "0.4", "2.1"])
def test_what_is_no_finite_number_within_bounds_is_refused(text):
    with pytest.raises(flags.IllegalFlagValueError, match=r"--rate="):
        parsed(f"--rate={text}")


@pytest.mark.parametrize("text", ["-1", "4294967296", "1.5", "abc"])
def test_seeds_that_no_generator_takes_are_refused(text):
    with pytest.raises(flags.IllegalFlagValueError, match="--seed="):
        parsed(f"--seed={text}")


def test_others_are_taken():
    assert parsed("--rate=0.5").rate == 0.5
    assert parsed("--seed=4294967295").seed == 2**32 - 1


@pytest.mark.parametrize(
    ("module", "argument"),
    [
        ("cola_msa.train", "--learning_rate=-1"),
        ("cola_msa.train", "--temperature=-1"),
        ("cola_msa.train", "--kernel_rate=nan"),
        ("cola_msa.train", "--seed=4294967296"),
        ("cola_msa.train", "--keep_steps=abc"),
        ("cola_msa.embed", "--max_failures=nan"),
        ("data_prep.folder", "--max_failures=nan"),
        ("data_prep.folder", "--validation_share=nan"),
    ],
)
def test_commands_refuse_them_by_name(module, argument):
    more = ["--input=x", "--output=x.npz"] if module == "cola_msa.embed" else []
    if module == "data_prep.folder":
        more = ["--dataset_dir=x", "--output_dir=y"]
    found = run_module(module, argument, *more)
    assert found.returncode in (1, 2) and "Traceback" not in found.stderr
    assert argument.partition("=")[0].lstrip("-") in found.stderr
