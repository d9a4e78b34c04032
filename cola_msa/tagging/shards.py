"""Labels of many files, or of a folder of embeddings, as a folder of shards.

What makes the shards, goes on after kills and works by Beam is `collection.shards`;
here is what one of them is made of.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cola_msa.collection.embed import Summary, describe
from cola_msa.collection.inputs import Inputs
from cola_msa.collection.shards.build import Job, OnFile
from cola_msa.collection.shards.output import MARK
from cola_msa.collection.table.dataset import list_shards
from cola_msa.collection.table.read import Embeddings, open_reader
from cola_msa.evaluation.probes.held_heads import open_heads
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.hub.loading import open_model
from cola_msa.tagging.files import Labelled, tag_embeddings, tag_files, write_labels
from cola_msa.tagging.tagger import (
    TagError,
    TaggingModel,
    check_granularity,
    check_task,
    heads_key,
    model_heads,
    open_tagging_model,
)


def heads_of(
    model: str | None,
    task: str | None,
    head: str | None,
    checkpoint_step: int | str | None,
) -> Heads:
    """Heads alone, of a folder or of a model.

    Args:
        model: Whose heads, where `head` is None.
        task: Which of them.
        head: A file or folder of heads, or None.
        checkpoint_step: Of a run.

    Raises:
        TagError: If there are none.
        RunError: If there is no such model.
    """
    if head is not None:
        file, heads = open_heads(head)
        check_task(file, heads, task)
        return heads
    return model_heads(open_model(model or "", checkpoint_step), task)


@dataclasses.dataclass(frozen=True)
class TagJob(Job):
    """Labels of audio files, a shard of them at a time.

    Attributes:
        task: Which of the model's heads, or None.
        head: A file or folder of heads, or None for the model's own.
        top: Labels a row; 0 for those that apply.
    """

    task: str | None = None
    head: str | None = None
    top: int = 0

    def open(self) -> Any:
        """Opens the encoder with its heads."""
        return open_tagging_model(
            self.model or None, self.task, self.head, self.checkpoint_step
        )

    def settings(self, model: TaggingModel) -> dict[str, Any]:
        """What decides the shards' values."""
        assert model.heads is not None
        check_granularity(model.heads, self.per)
        found = describe(model.base or model, self.per, self.hop_seconds)
        return {**found, "model_hash": model.key, **_settings(model.heads, self.top)}

    def make(
        self,
        model: TaggingModel,
        paths: Sequence[str],
        file: pathlib.Path,
        mark: Mapping[str, Any],
        on_file: OnFile,
    ) -> Summary:
        """Makes one shard's table, also where it has no row."""
        assert model.heads is not None
        said = {**self.settings(model), **mark}
        summary, found = tag_files(
            paths,
            file,
            model,
            self.per,
            top=self.top,
            hop_seconds=self.hop_seconds,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            root=self.root,
            on_file=on_file,
            mark=said,
        )
        if found is None:
            write_labels(file, _no_labels(model.heads, self.per), self.top, said)
        return summary


@dataclasses.dataclass(frozen=True)
class TagEmbeddingsJob(TagJob):
    """Labels of a folder of embeddings; a shard of them becomes one of labels."""

    def open(self) -> Any:
        """Opens the heads alone."""
        return heads_of(self.model, self.task, self.head, self.checkpoint_step)

    def key_of(self, model: Heads) -> str:
        """What stands for the heads."""
        return heads_key(model)

    def settings(self, model: Any) -> dict[str, Any]:
        """What decides the shards' values."""
        check_granularity(model, self.per)
        own = {"model_hash": heads_key(model), "per": self.per}
        return {**own, **_settings(model, self.top)}

    def make(
        self,
        model: Any,
        paths: Sequence[str],
        file: pathlib.Path,
        mark: Mapping[str, Any],
        on_file: OnFile,
    ) -> Summary:
        """Makes one shard's table of one shard of embeddings."""
        (path,) = paths
        reader = open_reader(path)
        num_rows = reader.num_rows
        reader.close()
        found = _no_labels(model, self.per)
        if num_rows:
            found = tag_embeddings(path, model, self.per)
        write_labels(file, found, self.top, {**self.settings(model), **mark})
        on_file(0.0)
        return Summary(
            num_files=1,
            num_embedded=1,
            num_earlier=0,
            failures={},
            num_rows=found.num_rows,
            audio_seconds=0.0,
            wall_seconds=0.0,
        )


def _settings(heads: Heads, top: int) -> dict[str, Any]:
    return {"task": heads.task["name"], "class_names": list(heads.class_names)} | (
        {"top": top} if top else {}
    )


def _no_labels(heads: Heads, per: str) -> Labelled:
    """A table of labels without a row."""
    scores = np.zeros((0, len(heads.class_names)), np.float32)
    empty = Embeddings((), (), np.zeros(0), np.zeros(0), scores)
    return Labelled(empty, heads, per)


def embedding_shards(folder: str | os.PathLike, per: str) -> Inputs:
    """The shards of a folder of embeddings, each as a unit of work.

    Args:
        folder: What `embed --output=FOLDER` wrote.
        per: `clip` or `window`, of the labels.

    Raises:
        EmbeddingFileError: If it is no such folder, or cannot be read.
        TagError: If a clip's windows may lie in several shards.
    """
    reader = open_reader(folder)
    text = reader.metadata()
    reader.close()
    said = json.loads(text) if text else {}
    if per == "clip" and said.get("per") != "clip" and MARK not in said:
        raise TagError(
            f"--embeddings={folder} may have a row a window, and another program's "
            "shards may divide a clip: name a file by --output, or --per=window"
        )
    return Inputs([os.path.abspath(path) for path in list_shards(folder)], {})
