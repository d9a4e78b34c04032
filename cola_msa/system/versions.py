"""What ran: versions of packages and the commit of this checkout."""

import importlib.metadata
import pathlib
import subprocess

_PACKAGES = ("cola_msa", "tensorflow", "keras", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of this package and of those that decide its numbers."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_commit() -> str | None:
    """The checkout's commit that this package runs from; None outside of one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine
        return None
    return result.stdout.strip() or None
