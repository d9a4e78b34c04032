"""Makes the stems of a data set's clips once, into a cache."""

import json
import os
import pathlib
from typing import Any

from cola_msa.audio import errors
from cola_msa.config.schema import FrontendConfig
from cola_msa.remote import addresses
from cola_msa.system.console import tell
from cola_msa.system.errors import UsageError
from cola_msa.system.files import sync
from cola_msa.system.folders import check_file
from data_prep.datasets.base import (
    Clip,
    Dataset,
    DatasetError,
    Failure,
    IndexOptions,
    check_stem_splits,
    text,
)
from data_prep.remote import places

_BATCH_CLIPS = 8
_FIRST_WORDS = b'{"clip_id": '  # of a list of failures


def wanted_clips(
    dataset: Dataset, dataset_dir: pathlib.Path, values: Any
) -> list[Clip]:
    """The clips of the splits that get stems, each path once."""
    splits = tuple(values.stem_splits)
    check_stem_splits(splits)
    split_dir = values.split_dir and places.relative(
        values.split_dir, values.dataset_dir
    )
    options = IndexOptions(
        seed=values.seed,
        stem_splits=splits,
        test_share=dataset.test_share,
        split_dir=split_dir,
    )
    found = dataset.index(dataset_dir, options)
    tell(*found.remarks)
    clips = {clip.path: clip for clip in found.clips if clip.split in splits}
    if not clips:
        raise DatasetError(f"--stem_splits={','.join(splits)}: no clip is in these")
    return list(clips.values())


def check_stems_cache(dataset: Dataset, dataset_dir: str, cache: str) -> None:
    """Refuses a cache within a dataset whose clips are all audio that lies there.

    Its stems would be clips of the next run, and have stems in turn.

    Args:
        dataset: The dataset module.
        dataset_dir: Folder or address.
        cache: Folder of the cache, which need not exist.

    Raises:
        UsageError: If the dataset has no metadata that names its clips, and the
            cache is its folder or lies within.
    """
    if dataset.metadata or addresses.is_address(dataset_dir):
        return
    root = pathlib.Path(os.path.realpath(dataset_dir))
    if pathlib.Path(os.path.realpath(cache)).is_relative_to(root):
        raise UsageError(
            f"--stems_cache={cache} lies within --dataset_dir={dataset_dir}, all of "
            "whose audio is clips: its stems would be taken for some; name a folder "
            "elsewhere"
        )


def separate_clips(job: Any, clips: Any, separator: Any, on_clip: Any) -> None:
    """Unit of work: makes the stems of some clips that the cache lacks.

    Failures go to a file of their own, so that they survive a killed run.

    Args:
        job: runner.Job; its output_dir is the cache.
        clips: Clips.
        separator: A separator with a cache.
        on_clip: Called after every clip with whether it failed, and its seconds.
    """
    frontend = job.config.frontend
    source = job.inputs
    for clip in clips:
        try:
            seconds = 0.0
            with source.files_of(clip, ()) as root:
                if not separator.cache.has(root / clip.path):
                    mixture, stems = separator.separate_file(
                        root / clip.path, clip.expected_seconds, frontend
                    )
                    seconds = mixture.num_samples / frontend.sample_rate_hz
                    for waveform in (mixture, *stems.values()):
                        waveform.close()
        except errors.AudioError as error:
            source.check_presence(error)
            failure = Failure(clip.clip_id, text(clip.path), clip.split, str(error))
            path = failures_path(job.output_dir, job.config.dataset)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(failure.__dict__) + "\n")
            on_clip(True, 0.0)
            continue
        on_clip(False, seconds)


def failures_path(cache: pathlib.Path, dataset_name: str) -> pathlib.Path:
    """The file in a cache that names the clips that have no stems, and why."""
    return cache / f"failures-{dataset_name}.jsonl"


def _is_failures(path: pathlib.Path) -> bool:
    """Whether a file is a list of failures, by its first line; a kill may cut it."""
    with open(path, "rb") as file:
        return file.read(len(_FIRST_WORDS)) == _FIRST_WORDS


def fill_cache(
    dataset: Dataset,
    clips: list[Clip],
    opened: places.Places,
    cache: pathlib.Path,
    values: Any,
) -> list[dict[str, str]]:
    """Fills the cache; returns the failures."""
    from data_prep.pipeline import jobs, plan, processes, runner
    from data_prep.pipeline.progress import Progress
    from data_prep.stems import cache as cache_lib
    from data_prep.stems import separator as separator_lib

    path = failures_path(cache, dataset.name)
    check_file(path, _is_failures, "a list of data_prep.separate's failures")
    name = values.separator
    sources = separator_lib.separator_sources(name, pathlib.Path(name))
    if name not in separator_lib.NAMES:
        name = places.relative(name, values.dataset_dir)
    config = plan.PrepConfig(
        dataset=dataset.name,
        frontend=FrontendConfig(),
        sources=sources,
        stems="separator",
        separator=name,
        niter=values.niter,
        separator_dtype=values.separator_dtype,
        options=IndexOptions(seed=values.seed),
    )
    cache.mkdir(parents=True, exist_ok=True)
    job = jobs.Job(
        config, "", opened.dataset_dir, cache, cache, dataset_url=opened.dataset_url
    )
    units = [
        tuple(clips[k : k + _BATCH_CLIPS]) for k in range(0, len(clips), _BATCH_CLIPS)
    ]
    with runner.lock(cache), Progress(len(clips)) as progress:
        cache_lib.StemCache(cache, {}).remove_unfinished()
        path.write_text("")
        num_workers = values.num_workers or len(os.sched_getaffinity(0))
        processes.run_items(job, units, separate_clips, num_workers, progress)
        sync(cache)
    return [json.loads(line) for line in path.read_text().splitlines()]
