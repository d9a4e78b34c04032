"""Fetches pretrained folders from Hugging Face: `hf://user/name@revision`.

`huggingface_hub` does it (the extra `hub`, imported where such an address is opened),
with its cache, token, endpoint and offline mode. A revision is looked up at every
opening and followed where it moves; what was fetched of a commit lies in our own cache
under the commit's hash, as copies of the files that config.json names, and is opened
from there. Nothing else of a repository is fetched, and no code of it is run.

`huggingface_hub` compares a download's length alone. Here its hash is compared with the
one that the hub names for the file, and then with the one in config.json.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import logging
import pathlib
import re
import shutil
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from absl import logging as absl_logging

from cola_msa.evaluation.probes.held_heads import MAX_BYTES
from cola_msa.hub.pretrained import (
    CARD_NAME,
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
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import RunError, hide_logins
from cola_msa.system.files import DISK_ERRORS, file_sha256
from cola_msa.system.folders import cache_dir

SCHEME = "hf"
CONFIG_NAME = "config.json"
_FORM = "hf://user/name, hf://user/name@revision, either with #sha256= of config.json"
_PART = r"(?![^/@#]*(?:--|\.\.))[a-z0-9_][a-z0-9._-]{0,95}(?<![.-])(?<!\.git)"
# As git allows, and nothing that could lead out of a folder.
_REVISION = r"(?![^#]*(?:\.\.|//))[\w+][\w+./-]{0,254}(?<![./])"
_ADDRESS = re.compile(
    f"hf://(?P<user>{_PART})/(?P<name>{_PART})(?:@(?P<revision>{_REVISION}))?"
    "(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?",
    re.IGNORECASE,
)
_COMMIT = re.compile("[0-9a-f]{40}")
_ETAG = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_BLOCK = 1 << 20
_CANNOT_WRITE = (*DISK_ERRORS, errno.EACCES, errno.EPERM)
_OLDEST = (1, 2)  # 1.0 takes no bar for a file, and would read on without end


@dataclasses.dataclass(frozen=True)
class _Address:
    """A repository of models, a branch, tag or commit, and config.json's hash."""

    user: str
    name: str
    revision: str
    sha256: str | None

    @property
    def repository(self) -> str:
        return f"{self.user}/{self.name}"

    @property
    def shown(self) -> str:
        return f"hf://{self.repository}@{self.revision}"

    @property
    def is_fixed(self) -> bool:
        return _COMMIT.fullmatch(self.revision) is not None


def is_address(text: str) -> bool:
    """Whether a model is named by an address of Hugging Face."""
    return text.lower().startswith(f"{SCHEME}://")


def fetch(text: str) -> pathlib.Path:
    """The pretrained folder of an address; what the cache lacks is fetched.

    Args:
        text: `hf://user/name`, optionally with `@` and a branch, tag or commit (the
            branch `main` otherwise), and with `#sha256=` and 64 hexadecimal digits,
            which config.json must have, and thereby every file.

    Returns:
        The folder in the cache; it belongs to one commit.

    Raises:
        RunError: If the address is none, the extra is missing, the repository or the
            revision is not there or cannot be reached and is not cached, or it holds
            no pretrained folder, or a damaged or too large one.
    """
    address = _parse(text)
    folder = _place(address, address.revision)
    if address.is_fixed and is_pretrained(folder):  # nobody need be asked
        kept_folder(folder, address.shown, lambda _: None)
    else:
        library = _import_library()
        with _hidden_logins():
            folder = _fetch(library, address)
    _check_hash(folder, address)
    return folder


def describe(folder: pathlib.Path) -> str | None:
    """The fixed address `hf://user/name@commit` of a folder that `fetch` returned."""
    try:
        parts = folder.relative_to(cache_dir() / SCHEME).parts
    except ValueError:
        return None
    if len(parts) != 3:
        return None
    user, name, commit = parts
    return f"{SCHEME}://{user}/{name}@{commit}"


def _parse(text: str) -> _Address:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise RunError(
            f"{hide_logins(text)!r} is no address of a model on Hugging Face: {_FORM} "
            "(a token is named by HF_TOKEN)"
        )
    sha256 = match["sha256"]
    return _Address(
        match["user"],
        match["name"],
        match["revision"] or "main",
        sha256.lower() if sha256 else None,
    )


def _place(address: _Address, commit: str) -> pathlib.Path:
    return cache_dir() / SCHEME / address.user / address.name / commit


def _check_hash(folder: pathlib.Path, address: _Address) -> None:
    if address.sha256 is None:
        return
    found = file_sha256(folder / CONFIG_NAME)
    if found != address.sha256:
        raise RunError(
            f"{address.shown}: {CONFIG_NAME} is not the expected file: SHA-256 "
            f"{found}, not {address.sha256}"
        )


def _import_library() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise RunError(
            f"addresses hf:// need huggingface_hub ({error}): pip install "
            "'cola_msa[hub]'"
        ) from error
    version = huggingface_hub.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST:
        raise RunError(
            f"addresses hf:// need a later huggingface_hub than {version}: pip install "
            "'cola_msa[hub]'"
        )
    return huggingface_hub


