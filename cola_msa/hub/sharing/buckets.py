"""Runs and pretrained folders at addresses (gs://, s3:// and so on), by fsspec.

Fetched into the cache, under a name of what is listed there: what has changed since is
fetched again. An export is not opened from there: its graph is a program.
"""

import hashlib
import os
import pathlib
import posixpath

from cola_msa.hub.sharing import download, hugging_face
from cola_msa.remote import addresses
from cola_msa.system.errors import RunError, UsageError, hide_logins
from cola_msa.system.files import temporary_folder
from cola_msa.system.folders import CACHE_VARIABLE, cache_dir, replace_folder
from cola_msa.system.locks import Lock

# Of a run what training alone reads; it is many times as large as the encoder.
_TRAINING = ("checkpoints/", "logs/")
_MARK = "config.json"
_MAX_BYTES = 4 << 30


def is_address(text: str) -> bool:
    """Whether a model is named by an address that fsspec is to read."""
    is_other = download.is_url(text) or hugging_face.is_address(text)
    return addresses.is_address(text) and not is_other


def fetch(url: str) -> pathlib.Path:
    """The folder at an address, on this machine.

    Args:
        url: Of a run or a pretrained folder.

    Raises:
        RunError: If there is none, the address cannot be used or read, or the cache
            cannot be written.
    """
    try:
        return _fetch(url)
    except (addresses.AddressError, addresses.RemoteError, UsageError) as error:
        raise RunError(hide_logins(str(error))) from error


def _fetch(url: str) -> pathlib.Path:
    shown = hide_logins(url)
    folder = addresses.open_folder(url.rstrip("/"))
    entries = {
        name: entry
        for name, entry in folder.walk().items()
        if not entry.is_folder and not name.startswith(_TRAINING)
    }
    if _MARK not in entries:
        raise RunError(
            f"{shown}: there is no run and no pretrained folder there (no {_MARK})"
        )
    num_bytes = sum(entry.size for entry in entries.values())
    if num_bytes > _MAX_BYTES:
        raise RunError(f"{shown}: holds {num_bytes:,} bytes, more than a model has")
    listed = sorted((name, e.size, e.state) for name, e in entries.items())
    key = hashlib.sha256(repr([folder.url, listed]).encode()).hexdigest()[:24]
    # The folder keeps its name, which the model's description has.
    base = posixpath.basename(folder.path) or "model"
    target = cache_dir() / "addresses" / key / base
    try:
        with Lock(cache_dir() / ".locks" / f"{key}.lock", "", waits=True):
            if not target.is_dir():
                with temporary_folder(target) as temporary:
                    for name in entries:
                        path = pathlib.Path(os.path.normpath(temporary / name))
                        folder.download(name, path)
                    replace_folder(temporary, target, lambda _: (), "a model")
    except addresses.RemoteError:
        raise
    except OSError as error:
        raise RunError(
            f"{target}: cannot be written ({error.strerror or error}); name another "
            f"cache by {CACHE_VARIABLE}"
        ) from error
    return target
