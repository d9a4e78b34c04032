"""What all commands share: memory that is kept, one clear line for a user's error."""

import errno
import sys
from collections.abc import Callable

import tqdm
from absl import logging

from cola_msa.system.errors import UserError
from cola_msa.system.files import DISK_ERRORS
from cola_msa.system.memory import keep_freed_memory

# Of a path that no file can have, which a flag or a list named.
_PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP)


def run_command(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main: user errors become one line and exit code 1.

    The process keeps its freed memory, see `memory`.

    Args:
        main: Takes absl's remaining arguments.

    Returns:
        The wrapped function, for `absl.app.run`.
    """

    def wrapped(argv: list[str]) -> None:
        logging.use_absl_handler()
        logging.set_verbosity(logging.INFO)
        keep_freed_memory()
        try:
            main(argv)
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            sys.exit(130)
        except UserError as error:  # anything else is a defect and is shown whole
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except OSError as error:
            if error.errno in _PATH_ERRORS:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1)
            if error.errno not in DISK_ERRORS:
                raise
            told = f"{error}; once that is mended the same command goes on"
            print(f"error: {told}", file=sys.stderr)
            sys.exit(1)

    return wrapped


def progress_bar(
    total: int | None, title: str, unit: str, is_shown: bool = True
) -> tqdm.tqdm:
    """A progress bar with rate and remaining time; rare lines in a file."""
    return tqdm.tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=True,
        disable=not is_shown,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        dynamic_ncols=True,
    )
