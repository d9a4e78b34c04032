"""All commands: `cola-msa`, or `python -m cola_msa`, lists them a line each.

`cola-msa train --source=multi` is `python -m cola_msa.train --source=multi`.
"""

import ast
import pathlib
import runpy
import sys
from collections.abc import Sequence

_FOLDER = pathlib.Path(__file__).parent


def commands() -> dict[str, str]:
    """Names of the commands, and the first line that each says of itself."""
    found = {}
    for path in sorted(_FOLDER.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name != "__main__.py" and '__name__ == "__main__"' in text:
            line = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
            found[path.stem] = line.partition("python -m")[0].rstrip(" :.")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, or lists all.

    Args:
        argv: The command and its arguments; those of the process by default.

    Returns:
        0 after the list, 2 where there is no such command; a command ends by itself.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    known = commands()
    if not given or given[0] in ("help", "--help", "-h"):
        width = max(map(len, known))
        print("cola-msa COMMAND --help shows a command's flags:\n")
        for name, line in known.items():
            print(f"  {name.ljust(width)}  {line}")
        return 0
    name, *rest = given
    if name not in known:
        print(
            f"error: there is no command {name!r}; cola-msa lists all", file=sys.stderr
        )
        return 2
    sys.argv = [f"cola-msa {name}", *rest]
    runpy.run_module(f"cola_msa.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
