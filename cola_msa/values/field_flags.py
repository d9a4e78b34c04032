"""Flags made from a configuration's fields: a new field is one line, in one place."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from cola_msa.system.errors import UsageError
from cola_msa.values.numbers import define_float

# A flag belongs to the command that asks for it here, whose --help shows it.
flags.disclaim_key_flags()


def flag_fields(cls: type) -> tuple[dataclasses.Field, ...]:
    """The fields of a configuration that have a flag: those made by `setting`."""
    return tuple(f for f in dataclasses.fields(cls) if f.metadata.get("help"))


def flag_name(field: dataclasses.Field) -> str:
    """The name of a field's flag."""
    return field.metadata["flag"] or field.name


def define_fields(
    cls: type,
    values: flags.FlagValues = flags.FLAGS,
    with_defaults: bool = False,
) -> None:
    """Defines a flag for each field that was made by `fields.setting`.

    Args:
        cls: The configuration's class.
        values: Where to define them.
        with_defaults: Whether a flag that is not given has the field's default, which
            --help then shows; else it is None, and a preset's value stands.
    """
    hints = typing.get_type_hints(cls)
    for field in flag_fields(cls):
        hint, choices = hints[field.name], field.metadata["choices"]
        least, most = field.metadata["bounds"]
        default: Any = field.default if with_defaults else None
        line: tuple[str, Any, str] = (flag_name(field), default, field.metadata["help"])
        if hint is bool:
            flags.DEFINE_bool(*line, flag_values=values)
        elif hint is int:
            flags.DEFINE_integer(*line, least, most, flag_values=values)
        elif hint is float:
            define_float(*line, least, most, flag_values=values)
        elif typing.get_origin(hint) is tuple:
            listed = None if default is None else [str(item) for item in default]
            flags.DEFINE_list(line[0], listed, line[2], flag_values=values)
        elif choices:
            flags.DEFINE_enum(line[0], default, choices, line[2], flag_values=values)
        else:
            flags.DEFINE_string(*line, flag_values=values)


def given_fields(cls: type, values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """The fields whose flags have a value, by name, as the configuration takes them.

    Raises:
        UsageError: If a list that must hold whole numbers does not.
    """
    hints = typing.get_type_hints(cls)
    given = {}
    for field in flag_fields(cls):
        value = getattr(values, flag_name(field))
        if value is None:
            continue
        if typing.get_origin(hints[field.name]) is tuple:
            value = tuple(item.strip() for item in value)
            if typing.get_args(hints[field.name])[0] is int:
                value = whole_numbers(flag_name(field), value)
        given[field.name] = value
    return given


def whole_numbers(
    name: str, items: Sequence[str], most: int = 999_999_999
) -> tuple[int, ...]:
    """The numbers of a list flag.

    Raises:
        UsageError: If one is no whole number from 0 to `most`.
    """
    if not all(i.isdecimal() and len(i) < 20 and int(i) <= most for i in items):
        raise UsageError(
            f"--{name}={','.join(items)}: must be whole numbers up to {most}, with "
            "commas between them, as in 100,300"
        )
    return tuple(int(item) for item in items)
