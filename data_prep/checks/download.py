"""Checks a downloaded dataset: files, sizes, durations, counts. No TensorFlow here."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from cola_msa.audio import decode, errors
from cola_msa.system import processes
from cola_msa.system.console import ProgressBar
from cola_msa.system.errors import FileError, UserError
from cola_msa.system.files import write_json
from cola_msa.system.folders import check_file
from cola_msa.values.reading import read_json
from data_prep.datasets.base import Clip, Dataset, DatasetError, IndexOptions, text

# No codec of these datasets needs less: 8 kbit/s is MP3's lowest rate.
_LEAST_BYTES_PER_SECOND = 1000
_STAT_THREADS = 16
_CLIPS_PER_TASK = 16
_TOLERANCE_SECONDS = 0.2


class ValidationError(UserError):
    """The check could not end."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file that is not as it should be.

    Attributes:
        path: Relative to the dataset's root.
        kind: `missing`, `unlabelled`, `empty`, `damaged`, `short` or `metadata`.
        reason: What is wrong, in one line.
        known: What is known of the published file, where it is broken too; else "".
    """

    path: str
    kind: str
    reason: str
    known: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        num_expected: Clips by the metadata.
        num_found: Of these, the files that exist.
        num_bytes: Their size.
        clips_by_split: Files that exist, by split.
        num_classes: Classes by the metadata.
        is_published: The metadata has the published counts.
        has_metadata: There are published ones at all; a user's own folders have none.
        problems: What is wrong, by path.
        hours: Sum of the durations; None where they were not read.
        formats: Files by format, rate and channels; empty likewise.
        remarks: What was left out, a line each.
    """

    num_expected: int
    num_found: int
    num_bytes: int
    clips_by_split: dict[str, int]
    num_classes: int
    is_published: bool
    has_metadata: bool
    problems: tuple[Problem, ...]
    hours: float | None
    formats: dict[str, int]
    remarks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Scanned:
    """One clip's header, or what is wrong with its file."""

    path: str
    kind: str = ""
    reason: str = ""
    seconds: float = 0.0
    form: str = ""


def validate(
    dataset: Dataset,
    dataset_dir: pathlib.Path,
    with_durations: bool = True,
    num_workers: int = 1,
    show_progress: bool = True,
    split_dir: str | None = None,
) -> Report:
    """Compares a dataset's files with its metadata.

    Args:
        dataset: The dataset module.
        dataset_dir: The dataset's root.
        with_durations: Open every file, too: durations, and whether it is whole by
            its container's own bookkeeping. Nothing is decoded but what does not say
            how long it is.
        num_workers: Processes for that; 1 works in this one.
        show_progress: Whether to draw progress bars.
        split_dir: Folder of published split files; None for `dataset_dir`.

    Returns:
        The Report.

    Raises:
        DatasetError: If the metadata is missing, or not this dataset's.
        ValidationError: If a worker died.
    """
    if not dataset_dir.is_dir():
        raise DatasetError(f"--dataset_dir={dataset_dir} is not a folder")
    options = IndexOptions(test_share=dataset.test_share)
    if split_dir:
        options = dataclasses.replace(
            options, split_dir=os.path.relpath(split_dir, dataset_dir)
        )
    found = dataset.index(dataset_dir, options)
    problems = []
    for failure in found.failures:
        kind = "metadata"
        is_lost = "does not exist" in failure.reason
        if is_lost or (failure.split and "cannot be read" in failure.reason):
            kind = "missing"
        elif not failure.split:
            kind = "unlabelled"
        problems.append(Problem(failure.path, kind, failure.reason))
    sizes = _sizes(found.clips, dataset_dir, show_progress)
    to_scan = []
    for clip, size in zip(found.clips, sizes, strict=True):
        reason = _size_reason(clip, size)
        if reason:
            kind = "short" if size > 0 else "empty" if size == 0 else "missing"
            problems.append(Problem(clip.path, kind, reason))
        else:
            to_scan.append(clip)
    scanned: list[_Scanned] = []
    if with_durations:
        scanned = list(_scan(to_scan, dataset_dir, num_workers, show_progress))
        problems += [Problem(s.path, s.kind, s.reason) for s in scanned if s.kind]
    problems = [
        dataclasses.replace(p, known=dataset.known_broken.get(p.path, ""))
        if p.kind not in ("unlabelled", "metadata")
        else p
        for p in sorted(problems, key=lambda p: p.path)
    ]
    num_extra = sum(problem.kind == "unlabelled" for problem in problems)
    return Report(
        num_expected=len(found.clips) + len(found.failures) - num_extra,
        num_found=sum(size >= 0 for size in sizes),
        num_bytes=sum(size for size in sizes if size > 0),
        clips_by_split=dict(Counter(clip.split for clip in found.clips)),
        num_classes=len(found.class_names),
        is_published=found.is_published,
        has_metadata=bool(dataset.homepage),
        problems=tuple(problems),
        hours=sum(s.seconds for s in scanned) / 3600 if with_durations else None,
        formats=dict(Counter(s.form for s in scanned if s.form).most_common()),
        remarks=found.remarks,
    )


def _sizes(
    clips: Sequence[Clip], dataset_dir: pathlib.Path, show_progress: bool
) -> list[int]:
    """Bytes of every clip's file; -1 where there is none."""

    def size(clip: Clip) -> int:
        try:
            return os.stat(dataset_dir / clip.path).st_size
        except OSError:
            return -1

    # Threads: on network drives a stat takes milliseconds.
    with concurrent.futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        found = pool.map(size, clips)
        return list(
            ProgressBar(
                found, "sizes", len(clips), unit="file", disable=not show_progress
            )
        )


