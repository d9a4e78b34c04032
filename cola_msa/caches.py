"""Where a user's own caches lie; what is in them can always be made again."""

import os
import pathlib

CACHE_VARIABLE = "COLA_MSA_CACHE"


def cache_dir() -> pathlib.Path:
    """`COLA_MSA_CACHE`, or `~/.cache/cola_msa`."""
    given = os.environ.get(CACHE_VARIABLE)
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache/cola_msa"
