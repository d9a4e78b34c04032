"""One contract for all dataset modules, and what is particular to each."""

import collections
import csv
import dataclasses
import importlib
import pathlib

import numpy as np
import pytest
from absl import flags

from cola_msa.records import prepared as prepared_lib
from cola_msa.system import console
from data_prep.datasets import base as base_lib
from data_prep.datasets import fma, folder, mtat, multitrack, nsynth
from data_prep.datasets.base import DatasetError, IndexOptions
from data_prep.pipeline import cli, segments
from tests.cola_msa.audio import test_files
from tests.helpers import trees

NAMES = ("mtat", "nsynth", "fma", "multitrack", "folder")
NAMES += ("gtzan", "jamendo", "labelled_folder")
MUSIC = pathlib.Path(__file__).parents[4] / "shared" / "music"


def write_tree(name: str, root: pathlib.Path) -> pathlib.Path:
    return getattr(trees, f"write_{name}")(root)


def dataset_of(name: str) -> base_lib.Dataset:
    return importlib.import_module(f"data_prep.datasets.{name}").DATASET


def parse(name: str, *arguments: str) -> flags.FlagValues:
    values = flags.FlagValues()
    cli.define_flags(dataset_of(name), values)
    values(["command", *arguments])
    return values


def execute(name: str, root: pathlib.Path, output: pathlib.Path, *more: str) -> int:
    values = parse(name, f"--dataset_dir={root}", f"--output_dir={output}", *more)
    return console.run(cli.main, dataset_of(name), values)


def default_options(name: str) -> IndexOptions:
    values = parse(name, "--dataset_dir=x", "--output_dir=y")
    return cli.parse_options(dataset_of(name), values)


@pytest.fixture(scope="module", params=NAMES)
def prepared(request, tmp_path_factory: pytest.TempPathFactory):
    name = request.param
    root = write_tree(name, tmp_path_factory.mktemp(name))
    output = tmp_path_factory.mktemp(f"{name}-prepared")
    assert execute(name, root, output) == 0
    return name, root, output


def test_index_contract(prepared):
    name, root, _ = prepared
    dataset = dataset_of(name)
    found = dataset.index(root, default_options(name))
    assert found == dataset.index(root, default_options(name))
    assert found.clips and not found.failures
    assert len({c.clip_id for c in found.clips}) == len(found.clips)
    for clip in found.clips:
        assert (root / clip.path).exists() and not pathlib.Path(clip.path).is_absolute()
        assert clip.split.removesuffix("_extra") in base_lib.SPLITS
        assert clip.group
        assert list(clip.labels) == sorted(set(clip.labels))
        assert all(0 <= label < len(found.class_names) for label in clip.labels)
        assert (dataset.task_type != "multiclass") or len(clip.labels) == 1
    assert (dataset.task_type is None) == (not found.class_names)
    assert dataset.citation and dataset.licence and dataset.layout
    if dataset.task_type is None:
        splits_of = collections.defaultdict(set)
        for clip in found.clips:
            splits_of[clip.group].add(clip.split)
        assert all(len(splits) == 1 for splits in splits_of.values())
        assert {c.split for c in found.clips} == {"train", "validation"}


def test_prepared_data_agrees_with_the_index(prepared):
    name, root, output = prepared
    found = dataset_of(name).index(root, default_options(name))
    data = prepared_lib.PreparedData(output)
    assert data.class_names == found.class_names
    by_id = {clip.clip_id: clip for clip in found.clips}
    seen = []
    for split in data.splits:
        index = data.index(split)
        summary = data.manifest["splits"][split]
        assert summary["num_clips"] == len(index.clip_ids)
        assert summary["num_segments"] == np.sum(~index.is_tail)
        assert summary["num_tails"] == np.sum(index.is_tail)
        assert summary["active_share"].keys() == set(data.sources)
        windows = 0
        for k, clip_id in enumerate(index.clip_ids):
            clip = by_id[clip_id]
            assert (clip.split, clip.group) == (split, index.groups[k])
            assert tuple(index.labels(k)) == clip.labels
            rows = np.flatnonzero(index.clip == k)
            windows += sum(index.num_frames[rows]) // 98
            seen.append(clip_id)
        assert summary["num_windows"] == windows
        totals = index.label_matrix(len(data.class_names)).sum(0)
        assert list(data.manifest["class_counts"][split].values()) == list(totals)
        assert np.isfinite(data.mixture(split, 0)).all()
    assert sorted(seen) == sorted(by_id)
    assert data.manifest["failures"] == []
    assert data.manifest["num_clips_planned"] == len(by_id)


