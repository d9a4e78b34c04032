"""Checks a prepared folder as a whole: every shard, then what they add up to."""

import collections
import concurrent.futures
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.config.checks import check_frontend
from cola_msa.records import index as index_lib
from cola_msa.records import manifests, schema
from cola_msa.system import files
from cola_msa.system import processes as processes_lib
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import UserError
from cola_msa.values.reading import damage_as, read_json
from data_prep.checks import shard
from data_prep.checks.shard import Expected, Finding, ShardReport
from data_prep.pipeline import processes

_RERUN = (
    f"delete {schema.MANIFEST_NAME} and run the preparation's command again: finished "
    "shards are kept, and it writes manifest and index anew"
)
_RESTORE = "put the folder back from a copy, or prepare into another --output_dir"


class VerificationError(UserError):
    """The folder is no prepared data, or is damaged, or the check could not end."""


def read_manifest(data_dir: pathlib.Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        VerificationError: If there is none, or another version wrote it.
    """
    path = data_dir / schema.MANIFEST_NAME
    if not path.exists():
        raise VerificationError(
            f"{path} does not exist: --data_dir must name a prepared folder whose "
            "preparation has ended"
        )
    content = read_json(path, VerificationError, _RERUN)
    version = content.get("schema_version")
    if version != schema.SCHEMA_VERSION:
        raise VerificationError(
            f"{path}: schema version {version!r:.40}, but this version of data_prep "
            f"reads {schema.SCHEMA_VERSION}; prepare the data again"
        )
    return content


def verify(
    data_dir: pathlib.Path, num_workers: int = 1, show_progress: bool = True
) -> tuple[dict[str, Any], list[Finding]]:
    """Reads everything in a prepared folder and checks it.

    Args:
        data_dir: The prepared folder.
        num_workers: Processes; 1 works in this one.
        show_progress: Whether to draw a progress bar.

    Returns:
        The manifest, and what is wrong, file by file; [] where nothing is.

    Raises:
        VerificationError: If there is no manifest, or a worker died.
        OSError: If a file cannot be read.
    """
    content = read_manifest(data_dir)
    path = data_dir / schema.MANIFEST_NAME
    with damage_as(VerificationError, path, _RERUN):
        _check_fields(content)
    expected = _expectations(data_dir, content)
    shards = [
        (name, digest)
        for split in content["splits"].values()
        for name, digest in zip(split["shards"], split["shard_sha256"], strict=True)
    ]
    # What records and indices say is compared with it all the same.
    faults = manifests.find_seal_fault(content), manifests.find_fault(content, data_dir)
    findings = [Finding(path.name, fault, _RERUN) for fault in faults if fault]
    reports = _check_shards(shards, expected, num_workers, show_progress)
    for report in reports.values():
        findings += report.findings
    for split in content["splits"]:
        findings += _check_split(split, content, reports, expected)
    findings += _check_moments(content, reports)
    findings += _check_clips(content, reports)
    findings += _check_strangers(data_dir, {name for name, _ in shards})
    return content, findings


def _expectations(data_dir: pathlib.Path, content: dict[str, Any]) -> Expected:
    return Expected(
        data_dir=data_dir,
        frontend=check_frontend(content["frontend"]),
        frontend_hash=content["frontend_hash"],
        sources=tuple(content["sources"]),
        num_classes=len(content["class_names"]),
        task_type=content["task_type"],
        config_hash=content["config_hash"],
        plan_hash=content["plan"]["hash"],
    )


def _check_fields(content: dict[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError where a field is none to work with."""

    def require(condition: bool, name: str) -> None:
        if not condition:
            raise ValueError(f"{name} is missing, of another kind or out of range")

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 1 << 62

    check_frontend(content["frontend"])
    for name in ("frontend_hash", "config_hash"):
        require(isinstance(content[name], str), name)
    require(isinstance(content["plan"]["hash"], str), "plan.hash")
    require(isinstance(content["task_type"], str | None), "task_type")
    for name in ("sources", "class_names"):
        names = content[name]
        require(
            isinstance(names, list) and all(isinstance(n, str) for n in names), name
        )
        require(len(set(names)) == len(names), name)
    for name in ("log_mel_mean", "log_mel_std"):
        require(type(content[name]) in (int, float, type(None)), name)
    require(is_count(content["num_clips_planned"]), "num_clips_planned")
    require(
        isinstance(content["failures"], list)
        and all(isinstance(f["clip_id"], str) for f in content["failures"]),
        "failures",
    )
    require(isinstance(content["splits"], dict), "splits")
    counts = content["class_counts"]
    require(
        isinstance(counts, dict) and all(isinstance(c, dict) for c in counts.values()),
        "class_counts",
    )
    for split, stated in content["splits"].items():
        names, digests = stated["shards"], stated["shard_sha256"]
        # Names of other folders are not opened.
        require(
            re.fullmatch(r"[\w-]+", split) is not None
            and isinstance(names, list)
            and all(isinstance(n, str) for n in names)
            and all(re.fullmatch(r"[\w-]+\.tfrecord", n) for n in names)
            and len(set(names)) == len(names),
            f"splits.{split}.shards",
        )
        require(
            isinstance(digests, list)
            and len(digests) == len(names)
            and all(isinstance(d, str | None) for d in digests),
            f"splits.{split}.shard_sha256",
        )
        require(isinstance(stated["index_sha256"], str), f"splits.{split}.index_sha256")
        require(type(stated["hours"]) in (int, float), f"splits.{split}.hours")
        for name in ("num_clips", "num_segments"):
            require(is_count(stated[name]), f"splits.{split}.{name}")
        shares = stated["active_share"]
        require(
            isinstance(shares, dict)
            and all(type(s) in (int, float, type(None)) for s in shares.values()),
            f"splits.{split}.active_share",
        )


def _check_shards(
    shards: Sequence[tuple[str, str | None]],
    expected: Expected,
    num_workers: int,
    show_progress: bool,
) -> dict[str, ShardReport]:
    reports: dict[str, ShardReport] = {}
    with ProgressBar(total=len(shards), unit="shard", disable=not show_progress) as bar:

        def take(report: ShardReport) -> None:
            reports[report.name] = report
            bar.set_postfix(
                wrong=sum(bool(r.findings) for r in reports.values()), refresh=False
            )
            bar.update()

        if num_workers <= 1:
            processes_lib.limit_threads()
            for name, digest in shards:
                take(shard.check_shard(name, digest, expected))
        else:
            _check_in_processes(shards, expected, num_workers, take)
    return {name: reports[name] for name, _ in shards}


def _check_in_processes(
    shards: Sequence[tuple[str, str | None]],
    expected: Expected,
    num_workers: int,
    take: Any,
) -> None:
    died = VerificationError(
        "a worker process died, perhaps for lack of memory; use fewer --num_workers"
    )
    num_workers = min(num_workers, len(shards))
    with processes_lib.worker_pool(num_workers, died, processes.start_worker) as submit:
        waiting = [
            submit(shard.check_shard, name, digest, expected) for name, digest in shards
        ]
        for future in concurrent.futures.as_completed(waiting):
            take(future.result())


def _check_split(
    split: str,
    content: dict[str, Any],
    reports: dict[str, ShardReport],
    expected: Expected,
) -> Iterator[Finding]:
    """Index, counts, shares, class totals and hours of one split."""
    stated = content["splits"][split]
    path = expected.data_dir / f"index-{split}.npz"
    mine = [reports[name] for name in stated["shards"]]
    indices = [report.index for report in mine if report.index is not None]
    if len(indices) < len(mine):
        # The sums would be wrong for no other reason than the shards named already.
        return
    index = index_lib.merge_indices(indices, expected.sources)
    wrong = shard.check_index(path, index, _RERUN)
    yield from wrong
    if not wrong and files.file_sha256(path) != stated["index_sha256"]:
        yield Finding(path.name, shard.CHANGED, _RERUN)
    counted = manifests.summarize(index, expected.sources, expected.frontend)
    for name, value in counted.items():
        if stated.get(name) != value:
            yield _differs(f"splits.{split}.{name}", stated.get(name), value)
    names = content["class_names"]
    # Numbers that are no classes were complained about record by record.
    is_class = (index.label_values >= 0) & (index.label_values < len(names))
    totals = np.bincount(index.label_values[is_class], minlength=len(names))
    found = dict(zip(names, totals.tolist(), strict=True))
    classes = content["class_counts"].get(split, {})
    wrong_classes = [name for name in names if classes.get(name) != found[name]]
    if wrong_classes or len(classes) != len(found):
        first = wrong_classes[0] if wrong_classes else "(names)"
        yield _differs(
            f"class_counts.{split}.{first}", classes.get(first), found.get(first)
        )
    yield from _check_hours(split, stated, mine, index, expected)


def _check_hours(
    split: str,
    stated: dict[str, Any],
    mine: Sequence[ShardReport],
    index: index_lib.Index,
    expected: Expected,
) -> Iterator[Finding]:
    """Hours must be the sidecars', and those must fit the frames."""
    if any(report.sidecar is None for report in mine):
        return
    seconds = sum(report.sidecar["seconds"] for report in mine if report.sidecar)
    if stated["hours"] != round(seconds / 3600, 4):
        yield _differs(f"splits.{split}.hours", stated["hours"], seconds / 3600)
    frontend = expected.frontend
    least = int(index.num_frames.sum()) * frontend.seconds(1)
    rest = frontend.window_samples / frontend.sample_rate_hz
    most = least + len(index.clip_ids) * rest
    if not least - 1e-3 <= seconds <= most + 1e-3:
        yield _differs(f"{split}: seconds of the sidecars", seconds, least)


def _differs(what: str, stated: Any, counted: Any) -> Finding:
    return Finding(
        schema.MANIFEST_NAME,
        f"{what} is {stated}, but the records give {counted}",
        _RERUN,
    )


def _check_moments(
    content: dict[str, Any], reports: dict[str, ShardReport]
) -> Iterator[Finding]:
    """Mean and deviation of the training mixtures, which normalise the input."""
    mine = [reports[n] for n in content["splits"].get("train", {}).get("shards", ())]
    if any(report.index is None for report in mine):
        return
    found = manifests.total_moments([report.moments for report in mine])
    for name, value in found.items():
        if value is None:
            return
        stated = content[name]
        if stated is None or not math.isclose(stated, value, rel_tol=1e-6):
            yield _differs(name, stated, value)


def _check_clips(
    content: dict[str, Any], reports: dict[str, ShardReport]
) -> Iterator[Finding]:
    """Each clip is in one shard or failed; none is lost, none is there twice."""
    failures = content["failures"]
    places: dict[str, list[str]] = collections.defaultdict(list)
    groups: dict[str, set[str]] = collections.defaultdict(set)
    for split, stated in content["splits"].items():
        for name in stated["shards"]:
            report = reports[name]
            if report.index is None:
                continue
            ids = [str(clip_id) for clip_id in report.index.clip_ids]
            for clip_id, group in zip(ids, report.index.groups, strict=True):
                places[clip_id].append(name)
                groups[str(group)].add(split)
            if report.sidecar is not None:
                failed = {failure["clip_id"] for failure in report.sidecar["failures"]}
                planned = set(report.sidecar["clips"])
                if planned != failed | set(ids) or failed & set(ids):
                    problem = "its clips are not those of its sidecar"
                    yield Finding(name, problem, shard.REBUILD)
                if unknown := failed - {failure["clip_id"] for failure in failures}:
                    problem = f"failure of {sorted(unknown)[0]} is not listed"
                    yield Finding(schema.MANIFEST_NAME, problem, _RERUN)
    for clip_id, names in places.items():
        if len(names) > 1:
            problem = f"clip {clip_id} is also in {names[0]}"
            yield Finding(names[1], problem, _RESTORE)
    if content["task_type"] is None:
        # Splits that the project makes itself never divide a group.
        for group, splits in groups.items():
            if len(splits) > 1:
                problem = f"group {group} lies in {' and '.join(sorted(splits))}"
                yield Finding(schema.MANIFEST_NAME, problem, _RESTORE)
    if all(report.index is not None for report in reports.values()):
        found = len(places) + len(failures)
        if content["num_clips_planned"] != found:
            yield Finding(
                schema.MANIFEST_NAME,
                f"{content['num_clips_planned']} clips were planned, but {len(places)} "
                f"are there and {len(failures)} failed",
                _RERUN,
            )


def _check_strangers(data_dir: pathlib.Path, known: set[str]) -> Iterator[Finding]:
    """Shards that the manifest does not name, and what was left half written."""
    for path in sorted(data_dir.iterdir()):
        if path.suffix == ".tfrecord" and path.name not in known:
            problem = "not a shard of this manifest: of another preparation"
            yield Finding(path.name, problem, "move it out of the folder")
        elif path.suffix == ".tmp":
            problem = "left over from an interrupted preparation"
            yield Finding(path.name, problem, "delete it")
