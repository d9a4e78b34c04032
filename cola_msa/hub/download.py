"""Fetches pretrained folders: by name from a registry, or by URL, into a cache.

The cache is `COLA_MSA_CACHE`, or `~/.cache/cola_msa`. What was fetched once is opened
from there without a network. An archive (.zip, .tar, .tar.gz, .tar.xz) holds one
pretrained folder; it is fetched under a temporary name, its SHA-256 compared, its known
files unpacked beside, and put in place in one step, so that a folder in the cache is
whole. One process fetches at a time; others wait and find what it fetched.

What comes from elsewhere is a pretrained folder or is refused: nothing but the files of
`pretrained.ARCHIVE_LIMITS` leaves an archive.
"""

import base64
import hashlib
import http.client
import os
import pathlib
import re
import tempfile
import threading
import urllib.parse
import urllib.request
from typing import Any

import tqdm

from cola_msa.hub.pretrained import (
    ARCHIVE_LIMITS,
    FORMAT,
    LIMITS,
    check_files,
    is_pretrained,
    listed_hashes,
    own_files,
    read_config,
)
from cola_msa.system.archives import read_archive
from cola_msa.system.errors import RunError, hide_logins
from cola_msa.system.files import temporary_folder
from cola_msa.system.folders import CACHE_VARIABLE, cache_dir, replace_folder
from cola_msa.system.locks import Lock
from cola_msa.values.reading import read_json

REGISTRY_VARIABLE = "COLA_MSA_REGISTRY"
SCHEMES = ("http", "https", "file", "ftp")
_TIMEOUT_SECONDS = 30  # without any byte
MAX_DOWNLOAD_BYTES = 512 << 20  # an encoder has 20 MB
MAX_DOWNLOAD_SECONDS = 3600
_BLOCK = 1 << 18
_SHA256 = re.compile("[0-9a-f]{64}", re.IGNORECASE)
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
    return read_json(
        file,
        RunError,
        "a registry of pretrained encoders is JSON: "
        '{"models": {NAME: {"url": ..., "sha256": 64 digits}}}',
        check=_checked_models,
    )


