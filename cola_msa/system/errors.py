"""Whose error it is: everything that is the user's to mend derives from UserError.

A command prints such an error as one line and exits with its code. Any other exception
is a defect of ours and shows its traceback.
"""

import contextlib
import re
from collections.abc import Iterator


class UserError(ValueError):
    """Something that the user can mend; the message says what, where and how.

    Attributes:
        exit_code: What a command that it ends exits with.
    """

    exit_code = 1


class UsageError(UserError):
    """A command line that cannot be meant: an unknown flag, a value out of range."""

    exit_code = 2


class FileError(UserError):
    """A file that cannot be written, or must not be replaced."""


class RunError(UserError):
    """A run directory that cannot be used; the message says why and what to do."""


@contextlib.contextmanager
def of_flags() -> Iterator[None]:
    """Inside, what the user can mend is the command line: its values come from flags.

    Raises:
        UsageError: Instead of any UserError.
    """
    try:
        yield
    except UserError as error:
        raise UsageError(str(error)) from error


# What stands before the @ of an address, also where a path made one slash of its two. A
# password should have no slash; where one has, what follows its colon is no port.
_LOGIN = re.compile(
    r"(?:(?<=://)(?:[^/\s]*|[^/\s:]*:(?!\d*/)\S*)|(?<=:/)[^/\s:]+:[^/\s]*)@"
)


def hide_logins(text: str) -> str:
    """A text for the eye: of user and password in an address, `https://***@host/`."""
    return _LOGIN.sub("***@", text)
