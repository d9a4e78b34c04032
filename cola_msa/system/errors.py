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


# What moves a terminal's cursor, turns letters around, or is no letter at all.
_UNSHOWN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def one_line(text: str) -> str:
    r"""A text for the eye as one line: line breaks and controls become `\u000a`.

    Names of files may hold any of them, and would end a line or paint over others.
    """
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
