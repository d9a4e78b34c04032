"""The only definition of the prepared data: record, index and manifest.

A prepared folder holds

    manifest.json                       what was prepared, how, and what failed
    index-<split>.npz                   where every array lies, for random access
    <split>-00000-of-00004.tfrecord     one tf.train.Example a segment
    <split>-00000-of-00004.idx.npz      the same index for one shard

A record holds one segment: `clip_id`, `group` (the song or artist that the clip
belongs to), `segment`, `num_frames`, `is_tail`, `labels` (class numbers), `frontend`
(the configuration's hash), `mixture` (float16 [num_frames, num_mels], little-endian
bytes), `stem/<source>` for every ACTIVE source, `is_active` and `has_stem` (one flag a
source). A source without a stem on disk is neither active nor silent: `has_stem` is 0.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.config import FrontendConfig, config_hash, from_dict, to_dict

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
_LENGTH_BYTES, _CRC_BYTES = 8, 4
# Field numbers of tf.train.Example's protocol buffer, each shifted with its wire type.
_WIRE_BYTES = 2


class DataError(ValueError):
    """Prepared data that cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """One record's content.

    Attributes:
        clip_id: The clip that the segment was cut from.
        group: The song (or artist, or folder) that the clip belongs to.
        segment: Number of the segment within its clip.
        is_tail: Shorter than a whole segment, after at least one whole one.
        labels: Class numbers.
        mixture: float16 [num_frames, num_mels].
        stems: float16 [num_frames, num_mels] for every active source, by name.
        is_active: One bool a source, in the manifest's order.
        has_stem: One bool a source: whether its stem exists for this clip.
    """

    clip_id: str
    group: str
    segment: int
    is_tail: bool
    labels: tuple[int, ...]
    mixture: np.ndarray
    stems: dict[str, np.ndarray]
    is_active: tuple[bool, ...]
    has_stem: tuple[bool, ...]