class _Redacting(logging.Filter):
    """Hides user and password of an endpoint in what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = hide_logins(record.getMessage()), ()
        return True


@contextlib.contextmanager
def _hidden_logins() -> Iterator[None]:
    """Inside, the library's log shows no login, and its HTTP client logs no request."""
    handlers = logging.getLogger("huggingface_hub").handlers
    clients = [logging.getLogger(name) for name in ("httpx", "httpx2")]
    levels = [client.level for client in clients]
    redacting = _Redacting()
    for handler in handlers:
        handler.addFilter(redacting)
    for client in clients:
        client.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(redacting)
        for client, level in zip(clients, levels, strict=True):
            client.setLevel(level)


def _fetch(library: ModuleType, address: _Address) -> pathlib.Path:
    commit, is_online = in_time(
        lambda is_late: _find_commit(library, address),
        address.shown,
        MAX_DOWNLOAD_SECONDS,
    )
    folder = _place(address, commit)
    if not address.is_fixed:
        absl_logging.info("%s is commit %s", address.shown, commit)

    def fill(into: pathlib.Path) -> None:
        in_time(
            lambda is_late: _Source(library, address, commit, is_online, is_late).copy(
                into
            ),
            address.shown,
            MAX_DOWNLOAD_SECONDS,
        )

    return kept_folder(folder, address.shown, fill)


def _find_commit(library: ModuleType, address: _Address) -> tuple[str, bool]:
    """The revision's commit, and whether the hub said so; else its cache does."""
    try:
        found = _ask(library, address, CONFIG_NAME, address.revision)
        if address.is_fixed and found.commit_hash != address.revision:
            raise RunError(
                f"{address.shown}: the hub answers with another commit, "
                f"{found.commit_hash}"
            )
        _note_commit(library, address, found.commit_hash)
        return found.commit_hash, True
    except _UnreachableError as error:
        cached = library.try_to_load_from_cache(
            address.repository, CONFIG_NAME, revision=address.revision
        )
        if not isinstance(cached, str):
            raise RunError(
                f"{error}, and its cache ({library.constants.HF_HUB_CACHE}) does not "
                "have it. Without a network: download it on another machine, and name "
                "its folder instead"
            ) from error
        commit = pathlib.Path(cached).parent.name
        if not library.constants.HF_HUB_OFFLINE:
            absl_logging.warning(
                "%s; what was fetched last is opened, commit %s", error, commit
            )
        return commit, False


def _note_commit(library: ModuleType, address: _Address, commit: str) -> None:
    """Has the library's cache know which commit a revision is, for offline mode.

    It notes that where a file is fetched by the revision's name. config.json is small.
    """
    cached = library.try_to_load_from_cache(
        address.repository, CONFIG_NAME, revision=address.revision
    )
    if isinstance(cached, str) and pathlib.Path(cached).parent.name == commit:
        return
    with _plain_errors(library, address, CONFIG_NAME):
        path = library.hf_hub_download(
            address.repository,
            CONFIG_NAME,
            revision=address.revision,
            tqdm_class=_limited_bar(address, CONFIG_NAME, threading.Event()),
        )
    if pathlib.Path(path).parent.name != commit:
        raise RunError(f"{address.shown}: has moved while it was fetched; try again")


class _UnreachableError(RunError):
    """The hub cannot be asked: offline mode, no network, or it is out of order."""


def _ask(library: ModuleType, address: _Address, file: str, revision: str) -> Any:
    """What the hub says of a file: `commit_hash`, `etag`, which is its hash, `size`."""
    url = library.hf_hub_url(address.repository, file, revision=revision)
    with _plain_errors(library, address, file):
        found = library.get_hf_file_metadata(url, library_name="cola_msa")
    # They become names of files.
    if not _COMMIT.fullmatch(found.commit_hash or ""):
        raise RunError(
            f"{address.shown}: its server is no hub of Hugging Face, since it names no "
            f"commit of {file}; check HF_ENDPOINT"
        )
    if not _ETAG.fullmatch(found.etag or ""):
        raise RunError(f"{address.shown}: the hub names no hash of {file}")
    _check_size(found.size or 0, address, file)
    return found


def _check_size(size: int, address: _Address, file: str) -> None:
    limit = LIMITS.get(file, MAX_BYTES)  # others are heads
    if size > limit:
        raise RunError(
            f"{address.shown}: {file} has more than {limit:,} bytes, too much for an "
            "encoder"
        )


class _MissingError(RunError):
    """A file that a repository does not have."""


