"""Songs that a sound font plays."""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from cola_msa.system.errors import FileError, UserError
from data_prep.demo.composition import compose, programs, styles
from data_prep.demo.config import SPLITS, ConfigError, DemoConfig
from data_prep.demo.synthesis import soundfont
from data_prep.demo.synthesis.patch import SampledTone
from data_prep.demo.trees import write as write_lib
from data_prep.demo.trees.write import RECORD_NAME, write_demo
from tests.helpers.soundfonts import needs_fluidsynth, write_soundfont

SMALL = DemoConfig(
    seed=3,
    num_songs=(4, 1, 1),
    clip_seconds=4.0,
    num_tracks_per_genre=(1, 1, 1),
    track_seconds=3.0,
    num_notes_per_family=(2, 1, 1),
)
RATE_HZ = 16000


@pytest.fixture(scope="module")
def font(tmp_path_factory):
    return write_soundfont(tmp_path_factory.mktemp("font") / "sine.sf2")


def composed(style="rock", seed=0):
    chosen = next(s for s in styles.STYLES if s.name == style)
    return compose.compose_song(chosen, 8.0, np.random.default_rng(seed))


def test_every_part_of_every_style_finds_its_programs():
    rng = np.random.default_rng(0)
    for style in styles.STYLES:
        for seed in range(12):
            song = composed(style.name, seed)
            played = programs.choose_programs(song, 1.0, rng)
            parts = [*played.other, *([played.bass] if played.bass else [])]
            before = [*song.other, *([song.bass] if song.bass else [])]
            for part, old in zip(parts, before, strict=True):
                assert part.patch.sampled.bank == 0
                assert 0 <= part.patch.sampled.program <= 127
                known = programs.BY_NAME | programs.FURTHER
                assert part.patch.sampled.program in known[part.patch.name]
                assert part.notes == old.notes and part.role == old.role
            assert played.sampled_kit.bank == 128
            for hit in song.hits:
                assert hit.drum in soundfont.DRUM_KEYS


def test_a_share_of_the_parts_stays_synthesised():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(60):
        played = programs.choose_programs(composed("pop", seed), 0.25, rng)
        found += [part.patch.sampled is not None for part in played.other]
    assert 0.1 < np.mean(found) < 0.45
    song = composed("pop", 1)
    assert programs.choose_programs(song, 0.0, rng) == song


def test_splits_share_no_program():
    rng = np.random.default_rng(0)
    for family in programs.FAMILY_PROGRAMS:
        drawn = [
            {
                programs.draw_family_tone(family, split, number, rng).program
                for number in range(8)
            }
            for split in range(3)
        ]
        assert all(drawn)
        assert not drawn[0] & drawn[1] | drawn[0] & drawn[2] | drawn[1] & drawn[2]


def test_without_the_library_it_says_what_to_install(monkeypatch, font, tmp_path):
    def missing(name):
        raise ImportError("Couldn't find the FluidSynth library.")

    soundfont._binding.cache_clear()
    monkeypatch.setattr(soundfont.importlib, "import_module", missing)
    with pytest.raises(UserError, match="apt-get install .*pip install"):
        write_demo(tmp_path, SMALL, 1, font)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    soundfont._binding.cache_clear()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match="gone.sf2.*no such file"):
        write_demo(tmp_path / "out", SMALL, 1, tmp_path / "gone.sf2")


def test_unknown_trees_are_refused():
    with pytest.raises(ConfigError, match="mtat, nsynth, fma, not gtzan"):
        DemoConfig(trees=("mtat", "gtzan"))
    with pytest.raises(ConfigError, match="no tree"):
        DemoConfig(trees=())


def test_only_the_named_trees_are_written(tmp_path):
    config = dataclasses.replace(SMALL, trees=("nsynth",))
    record = write_demo(tmp_path, config, 1)
    assert list(record["counts"]) == ["nsynth"]
    assert not (tmp_path / "mtat").exists() and not (tmp_path / "fma").exists()
    with pytest.raises(FileError, match="other options"):
        write_demo(tmp_path, SMALL, 1)


def test_records_of_synthesised_music_are_as_they_were(tmp_path):
    config = dataclasses.replace(SMALL, num_songs=(1, 1, 1))
    options = write_lib._make_options(config)
    assert "soundfont" not in options and "trees" not in options
    assert "sampled_share" not in options


