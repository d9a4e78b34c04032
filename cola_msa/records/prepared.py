"""Reads prepared folders: manifest, indices, and arrays from memory-mapped shards.

An index of more than 64 MB (a million segments) is memory-mapped. It is noted as shards
are (see `verified`) that it was read whole and is without fault: the next start does
not look at its rows again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import struct
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from cola_msa.config.schema import (
    FrontendConfig,
    config_hash,
    from_dict,
    unequal_fields,
)
from cola_msa.records import index_checks, kinds, manifests, verified
from cola_msa.records.index import Index, merge_indices, scan_shard
from cola_msa.records.schema import (
    MANIFEST_NAME,
    DataError,
    check_frontend,
)
from cola_msa.records.stored import from_stored, stored_type
from cola_msa.values.reading import open_regular

_MAX_RECORD_BYTES = 1 << 26
_MAPPED_BYTES = 1 << 26  # an index that is larger stays in its file
_MOST_MAPPED = 512  # shards at a time: each holds an open file
_CHECKS = 1  # raised when an index without fault may have one by new checks


@dataclasses.dataclass(frozen=True)
class _StoredIndex:
    """An index's file; either its content, or its state where that is too large."""

    sha256: str
    content: bytes | None = None
    file: verified.VerifiedFile | None = None


