"""Exports an encoder as a SavedModel: python -m cola_msa.export --run_dir=...

The export needs TensorFlow alone to be used. Signatures:

    embed_waveform  waveform float32 [batch, samples] at 16 kHz, lengths int32 [batch]
                    -> windows float32 [batch, W, 1280], clip float32 [batch, 1280],
                    num_windows int32 [batch]; rows past num_windows are 0
    embed_log_mel   log_mel float32 [batch, frames, 64, 1] -> embedding [batch, 1280]
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from cola_msa import checkpoints
from cola_msa.config import FrontendConfig, to_dict
from cola_msa.console import run_command
from cola_msa.frontend import log_mel, normalize_level

TOLERANCE = 1e-4  # relative difference between export and encoder
_ENCODER_WINDOWS = 256  # windows that pass through the network at once


class ExportError(RuntimeError):
    """The export does not compute what the encoder computes."""


class ExportModule(tf.Module):
    """Waveform to embeddings, as a graph of its own."""

    def __init__(self, encoder: keras.Model, frontend: FrontendConfig):
        """Traces the signatures.

        Args:
            encoder: float32 [batch, frames, num_mels, 1] -> [batch, dim].
            frontend: FrontendConfig of the encoder's training data.
        """
        super().__init__()
        self.frontend = frontend
        # Tracked, so that the SavedModel holds the weights.
        self.variables_ = [variable.value for variable in encoder.variables]
        self._encoder = encoder
        self._dim = int(encoder.output_shape[-1])
        mels = frontend.num_mels
        self.embed_log_mel = tf.function(
            self._embed_log_mel,
            input_signature=[
                tf.TensorSpec([None, None, mels, 1], tf.float32, name="log_mel")
            ],
        )
        self.embed_waveform = tf.function(
            self._embed_waveform,
            input_signature=[
                tf.TensorSpec([None, None], tf.float32, name="waveform"),
                tf.TensorSpec([None], tf.int32, name="lengths"),
            ],
        )

    def _embed_log_mel(self, mel: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": self._encoder(mel, training=False)}

    def _embed_waveform(
        self, waveform: tf.Tensor, lengths: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        config = self.frontend
        lengths = tf.clip_by_value(lengths, 0, tf.shape(waveform)[1])
        is_real = tf.sequence_mask(lengths, tf.shape(waveform)[1], tf.float32)
        waveform = normalize_level(waveform * is_real, config.level, lengths)
        # Zeros at the end give log(log_floor) frames: a clip below one window is
        # padded to one, in the graph.
        window_samples = (
            config.window_frames - 1
        ) * config.hop_samples + config.window_samples
        missing = tf.maximum(0, window_samples - tf.shape(waveform)[1])
        waveform = tf.pad(waveform, [[0, 0], [0, missing]])
        mel = log_mel(waveform, config)
        num_frames = tf.maximum(
            0, 1 + (lengths - config.window_samples) // config.hop_samples
        )
        # Frames that reach past a shorter clip's end would differ from the same
        # clip's alone: they are padding.
        is_frame = tf.sequence_mask(num_frames, tf.shape(mel)[1])
        floor = tf.math.log(tf.constant(config.log_floor, tf.float32))
        mel = tf.where(is_frame[..., tf.newaxis], mel, floor)
        num_windows = tf.maximum(1, num_frames // config.window_frames)
        most = tf.reduce_max(num_windows)
        batch = tf.shape(waveform)[0]
        windows = tf.reshape(
            mel[:, : most * config.window_frames],
            [batch * most, config.window_frames, config.num_mels, 1],
        )
        is_window = tf.sequence_mask(num_windows, most, tf.float32)
        embedded = self._embed_in_parts(windows)
        embedded = tf.reshape(embedded, [batch, most, self._dim])
        embedded *= is_window[..., tf.newaxis]
        mean = tf.reduce_sum(embedded, 1) / tf.cast(num_windows, tf.float32)[:, None]
        return {"windows": embedded, "clip": mean, "num_windows": num_windows}

    def _embed_in_parts(self, windows: tf.Tensor) -> tf.Tensor:
        """Embeds [N, ...] part by part, so that a long file fits into memory."""
        total = tf.shape(windows)[0]
        num_parts = (total + _ENCODER_WINDOWS - 1) // _ENCODER_WINDOWS
        parts = tf.TensorArray(
            tf.float32, num_parts, infer_shape=False, element_shape=[None, self._dim]
        )
        for i in tf.range(num_parts):
            part = windows[i * _ENCODER_WINDOWS : (i + 1) * _ENCODER_WINDOWS]
            parts = parts.write(i, self._encoder(part, training=False))
        return parts.concat()


def export_encoder(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None = None,
) -> dict[str, Any]:
    """Writes a SavedModel and `metadata.json`, and checks both in a fresh process.

    Args:
        run_dir: The run.
        output_dir: Folder of the SavedModel; replaced only once the new one stands.
        step: A kept step, `best`, or None for the last.

    Returns:
        The metadata, with the largest relative difference that was found.

    Raises:
        RunError: If the run has no such checkpoint.
        ExportError: If the reloaded export differs from the encoder.
    """
    config = checkpoints.load_config(run_dir)
    encoder = checkpoints.load_encoder(run_dir, step)
    output_dir = pathlib.Path(output_dir)
    temporary = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    module = ExportModule(encoder, config.frontend)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # saving names hundreds of inputs at INFO
    try:
        tf.saved_model.save(
            module,
            str(temporary),
            signatures={
                "embed_waveform": module.embed_waveform,
                "embed_log_mel": module.embed_log_mel,
            },
        )
    finally:
        logging.set_verbosity(verbosity)
    run = checkpoints.load_run(run_dir)
    metadata = {
        "sample_rate_hz": config.frontend.sample_rate_hz,
        "level": config.frontend.level,
        "hop_samples": config.frontend.hop_samples,
        "window_frames": config.frontend.window_frames,
        "window_hop_seconds": config.frontend.window_frames
        * config.frontend.hop_samples
        / config.frontend.sample_rate_hz,
        "embedding_dim": int(encoder.output_shape[-1]),
        "frontend": to_dict(config.frontend),
        "config": run["config"],
        "data": {k: v for k, v in run["data"].items() if k != "data_dir"},
        "step": int(checkpoints.kept_path(run_dir, step).stem.split("-")[-1])
        if step not in checkpoints.NAMED_STEPS
        else step,
        "encoder_key": checkpoints.encoder_key(run_dir, step),
        "versions": checkpoints.package_versions(),
        "git_commit": run["git_commit"],
    }
    metadata["relative_difference"] = check_export(temporary, encoder, config.frontend)
    checkpoints.write_json(temporary / "metadata.json", metadata)
    shutil.rmtree(output_dir, ignore_errors=True)
    os.replace(temporary, output_dir)
    return metadata


def check_export(
    export_dir: pathlib.Path, encoder: keras.Model, frontend: FrontendConfig
) -> float:
    """Compares the export, loaded by a process without cola_msa, with the encoder.

    Args:
        export_dir: The SavedModel.
        encoder: What it was made from.
        frontend: The encoder's front end.

    Returns:
        Largest relative difference over clips of 0.3, 2.5 and 11 s.

    Raises:
        ExportError: If it exceeds TOLERANCE.
    """
    random = np.random.default_rng(0)
    rate = frontend.sample_rate_hz
    lengths = np.array([int(0.3 * rate), int(2.5 * rate), 11 * rate], np.int32)
    waveform = np.zeros((3, lengths.max()), np.float32)
    for row, length in enumerate(lengths):
        # Tones that come and go over noise: far from what one window's mean shows.
        time = np.arange(length) / rate
        tone = np.sin(2 * np.pi * (220 + 110 * row) * time) * (np.sin(3 * time) > 0)
        waveform[row, :length] = 0.1 * tone + 0.01 * random.standard_normal(length)
    np.savez(export_dir / "check.npz", waveform=waveform, lengths=lengths)
    subprocess.run(
        [sys.executable, "-I", "-c", _CHECK_SCRIPT, str(export_dir)], check=True
    )
    with np.load(export_dir / "check.npz") as found:
        exported = dict(found)
    (export_dir / "check.npz").unlink()
    worst = 0.0
    for row, length in enumerate(lengths):
        expected = reference_windows(waveform[row, :length], encoder, frontend)
        got = exported["windows"][row, : len(expected)]
        if exported["num_windows"][row] != len(expected):
            raise ExportError(
                f"the export gives {exported['num_windows'][row]} windows for a clip "
                f"of {length} samples instead of {len(expected)}"
            )
        for a, b in ((got, expected), (exported["clip"][row], expected.mean(0))):
            worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)))
    if not worst < TOLERANCE:
        raise ExportError(
            f"the export in {export_dir} differs from the encoder by {worst:.2g} "
            f"(relative), more than {TOLERANCE:g}"
        )
    return worst


def reference_windows(
    waveform: np.ndarray, encoder: keras.Model, frontend: FrontendConfig
) -> np.ndarray:
    """What a probe sees of one clip: float32 [samples] -> [W, dim]."""
    normalized = normalize_level(waveform, frontend.level)
    if frontend.num_frames(len(waveform)) > 0:
        mel = log_mel(normalized, frontend).numpy()
    else:
        mel = np.zeros((0, frontend.num_mels), np.float32)
    missing = max(0, frontend.window_frames - len(mel))
    mel = np.pad(
        mel, ((0, missing), (0, 0)), constant_values=np.log(frontend.log_floor)
    )
    num_windows = len(mel) // frontend.window_frames
    windows = mel[: num_windows * frontend.window_frames].reshape(
        num_windows, frontend.window_frames, frontend.num_mels, 1
    )
    return np.concatenate(
        [
            np.asarray(encoder(windows[i : i + 256].astype(np.float32), training=False))
            for i in range(0, num_windows, 256)
        ]
    )


# A process in which cola_msa cannot be imported: TensorFlow and the folder alone.
_CHECK_SCRIPT = """
import sys
sys.modules["cola_msa"] = None
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
given = dict(np.load(folder + "/check.npz"))
embed = tf.saved_model.load(folder).signatures["embed_waveform"]
found = embed(waveform=tf.constant(given["waveform"]),
              lengths=tf.constant(given["lengths"]))
np.savez(folder + "/check.npz", **{k: v.numpy() for k, v in found.items()})
"""


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Training run; default the newest in runs/.")
    flags.DEFINE_string("output_dir", None, "SavedModel folder.", required=True)
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    run_dir = checkpoints.choose_run(flags.FLAGS.run_dir)
    metadata = export_encoder(
        run_dir,
        flags.FLAGS.output_dir,
        checkpoints.parse_step(flags.FLAGS.checkpoint_step),
    )
    print(
        f"exported step {metadata['step']} of {run_dir} to {flags.FLAGS.output_dir}; "
        f"reloaded in a fresh process: relative difference "
        f"{metadata['relative_difference']:.1e}"
    )
    print(json.dumps({"signatures": ["embed_waveform", "embed_log_mel"]}))


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main))
