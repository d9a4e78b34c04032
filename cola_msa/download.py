"""Fetches pretrained folders: by name from a registry, or by URL, into a cache.

The cache is `COLA_MSA_CACHE`, or `~/.cache/cola_msa`. What was fetched once is opened
from there without a network. An archive (.zip, .tar, .tar.gz, .tar.xz) holds one
pretrained folder; it is fetched under a temporary name, its SHA-256 compared, unpacked
beside, and renamed, so that a folder in the cache is whole.
"""

import hashlib
import json
import lzma
import os
import pathlib
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from typing import Any

import tqdm

from cola_msa.pretrained import FORMAT, is_pretrained
from cola_msa.storage import RunError

CACHE_VARIABLE = "COLA_MSA_CACHE"
REGISTRY_VARIABLE = "COLA_MSA_REGISTRY"
_SCHEMES = ("http", "https", "file", "ftp")
_TIMEOUT_SECONDS = 30
_MAX_BYTES = 4 << 30  # unpacked: an encoder has 20 MB
_BLOCK = 1 << 20
_ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip's compression that Python does not know
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
)


def cache_dir() -> pathlib.Path:
    """Where pretrained folders are kept."""
    given = os.environ.get(CACHE_VARIABLE)
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache/cola_msa"


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
    target = cache_dir() / f"{label}-{sha256[:16]}" if sha256 else cache_dir() / label
    if not is_pretrained(target):
        _fetch_to(url, sha256, target)
    return target


def _fetch_to(url: str, sha256: str | None, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Within the cache, so that the rename at the end stays on one file system.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        archive = pathlib.Path(folder) / "archive"
        found = _download(url, archive)
        if sha256 and found != sha256.lower():
            raise RunError(
                f"{url}: the download is not the expected file: SHA-256 {found}, not "
                f"{sha256}"
            )
        unpacked = pathlib.Path(folder) / "unpacked"
        unpack(archive, unpacked, url)
        inner = _pretrained_in(unpacked, url)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(inner, target)


def _download(url: str, path: pathlib.Path) -> str:
    """Fetches a URL into a file; returns the content's SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
            open(path, "wb") as file,
        ):
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            with tqdm.tqdm(
                total=total, unit="B", unit_scale=True, desc="download"
            ) as bar:
                while block := response.read(_BLOCK):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                    bar.update(len(block))
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RunError(
            f"{url} could not be fetched ({reason}). Without a network: download it on "
            "another machine, unpack it, and name its folder instead"
        ) from error
    if total is not None and size != total:
        raise RunError(f"{url}: cut off after {size} of {total} bytes; try again")
    return digest.hexdigest()


def unpack(archive: pathlib.Path, folder: pathlib.Path, name: str) -> None:
    """Unpacks plain files and folders of an archive, none of them outside `folder`.

    Args:
        archive: A zip or tar file.
        folder: Where to; it is made.
        name: What messages call the archive.

    Raises:
        RunError: If it is no archive or damaged, too large, holds a link, a device or a
            path that leads elsewhere.
    """
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for item in file.infolist():
                    if stat.S_ISLNK(item.external_attr >> 16):
                        raise RunError(f"{name}: holds a link, {item.filename}")
                    _check_member(item.filename, folder, name)
                _check_size(sum(item.file_size for item in file.infolist()), name)
                file.extractall(folder)
            return
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                if not (member.isfile() or member.isdir()):
                    raise RunError(f"{name}: holds a link or device, {member.name}")
                _check_member(member.name, folder, name)
            _check_size(sum(member.size for member in members), name)
            tar.extractall(folder, members, filter="data")
    except _ARCHIVE_ERRORS as error:
        raise RunError(
            f"{name}: no archive (.zip, .tar, .tar.gz) or damaged ({error})"
        ) from error


def _check_member(member: str, folder: pathlib.Path, name: str) -> None:
    path = (folder / member).resolve()
    if not path.is_relative_to(folder.resolve()) or pathlib.Path(member).is_absolute():
        raise RunError(f"{name}: holds a path that leads elsewhere, {member}")


def _check_size(size: int, name: str) -> None:
    if size > _MAX_BYTES:
        raise RunError(f"{name}: unpacks to {size:,} bytes, too much for an encoder")


def _pretrained_in(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The pretrained folder of an archive: itself, or the only folder in it."""
    inner = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    found = [path for path in inner if is_pretrained(path)]
    if len(found) != 1:
        raise RunError(f"{name}: holds no pretrained folder ({FORMAT!r})")
    return found[0]
