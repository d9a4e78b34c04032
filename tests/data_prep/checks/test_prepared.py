"""What a check of prepared data finds, fault by fault, and that good data passes."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from cola_msa.config.schema import SOURCES, FrontendConfig, config_hash
from cola_msa.records import index as index_lib
from cola_msa.records import schema
from cola_msa.system import console
from data_prep import verify
from data_prep.checks import prepared, shard
from data_prep.datasets import multitrack
from data_prep.datasets.base import IndexOptions
from data_prep.pipeline import plan as plan_lib
from data_prep.pipeline import runner, segments, shards
from data_prep.remote import inputs
from tests.helpers import trees

CONFIG = plan_lib.PrepConfig(
    dataset="multitrack",
    sources=SOURCES,
    stems="folder",
    clips_per_shard=3,
    options=IndexOptions(sources=SOURCES, validation_share=0.2),
)
REBUILD = "run the preparation's command again"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two training shards, a validation clip, and a clip that failed."""
    root = tmp_path_factory.mktemp("raw")
    names = tuple(f"song{k}" for k in range(5))
    trees.write_stems(root, names, 5.0, 16000)
    (root / "song5").mkdir()
    (root / "song5" / "bass.wav").write_text("no audio")
    output = tmp_path_factory.mktemp("good")
    runner.prepare(multitrack.DATASET, CONFIG, root, output, show_progress=False)
    return output


@pytest.fixture
def data_dir(good, tmp_path) -> pathlib.Path:
    return shutil.copytree(good, tmp_path / "data")


def check(data_dir: pathlib.Path, *more: str) -> int:
    values = flags.FlagValues()
    verify.define_flags(values)
    values(["verify", f"--data_dir={data_dir}", *more])
    return console.run(verify.main, values)


def problems(data_dir: pathlib.Path) -> dict[str, str]:
    """All problems by file."""
    found: dict[str, str] = {}
    for finding in prepared.verify(data_dir, show_progress=False)[1]:
        assert finding.advice
        found[finding.file] = found.get(finding.file, "") + finding.problem + "\n"
    return found


def edit(path: pathlib.Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(path: pathlib.Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def first_shard(data_dir: pathlib.Path) -> pathlib.Path:
    return min(data_dir.glob("train-*.tfrecord"))


def test_good_data_passes(good, capsys):
    assert check(good) == 0
    printed = capsys.readouterr().out
    assert "all is well" in printed
    assert "6 clips planned, 1 failed" in printed


def test_two_processes_find_the_same(data_dir, capsys):
    flip(first_shard(data_dir), 500)
    assert check(data_dir) == 1
    alone = capsys.readouterr().out
    assert check(data_dir, "--num_workers=2") == 1
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize("place", ["length", "length's checksum", "mel", "last byte"])
def test_a_flipped_byte_in_a_shard(data_dir, place, capsys):
    path = first_shard(data_dir)
    index = index_lib.Index.load(index_lib.index_path(path))
    offset = {
        "length": 1,
        "length's checksum": 9,
        "mel": int(index.mixture_offset[1]) + 3000,
        "last byte": path.stat().st_size - 1,
    }[place]
    flip(path, offset)
    found = problems(data_dir)
    assert found.keys() == {path.name}
    assert "its bytes have changed since it was written" in found[path.name]
    assert "cannot be read" in found[path.name]
    assert check(data_dir) == 1
    printed = capsys.readouterr()
    assert f"{path.name}: record" in printed.out and REBUILD in printed.out
    assert "2 findings in 1 files" in printed.err


@pytest.mark.parametrize("position", [0.0, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("name", ["index-train.npz", "shard's"])
def test_a_flipped_byte_in_an_index(data_dir, name, position):
    path = data_dir / name
    if name == "shard's":
        path = index_lib.index_path(first_shard(data_dir))
    flip(path, round(position * (path.stat().st_size - 1)))
    assert problems(data_dir).keys() == {path.name}


def test_a_flipped_byte_that_all_readers_overlook(data_dir):
    path = data_dir / "index-train.npz"
    # The year in a member's header: no reader looks at it, no CRC covers it.
    flip(path, 13)
    index_lib.Index.load(path)
    assert "SHA-256" in problems(data_dir)[path.name]


def test_an_index_that_is_well_formed_but_wrong(data_dir):
    path = data_dir / "index-train.npz"
    index = index_lib.Index.load(path)
    index.is_active = ~index.is_active
    index.mixture_offset = index.mixture_offset + 2
    index.save(path)
    found = problems(data_dir)
    assert found.keys() == {path.name}
    assert "mixture_offset, is_active" in found[path.name]


@pytest.mark.parametrize("suffix", [".tfrecord", ".idx.npz", ".json"])
def test_a_missing_file(data_dir, suffix):
    path = first_shard(data_dir)
    missing = data_dir / path.name.replace(".tfrecord", suffix)
    missing.unlink()
    found = problems(data_dir)
    assert found[missing.name] == "missing\n"
    assert found.keys() <= {missing.name, "index-train.npz"}


@pytest.mark.parametrize("size", [0, 5000, -7])
def test_a_truncated_shard_is_one_line(data_dir, size):
    path = first_shard(data_dir)
    content = path.read_bytes()
    path.write_bytes(content[:size])
    left = len(content[:size])
    assert problems(data_dir) == {
        path.name: f"truncated: it has {left:,} of {len(content):,} bytes\n"
    }


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-7], "it ends within a record"),
        (lambda content: content[:40] + b"?" + content[41:], "are not those that were"),
    ],
)
def test_records_that_cannot_be_read_are_told_without_tensorflows_words(
    data_dir, damage, reason
):
    path = first_shard(data_dir)
    path.write_bytes(damage(path.read_bytes()))
    index_lib.index_path(path).unlink()
    found = problems(data_dir)[path.name]
    assert "cannot be read (" in found and reason in found
    assert "{{" not in found and "[Op" not in found and "Iterator" not in found
    with pytest.raises(schema.DataError, match=reason) as error:
        index_lib.scan_shard(path, SOURCES, config_hash(FrontendConfig()))
    assert "{{" not in str(error.value)


