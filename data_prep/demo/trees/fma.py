"""The FMA tree: tracks whose genre is their style, half of them in stereo."""

from __future__ import annotations

import csv
import io
import pathlib
from typing import Any

import numpy as np

from data_prep.demo import jobs, render
from data_prep.demo.composition import compose, programs, styles
from data_prep.demo.config import SPLITS, TRACK_SAMPLE_RATE_HZ, DemoConfig

STREAM = 3
SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test"}
# FMA's ids have gaps and spread over many folders.
FIRST_TRACK_ID = 2
TRACK_ID_STEP = 613
WIDTH_SECONDS = 0.011
COLUMNS: tuple[tuple[str, str], ...] = (
    ("album", "id"),
    ("album", "title"),
    ("artist", "id"),
    ("artist", "name"),
    ("set", "split"),
    ("set", "subset"),
    ("track", "bit_rate"),
    ("track", "duration"),
    ("track", "genre_top"),
    ("track", "genres"),
    ("track", "genres_all"),
    ("track", "information"),
    ("track", "license"),
    ("track", "number"),
    ("track", "tags"),
    ("track", "title"),
)


def list_jobs(config: DemoConfig) -> list[jobs.Job]:
    """Lists the tracks, genre by genre within each split."""
    result: list[jobs.Job] = []
    for split, num_tracks in zip(SPLITS, config.num_tracks_per_genre, strict=True):
        for number in range(num_tracks):
            for label in range(styles.NUM_GENRES):
                result.append(jobs.Job("fma", len(result), split, label, number))
    return result


def _pan(rendered: render.RenderedSong, rng: np.random.Generator) -> np.ndarray:
    """Spreads the accompaniment over two channels, float32 [samples, 2]."""
    other = rendered.stems["other"]
    centre = rendered.mixture() - other
    position = float(rng.uniform(-0.5, 0.5))
    width = float(rng.uniform(0.0, 0.35))
    delay = int(WIDTH_SECONDS * rendered.sample_rate_hz)
    side = np.zeros_like(other)
    side[delay:] = width * other[:-delay]
    stereo = np.stack(
        [
            centre + (1.0 - position) * other + side,
            centre + (1.0 + position) * other - side,
        ],
        axis=1,
    )
    peak = max(float(np.abs(stereo).max()), 1e-6)
    return stereo * np.float32(min(1.0, render.MAX_MIXTURE_PEAK / peak))


def write_track(
    output_dir: pathlib.Path,
    config: DemoConfig,
    job: jobs.Job,
    font: str | None = None,
) -> dict[str, Any]:
    """Composes, renders and writes one track.

    Args:
        output_dir: root of all trees.
        config: the music's options.
        job: the track.
        font: the sound font's file, if samples play it.

    Returns:
        Its row: id and what describes it.
    """
    rng = jobs.make_rng(config.seed, STREAM, job.index)
    style = styles.STYLES[job.label]
    num_samples = round(config.track_seconds * TRACK_SAMPLE_RATE_HZ)
    song = compose.compose_song(style, config.track_seconds, rng)
    if font:
        song = programs.choose_programs(song, config.sampled_share, rng)
    rendered = render.render_song(song, num_samples, TRACK_SAMPLE_RATE_HZ, rng, font)
    track_id = FIRST_TRACK_ID + TRACK_ID_STEP * job.index
    path = track_path(output_dir, track_id)
    # Old records are mono, in every genre and split alike.
    is_stereo = job.index_in_split % 2 == 0
    waveform = _pan(rendered, rng) if is_stereo else rendered.mixture()
    jobs.write_audio(path, waveform, TRACK_SAMPLE_RATE_HZ)
    return {
        "track_id": track_id,
        "bit_rate": round(path.stat().st_size * 8 / config.track_seconds),
        "information": f"{song.num_beats}/4 time\n{song.tempo_bpm:.0f} beats a minute",
        "title": f"{style.title} No. {job.index + 1}",
    }


def track_path(output_dir: pathlib.Path, track_id: int) -> pathlib.Path:
    """FMA's path of a track below the root of all trees."""
    name = f"{track_id:06d}"
    return output_dir / "fma" / "fma_small" / name[:3] / f"{name}.mp3"


def write_metadata(
    output_dir: pathlib.Path, config: DemoConfig, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Writes tracks.csv with FMA's three header rows, and genres.csv.

    Args:
        output_dir: root of all trees.
        config: the music's options.
        rows: of `write_track`, in the order of `list_jobs`.

    Returns:
        Counts for the record.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *(group for group, _ in COLUMNS)])
    writer.writerow(["", *(name for _, name in COLUMNS)])
    writer.writerow(["track_id", *("" for _ in COLUMNS)])
    for job, row in zip(list_jobs(config), rows, strict=True):
        genre_id = job.label + 1
        style = styles.STYLES[job.label]
        values = {
            ("album", "id"): genre_id,
            ("album", "title"): f"Built-in {style.title}",
            ("artist", "id"): job.index + 1,
            ("artist", "name"): f"Generator {job.index + 1}",
            ("set", "split"): SPLIT_NAMES[job.split],
            ("set", "subset"): "small",
            ("track", "bit_rate"): row["bit_rate"],
            ("track", "duration"): round(config.track_seconds),
            ("track", "genre_top"): style.title,
            ("track", "genres"): f"[{genre_id}]",
            ("track", "genres_all"): f"[{genre_id}]",
            # Real descriptions have line breaks inside quotes, too.
            ("track", "information"): row["information"],
            ("track", "license"): "Apache-2.0",
            ("track", "number"): job.index_in_split + 1,
            ("track", "tags"): "[]",
            ("track", "title"): row["title"],
        }
        writer.writerow([row["track_id"], *(values[column] for column in COLUMNS)])
    metadata_dir = output_dir / "fma" / "fma_metadata"
    jobs.write_text(metadata_dir / "tracks.csv", text.getvalue())
    num_tracks = sum(config.num_tracks_per_genre)
    genres = ["genre_id,#tracks,parent,title,top_level"]
    for label, style in enumerate(styles.STYLES[: styles.NUM_GENRES]):
        genres.append(f"{label + 1},{num_tracks},0,{style.title},{label + 1}")
    jobs.write_text(metadata_dir / "genres.csv", "\n".join(genres) + "\n")
    per_split = zip(SPLITS, config.num_tracks_per_genre, strict=True)
    return {
        "num_tracks": {split: count * styles.NUM_GENRES for split, count in per_split},
        "genres": [style.title for style in styles.STYLES[: styles.NUM_GENRES]],
    }
