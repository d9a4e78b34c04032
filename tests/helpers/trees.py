"""Small synthetic datasets in the real datasets' layouts."""

import csv
import json
import pathlib

import numpy as np
import soundfile

from data_prep.datasets import mtat

RATE_HZ = 16000
SEGMENT_SAMPLES = 392 * 160


def chirp(
    seconds: float, rate_hz: int = RATE_HZ, seed: int = 0, level: float = 0.3
) -> np.ndarray:
    """A rising tone in a little noise, float32 [n]."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    hz = random.uniform(100, 400) + 200 * time
    noise = random.normal(0, 0.1, len(time))
    return (level * (np.sin(2 * np.pi * np.cumsum(hz) / rate_hz) + noise)).astype(
        np.float32
    )


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """What lies in a folder, at any depth."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_wav(
    path: pathlib.Path, samples: np.ndarray, rate_hz: int = RATE_HZ
) -> pathlib.Path:
    """Writes float32 [n] or [n, channels] as 32-bit float."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="FLOAT", format="WAV")
    return path


def write_mp3(path: pathlib.Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> None:
    """Writes an MP3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, format="MP3")


def write_mtat(root: pathlib.Path, seconds: int = 5) -> pathlib.Path:
    """Three training clips (one without a tag), one clip each in c and f."""
    paths = ["0/a-b-01-x-0-{}.mp3", "1/a-b-02-y-0-{}.mp3", "a/c-d-01-z-0-{}.mp3"]
    paths += ["c/e-f-01-u-0-{}.mp3", "f/g-h-01-v-0-{}.mp3"]
    paths = [path.format(seconds) for path in paths]
    flags = ["11", "10", "00", "10", "01"]
    rows = [
        [str(k), *flag, path]
        for k, (flag, path) in enumerate(zip(flags, paths, strict=True))
    ]
    for k, path in enumerate(paths):
        write_mp3(root / path, chirp(seconds, seed=k))
    _write_csv(
        root / "annotations_final.csv",
        [["clip_id", "slow", "rock", "mp3_path"], *rows],
        "\t",
    )
    return root


def add_broken_mtat(root: pathlib.Path) -> None:
    """Adds the clips that are empty files in the published archive, too."""
    rows = (root / "annotations_final.csv").read_text().splitlines()
    for number, path in enumerate(sorted(mtat.KNOWN_BROKEN)):
        rows.append(f'"{100 + number}"\t"1"\t"0"\t"{path}"')
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(b"")
    (root / "annotations_final.csv").write_text("\n".join(rows))


def write_nsynth(root: pathlib.Path) -> pathlib.Path:
    """Two notes a split, of the families bass (0) and guitar (3)."""
    for folder in ("nsynth-train", "nsynth-valid", "nsynth-test"):
        notes = {}
        for k, (number, family) in enumerate([(3, "guitar"), (0, "bass")]):
            name = f"{family}_{folder[-4:]}-060-100"
            notes[name] = {
                "instrument_str": f"{family}_000",
                "instrument_family": number,
                "instrument_family_str": family,
            }
            write_wav(root / folder / "audio" / f"{name}.wav", chirp(4, seed=k))
        (root / folder / "examples.json").write_text(json.dumps(notes))
    return root


def write_fma(root: pathlib.Path) -> pathlib.Path:
    """Four tracks of 3 s; one row has a quoted line break, one another subset."""
    columns = ["", "album", "artist", "set", "set", "track", "track"]
    names = ["", "title", "name", "split", "subset", "duration", "genre_top"]
    rows = [
        ["2", "An\nalbum", "A", "training", "small", "3", "Rock"],
        ["5", "B", "B", "training", "small", "3", "Folk"],
        ["141", "C", "", "validation", "small", "3", "Rock"],
        ["1000", "D", "D", "test", "small", "3", "Folk"],
        ["1001", "E", "E", "test", "large", "3", "Folk"],
    ]
    for row in rows[:4]:
        track = f"{int(row[0]):06d}"
        samples = chirp(3, 44100, seed=int(row[0]))
        write_wav(root / "fma_small" / track[:3] / f"{track}.wav", samples, 44100)
    header = [columns, names, ["track_id", *[""] * 6]]
    _write_csv(root / "fma_metadata" / "tracks.csv", header + rows, ",")
    return root


