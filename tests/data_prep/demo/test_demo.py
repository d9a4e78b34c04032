"""Tests of the built-in music."""

import csv
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pytest
import soundfile

from data_prep.demo import jobs, render
from data_prep.demo.composition import compose, styles
from data_prep.demo.config import SAMPLE_RATE_HZ, SPLIT_FOLDERS, SPLITS, DemoConfig
from data_prep.demo.trees import fma, nsynth, write
from data_prep.demo.trees import mtat as mtat_lib
from data_prep.demo.trees.write import write_demo

TINY = DemoConfig(
    seed=3,
    num_songs=(12, 1, 3),
    clips_per_song=1,
    clip_seconds=4.0,
    num_tracks_per_genre=(1, 1, 1),
    track_seconds=1.0,
    num_notes_per_family=(2, 1, 1),
    untagged_share=0.1,
)
STYLE_NAMES = [style.name for style in styles.STYLES]
SEGMENT_SAMPLES = 62720


def _digests(root: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    write_demo(root, TINY, num_workers=1)
    return root


@pytest.fixture(scope="module")
def annotations(demo_dir):
    with open(demo_dir / "mtat" / "annotations_final.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _render(style_name: str, index: int, clip_seconds: float = 29.0):
    rng = jobs.make_rng(11, 0, index)
    style = styles.STYLES[STYLE_NAMES.index(style_name)]
    song = compose.compose_song(style, clip_seconds, rng)
    num_samples = int(clip_seconds * SAMPLE_RATE_HZ)
    return song, render.render_song(song, num_samples, SAMPLE_RATE_HZ, rng)


@pytest.fixture(scope="module")
def rendered_songs():
    return {name: [_render(name, index) for index in range(2)] for name in STYLE_NAMES}


def test_has_eight_styles_and_more():
    assert len(set(STYLE_NAMES)) == len(styles.STYLES) >= styles.NUM_GENRES == 8


@pytest.mark.parametrize("style_name", STYLE_NAMES)
def test_songs_are_sound(rendered_songs, style_name):
    for song, rendered in rendered_songs[style_name]:
        mixture = rendered.mixture()
        assert mixture.shape == (29 * SAMPLE_RATE_HZ,)
        assert np.isfinite(mixture).all()
        assert 0.1 < np.abs(mixture).max() < 1.0
        low_bpm, high_bpm = song.style.tempo_bpm
        assert low_bpm <= song.tempo_bpm <= high_bpm


def test_silence_shares_are_like_real_music(rendered_songs):
    active = {source: [] for source in compose.SOURCES}
    for songs in rendered_songs.values():
        for _, rendered in songs:
            for source, stem in rendered.stems.items():
                segments = stem[: 7 * SEGMENT_SAMPLES].reshape(7, -1)
                active[source].append(np.abs(segments).mean(1) >= 0.01)
    shares = {source: np.mean(flags) for source, flags in active.items()}
    assert 0.75 < shares["other"] <= 1.0
    for source in ("vocals", "drums", "bass"):
        assert 0.3 < shares[source] < 0.7, shares


@pytest.mark.parametrize(
    ("slower", "faster"), [("ambient", "electronic"), ("hiphop", "rock")]
)
def test_styles_differ_in_tempo(rendered_songs, slower, faster):
    slow = max(song.tempo_bpm for song, _ in rendered_songs[slower])
    fast = min(song.tempo_bpm for song, _ in rendered_songs[faster])
    assert slow < fast


def test_songs_of_a_style_differ(rendered_songs):
    songs = [song for song, _ in rendered_songs["rock"]]
    assert len({song.kit for song in songs}) == len(songs)
    assert len({song.singer for song in songs}) == len(songs)
    assert len({song.tempo_bpm for song in songs}) == len(songs)


def test_stems_on_disk_sum_to_the_mixture():
    job = mtat_lib.list_jobs(TINY)[0]
    rng = jobs.make_rng(TINY.seed, mtat_lib.STREAM, job.index)
    song = compose.compose_song(styles.STYLES[job.label], 4.0, rng)
    rendered = render.render_song(song, 64000, SAMPLE_RATE_HZ, rng)
    total = sum(stem.astype(np.float64) for stem in rendered.stems.values())
    np.testing.assert_allclose(rendered.mixture(), total, atol=1e-6)


def test_written_stems_are_the_rendered_ones(demo_dir):
    job = mtat_lib.list_jobs(TINY)[0]
    rng = jobs.make_rng(TINY.seed, mtat_lib.STREAM, job.index)
    song = compose.compose_song(styles.STYLES[job.label], 4.0, rng)
    rendered = render.render_song(song, 64000, SAMPLE_RATE_HZ, rng)
    (clip_dir,) = (demo_dir / "mtat_stems" / "0").iterdir()
    for source, stem in rendered.stems.items():
        waveform, rate_hz = soundfile.read(clip_dir / f"{source}.flac")
        assert rate_hz == SAMPLE_RATE_HZ
        np.testing.assert_allclose(waveform, stem, atol=2**-23)


def test_mtat_mixture_has_the_stems_length_and_content(demo_dir, annotations):
    for row in annotations:
        mixture, rate_hz = soundfile.read(demo_dir / "mtat" / row["mp3_path"])
        assert rate_hz == SAMPLE_RATE_HZ
        assert mixture.shape == (64000,)
        stems_dir = demo_dir / "mtat_stems" / row["mp3_path"].removesuffix(".mp3")
        total = sum(
            soundfile.read(stems_dir / f"{source}.flac")[0]
            for source in compose.SOURCES
        )
        assert np.corrcoef(mixture, total)[0, 1] > 0.9


@pytest.mark.parametrize("split", SPLITS)
def test_mtat_folders_hold_the_splits(annotations, split):
    folders = [row["mp3_path"][0] for row in annotations]
    for folder in SPLIT_FOLDERS[split]:
        assert folders.count(folder) == 1


def test_mtat_tags_say_what_sounds(demo_dir, annotations):
    for row in annotations:
        tags = {name for name, value in row.items() if value == "1"} - {"clip_id"}
        if not tags:
            continue
        stems_dir = demo_dir / "mtat_stems" / row["mp3_path"].removesuffix(".mp3")
        for source in ("vocals", "drums"):
            stem = soundfile.read(stems_dir / f"{source}.flac")[0]
            is_active = np.abs(stem[:SEGMENT_SAMPLES]).mean() >= 0.01
            assert (source in tags) == is_active
            assert (f"no {source}" in tags) != is_active


def test_mtat_tables_list_the_same_clips(demo_dir, annotations):
    with open(demo_dir / "mtat" / "clip_info_final.csv", encoding="utf-8") as file:
        info = list(csv.DictReader(file, delimiter="\t"))
    assert [row["mp3_path"] for row in info] == [r["mp3_path"] for r in annotations]
    assert [row["clip_id"] for row in info] == [row["clip_id"] for row in annotations]


def test_untagged_clips_have_no_tag(tmp_path):
    config = dataclasses.replace(TINY, clip_seconds=2.0, untagged_share=1.0)
    rows = mtat_lib.write_song(tmp_path, config, mtat_lib.list_jobs(config)[0])
    assert [row["tags"] for row in rows] == [[]]


def test_clips_of_a_song_share_a_folder(tmp_path):
    config = dataclasses.replace(TINY, clip_seconds=2.0, clips_per_song=3)
    rows = mtat_lib.write_song(tmp_path, config, mtat_lib.list_jobs(config)[5])
    assert len(rows) == 3
    assert {row["mp3_path"][0] for row in rows} == {"5"}
    assert [row["start"] for row in rows] == [0, 2, 4]


@pytest.mark.parametrize("split", SPLITS)
def test_nsynth_split_is_complete(demo_dir, split):
    folder = demo_dir / "nsynth" / f"nsynth-{split}"
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    families = {fields["instrument_family_str"] for fields in examples.values()}
    assert families == set(nsynth.FAMILIES)
    assert len({fields["note"] for fields in examples.values()}) == len(examples)
    for name, fields in examples.items():
        waveform, rate_hz = soundfile.read(folder / "audio" / f"{name}.wav")
        assert (rate_hz, waveform.shape) == (SAMPLE_RATE_HZ, (64000,))
        assert np.abs(waveform).max() > 0.1
        family = list(nsynth.FAMILIES)[fields["instrument_family"]]
        assert family == fields["instrument_family_str"]
        assert len(fields["qualities"]) == len(nsynth.QUALITIES)


def test_nsynth_splits_share_no_instrument(demo_dir):
    instruments = [
        {
            fields["instrument_str"].rsplit("_", 1)[0] + f"-{fields['instrument']}"
            for fields in json.loads(
                (demo_dir / "nsynth" / f"nsynth-{split}" / "examples.json").read_text()
            ).values()
        }
        for split in SPLITS
    ]
    assert sum(map(len, instruments)) == len(set.union(*instruments))


def test_nsynth_test_timbres_are_unseen():
    listed = nsynth.list_jobs(DemoConfig())
    patches = [
        nsynth.draw_instrument(DemoConfig(), job)[0]
        for job in listed
        if list(nsynth.FAMILIES)[job.label] != "vocal"
    ]
    assert len(set(patches)) == len(patches)


def test_fma_table_has_three_header_rows(demo_dir):
    path = demo_dir / "fma" / "fma_metadata" / "tracks.csv"
    with open(path, encoding="utf-8", newline="") as file:
        groups, names, third, *rows = csv.reader(file)
    columns = list(zip(groups, names, strict=True))
    assert third[0] == "track_id" and not any(third[1:])
    split = columns.index(("set", "split"))
    genre = columns.index(("track", "genre_top"))
    assert len(rows) == 3 * styles.NUM_GENRES
    assert {(row[split], row[genre]) for row in rows} == {
        (name, style.title)
        for name in ("training", "validation", "test")
        for style in styles.STYLES[: styles.NUM_GENRES]
    }
    for row in rows:
        waveform, rate_hz = soundfile.read(fma.track_path(demo_dir, int(row[0])))
        assert rate_hz == 22050
        assert waveform.shape == (rate_hz, 2)
        assert np.abs(waveform).max() < 1.0


def test_trees_share_no_song():
    streams = {mtat_lib.STREAM, nsynth.STREAM, fma.STREAM}
    assert len(streams) == 3
    first, second = (jobs.make_rng(0, stream, 0).random() for stream in (1, 3))
    assert first != second


def test_result_does_not_depend_on_the_workers(demo_dir, tmp_path):
    write_demo(tmp_path, TINY, num_workers=2)
    assert _digests(tmp_path) == _digests(demo_dir)


def test_finished_tree_is_reused(demo_dir, monkeypatch):
    monkeypatch.setattr(write, "_TREES", None)
    record = write_demo(demo_dir, TINY)
    assert record["counts"]["mtat"]["num_clips"] == 16


def test_other_options_are_refused(demo_dir):
    with pytest.raises(ValueError, match="other options"):
        write_demo(demo_dir, dataclasses.replace(TINY, seed=4))


def test_stopped_run_continues(demo_dir, tmp_path, monkeypatch):
    written = []

    def stop_after_seven(output_dir, config, job):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(job.index)
        return mtat_lib.write_song(output_dir, config, job)

    (mtat,) = (entry for entry in write._TREES if entry[0] == "mtat")
    stopping = (*mtat[:2], stop_after_seven, mtat[3])
    with monkeypatch.context() as patch:
        patch.setattr(write, "_TREES", (stopping,))
        with pytest.raises(KeyboardInterrupt):
            write_demo(tmp_path, TINY, num_workers=1)
    assert not (tmp_path / "demo.json").exists()
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "mtat").rglob("*.mp3")}
    assert len(stamps) == 7
    monkeypatch.setattr(write, "_TREES", (mtat,))
    write_demo(tmp_path, TINY, num_workers=1)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert _digests(tmp_path / "mtat") == _digests(demo_dir / "mtat")
    assert not (tmp_path / ".work").exists()


@pytest.mark.parametrize(("scale", "num_train"), [(0.001, 12), (0.5, 80), (2.0, 320)])
def test_scale_keeps_every_folder_filled(scale, num_train):
    config = DemoConfig().scaled(scale)
    assert config.num_songs[0] == num_train
    assert config.num_songs[1] >= 1 and config.num_songs[2] >= 3
    assert min(config.num_tracks_per_genre + config.num_notes_per_family) >= 1


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        DemoConfig().scaled(0.0)
