"""Exports from elsewhere: what their files would read, write or run besides."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from hypothesis import given, settings
from hypothesis import strategies as st

from cola_msa.config.schema import FrontendConfig, to_dict
from cola_msa.hub import loading
from cola_msa.hub.formats import portable
from cola_msa.system.errors import RunError

DIM = 4
METADATA = {
    "frontend": to_dict(FrontendConfig()),
    "encoder_key": "k",
    "embedding_dim": DIM,
    "step": 4,
    "config": {},
    "data": {},
}
SHAPE = (1, 98, 64, 1)


def write_metadata(folder, **fields):
    folder.mkdir(exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps({**METADATA, **fields}))
    return folder


def tflite(encode):
    """A function of windows as a TFLite file, TensorFlow's operations allowed."""
    spec = tf.TensorSpec([None, None, 64, 1], tf.float32, name="log_mel")
    module = tf.Module()
    module.encode = tf.function(encode, input_signature=[spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.encode.get_concrete_function()], module
    )
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    return converter.convert()


def embed(log_mel):
    return tf.reduce_mean(log_mel, axis=[1, 3])[:, :DIM]


@pytest.fixture(scope="module")
def good_tflite():
    return tflite(embed)


def test_a_tflite_file_is_run(good_tflite, tmp_path):
    folder = write_metadata(tmp_path / "good")
    (folder / "encoder.tflite").write_bytes(good_tflite)
    opened = loading.open_model(folder)
    windows = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_allclose(
        opened.embed(windows), embed(windows).numpy(), rtol=1e-5, atol=1e-6
    )


def test_a_tflite_file_that_would_write_a_file_is_refused(tmp_path):
    victim = tmp_path / "victim"

    def encode(log_mel):
        tf.io.write_file(str(victim), "written")
        return embed(log_mel)

    content = tflite(encode)
    assert portable.find_custom(content) == "FlexWriteFile"
    folder = write_metadata(tmp_path / "bad")
    (folder / "encoder.tflite").write_bytes(content)
    with pytest.raises(RunError, match="'FlexWriteFile' is none of TFLite's own"):
        loading.open_model(folder)
    assert not victim.exists()


def test_another_dimension_is_refused_when_opened(good_tflite, tmp_path):
    folder = write_metadata(tmp_path / "good", embedding_dim=DIM + 1)
    (folder / "encoder.tflite").write_bytes(good_tflite)
    with pytest.raises(RunError, match=r"not float32 \(1, 5\)"):
        loading.open_model(folder)


@settings(max_examples=30, deadline=None)
@given(draw=st.data())
def test_any_tflite_bytes_are_looked_at_without_harm(good_tflite, draw):
    content = bytearray(good_tflite)
    for _ in range(draw.draw(st.integers(1, 6))):
        place = draw.draw(st.integers(0, len(content) - 1))
        content[place] = draw.draw(st.integers(0, 255))
    content = bytes(content[: draw.draw(st.integers(0, len(content)))])
    try:
        portable.find_custom(content)
    except ValueError as error:
        assert not isinstance(error, RunError)


def field(number, content):
    """A length-delimited field of a protocol buffer."""
    size, varint = len(content), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return bytes([*_key(number << 3 | 2)]) + varint + bytes([size]) + content


def _key(value):
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value


OUTSIDE = field(13, field(1, b"location") + field(2, b"/etc/passwd"))
FLAG = bytes([14 << 3, 1])  # data_location: EXTERNAL
PLACES = {
    "initializer": lambda t: field(7, field(5, t)),
    "sparse": lambda t: field(7, field(15, field(1, t))),
    "constant": lambda t: field(7, field(1, field(5, field(5, t)))),
    "constants": lambda t: field(7, field(1, field(5, field(10, t)))),
    "loop": lambda t: field(7, field(1, field(5, field(6, field(5, t))))),
    "branches": lambda t: field(7, field(1, field(5, field(11, field(5, t))))),
    "function": lambda t: field(25, field(7, field(5, field(5, t)))),
    "default": lambda t: field(25, field(11, field(5, t))),
    "second graph": lambda t: field(7, b"") + field(7, field(5, t)),
}


