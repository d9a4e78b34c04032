"""Fetches pretrained folders by name from a registry, or by URL, into the cache.

What was fetched once is opened from there without a network. An archive (.zip, .tar,
.tar.gz, .tar.xz) holds one pretrained folder; it is fetched under a temporary name, its
SHA-256 compared, and its known files unpacked.

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

from cola_msa.hub.pretrained import (
    ARCHIVE_LIMITS,
    FORMAT,
    LIMITS,
    is_pretrained,
    listed_hashes,
    read_config,
)
from cola_msa.hub.sharing.cache import (
    MAX_DOWNLOAD_SECONDS,
    in_time,
    kept_folder,
    told_of,
)
from cola_msa.system.archives import read_archive
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import RunError, hide_logins
from cola_msa.system.folders import cache_dir
from cola_msa.values.reading import read_json

REGISTRY_VARIABLE = "COLA_MSA_REGISTRY"
SCHEMES = ("http", "https", "file", "ftp")
_TIMEOUT_SECONDS = 30  # without any byte
MAX_DOWNLOAD_BYTES = 512 << 20  # an encoder has 20 MB
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
    return kept_folder(
        target,
        hide_logins(name_or_url),
        lambda folder: _fetch_to(url, sha256, folder),
    )


def _fetch_to(url: str, sha256: str | None, folder: pathlib.Path) -> None:
    shown = hide_logins(url)
    with tempfile.TemporaryDirectory(
        prefix="cola_msa-", ignore_cleanup_errors=True
    ) as work:
        archive = pathlib.Path(work) / "archive"
        found = in_time(
            lambda is_late: _read_url(url, archive, is_late),
            shown,
            MAX_DOWNLOAD_SECONDS,
        )
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
        with told_of(holding[0], shown):
            names = (*LIMITS, *listed_hashes(read_config(holding[0])))
        for name in dict.fromkeys(names):
            if (holding[0] / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes((holding[0] / name).read_bytes())


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
            with ProgressBar(
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
