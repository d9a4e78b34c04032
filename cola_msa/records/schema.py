"""The only definition of the prepared data: record and manifest.

A prepared folder holds

    manifest.json                       what was prepared, how, and what failed
    index-<split>.npz                   where every array lies, for random access
    <split>-00000-of-00004.tfrecord     one tf.train.Example a segment
    <split>-00000-of-00004.idx.npz      the same index for one shard

A record holds one segment: `clip_id`, `group` (the song or artist that the clip
belongs to), `segment`, `num_frames`, `is_tail`, `labels` (class numbers), `frontend`
(the configuration's hash), `mixture` (float16 [num_frames, num_mels], little-endian
bytes; of a waveform int16, with `stored_as` to say so, see `stored`), `stem/<source>`
for every ACTIVE source, `is_active` and `has_stem` (one flag a
source). A source without a stem on disk is neither active nor silent: `has_stem` is 0.
`index` says where the arrays lie, `prepared` reads them.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.system.errors import UserError
from cola_msa.system.files import write_json
from cola_msa.values.reading import open_regular

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
CONTENT_SHA256 = "content_sha256"  # the manifest's checksum of all else in it
# Field numbers of tf.train.Example's protocol buffer, each shifted with its wire type.
_WIRE_BYTES = 2
_INT16 = b"int16"
_TYPES = {None: "<f2", _INT16: "<i2"}  # of arrays, by `stored_as`


class DataError(UserError):
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
        mixture: float16 [num_frames, num_mels], or int16 of a waveform, see `stored`.
        stems: The same for every active source, by name.
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

    is_waveform = segment.mixture.dtype.kind == "i"

    def frames(values: np.ndarray) -> tf.train.Feature:
        stored = _TYPES[_INT16 if is_waveform else None]
        return raw(np.ascontiguousarray(values, stored).tobytes())

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
        "mixture": frames(segment.mixture),
    }
    if is_waveform:
        feature["stored_as"] = raw(_INT16)
    for source, stem in segment.stems.items():
        feature[f"stem/{source}"] = frames(stem)
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def decode_segment(serialized: bytes, sources: Sequence[str]) -> Segment:
    """Reads one record back; `sources` are the manifest's, in order."""
    feature = tf.train.Example.FromString(serialized).features.feature

    def integers(key: str) -> list[int]:
        return list(feature[key].int64_list.value)

    # Looked for first: asking for a feature makes an empty one.
    name = feature["stored_as"].bytes_list.value[0] if "stored_as" in feature else None
    if name not in _TYPES:
        raise DataError(f"values are stored as {name!r:.40}, which is not known here")

    def frames(key: str) -> np.ndarray:
        data = np.frombuffer(feature[key].bytes_list.value[0], _TYPES[name])
        return data.reshape(integers("num_frames")[0], -1)

    return Segment(
        clip_id=feature["clip_id"].bytes_list.value[0].decode(),
        group=feature["group"].bytes_list.value[0].decode(),
        segment=integers("segment")[0],
        is_tail=bool(integers("is_tail")[0]),
        labels=tuple(integers("labels")),
        mixture=frames("mixture"),
        stems={s: frames(f"stem/{s}") for s in sources if f"stem/{s}" in feature},
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


def check_frontend(
    record: bytes, path: pathlib.Path, frontend_hash: str | None
) -> None:
    """Refuses a record that was made with another front end; None accepts any.

    Raises:
        DataError: If the record's hash differs.
    """
    feature = tf.train.Example.FromString(record).features.feature
    found = b"".join(feature["frontend"].bytes_list.value).decode()
    if frontend_hash is not None and found != frontend_hash:
        raise DataError(
            f"{path}: made with front end {found or 'unknown'}, but {frontend_hash} is "
            "expected; prepare the data again with this front end"
        )


def content_sha256(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, whatever its layout, but for CONTENT_SHA256."""
    content = {k: v for k, v in manifest.items() if k != CONTENT_SHA256}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(
    data_dir: str | os.PathLike, manifest: dict[str, Any]
) -> dict[str, Any]:
    """Writes `manifest.json`, whole or not at all.

    Returns:
        What was written: the manifest with CONTENT_SHA256.

    Raises:
        FileError: If it cannot be written.
    """
    manifest = {**manifest, CONTENT_SHA256: content_sha256(manifest)}
    write_json(pathlib.Path(data_dir) / MANIFEST_NAME, manifest)
    return manifest


def manifest_hash(data_dir: str | os.PathLike) -> str:
    """16 hexadecimal digits that stand for a prepared folder's manifest."""
    with open_regular(pathlib.Path(data_dir) / MANIFEST_NAME) as file:
        data = file.read()
    return hashlib.sha256(data).hexdigest()[:16]
