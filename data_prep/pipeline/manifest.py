"""The manifest: what was prepared, how, and what failed."""

import dataclasses
import math
import pathlib
from importlib import metadata
from typing import Any

from cola_msa.config.schema import config_hash, to_dict
from cola_msa.records import index as index_lib
from cola_msa.records import schema
from cola_msa.records.manifests import MOMENTS, summarize, total_moments
from cola_msa.system import files
from cola_msa.system.errors import UserError
from data_prep.datasets.base import Dataset, DatasetIndex
from data_prep.pipeline.plan import Plan, PrepConfig, Shard
from data_prep.pipeline.shards import read_sidecar

_PACKAGES = ("tensorflow", "numpy", "soundfile", "soxr")
_SEPARATOR_PACKAGES = ("torch", "openunmix")
_REBUILD = "delete it and give the command again: finished shards are kept"


class ResumeError(UserError):
    """Finished shards that do not belong together."""


def write(
    dataset: Dataset,
    found: DatasetIndex,
    plan: Plan,
    config: PrepConfig,
    output_dir: pathlib.Path,
) -> dict[str, Any]:
    """Merges the shards' indices and writes them and the manifest.

    Args:
        dataset: The dataset module.
        found: Its clips and classes.
        plan: All of whose shards are finished.
        config: PrepConfig.
        output_dir: Where the shards lie.

    Returns:
        The manifest.

    Raises:
        ResumeError: If shards were separated with different weights.
    """
    sidecars = {
        shard.name: read_sidecar(output_dir / shard.name, ResumeError, _REBUILD)
        for shard in plan.shards
    }
    separator = _describe_separator(config, list(sidecars.values()))
    by_split: dict[str, list[Shard]] = {}
    for shard in plan.shards:
        by_split.setdefault(shard.split, []).append(shard)
    failures = [dataclasses.asdict(f) for f in (*found.failures, *plan.failures)]
    for sidecar in sidecars.values():
        failures += sidecar["failures"]
    failures = [_named_if_known(failure, dataset) for failure in failures]
    splits: dict[str, Any] = {}
    class_counts: dict[str, dict[str, int]] = {}
    for split, shards in by_split.items():
        index = index_lib.merge_indices(
            [
                index_lib.Index.load(index_lib.index_path(output_dir / shard.name))
                for shard in shards
            ],
            config.sources,
        )
        index_path = output_dir / f"index-{split}.npz"
        index.save(index_path)
        splits[split] = summarize(index, config.sources, config.frontend)
        splits[split]["index_sha256"] = files.file_sha256(index_path)
        # None for shards that an older version wrote.
        splits[split]["shard_sha256"] = [
            sidecars[shard.name].get("sha256") for shard in shards
        ]
        splits[split]["hours"] = round(
            sum(sidecars[shard.name]["seconds"] for shard in shards) / 3600, 4
        )
        totals = index.label_matrix(len(found.class_names)).sum(axis=0)
        class_counts[split] = {
            name: int(total)
            for name, total in zip(found.class_names, totals, strict=True)
        }
    sums = [sidecars[shard.name]["log_mel"] for shard in by_split.get("train", [])]
    moments = total_moments([tuple(part[name] for name in MOMENTS) for part in sums])
    content = {
        "schema_version": schema.SCHEMA_VERSION,
        "dataset": dataset.name,
        "task_type": dataset.task_type,
        "citation": dataset.citation,
        "licence": dataset.licence,
        "frontend": to_dict(config.frontend),
        "frontend_hash": config_hash(config.frontend),
        "level": config.frontend.level,
        "silence_threshold": config.silence_threshold,
        "separator": separator,
        "sources": list(config.sources),
        "class_names": list(found.class_names),
        "class_counts": class_counts,
        **moments,
        "splits": splits,
        "failures": failures,
        "num_clips_planned": num_planned(found),
        "versions": _versions(config),
        "config_hash": config_hash(config),
        "config": to_dict(config),
        "plan": {
            "hash": plan.hash,
            "seed": config.options.seed,
            "num_shards": len(plan.shards),
        },
    }
    return schema.write_manifest(output_dir, content)


def _named_if_known(failure: dict[str, str], dataset: Dataset) -> dict[str, str]:
    """Says so where a failed clip is broken in the published dataset itself."""
    what = dataset.known_broken.get(failure["path"])
    if what is None or not failure["split"]:  # without a split: no row names it
        return failure
    reason = f"known to be broken in the published dataset ({what}): "
    return failure | {"reason": reason + failure["reason"]}


def num_planned(found: DatasetIndex) -> int:
    """All clips that a dataset should have, those found amiss included."""
    return len(found.clips) + len(found.failures)


def _describe_separator(
    config: PrepConfig, sidecars: list[dict]
) -> dict[str, Any] | None:
    if not config.sources:
        return None
    if config.stems != "separator":
        return {"name": "stems_dir"}
    digests = {sidecar["weights_sha256"] for sidecar in sidecars}
    if len(digests) > 1:
        raise ResumeError(
            "shards in this folder were separated with different weights of "
            f"{config.separator}; use another --output_dir"
        )
    correlations = {}
    for source in config.sources:
        pairs = [sidecar["stem_correlation"][source] for sidecar in sidecars]
        count = sum(pair[1] for pair in pairs)
        total = math.fsum(pair[0] for pair in pairs)
        correlations[source] = round(total / count, 4) if count else None
    return {
        "name": config.separator,
        "weights_sha256": digests.pop() if digests else None,
        "niter": config.niter,
        "seed": config.options.seed,
        "stem_correlation": correlations,
    }


def _versions(config: PrepConfig) -> dict[str, str]:
    packages: tuple[str, ...] = _PACKAGES
    if config.stems == "separator":
        packages += _SEPARATOR_PACKAGES
    return {package: metadata.version(package) for package in packages}
