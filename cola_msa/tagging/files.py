"""Many files to labels: tables of probabilities, and pictures of them over time.

Files are embedded by `collection.embed`, with the heads behind the encoder: what it
can do with files is done here, too. The probabilities of what is finished lie beside
the output, in `<output>.clip.npz` or `<output>.window.npz`; a later call goes on there.
"""

import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cola_msa.collection.embed import Summary, embed_files
from cola_msa.collection.label_tables import (
    TAG_COLUMN,
    TAG_SEPARATOR,
    column_names,
)
from cola_msa.collection.table.read import Embeddings, load_embeddings
from cola_msa.collection.table.write import import_pyarrow
from cola_msa.evaluation import charts
from cola_msa.evaluation.probes.kept_heads import Heads, describe
from cola_msa.hub.embedder import BATCH_SIZE
from cola_msa.system import files, folders
from cola_msa.system.console import progress_bar
from cola_msa.system.errors import FileError, UsageError, UserError, hide_logins
from cola_msa.system.files import file_sha256
from cola_msa.tagging.tagger import TagError, TaggingModel, check_granularity
from cola_msa.values.arrays import write_json
from cola_msa.values.reading import read_json

SUFFIXES = (".csv", ".parquet", ".json")
_SHOWN_LABELS, _SHOWN_FILES = 5, 20
_MARK = "cola_msa table of labels"
_MAX_STEM = 100  # characters of a picture's name


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What the heads say of clips or windows.

    Attributes:
        table: One row a clip or a window; `embeddings` are the scores [n, K].
        heads: Whose they are.
        per: `clip` or `window`.
    """

    table: Embeddings
    heads: Heads
    per: str

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return len(self.table.paths)

    def labels(self, top: int = 0) -> list[list[str]]:
        """The labels of each row, the likeliest first.

        Args:
            top: How many; 0 for those that apply: tags above their thresholds, or the
                likeliest class.
        """
        scores, names = self.table.embeddings, self.heads.class_names
        order = np.argsort(-scores, axis=1, kind="stable")
        if top:
            return [[names[k] for k in row[:top]] for row in order]
        chosen = self.heads.choose(scores)
        return [
            [names[k] for k in row if is_chosen[k]]
            for row, is_chosen in zip(order, chosen, strict=True)
        ]


def scores_path(output: pathlib.Path, per: str) -> pathlib.Path:
    """Where the probabilities of what is finished lie."""
    return output.with_name(f"{output.name}.{per}.npz")


def check_tags_output(output: pathlib.Path) -> None:
    """Refuses an output that could not be written, before the work begins.

    Raises:
        UsageError: If the suffix is unknown.
        FileError: If another file has its name, or it is a folder.
    """
    if output.suffix not in SUFFIXES:
        raise UsageError(f"--output={output} must end in {', '.join(SUFFIXES)}")
    folders.check_file(output, _is_ours, "a table of labels")
    if output.suffix == ".parquet":
        import_pyarrow()


def mark_path(output: pathlib.Path) -> pathlib.Path:
    """Where it stands which table `tag` wrote there last: its SHA-256."""
    return output.with_name(f"{output.name}.tag.json")


def _is_ours(path: pathlib.Path) -> bool:
    """Whether it is what `tag` wrote; not where somebody has corrected a label."""
    return file_sha256(path) in _marked(path)


def _marked(output: pathlib.Path) -> list[str]:
    try:
        return read_json(mark_path(output), check=_hashes_of_mark)
    except FileError:
        return []


def _hashes_of_mark(content: dict[str, Any]) -> list[str]:
    if content["format"] != _MARK:
        raise ValueError("no mark of tag's")
    return [str(value) for value in content["sha256"]]


def tag_files(
    paths: Sequence[str],
    output: str | os.PathLike,
    model: TaggingModel,
    per: str = "clip",
    *,
    top: int = 0,
    hop_seconds: float | None = None,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
    is_quiet: bool = False,
    failures: Mapping[str, str] | None = None,
    root: str | None = None,
    on_file: Callable[[float], None] | None = None,
    mark: Mapping[str, Any] | None = None,
) -> tuple[Summary, Labelled | None]:
    """Labels files into one table; goes on where an earlier call was.

    Args:
        paths: Audio files.
        output: .csv, .parquet or .json.
        model: From `open_tagging_model`.
        per: `clip` (one row a file, the mean over its windows) or `window`.
        top: Labels a row; 0 for those that apply.
        hop_seconds: From one window to the next; None for windows that touch.
        batch_size: Windows that pass through the network at once.
        num_workers: Threads that decode; 0 for one a core.
        is_quiet: Whether there is no progress bar.
        failures: Reason by path of what failed already.
        root: As in `embed_files`.
        on_file: As in `embed_files`.
        mark: As in `write_labels`.

    Returns:
        Summary, and what was found; None where no file could be read.

    Raises:
        As `collection.embed.embed_files`.
    """
    output = pathlib.Path(output)
    assert model.heads is not None
    check_tags_output(output)
    check_granularity(model.heads, per)
    scores = scores_path(output, per)
    summary = embed_files(
        paths,
        scores,
        model.base or model,
        per=per,
        hop_seconds=hop_seconds,
        batch_size=batch_size,
        num_workers=num_workers,
        is_quiet=is_quiet,
        failures=failures,
        root=root,
        on_file=on_file,
    )
    if not summary.num_rows:
        return summary, None
    if model.base is not None:
        found = tag_embeddings(scores, model.heads)
    else:
        found = Labelled(load_embeddings(scores, per_clip=False), model.heads, per)
    write_labels(output, found, top, mark)
    return summary, found


def tag_embeddings(
    embeddings: str | os.PathLike, heads: Heads, per: str = "clip"
) -> Labelled:
    """Labels what was embedded before; needs no audio.

    Of a table with a row a window, a clip's scores are the mean over its windows, as
    `tag_files` has them. Of one with a row a clip they are those of its mean embedding,
    which is not quite the same.

    Args:
        embeddings: .parquet, .npz or .h5, of the heads' encoder.
        heads: The heads.
        per: `clip` or `window`.

    Raises:
        TagError: If they are another encoder's, or of clips where windows are wanted.
        EmbeddingFileError: If they cannot be read.
    """
    if heads.are_tuned:
        raise TagError(
            f"the heads for {heads.task['name']} have encoders of their own, that were "
            "fine-tuned with them: they take audio by --input"
        )
    table = load_embeddings(embeddings, per_clip=False)
    name = hide_logins(str(embeddings))
    if table.model_hash != heads.encoder_key:
        raise TagError(
            f"--embeddings={name} are of the encoder {table.model_hash or 'nobody'}, "
            f"and the heads for {heads.task['name']} of {heads.encoder_key}: embed the "
            "files by that one, or train heads for this one"
        )
    check_granularity(heads, per)
    if heads.are_of_clips:
        table = table.per_clip()
    elif table.metadata.get("per") == "clip":
        # Where a deviation stands behind it, the mean is what heads of windows know.
        if table.metadata.get("clip_embedding") == "moments":
            means = table.embeddings[:, : table.embeddings.shape[1] // 2]
            table = dataclasses.replace(table, embeddings=means)
    if table.embeddings.shape[1] != heads.dim:
        raise TagError(
            f"--embeddings={name} have {table.embeddings.shape[1]} values, and the "
            f"heads take {heads.dim}"
        )
    if per == "window" and table.metadata.get("per") != "window":
        raise TagError(
            f"--embeddings={name} have one row a clip: --per=window needs those of "
            "python -m cola_msa.embed --per=window"
        )
    scores = np.concatenate(
        [
            heads.score_windows(table.embeddings[first : first + 4096])
            for first in range(0, len(table.embeddings), 4096)
        ]
    )
    # Of scores a clip has the mean, whatever its embeddings have.
    metadata = {k: v for k, v in table.metadata.items() if k != "clip_embedding"}
    table = dataclasses.replace(table, embeddings=scores, metadata=metadata)
    return Labelled(table.per_clip() if per == "clip" else table, heads, per)


def write_labels(
    output: str | os.PathLike,
    labelled: Labelled,
    top: int = 0,
    mark: Mapping[str, Any] | None = None,
) -> None:
    """Writes a table of labels and probabilities, whole or not at all.

    Args:
        output: .csv, .parquet or .json.
        labelled: From `tag_files` or `tag_embeddings`.
        top: Labels a row; 0 for those that apply.
        mark: What a .parquet says of how it was made, as JSON in its metadata.

    Raises:
        OutputError: If it cannot be written.
    """
    output = pathlib.Path(output)
    labels = labelled.labels(top)
    with files.written_path(output) as temporary:
        if output.suffix == ".parquet":
            _write_parquet(temporary, labelled, labels, mark)
        else:
            write = _write_csv if output.suffix == ".csv" else _write_json
            write(temporary, labelled, labels)
        # Both until the new one stands: whichever does is known.
        hashes = [file_sha256(temporary), *_marked(output)[:1]]
        write_json(mark_path(output), {"format": _MARK, "sha256": hashes})


def _write_csv(path: pathlib.Path, found: Labelled, labels: list[list[str]]) -> None:
    table = found.table
    has_times = found.per == "window"
    times = ["start", "seconds"] if has_times else []
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = column_names(found.heads.class_names)
        writer.writerow(["path", *times, TAG_COLUMN, *names])
        for row, name in enumerate(table.paths):
            when = [f"{table.starts[row]:g}", f"{table.seconds[row]:g}"]
            writer.writerow(
                [
                    name,
                    *(when if has_times else []),
                    TAG_SEPARATOR.join(labels[row]),
                    *(f"{score:.6g}" for score in table.embeddings[row]),
                ]
            )


def _write_json(path: pathlib.Path, found: Labelled, labels: list[list[str]]) -> None:
    table, heads = found.table, found.heads
    names = heads.class_names
    thresholds = heads.thresholds
    head: dict[str, Any] = {
        "task": heads.task["name"],
        "encoder_key": heads.encoder_key,
        "class_names": list(names),
        "thresholds": None if thresholds is None else thresholds.tolist(),
        "per": found.per,
    }
    with open(path, "w", encoding="utf-8") as file:
        # A row a line: it can be read in pieces, and compared by eye.
        file.write(json.dumps(head)[:-1] + ', "rows": [\n')
        for row, name in enumerate(table.paths):
            values: dict[str, Any] = {"path": name}
            if found.per == "window":
                values |= {
                    "start": float(table.starts[row]),
                    "seconds": float(table.seconds[row]),
                }
            values[TAG_COLUMN] = labels[row]
            values["scores"] = [float(f"{s:.6g}") for s in table.embeddings[row]]
            ending = ",\n" if row + 1 < len(table.paths) else "\n"
            file.write(json.dumps(values, ensure_ascii=False) + ending)
        file.write("]}\n")


def _write_parquet(
    path: pathlib.Path,
    found: Labelled,
    labels: list[list[str]],
    mark: Mapping[str, Any] | None,
) -> None:
    pyarrow, parquet = import_pyarrow()
    table = found.table
    # A type of its own: what is empty has none.
    columns: dict[str, Any] = {"path": pyarrow.array(table.paths, pyarrow.string())}
    if found.per == "window":
        columns |= {"start": table.starts, "seconds": table.seconds}
    columns[TAG_COLUMN] = pyarrow.array(labels, pyarrow.list_(pyarrow.string()))
    names = column_names(found.heads.class_names)
    columns |= dict(zip(names, table.embeddings.T, strict=True))
    metadata = {"task": found.heads.task["name"], "model": found.heads.encoder_key}
    metadata |= {"metadata": json.dumps(mark)} if mark else {}
    written = pyarrow.table(columns).replace_schema_metadata(metadata)
    parquet.write_table(written, path, write_page_checksum=True)


def draw_labels(
    folder: str | os.PathLike, labelled: Labelled
) -> tuple[int, dict[str, str]]:
    """Draws a picture a file: its labels' probabilities over time.

    Args:
        folder: Where to; made where it is missing.
        labelled: Windows.

    Returns:
        How many were drawn, and of those that were not why, by path.

    Raises:
        TagError: If these are clips.
        FileError: If the folder cannot be made.
    """
    if labelled.per != "window":
        raise TagError("pictures over time need windows: --per=window")
    files.make_folder(pathlib.Path(folder))
    table = labelled.table
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(table.paths):
        rows.setdefault(path, []).append(row)
    names, drawn, failed = picture_names(list(rows)), 0, {}
    with progress_bar(len(rows), "pictures", "file") as bar:
        for path, name in zip(rows, names, strict=True):
            chosen, target = rows[path], pathlib.Path(folder) / name
            try:
                folders.check_file(target, charts.is_over_time, "a picture of labels")
                charts.draw_over_time(
                    target,
                    table.starts[chosen],
                    table.embeddings[chosen],
                    labelled.heads.class_names,
                    pathlib.PurePath(path).name,
                    describe(labelled.heads),
                )
                drawn += 1
            except UserError as error:
                failed[path] = str(error)
            bar.update()
    return drawn, failed


def picture_names(paths: Sequence[str]) -> list[str]:
    """A file's name for each path: its own, or where that is taken with a number."""
    taken: dict[str, int] = {}
    found = []
    for path in paths:
        stem = pathlib.PurePath(path).stem[:_MAX_STEM] or "file"
        taken[stem] = taken.get(stem, 0) + 1
        number = taken[stem]
        name = stem if number == 1 else f"{stem}-{number}"
        while name in taken and number > 1:
            number += 1
            name = f"{stem}-{number}"
        taken.setdefault(name, 1)
        found.append(f"{name}.png")
    return found


def describe_labels(labelled: Labelled) -> Iterator[str]:
    """The first files with their first labels, as lines for a terminal."""
    table = labelled.table
    if labelled.per == "window":
        table = table.per_clip()
    names, shown = labelled.heads.class_names, 0
    for path, scores in zip(table.paths, table.embeddings, strict=True):
        if shown == _SHOWN_FILES:
            break
        shown += 1
        order = np.argsort(-scores, kind="stable")[:_SHOWN_LABELS]
        yield f"{path}: " + ", ".join(f"{names[k]} {scores[k]:.2f}" for k in order)
    num_files = len(set(table.paths))
    if num_files > shown:
        yield f"... and {num_files - shown} more files"
