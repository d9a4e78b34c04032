"""What all commands share: memory that is kept, one clear line for a user's error."""

import sys
from collections.abc import Callable

from absl import logging

from cola_msa.allocator import keep_freed_memory

_OWN_PACKAGES = ("cola_msa", "data_prep")


def run_command(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main: user errors become one line and exit code 1.

    The process keeps its freed memory, see `allocator`.

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
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            # Our own error classes carry a message for the user; others are defects.
            if type(error).__module__.split(".")[0] not in _OWN_PACKAGES:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped
