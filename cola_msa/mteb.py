"""A model for the audio tasks of MTEB (MAEB), the successor of HEAR's kit.

model = cola_msa.mteb.load_model("runs/NAME")
mteb.evaluate(model, mteb.get_tasks(tasks=["GTZANGenre"]))

mteb lives in an environment of its own (docs/embedding.md says which) and is imported
when a model is loaded; to import this module takes nothing of it.
"""

import operator
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from cola_msa.hub import pretrained
from cola_msa.hub.embedder import Batcher, Embedder, waveform_blocks
from cola_msa.hub.loading import default_model
from cola_msa.hub.opened import OpenedModel
from cola_msa.hub.sharing.front_matter import licence_fields
from cola_msa.model.embedding import ClipPooling
from cola_msa.system import console
from cola_msa.system.errors import UserError

_ORGANIZATION = "cola_msa"  # mteb's names have one before the slash
_BYTES_PER_MB = 1 << 20
_DECODED_SECONDS = 300.0  # at once


class MtebEncoder:
    """An encoder by mteb's `EncoderProtocol`: `mteb.evaluate` takes it as it is.

    Attributes:
        embedder: Embedder.
        mteb_model_meta: mteb.models.ModelMeta; its revision is the encoder's key, so
            that mteb's cache never takes the results of one encoder for another's.
    """

    def __init__(self, embedder: Embedder, mteb_model_meta: Any = None):
        """Wraps an Embedder.

        Args:
            embedder: Embedder.
            mteb_model_meta: From `model_meta`.
        """
        self.embedder = embedder
        self.mteb_model_meta = mteb_model_meta

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        show_progress_bar: bool = True,
        precision: str | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embeds the clips of a task, as `Embedder` does, one after another.

        Args:
            inputs: A DataLoader. A batch has `audio`, a list of clips, each a mapping
                with `array` (floating point, [n] or [channels, n]) and `sampling_rate`
                (Hz, any), or a decoder of torchcodec, which decodes it now.
            task_metadata: The task's; errors say its name.
            hf_split: Split of the task; errors say it.
            hf_subset: Unused, as is everything below but what is named here.
            prompt_type: Unused: there are no prompts.
            show_progress_bar: Whether to show one.
            precision: mteb's wish for another type than float32, which is refused.
            **kwargs: Unused; `batch_size` is of clips, and the network's own batches
                are of windows.

        Returns:
            float32 [clips, clip_dim].

        Raises:
            UserError: If a batch has no audio, a clip cannot be decoded, has no sample,
                samples that are infinite or not a number, or no rate; or if another
                precision is wanted.
        """
        if precision not in (None, "float32"):
            raise UserError(
                f"precision is {precision!r}, and embeddings are float32: leave it out"
            )
        place = f"{task_metadata.name}, split {hf_split}"
        model = self.embedder.model
        found: list[np.ndarray] = []

        def receive(clip: _Clip, rows: np.ndarray) -> None:
            clip.pooling.add(rows)
            clip.rows_left -= len(rows)
            if not clip.rows_left:
                found.append(clip.pooling.result())

        batcher = Batcher(model.embed, receive, self.embedder.batch_size)
        batches = _shown(inputs, show_progress_bar)
        for number, audio in enumerate(_clips(batches, place)):
            try:
                windows = self.embedder.clip_windows(*_open_audio(audio))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                # The last of them is what torchcodec raises.
                raise UserError(_describe(error, audio, number, place)) from error
            with windows:
                clip = _Clip(len(windows.starts()), model.clip_embedding)
                for part in windows.windows():
                    batcher.add(clip, part)
        batcher.flush()
        return np.stack(found) if found else np.zeros((0, model.clip_dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all pairs, [n, dim] and [m, dim] -> torch.Tensor [n, m]."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines row by row, [n, dim] twice -> torch.Tensor [n]."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def load_model(path: str = "") -> MtebEncoder:
    """Loads a model for `mteb.evaluate`.

    Args:
        path: A run, an export or a pretrained folder; empty for the newest run under
            `runs/`, or else `starter`, the package's own weights.

    Raises:
        RunError: If there is none.
        UserError: If mteb is not installed.
    """
    _import_mteb()
    embedder = Embedder.from_pretrained(path or default_model()[0])
    return MtebEncoder(embedder, model_meta(embedder.model))


def model_meta(model: OpenedModel) -> Any:
    """What mteb writes beside a model's results, `mteb.models.ModelMeta`.

    Args:
        model: From `cola_msa.hub.loading.open_model`.

    Raises:
        UserError: If mteb is not installed.
    """
    _import_mteb()
    from mteb.models import ModelMeta
    from mteb.types import Licenses

    name, licence = model.path.resolve().name, None
    if model.kind == "pretrained":
        content = pretrained.read_config(model.path)
        name = content["name"]
        licence = licence_fields(str(content.get("licence", ""))).get("license")
    name = re.sub(r"[^\w.-]+", "_", name)
    is_known = licence in _literals(Licenses)
    size = None
    if isinstance(model.encoder, keras.Model):
        size = int(model.encoder.count_params())
    return ModelMeta(
        loader=None,
        name=f"{_ORGANIZATION}/{name}",
        revision=model.key,
        release_date=None,
        languages=None,
        n_parameters=size,
        memory_usage_mb=size and size * 4 / _BYTES_PER_MB,
        max_tokens=None,
        embed_dim=model.clip_dim,
        license=licence if is_known else None,
        open_weights=True if is_known else None,
        public_training_code=None,
        public_training_data=None,
        framework=["TensorFlow"],
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=None,
        modalities=["audio"],
    )


class _Clip:
    """A clip whose windows are on their way."""

    def __init__(self, num_windows: int, kind: str):
        self.rows_left = num_windows
        self.pooling = ClipPooling(kind)


def _import_mteb() -> None:
    try:
        import mteb  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "mteb":
            raise
        raise UserError(
            "mteb is not installed here: make an environment for it, as "
            "docs/embedding.md says, and load the model there"
        ) from error


def _literals(kind: Any) -> set[str]:
    """The texts of a Literal, or of those in a union."""
    if typing.get_origin(kind) is typing.Literal:
        return set(typing.get_args(kind))
    return set().union(*(_literals(part) for part in typing.get_args(kind)))


def _shown(
    inputs: Iterable[Mapping[str, Any]], is_shown: bool
) -> Iterator[Mapping[str, Any]]:
    total = operator.length_hint(inputs) or None
    with console.progress_bar(total, "embedding", "batch", is_shown) as progress:
        for batch in inputs:
            yield batch
            progress.update()


def _clips(batches: Iterable[Mapping[str, Any]], place: str) -> Iterator[Any]:
    for batch in batches:
        if "audio" not in batch:
            raise UserError(
                f"{place}: has {', '.join(sorted(batch))}, and this encoder takes "
                "audio alone: leave the task out"
            )
        yield from batch["audio"]


def _open_audio(audio: Any) -> tuple[Iterator[np.ndarray], int]:
    """A clip of mteb's as blocks, float32 [channels, n] each, and its rate in Hz."""
    if hasattr(audio, "get_samples_played_in_range"):
        rate_hz = audio.get_samples_played_in_range(0, 0).sample_rate
        return _decoded_blocks(audio, rate_hz), rate_hz
    rate_hz = audio["sampling_rate"]
    if rate_hz is None:
        raise KeyError("sampling_rate")
    return waveform_blocks(np.asarray(audio["array"]), rate_hz), rate_hz


