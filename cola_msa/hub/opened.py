"""An encoder that was opened, whatever held it."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from cola_msa.config.schema import Config, FrontendConfig, TrainConfig
from cola_msa.frameworks.choose import get_framework
from cola_msa.model.embedding import clip_dim
from cola_msa.model.folding import fold_batch_normalization
from cola_msa.model.matcher import Matcher, inference_graph
from cola_msa.system.errors import UserError

KINDS = ("run", "pretrained", "export")


class Network(NamedTuple):
    """What an opened model is made of; `OpenedModel` describes each."""

    encoder: Callable[..., tf.Tensor]
    matcher: Matcher | None = None
    projector: keras.Model | None = None
    similarity: keras.Layer | None = None


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """An encoder and what belongs to it, wherever it came from.

    Attributes:
        kind: `run`, `pretrained` or `export`.
        path: The folder.
        dim: Values of an embedding (2048; 1280 where it is raw).
        frontend: Front end of its training data; `frontend.level` is its level rule.
        key: 16 hexadecimal digits that stand for the encoder's weights: the same for
            a run, and for the pretrained folder and the export made of it.
        description: One line for logs and titles.
        details: What its config.json or metadata.json says: `config`, `data`, `step`,
            `git_commit`.
        make_network: Builds the network, when one of its parts is asked for first.
        function: The encoder as a plain function (see `model.plain`), where it is one:
            to embed does not need the network then.
        clip_embedding: How windows' embeddings become their clip's, see
            `ModelConfig.clip_embedding`.
    """

    kind: str
    path: pathlib.Path
    dim: int
    frontend: FrontendConfig
    key: str
    description: str
    details: dict[str, Any]
    make_network: Callable[[], Network]
    function: Callable[[tf.Tensor], tf.Tensor] | None = None
    clip_embedding: str = "mean"

    @property
    def clip_dim(self) -> int:
        """Values of a clip's embedding."""
        return clip_dim(self.clip_embedding, self.dim)

    @functools.cached_property
    def network(self) -> Network:
        """The network's parts."""
        with tf.init_scope():  # it may be asked for while a graph is traced
            return self.make_network()

    @property
    def encoder(self) -> Callable[..., tf.Tensor]:
        """float32 [n, frames, num_mels, 1] -> [n, dim], in inference mode.

        A keras.Model (call it with training=False), or for an export a function.
        """
        return self.network.encoder

    @property
    def matcher(self) -> Matcher | None:
        """Scores mixtures against stems; None for an export that cannot.

        Those are ONNX and TFLite files, and a SavedModel without signature `match`.
        """
        return self.network.matcher

    @property
    def projector(self) -> keras.Model | None:
        """Projection head, keras.Model [n, dim] -> [n, 512]; None for an export."""
        return self.network.projector

    @property
    def similarity(self) -> keras.Layer | None:
        """Layer, (anchors [A, 512], candidates [P, 512]) -> [A, P]; None for an export.

        Without the temperature. `similarity.kernel` is W [512, 512], where it is
        bilinear.
        """
        return self.network.similarity

    @property
    def hears_stems(self) -> bool:
        """Whether it learned from stems, as far as it says what it learned from."""
        config = self.details.get("config") or {}
        name = config.get("framework", Config.framework)
        source = (config.get("train") or {}).get("source", TrainConfig.source)
        return get_framework(name).hears_stems(source)

    def embed(self, windows: np.ndarray) -> np.ndarray:
        """Embeds windows in one forward pass; waveforms, which need more, in eight.

        Args:
            windows: float32 [n, frames, num_mels, 1], log-mel; 98 frames are what the
                encoder was trained with.

        Returns:
            float32 [n, dim].

        Raises:
            UserError: If the windows have another shape, as another kind's have.
        """
        shape, bands = np.shape(windows), self.frontend.num_mels
        if len(shape) != 4 or shape[2:] != (bands, 1):
            kind = "waveform" if self.frontend.is_waveform else "log-mel"
            raise UserError(
                f"windows of shape {list(shape)}: {self.path} takes {kind} windows "
                f"[n, frames, {bands}, 1]"
            )
        windows = tf.convert_to_tensor(windows, tf.float32)
        step = self.frontend.at_once(max(1, len(windows)))
        if step >= len(windows):
            return self.graph(windows).numpy()
        starts = range(0, len(windows), step)
        parts = [self.graph(windows[n : n + step]).numpy() for n in starts]
        return np.concatenate(parts)

    @functools.cached_property
    def inference(self) -> Callable[..., tf.Tensor]:
        """`encoder` with folded batch normalization, where it is a keras.Model.

        It keeps the weights that the encoder has when this is asked for first.
        """
        if isinstance(self.encoder, keras.Model):
            return fold_batch_normalization(self.encoder)
        return self.encoder

    @functools.cached_property
    def graph(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """What `embed` runs: a tf.function, for any number of windows and frames."""
        if self.function is None:
            return self.network_graph
        return inference_graph(self.function, self.frontend.num_mels)

    @functools.cached_property
    def network_graph(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """`inference` as a tf.function: what exports hold, with its variables."""
        return inference_graph(self.inference, self.frontend.num_mels)


class ExportError(UserError):
    """The export does not compute what the encoder computes."""
