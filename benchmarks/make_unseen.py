"""Makes labelled collections of music that nothing in this project was chosen on.

    python benchmarks/make_unseen.py --packages_dir=packages --output_dir=unseen \
        --soundfont=/usr/share/sounds/sf2/TimGM6mb.sf2
    python benchmarks/study_embeddings.py --music_dir=unseen --models=starter=starter

`--packages_dir` holds soundtracks of free games as Debian packs them, each unpacked
into a folder of its own, without being installed (PACKAGES says which):

    apt-get download NAME && dpkg-deb -x NAME_*.deb packages/NAME

- `fma`, in that data set's layout: which soundtrack does an excerpt belong to? Of each
  at most 16 tracks of 40 s and more, drawn by its name; of each track 30 s, or twice
  30 s where it has 100. A division by song keeps a track's excerpts together.
- `nsynth`, likewise: which family of instruments plays a note? Six notes of every
  program of a General MIDI sound font that belongs to a family; a song is a program.
"""

import csv
import json
import pathlib
import random

import numpy as np
import soundfile
from absl import flags, logging

import cola_msa
from cola_msa.system import console
from cola_msa.system.errors import UserError
from cola_msa.values.paths import define_path
from data_prep.demo.synthesis.patch import SampledTone
from data_prep.demo.synthesis.soundfont import check_soundfont, play

# The small shooters are one composer's.
PACKAGES = {
    "ardentryst": ("ardentryst",),
    "btanks": ("btanks-data",),
    "colobot": ("colobot-common-sounds",),
    "fillets": ("fillets-ng-data",),
    "flare": ("flare-game",),
    "freedroidrpg": ("freedroidrpg-data",),
    "hedgewars": ("hedgewars-data",),
    "marsshooter": ("marsshooter-data",),
    "shooters": (
        "gunroar-data",
        "mu-cade-data",
        "noiz2sa-data",
        "parsec47-data",
        "rrootage-data",
        "titanion-data",
        "torus-trooper-data",
        "tumiki-fighters-data",
    ),
    "singularity": ("singularity-music",),
    "supertux": ("supertux-data",),
    "unknown-horizons": ("unknown-horizons",),
    "warzone2100": ("warzone2100-music",),
    "widelands": ("widelands-data",),
}
_ENDINGS = (".ogg", ".opus", ".mp3")
_NO_MUSIC = ("amb_", "ambience", "cave_wind", "rain", "wind")  # of these packages
_LEAST_BYTES = 300_000  # below are sounds, which need not be decoded to know it
_MOST_TRACKS, _LEAST_TRACKS = 16, 8
_LEAST_SECONDS, _TWICE_SECONDS, _EXCERPT_SECONDS = 40, 100, 30
# NSynth's families, in its order, and General MIDI's programs of each. Not the built-in
# music's FAMILY_PROGRAMS, which takes what sounds like a family in songs and notes that
# encoders here are trained and tried on; documented figures are of this list.
FAMILIES = {
    "bass": range(32, 40),
    "brass": range(56, 64),
    "flute": range(72, 80),
    "guitar": range(24, 32),
    "keyboard": range(8),
    "mallet": range(8, 16),
    "organ": range(16, 21),
    "reed": range(64, 72),
    "string": (40, 41, 42, 43, 44, 45, 48, 49),
    "synth_lead": (80, 81, 82, 83, 84, 86, 87),
    "vocal": (52, 53, 54, 85, 91),
}
_KEYS, _BASS_KEYS = range(48, 79, 6), range(28, 54, 5)
_RATE_HZ, _HELD_SECONDS, _NOTE_SECONDS = 16000, 3, 4
_NOTE_SPLITS = ("train", "train", "train", "valid", "test")


def soundtrack(folder: pathlib.Path, packages: tuple[str, ...]) -> list[pathlib.Path]:
    """Files that may be tracks, in an order drawn by the first package's name."""
    found = [
        path
        for package in packages
        for path in sorted((folder / package).rglob("*"))
        if path.suffix.lower() in _ENDINGS
        and not path.name.lower().startswith(_NO_MUSIC)
        and path.is_file()
        and not path.is_symlink()
        and path.stat().st_size > _LEAST_BYTES
    ]
    random.Random(packages[0]).shuffle(found)
    return found


