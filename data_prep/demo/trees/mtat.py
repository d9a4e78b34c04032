"""The MagnaTagATune tree, with the stems of every clip beside it."""

from __future__ import annotations

import csv
import io
import pathlib
from typing import Any

import numpy as np

from data_prep.demo import jobs, render
from data_prep.demo.composition import compose, programs, styles
from data_prep.demo.config import SAMPLE_RATE_HZ, SPLIT_FOLDERS, SPLITS, DemoConfig

STREAM = 1
SEGMENT_SAMPLES = 62720
# A source plays in a clip where it passes the silence gate in some segment; one
# instrument of several may be softer.
SOURCE_GATE = 0.01
PART_GATE = 0.005
FAST_BPM = 138.0
SLOW_BPM = 84.0
LOUD_LEVEL = 0.095
QUIET_LEVEL = 0.05
ECHO_LEVEL = 0.4
ORCHESTRA = {"strings", "violin", "flute", "clarinet", "horns", "harp", "cello"}
MANNER_TAGS = {"rap": "rap", "growl": "growl", "choir": "choir", "opera": "opera"}


def list_jobs(config: DemoConfig) -> list[jobs.Job]:
    """Lists the songs of the tree, styles taking turns within each split."""
    songs = [
        (split, number)
        for split, num_songs in zip(SPLITS, config.num_songs, strict=True)
        for number in range(num_songs)
    ]
    return [
        jobs.Job("mtat", index, split, number % len(styles.STYLES), number)
        for index, (split, number) in enumerate(songs)
    ]


def _peak_level(waveform: np.ndarray) -> float:
    """Highest mean absolute value over the segments of a clip."""
    starts = range(0, max(len(waveform) - SEGMENT_SAMPLES, 0) + 1, SEGMENT_SAMPLES)
    return max(
        float(np.abs(waveform[start : start + SEGMENT_SAMPLES]).mean())
        for start in starts
    )


def tag_clip(
    song: compose.Song,
    stems: dict[str, np.ndarray],
    parts: list[tuple[str, np.ndarray]],
) -> list[str]:
    """Derives a clip's tags from what sounds in it.

    Args:
        song: the song that it was cut from.
        stems: source -> float32 [samples] of the clip.
        parts: (instrument, float32 [samples]) of the clip.

    Returns:
        Tags, sorted.
    """
    tags = {song.style.name}
    has = {source: _peak_level(stem) >= SOURCE_GATE for source, stem in stems.items()}
    heard = {name for name, part in parts if _peak_level(part) >= PART_GATE}
    tags |= heard
    if heard & {"acoustic guitar", "electric guitar"}:
        tags.add("guitar")
    if len(heard & ORCHESTRA) >= 2:
        tags.add("orchestra")
    if sum(has.values()) == 1 and len(heard) <= 1:
        tags.add("solo")
    if has["bass"]:
        tags.add("bass")
    tags.add("drums" if has["drums"] else "no drums")
    tags.add("vocals" if has["vocals"] else "no vocals")
    if has["drums"] and song.style.is_pumping:
        tags.add("beat")
    if has["vocals"]:
        tags.add(MANNER_TAGS.get(song.manner, "singing"))
        tags.add("female voice" if song.singer.is_female else "male voice")
    if song.tempo_bpm >= FAST_BPM:
        tags.add("fast")
    elif song.tempo_bpm <= SLOW_BPM:
        tags.add("slow")
    if song.num_beats == 3:
        tags.add("waltz")
    if song.reverb_level >= ECHO_LEVEL:
        tags.add("echo")
    level = float(np.abs(np.sum(list(stems.values()), axis=0)).mean())
    if level >= LOUD_LEVEL:
        tags.add("loud")
    elif level <= QUIET_LEVEL:
        tags.add("quiet")
    return sorted(tags)


def write_song(
    output_dir: pathlib.Path,
    config: DemoConfig,
    job: jobs.Job,
    font: str | None = None,
) -> list[dict[str, Any]]:
    """Composes, renders and writes one song.

    Args:
        output_dir: root of all trees.
        config: the music's options.
        job: the song.
        font: the sound font's file, if samples play it.

    Returns:
        A row for each clip: relative path, tags, title, start and end in seconds.
    """
    rng = jobs.make_rng(config.seed, STREAM, job.index)
    style = styles.STYLES[job.label]
    clip_samples = round(config.clip_seconds * SAMPLE_RATE_HZ)
    num_samples = config.clips_per_song * clip_samples
    song = compose.compose_song(style, num_samples / SAMPLE_RATE_HZ, rng)
    if font:
        song = programs.choose_programs(song, config.sampled_share, rng)
    rendered = render.render_song(song, num_samples, SAMPLE_RATE_HZ, rng, font)
    folders = SPLIT_FOLDERS[job.split]
    folder = folders[job.index_in_split % len(folders)]
    title = f"{style.name}-{job.index:04d}"
    rows = []
    for clip in range(config.clips_per_song):
        cut = slice(clip * clip_samples, (clip + 1) * clip_samples)
        stems = {source: stem[cut] for source, stem in rendered.stems.items()}
        parts = [(name, part[cut]) for name, part in rendered.parts]
        start = round(clip * config.clip_seconds)
        stop = round((clip + 1) * config.clip_seconds)
        relative = f"{folder}/{title}-{start}-{stop}"
        is_untagged = bool(rng.random() < config.untagged_share)
        tags = [] if is_untagged else tag_clip(song, stems, parts)
        for source, stem in stems.items():
            path = output_dir / "mtat_stems" / relative / f"{source}.flac"
            jobs.write_audio(path, stem, SAMPLE_RATE_HZ)
        mixture = np.stack(list(stems.values())).sum(axis=0)
        jobs.write_audio(
            output_dir / "mtat" / f"{relative}.mp3", mixture, SAMPLE_RATE_HZ
        )
        rows.append(
            {
                "mp3_path": f"{relative}.mp3",
                "tags": tags,
                "title": title,
                "style": style.name,
                "start": start,
                "stop": stop,
                "clip": clip,
            }
        )
    return rows


def _to_csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n"
    )
    writer.writerows(rows)
    return text.getvalue()


def write_metadata(
    output_dir: pathlib.Path, config: DemoConfig, rows: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    """Writes the two tables of the tree.

    Args:
        output_dir: root of all trees.
        config: the music's options.
        rows: of `write_song`, in the order of `list_jobs`.

    Returns:
        Counts for the record.
    """
    clips = [clip for song in rows for clip in song]
    tags = sorted({tag for clip in clips for tag in clip["tags"]})
    annotations: list[list[Any]] = [["clip_id", *tags, "mp3_path"]]
    info: list[list[Any]] = [
        "clip_id track_number title artist album url segmentStart segmentEnd "
        "original_url mp3_path".split()
    ]
    for number, clip in enumerate(clips):
        clip_id = number + 1
        flags = [int(tag in clip["tags"]) for tag in tags]
        annotations.append([clip_id, *flags, clip["mp3_path"]])
        times = [clip["start"], clip["stop"]]
        names = [clip["title"], "built-in music", clip["style"], ""]
        info.append([clip_id, 1, *names, *times, "", clip["mp3_path"]])
    tree = output_dir / "mtat"
    jobs.write_text(tree / "annotations_final.csv", _to_csv(annotations))
    jobs.write_text(tree / "clip_info_final.csv", _to_csv(info))
    return {
        "num_songs": dict(zip(SPLITS, config.num_songs, strict=True)),
        "num_clips": len(clips),
        "num_tags": len(tags),
        "num_untagged_clips": sum(not clip["tags"] for clip in clips),
    }
