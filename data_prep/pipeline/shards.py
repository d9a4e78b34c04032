"""One shard as the unit of work: its clips decoded, cut and written."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cola_msa.audio import errors
from cola_msa.config.schema import config_hash
from cola_msa.records import index, schema
from cola_msa.records.stored import from_stored
from cola_msa.system.files import write_bytes
from cola_msa.values.reading import read_json
from data_prep.datasets.base import Clip, Failure, text
from data_prep.pipeline.plan import PrepConfig, Shard, sidecar_path
from data_prep.pipeline.segments import clip_segments
from data_prep.remote.inputs import Inputs
from data_prep.stems import clip as clip_lib
from data_prep.stems import separator as separator_lib
from data_prep.stems import waveforms

OnClip = Callable[[bool, float], None]


def read_sidecar(
    shard_path: pathlib.Path, error: type[Exception], advice: str
) -> dict[str, Any]:
    """Reads a shard's sidecar, and checks whatever is used of it.

    Args:
        shard_path: The shard.
        error: Class of what is raised.
        advice: What to do.

    Raises:
        FileError: If it is missing or damaged, or `error`.
    """
    return read_json(sidecar_path(shard_path), error, advice, check=_checked_sidecar)


def _checked_sidecar(content: dict[str, Any]) -> dict[str, Any]:
    def require(condition: bool, name: str) -> None:
        if not condition:
            raise ValueError(f"{name} is missing or of another kind")

    def is_number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) < 1e300

    for name in ("shard", "config_hash", "plan_hash"):
        require(isinstance(content.get(name), str), name)
    for name in ("weights_sha256", "sha256", "index_sha256"):
        require(isinstance(content.get(name), str | None), name)
    clips, failures = content.get("clips"), content.get("failures")
    require(isinstance(clips, list) and all(isinstance(c, str) for c in clips), "clips")
    require(
        isinstance(failures, list)
        and all(
            isinstance(failure, dict)
            and {"clip_id", "path", "split", "reason"} <= failure.keys()
            and all(isinstance(value, str | None) for value in failure.values())
            for failure in failures
        ),
        "failures",
    )
    require(is_number(content.get("seconds")), "seconds")
    moments = content.get("log_mel")
    require(
        isinstance(moments, dict)
        and {"count", "sum", "sum_of_squares"} <= moments.keys()
        and all(map(is_number, moments.values())),
        "log_mel",
    )
    correlations = content.get("stem_correlation", {})
    require(
        isinstance(correlations, dict)
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair))
            for pair in correlations.values()
        ),
        "stem_correlation",
    )
    return content


def build_shard(
    shard: Shard,
    plan_hash: str,
    config: PrepConfig,
    source: Inputs,
    output_dir: pathlib.Path,
    separator: separator_lib.Separator | None = None,
    on_clip: OnClip = lambda has_failed, seconds: None,
) -> dict[str, Any]:
    """Decodes a shard's clips and writes shard, index and sidecar.

    Args:
        shard: The clips and the shard's name.
        plan_hash: Goes into the sidecar.
        config: PrepConfig.
        source: Where clips' files come from.
        output_dir: Where shards go.
        separator: A loaded separator, where stems come from one.
        on_clip: Called after every clip with whether it failed, and its seconds.

    Returns:
        The sidecar: hashes of configuration, plan, shard and index, clips, failures,
        seconds, sums over mixtures, correlations of stems with their mixtures.

    Raises:
        OSError: If writing fails; what was finished before stays intact.
    """
    path = output_dir / shard.name
    sidecar: dict[str, Any] = {
        "shard": shard.name,
        "config_hash": config_hash(config),
        "plan_hash": plan_hash,
        "clips": [clip.clip_id for clip in shard.clips],
        "failures": [],
        "seconds": 0.0,
        "log_mel": {"count": 0, "sum": 0.0, "sum_of_squares": 0.0},
        "stem_correlation": {source: [0.0, 0] for source in config.sources},
        "weights_sha256": separator.weights_sha256 if separator else None,
    }

    def segments() -> Iterator[schema.Segment]:
        for clip in shard.clips:
            seconds = sidecar["seconds"]
            try:
                with source.files_of(clip, config.sources) as root:
                    found = _clip_records(clip, config, root, separator, sidecar)
            except errors.AudioError as error:
                source.check_presence(error)
                failure = Failure(clip.clip_id, text(clip.path), clip.split, str(error))
                sidecar["failures"].append(dataclasses.asdict(failure))
                on_clip(True, 0.0)
                continue
            yield from found
            on_clip(False, sidecar["seconds"] - seconds)

    def write_sidecar(digests: dict[str, str]) -> None:
        # Before the shard takes its name: a finished shard has its sidecar.
        sidecar.update(digests)
        text = json.dumps(sidecar, indent=1)
        write_bytes(sidecar_path(path), text.encode())

    frontend_hash = config_hash(config.frontend)
    index.write_shard(path, segments(), config.sources, frontend_hash, write_sidecar)
    return sidecar


def _clip_records(
    clip: Clip,
    config: PrepConfig,
    dataset_dir: pathlib.Path,
    separator: separator_lib.Separator | None,
    sidecar: dict[str, Any],
) -> Iterator[schema.Segment]:
    """A clip's records; what is wrong with its audio is raised before the first."""
    mixture, stems = clip_lib.load_clip(
        clip, config.sources, config.frontend, dataset_dir, config.stems_dir, separator
    )
    found = clip_segments(clip, mixture, stems, config)
    sidecar["seconds"] += mixture.num_samples / config.frontend.sample_rate_hz
    if separator:
        for source, stem in stems.items():
            value = waveforms.correlation(stem, mixture)
            if value is not None:
                sidecar["stem_correlation"][source][0] += value
                sidecar["stem_correlation"][source][1] += 1
    return _counted(found, sidecar["log_mel"], (mixture, *stems.values()))


def _counted(
    found: Iterator[schema.Segment],
    moments: dict[str, Any],
    used: Sequence[waveforms.Waveform],
) -> Iterator[schema.Segment]:
    for segment in found:
        values = from_stored(segment.mixture).astype(np.float64)
        moments["count"] += values.size
        moments["sum"] += float(values.sum())
        # Not a dot product: BLAS' result may depend on its number of threads.
        moments["sum_of_squares"] += float(np.square(values).sum())
        yield segment
    for waveform in used:
        waveform.close()
