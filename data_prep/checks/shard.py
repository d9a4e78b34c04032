"""Checks one shard: bytes, records, their values, its index and its sidecar."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.config.schema import FrontendConfig
from cola_msa.records import index as index_lib
from cola_msa.records import index_checks, schema
from cola_msa.records.stored import from_stored, stored_type
from cola_msa.system import files
from cola_msa.system.errors import FileError, UserError
from cola_msa.values.reading import read_limited
from data_prep.pipeline.plan import sidecar_path
from data_prep.pipeline.shards import read_sidecar

REBUILD = "delete it and run the preparation's command again: finished shards are kept"
CHANGED = "its bytes have changed since it was written (SHA-256)"
# Values are stored as float16, and the reader may round once more.
_ROUNDING = 0.01
_MAX_INDEX_BYTES = 1 << 32


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        file: Name of the file within the prepared folder.
        problem: What is wrong.
        advice: What to do.
    """

    file: str
    problem: str
    advice: str


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the manifest says of all shards.

    Attributes:
        data_dir: The prepared folder.
        frontend: The front end.
        frontend_hash: Its hash.
        sources: Sources in order.
        num_classes: Number of classes.
        task_type: `multilabel`, `multiclass` or None.
        config_hash: Hash of the preparation's configuration.
        plan_hash: Hash of the plan.
    """

    data_dir: pathlib.Path
    frontend: FrontendConfig
    frontend_hash: str
    sources: tuple[str, ...]
    num_classes: int
    task_type: str | None
    config_hash: str
    plan_hash: str


@dataclasses.dataclass
class ShardReport:
    """What was found in one shard.

    Attributes:
        name: The shard's name.
        findings: What is wrong with it.
        index: Made from its records; None where they cannot be read.
        sidecar: Its sidecar; None without one that can be read.
        moments: Values of the mixtures: count, sum, sum of squares.
    """

    name: str
    findings: list[Finding] = dataclasses.field(default_factory=list)
    index: index_lib.Index | None = None
    sidecar: dict[str, Any] | None = None
    moments: tuple[int, float, float] = (0, 0.0, 0.0)

    def add(self, problem: str, advice: str = REBUILD, file: str = "") -> None:
        """Notes what is wrong, with the shard or with another file of it."""
        self.findings.append(Finding(file or self.name, problem, advice))


class _Complaints:
    """Problems by kind, so that a thousand bad records are one line."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, kind: str, where: str) -> None:
        self._first.setdefault(kind, where)
        self._counts[kind] += 1

    def lines(self) -> Iterator[str]:
        for kind, where in self._first.items():
            count = self._counts[kind]
            yield f"{where}: {kind}" + (f" ({count} such)" if count > 1 else "")


def largest_log_mel(num_frames: int, frontend: FrontendConfig) -> float:
    """No log-mel of a clip can be above this, whatever its sound.

    The level rule fixes the waveform's L2 norm. By Parseval a frame's magnitudes over
    all FFT bins then have an L2 norm of at most sqrt(fft_size) times that, and by
    Cauchy and Schwarz a mel band has at most that times the norm of its weights.

    Args:
        num_frames: Frames of the whole clip.
        frontend: FrontendConfig.

    Returns:
        A bound in nats.
    """
    num_samples = (num_frames + 1) * frontend.hop_samples + frontend.window_samples
    norm = 1.0
    if frontend.level == "rms":
        norm = math.sqrt(num_samples / (30 * frontend.sample_rate_hz))
    weights = tf.signal.linear_to_mel_weight_matrix(
        frontend.num_mels,
        frontend.fft_size // 2 + 1,
        frontend.sample_rate_hz,
        frontend.low_hz,
        frontend.high_hz,
    ).numpy()
    band = float(np.linalg.norm(weights, axis=0).max())
    return math.log(band * math.sqrt(frontend.fft_size) * norm)


