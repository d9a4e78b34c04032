"""ONNX and TFLite exports as encoders: what `open_model` runs of such a folder."""

import os
import pathlib
import threading
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cola_msa.storage import RunError

FILE_NAMES = {"onnx": "encoder.onnx", "tflite": "encoder.tflite"}
_Run = Callable[[np.ndarray], np.ndarray]


class FileEncoder:
    """An exported file as a function of windows, eagerly and in graphs.

    Calls from several threads wait for one another.
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

    def _locked(self, windows: np.ndarray) -> np.ndarray:
        if not len(windows):
            return np.zeros((0, self._dim), np.float32)
        with self._lock:
            return self._run(np.ascontiguousarray(windows))


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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Its exceptions derive from Exception alone.
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise RunError(f"{path}: damaged ({error}); export again") from error
    return lambda windows: session.run(["embedding"], {"log_mel": windows})[0]


def _open_tflite(path: pathlib.Path) -> _Run:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it will move
            interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
        (given,), (found,) = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
    except (ValueError, RuntimeError) as error:
        raise RunError(f"{path}: damaged ({error}); export again") from error
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