def test_a_shard_of_another_configuration(data_dir, tmp_path):
    """The same clip ids in the same places, with another threshold."""
    raw = tmp_path / "raw"
    trees.write_stems(raw, tuple(f"song{k}" for k in range(6)), 5.0, 16000)
    found = multitrack.index(raw, CONFIG.options)
    other = plan_lib.PrepConfig(**{**vars(CONFIG), "silence_threshold": 0.5})
    plan = plan_lib.make_plan(found.clips, other)
    shards.build_shard(plan.shards[0], plan.hash, other, inputs.Inputs(raw), data_dir)
    name = plan.shards[0].name
    assert "made with another configuration" in problems(data_dir)[name]


def test_a_shard_of_another_front_end(data_dir):
    path = first_shard(data_dir)
    other = config_hash(FrontendConfig(level="l2"))
    segments = [
        schema.decode_segment(record, SOURCES)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    index_lib.write_shard(path, segments, SOURCES, other)
    found = problems(data_dir)[path.name]
    assert f"made with front end {other}" in found


def test_a_shard_that_belongs_elsewhere(data_dir):
    path = first_shard(data_dir)
    shutil.copy(path, data_dir / "train-00000-of-00009.tfrecord")
    (data_dir / "train-00001-of-00009.tfrecord.tmp").write_bytes(b"")
    assert problems(data_dir) == {
        "train-00000-of-00009.tfrecord": "not a shard of this manifest: of another "
        "preparation\n",
        "train-00001-of-00009.tfrecord.tmp": "left over from an interrupted "
        "preparation\n",
    }


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("splits", "train", "num_clips"), 7),
        (("splits", "train", "num_segments"), 5),
        (("splits", "validation", "num_tails"), 3),
        (("splits", "train", "num_windows"), 1),
        (("splits", "train", "hours"), 0.5),
        (("splits", "train", "active_share"), {"vocals": 0.1}),
        (("num_clips_planned",), 9),
        (("log_mel_mean",), 2.5),
        (("log_mel_std",), None),
        (("failures",), []),
        (("frontend_hash",), "0" * 16),
    ],
)
def test_a_wrong_count(data_dir, keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    edit(data_dir / "manifest.json", change)
    found = problems(data_dir)
    assert "manifest.json" in found
    if keys[-1] not in ("failures", "frontend_hash"):
        assert found.keys() == {"manifest.json"}
    if keys[0] == "splits":
        assert ".".join(keys) in found["manifest.json"]


def test_class_totals(tmp_path):
    root = trees.write_nsynth(tmp_path / "raw")
    from data_prep.datasets import nsynth

    config = plan_lib.PrepConfig(dataset="nsynth")
    output = tmp_path / "out"
    runner.prepare(nsynth.DATASET, config, root, output, show_progress=False)
    assert problems(output) == {}

    def change(content):
        content["class_counts"]["test"]["guitar"] = 5

    edit(output / "manifest.json", change)
    assert (
        "class_counts.test.guitar is 5, but the records give 1"
        in (problems(output)["manifest.json"])
    )


def rewrite(data_dir: pathlib.Path, change) -> str:
    """Writes the first training shard anew, its checksums too, with `change` made."""
    path = first_shard(data_dir)
    frontend_hash = config_hash(CONFIG.frontend)
    segments = [
        schema.decode_segment(record, SOURCES)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    segments = change(segments)
    digests: dict[str, str] = {}
    index_lib.write_shard(path, segments, SOURCES, frontend_hash, digests.update)
    edit(plan_lib.sidecar_path(path), lambda content: content.update(digests))

    def change_manifest(content):
        content["splits"]["train"]["shard_sha256"][0] = digests["sha256"]

    edit(data_dir / "manifest.json", change_manifest)
    return path.name


def replace_first(field: str, value):
    def change(segments):
        old = getattr(segments[0], field)
        fields = {**vars(segments[0]), field: value(old)}
        return [schema.Segment(**fields), *segments[1:]]

    return change


def spoil(position: int, value: float):
    def change(mel: np.ndarray) -> np.ndarray:
        mel = mel.copy()
        mel[position] = value
        return mel

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_first("mixture", spoil(5, np.nan)), "mixture has values that are not"),
        (replace_first("mixture", spoil(5, -np.inf)), "mixture has values that are"),
        (replace_first("mixture", spoil(5, -12.0)), "mixture lies below the log floor"),
        (replace_first("mixture", spoil(5, 9.0)), "log-mels up to 9.00, more than the"),
        (
            replace_first("stems", lambda s: {k: m[:, :32] for k, m in s.items()}),
            "has shape (392, 32)",
        ),
        (replace_first("labels", lambda _: (3,)), "labels (3,) are not class numbers"),
        (replace_first("is_active", lambda a: tuple(not v for v in a)), "is_active"),
        (replace_first("has_stem", lambda _: (False,) * 4), "active without a stem"),
        (replace_first("is_tail", lambda _: True), "flags is_tail are wrong"),
        (replace_first("group", lambda _: "other"), "group or labels differ"),
        (lambda segments: segments[1:], "segment 1 instead of 0"),
        (lambda segments: segments[::-1], "segment 1 instead of 0"),
        (lambda segments: segments[2:], "its clips are not those of its sidecar"),
        (lambda segments: [*segments, segments[0]], "do not follow one another"),
    ],
)
def test_records_that_are_well_formed_but_wrong(data_dir, change, message):
    name = rewrite(data_dir, change)
    found = problems(data_dir)
    assert message in found[name]
    assert "SHA-256" not in found[name]


