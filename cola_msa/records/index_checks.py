"""Opens a split's index, and finds what cannot be right in one."""

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from cola_msa.config.schema import FrontendConfig
from cola_msa.records.index import Index
from cola_msa.records.schema import DataError
from cola_msa.records.verified import FileState
from cola_msa.values import arrays
from cola_msa.values.reading import open_regular

_KINDS = {
    "shards": "U",
    "sources": "U",
    "clip_ids": "U",
    "groups": "U",
    "is_tail": "b",
    "is_active": "b",
    "has_stem": "b",
}
_PER_SEGMENT = ("shard", "mixture_offset", "num_frames", "is_tail", "segment", "clip")
_PER_SOURCE = ("stem_offset", "is_active", "has_stem")


def parse_index(content: bytes, path: pathlib.Path, advice: str) -> Index:
    """Reads an index's bytes.

    Args:
        content: What the file holds.
        path: The file, for messages.
        advice: What to do where it is damaged.

    Raises:
        DataError: If they are no index.
    """
    try:
        file = io.BytesIO(content)
        arrays.check_stored(file, len(content))
        return Index.load(file)
    except arrays.DAMAGES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); {advice}") from error


def map_index(
    path: pathlib.Path, state: FileState, advice: str, has_no_checksum: bool
) -> Index:
    """Maps an index that is in a file which was read whole before.

    Args:
        path: The file.
        state: Its state then.
        advice: What to do where it is damaged.
        has_no_checksum: Whether to compare the archive's own.

    Raises:
        DataError: If it is no index, or has changed.
    """
    try:
        with open_regular(path) as file:
            if FileState.of(file.fileno()) != state:
                raise DataError(
                    f"{path}: has changed since this command checked it; start the "
                    "command again"
                )
            if has_no_checksum:
                with zipfile.ZipFile(file) as archive:
                    if (name := archive.testzip()) is not None:
                        raise zipfile.BadZipFile(f"Bad CRC-32 for file {name!r}")
            return Index.map(file)
    except DataError:
        raise
    except arrays.DAMAGES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); {advice}") from error


def find_fault(
    index: Index,
    shards: Sequence[str],
    sources: Sequence[str],
    num_classes: int,
    frontend: FrontendConfig,
) -> str | None:
    """What is wrong with an index; None where nothing is.

    Args:
        index: The index.
        shards: The manifest's shards of the split.
        sources: The manifest's sources.
        num_classes: Number of classes.
        frontend: Sizes of segments and bands.
    """
    fields = vars(index)
    for name, values in fields.items():
        if values.dtype.kind not in _KINDS.get(name, "i"):
            return f"{name} has type {values.dtype}"
        if values.ndim != (2 if name in _PER_SOURCE else 1):
            return f"{name} has shape {values.shape}"
    if index.shards.tolist() != list(shards):
        return "its shards are not the manifest's"
    if index.sources.tolist() != list(sources):
        return "its sources are not the manifest's"
    num_segments, num_clips = len(index.shard), len(index.clip_ids)
    lengths = dict.fromkeys(_PER_SEGMENT + _PER_SOURCE, num_segments)
    lengths |= {"shard_bytes": len(shards), "groups": num_clips}
    lengths["label_splits"] = num_clips + 1
    for name, length in lengths.items():
        if len(fields[name]) != length:
            return f"{name} has {len(fields[name])} values instead of {length}"
    if any(fields[name].shape[1] != len(sources) for name in _PER_SOURCE):
        return "its columns are not the sources"
    if num_segments == 0:
        return "clips without segments" if num_clips else None
    return _find_wrong_value(index, num_classes, frontend)


def _find_wrong_value(
    index: Index, num_classes: int, frontend: FrontendConfig
) -> str | None:
    num_clips, splits = len(index.clip_ids), index.label_splits
    is_seen = np.zeros(num_clips, bool)
    for rows in index.row_blocks():
        if fault := _find_wrong_row(index, rows, frontend):
            return fault
        is_seen[index.clip[rows]] = True
    if not is_seen.all() or not _are_distinct(index.clip_ids):
        return "segments and clips do not agree"
    if (
        splits[0]
        or (np.diff(splits) < 0).any()
        or splits[-1] != len(index.label_values)
    ):
        return "labels and clips do not agree"
    if not _within(index.label_values, num_classes):
        return "a label is no class"
    return None


