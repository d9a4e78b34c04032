"""Waveforms to labels: an encoder, and heads that were trained on its embeddings.

tag = cola_msa.Tagger.from_pretrained("runs/NAME", task="fma")
names, probabilities = tag(samples, rate_hz)                 # [K], mean over windows
starts, probabilities = tag.windows(samples, rate_hz)        # [W], [W, K]
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cola_msa.evaluation.probes.heads import to_probabilities
from cola_msa.evaluation.probes.held_heads import (
    TagError,
    check_encoder,
    find_heads,
    open_heads,
)
from cola_msa.evaluation.probes.kept_heads import Heads, describe, pack_heads
from cola_msa.evaluation.probes.tuned_file import read_model
from cola_msa.hub import pretrained
from cola_msa.hub.embedder import BATCH_SIZE, Embedder
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import Network, OpenedModel
from cola_msa.records.stored import round_to_stored
from cola_msa.system.errors import RunError
from cola_msa.system.files import file_sha256


@dataclasses.dataclass(frozen=True)
class TaggingModel(OpenedModel):
    """An encoder with heads behind it: `embed` gives what the heads say.

    All that embeds files tags them by this.

    Attributes:
        score: float32 [n, frames, num_mels, 1] -> float32 [n, K].
        heads: The heads.
        base: The encoder alone, where the heads take embeddings of whole clips; it is
            to be used then, and the heads on what it gives.
    """

    score: Callable[[np.ndarray], np.ndarray] | None = None
    heads: Heads | None = None
    base: OpenedModel | None = None

    def embed(self, windows: np.ndarray) -> np.ndarray:
        """Scores windows, float32 [n, frames, num_mels, 1] -> [n, K].

        They are rounded first, as they are in records, of which the heads were trained.
        """
        assert self.score is not None
        return self.score(round_to_stored(np.asarray(windows), self.frontend))


def _key(parts: Sequence[str], heads: Heads) -> str:
    """16 hexadecimal digits that stand for an encoder and its heads."""
    digest = hashlib.sha256("\n".join(parts).encode())
    arrays, state = pack_heads(heads)
    digest.update(repr([state["class_names"], state["outputs"]]).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]


def heads_key(heads: Heads) -> str:
    """16 hexadecimal digits that stand for heads, and for the encoder they are of."""
    return _key([heads.encoder_key], heads)


def _no_network() -> Network:
    raise AssertionError("heads are applied to embeddings")


def tagging_model(model: OpenedModel, heads: Heads) -> TaggingModel:
    """An encoder with heads behind it.

    Raises:
        TagError: If the heads are another encoder's.
    """
    check_encoder(heads, model.path, model.key, model.dim, model.clip_dim)
    return TaggingModel(
        kind=model.kind,
        path=model.path,
        dim=len(heads.class_names),
        frontend=model.frontend,
        key=heads_key(heads),
        description=f"{model.description}; {describe(heads)}",
        details=model.details,
        make_network=_no_network,
        score=lambda windows: heads.score_windows(model.embed(windows)),
        heads=heads,
        base=model if heads.are_of_clips else None,
    )


def tuned_model(path: pathlib.Path, heads: Heads) -> TaggingModel:
    """An encoder that was trained with the labels, with its own heads.

    Args:
        path: The evaluation's heads.npz; its models lie beside it.
        heads: What it holds.

    Raises:
        RunError: If a model is missing or damaged.
    """
    files = [path.parent / str(name) for name in heads.details["tuned"]]
    if any(file.parent != path.parent for file in files):
        raise RunError(f"{path}: names files that do not lie beside it")
    models = [read_model(file) for file in files]
    frontend = heads.frontend
    shape = (frontend.window_frames, frontend.num_mels, 1)
    functions = [_probability_function(m, shape, heads.is_tags) for m in models]

    def score(windows: np.ndarray) -> np.ndarray:
        found = [function(tf.constant(windows)).numpy() for function in functions]
        return np.asarray(np.mean(found, axis=0, dtype=np.float64), np.float32)

    return TaggingModel(
        kind="run",
        path=path,
        dim=len(heads.class_names),
        frontend=frontend,
        key=_key([file_sha256(file) for file in files], heads),
        description=f"fine-tuned; {describe(heads)}",
        details={},
        make_network=_no_network,
        score=score,
        heads=heads,
    )


def _probability_function(
    model: keras.Model, shape: tuple[int, ...], is_tags: bool
) -> Any:
    @tf.function(
        input_signature=[tf.TensorSpec([None, *shape], tf.float32)], autograph=False
    )
    def probabilities(windows: tf.Tensor) -> tf.Tensor:
        return to_probabilities(model(windows, training=False), is_tags)

    return probabilities


def check_granularity(heads: Heads, per: str) -> None:
    """Refuses windows where heads know whole clips alone.

    Raises:
        TagError: If so.
    """
    if heads.are_of_clips and per == "window":
        raise TagError(
            f"the heads for {heads.task['name']} were trained on embeddings of whole "
            "clips and know no windows: leave out --per=window, or take heads of "
            "python -m cola_msa.eval"
        )


def model_heads(model: OpenedModel, task: str | None) -> Heads:
    """The heads of an opened model for a task; None where it has them for one alone.

    Raises:
        TagError: If there are none.
        RunError: If a pretrained folder's are not those that it lists.
    """
    if model.kind == "pretrained":
        pretrained.check_heads(model.path, task)
    return find_heads(model.path, model.key, task)[1]


def check_task(file: pathlib.Path, heads: Heads, task: str | None) -> None:
    """Refuses heads that are for another task than the one that is named.

    Raises:
        TagError: If so.
    """
    if task is not None and heads.task["name"] != task:
        raise TagError(
            f"{file} holds heads for {heads.task['name']}, not for --task={task}"
        )


def open_tagging_model(
    model: str | os.PathLike | None,
    task: str | None = None,
    head: str | os.PathLike | None = None,
    checkpoint_step: int | str | None = None,
) -> TaggingModel:
    """Opens an encoder and the heads behind it.

    Args:
        model: A run, a pretrained folder, an export, an address or a name; may be None
            for heads of an encoder that was fine-tuned, which lie beside it.
        task: A task's name, see `find_heads`.
        head: A file or a folder of heads; None for the model's own.
        checkpoint_step: For a run: a kept step, `best`, or None for the last.

    Raises:
        TagError: If there are no heads, or they do not fit.
        RunError: If there is no such model.
    """
    if head is not None:
        file, heads = open_heads(head)
        check_task(file, heads, task)
        if heads.are_tuned:
            return tuned_model(file, heads)
    if model is None:
        raise TagError("name an encoder by --model")
    opened = open_model(model, checkpoint_step)
    if head is None:
        heads = model_heads(opened, task)
    return tagging_model(opened, heads)


class Tagger:
    """Labels waveforms by a trained encoder and its heads."""

    def __init__(self, model: TaggingModel, batch_size: int = BATCH_SIZE):
        """Wraps what `open_tagging_model` gives.

        Args:
            model: Encoder and heads.
            batch_size: Windows that pass through the network at once.
        """
        assert model.heads is not None
        self.model = model
        self.heads: Heads = model.heads
        self._embedder = Embedder(model.base or model, batch_size)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        task: str | None = None,
        head: str | os.PathLike | None = None,
        checkpoint_step: int | str | None = None,
    ) -> "Tagger":
        """Opens a run, a pretrained folder or an export with its heads.

        Args:
            path: The folder, an address, or a name such as `starter`.
            task: Which of its heads, by the task's name; None where it has one.
            head: A folder or file of heads instead of its own, as of `tag fit`.
            checkpoint_step: For a run: a kept step, `best`, or None for the last.

        Raises:
            TagError: If there are no such heads, or they are another encoder's.
            RunError: If the folder is none of these.
        """
        return cls(open_tagging_model(path, task, head, checkpoint_step))

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """K names of labels."""
        return self.heads.class_names

    def __call__(
        self, samples: np.ndarray, rate_hz: int
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """Labels a clip.

        Args:
            samples: float32 [n] or [channels, n], any level; channels are averaged.
            rate_hz: Its rate, Hz; any.

        Returns:
            (K names, float32 [K]): each label's probability, the mean over windows of
            0.98 s that touch.

        Raises:
            ValueError: If it is not such a waveform, has no sample, or has samples
                that are infinite or not a number.
        """
        if self.model.base is not None:
            clip = self._embedder(samples, rate_hz)
            return self.class_names, self.heads.score_windows(clip[np.newaxis])[0]
        windows = self.windows(samples, rate_hz)[1]
        mean = windows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return self.class_names, mean

    def windows(
        self, samples: np.ndarray, rate_hz: int, hop_seconds: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels a clip over time.

        Args:
            samples: As `__call__` takes them.
            rate_hz: Their rate, Hz.
            hop_seconds: From one window to the next; None for windows that touch.

        Returns:
            (starts float64 [W], seconds; probabilities float32 [W, K]).

        Raises:
            TagError: If the heads know whole clips alone, as those of `tag fit` do.
            ValueError: As `__call__`; or if the hop is below one frame.
        """
        check_granularity(self.heads, "window")
        return self._embedder.windows(samples, rate_hz, hop_seconds)
