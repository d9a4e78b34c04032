"""Reads a prepared folder's manifest, and refuses one that cannot be right."""

import hashlib
import json
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from cola_msa.config.checks import check_frontend
from cola_msa.config.schema import ConfigError, FrontendConfig, config_hash
from cola_msa.records.index import Index
from cola_msa.records.schema import (
    CONTENT_SHA256,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    DataError,
    content_sha256,
)
from cola_msa.system.errors import FileError
from cola_msa.values.reading import read_json, read_limited

ADVICE = (
    f"put it back from a copy, or delete {MANIFEST_NAME} and run the preparation's "
    "command again: finished shards are kept, and it writes manifest and index anew"
)
MOMENTS = ("count", "sum", "sum_of_squares")  # in a shard's sidecar
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COUNTS = ("num_clips", "num_segments", "num_tails", "num_windows")
_MAX_BYTES = 1 << 28


class _ManifestError(Exception):
    """What is wrong, without the file's name."""


def read_manifest(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    """Reads and checks a manifest.

    Args:
        path: `manifest.json`.

    Returns:
        Its content, and the 16 hexadecimal digits that stand for its bytes.

    Raises:
        DataError: If it is missing, damaged, of another version, or contradicts itself.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist: --data_dir must name a prepared folder "
            "(see python -m data_prep.mtat --help), and its preparation must "
            "have ended"
        )
    try:
        data = read_limited(path, _MAX_BYTES)
        content = json.loads(data, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); {ADVICE}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object; {ADVICE}")
    version = content.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {version!r:.40}, but this version of cola_msa "
            f"reads {SCHEMA_VERSION}; prepare the data again"
        )
    if fault := find_seal_fault(content) or find_fault(content, path.parent):
        raise DataError(f"{path}: {fault}; {ADVICE}")
    return content, hashlib.sha256(data).hexdigest()[:16]


def find_seal_fault(content: dict[str, Any]) -> str | None:
    """What is wrong with a manifest's checksum of itself; None where nothing is.

    Earlier versions wrote none.
    """
    if CONTENT_SHA256 not in content:
        return None
    try:
        found = content_sha256(content)
    except (ValueError, RecursionError) as error:
        return f"cannot be read ({error})"
    if content[CONTENT_SHA256] != found:
        return "its content is not what was written (content_sha256)"
    return None


def find_fault(content: dict[str, Any], data_dir: pathlib.Path) -> str | None:
    """What is wrong with a manifest's fields; None where nothing is.

    Args:
        content: A JSON object.
        data_dir: Its folder, for the shards' sidecars.
    """
    try:
        _check_content(content)
        if CONTENT_SHA256 not in content:
            _check_moments(data_dir, content)
    except _ManifestError as error:
        return str(error)
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _ManifestError(problem)


def _field(content: dict[str, Any], name: str, kind: type) -> Any:
    _require(name in content, f"lacks {name!r}")
    _require(isinstance(content[name], kind), f"{name} is no {kind.__name__}")
    return content[name]


def _names(content: dict[str, Any], name: str) -> list[str]:
    values = _field(content, name, list)
    _require(
        all(isinstance(value, str) and value for value in values),
        f"{name} are not all names",
    )
    _require(len(set(values)) == len(values), f"{name} holds a name twice")
    return values


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e300


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _check_content(content: dict[str, Any]) -> None:
    """Types, then whatever the manifest says twice."""
    sources, classes = _names(content, "sources"), _names(content, "class_names")
    frontend = _check_frontend(content)
    splits = _field(content, "splits", dict)
    _require(bool(splits), "splits has no split")
    num_shards = sum(
        _check_split(name, split, sources) for name, split in splits.items()
    )
    plan = content.get("plan")
    if isinstance(plan, dict) and "num_shards" in plan:
        _require(
            plan["num_shards"] == num_shards,
            f"names {num_shards} shards, but {plan['num_shards']!r:.40} were planned",
        )
    low, high = math.log(frontend.log_floor), math.log(frontend.log_ceiling)
    if frontend.is_waveform:
        low, high = -1.0, 1.0
    mean, std = content.get("log_mel_mean"), content.get("log_mel_std")
    if mean is not None or std is not None:
        _require(
            _is_number(mean) and low <= mean <= high,
            f"log_mel_mean is {mean!r:.40}, which no {frontend.kind}s have",
        )
        _require(
            _is_number(std) and 0 < std <= high - low,
            f"log_mel_std is {std!r:.40}, which no {frontend.kind}s have",
        )
    class_counts = content.get("class_counts") or {}
    _require(isinstance(class_counts, dict), "class_counts is no object")
    for split, counts in class_counts.items():
        _require(
            split in splits
            and isinstance(counts, dict)
            and set(counts) == set(classes)
            and all(map(_is_count, counts.values())),
            f"class_counts of {split!r:.40} do not count the classes",
        )
    _check_origin(content)
    _check_config(content)


def _check_origin(content: dict[str, Any]) -> None:
    """What it says of dataset, separator and failures."""
    for name in ("dataset", "task_type"):
        _require(isinstance(content.get(name), str | None), f"{name} is no text")
    separator = content.get("separator")
    if isinstance(separator, dict):
        separator = separator.get("name")
    _require(isinstance(separator, str | None), "separator has no name")
    threshold = content.get("silence_threshold")
    _require(
        threshold is None or (_is_number(threshold) and threshold >= 0),
        f"silence_threshold is {threshold!r:.40}",
    )
    failures = content.get("failures", [])
    _require(
        isinstance(failures, list)
        and all(
            isinstance(failure, dict)
            and all(isinstance(value, str | None) for value in failure.values())
            for failure in failures
        ),
        "failures are not a list of objects of texts",
    )
    planned = content.get("num_clips_planned", 0)
    _require(_is_count(planned), f"num_clips_planned is {planned!r:.40}")


def _check_frontend(content: dict[str, Any]) -> FrontendConfig:
    try:
        found = check_frontend(content.get("frontend"))
    except ConfigError as error:
        raise _ManifestError(str(error)) from error
    stated = content.get("frontend_hash")
    _require(
        stated is None or stated == config_hash(found),
        f"frontend_hash is {stated!r:.40}, but the front end has {config_hash(found)}",
    )
    return found


def _check_split(name: str, split: Any, sources: Sequence[str]) -> int:
    """Returns the number of its shards."""
    _require(bool(_SPLIT_NAME.fullmatch(name)), f"a split is called {name!r:.40}")
    _require(isinstance(split, dict), f"splits.{name} is no object")
    shards = _names({"shards": split.get("shards")}, "shards")
    for number, shard in enumerate(shards):
        # No other name is opened: not one in another folder, and no shard is left out.
        expected = f"{name}-{number:05d}-of-{len(shards):05d}.tfrecord"
        _require(
            shard == expected,
            f"splits.{name} names shard {shard!r:.60}, where {expected} belongs",
        )
    digest = split.get("index_sha256")
    _require(
        digest is None or (isinstance(digest, str) and bool(_SHA256.fullmatch(digest))),
        f"splits.{name}.index_sha256 is no checksum",
    )
    digests = split.get("shard_sha256")
    if digests is not None:
        _require(
            isinstance(digests, list)
            and len(digests) == len(shards)
            and all(
                d is None or (isinstance(d, str) and bool(_SHA256.fullmatch(d)))
                for d in digests
            ),
            f"splits.{name}.shard_sha256 is not one checksum a shard",
        )
    for count in _COUNTS:
        _require(
            count not in split or _is_count(split[count]),
            f"splits.{name}.{count} is {split.get(count)!r:.40}",
        )
    shares = split.get("active_share", {})
    _require(
        isinstance(shares, dict)
        and all(v is None or _is_number(v) for v in shares.values())
        and ("active_share" not in split or sorted(shares) == sorted(sources)),
        f"splits.{name}.active_share does not give the sources' shares",
    )
    return len(shards)


def _check_config(content: dict[str, Any]) -> None:
    """The preparation's configuration says sources, front end and dataset again."""
    config = content.get("config")
    if config is None or "config_hash" not in content:
        return
    _require(isinstance(config, dict), "config is no object")
    text = json.dumps(config, sort_keys=True)
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    _require(
        content["config_hash"] == found,
        f"config_hash is {content['config_hash']!r:.40}, but config has {found}",
    )
    for name in ("sources", "frontend", "dataset"):
        _require(
            not config.get(name) or config[name] == content.get(name),
            f"{name} is not that of config",
        )


def _check_moments(data_dir: pathlib.Path, content: dict[str, Any]) -> None:
    """Mean and deviation against the sums that the shards' sidecars hold."""
    sums = []
    for name in content["splits"].get("train", {}).get("shards", ()):
        path = (data_dir / name).with_suffix(".json")
        try:
            sums.append(read_json(path, check=_log_mel_sums))
        except FileError:
            return  # without all of them there is nothing to compare with
    for name, value in total_moments(sums).items():
        if value is None:
            return
        stated = content.get(name)
        _require(
            stated is not None
            and math.isclose(stated, value, rel_tol=1e-6, abs_tol=1e-9),
            f"{name} is {stated!r:.40}, but the shards' sidecars give {value:.6g}",
        )


def _log_mel_sums(sidecar: dict[str, Any]) -> tuple[float, float, float]:
    count, total, squares = (float(sidecar["log_mel"][name]) for name in MOMENTS)
    return count, total, squares


def total_moments(
    parts: Sequence[tuple[float, float, float]],
) -> dict[str, float | None]:
    """Mean and deviation of mixtures, as the manifest calls them; None without any.

    The names are those of log-mels, of a waveform's samples too.

    Args:
        parts: Of every shard the MOMENTS: how many values, their sum, and that of
            their squares.
    """
    count = sum(part[0] for part in parts)
    if not count:
        return {"log_mel_mean": None, "log_mel_std": None}
    mean = math.fsum(part[1] for part in parts) / count
    square = math.fsum(part[2] for part in parts) / count
    deviation = math.sqrt(max(0.0, square - mean * mean))
    return {"log_mel_mean": mean, "log_mel_std": deviation}


def summarize(
    index: Index, sources: Sequence[str], frontend: FrontendConfig
) -> dict[str, Any]:
    """What the manifest says of a split, as far as its index knows it.

    Args:
        index: The split's.
        sources: Sources in order.
        frontend: `window_frames` is used.

    Returns:
        Shards, numbers of clips, segments, tails and windows; of every source the
        share of whole segments in which it is active, among those that have its stem.
    """
    num_used = 0
    frames = np.zeros(len(index.clip_ids))
    num_present, num_active = np.zeros((2, len(sources)), np.int64)
    for rows in index.row_blocks():
        is_used = ~index.is_tail[rows]
        num_used += int(is_used.sum())
        frames += np.bincount(
            index.clip[rows], weights=index.num_frames[rows], minlength=len(frames)
        )
        present = index.has_stem[rows] & is_used[:, np.newaxis]
        num_present += present.sum(axis=0)
        num_active += (index.is_active[rows] & present).sum(axis=0)
    shares = {
        source: round(float(active / present), 4) if present else None
        for source, active, present in zip(
            sources, num_active, num_present, strict=True
        )
    }
    return {
        "shards": [str(name) for name in index.shards],
        "num_clips": len(index.clip_ids),
        "num_segments": num_used,
        "num_tails": len(index.is_tail) - num_used,
        "num_windows": int((frames.astype(int) // frontend.window_frames).sum()),
        "active_share": shares,
    }


def check_summary(
    index: Index, split: str, content: dict[str, Any], frontend: FrontendConfig
) -> None:
    """Compares a split's index with what the manifest says of it.

    Raises:
        DataError: If they differ; the message does not name the file.
    """
    stated = content["splits"][split]
    counted = summarize(index, content["sources"], frontend)
    for name, value in counted.items():
        if name in stated and stated[name] != value:
            raise DataError(
                f"splits.{split}.{name} is {stated[name]!r:.60}, but the index has "
                f"{value!r:.60}; {ADVICE}"
            )
    counts = (content.get("class_counts") or {}).get(split)
    if counts is not None:
        classes = content["class_names"]
        totals = np.bincount(index.label_values, minlength=len(classes)).tolist()
        wrong = [c for c, n in zip(classes, totals, strict=True) if counts[c] != n]
        if wrong:
            raise DataError(
                f"class_counts.{split}.{wrong[0]} is {counts[wrong[0]]!r:.40}, but the "
                f"index has another number of clips; {ADVICE}"
            )