def test_manifest_moments_are_the_train_splits(prepared):
    _, _, output = prepared
    data = prepared_lib.PreparedData(output)
    rows = range(len(data.index("train").shard))
    values = np.concatenate([data.mixture("train", row) for row in rows])
    values = values.astype(np.float64)
    assert data.manifest["log_mel_mean"] == pytest.approx(values.mean(), rel=1e-9)
    assert data.manifest["log_mel_std"] == pytest.approx(values.std(), rel=1e-9)


def test_mtat_classes_and_splits(tmp_path: pathlib.Path):
    root = trees.write_mtat(tmp_path)
    found = mtat.index(root, IndexOptions())
    # slow: 3 clips, rock: 2.
    assert found.class_names == ("slow", "rock")
    assert {c.clip_id: c.split for c in found.clips} == {
        "0": "train",
        "1": "train",
        "2": "train_extra",
        "3": "validation",
        "4": "test",
    }
    wanting = {c.split for c in found.clips if c.wants_stems}
    assert wanting == {"train", "validation"}
    assert {c.expected_seconds for c in found.clips} == {5.0}
    assert found.clips[0].group == "a-b-01-x"


def test_mtat_takes_song_and_duration_from_clip_info(tmp_path: pathlib.Path):
    root = trees.write_mtat(tmp_path)
    rows = [
        "clip_id\ttitle\tartist\talbum\tsegmentStart\tsegmentEnd\tmp3_path",
        '"0"\t"x"\t"a"\t"b"\t"29"\t"31"\t"0/a-b-01-x-0-5.mp3"',
    ]
    (root / "clip_info_final.csv").write_text("\n".join(rows))
    clip = mtat.index(root, IndexOptions()).clips[0]
    assert (clip.group, clip.expected_seconds) == ("a/b/x", 2.0)


def test_mtat_keeps_the_most_frequent_tags(tmp_path, monkeypatch):
    monkeypatch.setattr(mtat, "NUM_TOP_TAGS", 1)
    found = mtat.index(trees.write_mtat(tmp_path), IndexOptions())
    assert found.class_names == ("slow",)
    assert {c.clip_id: c.split for c in found.clips}["4"] == "test_extra"


@pytest.mark.parametrize(
    ("name", "module", "changes"),
    [
        ("mtat", mtat, {"_REAL_ROWS": 5, "_REAL_TAGS": 2}),
        ("nsynth", nsynth, {"_REAL_FROM": 2}),
        ("fma", fma, {"_REAL_FROM": 4}),
    ],
)
def test_real_metadata_must_give_the_published_counts(
    tmp_path, monkeypatch, name, module, changes
):
    for key, value in changes.items():
        monkeypatch.setattr(module, key, value)
    with pytest.raises(DatasetError, match="instead of"):
        module.index(write_tree(name, tmp_path), IndexOptions())


def test_nsynth_classes_follow_the_family_numbers(tmp_path: pathlib.Path):
    found = nsynth.index(trees.write_nsynth(tmp_path), IndexOptions())
    assert found.class_names == ("bass", "guitar")
    assert {c.clip_id.split("_")[0]: c.labels for c in found.clips} == {
        "bass": (0,),
        "guitar": (1,),
    }
    assert {c.group for c in found.clips} == {"bass_000", "guitar_000"}


def test_fma_reads_three_headers_and_quoted_line_breaks(tmp_path: pathlib.Path):
    found = fma.index(trees.write_fma(tmp_path), IndexOptions())
    assert found.class_names == ("Folk", "Rock")
    assert [(c.clip_id, c.split, c.labels, c.group) for c in found.clips] == [
        ("000002", "train", (1,), "artist-name: A"),
        ("000005", "train", (0,), "artist-name: B"),
        ("000141", "validation", (1,), "album-title: C"),
        ("001000", "test", (0,), "artist-name: D"),
    ]