@dataclasses.dataclass(frozen=True)
class _Source:
    """A repository at a commit, to be copied once."""

    library: ModuleType
    address: _Address
    commit: str
    is_online: bool
    is_late: threading.Event

    def copy(self, folder: pathlib.Path) -> None:
        """Copies the files that config.json names, and the card where there is one."""
        shown = self.address.shown
        self._copy(CONFIG_NAME, folder)
        if not is_pretrained(folder):
            raise RunError(f"{shown}: holds no pretrained folder ({FORMAT!r})")
        _check_hash(folder, self.address)
        with told_of(folder, shown):
            names = sorted(listed_hashes(read_config(folder)))
        size_of_heads = 0
        for name in names:
            self._copy(name, folder)
            if name not in LIMITS:
                size_of_heads += (folder / name).stat().st_size
                _check_size(size_of_heads, self.address, f"heads up to {name}")
        with contextlib.suppress(_MissingError):
            self._copy(CARD_NAME, folder)

    def _copy(self, file: str, folder: pathlib.Path) -> None:
        path = self._download(file)
        # Its cache holds links to its own files, and may have been there before.
        if not path.is_file():
            raise RunError(f"{self.address.shown}: {path} is no file")
        _check_size(path.stat().st_size, self.address, file)
        if self.is_late.is_set():  # the folder is gone
            raise RunError(f"{self.address.shown}: stopped")
        if "/" in file:
            (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / file)

    def _download(self, file: str) -> pathlib.Path:
        fetch_file = functools.partial(
            self.library.hf_hub_download,
            self.address.repository,
            file,
            revision=self.commit,
            library_name="cola_msa",
            local_files_only=not self.is_online,
            tqdm_class=_limited_bar(self.address, file, self.is_late),
        )
        if not self.is_online:
            with _plain_errors(self.library, self.address, file):
                return pathlib.Path(fetch_file())
        etag = _ask(self.library, self.address, file, self.commit).etag
        # What lies in its cache may be damaged: that is fetched again, once.
        for is_again in (False, True):
            with _plain_errors(self.library, self.address, file):
                path = pathlib.Path(fetch_file(force_download=is_again))
            _check_size(path.stat().st_size, self.address, file)
            if _hash_of(path, len(etag)) == etag:
                return path
        raise RunError(
            f"{self.address.shown}: {file} is not the file that the hub names: its "
            f"hash is not {etag}; try again"
        )


def _hash_of(path: pathlib.Path, num_digits: int) -> str:
    """A file's SHA-256, or of 40 digits git's hash of a file's content."""
    if num_digits == 64:
        return file_sha256(path)
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _limited_bar(
    address: _Address, file: str, is_late: threading.Event
) -> type[ProgressBar]:
    """A progress bar, the library's only call while it reads, that ends what it must.

    The library believes the length that a server states, and reads on without one.
    """

    class LimitedBar(ProgressBar):
        def __init__(self, *args: Any, **options: Any):
            _check_size(options.get("total") or 0, address, file)
            self.size = options.get("initial") or 0
            super().__init__(*args, **{**options, "desc": file})  # not its address

        def update(self, n: float | None = 1) -> bool | None:
            self.size += n or 0
            _check_size(int(self.size), address, file)
            if is_late.is_set():
                raise RunError(f"{address.shown}: stopped")
            return super().update(n)

    return LimitedBar


@contextlib.contextmanager
def _plain_errors(library: ModuleType, address: _Address, file: str) -> Iterator[None]:
    """Says in one line what the library's errors say in several, without addresses."""
    errors, shown = library.errors, address.shown
    try:
        yield
    except RunError:
        raise
    except errors.GatedRepoError as error:
        raise RunError(
            f"{shown}: the repository is gated: accept its conditions on its page at "
            "Hugging Face, and name your token by HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise RunError(
            f"{shown}: there is no such repository of models, or it is private: check "
            "the name, or name a token that may read it by HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RunError(
            f"{shown}: the repository has no branch, tag or commit of this name"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise _UnreachableError(
            f"{shown}: HF_HUB_OFFLINE forbids to ask the hub"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if error.__cause__ is not None:  # it has tried
            raise _unreachable(address, file, error.__cause__) from error
        raise _MissingError(
            f"{shown}: {file} is not in the hub's cache "
            f"({library.constants.HF_HUB_CACHE}), and the hub could not be asked"
        ) from error
    except errors.EntryNotFoundError as error:
        raise _MissingError(
            f"{shown}: holds no pretrained folder: it has no {file}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500:
            raise _unreachable(address, file, f"status {status}") from error
        raise RunError(f"{shown}: the hub refuses {file} (status {status})") from error
    except Exception as error:  # its own, of its HTTP client, of its native code
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            raise RunError(
                f"{shown}: huggingface_hub cannot write its cache "
                f"({library.constants.HF_HUB_CACHE}: {error.strerror}); name another "
                "folder by HF_HOME"
            ) from error
        raise _unreachable(address, file, error) from error


def _unreachable(address: _Address, file: str, reason: object) -> _UnreachableError:
    told = " ".join(str(reason).split()) or type(reason).__name__
    # Of a header that cannot be sent, the client tells all.
    told = re.sub(r"Bearer .*", "Bearer ***", told)
    return _UnreachableError(
        f"{address.shown}: {file} could not be fetched ({hide_logins(told):.300})"
    )
