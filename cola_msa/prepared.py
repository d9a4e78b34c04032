"""Reads prepared folders: manifest, indices, and arrays from memory-mapped shards."""

import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.config import FrontendConfig, config_hash, from_dict, to_dict
from cola_msa.record_index import Index, merge_indices, scan_shard
from cola_msa.records import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    DataError,
    check_frontend,
)


class PreparedData:
    """A prepared folder: its manifest, indices and arrays.

    Attributes:
        data_dir: The folder.
        manifest: The parsed manifest.
        sources: Names of the sources, in the order of all flags; () without stems.
        class_names: Names of the classes, in order.
        frontend: The FrontendConfig that made the log-mels.
    """

    def __init__(
        self, data_dir: str | os.PathLike, frontend: FrontendConfig | None = None
    ):
        """Opens a prepared folder.

        Args:
            data_dir: The folder.
            frontend: What the reader's model was trained with; None accepts any.

        Raises:
            DataError: If the folder is not prepared data, has another schema version
                or was made with another front end.
        """
        if "://" in os.fspath(data_dir):
            raise DataError(
                f"--data_dir={data_dir} is an address, and windows are read from local "
                "files: copy the folder to a local disk first: python -m "
                f"data_prep.copy --data_dir={data_dir} --output_dir=FOLDER"
            )
        self.data_dir = pathlib.Path(data_dir)
        path = self.data_dir / MANIFEST_NAME
        if not path.exists():
            raise DataError(
                f"{path} does not exist: --data_dir must name a prepared folder "
                "(see python -m data_prep.mtat --help), and its preparation must "
                "have ended"
            )
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        version = self.manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema version {version}, but this version of cola_msa reads "
                f"{SCHEMA_VERSION}; prepare the data again"
            )
        self.sources: tuple[str, ...] = tuple(self.manifest["sources"])
        self.class_names: tuple[str, ...] = tuple(self.manifest["class_names"])
        self.frontend: FrontendConfig = from_dict(
            FrontendConfig, self.manifest["frontend"]
        )
        self.frontend_hash: str = config_hash(self.frontend)
        if frontend is not None and frontend != self.frontend:
            fields = ", ".join(
                f"{name} {to_dict(self.frontend)[name]} (data) != {value} (model)"
                for name, value in to_dict(frontend).items()
                if to_dict(self.frontend)[name] != value
            )
            raise DataError(
                f"{path}: prepared with another front end than the model's: {fields}; "
                "prepare the data again with the model's (--level, for the level rule)"
            )
        self._indices: dict[str, Index] = {}
        self._maps: dict[str, np.ndarray] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that were prepared."""
        return tuple(self.manifest["splits"])

    def index(self, split: str) -> Index:
        """Loads a split's index, or rebuilds it by a scan where it is missing.

        Raises:
            DataError: If the split does not exist, or a shard is missing, damaged or
                from another front end.
        """
        if split not in self.manifest["splits"]:
            raise DataError(
                f"{self.data_dir}: no split {split!r}; there are "
                f"{', '.join(self.splits)}"
            )
        if split not in self._indices:
            self._indices[split] = self._load_index(split)
        return self._indices[split]

    def _load_index(self, split: str) -> Index:
        names = self.manifest["splits"][split]["shards"]
        for name in names:
            if not (self.data_dir / name).exists():
                raise DataError(
                    f"{self.data_dir / name} is missing; run the preparation again: "
                    "finished shards are kept"
                )
        path = self.data_dir / f"index-{split}.npz"
        if path.exists():
            index = Index.load(path)
        else:
            parts = [
                scan_shard(self.data_dir / name, self.sources, self.frontend_hash)
                for name in names
            ]
            index = merge_indices(parts, self.sources)
        for name, size in zip(index.shards, index.shard_bytes, strict=True):
            self._check_shard(self.data_dir / str(name), int(size))
        return index

    def _check_shard(self, path: pathlib.Path, expected_bytes: int) -> None:
        if path.exists() and path.stat().st_size:
            try:
                record = next(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
            except tf.errors.OpError as error:
                raise DataError(f"{path}: damaged ({error.message})") from error
            check_frontend(record, path, self.frontend_hash)
        if not path.exists() or path.stat().st_size != expected_bytes:
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
            float16 [num_frames, num_mels], a view into the memory-mapped shard.
        """
        name = str(self.index(split).shards[shard])
        mapped = self._maps.get(name)
        if mapped is None:
            mapped = np.memmap(self.data_dir / name, np.uint8, "r")
            self._maps[name] = mapped
        num_mels = self.frontend.num_mels
        return np.frombuffer(
            mapped, "<f2", count=num_frames * num_mels, offset=byte_offset
        ).reshape(num_frames, num_mels)

    def mixture(self, split: str, segment_row: int) -> np.ndarray:
        """The whole mixture log-mel of one row of the index, float16 [frames, mels]."""
        index = self.index(split)
        return self.read(
            split,
            int(index.shard[segment_row]),
            int(index.mixture_offset[segment_row]),
            int(index.num_frames[segment_row]),
        )
