"""The SavedModel: waveform or log-mel to embeddings, and windows to matching scores.

It needs TensorFlow alone to be used. Signatures:

    embed_waveform  waveform float32 [batch, samples] at 16 kHz, lengths int32 [batch]
                    -> windows float32 [batch, W, dim], clip float32 [batch, dim],
                    num_windows int32 [batch]; rows past num_windows are 0
    embed_log_mel   log_mel float32 [batch, frames, 64, 1] -> embedding [batch, dim]
    match           mixture_windows float32 [A, frames, 64, 1], stem_windows float32
                    [P, frames, 64, 1] -> scores float32 [A, P]: a^T W p, without the
                    temperature
    project         log_mel float32 [batch, frames, 64, 1] -> projection [batch, 512]
    score           mixtures float32 [A, 512], stems float32 [P, 512] -> scores [A, P];
                    `match` is `score` of two `project`

and of an export with heads:

    tag_waveform    as embed_waveform -> of heads on windows: windows float32 [batch, W,
                    K], clip float32 [batch, K], their means, num_windows int32 [batch];
                    of heads on whole clips: clip float32 [batch, K]

Of an encoder of waveforms `log_mel` is a window of samples, float32 [batch, 243, 243,
1] from -1 to 1 at 22,050 Hz: names stay what they are in every export.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.audio.frontend import level_factor, sound_windows
from cola_msa.evaluation.probes.heads_graph import HeadsGraph, to_stored_and_back
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.hub.opened import OpenedModel

_NETWORK_WINDOWS = 256  # windows that pass through the network at once
_SIGNATURES = {
    "embed_waveform": {
        "inputs": {"waveform": "float32 [batch, samples]", "lengths": "int32 [batch]"},
        "outputs": {
            "windows": "float32 [batch, windows, embedding_dim]",
            "clip": "float32 [batch, clip_dim], of the windows: their mean, and with "
            "clip_embedding moments their deviation behind it",
            "num_windows": "int32 [batch]",
        },
    },
    "embed_log_mel": {
        "inputs": {"log_mel": "float32 [batch, {window}"},
        "outputs": {"embedding": "float32 [batch, embedding_dim]"},
    },
    "match": {
        "inputs": {
            "mixture_windows": "float32 [A, {window}",
            "stem_windows": "float32 [P, {window}",
        },
        "outputs": {
            "scores": "float32 [A, P], higher where {pair}; "
            "the similarity of their projections, without the temperature"
        },
    },
    "project": {
        "inputs": {"log_mel": "float32 [batch, {window}"},
        "outputs": {"projection": "float32 [batch, projection_dim]"},
    },
    "score": {
        "inputs": {
            "mixtures": "float32 [A, projection_dim]",
            "stems": "float32 [P, projection_dim]",
        },
        "outputs": {"scores": "float32 [A, P]"},
    },
}
_LOG_MEL = "frames, num_mels, 1], log-mel"
_SAMPLES = "frames, hop_samples, 1], samples from -1 to 1"
_STEM = "a stem belongs to a mixture"
_CLIP = "both windows are of one clip's mixture: no stem was heard"
TAG_SIGNATURE = "tag_waveform"


def describe_signatures(model: OpenedModel) -> dict[str, Any]:
    """What metadata.json says of the signatures that every SavedModel has."""
    words = {
        "{window}": _SAMPLES if model.frontend.is_waveform else _LOG_MEL,
        "{pair}": _STEM if model.hears_stems else _CLIP,
    }

    def filled(text: str) -> str:
        for mark, word in words.items():
            text = text.replace(mark, word)
        return text

    return {
        name: {
            part: {key: filled(text) for key, text in values.items()}
            for part, values in parts.items()
        }
        for name, parts in _SIGNATURES.items()
    }


def tag_signature(heads: Heads) -> dict[str, dict[str, str]]:
    """What metadata.json says of `tag_waveform`."""
    inputs = _SIGNATURES["embed_waveform"]["inputs"]
    if heads.are_of_clips:
        return {"inputs": inputs, "outputs": {"clip": "float32 [batch, classes]"}}
    return {
        "inputs": inputs,
        "outputs": {
            "windows": "float32 [batch, windows, classes]",
            "clip": "float32 [batch, classes], the windows' mean",
            "num_windows": "int32 [batch]",
        },
    }


class ExportModule(tf.Module):
    """Encoder, projection and similarity as graphs of their own."""

    def __init__(self, model: OpenedModel, heads: Heads | None = None):
        """Traces nothing yet; `save` does.

        Args:
            model: A run or a pretrained folder.
            heads: Heads of its encoder, for a signature of their own.
        """
        super().__init__()
        assert isinstance(model.inference, keras.Model) and model.matcher is not None
        assert isinstance(model.matcher.network, keras.Model)
        assert model.projector is not None and model.similarity is not None
        self.frontend = model.frontend
        networks = (model.inference, model.matcher.network, model.similarity)
        # Tracked, so that the SavedModel holds the weights.
        self.variables_ = [v.value for network in networks for v in network.variables]
        self._dim = model.dim
        self._clip_embedding = model.clip_embedding
        self._projection_dim = int(model.projector.output_shape[-1])
        self._similarity = model.similarity
        # One graph each, called by several signatures.
        self._encode = model.network_graph
        self._project_windows = model.matcher.graph
        mel = tf.TensorSpec([None, None, self.frontend.num_mels, 1], tf.float32)
        projection = tf.TensorSpec([None, self._projection_dim], tf.float32)
        signatures = {
            "embed_waveform": (
                tf.TensorSpec([None, None], tf.float32, name="waveform"),
                tf.TensorSpec([None], tf.int32, name="lengths"),
            ),
            "embed_log_mel": (_named(mel, "log_mel"),),
            "match": (_named(mel, "mixture_windows"), _named(mel, "stem_windows")),
            "project": (_named(mel, "log_mel"),),
            "score": (_named(projection, "mixtures"), _named(projection, "stems")),
        }
        if heads is not None:
            self._heads = HeadsGraph(heads)
            self._are_of_clips = heads.are_of_clips
            self._num_classes = len(heads.class_names)
            signatures[TAG_SIGNATURE] = signatures["embed_waveform"]
        self._names = tuple(signatures)
        for name, specs in signatures.items():
            function = getattr(self, f"_{name}")
            setattr(self, name, tf.function(function, input_signature=specs))

    def _embed_log_mel(self, log_mel: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": self._encode(log_mel)}

    def _project(self, log_mel: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"projection": self._project_windows(log_mel)}

    def _score(self, mixtures: tf.Tensor, stems: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": self._similarity(mixtures, stems)}

    def _match(
        self, mixture_windows: tf.Tensor, stem_windows: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._score(
            self._in_parts(
                (mixture_windows,), self._project_windows, self._projection_dim
            ),
            self._in_parts(
                (stem_windows,), self._project_windows, self._projection_dim
            ),
        )

    def _embed_waveform(
        self, waveform: tf.Tensor, lengths: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        embedded, mean, is_window, num_windows = self._over_windows(
            waveform, lengths, self._encode, self._dim
        )
        clip = mean
        if self._clip_embedding == "moments":
            # About the mean: squares of single precision would not do.
            apart = (embedded - mean[:, tf.newaxis]) * is_window[..., tf.newaxis]
            count = tf.cast(num_windows, tf.float32)[:, tf.newaxis]
            variance = tf.reduce_sum(tf.square(apart), 1) / count
            clip = tf.concat([mean, tf.sqrt(variance)], axis=1)
        return {"windows": embedded, "clip": clip, "num_windows": num_windows}

    def _tag_waveform(
        self, waveform: tf.Tensor, lengths: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        if self._are_of_clips:
            return {
                "clip": self._heads(self._embed_waveform(waveform, lengths)["clip"])
            }
        windows, clip, _, num_windows = self._over_windows(
            waveform, lengths, self._tag_log_mel, self._num_classes
        )
        return {"windows": windows, "clip": clip, "num_windows": num_windows}

    def _tag_log_mel(self, log_mel: tf.Tensor) -> tf.Tensor:
        """Scores windows as heads were trained: on windows as records hold them."""
        return self._heads(self._encode(to_stored_and_back(log_mel, self.frontend)))

    def _over_windows(
        self, waveform: tf.Tensor, lengths: tf.Tensor, network: Any, dim: int
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Calls a network on every window of clips.

        Args:
            waveform: float32 [batch, samples].
            lengths: int32 [batch].
            network: float32 [n, frames, num_mels, 1] -> [n, dim].
            dim: Values that it gives.

        Returns:
            (what it gives [batch, W, dim], 0 past a clip's own windows; their mean
            [batch, dim]; which windows are a clip's own, float32 [batch, W]; how many
            these are, int32 [batch]).
        """
        config = self.frontend
        lengths = tf.clip_by_value(lengths, 0, tf.shape(waveform)[1])
        is_real = tf.sequence_mask(lengths, tf.shape(waveform)[1], tf.float32)
        waveform *= is_real
        scale = level_factor(waveform, config.level, lengths)
        num_frames = tf.maximum(
            0, 1 + (lengths - config.window_samples) // config.hop_samples
        )
        num_windows = tf.maximum(1, num_frames // config.window_frames)
        batch, most = tf.shape(waveform)[0], tf.reduce_max(num_windows)
        # Sounds are cut before log-mels are computed: a long file fits into memory.
        hop = config.window_frames * config.hop_samples
        window = hop - config.hop_samples + config.window_samples
        needed = (most - 1) * hop + window
        waveform = waveform[:, :needed]
        missing = needed - tf.shape(waveform)[1]
        waveform = tf.pad(waveform, [[0, 0], [0, missing]])
        sounds = tf.reshape(tf.signal.frame(waveform, window, hop), [-1, window])
        # A window's own frames; what lies behind them is padding.
        first = tf.range(most) * config.window_frames
        frames = tf.reshape(num_frames[:, tf.newaxis] - first, [-1])

        def of_sounds(
            sounds: tf.Tensor, num_frames: tf.Tensor, scale: tf.Tensor
        ) -> tf.Tensor:
            return network(sound_windows(sounds, num_frames, scale, config))

        found = self._in_parts((sounds, frames, tf.repeat(scale, most)), of_sounds, dim)
        found = tf.reshape(found, [batch, most, dim])
        is_window = tf.sequence_mask(num_windows, most, tf.float32)
        found *= is_window[..., tf.newaxis]
        mean = tf.reduce_sum(found, 1) / tf.cast(num_windows, tf.float32)[:, None]
        return found, mean, is_window, num_windows

    def _in_parts(
        self, inputs: tuple[tf.Tensor, ...], network: Any, dim: int
    ) -> tf.Tensor:
        """Calls a network on inputs [N, ...] part by part: long files fit."""
        total = tf.shape(inputs[0])[0]
        num_parts = (total + _NETWORK_WINDOWS - 1) // _NETWORK_WINDOWS
        parts = tf.TensorArray(
            tf.float32, num_parts, infer_shape=False, element_shape=[None, dim]
        )
        for i in tf.range(num_parts):
            first = i * _NETWORK_WINDOWS
            part = [values[first : first + _NETWORK_WINDOWS] for values in inputs]
            parts = parts.write(i, network(*part))
        return parts.concat()

    def save(self, folder: pathlib.Path) -> None:
        """Writes the SavedModel."""
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)  # INFO names hundreds of inputs
        try:
            tf.saved_model.save(
                self,
                str(folder),
                signatures={name: getattr(self, name) for name in self._names},
            )
        finally:
            logging.set_verbosity(verbosity)


