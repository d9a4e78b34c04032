"""ONNX and TFLite exports: written, and run as encoders by `open_model`."""

import logging
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.evaluation.probes.heads_graph import HeadsGraph, to_stored_and_back
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.hub.opened import ExportError, OpenedModel
from cola_msa.system.errors import RunError
from cola_msa.values.reading import damage_as, read_limited

FILE_NAMES = {"onnx": "encoder.onnx", "tflite": "encoder.tflite"}
TAGGER_NAMES = {"onnx": "tagger.onnx", "tflite": "tagger.tflite"}
EMBEDDING, PROBABILITIES = "embedding", "probabilities"  # what either gives
_Run = Callable[[np.ndarray], np.ndarray]
MAX_BYTES = 512 << 20
_ONNX_TYPE = "tensor(float)"
# Where ONNX's messages hold one another, by field number, as far as tensors go.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL = (13, 14)  # a tensor's external_data and data_location


class FileEncoder:
    """An exported file as a function of windows, eagerly and in graphs.

    Calls from several threads wait for one another. Files are read whole and run as
    they were read: nothing else is opened.
    """

    def __init__(self, path: pathlib.Path, dim: int):
        """Opens a file.

        Args:
            path: encoder.onnx or encoder.tflite.
            dim: Values of an embedding.

        Raises:
            RunError: If it is damaged, or onnxruntime is not installed.
        """
        self._dim = dim
        self._lock = threading.Lock()
        self._run = _open_onnx(path) if path.suffix == ".onnx" else _open_tflite(path)

    def __call__(self, windows: tf.Tensor) -> tf.Tensor:
        """Embeds windows, float32 [n, frames, num_mels, 1] -> [n, dim]."""
        found = tf.numpy_function(self._locked, [windows], tf.float32, stateful=False)
        return tf.ensure_shape(found, [None, self._dim])

    def check(self, path: pathlib.Path, frames: int, num_mels: int) -> None:
        """Embeds a window of zeros.

        Raises:
            RunError: If the file cannot, or gives something else than embeddings.
        """
        # Either library has errors of its own for graphs that cannot be run.
        try:
            found = self._run(np.zeros((1, frames, num_mels, 1), np.float32))
        except Exception as error:
            raise _damaged(path, error) from error
        if found.shape != (1, self._dim) or found.dtype != np.float32:
            raise RunError(
                f"{path}: gives {found.dtype} {found.shape} for a window, not float32 "
                f"(1, {self._dim}); export again"
            )
        check_finite(path, found)

    def _locked(self, windows: np.ndarray) -> np.ndarray:
        if not len(windows):
            return np.zeros((0, self._dim), np.float32)
        with self._lock:
            return self._run(np.ascontiguousarray(windows))


def check_finite(path: pathlib.Path, embeddings: np.ndarray) -> None:
    """Refuses an encoder whose embeddings of a window of zeros are no numbers.

    Raises:
        RunError: If they are not finite.
    """
    if not np.isfinite(embeddings).all():
        raise RunError(
            f"{path}: the encoder's weights are not finite: its embedding of a window "
            "has values that are infinite or not a number; export another checkpoint"
        )