def _size_reason(clip: Clip, size: int) -> str:
    if size < 0:
        return "a link to nothing, or not readable"
    if size == 0:
        return "the file is empty (0 bytes)"
    least = (clip.expected_seconds or 0) * _LEAST_BYTES_PER_SECOND
    if size < least:
        return f"{size} bytes cannot hold {clip.expected_seconds:g} s"
    return ""


def _scan(
    clips: Sequence[Clip],
    dataset_dir: pathlib.Path,
    num_workers: int,
    show_progress: bool,
) -> Iterator[_Scanned]:
    with ProgressBar(
        desc="durations", total=len(clips), unit="file", disable=not show_progress
    ) as bar:
        num_wrong = 0
        for part in _scan_parts(clips, dataset_dir, num_workers):
            num_wrong += sum(bool(scanned.kind) for scanned in part)
            bar.set_postfix(wrong=num_wrong, refresh=False)
            bar.update(len(part))
            yield from part


def _scan_parts(
    clips: Sequence[Clip], dataset_dir: pathlib.Path, num_workers: int
) -> Iterator[list[_Scanned]]:
    parts = [
        clips[start : start + _CLIPS_PER_TASK]
        for start in range(0, len(clips), _CLIPS_PER_TASK)
    ]
    if num_workers <= 1 or len(parts) <= 1:
        for part in parts:
            yield scan_clips(part, dataset_dir)
        return
    died = ValidationError("a worker process died; use --num_workers=1")
    with processes.worker_pool(min(num_workers, len(parts)), died) as submit:
        for future in [submit(scan_clips, part, dataset_dir) for part in parts]:
            yield future.result()


def scan_clips(clips: Sequence[Clip], dataset_dir: pathlib.Path) -> list[_Scanned]:
    """Opens files; decodes those alone that do not say how long they are.

    Args:
        clips: Clips whose files exist.
        dataset_dir: The dataset's root.

    Returns:
        One result a clip, in order.
    """
    return [_scan_clip(clip, dataset_dir) for clip in clips]


def _scan_clip(clip: Clip, dataset_dir: pathlib.Path) -> _Scanned:
    try:
        with decode.AudioReader(dataset_dir / clip.path) as reader:
            info = reader.info
            seconds = info.seconds
            if seconds is None:  # nothing says it: a stream, or one from a pipe
                num_frames = sum(block.shape[1] for block in reader.blocks())
                seconds = num_frames / info.rate_hz
    except errors.AudioError as error:
        kind = "short" if isinstance(error, errors.TruncatedError) else "damaged"
        return _Scanned(clip.path, kind, str(error))
    form = f"{info.format}, {info.rate_hz} Hz, {info.num_channels} channel(s)"
    expected = clip.expected_seconds
    if expected is not None and seconds < expected - _TOLERANCE_SECONDS:
        reason = f"{seconds:.2f} s of {expected:.2f} s in the dataset's metadata"
        return _Scanned(clip.path, "short", reason, seconds, form)
    return _Scanned(clip.path, seconds=seconds, form=form)


def describe(report: Report, log: Callable[[str], None], num_shown: int = 5) -> None:
    """Prints a report.

    Args:
        report: The report.
        log: Takes one line.
        num_shown: Paths shown of every kind of problem.
    """
    splits = ", ".join(f"{s} {n}" for s, n in sorted(report.clips_by_split.items()))
    log(
        f"files: {report.num_found} of {report.num_expected} ({splits}), "
        f"{report.num_bytes / 1e9:.3f} GB; {report.num_classes} classes"
    )
    if report.hours is not None:
        log(f"audio: {report.hours:.2f} h")
    for form, count in report.formats.items():
        log(f"  {count} {form}")
    if report.has_metadata:
        log(
            "metadata: the published counts"
            if report.is_published
            else "metadata: not the published one, so its counts were not compared"
        )
    for remark in report.remarks:
        log(text(remark))
    for problem in report.problems:
        if problem.known:
            log(f"known: {problem.path}: {problem.reason}; {problem.known}")
    kinds = Counter(p.kind for p in report.problems if not p.known)
    for kind, count in kinds.items():
        mine = [p for p in report.problems if p.kind == kind and not p.known]
        for problem in mine[:num_shown]:
            log(f"{kind}: {problem.path}: {problem.reason}")
        if count > num_shown:
            log(f"{kind}: {count - num_shown} more")


def check_output(path: pathlib.Path) -> None:
    """Refuses to write over anything but an earlier list of problems."""

    def is_list(file: pathlib.Path) -> bool:
        try:
            found = read_json(file, kind=list)
        except FileError:
            return False
        return all(
            isinstance(problem, dict) and {"path", "kind", "reason"} <= problem.keys()
            for problem in found
        )

    if not _is_stream(path):
        check_file(path, is_list, "a list of problems")


def write_problems(path: pathlib.Path, found: Sequence[Problem]) -> None:
    """Writes all problems as a JSON list."""
    problems = [dataclasses.asdict(problem) for problem in found]
    if _is_stream(path):
        path.write_text(json.dumps(problems, indent=1) + "\n", encoding="utf-8")
    else:
        write_json(path, problems)


def _is_stream(path: pathlib.Path) -> bool:
    """Whether it is a pipe or a device, such as /dev/stdout."""
    return path.exists() and not path.is_file() and not path.is_dir()
