"""Runs a plan: resume, shards, manifest."""

import contextlib
import dataclasses
import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from cola_msa.config.schema import config_hash, differing_fields, from_dict, to_dict
from cola_msa.records import index as index_lib
from cola_msa.records import index_checks, manifests, schema
from cola_msa.remote.addresses import SCRATCH_PREFIX
from cola_msa.system import files, folders
from cola_msa.system.console import tell
from cola_msa.system.errors import FileError, UserError
from cola_msa.system.locks import Lock
from cola_msa.values.reading import read_json, read_limited
from data_prep.datasets.base import Dataset, DatasetError, named_failures, text
from data_prep.pipeline import manifest, shards
from data_prep.pipeline import plan as plan_lib
from data_prep.pipeline.jobs import Job, PreparationError
from data_prep.pipeline.processes import run_items
from data_prep.pipeline.progress import Progress
from data_prep.remote.places import STATE_NAME, Places, upload_shard
from data_prep.stems import separator as separator_lib

_LOCK_NAME = ".lock"
_MAX_INDEX_BYTES = 1 << 30  # of one shard

# (job, shards to build, workers, advance, refresh): see `beam_runner.run`.
Advance = Callable[[int, int, float], None]
Refresh = Callable[[], None]
Engine = Callable[[Job, list[plan_lib.Shard], int, Advance, Refresh], None]


