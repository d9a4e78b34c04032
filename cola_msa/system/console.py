"""What all commands share: flags, exit codes, one clear line for a user's error."""

import errno
import logging as python_logging
import os
import select
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import tqdm
from absl import app, flags, logging

from cola_msa.system.errors import UsageError, UserError, hide_logins, one_line
from cola_msa.system.files import DISK_ERRORS
from cola_msa.system.memory import keep_freed_memory

_ABSENT = (FileNotFoundError, NotADirectoryError, PermissionError)
# Of a path that no file can have, which a flag or a list named.
_PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP)
_HELP = ("help", "helpshort", "helpfull", "helpxml")

# A flag belongs to the command that asks for it, whose --help shows it.
flags.disclaim_key_flags()


def start(
    main: Callable[..., None],
    define_flags: Callable[[], None],
    most_arguments: int = 0,
    keeps_memory: bool = True,
) -> NoReturn:
    """Runs a command on the process's command line, and ends the process.

    Exit codes: 0 done, or help was asked for; 1 something that the user can mend, one
    line says what; 2 wrong usage, likewise; 130 interrupted. Anything else is a defect
    and shows its traceback.

    Args:
        main: Takes the parsed flags, then what stands between them.
        define_flags: Defines the command's flags.
        most_arguments: How many words that are no flags the command takes.
        keeps_memory: Whether the process keeps its freed memory, see `memory`.
    """
    # Of TensorFlow where it is loaded late, or by a process that this one starts: its
    # remarks about the processor are no news to a user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    define_flags()
    if keeps_memory:
        keep_freed_memory()
    logging.get_absl_handler().addFilter(_keep_on_one_line)
    code = run(
        app.run,
        lambda argv: main(flags.FLAGS, *argv[1:]),
        flags_parser=lambda argv: parse(argv, flags.FLAGS, most_arguments),
    )
    sys.exit(max(code, 1) if _is_unread() else code)


def parse(
    argv: list[str], values: flags.FlagValues, most_arguments: int = 0
) -> list[str]:
    """Parses a command line.

    Args:
        argv: The program's name and its arguments.
        values: Takes the flags' values.
        most_arguments: How many words that are no flags are accepted.

    Returns:
        The program's name and these words.

    Raises:
        UsageError: If it is wrong, whatever lies on the disk.
        SystemExit: With 0, after help.
    """
    # Wherever it stands: behind a wrong flag, too.
    asked = [a for a in argv[1:] if a[:1] == "-" and a.lstrip("-") in _HELP][:1]
    values.set_gnu_getopt()  # flags may stand behind words
    try:
        rest = values([argv[0], *asked] if asked else argv)
    except SystemExit:  # absl ends with 1 after help
        sys.exit(0)
    except flags.Error as error:
        raise UsageError(f"{_one_line(error)}; see --help") from error
    if len(rest) > 1 + most_arguments:
        raise UsageError(
            f"unknown argument {rest[1 + most_arguments]!r}: flags begin with --; see "
            "--help"
        )
    return rest


def _one_line(error: flags.Error) -> str:
    """Absl's message in one line; of flags that are not given, their names."""
    lines = str(error).splitlines()
    for number, line in enumerate(lines):
        name, is_missing, _ = line.partition("=None: Flag --")
        if is_missing:
            lines[number] = f"--{name.removeprefix('flag --')} is needed"
    return "; ".join(lines)


def run(main: Callable[..., Any], *arguments: Any, **options: Any) -> int:
    """Calls a command's main; a user's error becomes one line on stderr.

    Args:
        main: The function.
        *arguments: Its arguments.
        **options: Its keywords.

    Returns:
        The exit code, see `start`.
    """
    try:
        main(*arguments, **options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except UserError as error:  # anything else is a defect and is shown whole
        tell(f"error: {error}", to=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno in DISK_ERRORS:
            told = f"{error}; once that is mended the same command goes on"
        elif isinstance(error, _ABSENT) or error.errno in _PATH_ERRORS:
            told = str(error)
        elif isinstance(error, BrokenPipeError) and _is_unread():
            return 1
        else:
            raise
        tell(f"error: {told}", to=sys.stderr)
        return 1
    return 0


def _is_unread() -> bool:
    """Whether nobody reads what is printed any more, as behind `| head`."""
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except (AttributeError, OSError, ValueError):  # no file, or closed
        return False
    is_unread = any(event & select.POLLERR for _, event in poll.poll(0))
    if is_unread:  # else Python itself tells of it, at its end
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
    return is_unread


def tell(*lines: str, to: TextIO | None = None) -> None:
    """Prints lines, each as one: names in them may hold line breaks and controls.

    Args:
        *lines: The lines.
        to: Where they go; None for stdout.
    """
    for line in lines:
        print(one_line(hide_logins(line)), file=to, flush=True)


def _keep_on_one_line(record: python_logging.LogRecord) -> bool:
    """Does to what is logged what `tell` does to what is printed."""
    record.msg, record.args = one_line(hide_logins(record.getMessage())), ()
    return True


class ProgressBar(tqdm.tqdm):
    """Tqdm's bar; a Ctrl-C that meets it half made says no more than that."""

    def __del__(self) -> None:
        """Closes it, where its constructor came to its end: tqdm's own fails else."""
        if hasattr(self, "start_t"):
            super().__del__()


def progress_bar(
    total: int | None, title: str, unit: str, is_shown: bool = True
) -> ProgressBar:
    """A progress bar with rate and remaining time; rare lines in a file."""
    return ProgressBar(
        total=total,
        desc=one_line(title),
        unit=unit,
        unit_scale=True,
        disable=not is_shown,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        dynamic_ncols=True,
    )
