"""Fetches pretrained folders: by name from a registry, or by URL, into a cache.

The cache is `COLA_MSA_CACHE`, or `~/.cache/cola_msa`. What was fetched once is opened
from there without a network. An archive (.zip, .tar, .tar.gz, .tar.xz) holds one
pretrained folder; it is fetched under a temporary name, its SHA-256 compared, its known
files unpacked beside, and put in place in one step, so that a folder in the cache is
whole. One process fetches at a time; others wait and find what it fetched.

What comes from elsewhere is a pretrained folder or is refused: nothing but the files of
`pretrained.LIMITS` leaves an archive.
"""

import hashlib
import http.client
import json
import os
import pathlib
import tempfile
import time
import urllib.parse
import urllib.request
from typing import Any

import tqdm

from cola_msa.archives import read_archive
from cola_msa.caches import CACHE_VARIABLE as CACHE_VARIABLE
from cola_msa.caches import cache_dir
from cola_msa.pretrained import FORMAT, LIMITS, is_pretrained
from cola_msa.storage import RunError
from cola_msa.system.files import temporary_folder
from cola_msa.system.folders import replace_folder
from cola_msa.system.locks import Lock

REGISTRY_VARIABLE = "COLA_MSA_REGISTRY"
_SCHEMES = ("http", "https", "file", "ftp")
_TIMEOUT_SECONDS = 30  # without any byte
MAX_DOWNLOAD_BYTES = 512 << 20  # an encoder has 20 MB
MAX_DOWNLOAD_SECONDS = 3600
_BLOCK = 1 << 18
# Characters of a URL that stay as they are; a space, say, becomes %20.
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


def read_registry(path: str | os.PathLike | None = None) -> dict[str, dict[str, Any]]:
    """Names of pretrained encoders, each with `url`, `sha256` and `description`.

    Args:
        path: A registry file; None means COLA_MSA_REGISTRY, else the package's own.

    Raises:
        RunError: If it is missing or damaged.
    """
    path = path or os.environ.get(REGISTRY_VARIABLE)
    file = pathlib.Path(path or pathlib.Path(__file__).with_name("registry.json"))
    try:
        models = json.loads(file.read_text())["models"]
        for entry in models.values():
            if not isinstance(entry["url"], str) or len(entry["sha256"]) != 64:
                raise ValueError(f"entry {entry}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file}: no registry of pretrained encoders ({error!r}); it must be JSON: "
            '{"models": {NAME: {"url": ..., "sha256": 64 digits}}}'
        ) from error
    return models


def is_url(text: str) -> bool:
    """Whether a model is named by a URL."""
    return urllib.parse.urlsplit(text).scheme in _SCHEMES


def fetch(name_or_url: str, registry: str | os.PathLike | None = None) -> pathlib.Path:
    """The pretrained folder of a name or URL; downloaded where it is not cached.

    Args:
        name_or_url: A name of the registry, or the URL of an archive, optionally with
            `#sha256=<64 digits>`.
        registry: A registry file, see `read_registry`.

    Returns:
        The folder in the cache.

    Raises:
        RunError: If there is no such name, the archive cannot be fetched, is not the
            one that the hash stands for, or holds no pretrained folder.
    """
    if is_url(name_or_url):
        url, _, fragment = name_or_url.partition("#")
        sha256 = fragment.removeprefix("sha256=") or None
        label = hashlib.sha256(url.encode()).hexdigest()[:16]
    else:
        models = read_registry(registry)
        if name_or_url not in models:
            known = ", ".join(sorted(models)) or "none yet"
            raise RunError(
                f"{name_or_url!r} is neither a folder, a URL, nor a name of the "
                f"registry, which has: {known}"
            )
        url, sha256 = models[name_or_url]["url"], models[name_or_url]["sha256"]
        label = name_or_url.replace("/", "_")
    target = cache_dir() / (f"{label}-{sha256[:16]}" if sha256 else label)
    if not is_pretrained(target):
        try:
            with Lock(cache_dir() / ".locks" / f"{target.name}.lock", "", waits=True):
                if not is_pretrained(target):  # another process may have fetched it
                    _fetch_to(url, sha256, target)
        except OSError as error:
            raise RunError(
                f"{target}: cannot be written ({error.strerror or error}); name "
                f"another cache by {CACHE_VARIABLE}"
            ) from error
    return target


def _fetch_to(url: str, sha256: str | None, target: pathlib.Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="cola_msa-") as work,
        temporary_folder(target) as folder,
    ):
        archive = pathlib.Path(work) / "archive"
        found = _download(url, archive)
        if sha256 and found != sha256.lower():
            raise RunError(
                f"{url}: the download is not the expected file: SHA-256 {found}, not "
                f"{sha256}"
            )
        unpacked = read_archive(archive, pathlib.Path(work) / "unpacked", LIMITS, url)
        holding = [path for path in unpacked if is_pretrained(path)]
        if len(holding) != 1:
            raise RunError(f"{url}: holds no pretrained folder ({FORMAT!r})")
        for path in holding[0].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        # What lies there is no pretrained folder: damaged, or of another kind.
        replace_folder(folder, target, lambda _: LIMITS, "a damaged download")


def _download(url: str, path: pathlib.Path) -> str:
    """Fetches a URL into a file; returns the content's SHA-256."""
    digest, size = hashlib.sha256(), 0
    begin = time.monotonic()
    quoted = urllib.parse.quote(url, safe=_URL_CHARACTERS)
    try:
        with (
            urllib.request.urlopen(quoted, timeout=_TIMEOUT_SECONDS) as response,
            open(path, "wb") as file,
        ):
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            _check_size(total or 0, url)
            with tqdm.tqdm(
                total=total, unit="B", unit_scale=True, desc="download"
            ) as bar:
                # read1: whatever has come, so that a slow server is noticed.
                while block := response.read1(_BLOCK):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                    _check_size(size, url)
                    if time.monotonic() - begin > MAX_DOWNLOAD_SECONDS:
                        raise RunError(
                            f"{url}: {size:,} bytes in {MAX_DOWNLOAD_SECONDS:,} s, "
                            "which is the limit; try again, or download it by hand"
                        )
                    bar.update(len(block))
    except RunError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RunError(
            f"{url} could not be fetched ({reason}). Without a network: download it on "
            "another machine, unpack it, and name its folder instead"
        ) from error
    if total is not None and size != total:
        raise RunError(f"{url}: cut off after {size} of {total} bytes; try again")
    return digest.hexdigest()


def _check_size(size: int, url: str) -> None:
    if size > MAX_DOWNLOAD_BYTES:
        raise RunError(
            f"{url}: has more than {MAX_DOWNLOAD_BYTES:,} bytes, too much for an "
            "encoder"
        )