def prepare(
    dataset: Dataset,
    config: plan_lib.PrepConfig,
    dataset_dir: pathlib.Path,
    output_dir: pathlib.Path,
    num_workers: int = 1,
    show_progress: bool = True,
    log: Callable[[str], None] = tell,
    stems_cache: pathlib.Path | None = None,
    engine: Engine | None = None,
    places: Places | None = None,
) -> dict[str, Any]:
    """Prepares a dataset, or what is left of it.

    Args:
        dataset: The dataset module.
        config: PrepConfig.
        dataset_dir: The dataset's root.
        output_dir: Where shards, indices and the manifest go.
        num_workers: Processes; 1 works in this one. Shards do not depend on it.
        show_progress: Whether to draw a progress bar.
        log: Takes one line.
        stems_cache: Where separated stems are kept, or None. Shards do not depend on
            it.
        engine: Builds the shards in place of this machine's processes.
        places: What the two folders stand for, where they are stand-ins.

    Returns:
        The manifest.

    Raises:
        DatasetError: If the dataset is not what it should be.
        PreparationError: If the folder holds another preparation, or a worker died.
        SeparatorError: If the separator cannot be loaded.
        OSError: If the output cannot be written.
    """
    places = places or Places(dataset_dir, output_dir)
    if not dataset_dir.is_dir():
        raise DatasetError(f"--dataset_dir={dataset_dir} is not a folder")
    found = dataset.index(dataset_dir, config.options)
    if places.unreadable:
        more = named_failures(places.unreadable)
        found = dataclasses.replace(found, failures=found.failures + more)
    for remark in found.remarks:
        log(text(remark))
    plan = plan_lib.make_plan(found.clips, config)
    if not plan.shards:
        raise DatasetError(
            f"{dataset_dir}: none of {len(found.failures)} clips can be used, first: "
            + (
                f"{found.failures[0].path}: {found.failures[0].reason}"
                if found.failures
                else "there are no clips"
            )
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    job = Job(
        config,
        plan.hash,
        dataset_dir,
        output_dir,
        stems_cache,
        places.dataset_url,
        places.output_url,
    )
    with lock(output_dir):
        _check_state(job, len(found.clips))
        if (done := _finished_manifest(job, plan, log)) is not None:
            shown = places.shown(str(output_dir))
            log(f"{shown} is already prepared with this configuration")
            return done
        left = [shard for shard in plan.shards if not is_finished(shard, job)]
        log(
            f"{dataset.name}: {len(found.clips)} clips of "
            f"{places.shown(str(dataset_dir))}, "
            f"{len(plan.shards)} shards, {len(plan.shards) - len(left)} finished"
        )
        (output_dir / schema.MANIFEST_NAME).unlink(missing_ok=True)
        places.begin()
        num_clips = sum(len(shard.clips) for shard in left)
        with Progress(num_clips, len(found.failures), show_progress) as progress:
            if engine is not None:
                engine(job, left, num_workers, progress.advance, places.refresh)
            else:
                run_items(job, left, build, num_workers, progress)
        places.refresh()
        content = manifest.write(dataset, found, plan, config, output_dir)
        places.publish(content["splits"])
        return content


def failed_share(content: dict[str, Any]) -> float:
    """Share of a manifest's planned clips that failed."""
    return len(content["failures"]) / max(1, content["num_clips_planned"])


@contextlib.contextmanager
def lock(output_dir: pathlib.Path) -> Iterator[None]:
    """Keeps a second run out of the folder; a killed run's lock vanishes with it."""
    busy = f"another preparation is writing to {output_dir}"
    with Lock(output_dir / _LOCK_NAME, busy, PreparationError):
        yield


def _check_state(job: Job, num_clips: int) -> None:
    """Refuses a folder that holds something else; else notes what it holds."""
    path = job.output_dir / STATE_NAME
    if path.exists():
        advice = "use another --output_dir, or delete this one"
        before, plan_hash, num_before = read_json(
            path, PreparationError, advice, check=_parse_state
        )
        if fields := differing_fields(before, job.config):
            raise PreparationError(
                f"{job.output_dir} was prepared with another configuration (before != "
                f"now): {'; '.join(fields)}; {advice}"
            )
        if plan_hash != job.plan_hash:
            raise PreparationError(
                f"{job.output_dir}: the dataset's files or metadata have changed since "
                f"({num_before} clips then, {num_clips} now); {advice}"
            )
        return
    if any(job.output_dir.glob("*.tfrecord")):
        raise PreparationError(
            f"{job.output_dir} holds shards of unknown origin; use another --output_dir"
        )
    names = (schema.MANIFEST_NAME, "index-*.npz", "*.idx.npz")
    folders.check_names(job.output_dir, names, lambda _: False, "a preparation")
    content = {
        "config": to_dict(job.config),
        "plan_hash": job.plan_hash,
        "num_clips": num_clips,
    }
    files.write_json(path, content)


def _parse_state(state: dict[str, Any]) -> tuple[plan_lib.PrepConfig, str, int]:
    """Configuration, the plan's hash and the number of clips of a preparation."""
    before = from_dict(plan_lib.PrepConfig, state["config"])
    return before, str(state["plan_hash"]), int(state["num_clips"])


def is_finished(shard: plan_lib.Shard, job: Job) -> bool:
    """Whether shard, index and a sidecar of this very job exist, at full length."""
    path = job.output_dir / shard.name
    index_path = index_lib.index_path(path)
    try:
        sidecar = shards.read_sidecar(path, FileError, "it is made anew")
        content = read_limited(index_path, _MAX_INDEX_BYTES)
        index = index_checks.parse_index(content, index_path, "it is made anew")
        size = path.stat().st_size
    except (OSError, UserError):
        return False
    # None where an older version wrote it.
    digest = sidecar.get("index_sha256")
    if digest not in (None, hashlib.sha256(content).hexdigest()):
        return False
    return (
        sidecar["config_hash"] == config_hash(job.config)
        and sidecar["plan_hash"] == job.plan_hash
        and sidecar["clips"] == [clip.clip_id for clip in shard.clips]
        and index.shard_bytes.tolist() == [size]
    )


def _finished_manifest(
    job: Job, plan: plan_lib.Plan, log: Callable[[str], None]
) -> dict[str, Any] | None:
    """The manifest, where all that it names is finished; None where work is left.

    A damaged one is no loss, since it is made of what the shards' sidecars say.
    """
    path = job.output_dir / schema.MANIFEST_NAME
    if not path.exists() or not all(is_finished(s, job) for s in plan.shards):
        return None
    try:
        content, _ = manifests.read_manifest(path)
    except schema.DataError as error:
        log(f"it is written anew: {text(str(error).removesuffix(manifests.ADVICE))}")
        return None
    found = content.get("config_hash"), (content.get("plan") or {}).get("hash")
    return content if found == (config_hash(job.config), plan.hash) else None


def build(
    job: Job,
    shard: plan_lib.Shard,
    separator: separator_lib.Separator | None,
    on_clip: shards.OnClip,
) -> None:
    """One unit of work: builds a shard; leaves nothing half written where it fails.

    Args:
        job: What every worker needs to know.
        shard: The shard.
        separator: A loaded separator, where stems come from one.
        on_clip: Called after every clip with whether it failed, and its seconds.

    Raises:
        PreparationError: If TensorFlow could not write it.
        OSError: If something else could not.
    """
    path = job.output_dir / shard.name
    if job.output_url is not None:
        with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX) as scratch:
            folder = pathlib.Path(scratch)
            here = dataclasses.replace(job, output_dir=folder, output_url=None)
            build(here, shard, separator, on_clip)
            here_path = folder / shard.name
            index, sidecar = (
                make(here_path).name
                for make in (index_lib.index_path, plan_lib.sidecar_path)
            )
            upload_shard(job.output_url, folder, (shard.name, index, sidecar))
        return
    try:
        shards.build_shard(
            shard,
            job.plan_hash,
            job.config,
            job.inputs,
            job.output_dir,
            separator,
            on_clip,
        )
    except tf.errors.OpError as error:
        raise PreparationError(
            f"{path} could not be written: {error.message}; finished shards are "
            "kept: run the same command again once that is mended"
        ) from None
    except OSError as error:
        if error.errno and not error.filename:
            # What a full disk raises says nothing of where.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