def _named(spec: tf.TensorSpec, name: str) -> tf.TensorSpec:
    return tf.TensorSpec(spec.shape, spec.dtype, name=name)


def run_exported(
    folder: pathlib.Path, inputs: dict[str, np.ndarray], *names: str
) -> dict[str, np.ndarray]:
    """Runs an export in a process without cola_msa: TensorFlow and the folder alone.

    Args:
        folder: The SavedModel.
        inputs: Of all its signatures.
        *names: Signatures to run.

    Returns:
        Their outputs.
    """
    with tempfile.TemporaryDirectory() as check:
        path = os.path.join(check, "check.npz")
        np.savez(path, **inputs)  # type: ignore[arg-type]  # names
        command = [sys.executable, "-I", "-c", _CHECK_SCRIPT, str(folder), path]
        command += names
        subprocess.run(command, check=True)
        with np.load(path) as found:
            return dict(found)


_CHECK_SCRIPT = """
import sys
sys.modules["cola_msa"] = None
import numpy as np
import tensorflow as tf
folder, check, *names = sys.argv[1:]
given = {k: tf.constant(v) for k, v in np.load(check).items()}
signatures = tf.saved_model.load(folder).signatures
found = {}
for name in names:
    inputs = signatures[name].structured_input_signature[1]
    found |= signatures[name](**{k: given[k] for k in inputs})
np.savez(check, **{k: v.numpy() for k, v in found.items()})
"""