def _find_wrong_row(index: Index, rows: slice, frontend: FrontendConfig) -> str | None:
    if not _within(index.shard[rows], len(index.shards)):
        return "a segment lies in no shard"
    if not _within(index.clip[rows], len(index.clip_ids)):
        return "segments and clips do not agree"
    if not _within(index.num_frames[rows] - 1, frontend.segment_frames):
        return "a segment has an impossible number of frames"
    if (index.segment[rows] < 0).any():
        return "a segment has a negative number"
    # In Python's terms no sum below overflows: offsets are below the shards' sizes.
    sizes = index.shard_bytes[index.shard[rows]]
    num_bytes = index.num_frames[rows].astype(np.int64) * frontend.num_mels * 2
    last = sizes - num_bytes
    mixtures = index.mixture_offset[rows]
    if (mixtures < 0).any() or (mixtures > last).any():
        return "a mixture lies outside its shard"
    offsets, active = index.stem_offset[rows], index.is_active[rows]
    if (active & ((offsets < 0) | (offsets > last[:, np.newaxis]))).any():
        return "a stem lies outside its shard"
    if (offsets[~active] != -1).any() or (active & ~index.has_stem[rows]).any():
        return "flags and places of stems do not agree"
    return None


def _are_distinct(names: np.ndarray) -> bool:
    """Whether no text comes twice; millions are sorted by 8 bytes each."""
    hashes = _hashes(names)
    order = np.argsort(hashes)
    is_equal = hashes[order[1:]] == hashes[order[:-1]]
    doubtful = np.union1d(order[1:][is_equal], order[:-1][is_equal])
    return len(np.unique(names[doubtful])) == len(doubtful)


def _hashes(names: np.ndarray) -> np.ndarray:
    """Of texts, uint64; equal texts have equal ones."""
    letters = names.dtype.itemsize // 4
    hashes = np.zeros(len(names), np.uint64)
    if not letters:  # all are empty
        return hashes
    for first, block in arrays.row_blocks(names, 1 << 20):
        codes = np.ascontiguousarray(block).view(np.uint32).reshape(len(block), letters)
        own = hashes[first : first + len(block)]
        for column in codes.T:
            own *= np.uint64(0x9E3779B97F4A7C15)
            own ^= own >> np.uint64(29)
            own += column
    return hashes


def _within(values: np.ndarray, end: int) -> bool:
    return not len(values) or bool(values.min() >= 0 and values.max() < end)


def shard_part(index: Index, number: int) -> Index:
    """The part of a split's index that is one shard's own index.

    Args:
        index: A split's index without fault.
        number: Which of its shards.
    """
    rows = np.flatnonzero(index.shard == number)
    clips, clip = np.unique(index.clip[rows], return_inverse=True)
    labels = [index.labels(c) for c in clips]
    return dataclasses.replace(
        index,
        shards=index.shards[number : number + 1],
        shard_bytes=index.shard_bytes[number : number + 1],
        shard=np.zeros(len(rows), np.int32),
        clip=clip.astype(np.int32),
        clip_ids=index.clip_ids[clips],
        groups=index.groups[clips],
        label_values=np.concatenate([np.zeros(0, np.int32), *labels]),
        label_splits=np.cumsum([0, *map(len, labels)]),
        **{
            name: getattr(index, name)[rows]
            for name in _PER_SEGMENT + _PER_SOURCE
            if name not in ("shard", "clip")
        },
    )


def differing(first: Index, second: Index) -> list[str]:
    """Names of the fields in which two indices differ."""
    return [
        field.name
        for field in dataclasses.fields(Index)
        if not np.array_equal(getattr(first, field.name), getattr(second, field.name))
    ]
