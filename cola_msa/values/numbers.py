"""Flags for numbers that are numbers: neither "nan" nor "inf" passes for one.

absl compares with bounds, and every comparison with NaN is false.
"""

import math
from typing import Any

from absl import flags

from cola_msa.values.fields import MAX_SEED

# A flag belongs to the command that asks for it here, whose --help shows it.
flags.disclaim_key_flags()


class _FiniteParser(flags.FloatParser):
    """Reads a finite number within bounds."""

    def convert(self, argument: Any) -> float:
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError(f"must be a finite number, not {argument}")
        return value


def finite_float(text: str) -> float:
    """Reads a finite number.

    Raises:
        ValueError: If it is none.
    """
    try:
        return _FiniteParser().convert(text)
    except ValueError as error:
        raise ValueError(f"must be a finite number, not {text}") from error


def define_float(
    name: str,
    default: float | None,
    help: str,  # as absl calls it
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    **options: Any,
) -> flags.FlagHolder:
    """Defines a flag as `flags.DEFINE_float` does, for finite numbers alone.

    Args:
        name: The flag.
        default: Its value where it is not given.
        help: One line.
        lower_bound: The least value that it takes.
        upper_bound: The largest.
        **options: As absl's `DEFINE`.

    Returns:
        The flag's holder.
    """
    parser = _FiniteParser(lower_bound, upper_bound)
    serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
    return flags.DEFINE(parser, name, default, help, serializer=serializer, **options)


def define_seed(default: int | None, help: str, **options: Any) -> flags.FlagHolder:
    """Defines `--seed`: a whole number from 0 to MAX_SEED."""
    return flags.DEFINE_integer(
        "seed", default, help, lower_bound=0, upper_bound=MAX_SEED, **options
    )
