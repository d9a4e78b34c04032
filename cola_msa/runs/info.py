"""What stands beside every score: which encoder it is, and what it was trained for."""

import contextlib
import dataclasses
import pathlib
from typing import Any

from cola_msa.config.schema import Config
from cola_msa.records.manifests import read_manifest
from cola_msa.records.schema import MANIFEST_NAME, DataError
from cola_msa.runs import directory, kept


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """What stands beside every score: which encoder, and what it was trained for.

    Attributes:
        encoder: `trained`, `untrained` (the network that the run started from) or
            `supervised` (fresh weights, trained on the task's labels alone).
        run: Name of its run.
        preset: The run's preset.
        source: The run's `--source`.
        step: Step of the checkpoint (64 updates in the paper).
        updates: Optimizer updates up to then.
        pairs: Pairs up to then, all replicas together.
        batches: The run's `--batches`.
        augment: The run's `--augment`.
        updates_per_step: Updates a step.
        batch_size: Pairs a mini-batch and replica.
        separator: Name of the separator that made the run's stems; None where it is
            not known, or there are none.
        manifest_hash: Of the data that the run was trained on.
        statistics: What its batch-norm statistics come from: `anchors` or `pairs`.
        init_from: Kept checkpoint that its first weights came from, whose own pairs are
            not counted; None where they were fresh.
        framework: The run's, see `cola_msa.frameworks`.
    """

    encoder: str = "trained"
    run: str = ""
    preset: str = ""
    source: str = ""
    step: int | None = None
    updates: int | None = None
    pairs: int | None = None
    batches: str | None = None
    augment: str | None = None
    updates_per_step: int | None = None
    batch_size: int | None = None
    separator: str | None = None
    manifest_hash: str | None = None
    statistics: str | None = None
    init_from: str | None = None
    framework: str = Config.framework


def encoder_info(
    run_dir: pathlib.Path,
    step: int | str | None,
    encoder: str,
    statistics: str | None = None,
) -> EncoderInfo:
    """What a kept checkpoint was trained for.

    Args:
        run_dir: The run.
        step: A kept step, `best`, or None for the last.
        encoder: `trained`, `untrained`, `supervised`, or `spectra` (no network).
        statistics: Batch-norm statistics; None means the run's.

    Raises:
        RunError: If there is no such run or step.
    """
    run = directory.load_run(run_dir)
    config = directory.load_config(run_dir)
    if encoder != "trained":
        age, is_fresh = 0, True  # imported weights have no kept step 0
    else:
        path = kept.kept_path(run_dir, step)
        age, is_fresh = kept.kept_step(path), path.stem == "step-00000000"
    train = config.train
    updates = age * train.updates_per_step
    return EncoderInfo(
        encoder=encoder,
        run=run_dir.resolve().name,
        preset=config.preset,
        source=train.source,
        step=age,
        updates=updates,
        pairs=updates * train.pairs_per_update(run.get("num_replicas", 1)),
        batches=train.batches,
        augment=train.augment,
        updates_per_step=train.updates_per_step,
        batch_size=train.batch_size,
        separator=_separator(run["data"]),
        manifest_hash=run["data"].get("manifest_hash"),
        statistics=statistics or train.statistics_inputs,
        # Step 0 is a network with fresh weights in every run.
        init_from=None if is_fresh else run.get("init", {}).get("path"),
        framework=config.framework,
    )


def _separator(data: dict[str, Any]) -> str | None:
    """Name of the separator of a run's stems.

    The run's config.json may say it; else the manifest of its data does, as long as it
    is still there and the same.
    """
    found = data.get("separator")
    if found is None:
        folder = pathlib.Path(data.get("data_dir") or "")
        # It may be gone, or another's by now: then nothing is known.
        with contextlib.suppress(DataError):
            manifest, found_hash = read_manifest(folder / MANIFEST_NAME)
            if found_hash == data.get("manifest_hash"):
                found = manifest.get("separator")
    return found.get("name") if isinstance(found, dict) else found
