"""A flag that must name a place does not take an empty name for the current folder."""

import pytest
from absl import flags

from cola_msa.values import paths


def parsed(argument: str) -> str:
    values = flags.FlagValues()
    paths.define_path("input", None, "Music.", flag_values=values)
    values(["x", argument])
    return values.input


@pytest.mark.parametrize("given", ["", " ", "\t"])
def test_a_name_of_nothing_is_refused(given):
    with pytest.raises(flags.IllegalFlagValueError, match="names nothing"):
        parsed(f"--input={given}")


@pytest.mark.parametrize("given", [".", "/", " a", "a b ", "-x", "gs://bucket/x"])
def test_every_name_stays_as_it_is(given):
    assert parsed(f"--input={given}") == given