def encode_segment(segment: Segment, frontend_hash: str) -> bytes:
    """Serializes one segment as a tf.train.Example, equal bytes for equal content."""

    def integers(values: Sequence[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def raw(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def mel(values: np.ndarray) -> tf.train.Feature:
        return raw(np.ascontiguousarray(values, "<f2").tobytes())

    feature = {
        "clip_id": raw(segment.clip_id.encode()),
        "group": raw(segment.group.encode()),
        "frontend": raw(frontend_hash.encode()),
        "segment": integers([segment.segment]),
        "num_frames": integers([len(segment.mixture)]),
        "is_tail": integers([int(segment.is_tail)]),
        "labels": integers(segment.labels),
        "is_active": integers([int(flag) for flag in segment.is_active]),
        "has_stem": integers([int(flag) for flag in segment.has_stem]),
        "mixture": mel(segment.mixture),
    }
    for source, stem in segment.stems.items():
        feature[f"stem/{source}"] = mel(stem)
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def decode_segment(serialized: bytes, sources: Sequence[str]) -> Segment:
    """Reads one record back; `sources` are the manifest's, in order."""
    feature = tf.train.Example.FromString(serialized).features.feature

    def integers(key: str) -> list[int]:
        return list(feature[key].int64_list.value)

    def mel(key: str) -> np.ndarray:
        data = np.frombuffer(feature[key].bytes_list.value[0], "<f2")
        return data.reshape(integers("num_frames")[0], -1)

    return Segment(
        clip_id=feature["clip_id"].bytes_list.value[0].decode(),
        group=feature["group"].bytes_list.value[0].decode(),
        segment=integers("segment")[0],
        is_tail=bool(integers("is_tail")[0]),
        labels=tuple(integers("labels")),
        mixture=mel("mixture"),
        stems={s: mel(f"stem/{s}") for s in sources if f"stem/{s}" in feature},
        is_active=tuple(bool(v) for v in integers("is_active")),
        has_stem=tuple(bool(v) for v in integers("has_stem")),
    )


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, start, end) of length-delimited fields in data."""
    while start < end:
        key, start = _varint(data, start)
        if key & 7 != _WIRE_BYTES:
            raise DataError("not a tf.train.Example")
        length, start = _varint(data, start)
        yield key >> 3, start, start + length
        start += length


def array_offsets(serialized: bytes) -> dict[str, int]:
    """Finds where each bytes feature lies within a serialized tf.train.Example.

    Args:
        serialized: The record's payload.

    Returns:
        Byte offset from the start of the payload, by feature name.
    """
    offsets: dict[str, int] = {}
    for _, features_start, features_end in _fields(serialized, 0, len(serialized)):
        for _, start, end in _fields(serialized, features_start, features_end):
            entry = {number: (a, b) for number, a, b in _fields(serialized, start, end)}
            name = serialized[entry[1][0] : entry[1][1]].decode()
            for kind, a, b in _fields(serialized, *entry[2]):
                if kind == 1:  # bytes_list
                    for _, first, _ in _fields(serialized, a, b):
                        offsets[name] = first
    return offsets


@dataclasses.dataclass
class Index:
    """Where the arrays of a split (or of one shard) lie. S segments, K sources, C clips.

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

    def label_matrix(self, num_classes: int) -> np.ndarray:
        """Multi-hot labels, float32 [C, num_classes]."""
        matrix = np.zeros((len(self.clip_ids), num_classes), np.float32)
        rows = np.repeat(np.arange(len(self.clip_ids)), np.diff(self.label_splits))
        matrix[rows, self.label_values] = 1.0
        return matrix

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index under a temporary name, then renames it."""
        path = pathlib.Path(path)
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "wb") as file:
            np.savez(file, **dataclasses.asdict(self))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Index":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{f.name: arrays[f.name] for f in dataclasses.fields(cls)})


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
) -> Index:
    """Writes one shard under a temporary name, syncs it, renames it, and indexes it.

    Args:
        path: `<split>-00000-of-00004.tfrecord`; the index goes to `.idx.npz` beside it.
        segments: What to write, in order.
        sources: The manifest's sources, in order.
        frontend_hash: Hash of the front end that made the log-mels.

    Returns:
        The shard's index.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    builder = IndexBuilder(sources)
    builder.start_shard(path.name)
    offset = 0
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for segment in segments:
            serialized = encode_segment(segment, frontend_hash)
            writer.write(serialized)
            builder.add(offset, serialized)
            offset += _LENGTH_BYTES + 2 * _CRC_BYTES + len(serialized)
    descriptor = os.open(temporary, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    index = builder.build()
    index.save(index_path(path))
    os.replace(temporary, path)
    return index


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
            _check_frontend(record, path, frontend_hash)
            builder.add(offset, record)
            offset += _LENGTH_BYTES + 2 * _CRC_BYTES + len(record)
    except tf.errors.OpError as error:
        raise DataError(
            f"{path}: not a readable TFRecord file ({error.message}); delete it and "
            "run the preparation again: finished shards are kept"
        ) from error
    return builder.build()


def _check_frontend(
    record: bytes, path: pathlib.Path, frontend_hash: str | None
) -> None:
    feature = tf.train.Example.FromString(record).features.feature
    found = b"".join(feature["frontend"].bytes_list.value).decode()
    if frontend_hash is not None and found != frontend_hash:
        raise DataError(
            f"{path}: made with front end {found or 'unknown'}, but {frontend_hash} is "
            "expected; prepare the data again with this front end"
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
                "prepare the data again"
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
            _check_frontend(record, path, self.frontend_hash)
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


def write_manifest(data_dir: str | os.PathLike, manifest: dict[str, Any]) -> None:
    """Writes `manifest.json` under a temporary name, then renames it."""
    path = pathlib.Path(data_dir) / MANIFEST_NAME
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(temporary, path)


def manifest_hash(data_dir: str | os.PathLike) -> str:
    """16 hexadecimal digits that stand for a prepared folder's manifest."""
    import hashlib

    data = (pathlib.Path(data_dir) / MANIFEST_NAME).read_bytes()
    return hashlib.sha256(data).hexdigest()[:16]
