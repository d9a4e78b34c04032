"""One shard as the unit of work: its files embedded, and what failed beside them."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cola_msa.collection.embed import (
    Summary,
    describe,
    embed_files,
    row_dim,
    table_metadata,
)
from cola_msa.collection.shards.output import MARK, Output
from cola_msa.collection.shards.plan import Shard
from cola_msa.collection.table.write import Table, write_table
from cola_msa.hub.embedder import BATCH_SIZE
from cola_msa.hub.loading import open_model
from cola_msa.system.errors import RunError, hide_logins

OnFile = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker needs to know; what it opens is opened once a process.

    Attributes:
        output: The dataset's folder or address.
        model: A run, a pretrained folder, an export, an address or a name.
        checkpoint_step: Of a run: a kept step, `best`, or None for the last.
        key: Hash of the model that was opened first; None before.
        per: `clip` or `window`.
        hop_seconds: From one window to the next; None for windows that touch.
        batch_size: Windows that pass through the network at once.
        num_workers: Threads that decode; 0 for one a core.
        root: The folder or address that the files were found in, or None.
    """

    output: str
    model: str
    checkpoint_step: int | str | None = None
    key: str | None = None
    per: str = "clip"
    hop_seconds: float | None = None
    batch_size: int = BATCH_SIZE
    num_workers: int = 0
    root: str | None = None

    def open(self) -> Any:
        """Opens the model: an OpenedModel, or of another kind of job what that takes.

        Raises:
            RunError: If there is none.
        """
        return open_model(self.model, self.checkpoint_step)

    def key_of(self, model: Any) -> str:
        """What stands for an opened model."""
        return model.key

    def settings(self, model: Any) -> dict[str, Any]:
        """What decides the shards' values, in plain JSON types."""
        return describe(model, self.per, self.hop_seconds)

    def make(
        self,
        model: Any,
        paths: Sequence[str],
        file: pathlib.Path,
        mark: Mapping[str, Any],
        on_file: OnFile,
    ) -> Summary:
        """Makes one shard's table, also where it has no row.

        Args:
            model: From `opened`.
            paths: Its files.
            file: The table to write, in an empty folder.
            mark: What its metadata say beside the settings.
            on_file: As in `embed_files`.

        Returns:
            What became of the files.
        """
        summary = embed_files(
            paths,
            file,
            model,
            self.per,
            self.hop_seconds,
            self.batch_size,
            self.num_workers,
            root=self.root,
            mark=mark,
            on_file=on_file,
        )
        if not summary.num_rows:
            metadata = table_metadata(model, self.settings(model), mark)
            write_table(file, Table([], row_dim(model, self.per), metadata))
        return summary


def opened(job: Job) -> Any:
    """A job's model, opened once a process.

    Raises:
        RunError: If there is none, or it is not the one that was opened first.
    """
    model = _opened(dataclasses.replace(job, output="", root=None, key=None))
    key = job.key_of(model)
    if job.key not in (None, key):
        raise RunError(
            f"{hide_logins(job.model)} is another model ({key}) than the one that the "
            f"run began with ({job.key}): run the command again"
        )
    return model


@functools.lru_cache(maxsize=1)
def _opened(job: Job) -> Any:
    return job.open()


def build(
    job: Job,
    shard: Shard,
    on_file: OnFile = lambda audio_seconds: None,
    is_again: bool = False,
) -> Summary:
    """Makes a shard, from nothing, and takes it into the dataset.

    A shard that was underway when a run was killed is begun anew: in other batches its
    values could differ in their last bits.

    Args:
        job: What every worker needs to know.
        shard: The shard.
        on_file: As in `embed_files`.
        is_again: Whether it is there, with failures.

    Returns:
        What became of its files.

    Raises:
        UserError, OSError: If it could not be made; nothing of it is there then.
    """
    output = Output(job.output)
    with output.scratch(shard.name) as folder:
        file = folder / "shard.parquet"
        mark = {MARK: shard.mark}
        summary = job.make(opened(job), shard.paths, file, mark, on_file)
        output.put(file, shard.name, summary.failures, is_again)
    return summary
