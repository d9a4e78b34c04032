"""Flags for files and folders that must be named.

`--input=$MUSIC` of a variable that is not set names nothing, and the operating system
takes an empty name for the current folder.
"""

from typing import Any

from absl import flags

# A flag belongs to the command that asks for it here, whose --help shows it.
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser):
    """Reads a name that is not empty."""

    def parse(self, argument: Any) -> str:
        if not str(argument).strip():
            raise ValueError("names nothing; the current folder is .")
        return str(argument)


def define_path(
    name: str,
    default: str | None,
    help: str,  # as absl calls it
    **options: Any,
) -> flags.FlagHolder:
    """Defines a flag as `flags.DEFINE_string` does, for a path that is not empty.

    Args:
        name: The flag.
        default: Its value where it is not given.
        help: One line.
        **options: As absl's `DEFINE`.

    Returns:
        The flag's holder.
    """
    parser: flags.ArgumentParser = _PathParser()
    serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
    return flags.DEFINE(parser, name, default, help, serializer=serializer, **options)
