"""Prepared folders and audio of noise, at any size, for the benchmarks."""

import pathlib
from typing import Any

import numpy as np

from cola_msa.config.schema import FrontendConfig, config_hash, to_dict
from cola_msa.records import index, schema
from cola_msa.system.files import file_sha256

SOURCES = ("vocals", "drums", "bass", "other")
_ACTIVE_SHARE = 0.57  # as in the built-in music
_CLIPS_PER_SHARD = 50


def _segments(clip: int, num_segments: int, has_stems: bool, num_classes: int):
    random = np.random.default_rng(clip)
    for number in range(num_segments):
        # Drawn for every array alike: what is read matters here, not what it says.
        mel = random.normal(-3, 2, (392, 64)).astype(np.float16)
        active = tuple(
            bool(v) for v in random.random(len(SOURCES)) < _ACTIVE_SHARE * has_stems
        )
        yield schema.Segment(
            clip_id=f"clip{clip:06d}",
            group=f"song{clip:06d}",
            segment=number,
            is_tail=False,
            labels=(clip % num_classes,),
            mixture=mel,
            stems={
                name: mel for name, flag in zip(SOURCES, active, strict=True) if flag
            },
            is_active=active if has_stems else (),
            has_stem=(True,) * len(SOURCES) if has_stems else (),
        )


def write_prepared(
    data_dir: pathlib.Path,
    splits: dict[str, int],
    num_segments: int = 7,
    has_stems: bool = True,
    num_classes: int = 8,
) -> pathlib.Path:
    """Writes a prepared folder; `splits` gives each split a number of clips."""
    frontend_hash = config_hash(FrontendConfig())
    sources = SOURCES if has_stems else ()
    data_dir.mkdir(parents=True)
    manifest_splits = {}
    first = 0
    for split, num_clips in splits.items():
        clips = np.arange(first, first + num_clips)
        groups = np.array_split(clips, max(1, -(-num_clips // _CLIPS_PER_SHARD)))
        names, parts = [], []
        digests: list[dict[str, str]] = []
        for number, group in enumerate(groups):
            name = f"{split}-{number:05d}-of-{len(groups):05d}.tfrecord"
            segments = (
                segment
                for clip in group
                for segment in _segments(
                    int(clip), num_segments, has_stems, num_classes
                )
            )
            parts.append(
                index.write_shard(
                    data_dir / name, segments, sources, frontend_hash, digests.append
                )
            )
            names.append(name)
        path = data_dir / f"index-{split}.npz"
        index.merge_indices(parts, sources).save(path)
        manifest_splits[split] = {
            "shards": names,
            "num_clips": num_clips,
            "shard_sha256": [found["sha256"] for found in digests],
            "index_sha256": file_sha256(path),
        }
        first += num_clips
    write_manifest(data_dir, manifest_splits, sources, num_classes)
    return data_dir


def write_manifest(
    data_dir: pathlib.Path,
    splits: dict[str, Any],
    sources: tuple[str, ...] = SOURCES,
    num_classes: int = 8,
) -> None:
    """Writes the manifest of such a folder."""
    schema.write_manifest(
        data_dir,
        {
            "schema_version": schema.SCHEMA_VERSION,
            "dataset": "fma",
            "task_type": "multiclass",
            "frontend": to_dict(FrontendConfig()),
            "frontend_hash": config_hash(FrontendConfig()),
            "sources": list(sources),
            "class_names": [f"class{number}" for number in range(num_classes)],
            "splits": splits,
            "log_mel_mean": -3.0,
            "log_mel_std": 2.0,
        },
    )


def write_mp3s(folder: pathlib.Path, num_files: int, seconds: float) -> list[str]:
    """Writes stereo MP3s of noise bursts at 44.1 kHz; returns their paths."""
    import soundfile

    rate_hz = 44100
    folder.mkdir(parents=True)
    paths = []
    for number in range(num_files):
        random = np.random.default_rng(number)
        samples = random.normal(0, 0.1, (int(seconds * rate_hz), 2))
        samples *= np.abs(np.sin(np.arange(len(samples)) / 9000))[:, np.newaxis]
        path = folder / f"{number:04d}.mp3"
        soundfile.write(path, samples.astype(np.float32), rate_hz, format="MP3")
        paths.append(str(path))
    return paths