def find_file(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder's encoder.onnx or encoder.tflite, if it holds one."""
    found = (folder / name for name in FILE_NAMES.values())
    return next((path for path in found if path.is_file()), None)


def _open_onnx(path: pathlib.Path) -> _Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise RunError(
            f"{path}: needs onnxruntime ({error}); pip install onnxruntime, or name "
            "the run or a SavedModel"
        ) from error
    content = _read(path)
    with damage_as(RunError, path, "export again"):
        if has_external_data(content):
            raise ValueError("its values lie in other files, which are not read")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Its exceptions derive from Exception alone.
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise _damaged(path, error) from error
    given = [(value.name, value.type) for value in session.get_inputs()]
    found = [(value.name, value.type) for value in session.get_outputs()]
    if (given, found) != ([("log_mel", _ONNX_TYPE)], [("embedding", _ONNX_TYPE)]):
        raise RunError(f"{path}: takes {given} and gives {found}; export again")
    return lambda windows: session.run(["embedding"], {"log_mel": windows})[0]


def _read(path: pathlib.Path) -> bytes:
    try:
        return read_limited(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); export again") from error


def _damaged(path: pathlib.Path, error: Exception) -> RunError:
    reason = " ".join(str(error).split())[:300]
    return RunError(f"{path}: damaged ({reason}); export again")


def has_external_data(content: bytes) -> bool:
    """Whether a part of an ONNX model lies in another file, wherever that is.

    Args:
        content: A serialized ModelProto.

    Raises:
        ValueError: If it is none.
    """
    waiting = [("model", 0, len(content))]
    while waiting:
        kind, start, end = waiting.pop()
        for number, first, last in _fields(content, start, end):
            if kind == "tensor" and number in _EXTERNAL:
                return True
            part = _PARTS[kind].get(number)
            if part:
                waiting.append((part, first, last))
    return False


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, start, end) of a protocol buffer's fields.

    Of a number that is 0 nothing: it says no more than a missing one.
    """
    while start < end:
        key, start = _varint(data, start, end)
        kind = key & 7
        if kind == 0:
            value, last = _varint(data, start, end)
            if value:
                yield key >> 3, start, last
            start = last
            continue
        if kind == 2:
            size, start = _varint(data, start, end)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if not 0 <= size <= end - start:
            raise ValueError("no protocol buffer")
        yield key >> 3, start, start + size
        start += size


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            break
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("no protocol buffer")


def find_custom(content: bytes) -> str | None:
    """The name of an operation that is none of TFLite's own; None without one.

    TensorFlow's interpreter would run any of TensorFlow's, those that write files too.

    Args:
        content: A TFLite file.

    Raises:
        ValueError: If it is none.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    # Of a damaged file FlatBuffers raises what reading out of bounds gives.
    try:
        model = schema.Model.GetRootAsModel(content, 0)
        for number in range(model.OperatorCodesLength()):
            code = model.OperatorCodes(number)
            kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            if kind == schema.BuiltinOperator.CUSTOM or code.CustomCode():
                return (code.CustomCode() or b"").decode(errors="replace") or "unnamed"
    except (struct.error, IndexError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return None


def _open_tflite(path: pathlib.Path) -> _Run:
    content = _read(path)
    with damage_as(RunError, path, "export again"):
        if (name := find_custom(content)) is not None:
            raise ValueError(f"its operation {name!r:.60} is none of TFLite's own")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it will move
            interpreter = tf.lite.Interpreter(
                model_content=content, num_threads=os.cpu_count()
            )
        (given,), (found,) = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    shape: tuple[int, ...] = ()

    def run(windows: np.ndarray) -> np.ndarray:
        nonlocal shape
        if windows.shape != shape:
            interpreter.resize_tensor_input(given["index"], windows.shape)
            interpreter.allocate_tensors()
            shape = windows.shape
        interpreter.set_tensor(given["index"], windows)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    return run


TFLITE_NAME, ONNX_NAME = FILE_NAMES["tflite"], FILE_NAMES["onnx"]
_OPSET = 17


def freeze(
    model: OpenedModel, heads: Heads | None = None, is_single: bool = False
) -> Any:
    """The encoder, with heads behind it or not, as a graph of constant weights.

    Args:
        model: The encoder.
        heads: Heads on windows.
        is_single: As `HeadsGraph`.

    Returns:
        Concrete function, float32 [batch, frames, num_mels, 1] -> [batch, dim], or of
        heads [batch, K].
    """
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    spec = tf.TensorSpec([None, None, model.frontend.num_mels, 1], tf.float32)
    score = None if heads is None else HeadsGraph(heads, is_single)

    def compute(log_mel: tf.Tensor) -> tf.Tensor:
        if score is None:
            return tf.identity(model.network_graph(log_mel))
        stored = to_stored_and_back(log_mel, model.frontend)
        return tf.identity(score(model.network_graph(stored)))

    encode = tf.function(
        compute,
        input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name="log_mel")],
        autograph=False,
    )
    return convert_variables_to_constants_v2(encode.get_concrete_function())


def write_tflite(
    model: OpenedModel, folder: pathlib.Path, heads: Heads | None = None
) -> pathlib.Path:
    """Writes encoder.tflite or tagger.tflite, in float32; returns its path."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [freeze(model, heads, is_single=True)]
    )
    path = folder / (TFLITE_NAME if heads is None else TAGGER_NAMES["tflite"])
    path.write_bytes(converter.convert())
    return path


def write_onnx(
    model: OpenedModel, folder: pathlib.Path, heads: Heads | None = None
) -> pathlib.Path:
    """Writes encoder.onnx or tagger.onnx; returns its path.

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
    frozen = freeze(model, heads)
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
    output = EMBEDDING if heads is None else PROBABILITIES
    names = {given.name: "log_mel", found.name: output}
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
    path = folder / (ONNX_NAME if heads is None else TAGGER_NAMES["onnx"])
    onnx.save(proto, str(path))
    return path


def run_file(path: pathlib.Path, windows: list[np.ndarray]) -> list[np.ndarray]:
    """Runs an exported file in a fresh process that cannot import cola_msa.

    Args:
        path: encoder.tflite, encoder.onnx, or the tagger of either.
        windows: Batches, float32 [n, frames, num_mels, 1] each, of any sizes.

    Returns:
        What it gives of each batch, float32 [n, dim] or [n, K].

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
found = [session.run(None, {"log_mel": mel})[0] for mel in given]
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
