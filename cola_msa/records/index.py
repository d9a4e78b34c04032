"""Where each array of the prepared data lies, so that one window is one read.

The index is made while a shard is written, and rebuilt by a scan where it is missing.
"""

import dataclasses
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, BinaryIO

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from cola_msa.records.schema import (
    DataError,
    Segment,
    array_offsets,
    check_frontend,
    decode_segment,
    encode_segment,
)
from cola_msa.system.files import file_sha256, sync, write_file, written_path
from cola_msa.values import arrays

_LENGTH_BYTES, _CRC_BYTES = 8, 4  # TFRecord's frame around each record
# What whole records that are not ours raise.
FOREIGN_RECORD = (ValueError, LookupError, TypeError, OverflowError, DecodeError)
FRAME_BYTES = _LENGTH_BYTES + 2 * _CRC_BYTES
BLOCK_ROWS = 1 << 20  # of an index, looked at together


@dataclasses.dataclass
class Index:
    """Where a split's (or one shard's) arrays lie; S segments, K sources, C clips.

    Attributes:
        shards: File names.
        shard_bytes: int64 [shards], each file's size.
        sources: The K sources' names.
        shard: int32 [S], each segment's shard.
        mixture_offset: int64 [S], byte offset of the mixture in its shard.
        stem_offset: int64 [S, K], the same for stems; -1 where there is none.
        num_frames: int32 [S].
        is_tail: bool [S].
        is_active: bool [S, K].
        has_stem: bool [S, K].
        segment: int32 [S], number within the clip.
        clip: int32 [S], into clip_ids.
        clip_ids: str [C].
        groups: str [C].
        label_values: int32, all clips' class numbers, one clip after the other.
        label_splits: int64 [C + 1], where each clip's class numbers start and end.
    """

    shards: np.ndarray
    shard_bytes: np.ndarray
    sources: np.ndarray
    shard: np.ndarray
    mixture_offset: np.ndarray
    stem_offset: np.ndarray
    num_frames: np.ndarray
    is_tail: np.ndarray
    is_active: np.ndarray
    has_stem: np.ndarray
    segment: np.ndarray
    clip: np.ndarray
    clip_ids: np.ndarray
    groups: np.ndarray
    label_values: np.ndarray
    label_splits: np.ndarray

    def labels(self, clip: int) -> np.ndarray:
        """Class numbers of one clip, int32."""
        return self.label_values[self.label_splits[clip] : self.label_splits[clip + 1]]

    @property
    def starts(self) -> np.ndarray:
        """Where this folder's rows start and end, int64 [2]; see `JoinedIndex`."""
        return np.array([0, len(self.shard)])

    def songs(self) -> np.ndarray:
        """Each clip's song, int64 [C]."""
        return np.unique(self.groups, return_inverse=True)[1]

    def label_matrix(self, num_classes: int) -> np.ndarray:
        """Multi-hot labels, float32 [C, num_classes]."""
        matrix = np.zeros((len(self.clip_ids), num_classes), np.float32)
        rows = np.repeat(np.arange(len(self.clip_ids)), np.diff(self.label_splits))
        matrix[rows, self.label_values] = 1.0
        return matrix

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index, whole or not at all.

        Equal indices give equal bytes: unlike np.savez, this stores no times.

        Raises:
            FileError: If it cannot be written.
        """

        def write(file: IO[bytes]) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                for name, values in dataclasses.asdict(self).items():
                    entry = zipfile.ZipInfo(f"{name}.npy")
                    with archive.open(entry, "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, values, allow_pickle=False)

        write_file(path, write)

    @classmethod
    def load(cls, path: str | os.PathLike | IO[bytes]) -> "Index":
        """Reads what `save` wrote; nothing is checked, see `index_checks`."""
        with np.load(path, allow_pickle=False) as found:
            return cls(**{f.name: found[f.name] for f in dataclasses.fields(cls)})

    @classmethod
    def map(cls, file: BinaryIO) -> "Index":
        """As `load`, with arrays that stay in the file and cannot be written to.

        Raises:
            Exception: One of `arrays.DAMAGES`.
        """
        found = arrays.map_arrays(file)
        return cls(**{f.name: found[f.name] for f in dataclasses.fields(cls)})

    def row_blocks(self) -> Iterator[slice]:
        """Rows in blocks of BLOCK_ROWS.

        After each block the pages that were read of mapped arrays are given back.
        """
        for first in range(0, len(self.shard), BLOCK_ROWS):
            yield slice(first, min(first + BLOCK_ROWS, len(self.shard)))
            self.release_pages()

    def release_pages(self) -> None:
        """Gives the pages of mapped arrays that were read back to the system."""
        for values in vars(self).values():
            arrays.release_pages(values)


class IndexBuilder:
    """Collects an index, record by record."""

    def __init__(self, sources: Sequence[str]):
        """Starts an empty index over `sources`."""
        self.sources = tuple(sources)
        self._shards: list[str] = []
        self._shard_bytes: list[int] = []
        self._rows: list[tuple] = []
        self._clips: dict[str, int] = {}
        self._clip_rows: list[tuple[str, tuple[int, ...]]] = []

    def start_shard(self, name: str) -> None:
        """Begins a shard; the records that follow lie in it."""
        self._shards.append(name)
        self._shard_bytes.append(0)

    def add(self, record_offset: int, serialized: bytes) -> None:
        """Adds the record whose TFRecord frame begins at `record_offset`."""
        segment = decode_segment(serialized, self.sources)
        payload = record_offset + _LENGTH_BYTES + _CRC_BYTES
        offsets = array_offsets(serialized)
        stems = [offsets.get(f"stem/{s}", -1 - payload) + payload for s in self.sources]
        if segment.clip_id not in self._clips:
            self._clips[segment.clip_id] = len(self._clips)
            self._clip_rows.append((segment.group, segment.labels))
        self._rows.append(
            (
                len(self._shards) - 1,
                offsets["mixture"] + payload,
                stems,
                len(segment.mixture),
                segment.is_tail,
                segment.is_active,
                segment.has_stem,
                segment.segment,
                self._clips[segment.clip_id],
            )
        )
        self._shard_bytes[-1] = payload + len(serialized) + _CRC_BYTES

    def build(self) -> Index:
        """Returns the index of all that was added."""
        num_sources = len(self.sources)
        columns = list(zip(*self._rows, strict=True)) or [()] * 9
        labels = [labels for _, labels in self._clip_rows]

        def matrix(values: Any, dtype: Any) -> np.ndarray:
            return np.array(values, dtype).reshape(len(self._rows), num_sources)

        return Index(
            shards=np.array(self._shards, dtype=np.str_),
            shard_bytes=np.array(self._shard_bytes, np.int64),
            sources=np.array(self.sources, dtype=np.str_),
            shard=np.array(columns[0], np.int32),
            mixture_offset=np.array(columns[1], np.int64),
            stem_offset=matrix(columns[2], np.int64),
            num_frames=np.array(columns[3], np.int32),
            is_tail=np.array(columns[4], bool),
            is_active=matrix(columns[5], bool),
            has_stem=matrix(columns[6], bool),
            segment=np.array(columns[7], np.int32),
            clip=np.array(columns[8], np.int32),
            clip_ids=np.array(list(self._clips), dtype=np.str_),
            groups=np.array([group for group, _ in self._clip_rows], dtype=np.str_),
            label_values=np.array([v for row in labels for v in row], np.int32),
            label_splits=np.cumsum([0] + [len(row) for row in labels], dtype=np.int64),
        )


def merge_indices(parts: Sequence[Index], sources: Sequence[str]) -> Index:
    """Joins shards' indices, in the order given, into a split's."""
    if not parts:
        return IndexBuilder(sources).build()
    shard_base = np.cumsum([0] + [len(part.shards) for part in parts])
    clip_base = np.cumsum([0] + [len(part.clip_ids) for part in parts])
    label_base = np.cumsum([0] + [len(part.label_values) for part in parts])
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Index)
        if field.name not in ("sources", "shard", "clip", "label_splits")
    }
    return Index(
        sources=np.array(tuple(sources), dtype=np.str_),
        shard=np.concatenate(
            [p.shard + b for p, b in zip(parts, shard_base, strict=False)]
        ).astype(np.int32),
        clip=np.concatenate(
            [p.clip + b for p, b in zip(parts, clip_base, strict=False)]
        ).astype(np.int32),
        label_splits=np.concatenate(
            [p.label_splits[:-1] + b for p, b in zip(parts, label_base, strict=False)]
            + [label_base[-1:]]
        ).astype(np.int64),
        **joined,
    )


def write_shard(
    path: str | os.PathLike,
    segments: Iterator[Segment] | Sequence[Segment],
    sources: Sequence[str],
    frontend_hash: str,
    before_rename: Callable[[dict[str, str]], None] = lambda digests: None,
) -> Index:
    """Writes one shard, whole or not at all, and indexes it.

    Args:
        path: `<split>-00000-of-00004.tfrecord`; the index goes to `.idx.npz` beside it.
        segments: What to write, in order.
        sources: The manifest's sources, in order.
        frontend_hash: Hash of the front end that made the log-mels.
        before_rename: Called when all bytes are written, before the shard takes its
            name, with the SHA-256 of the shard (`sha256`) and of its index
            (`index_sha256`).

    Returns:
        The shard's index.

    Raises:
        FileError: If it cannot be written.
    """
    path = pathlib.Path(path)
    builder = IndexBuilder(sources)
    builder.start_shard(path.name)
    offset = 0
    with written_path(path) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for segment in segments:
                serialized = encode_segment(segment, frontend_hash)
                writer.write(serialized)
                builder.add(offset, serialized)
                offset += FRAME_BYTES + len(serialized)
        sync(temporary)
        index = builder.build()
        index.save(index_path(path))
        before_rename(
            {
                "sha256": file_sha256(temporary),
                "index_sha256": file_sha256(index_path(path)),
            }
        )
    return index


def read_fault(error: tf.errors.OpError) -> str:
    """Why TensorFlow could not read a record, in words that are not its graph's."""
    message = str(error.message)
    if "truncated record" in message:
        return "it ends within a record"
    if "corrupted record" in message:
        return "a record's bytes are not those that were written"
    message = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", message, flags=re.DOTALL)
    return " ".join(message.split()) or "TensorFlow does not say why"


def index_path(shard_path: str | os.PathLike) -> pathlib.Path:
    """`x.tfrecord` -> `x.idx.npz`."""
    return pathlib.Path(shard_path).with_suffix(".idx.npz")


def scan_shard(
    path: str | os.PathLike, sources: Sequence[str], frontend_hash: str
) -> Index:
    """Rebuilds a shard's index from its records.

    Raises:
        DataError: If the file is damaged or was made with another front end.
    """
    path = pathlib.Path(path)
    builder = IndexBuilder(sources)
    builder.start_shard(path.name)
    offset = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            check_frontend(record, path, frontend_hash)
            builder.add(offset, record)
            offset += FRAME_BYTES + len(record)
    except tf.errors.OpError as error:
        raise DataError(
            f"{path}: not a readable TFRecord file ({read_fault(error)}); delete it "
            "and run the preparation again: finished shards are kept"
        ) from error
    except DataError:
        raise
    except FOREIGN_RECORD as error:
        raise DataError(
            f"{path}: holds records of another kind ({type(error).__name__}); delete "
            "it and run the preparation again: finished shards are kept"
        ) from error
    return builder.build()
