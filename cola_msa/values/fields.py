"""Fields of configurations: numbers that are numbers, of the right size, at the door.

    @dataclasses.dataclass(frozen=True)
    class TrainConfig:
        batch_size: int = within(128, 2)

        def __post_init__(self) -> None:
            check_fields(self)

Whoever builds such a configuration, by flags, from JSON or in Python, has one that can
be meant, or an error that names the field. Flags are made from the same fields.
"""

import dataclasses
import functools
import numbers
import types
import typing
from typing import Any

from cola_msa.system.errors import UserError

MAX_SEED = 2**32 - 1  # what NumPy's and TensorFlow's generators take alike


# Of any number: what float32 and int64 hold. NaN is not below, and infinity is above.
_LARGEST, _LARGEST_WHOLE = 1e38, 1 << 62
_MAX_DEPTH = 3  # of tuples within tuples; deeper ones are nobody's
_KINDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
}


def within(default: Any, least: float | None = None, most: float | None = None) -> Any:
    """A dataclass's field that is a number, or a tuple of numbers, within bounds.

    Args:
        default: Its default; `dataclasses.MISSING` for a field without one.
        least: The least value that it takes.
        most: The largest.
    """
    return dataclasses.field(default=default, metadata={"bounds": (least, most)})


def setting(
    default: Any,
    help: str,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    flag: str = "",
    is_later: bool = False,
) -> Any:
    """A dataclass's field that commands have a flag for, see `values.field_flags`.

    Args:
        default: Its default.
        help: The flag's line; empty where no command has one.
        least: The least value that a number, or each of several, takes.
        most: The largest.
        choices: The texts that it takes; any where there are none.
        flag: The flag's name, where it is not the field's.
        is_later: An earlier version had no such field, and its files and hashes none:
            at its default it is left out, see `plain_fields`.
    """
    metadata = {
        "help": help,
        "bounds": (least, most),
        "choices": choices,
        "flag": flag,
        "is_later": is_later,
    }
    return dataclasses.field(default=default, metadata=metadata)


def plain_fields(config: Any) -> dict[str, Any]:
    """A (nested) dataclass's names and values, as files and hashes hold them.

    As `dataclasses.asdict`, but for fields that came later (`is_later`): they are left
    out where they have their default, so that what was written before them is equal.
    """
    plain: dict[str, Any] = dataclasses.asdict(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("is_later") and value == field.default:
            del plain[field.name]
        elif dataclasses.is_dataclass(value):
            plain[field.name] = plain_fields(value)
    return plain


def check_choices(config: Any, error: type[UserError] = UserError) -> None:
    """Refuses texts that are none of their field's choices.

    Raises:
        UserError: Or `error`; the message names the field and the choices.
    """
    for field in dataclasses.fields(config):
        choices = field.metadata.get("choices")
        value = getattr(config, field.name)
        if choices and value not in choices:
            raise error(
                f"{type(config).__name__}: {field.name} is {_text(value)}; it must be "
                f"one of {', '.join(choices)}"
            )


def check_fields(config: Any, error: type[UserError] = UserError) -> None:
    """Refuses values of another type than the annotation's, or out of bounds.

    NumPy's numbers become Python's, and lists tuples, as JSON needs them.

    Args:
        config: A frozen dataclass, in its `__post_init__`.
        error: Class of what is raised.

    Raises:
        UserError: Or `error`; the message names the field, its value and what it takes.
    """
    hints = _hints(config.__class__)
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        value = _simple(given)
        if value is not given:
            object.__setattr__(config, field.name, value)
        hint, bounds = hints[field.name], field.metadata.get("bounds", (None, None))
        if not (_fits(value, hint) and _is_within(value, *bounds)):
            raise error(
                f"{type(config).__name__}: {field.name} is {_text(value)}; it must be "
                f"{_wanted(hint, *bounds)}"
            )


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _simple(value: Any, depth: int = 0) -> Any:
    if isinstance(value, list | tuple) and depth < _MAX_DEPTH:
        items = tuple(_simple(item, depth + 1) for item in value)
        same = type(value) is tuple and all(
            item is other for item, other in zip(items, value, strict=True)
        )
        return value if same else items
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in arguments)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[1:] == (Ellipsis,):
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is int:
        return isinstance(value, int) and abs(value) < _LARGEST_WHOLE
    if hint is float:
        return isinstance(value, int | float) and abs(value) < _LARGEST
    return isinstance(value, hint)


def _is_within(value: Any, least: float | None, most: float | None) -> bool:
    if isinstance(value, tuple):
        return all(_is_within(item, least, most) for item in value)
    if value is None:
        return True
    return (least is None or value >= least) and (most is None or value <= most)


def _wanted(hint: Any, least: float | None, most: float | None) -> str:
    arguments = [part for part in typing.get_args(hint) if part is not Ellipsis]
    if typing.get_origin(hint) is tuple:
        kind = f"a tuple, each item {_wanted(arguments[0], None, None)}"
    elif arguments:
        kind = " or ".join(_wanted(part, None, None) for part in arguments)
    else:
        kind = _KINDS.get(hint, hint.__name__)
    if least is not None and most is not None:
        return f"{kind} from {least:,} to {most:,}"
    if least is not None:
        return f"{kind} of {least:,} or more"
    return kind


def _text(value: Any) -> str:
    """A value for a message: one short line, whatever its type's `repr` does."""
    try:
        return " ".join(f"{value!r:.60}".split())
    except Exception:  # of a number of 10,000 digits, too
        return f"a {type(value).__name__}"
