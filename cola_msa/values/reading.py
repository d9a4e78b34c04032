"""Reads files that may be damaged, of another kind, or somebody else's.

Regular files alone are opened: a pipe would be waited for without end. JSON is read up
to a size that cannot fill the memory, and what is wrong with it becomes one line.
"""

import contextlib
import errno
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cola_msa.system.errors import FileError, UserError

T = TypeVar("T")
MAX_JSON_BYTES = 64 << 20
_KINDS = {
    dict: "object",
    list: "array",
    str: "text",
    int: "number",
    float: "number",
    bool: "truth value",
    type(None): "null",
}
_ADVICE = "put it back from a copy, or delete it"
# What a look at fields raises where one is missing or of another type.
FIELD_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
)


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a file for reading; a link to one counts.

    Raises:
        OSError: If there is none, or it is a folder, a pipe or a device.
    """
    try:
        # Without O_NONBLOCK a pipe is waited for already when it is opened.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a zero byte
        raise FileNotFoundError(errno.ENOENT, str(error), os.fspath(path)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_limited(path: str | os.PathLike, max_bytes: int) -> bytes:
    """Reads a file of at most `max_bytes`.

    Raises:
        OSError: As `open_regular`.
        ValueError: If it has more.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return content


def read_json(
    path: str | os.PathLike,
    error: type[Exception] = FileError,
    advice: str = _ADVICE,
    *,
    kind: type | tuple[type, ...] = dict,
    max_bytes: int = MAX_JSON_BYTES,
    check: Callable[[Any], T] | None = None,
) -> Any:
    """Reads a file of JSON, or says in one line why it cannot be.

    Args:
        path: The file.
        error: Class of what is raised.
        advice: What to do where it is damaged.
        kind: What the whole must be.
        max_bytes: The most that is read.
        check: Looks at the fields that will be used: what their absence or another
            type raises in it is the file's fault. It must do nothing else, so that a
            defect of ours is not taken for one.

    Returns:
        The content, or what `check` made of it.

    Raises:
        FileError: If it is missing, cannot be read, is no JSON, or not of this kind,
            or `error`.
    """
    try:
        content = json.loads(read_limited(path, max_bytes))
        if not isinstance(content, kind):
            raise ValueError(f"it holds a JSON {_KINDS[type(content)]}")
    except OSError as problem:
        raise error(f"{path}: cannot be read ({_reason(problem)}); {advice}") from (
            problem
        )
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: damaged ({_reason(problem)}); {advice}") from problem
    if check is None:
        return content
    with damage_as(error, path, advice):
        return check(content)


@contextlib.contextmanager
def damage_as(
    error: type[Exception], path: str | os.PathLike, advice: str = _ADVICE
) -> Iterator[None]:
    """Inside, a field's absence or other type is the file's fault.

    For a look at fields alone: a defect of ours must not be taken for damage.

    Args:
        error: Class of what is raised.
        path: The file.
        advice: What to do.
    """
    try:
        yield
    except UserError as problem:
        if isinstance(problem, error):
            raise
        raise error(f"{path}: damaged ({problem}); {advice}") from problem
    except FIELD_ERRORS as problem:
        raise error(f"{path}: damaged ({_reason(problem)}); {advice}") from problem


def _reason(problem: Exception) -> str:
    """What an exception says, in one short line."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, KeyError):  # whose own text is the key alone
        return f"{problem.args[0] if problem.args else 'a field'} is missing"
    text = str(problem) if isinstance(problem, ValueError) else repr(problem)
    return " ".join(text.split())[:300] or type(problem).__name__
