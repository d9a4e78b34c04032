r"""One prepared folder or several, as `--data_dir` names them.

A comma stands between two folders; `\,` is a comma in a folder's name. What exists as
it is written is one folder, whatever its name.
"""

import os
import re
from collections.abc import Sequence

from cola_msa.system.errors import UsageError
from cola_msa.values.numbers import finite_float

_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e6


def split_names(text: str) -> list[str]:
    """The folders that `--data_dir` names.

    Raises:
        UsageError: If an entry is empty, or two are the same folder.
    """
    if "," not in text or os.path.exists(text):
        return [text]
    names = [name.strip().replace("\\,", ",") for name in re.split(r"(?<!\\),", text)]
    if "" in names:
        raise UsageError(
            f"--data_dir={text}: an entry names nothing; name folders with one comma "
            "between them"
        )
    seen: set[str] = set()
    for name in names:
        if (path := os.path.realpath(name)) in seen:
            raise UsageError(
                f"--data_dir={text}: {name} stands there twice; --data_weights says "
                "how often each folder is drawn"
            )
        seen.add(path)
    return names


def join_names(names: Sequence[str]) -> str:
    """What `split_names` reads as these folders."""
    if len(names) == 1:
        return names[0]
    return ",".join(name.replace(",", "\\,") for name in names)


def parse_weights(given: Sequence[str], num_folders: int) -> tuple[float, ...]:
    """The numbers of `--data_weights`, one for each folder.

    Raises:
        UsageError: If there are more or fewer, or one is none that can be meant.
    """
    text = f"--data_weights={','.join(given)}"
    if len(given) != num_folders:
        raise UsageError(
            f"{text}: must be one number for each folder of --data_dir, which names "
            f"{num_folders}"
        )
    weights = []
    for item in given:
        try:
            weight = finite_float(item)
        except ValueError as error:
            raise UsageError(f"{text}: {error}") from error
        if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
            raise UsageError(
                f"{text}: {item.strip()} is not between {_LEAST_WEIGHT:g} and "
                f"{_MOST_WEIGHT:,.0f}; leave a folder out of --data_dir that is not to "
                "be drawn"
            )
        weights.append(weight)
    return tuple(weights)