def check_shard(name: str, sha256: str | None, expected: Expected) -> ShardReport:
    """Reads a whole shard, and compares it with its index and its sidecar.

    Args:
        name: The shard's name.
        sha256: Its checksum by the manifest; None where that has none.
        expected: What the manifest says of all shards.

    Returns:
        The ShardReport.
    """
    report = ShardReport(name)
    path = expected.data_dir / name
    if not path.is_file():
        report.add(
            "missing",
            "put it back from a copy, or run the preparation's command again: it "
            "makes what is missing",
        )
        return report
    _check_sidecar(report, path, expected)
    if sha256 is not None and files.file_sha256(path) != sha256:
        size, whole = path.stat().st_size, _stated_size(path)
        if size < whole:  # all else that could be said of it follows
            report.add(f"truncated: it has {size:,} of {whole:,} bytes")
            return report
        report.add(CHANGED)
    _read_records(report, path, expected)
    if report.index is not None:
        index_path = index_lib.index_path(path)
        report.findings += check_index(index_path, report.index, REBUILD)
        _check_digest(report, index_path)
    return report


def _stated_size(path: pathlib.Path) -> int:
    """Bytes of a shard by its index; 0 where that cannot be read."""
    try:
        content = read_limited(index_lib.index_path(path), _MAX_INDEX_BYTES)
        stated = index_checks.parse_index(content, path, "").shard_bytes
    except (OSError, ValueError, UserError):
        return 0
    return int(stated[0]) if len(stated) == 1 else 0


def _check_digest(report: ShardReport, index_path: pathlib.Path) -> None:
    digest = (report.sidecar or {}).get("index_sha256")
    already = any(finding.file == index_path.name for finding in report.findings)
    if not digest or already or not index_path.is_file():
        return
    if files.file_sha256(index_path) != digest:
        report.add(CHANGED, file=index_path.name)


def check_index(
    path: pathlib.Path, rebuilt: index_lib.Index, advice: str
) -> list[Finding]:
    """Compares an index on disk with one made from the records.

    Args:
        path: `.idx.npz` of a shard or `index-<split>.npz`.
        rebuilt: Made from the records.
        advice: What to do where they differ.

    Returns:
        What is wrong.
    """
    if not path.is_file():
        return [Finding(path.name, "missing", advice)]
    try:
        content = read_limited(path, _MAX_INDEX_BYTES)
        stored = index_checks.parse_index(content, path, "")
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ").removesuffix("; ")
        return [Finding(path.name, reason, advice)]
    differing = index_checks.differing(stored, rebuilt)
    if not differing:
        return []
    problem = f"does not agree with the records: {', '.join(differing)}"
    return [Finding(path.name, problem, advice)]


def _check_sidecar(report: ShardReport, path: pathlib.Path, expected: Expected) -> None:
    sidecar = sidecar_path(path)
    if not sidecar.exists():
        report.add("missing", file=sidecar.name)
        return
    try:
        content = read_sidecar(path, FileError, "")
        if content["shard"] != report.name:
            raise FileError("it is another shard's; ")
    except FileError as error:
        reason = str(error).removeprefix(f"{sidecar}: ").removesuffix("; ")
        report.add(f"cannot be read ({reason})", file=sidecar.name)
        return
    report.sidecar = content
    for what, found, wanted in (
        ("configuration", content["config_hash"], expected.config_hash),
        ("plan", content["plan_hash"], expected.plan_hash),
    ):
        if found != wanted:
            report.add(
                f"made with another {what} ({found}) than the manifest's ({wanted})"
            )


def _read_records(report: ShardReport, path: pathlib.Path, expected: Expected) -> None:
    """Fills index, moments and what is wrong with records."""
    builder = index_lib.IndexBuilder(expected.sources)
    builder.start_shard(path.name)
    complaints = _Complaints()
    clips = _ClipChecks(expected, complaints)
    count, total, squares = 0, 0.0, 0.0
    number = offset = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            schema.check_frontend(record, path, expected.frontend_hash)
            segment = schema.decode_segment(record, expected.sources)
            clips.add(segment, f"record {number}, clip {segment.clip_id}")
            values = from_stored(segment.mixture).astype(np.float64)
            count += values.size
            total += float(values.sum())
            squares += float(np.square(values).sum())
            builder.add(offset, record)
            offset += len(record) + index_lib.FRAME_BYTES
            number += 1
        report.index = builder.build()
        report.moments = (count, total, squares)
    except (tf.errors.OpError, *index_lib.FOREIGN_RECORD) as error:
        is_op = isinstance(error, tf.errors.OpError)
        reason = index_lib.read_fault(error) if is_op else str(error)
        reason = reason.removeprefix(f"{path}: ")
        complaints.add(
            f"cannot be read ({reason})", f"record {number} (from byte {offset} on)"
        )
    clips.end()
    for line in complaints.lines():
        report.add(line)


