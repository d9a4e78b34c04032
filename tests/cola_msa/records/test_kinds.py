"""Records of log-mels and of waveforms: what is stored, and which folder is opened."""

import hashlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import (
    FrontendConfig,
    TrainConfig,
    config_hash,
    waveform_frontend,
)
from cola_msa.evaluation.probes.heads_graph import to_stored_and_back
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records import joined, kinds, schema, stored
from cola_msa.records.prepared import PreparedData
from cola_msa.records.reader import WindowReader
from cola_msa.records.windows import find_segments, plan_windows
from tests.conftest import fake_clip, write_prepared, write_waveforms

CONFIG = waveform_frontend()
# Of fake_clip(3, 2)'s first segment, as it was before there were waveforms.
LOG_MEL_RECORD = "d23dcc69e5de368cbe50457ecdaf4ace9c2761c7ac20ee553d6e0ac2da389a33"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder with log-mels and waveforms in it, and another with waveforms."""
    root = tmp_path_factory.mktemp("kinds")
    write_prepared(root / "both", {"train": 4})
    write_waveforms(root / "both" / "waveform", {"train": 5, "validation": 3})
    write_waveforms(root / "alone" / "waveform", {"train": 4}, first=20)
    write_prepared(root / "log_mel", {"train": 4}, first=40)
    return root


def waves_of(clip: int) -> np.ndarray:
    """What `write_waveforms` wrote: int16 of a whole clip."""
    random = np.random.default_rng(clip)
    return random.integers(-32768, 32768, (972 + 300, 243)).astype(np.int16)


def test_records_of_log_mels_are_what_they_were():
    record = schema.encode_segment(fake_clip(3, 2)[0], "hash")
    assert hashlib.sha256(record).hexdigest() == LOG_MEL_RECORD


def test_values_are_kept_to_half_a_step():
    random = np.random.default_rng(0)
    values = random.uniform(-1.2, 1.2, 10_000).astype(np.float32)
    values[:3] = 1.0, -1.0, 0.0
    found = stored.to_stored(values, CONFIG)
    assert found.dtype == np.int16
    for value, step in zip(values.tolist(), found.tolist(), strict=True):
        wanted = min(32767.0, max(-32768.0, value * 32768))
        assert abs(step - wanted) <= 0.5
    back = stored.from_stored(found)
    assert back.dtype == np.float32 and (np.abs(back) <= 1).all()
    np.testing.assert_array_equal(back, found / 32768.0)
    np.testing.assert_array_equal(stored.round_to_stored(values, CONFIG), back)
    # As the graphs of exports round.
    np.testing.assert_array_equal(to_stored_and_back(values, CONFIG), back)
    mels = stored.to_stored(values, FrontendConfig())
    assert stored.from_stored(mels) is mels and mels.dtype == np.float16


def test_a_records_own_word_says_what_it_holds(both):
    path = both / "both" / "waveform" / "train-00000-of-00002.tfrecord"
    (record, *_) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    segment = schema.decode_segment(record, ())
    np.testing.assert_array_equal(segment.mixture, waves_of(0)[:972])
    assert schema.encode_segment(segment, config_hash(CONFIG)) == record
    other = record.replace(b"int16", b"int64")
    with pytest.raises(schema.DataError, match="int64"):
        schema.decode_segment(other, ())


def test_windows_are_samples(both):
    data = PreparedData(both / "both", CONFIG)
    assert data.data_dir == both / "both" / "waveform"
    expected = [waves_of(clip) for clip in range(5)]
    plan = plan_windows(data, ["train"])
    assert np.diff(plan.clip_splits).tolist() == [5] * 5
    reader = WindowReader(plan.paths, 243, 243, plan.stored_type)
    found = reader.read(plan.shard, plan.byte_offset)
    assert found.dtype == np.float32
    for k in range(25):
        whole = expected[k // 5][243 * (k % 5) : 243 * (k % 5 + 1)]
        np.testing.assert_array_equal(found[k], whole / 32768.0)
    row = int(np.flatnonzero(data.index("train").clip == 1)[0])
    whole = data.mixture("train", row)
    np.testing.assert_array_equal(whole, expected[1][:972] / 32768.0)


def test_one_window_is_one_read(both, monkeypatch):
    data = PreparedData(both / "both", CONFIG)
    drawn = find_segments(data, ["train"]).draw(0, 0)
    sizes, read = [], __import__("os").preadv

    def count(descriptor, buffers, offset):
        sizes.append(sum(buffer.nbytes for buffer in buffers))
        return read(descriptor, buffers, offset)

    monkeypatch.setattr("cola_msa.records.reader.os.preadv", count)
    reader = WindowReader(drawn.paths, 243, 243, drawn.stored_type)
    reader.read(drawn.shard, drawn.byte_offset)
    assert sizes == [243 * 243 * 2] * drawn.num_windows


def test_pairs_are_two_windows_of_one_clip(both):
    """Anchors and positives lie where the draw says, as samples from -1 to 1."""
    data = joined.open_data(f"{both / 'both'},{both / 'alone'}", CONFIG)
    train = TrainConfig(source="none", pair_span="clip", batch_size=4, augment="none")
    sampler = PairSampler(data, train)
    draw = sampler.draw(7)
    names = [str(name) for part in data.parts for name in part.index("train").clip_ids]
    (batch,) = sampler.dataset(7, 1).as_numpy_iterator()
    assert batch["anchor"].shape == (4, 243, 243, 1)
    index = data.index("train")
    positive_rows = draw.rows if draw.positive_rows is None else draw.positive_rows
    for part, rows, starts in (
        ("anchor", draw.rows, draw.anchor_start),
        ("positive", positive_rows, draw.positive_start),
    ):
        for k, (row, start) in enumerate(zip(rows, starts, strict=True)):
            waves = waves_of(int(names[index.clip[row]].removeprefix("clip")))
            first = 972 * int(index.segment[row]) + start
            expected = waves[first : first + 243] / np.float32(32768)
            np.testing.assert_array_equal(batch[part][k, ..., 0], expected)
    assert (index.clip[draw.rows] == index.clip[positive_rows]).all()


@pytest.mark.parametrize("name", ["both", "both/waveform", "alone"])
def test_the_kind_that_a_model_needs_is_found(both, name):
    data = PreparedData(both / name, CONFIG)
    assert data.frontend == CONFIG and data.data_dir.name == "waveform"


def test_log_mels_are_read_beside_waveforms(both):
    data = PreparedData(both / "both", FrontendConfig())
    assert data.data_dir == both / "both" and data.frontend == FrontendConfig()
    assert kinds.prepared_folders(both / "both") == [
        both / "both",
        both / "both" / "waveform",
    ]
    assert kinds.prepared_folders(both / "alone") == [both / "alone" / "waveform"]
    assert kinds.prepared_folders(both) == [both]


@pytest.mark.parametrize(
    ("name", "frontend", "advice"),
    [
        ("log_mel", CONFIG, "--records=waveform"),
        ("nothing", CONFIG, "--records=waveform"),
        ("alone/waveform", FrontendConfig(), "--records=log_mel"),
        ("alone", FrontendConfig(), "--records=log_mel"),
    ],
)
def test_a_missing_kind_is_told_with_the_command_that_makes_it(
    both, name, frontend, advice
):
    with pytest.raises(schema.DataError, match=advice) as found:
        PreparedData(both / name, frontend)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "frontend", "is_around"),
    [("alone/waveform", FrontendConfig(), True), ("alone", FrontendConfig(), False)],
)
def test_the_folder_around_is_named_where_there_is_one(both, name, frontend, is_around):
    with pytest.raises(schema.DataError) as found:
        PreparedData(both / name, frontend)
    assert ("name the folder around it" in str(found.value)) is is_around


@pytest.mark.parametrize(
    ("first", "second", "frontend", "advice"),
    [
        ("log_mel", "alone", FrontendConfig(), "hears log-mels.*--records=log_mel"),
        ("alone", "log_mel", CONFIG, "hears waveforms.*--records=waveform"),
        ("log_mel", "nothing", FrontendConfig(), "no prepared folder"),
        ("alone", "nothing", CONFIG, "no prepared folder"),
    ],
)
def test_one_of_several_folders_lacks_the_kind(both, first, second, frontend, advice):
    with pytest.raises(schema.DataError, match=advice) as found:
        joined.open_data(f"{both / first},{both / second}", frontend)
    assert ("no prepared folder" in str(found.value)) is (second == "nothing")


def test_a_folder_of_another_hop_is_refused_as_ever(both, tmp_path):
    other = FrontendConfig(hop_samples=200)
    shutil.copytree(both / "log_mel", tmp_path / "data")
    with pytest.raises(schema.DataError, match="hop_samples 160"):
        PreparedData(tmp_path / "data", other)