def write_multitrack(root: pathlib.Path) -> pathlib.Path:
    """Three clips of two songs; clip c has no mixture and no vocals."""
    for k, (name, piece) in enumerate([("a", "one"), ("b", "one"), ("c", "two")]):
        stems = {
            source: chirp(5, seed=10 * k + n)
            for n, source in enumerate(("vocals", "drums", "bass", "other"))
        }
        if name == "c":
            del stems["vocals"]
        else:
            write_wav(root / name / "mixture.wav", np.sum(list(stems.values()), 0))
        for source, stem in stems.items():
            write_wav(root / name / f"{source}.wav", stem)
        (root / name / "meta.json").write_text(json.dumps({"piece": piece}))
    return root


def write_folder(root: pathlib.Path) -> pathlib.Path:
    """Two folders of two files each, and a file that is no audio."""
    for k, name in enumerate(("x/1.wav", "x/2.flac", "y/deep/1.ogg", "y/deep/2.wav")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, chirp(5, seed=k), RATE_HZ)
    (root / "x" / "cover.jpg").write_bytes(b"no audio")
    return root


def write_gtzan(root: pathlib.Path) -> pathlib.Path:
    """Two genres, four excerpts in the lists, and a faulty one in none."""
    names = [f"{genre}/{genre}.0000{n}" for n in range(4) for genre in ("jazz", "pop")]
    for k, name in enumerate(names[:7]):
        write_wav(root / "genres" / f"{name}.wav", chirp(4, 22050, seed=k), 22050)
    lists = {"train": names[:2], "valid": names[2:4], "test": names[4:6]}
    for split, listed in lists.items():
        lines = "".join(f"{name}.wav\n" for name in listed)
        (root / f"{split}_filtered.txt").write_text(lines)
    return root


def write_jamendo(root: pathlib.Path) -> pathlib.Path:
    """Two tracks a split, one of them of the smaller download."""
    header = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
    for number, split in enumerate(("train", "validation", "test")):
        rows = []
        for k in range(2):
            track = 100 * number + k
            tags = ["genre---rock", "mood/theme---happy"][: k + 1]
            path = f"{track % 100:02d}/{track}.mp3"
            suffix = ".low.mp3" if k else ".mp3"
            write_mp3(root / path.replace(".mp3", suffix), chirp(4, seed=track))
            ids = [f"track_{track:07d}", f"artist_{number:06d}", "album_000001"]
            rows.append([*ids, path, "4.0", *tags])
        text = "".join("\t".join(row) + "\r\n" for row in [header, *rows])
        (root / f"autotagging_top50tags-{split}.tsv").write_bytes(text.encode())
    return root


def write_labelled_folder(root: pathlib.Path, num_files: int = 6) -> pathlib.Path:
    """Two classes: files at the top of one, albums of two files in the other."""
    for k in range(num_files):
        write_wav(root / "calm" / f"{k}.wav", chirp(4, seed=k))
        album = root / "loud" / f"album{k // 2}"
        write_wav(album / f"{k}.wav", chirp(4, seed=50 + k, level=0.9))
    return root


def _write_csv(path: pathlib.Path, rows: list[list[str]], delimiter: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)


STEM_HZ = {"vocals": 700.0, "drums": 5000.0, "bass": 120.0, "other": 2500.0}


def write_stems(
    root: pathlib.Path,
    names: tuple[str, ...],
    seconds: float = 2.0,
    rate_hz: int = 44100,
    with_mixture: bool = True,
) -> pathlib.Path:
    """Stereo stems that lie in bands of their own, one folder a name.

    A note of the source's band sounds for a random quarter second of every half, so
    that a network must tell sources apart, but can.
    """
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    for k, name in enumerate(names):
        random = np.random.default_rng([7, k])
        stems = {}
        for source, hz in STEM_HZ.items():
            tone = np.sin(2 * np.pi * hz * random.uniform(0.9, 1.1) * time)
            gate = np.zeros(len(time))
            for half in range(int(2 * seconds)):
                start = round((half / 2 + random.uniform(0, 0.25)) * rate_hz)
                gate[start : start + rate_hz // 4] = random.uniform(0.1, 0.2)
            pan = random.uniform(0.3, 1, 2)
            stems[source] = (tone * gate)[:, np.newaxis] * pan
            path = root / name / f"{source}.wav"
            write_wav(path, stems[source].astype(np.float32), rate_hz)
        if with_mixture:
            total = np.sum(list(stems.values()), axis=0)
            write_wav(root / name / "mixture.wav", total.astype(np.float32), rate_hz)
    return root
