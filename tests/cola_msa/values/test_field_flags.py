import dataclasses

import pytest
from absl import flags

from cola_msa.system.errors import UsageError, UserError
from cola_msa.values.field_flags import define_fields, flag_fields, given_fields
from cola_msa.values.fields import check_choices, setting, within


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = setting(0.1, "A rate.", 0.0, 1.0)
    count: int = setting(3, "A count.", 1)
    kind: str = setting("a", "A kind.", choices=("a", "b"))
    name: str = setting("x", "A name.")
    is_on: bool = setting(True, "A switch.")
    steps: tuple[int, ...] = setting((1, 2), "Steps.", 0)
    names: tuple[str, ...] = setting(("p",), "Names.")
    hidden: int = within(5, 1)
    level: str = setting("r", "", choices=("r", "l"))


def parsed(*arguments, with_defaults=False):
    values = flags.FlagValues()
    define_fields(Settings, values, with_defaults)
    values(["command", *arguments])
    return given_fields(Settings, values)


def test_a_flag_that_is_not_given_leaves_the_field_alone():
    assert parsed() == {}
    assert [f.name for f in flag_fields(Settings)] == [
        "rate",
        "count",
        "kind",
        "name",
        "is_on",
        "steps",
        "names",
    ]


def test_what_is_given_has_the_type_of_its_field():
    found = parsed(
        "--rate=0.5", "--count=4", "--kind=b", "--name=y", "--nois_on", "--steps=7, 8"
    )
    assert found == {
        "rate": 0.5,
        "count": 4,
        "kind": "b",
        "name": "y",
        "is_on": False,
        "steps": (7, 8),
    }
    assert Settings(**found).steps == (7, 8)


def test_defaults_are_the_fields_own():
    assert Settings(**parsed(with_defaults=True)) == Settings()


@pytest.mark.parametrize(
    "argument", ["--rate=nan", "--rate=1.5", "--count=0", "--kind=c", "--hidden=6"]
)
def test_a_flag_takes_what_its_field_takes(argument):
    with pytest.raises(flags.Error):
        parsed(argument)


@pytest.mark.parametrize("text", ["abc", "1,x", "-1", "1.5", "9999999999"])
def test_lists_of_whole_numbers_hold_nothing_else(text):
    with pytest.raises(UsageError, match="--steps="):
        parsed(f"--steps={text}")


def test_choices_are_checked_with_or_without_a_flag():
    check_choices(Settings())
    with pytest.raises(UserError, match="level is 'q'; it must be one of r, l"):
        check_choices(Settings(level="q"))