class _ClipChecks:
    """Checks segments one by one, and every clip when it has ended."""

    def __init__(self, expected: Expected, complaints: _Complaints):
        self._expected = expected
        self._complaints = complaints
        self._clip: list[schema.Segment] = []
        self._largest = -math.inf
        self._ended: set[str] = set()

    def add(self, segment: schema.Segment, where: str) -> None:
        if self._clip and segment.clip_id != self._clip[0].clip_id:
            self.end()
        self._check_segment(segment, where)
        self._check_place(segment, where)
        self._clip.append(segment)

    def _check_segment(self, segment: schema.Segment, where: str) -> None:
        frontend, complain = self._expected.frontend, self._complaints.add
        num_frames = len(segment.mixture)
        if not 0 < num_frames <= frontend.segment_frames:
            complain(f"{num_frames} frames", where)
        for name, mel in {"mixture": segment.mixture, **segment.stems}.items():
            if mel.shape != (num_frames, frontend.num_mels):
                complain(f"{name} has shape {mel.shape}", where)
            elif mel.dtype != stored_type(frontend):
                complain(f"{name} is stored as {mel.dtype}", where)
            elif not np.isfinite(mel).all():
                complain(f"{name} has values that are not finite", where)
            elif not frontend.is_waveform:  # of samples all values can be
                lowest = float(mel.min(initial=np.inf))
                if lowest < math.log(frontend.log_floor) - _ROUNDING:
                    complain(f"{name} lies below the log floor", where)
                self._largest = max(self._largest, float(mel.max(initial=-np.inf)))
        stored = tuple(source in segment.stems for source in self._expected.sources)
        if not len(segment.has_stem) == len(stored) == len(segment.is_active):
            complain("flags of another number of sources", where)
        elif stored != segment.is_active:
            complain("stored stems do not agree with is_active", where)
        elif any(a > h for a, h in zip(stored, segment.has_stem, strict=True)):
            complain("a source is active without a stem", where)
        labels = segment.labels
        if list(labels) != sorted(set(labels)) or any(
            not 0 <= label < self._expected.num_classes for label in labels
        ):
            complain(f"labels {labels} are not class numbers", where)
        if self._expected.task_type == "multiclass" and len(labels) != 1:
            complain(f"{len(labels)} labels instead of one", where)

    def _check_place(self, segment: schema.Segment, where: str) -> None:
        complain = self._complaints.add
        if segment.clip_id in self._ended:
            complain("the clip's segments do not follow one another", where)
        if segment.segment != len(self._clip):
            complain(f"segment {segment.segment} instead of {len(self._clip)}", where)
        if not self._clip:
            return
        first, before = self._clip[0], self._clip[-1]
        if (first.group, first.labels) != (segment.group, segment.labels):
            complain("group or labels differ within the clip", where)
        if len(before.mixture) != self._expected.frontend.segment_frames:
            complain("a segment follows one that is not whole", where)

    def end(self) -> None:
        """Ends the clip: what needs its length, and its last segment."""
        if not self._clip:
            return
        frontend, last = self._expected.frontend, self._clip[-1]
        where = f"clip {last.clip_id}"
        num_frames = sum(len(segment.mixture) for segment in self._clip)
        # Nothing was measured of waveforms.
        is_bounded = self._largest == -math.inf or (
            self._largest <= largest_log_mel(num_frames, frontend) + _ROUNDING
        )
        if not is_bounded:
            self._complaints.add(
                f"log-mels up to {self._largest:.2f}, more than the level rule "
                f"{frontend.level} allows",
                where,
            )
        is_tail = len(self._clip) > 1 and len(last.mixture) < frontend.segment_frames
        if [s.is_tail for s in self._clip] != [False] * (len(self._clip) - 1) + [
            is_tail
        ]:
            self._complaints.add("its segments' flags is_tail are wrong", where)
        if num_frames < frontend.window_frames:
            self._complaints.add(f"only {num_frames} frames", where)
        self._ended.add(last.clip_id)
        self._clip = []
        self._largest = -math.inf