def _decoded_blocks(decoder: Any, rate_hz: int) -> Iterator[np.ndarray]:
    """What a decoder of torchcodec gives as a whole, [1, n] each.

    Each call decodes from the clip's beginning, hence few of them. Where the decoder
    resamples, its parts are not those of the whole, and the whole is taken.
    """
    if decoder.metadata.sample_rate != rate_hz:
        yield from _mean_blocks(decoder.get_all_samples().data.numpy(), rate_hz)
        return
    start, count, origin = 0.0, 0, 0.0
    while True:
        stop = start + _DECODED_SECONDS
        found = decoder.get_samples_played_in_range(start, stop)
        samples = found.data.numpy()
        if count:
            samples = samples[:, 1:]  # it was the last of those before
        else:
            origin = found.pts_seconds  # not 0 where the coding has a delay
        if samples.shape[1]:
            yield from _mean_blocks(samples, rate_hz)
        count += samples.shape[1]
        end = origin + count / rate_hz
        if end < stop - 2 / rate_hz:
            break
        start = end - 1 / rate_hz  # beyond the last there may be none, an error
    if not count:
        raise ValueError("it has no sample")


def _mean_blocks(samples: np.ndarray, rate_hz: int) -> Iterator[np.ndarray]:
    # Channels come first, which `waveform_blocks` cannot know of a very short clip.
    return waveform_blocks(samples.mean(axis=0, dtype=np.float32), rate_hz)


def _describe(error: Exception, audio: Any, number: int, place: str) -> str:
    """A line that says which clip cannot be embedded, and why."""
    file = getattr(getattr(audio, "metadata", None), "path", None)
    name = f"clip {number}" + (f" ({file})" if file else "")
    reason = " ".join(str(error).split())
    if isinstance(error, KeyError):
        reason = f"it has no {reason}"
    return f"{place}: {name}: {reason}"