@needs_fluidsynth
def test_a_note_has_its_pitch_and_lasts_as_long_as_it_is_held(font):
    tone = SampledTone(0, 0)
    waveform = soundfont.play(font, tone, [(0.5, 1.0, 81, 0.8)], 2 * RATE_HZ, RATE_HZ)
    assert waveform.dtype == np.float32 and waveform.shape == (2 * RATE_HZ,)
    assert np.abs(waveform[: RATE_HZ // 2 - 100]).max() < 1e-4
    held = waveform[int(0.6 * RATE_HZ) : int(1.4 * RATE_HZ)]
    spectrum = np.abs(np.fft.rfft(held * np.hanning(len(held))))
    pitch_hz = np.argmax(spectrum) * RATE_HZ / len(held)
    assert pitch_hz == pytest.approx(882.0, abs=3.0)  # an octave above the root
    late = np.abs(waveform[int(1.8 * RATE_HZ) :]).max()
    assert late < 0.05 * np.abs(held).max()


@needs_fluidsynth
def test_many_loud_notes_are_not_cut_off(font):
    tone = SampledTone(0, 0)
    chord = [(0.0, 1.0, key, 1.0) for key in range(40, 100)]
    waveform = soundfont.play(font, tone, chord, RATE_HZ, RATE_HZ)
    assert np.abs(waveform).max() > 1.0
    clipped = np.mean(np.abs(waveform) > 0.98 * np.abs(waveform).max())
    assert clipped < 0.01


@needs_fluidsynth
def test_what_the_process_did_before_changes_nothing(font):
    """FluidSynth dithers 16 bits by the C library's random numbers."""
    script = (
        "import ctypes, sys\n"
        "from data_prep.demo.synthesis import soundfont\n"
        "from data_prep.demo.synthesis.patch import SampledTone\n"
        "libc = ctypes.CDLL(None)\n"
        "for _ in range(int(sys.argv[2])): libc.rand()\n"
        "strike = [(0.0, 0.5, 69, 0.5)]\n"
        "tone = SampledTone(0, 0)\n"
        "sound = soundfont.play(sys.argv[1], tone, strike, 16000, 16000)\n"
        "sys.stdout.write(sound.tobytes().hex())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, str(font), count],
            capture_output=True,
            check=True,
        ).stdout
        for count in ("0", "7")
    }
    assert len(found) == 1


@needs_fluidsynth
def test_peaks_are_heard_where_they_are(font):
    strike = [(0.0, 1.0, 69, 0.5)]
    plain = soundfont.play(font, SampledTone(0, 0), strike, RATE_HZ, RATE_HZ)
    at = SampledTone(0, 0, ((441.0, 6.0),))
    away = SampledTone(0, 0, ((6000.0, 6.0),))
    level = np.sqrt(np.mean(plain[2000:14000] ** 2))
    for tone, decibels in ((at, 6.0), (away, 0.0)):
        found = soundfont.play(font, tone, strike, RATE_HZ, RATE_HZ)[2000:14000]
        ratio = np.sqrt(np.mean(found**2)) / level
        assert 20 * np.log10(ratio) == pytest.approx(decibels, abs=0.7)


@needs_fluidsynth
def test_a_program_that_the_font_lacks_is_its_banks_first(font):
    strike = [(0.0, 1.0, 69, 0.5)]
    first = soundfont.play(font, SampledTone(0, 0), strike, RATE_HZ, RATE_HZ)
    lacking = soundfont.play(font, SampledTone(0, 77), strike, RATE_HZ, RATE_HZ)
    np.testing.assert_array_equal(first, lacking)


@needs_fluidsynth
@pytest.mark.parametrize("kind", ["text", "cut", "no drums"])
def test_what_is_no_general_midi_font_is_refused(kind, font, tmp_path):
    path = tmp_path / "font.sf2"
    if kind == "text":
        path.write_text("no sound font")
    elif kind == "cut":
        path.write_bytes(font.read_bytes()[:300])
    else:
        write_soundfont(path, ((0, 0),))
    with pytest.raises(FileError, match="drum kit" if kind == "no drums" else "reads"):
        write_demo(tmp_path / "out", SMALL, 1, path)
    assert not (tmp_path / "out").exists()


@needs_fluidsynth
def test_all_trees_are_played_and_stems_sum_to_mixtures(font, tmp_path):
    config = dataclasses.replace(SMALL, sampled_share=0.8)
    record = write_demo(tmp_path / "one", config, 1, font)
    assert len(record["options"]["soundfont"]) == 64
    for folder in sorted((tmp_path / "one/mtat_stems").glob("*/*")):
        stems = [soundfile.read(path)[0] for path in sorted(folder.glob("*.flac"))]
        mixture = np.sum(stems, axis=0)
        decoded = soundfile.read(
            tmp_path / "one/mtat" / folder.parent.name / f"{folder.name}.mp3"
        )[0]
        length = min(len(mixture), len(decoded))
        similar = np.corrcoef(mixture[:length], decoded[:length])[0, 1]
        assert similar > 0.8  # MP3 takes the treble
    with (tmp_path / "one/mtat/annotations_final.csv").open() as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert len(rows) == 1 + sum(config.num_songs)
    for split in SPLITS:
        listed = tmp_path / f"one/nsynth/nsynth-{split}/examples.json"
        assert len(json.loads(listed.read_text())) > 0
    # Two processes make the same files; and it goes on where it was.
    write_demo(tmp_path / "two", config, 2, font)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        if path.is_file():
            other = tmp_path / "two" / path.relative_to(tmp_path / "one")
            assert other.read_bytes() == path.read_bytes()
    assert write_demo(tmp_path / "one", config, 1, font) == record
    with pytest.raises(FileError, match="other options"):
        write_demo(tmp_path / "one", config, 1)


@needs_fluidsynth
def test_a_stopped_run_goes_on_with_the_same_font_wherever_it_lies(
    font, tmp_path, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    config = dataclasses.replace(SMALL, trees=("mtat",))
    root = tmp_path / "music"
    lib = write_lib.mtat
    tree = ("mtat", lib.list_jobs, lib.write_song, stop)
    with monkeypatch.context() as patched:
        patched.setattr(write_lib, "_TREES", (tree,))
        with pytest.raises(KeyboardInterrupt):
            write_demo(root, config, 1, font)
    moved = tmp_path / "moved.sf2"
    moved.write_bytes(pathlib.Path(font).read_bytes())
    written = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp3")}
    write_demo(root, config, 1, moved)
    assert written == {path: path.stat().st_mtime_ns for path in root.rglob("*.mp3")}
    assert (root / RECORD_NAME).exists()
    assert len(written) == sum(config.num_songs)
