import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import SOURCES, FrontendConfig, config_hash
from cola_msa.records import index as index_lib
from cola_msa.records import prepared as prepared_lib
from cola_msa.records import schema
from tests.conftest import fake_clip, write_prepared


@pytest.fixture
def own_dir(tmp_path):
    return write_prepared(tmp_path / "data", {"train": 4}, num_segments=2)


def test_segment_round_trip():
    segment = fake_clip(3, 2)[0]
    found = schema.decode_segment(schema.encode_segment(segment, "h"), SOURCES)
    np.testing.assert_array_equal(found.mixture, segment.mixture)
    assert found.stems.keys() == segment.stems.keys()
    for name, stem in segment.stems.items():
        np.testing.assert_array_equal(found.stems[name], stem)
    for name in ("clip_id", "group", "segment", "is_tail", "labels", "is_active"):
        assert getattr(found, name) == getattr(segment, name)


def test_equal_segments_give_equal_bytes():
    first = schema.encode_segment(fake_clip(3, 2)[0], "h")
    assert schema.encode_segment(fake_clip(3, 2)[0], "h") == first


def test_silent_sources_store_nothing():
    segment = dataclasses.replace(fake_clip(1, 1)[0], stems={}, is_active=(False,) * 4)
    names = schema.array_offsets(schema.encode_segment(segment, "h"))
    assert not [name for name in names if name.startswith("stem/")]


def test_standard_parser_reads_the_record():
    segment = fake_clip(2, 1)[0]
    parsed = tf.io.parse_single_example(
        schema.encode_segment(segment, "h"),
        {
            "mixture": tf.io.FixedLenFeature([], tf.string),
            "is_active": tf.io.FixedLenFeature([4], tf.int64),
        },
    )
    mixture = tf.io.decode_raw(parsed["mixture"], tf.float16)
    np.testing.assert_array_equal(tf.reshape(mixture, [-1, 64]), segment.mixture)
    assert tuple(parsed["is_active"].numpy().astype(bool)) == segment.is_active


def test_index_points_at_every_array(prepared):
    index = prepared.index("train")
    serialized = {}
    for name in index.shards:
        path = str(prepared.data_dir / name)
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            segment = schema.decode_segment(record, SOURCES)
            serialized[segment.clip_id, segment.segment] = segment
    assert len(index.shard) == len(serialized)
    for row in range(len(index.shard)):
        clip = str(index.clip_ids[index.clip[row]])
        segment = serialized[clip, int(index.segment[row])]
        np.testing.assert_array_equal(prepared.mixture("train", row), segment.mixture)
        for k, source in enumerate(SOURCES):
            assert index.is_active[row, k] == (source in segment.stems)
            if source in segment.stems:
                found = prepared.read(
                    "train",
                    index.shard[row],
                    index.stem_offset[row, k],
                    index.num_frames[row],
                )
                np.testing.assert_array_equal(found, segment.stems[source])
            else:
                assert index.stem_offset[row, k] == -1


def test_missing_index_is_rebuilt_by_a_scan(own_dir):
    before = prepared_lib.PreparedData(own_dir).index("train")
    (own_dir / "index-train.npz").unlink()
    after = prepared_lib.PreparedData(own_dir).index("train")
    for field in dataclasses.fields(index_lib.Index):
        np.testing.assert_array_equal(
            getattr(before, field.name), getattr(after, field.name)
        )


def test_label_matrix(prepared):
    index = prepared.index("train")
    matrix = index.label_matrix(3)
    for clip, name in enumerate(index.clip_ids):
        expected = np.eye(3)[int(name[4:]) % 3]
        np.testing.assert_array_equal(matrix[clip], expected)


def test_other_front_end_is_refused(prepared_dir):
    with pytest.raises(schema.DataError, match=r"level rms \(data\) != l2 \(model\)"):
        prepared_lib.PreparedData(prepared_dir, FrontendConfig(level="l2"))


@pytest.mark.parametrize("has_index", [True, False])
def test_shard_of_another_front_end_is_refused(own_dir, has_index):
    name = "train-00000-of-00002.tfrecord"
    other = config_hash(FrontendConfig(hop_samples=200))
    segments = [s for c in range(2) for s in fake_clip(c, 2)]
    index_lib.write_shard(own_dir / name, segments, SOURCES, other)
    if not has_index:
        (own_dir / "index-train.npz").unlink()
    with pytest.raises(schema.DataError, match="made with front end"):
        prepared_lib.PreparedData(own_dir).index("train")


def test_missing_shard_is_named(own_dir):
    (own_dir / "train-00001-of-00002.tfrecord").unlink()
    with pytest.raises(schema.DataError, match="train-00001-of-00002.tfrecord is mis"):
        prepared_lib.PreparedData(own_dir).index("train")


def test_truncated_shard_is_found(own_dir):
    path = own_dir / "train-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(schema.DataError, match="size differs"):
        prepared_lib.PreparedData(own_dir).index("train")


def test_damaged_shard_without_index_is_found(own_dir):
    path = own_dir / "train-00001-of-00002.tfrecord"
    data = bytearray(path.read_bytes())
    data[5000] ^= 0xFF
    path.write_bytes(bytes(data))
    (own_dir / "index-train.npz").unlink()
    with pytest.raises(schema.DataError, match="not a readable TFRecord"):
        prepared_lib.PreparedData(own_dir).index("train")


def test_no_manifest_says_what_to_do(tmp_path):
    with pytest.raises(schema.DataError, match="--data_dir must name a prepared"):
        prepared_lib.PreparedData(tmp_path)


def test_other_schema_version_is_refused(own_dir):
    path = own_dir / "manifest.json"
    manifest = json.loads(path.read_text()) | {"schema_version": 99}
    path.write_text(json.dumps(manifest))
    with pytest.raises(schema.DataError, match="schema version 99"):
        prepared_lib.PreparedData(own_dir)


def test_unknown_split_lists_those_there_are(prepared):
    with pytest.raises(schema.DataError, match="there are train, validation"):
        prepared.index("dev")


def test_a_stopped_write_leaves_no_shard(tmp_path):
    def stopped():
        yield fake_clip(0, 1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_lib.write_shard(tmp_path / "a.tfrecord", stopped(), SOURCES, "h")
    assert not (tmp_path / "a.tfrecord").exists()
    shutil.rmtree(tmp_path)