def test_multitrack_names_missing_stems_and_sums(tmp_path: pathlib.Path):
    root = trees.write_multitrack(tmp_path / "raw")
    (root / "a" / "vocals.wav").rename(root / "a" / "lead.wav")
    (root / "b" / "vocals.wav").rename(root / "b" / "lead.wav")
    output = tmp_path / "out"
    assert execute("multitrack", root, output, "--stem_names=vocals=lead") == 0
    data = prepared_lib.PreparedData(output)
    flags_of = {}
    for split in data.splits:
        index = data.index(split)
        for row in range(len(index.shard)):
            flags_of[index.clip_ids[index.clip[row]]] = list(index.has_stem[row])
            if index.clip_ids[index.clip[row]] == "c":
                row_of_c, split_of_c = row, split
    assert flags_of["a"] == flags_of["b"] == [True] * 4
    assert flags_of["c"] == [False, True, True, True]
    assert data.manifest["separator"] == {"name": "stems_dir"}
    stems = [trees.chirp(5, seed=20 + n) for n in (1, 2, 3)]
    expected = segments.stored_log_mel(np.sum(stems, 0), data.frontend)
    index = data.index(split_of_c)
    rows = np.flatnonzero(index.clip == index.clip[row_of_c])
    found = np.concatenate([data.mixture(split_of_c, int(row)) for row in rows])
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_multitrack_takes_other_sources(tmp_path: pathlib.Path):
    root = trees.write_multitrack(tmp_path)
    options = IndexOptions(sources=("bass", "kazoo"))
    found = multitrack.index(root, options)
    assert [c.stem_paths for c in found.clips][0] == (("bass", "a/bass.wav"),)


def test_multitrack_without_any_such_stem_says_what_to_do(tmp_path, capsys):
    root = trees.write_multitrack(tmp_path / "raw")
    assert execute("multitrack", root, tmp_path / "out", "--sources=kazoo") == 1
    assert "--sources=a,b" in capsys.readouterr().err


def test_a_stem_of_another_length_fails(tmp_path: pathlib.Path):
    root = trees.write_multitrack(tmp_path / "raw")
    trees.write_wav(root / "a" / "drums.wav", trees.chirp(4))
    output = tmp_path / "out"
    assert execute("multitrack", root, output, "--max_failures=0.5") == 0
    failure = prepared_lib.PreparedData(output).manifest["failures"][0]
    assert failure["path"] == "a/mixture.wav"
    assert failure["reason"] == "stem drums is 1.00 s shorter than the mixture"


@pytest.mark.parametrize("split_by", ["folder", "clip"])
def test_folder_splits_are_seeded(tmp_path: pathlib.Path, split_by: str):
    root = trees.write_folder(tmp_path)
    options = IndexOptions(split_by=split_by, validation_share=0.25, seed=1)
    found = folder.index(root, options)
    assert [c.clip_id for c in found.clips] == [
        "x/1.wav",
        "x/2.flac",
        "y/deep/1.ogg",
        "y/deep/2.wav",
    ]
    validation = [c for c in found.clips if c.split == "validation"]
    assert len(validation) == (2 if split_by == "folder" else 1)
    several = {
        folder.index(root, dataclasses.replace(options, seed=seed)).clips
        for seed in range(8)
    }
    assert len(several) > 1


@pytest.mark.parametrize(
    ("num_groups", "share", "expected"),
    [(1, 0.15, 0), (2, 0.15, 1), (3, 0.0, 0), (20, 0.15, 3), (2, 0.9, 1)],
)
def test_split_groups_always_leaves_training_data(num_groups, share, expected):
    options = base_lib.IndexOptions(validation_share=share)
    split_of = base_lib.split_groups(map(str, range(num_groups)), options)
    assert list(split_of.values()).count("validation") == expected
    assert "train" in split_of.values()


@pytest.mark.parametrize("is_relative", [False, True])
def test_stems_from_disk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, is_relative: bool
):
    monkeypatch.chdir(tmp_path)
    base = pathlib.Path() if is_relative else tmp_path
    root = trees.write_mtat(base / "raw")
    stems_dir = base / "stems"
    for clip in mtat.index(root, IndexOptions()).clips:
        stem_folder = stems_dir / clip.path.removesuffix(".mp3")
        for k, source in enumerate(("vocals", "bass")):
            trees.write_wav(stem_folder / f"{source}.flac", trees.chirp(5, seed=k))
    output = base / "out"
    assert execute("mtat", root, output, f"--stems_dir={stems_dir}") == 0
    data = prepared_lib.PreparedData(output)
    assert data.sources == ("vocals", "drums", "bass", "other")
    for split, expected in [
        ("train", (True, False, True, False)),
        ("validation", (True, False, True, False)),
        ("test", (False,) * 4),
        ("train_extra", (False,) * 4),
    ]:
        assert set(map(tuple, data.index(split).has_stem.tolist())) == {expected}
    assert data.manifest["splits"]["train"]["active_share"] == {
        "vocals": 1.0,
        "drums": None,
        "bass": 1.0,
        "other": None,
    }


# What is left out --------------------------------------------------------------------


def index_of(name: str, root: pathlib.Path) -> base_lib.DatasetIndex:
    return dataset_of(name).index(root, default_options(name))