@pytest.mark.parametrize("name", PLACES)
def test_values_in_other_files_are_found(name):
    for tensor in (OUTSIDE, FLAG):
        assert portable.has_external_data(PLACES[name](tensor))
    inside = bytes([14 << 3, 0]) + field(9, b"values")
    assert not portable.has_external_data(PLACES[name](inside))


@given(st.binary(max_size=200))
def test_any_bytes_have_such_values_or_not(content):
    try:
        assert portable.has_external_data(content) in (True, False)
    except ValueError as error:
        assert "no protocol buffer" in str(error)


def onnx_model(onnx, location=None):
    """Averages of the first bands, plus a constant."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    bias = onnx.numpy_helper.from_array(np.ones((1, 64), np.float32), "bias")
    if location is not None:
        onnx.external_data_helper.set_external_data(bias, location)
        bias.ClearField("raw_data")
        bias.data_location = onnx.TensorProto.EXTERNAL
    nodes = [
        helper.make_node("ReduceMean", ["log_mel"], ["mean"], axes=[1, 3], keepdims=0),
        helper.make_node("Add", ["mean", "bias"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("log_mel", kind, ["b", "f", 64, 1])],
        [helper.make_tensor_value_info("embedding", kind, ["b", 64])],
        [bias],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def test_an_onnx_file_reads_no_other(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra formats")
    pytest.importorskip("onnxruntime", reason="needs the extra formats")
    folder = write_metadata(tmp_path / "model", embedding_dim=64)
    onnx.save(onnx_model(onnx), str(folder / "encoder.onnx"))
    windows = np.zeros(SHAPE, np.float32)
    np.testing.assert_array_equal(loading.open_model(folder).embed(windows), 1)
    secret = np.full((1, 64), 7, np.float32).tobytes()
    for location in ("beside", "../outside", str(tmp_path / "outside")):
        (tmp_path / "outside").write_bytes(secret)
        (folder / "beside").write_bytes(secret)
        content = onnx_model(onnx, location).SerializeToString()
        (folder / "encoder.onnx").write_bytes(content)
        with pytest.raises(RunError, match="lie in other files, which are not read"):
            loading.open_model(folder)


def test_an_onnx_file_of_other_names_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra formats")
    pytest.importorskip("onnxruntime", reason="needs the extra formats")
    folder = write_metadata(tmp_path / "model", embedding_dim=64)
    model = onnx_model(onnx)
    model.graph.input[0].name = model.graph.node[0].input[0] = "audio"
    onnx.save(model, str(folder / "encoder.onnx"))
    with pytest.raises(RunError, match="takes .*audio"):
        loading.open_model(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.tflite"])
def test_a_file_of_any_length_is_not_read_whole(tmp_path, name):
    if name == "encoder.onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra formats")
    folder = write_metadata(tmp_path / "model")
    with open(folder / name, "wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(RunError, match="it has more than"):
        loading.open_model(folder)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = write_metadata(tmp_path_factory.mktemp("saved") / "model")
    spec = tf.TensorSpec([None, None, 64, 1], tf.float32, name="log_mel")
    module = tf.Module()
    module.scale = tf.Variable(1.0)
    module.encode = tf.function(
        lambda log_mel: {"embedding": module.scale * embed(log_mel)},
        input_signature=[spec],
    )
    tf.saved_model.save(module, str(folder), {"embed_log_mel": module.encode})
    return folder


def test_a_saved_model_says_what_it_can_do(saved_model, caplog):
    logging.use_python_logging()
    caplog.set_level("INFO")
    loading.open_model(saved_model)
    (line,) = [r.getMessage() for r in caplog.records if "SavedModel" in r.getMessage()]
    assert "can read and write files; open only those that you trust" in line


def test_other_folders_say_no_such_thing(finished_run, caplog):
    logging.use_python_logging()
    caplog.set_level("INFO")
    loading.open_model(finished_run)
    assert "SavedModel" not in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_a_cut_saved_model_is_one_line(saved_model, tmp_path, name, share):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunError) as error:
        loading.open_model(folder)
    assert "\n" not in str(error.value) and "damaged SavedModel" in str(error.value)


def test_a_saved_model_of_another_dimension_is_refused(saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["embedding_dim"] += 1
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(RunError, match=r"gives \(None, .*export again"):
        loading.open_model(folder)
