"""The encoder as TFLite and as ONNX: log-mel windows to embeddings.

Both take `log_mel` float32 [batch, frames, num_mels, 1] and give `embedding` float32
[batch, dim]; batch and frames are free. The network is frozen first, its weights made
constants: converted directly, TFLite gives NaN without a word.
"""

import logging
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.hub.check import ExportError
from cola_msa.hub.exported_files import FILE_NAMES
from cola_msa.hub.loading import OpenedModel

TFLITE_NAME, ONNX_NAME = FILE_NAMES["tflite"], FILE_NAMES["onnx"]
_OPSET = 17


def freeze(model: OpenedModel) -> Any:
    """The encoder as a graph whose weights are constants.

    Returns:
        Concrete function, float32 [batch, frames, num_mels, 1] -> [batch, dim].
    """
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    spec = tf.TensorSpec([None, None, model.frontend.num_mels, 1], tf.float32)
    encode = tf.function(
        lambda log_mel: tf.identity(model.graph(log_mel)),
        input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name="log_mel")],
        autograph=False,
    )
    return convert_variables_to_constants_v2(encode.get_concrete_function())


def write_tflite(model: OpenedModel, folder: pathlib.Path) -> pathlib.Path:
    """Writes encoder.tflite, in float32; returns its path."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([freeze(model)])
    path = folder / TFLITE_NAME
    path.write_bytes(converter.convert())
    return path


def write_onnx(model: OpenedModel, folder: pathlib.Path) -> pathlib.Path:
    """Writes encoder.onnx; returns its path.

    Raises:
        ExportError: If the extra `formats` is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  # the check needs it
        import tf2onnx
    except ImportError as error:
        raise ExportError(
            f"--format=onnx needs an extra ({error}): pip install '.[formats]' in the "
            "checkout"
        ) from error
    frozen = freeze(model)
    (given,), (found,) = frozen.inputs, frozen.outputs
    logging.getLogger("tf2onnx").setLevel(logging.WARNING)
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # tf2onnx calls deprecated functions
    try:
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            input_names=[given.name],
            output_names=[found.name],
            opset=_OPSET,
        )
    finally:
        logger.setLevel(level)
    graph = proto.graph
    names = {given.name: "log_mel", found.name: "embedding"}
    for node in graph.node:
        for part in (node.input, node.output):
            for number, name in enumerate(part):
                part[number] = names.get(name, name)
    for value, axes in (
        (graph.input[0], ("batch", "frames")),
        (graph.output[0], ("batch",)),
    ):
        value.name = names[value.name]
        shape = value.type.tensor_type.shape
        for dimension, axis in zip(shape.dim, axes, strict=False):
            dimension.dim_param = axis
    onnx.checker.check_model(proto, full_check=True)
    path = folder / ONNX_NAME
    onnx.save(proto, str(path))
    return path


def run_file(path: pathlib.Path, windows: list[np.ndarray]) -> list[np.ndarray]:
    """Runs an exported file in a fresh process that cannot import cola_msa.

    Args:
        path: encoder.tflite or encoder.onnx.
        windows: Batches, float32 [n, frames, num_mels, 1] each, of any sizes.

    Returns:
        A batch's embeddings each, float32 [n, dim].

    Raises:
        ExportError: If the file cannot be run.
    """
    script = _ONNX_SCRIPT if path.suffix == ".onnx" else _TFLITE_SCRIPT
    with tempfile.TemporaryDirectory() as folder:
        check = os.path.join(folder, "check.npz")
        np.savez(check, *windows)
        ran = subprocess.run(
            [sys.executable, "-I", "-c", _COMMON_SCRIPT + script, str(path), check],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise ExportError(f"{path} cannot be run: {ran.stderr[-1000:]}")
        with np.load(check) as found:
            return [found[f"arr_{number}"] for number in range(len(windows))]


_COMMON_SCRIPT = """
import sys
sys.modules["cola_msa"] = None
import numpy as np
path, check = sys.argv[1:]
given = np.load(check)
given = [given[name] for name in given.files]
"""
# An ONNX file must run without TensorFlow.
_ONNX_SCRIPT = """
sys.modules["tensorflow"] = None
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
found = [session.run(["embedding"], {"log_mel": mel})[0] for mel in given]
np.savez(check, *found)
"""
_TFLITE_SCRIPT = """
import tensorflow as tf
interpreter = tf.lite.Interpreter(path)
(inputs,) = interpreter.get_input_details()
(outputs,) = interpreter.get_output_details()
found = []
for mel in given:
    interpreter.resize_tensor_input(inputs["index"], mel.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(inputs["index"], mel)
    interpreter.invoke()
    found.append(interpreter.get_tensor(outputs["index"]))
np.savez(check, *found)
"""