def test_folders_are_listed_through_links_and_what_is_left_out_is_said(tmp_path):
    root = tmp_path / "music"
    (root / "album").mkdir(parents=True)
    (root / "loop").symlink_to(root)
    (tmp_path / "disk").mkdir()
    (root / "linked").symlink_to(tmp_path / "disk")
    for path in (root / "a.wv", root / "album" / "b.wav", tmp_path / "disk" / "c.mp3"):
        path.touch()
    (root / "cover.jpg").touch()
    found = index_of("folder", root)
    assert [clip.path for clip in found.clips] == [
        "a.wv",
        "album/b.wav",
        "linked/c.mp3",
    ]
    assert found.remarks[0] == "left out: 1 .jpg"
    assert "listed already: loop" in found.remarks[1]


def test_a_folder_that_cannot_be_read_is_a_failure(tmp_path, monkeypatch):
    for path in ("rock/a.wav", "jazz/b.wav", "rock/secret/c.wav"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    test_files.forbid(monkeypatch, tmp_path / "rock" / "secret")
    for name in ("folder", "labelled_folder"):
        found = index_of(name, tmp_path)
        assert [clip.path for clip in found.clips] == ["jazz/b.wav", "rock/a.wav"]
        (failure,) = found.failures
        assert failure.path == "rock/secret" and "Permission denied" in failure.reason


def test_stems_are_named_in_any_case_and_stem_files_say_what_to_do(tmp_path):
    (tmp_path / "song").mkdir()
    for name in ("Vocals.WAV", "DRUMS.flac", "Mixture.wav"):
        (tmp_path / "song" / name).touch()
    (tmp_path / "Other Song.stem.mp4").touch()
    found = index_of("multitrack", tmp_path)
    (clip,) = found.clips
    assert clip.path == "song/Mixture.wav"
    assert dict(clip.stem_paths) == {
        "vocals": "song/Vocals.WAV",
        "drums": "song/DRUMS.flac",
    }
    (failure,) = found.failures
    assert failure.path == "Other Song.stem.mp4" and "-map 0:a:1" in failure.reason
    (tmp_path / "song").rename(tmp_path.with_name("elsewhere"))
    with pytest.raises(DatasetError, match="Other Song.stem.mp4.*-map 0:a:1"):
        index_of("multitrack", tmp_path)


# Tables that are cut, edited or of another program ----------------------------------


MTAT, FMA = "annotations_final.csv", "fma_metadata/tracks.csv"


def corrupt(path: pathlib.Path, find: str, put: str | bytes) -> None:
    content = path.read_bytes()
    assert find.encode() in content
    new = put if isinstance(put, bytes) else put.encode()
    path.write_bytes(content.replace(find.encode(), new, 1))


@pytest.mark.parametrize(
    ("name", "table", "find", "put", "message"),
    [
        ("mtat", MTAT, "slow", "rock", "columns 2 and 3 are both called 'rock'"),
        ("mtat", MTAT, '"0"\t', '"0"\t"1"\t', "line 2: not as many cells"),
        ("mtat", MTAT, '"0"\t', '"\0"\t', "line 2: a zero byte"),
        ("mtat", MTAT, '/g-h-01-v-0-5.mp3"', "/g.mp3", "line 6: a quote is opened"),
        ("fma", FMA, '"5",', '"5","",', "line 6: 8 columns instead of 7"),
        ("fma", FMA, '"5",', '"²",', "line 6: '²' is no track id"),
        ("fma", FMA, "split", "subset", "lack set.split"),
        (
            "fma",
            FMA,
            '"large","3","Folk"',
            '"large","3","Folk',
            "line 9: a quote is op",
        ),
        ("jamendo", "autotagging_top50tags-test.tsv", "track", b"\xff", "not UTF-8"),
        ("gtzan", "train_filtered.txt", "jazz", b"\xff", "not UTF-8"),
        ("gtzan", "train_filtered.txt", "jazz", "\0", "line 1: a zero byte"),
    ],
)
def test_damaged_tables_are_refused_by_line(tmp_path, name, table, find, put, message):
    root = getattr(trees, f"write_{name}")(tmp_path)
    module = importlib.import_module(f"data_prep.datasets.{name}")
    corrupt(root / table, find, put)
    with pytest.raises(DatasetError, match=message) as caught:
        module.index(root, IndexOptions())
    assert pathlib.PurePath(table).name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fma_takes_long_biographies_and_leaves_the_csv_module_as_it_is(tmp_path):
    root = trees.write_fma(tmp_path)
    expected = fma.index(root, IndexOptions())
    limit = csv.field_size_limit()
    corrupt(root / "fma_metadata" / "tracks.csv", "An\nalbum", "x" * 300_000)
    assert fma.index(root, IndexOptions()) == expected
    assert csv.field_size_limit() == limit