def test_rewriting_alone_is_no_finding(data_dir):
    rewrite(data_dir, lambda segments: segments)
    assert problems(data_dir) == {}


def test_a_clip_in_two_shards(data_dir):
    names = sorted(path.name for path in data_dir.glob("train-*.tfrecord"))
    other = tf.data.TFRecordDataset(str(data_dir / names[1])).as_numpy_iterator()
    twin = schema.decode_segment(next(other), SOURCES)
    rewrite(data_dir, lambda segments: [*segments, twin])
    assert f"clip {twin.clip_id} is also in" in problems(data_dir)[names[1]]


@pytest.mark.parametrize("level", ["rms", "l2"])
@pytest.mark.parametrize("kind", ["impulse", "noise", "tone"])
def test_the_largest_log_mel_holds(level, kind):
    """Whatever the sound: also where all of its energy lies in one frame."""
    samples = np.zeros(16000 * 3, np.float32)
    random = np.random.default_rng(0)
    samples[8000] = 1
    if kind == "noise":
        samples[8000:8400] = random.normal(size=400)
    if kind == "tone":
        time = np.arange(400) / 16000
        samples[8000:8400] = np.hanning(400) * np.sin(2 * np.pi * 7000 * time)
    frontend = FrontendConfig(level=level)
    mel = segments.stored_log_mel(samples, frontend)
    largest = shard.largest_log_mel(len(mel), frontend)
    assert float(mel.max()) < largest < float(mel.max()) + 4


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema_version": 99}', "{}"])
def test_what_is_no_prepared_data(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert check(tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "manifest.json" in error


def test_a_manifest_that_lacks_a_field(data_dir, capsys):
    edit(data_dir / "manifest.json", lambda content: content["plan"].pop("hash"))
    assert check(data_dir) == 1
    assert "hash is missing" in capsys.readouterr().err