def _checked_models(registry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    models = registry["models"]
    for entry in models.values():
        if not isinstance(entry["url"], str) or not _is_sha256(entry["sha256"]):
            raise ValueError(f"entry {hide_logins(repr(entry)):.100}")
    return models


def is_url(text: str) -> bool:
    """Whether a model is named by a URL."""
    # By hand: urlsplit raises on addresses such as http://[.
    return text.partition(":")[0].lower() in SCHEMES and ":" in text


def _is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


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
        # It becomes a part of a folder's name.
        if sha256 and not _is_sha256(sha256):
            raise RunError(
                f"{hide_logins(name_or_url)}: what follows # must be sha256= and 64 "
                "hexadecimal digits"
            )
        label = hashlib.sha256(os.fsencode(url)).hexdigest()[:16]
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
    if is_pretrained(target):
        _check_cached(target, hide_logins(name_or_url))
    else:
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


def _check_cached(folder: pathlib.Path, source: str) -> None:
    """Says where a download lies that was whole once, and is no more."""
    try:
        check_files(folder, listed_hashes(read_config(folder)))
    except RunError as error:
        raise RunError(
            f"{error}. This is the cached download of {source}: remove the folder "
            f"{folder}, and the same command fetches it again"
        ) from error


def _fetch_to(url: str, sha256: str | None, target: pathlib.Path) -> None:
    shown = hide_logins(url)
    with (
        tempfile.TemporaryDirectory(
            prefix="cola_msa-", ignore_cleanup_errors=True
        ) as work,
        temporary_folder(target) as folder,
    ):
        archive = pathlib.Path(work) / "archive"
        found = _download(url, archive)
        if sha256 and found != sha256.lower():
            raise RunError(
                f"{shown}: the download is not the expected file: SHA-256 {found}, not "
                f"{sha256}"
            )
        unpacked = read_archive(
            archive, pathlib.Path(work) / "unpacked", ARCHIVE_LIMITS, shown
        )
        holding = [path for path in unpacked if is_pretrained(path)]
        if len(holding) != 1:
            raise RunError(f"{shown}: holds no pretrained folder ({FORMAT!r})")
        _check_whole(holding[0], shown)
        for name in (*LIMITS, *listed_hashes(read_config(holding[0]))):
            if (holding[0] / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes((holding[0] / name).read_bytes())
        # What lies there is no pretrained folder: damaged, or of another kind.
        replace_folder(folder, target, own_files, "a damaged download")


def _check_whole(folder: pathlib.Path, url: str) -> None:
    """Refuses a damaged folder before the cache keeps it and no more asks the URL."""
    try:
        check_files(folder, listed_hashes(read_config(folder)))
    except RunError as error:
        reason = str(error).replace(f"{folder}{os.sep}", "")
        raise RunError(f"{url}: {reason}") from error


def _download(url: str, path: pathlib.Path) -> str:
    """Fetches a URL into a file; returns the content's SHA-256.

    The limit of time holds for all of it: name lookup, handshakes, headers, content. A
    server can delay each byte of its headers, which no timeout of a socket notices, so
    the work is done by a thread that is left behind at the limit.
    """
    results: list[str | BaseException] = []
    is_late = threading.Event()

    def work() -> None:
        try:
            results.append(_read_url(url, path, is_late))
        except BaseException as error:  # raised again by the caller
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join(MAX_DOWNLOAD_SECONDS)
    finally:
        is_late.set()  # Ctrl-C, too, ends the thread at its next block
    if not results:
        raise RunError(
            f"{hide_logins(url)}: not fetched within {MAX_DOWNLOAD_SECONDS:,} s, which "
            "is the limit; try again, or download it by hand"
        )
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def _read_url(url: str, path: pathlib.Path, is_late: threading.Event) -> str:
    digest, size, shown = hashlib.sha256(), 0, hide_logins(url)
    try:
        # Names of files may have any bytes.
        quoted = urllib.parse.quote(os.fsencode(url), safe=_URL_CHARACTERS)
        _check_file(quoted)
        opener = urllib.request.build_opener(_Redirects)
        with (
            opener.open(_request(quoted), timeout=_TIMEOUT_SECONDS) as response,
            open(path, "wb") as file,
        ):
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            _check_size(total or 0, shown)
            with tqdm.tqdm(
                total=total, unit="B", unit_scale=True, desc="download"
            ) as bar:
                # read1: whatever has come, so that a slow server is noticed.
                while not is_late.is_set() and (block := response.read1(_BLOCK)):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                    _check_size(size, shown)
                    bar.update(len(block))
        if is_late.is_set():
            raise RunError(f"{shown}: stopped")
    except RunError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        if isinstance(error, http.client.InvalidURL):  # which quotes a part of it
            reason = "no valid address"
        raise RunError(
            f"{shown!r} could not be fetched ({hide_logins(reason)}). Without a "
            "network: download it on another machine, unpack it, and name its folder "
            "instead"
        ) from error
    if total is not None and size != total:
        raise RunError(f"{shown}: cut off after {size} of {total} bytes; try again")
    return digest.hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to HTTP alone, and from HTTPS to HTTPS alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, *rest: Any
    ) -> urllib.request.Request | None:
        headers, newurl = rest
        parts = urllib.parse.urlsplit(newurl)
        is_lower = req.type == "https" and parts.scheme != "https"
        if is_lower or parts.scheme not in ("http", "https") or "@" in parts.netloc:
            raise ValueError(
                f"its server sends on from {req.type}:// to {newurl}, which is not "
                "followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str) -> urllib.request.Request:
    """A request; user and password of an address of HTTP go to its own host alone."""
    parts = urllib.parse.urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at or parts.scheme.lower() not in ("http", "https"):
        return urllib.request.Request(url)
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    code = base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()
    request.add_unredirected_header("Authorization", f"Basic {code}")
    return request


def _check_file(url: str) -> None:
    """Refuses a local pipe or device, which would be waited for, or have no end."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        path = urllib.request.url2pathname(parts.path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(f"{path} is no file")


def _check_size(size: int, url: str) -> None:
    if size > MAX_DOWNLOAD_BYTES:
        raise RunError(
            f"{url}: has more than {MAX_DOWNLOAD_BYTES:,} bytes, too much for an "
            "encoder"
        )
