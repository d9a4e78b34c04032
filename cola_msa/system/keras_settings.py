"""Settings of Keras that the project cannot work with, said before Keras fails.

Keras reads KERAS_BACKEND and keras.json when it is imported, and with another backend,
layout or precision either fails there or gives networks that do not work. Importing
`cola_msa` costs no Keras: what is found is told once a module of the project, nobody
else's, imports it.
"""

import json
import os
import pathlib
import sys
from typing import Any

from cola_msa.system.errors import UserError

_PACKAGES = ("cola_msa", "data_prep")
# What keras.json may say, beside `epsilon`.
_WANTED = {
    "backend": "tensorflow",
    "image_data_format": "channels_last",
    "floatx": "float32",
}


class KerasSettingsError(UserError):
    """Keras is set to work in a way that the project cannot use."""


def settings_path() -> pathlib.Path:
    """Keras's own settings file, which need not be there."""
    home = os.path.expanduser("~")
    home = home if os.access(home, os.W_OK) else "/tmp"
    folder = os.environ.get("KERAS_HOME", os.path.join(home, ".keras"))
    return pathlib.Path(os.path.expanduser(folder)) / "keras.json"


def find_problem() -> str | None:
    """What is wrong with Keras's settings and what to do, in a line; or None."""
    backend = os.environ.get("KERAS_BACKEND", "")
    if backend not in ("", "tensorflow"):
        return (
            f"KERAS_BACKEND={backend[:40]!r} is set, and cola_msa needs Keras on "
            "TensorFlow: unset it, or set KERAS_BACKEND=tensorflow"
        )
    path = settings_path()
    try:
        settings = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # Keras goes on without, too
        return None
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}): Keras keeps settings there"
    except RecursionError:
        settings = None
    if not isinstance(settings, dict) or not _has_epsilon(settings):
        return f"{path} holds no settings: delete it, and Keras writes it anew"
    for name, wanted in _WANTED.items():
        found = settings.get(name, wanted)
        is_overridden = name == "backend" and backend
        if found != wanted and not is_overridden:
            return (
                f'{path} sets "{name}" to {json.dumps(found):.40}, and cola_msa needs '
                f'"{wanted}": change it there, or set KERAS_HOME to a folder of its own'
            )
    return None


def _has_epsilon(settings: dict[str, Any]) -> bool:
    return isinstance(settings.get("epsilon", 1e-7), float)


def check_loaded() -> None:
    """Refuses Keras as it is now, whoever imported it and set what.

    Raises:
        KerasSettingsError: If backend, layout or precision are others than needed.
    """
    import keras

    found = {
        "backend": keras.config.backend(),
        "image_data_format": keras.config.image_data_format(),
        "floatx": keras.config.floatx(),
    }
    for name, wanted in _WANTED.items():
        if found[name] != wanted:
            raise KerasSettingsError(
                f"Keras's {name} is {found[name]!r}, and cola_msa needs {wanted!r}: "
                "set it before cola_msa is used"
            )


class _Door:
    """A finder that finds nothing; it sees who imports Keras first."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name != "keras" or _importer().partition(".")[0] not in _PACKAGES:
            return
        problem = find_problem()
        if problem is None:
            return
        main = getattr(sys.modules.get("__main__"), "__spec__", None)
        if main is not None and main.name.partition(".")[0] in _PACKAGES:
            sys.exit(f"error: {problem}")  # a command, before it can catch anything
        raise KerasSettingsError(problem)


def _importer() -> str:
    """The module whose import statement is being run."""
    frame: Any = sys._getframe(2)
    while frame and frame.f_globals.get("__name__", "").startswith("importlib"):
        frame = frame.f_back
    values = frame.f_globals if frame else {}
    name = values.get("__name__", "")
    if name == "__main__" and values.get("__spec__"):
        return values["__spec__"].name
    return name


def watch_import() -> None:
    """From here on, the project's first import of Keras looks at its settings first."""
    if "keras" not in sys.modules:
        sys.meta_path.insert(0, _Door())