def excerpts(path: pathlib.Path) -> list[tuple[np.ndarray, int]]:
    """(samples [n, channels], rate) of a track's excerpts; none of a short one."""
    song = cola_msa.decode(str(path))
    seconds = song.samples.shape[1] / song.rate_hz
    if seconds < _LEAST_SECONDS:
        return []
    starts = (0.15, 0.6) if seconds >= _TWICE_SECONDS else (0.2,)
    length = _EXCERPT_SECONDS * song.rate_hz
    return [
        (song.samples[:2, begin : begin + length].T, song.rate_hz)
        for begin in (int(start * seconds * song.rate_hz) for start in starts)
    ]


def make_fma(packages_dir: pathlib.Path, folder: pathlib.Path) -> int:
    """Writes the excerpts and FMA's tables; returns how many.

    Raises:
        UserError: If a package is not there, or holds too little music.
    """
    rows = []
    for number, (name, packages) in enumerate(PACKAGES.items(), 1):
        tracks = 0
        for path in soundtrack(packages_dir, packages):
            found = excerpts(path) if tracks < _MOST_TRACKS else []
            tracks += bool(found)
            for samples, rate_hz in found:
                track_id = 1001 + len(rows)
                target = folder / "fma_small" / "001" / f"{track_id:06d}.mp3"
                target.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(target, samples, rate_hz, format="MP3")
                song = f"{name}/{path.stem}"
                rows.append((track_id, number, name, song, "training"))
        if tracks < _LEAST_TRACKS:
            raise UserError(
                f"--packages_dir={packages_dir}: {', '.join(packages)} have {tracks} "
                f"tracks, not {_LEAST_TRACKS}: unpack them there, see --help"
            )
        logging.info("%s: %d tracks", name, tracks)
    _write_tables(folder / "fma_metadata", rows)
    return len(rows)


def _write_tables(folder: pathlib.Path, rows: list[tuple]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = [
        ("artist", "id", 1),
        ("artist", "name", 3),
        ("set", "split", 4),
        ("set", "subset", None),
        ("track", "genre_top", 2),
        ("track", "title", 3),
    ]
    with open(folder / "tracks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", *(first for first, _, _ in columns)])
        writer.writerow(["", *(second for _, second, _ in columns)])
        writer.writerow(["track_id", *("" for _ in columns)])
        for row in rows:
            values = ("small" if at is None else row[at] for _, _, at in columns)
            writer.writerow([row[0], *values])


def make_nsynth(soundfont: str, folder: pathlib.Path) -> int:
    """Writes the notes and NSynth's tables; returns how many."""
    described: dict[str, dict] = {split: {} for split in _NOTE_SPLITS}
    programs = [
        (family, name, program)
        for family, (name, given) in enumerate(FAMILIES.items())
        for program in given
    ]
    count = 0
    for instrument, (family, name, program) in enumerate(programs, 1):
        split = _NOTE_SPLITS[instrument % len(_NOTE_SPLITS)]
        for key in _BASS_KEYS if name == "bass" else _KEYS:
            tone = SampledTone(bank=0, program=program)
            strike = (0.0, float(_HELD_SECONDS), key, 100 / 127)
            length = _NOTE_SECONDS * _RATE_HZ
            samples = play(soundfont, tone, [strike], length, _RATE_HZ)
            label = f"{name}_synthetic_{instrument:03d}"
            note = f"{label}-{key:03d}-100"
            target = folder / f"nsynth-{split}" / "audio" / f"{note}.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, samples, _RATE_HZ, subtype="PCM_16")
            described[split][note] = {
                "note": count,
                "note_str": note,
                "instrument": instrument,
                "instrument_str": label,
                "pitch": key,
                "velocity": 100,
                "sample_rate": _RATE_HZ,
                "instrument_family": family,
                "instrument_family_str": name,
                "instrument_source": 2,
                "instrument_source_str": "synthetic",
            }
            count += 1
    for split, notes in described.items():
        target = folder / f"nsynth-{split}" / "examples.json"
        target.write_text(json.dumps(notes, indent=1), encoding="utf-8")
    return count


def define_flags() -> None:
    """Defines the script's flags."""
    define_path("packages_dir", None, "The unpacked packages.", required=True)
    define_path("soundfont", None, "A General MIDI sound font.", required=True)
    define_path("output_dir", None, "Folder to write.", required=True)


def main(options: flags.FlagValues) -> None:
    """Makes both collections."""
    check_soundfont(options.soundfont)
    folder = pathlib.Path(options.output_dir)
    num_notes = make_nsynth(options.soundfont, folder / "nsynth")
    num_clips = make_fma(pathlib.Path(options.packages_dir), folder / "fma")
    print(f"{folder}: {num_clips} excerpts of soundtracks, {num_notes} notes")


if __name__ == "__main__":
    console.start(main, define_flags)