class PreparedData:
    """A prepared folder: its manifest, indices and arrays.

    Attributes:
        data_dir: The folder.
        manifest: The parsed manifest.
        manifest_hash: 16 hexadecimal digits that stand for its bytes.
        sources: Names of the sources, in the order of all flags; () without stems.
        class_names: Names of the classes, in order.
        frontend: The FrontendConfig that made the records.
        weights: None; see `JoinedData`.
        most_mapped: Shards that are mapped at a time.
    """

    weights: np.ndarray | None = None
    most_mapped = _MOST_MAPPED

    def __init__(
        self, data_dir: str | os.PathLike, frontend: FrontendConfig | None = None
    ):
        """Opens a prepared folder.

        Args:
            data_dir: The folder.
            frontend: What the reader's model was trained with; None accepts any. Of
                waveforms `<data_dir>/waveform` is opened, see `kinds`.

        Raises:
            DataError: If the folder is not prepared data, its manifest is damaged or
                contradicts itself, has another schema version, or was made with
                another front end.
        """
        if "://" in os.fspath(data_dir):
            raise DataError(
                f"--data_dir={data_dir} is an address, and windows are read from local "
                "files: copy the folder to a local disk first: python -m "
                f"data_prep.copy --data_dir={data_dir} --output_dir=FOLDER"
            )
        self.data_dir = kinds.folder_of(pathlib.Path(data_dir), frontend)
        path = self.data_dir / MANIFEST_NAME
        if "," in os.fspath(data_dir) and not path.exists():
            raise DataError(
                f"--data_dir={data_dir}: one prepared folder is meant here (training, "
                f"retrieve and curves take several), and {path} does not exist"
            )
        if frontend is not None and not path.exists():
            kinds.check_kind(path, None, frontend)
        self.manifest: dict[str, Any]
        self.manifest, self.manifest_hash = manifests.read_manifest(path)
        self.sources: tuple[str, ...] = tuple(self.manifest["sources"])
        self.class_names: tuple[str, ...] = tuple(self.manifest["class_names"])
        self.frontend: FrontendConfig = from_dict(
            FrontendConfig, self.manifest["frontend"]
        )
        self.frontend_hash: str = config_hash(self.frontend)
        if frontend is not None and frontend != self.frontend:
            kinds.check_kind(path, self.frontend, frontend)
            fields = ", ".join(
                f"{name} {mine} (data) != {theirs} (model)"
                for name, mine, theirs in unequal_fields(self.frontend, frontend)
            )
            raise DataError(
                f"{path}: prepared with another front end than the model's: {fields}; "
                "prepare the data again with the model's (--level, for the level rule)"
            )
        self._indices: dict[str, Index] = {}
        self._maps: dict[str, np.ndarray] = {}
        self._mapping = threading.Lock()
        self._files: dict[str, verified.VerifiedFile] = {}
        self._fingerprints: dict[str, str] = {}
        self._index_files: dict[str, verified.VerifiedFile] = {}
        # Of all splits, whichever will be read: it costs next to nothing.
        for split, stated in self.manifest["splits"].items():
            if stated.get("index_sha256") is not None:
                self._stored_index(split)

    @property
    def parts(self) -> tuple["PreparedData", ...]:
        """The folders of this collection: this one; see `JoinedData`."""
        return (self,)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that were prepared."""
        return tuple(self.manifest["splits"])

    def index(self, split: str) -> Index:
        """Loads a split's index, or rebuilds it by a scan where it is missing.

        All shards of the split are compared with their checksums first, see `verified`.

        Raises:
            DataError: If the split does not exist, or index or a shard is missing,
                damaged, from another front end, or not what was made.
        """
        if split not in self.manifest["splits"]:
            raise DataError(
                f"{self.data_dir}: no split {split!r}; there are "
                f"{', '.join(self.splits)}"
            )
        if split not in self._indices:
            self._indices[split] = self._load_index(split)
        return self._indices[split]

    @property
    def log_mel_moments(self) -> tuple[float, float]:
        """Mean and deviation of the training mixtures' log-mels.

        Raises:
            DataError: If the data has none.
        """
        mean, std = (self.manifest.get(f"log_mel_{name}") for name in ("mean", "std"))
        if mean is None or std is None:
            raise DataError(
                f"{self.data_dir / MANIFEST_NAME}: has no log_mel_mean and log_mel_std "
                "(they are the training split's); prepare data with a training split"
            )
        return float(mean), float(std)

    def fingerprint(self, splits: Sequence[str]) -> str:
        """16 hexadecimal digits that stand for splits' records and the manifest.

        The manifest's hash, where it holds all their checksums.

        Raises:
            DataError: As `index`.
        """
        for split in splits:
            self.index(split)
        others = [self._fingerprints[s] for s in splits if s in self._fingerprints]
        if not others:
            return self.manifest_hash
        text = json.dumps([self.manifest_hash, *others])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What a run's config.json says of its data."""
        return {
            "data_dir": str(self.data_dir.resolve()),
            "manifest_hash": self.manifest_hash,
            "dataset": self.manifest.get("dataset"),
            "sources": list(self.sources),
            "separator": self.manifest.get("separator"),
        }

    def _load_index(self, split: str) -> Index:
        """Opens an index, once manifest, index and shards are known to agree."""
        stated = self.manifest["splits"][split]
        names: list[str] = stated["shards"]
        for name in names:
            if not (self.data_dir / name).exists():
                raise DataError(
                    f"{self.data_dir / name} is missing; run the preparation again: "
                    "finished shards are kept"
                )
        path = self._index_path(split)
        digests = stated.get("shard_sha256") or [None] * len(names)
        stored = self._stored_index(split)
        known = verified.known_shards(self.data_dir, names, digests)
        index = None
        if stored is not None:
            index = self._open_index(path, split, stored)
            for name, size in zip(names, index.shard_bytes, strict=True):
                # One that is noted was looked at before.
                if name not in known or known[name].state.size != size:
                    self._check_shard(self.data_dir / name, int(size))
        files = verified.verify_shards(self.data_dir, names, digests)
        if index is None or stored is None:
            index = merge_indices([self._scan(name) for name in names], self.sources)
            self._check_index(index, path, split)
        else:
            self._compare_records(index, path, names, digests, files, stored.sha256)
        self._files |= files
        if None in digests or stated.get("index_sha256") is None:
            digest = None if stored is None else stored.sha256
            parts = [digest, *(files[name].sha256 for name in names)]
            self._fingerprints[split] = json.dumps(parts)
        return index

    def _index_path(self, split: str) -> pathlib.Path:
        return self.data_dir / f"index-{split}.npz"

    def _stored_index(self, split: str) -> _StoredIndex | None:
        """An index's file, if its bytes are those that were made; None without one."""
        path = self._index_path(split)
        content = file = None
        try:
            with open_regular(path) as opened:
                state = verified.FileState.of(opened.fileno())
                if state.size <= _MAPPED_BYTES:
                    content = opened.read(_MAPPED_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror or error}); "
                f"{manifests.ADVICE}"
            ) from error
        if content is not None:
            sha256 = hashlib.sha256(content).hexdigest()
        else:
            file = self._index_files.get(split)
            if file is None or file.state != state:
                file = verified.verified_file(self.data_dir, path.name)
                self._index_files[split] = file
            sha256 = file.sha256
        if self.manifest["splits"][split].get("index_sha256") not in (None, sha256):
            raise DataError(
                f"{path}: its bytes are not those that were made (SHA-256); "
                f"{manifests.ADVICE}"
            )
        return _StoredIndex(sha256, content, file)

    def _open_index(
        self, path: pathlib.Path, split: str, stored: _StoredIndex
    ) -> Index:
        """Reads or maps an index; one that is noted to be without fault is believed."""
        if stored.content is not None:
            index = index_checks.parse_index(stored.content, path, manifests.ADVICE)
            self._check_index(index, path, split)
            return index
        assert stored.file is not None
        notes = verified.Notes(self.data_dir)
        key = f"{path.name}/checks"
        token = f"{stored.sha256} {self.manifest_hash} {_CHECKS}"
        known = notes.find(key, stored.file.state)
        is_known = known is not None and known.sha256 == token
        stated = self.manifest["splits"][split].get("index_sha256")
        index = index_checks.map_index(
            path, stored.file.state, manifests.ADVICE, not is_known and stated is None
        )
        if not is_known:
            self._check_index(index, path, split)
            notes.add({key: dataclasses.replace(stored.file, sha256=token)})
        return index

    def _check_index(self, index: Index, path: pathlib.Path, split: str) -> None:
        names = self.manifest["splits"][split]["shards"]
        fault = index_checks.find_fault(
            index, names, self.sources, len(self.class_names), self.frontend
        )
        if fault:
            raise DataError(f"{path}: {fault}; {manifests.ADVICE}")
        try:
            manifests.check_summary(index, split, self.manifest, self.frontend)
        except DataError as error:
            raise DataError(f"{self.data_dir / MANIFEST_NAME}: {error}") from error

    def _scan(self, name: str) -> Index:
        return scan_shard(self.data_dir / name, self.sources, self.frontend_hash)

    def _compare_records(
        self,
        index: Index,
        path: pathlib.Path,
        names: list[str],
        digests: Sequence[str | None],
        files: dict[str, verified.VerifiedFile],
        index_digest: str | None,
    ) -> None:
        """Of shards that the manifest has no checksum of: records, and their CRCs.

        That these records and this index agree is noted too: a file `x` as `x/index`,
        with both checksums in place of its own.
        """
        left = [n for n, d in enumerate(digests) if d is None]
        if not left:
            return
        notes = verified.Notes(self.data_dir)
        agreed = {}
        for number in left:
            name = names[number]
            file, key = files[name], f"{name}/index"
            token = f"{file.sha256} {index_digest} {self.frontend_hash}"
            known = notes.find(key, file.state)
            if known is not None and known.sha256 == token:
                continue
            found = self._scan(name)
            wrong = index_checks.differing(
                index_checks.shard_part(index, number), found
            )
            if wrong:
                raise DataError(
                    f"{path}: does not agree with the records of {name}: "
                    f"{', '.join(wrong)}; {manifests.ADVICE}"
                )
            agreed[key] = dataclasses.replace(file, sha256=token)
        notes.add(agreed)

    def _check_shard(self, path: pathlib.Path, expected_bytes: int) -> None:
        """What a glance shows, with a message that says more than a checksum."""
        record = None
        with contextlib.suppress(OSError, struct.error), open_regular(path) as file:
            (size,) = struct.unpack("<Q", file.read(12)[:8])
            if size < _MAX_RECORD_BYTES:
                record = file.read(size)
        with contextlib.suppress(DecodeError, UnicodeDecodeError):
            if record is not None:
                check_frontend(record, path, self.frontend_hash)
        if path.stat().st_size != expected_bytes:
            raise DataError(
                f"{path}: not the shard that was indexed (its size differs); run the "
                "preparation again"
            )

    def read(
        self, split: str, shard: int, byte_offset: int, num_frames: int
    ) -> np.ndarray:
        """Reads frames of one array, without copying.

        Args:
            split: The split.
            shard: The segment's shard (Index.shard).
            byte_offset: Where the first wanted frame lies in the shard.
            num_frames: How many frames.

        Returns:
            float16 [num_frames, num_mels], a view into the memory-mapped shard; of a
            waveform float32 from -1 to 1, see `stored`.
        """
        name = str(self.index(split).shards[shard])
        mapped = self._maps.get(name)
        if mapped is None:
            path = self.data_dir / name
            with open_regular(path) as file:
                state = verified.FileState.of(file.fileno())
                if state != self._files[name].state:
                    raise DataError(
                        f"{path}: has changed since this command checked it; start the "
                        "command again"
                    )
                mapped = np.memmap(file, np.uint8, "r")
            with self._mapping:
                self._maps[name] = mapped
                while len(self._maps) > self.most_mapped:
                    # The oldest; who reads from it has it still.
                    del self._maps[next(iter(self._maps))]
        num_mels = self.frontend.num_mels
        values = np.frombuffer(
            mapped,
            stored_type(self.frontend),
            count=num_frames * num_mels,
            offset=byte_offset,
        )
        return from_stored(values).reshape(num_frames, num_mels)

    def mixture(self, split: str, segment_row: int) -> np.ndarray:
        """The whole mixture of one row of the index, [frames, mels], as `read`."""
        index = self.index(split)
        return self.read(
            split,
            int(index.shard[segment_row]),
            int(index.mixture_offset[segment_row]),
            int(index.num_frames[segment_row]),
        )
