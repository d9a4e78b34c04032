"""Heads that lie beside an encoder: found, chosen, and written to be handed on.

A run has its evaluations' in eval/*/heads.npz. In a folder `heads` lie those that came
with the weights: of a pretrained folder, of an export, of a run that was imported.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from cola_msa.evaluation.probes.kept_heads import (
    HEADS_NAME,
    Heads,
    finite_values,
    is_finite,
    read_heads,
    save_heads,
)
from cola_msa.system.archives import FILE_PATTERN
from cola_msa.system.errors import RunError, UserError
from cola_msa.system.files import file_sha256

HEADS_FOLDER = "heads"
MAX_HEADS, MAX_BYTES = 64, 128 << 20  # of a folder, all together
_MAX_TEXT = 2 << 20  # of what a folder's JSON says of them
_FILE = re.compile(rf"{HEADS_FOLDER}/{FILE_PATTERN}\.npz")
# What goes with heads: nothing of where their music or their encoder lay.
_HANDED_ON = (
    "mode",
    "level",
    "protocol",
    "probe",
    "label_fraction",
    "scores",
    "intervals",
    "chance",
    "log_mel",
    "clips",
    "clips_of",
    "groups",
    "strength",
)


class TagError(UserError):
    """Heads that are missing, or that are another encoder's."""


def list_heads(
    path: str | os.PathLike,
) -> tuple[dict[pathlib.Path, Heads], list[str]]:
    """All heads that a model holds: a run's evaluations, or a folder's `heads`.

    Args:
        path: A run, a pretrained folder or an export.

    Returns:
        Heads by their file, in order of the names; and a line each on those that cannot
        be read.
    """
    folder = pathlib.Path(path)
    own = sorted(folder.glob(f"eval/*/{HEADS_NAME}"))
    carried = sorted(folder.glob(f"{HEADS_FOLDER}/*.npz"))
    found, damaged = {}, []
    size, wanted = 0, set(carried)
    for file in [*own, *carried]:
        try:
            if file in wanted:
                check_size(file)
                # Of what others made no more than a folder may hold.
                size += file.stat().st_size if file.is_file() else 0
                if size > MAX_BYTES or carried.index(file) >= MAX_HEADS:
                    raise RunError(
                        f"{file}: is beyond the {MAX_HEADS} heads and {MAX_BYTES:,} "
                        "bytes that a folder may hold; remove some"
                    )
            found[file] = read_heads(file)
        except RunError as error:
            damaged.append(str(error))
    return found, damaged


def check_size(path: pathlib.Path) -> None:
    """Refuses a file of heads that is larger than all of a folder's may be.

    Raises:
        RunError: If it is.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise RunError(
            f"{path}: has {path.stat().st_size:,} bytes, too much for heads (at most "
            f"{MAX_BYTES:,}); remove it, or get the folder again"
        )


def find_heads(
    path: str | os.PathLike, key: str, task: str | None
) -> tuple[pathlib.Path, Heads]:
    """The heads of a model for a task.

    Args:
        path: A run, a pretrained folder or an export.
        key: The encoder's key: heads of other weights or steps are no use.
        task: A task's name; None where the model has heads for one alone.

    Returns:
        The file and the heads: of an evaluation by the defaults where there is one,
        else of the one that was made last. Never of encoders that were fine-tuned.

    Raises:
        TagError: If there are none; the message says what to do.
    """
    found, damaged = list_heads(path)
    fitting = _fitting(found, key)
    tasks = sorted({heads.task["name"] for heads in fitting.values()})
    if task is None and len(tasks) == 1:
        task = tasks[0]
    if task is None and tasks:
        raise TagError(f"{path} has heads for {', '.join(tasks)}: name one by --task")
    chosen = [file for file, heads in fitting.items() if heads.task["name"] == task]
    if not chosen:
        others = {file: heads for file, heads in found.items() if file not in fitting}
        raise TagError(_say_what_is_missing(path, key, task, tasks, others, damaged))
    for line in damaged:
        logging.warning("left out: %s", line)
    file = _first_choice(chosen, task)
    return file, fitting[file]


def _fitting(
    found: Mapping[pathlib.Path, Heads], key: str
) -> dict[pathlib.Path, Heads]:
    return {
        file: heads
        for file, heads in found.items()
        if heads.encoder_key == key and not heads.are_tuned
    }


def _first_choice(files: Sequence[pathlib.Path], task: str | None) -> pathlib.Path:
    """Of several for a task the one by the defaults, or made last."""
    names = {str(task), _file_stem(str(task))}
    plain = [
        file
        for file in files
        if (file.parent.name if file.name == HEADS_NAME else file.stem) in names
    ]
    return max(plain or files, key=lambda file: file.stat().st_mtime)


def _say_what_is_missing(
    path: str | os.PathLike,
    key: str,
    task: str | None,
    tasks: Sequence[str],
    others: Mapping[pathlib.Path, Heads],
    damaged: Sequence[str],
) -> str:
    named = f"heads for --task={task}" if task else "heads"
    text = f"{path} has no {named}"
    wanted = {f: h for f, h in others.items() if task in (None, h.task["name"])}
    tuned = [file for file, heads in wanted.items() if heads.are_tuned]
    strange = [file for file in wanted if file not in tuned]
    carried = [file for file in strange if file.name != HEADS_NAME]
    if carried:
        other = wanted[carried[0]].encoder_key
        text += f" of its encoder, {key} ({carried[0]} is of {other})"
    elif strange:
        text += " of this step and these batch-norm statistics"
    if tasks:
        text += f" (it has some for {', '.join(tasks)})"
    if tuned:
        text += f" ({tuned[0]} has encoders of its own: --head={tuned[0].parent})"
    if damaged:
        text += f" (left out: {'; '.join(damaged[:3])})"
    return (
        f"{text}: python -m cola_msa.eval --task={task or 'TASK'} --run_dir=RUN makes "
        "them, python -m cola_msa.tag fit some of labels of your own, and --head names "
        "a folder of either"
    )


def open_heads(path: str | os.PathLike) -> tuple[pathlib.Path, Heads]:
    """Heads that a file, or the folder of an evaluation or of `tag fit`, holds.

    Raises:
        RunError: If there are none, or they are damaged.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / HEADS_NAME
    return path, read_heads(path)


def choose_heads(
    path: str | os.PathLike, key: str, head: str
) -> tuple[pathlib.Path, Heads]:
    """Heads by a task's name, or by their file or folder.

    Args:
        path: A run, a pretrained folder or an export.
        key: Its encoder's key.
        head: A task that the model has heads for; else a file or a folder of heads.

    Raises:
        TagError: If there are none.
        RunError: If the file is damaged.
    """
    try:
        return find_heads(path, key, head)
    except TagError as error:
        place = pathlib.Path(head)
        if not (place.is_file() or (place / HEADS_NAME).is_file()):
            raise TagError(
                f"--head={head}: there is no file or folder of heads of this name; as "
                f"a task's name: {error}"
            ) from error
    return open_heads(head)


def check_encoder(
    heads: Heads, path: str | os.PathLike, key: str, dim: int, clip_dim: int
) -> None:
    """Refuses heads of another encoder.

    Args:
        heads: The heads.
        path: The model, for messages.
        key: Its encoder's key.
        dim: Values of its embeddings of windows.
        clip_dim: Values of its embeddings of clips.

    Raises:
        TagError: If they are another's, or take embeddings of another width.
    """
    if heads.encoder_key != key:
        raise TagError(
            f"the heads for {heads.task['name']} were trained on the embeddings of the "
            f"encoder {heads.encoder_key}, and {path} is {key}: name that "
            "encoder, or train heads for this one"
        )
    wanted = clip_dim if heads.are_of_clips else dim
    if heads.dim != wanted:
        raise TagError(
            f"the heads take embeddings of {heads.dim} values, and {path} gives "
            f"{wanted}"
        )


def heads_to_hand_on(path: str | os.PathLike, key: str) -> dict[str, Heads]:
    """All heads of a model's encoder, to be written beside a copy of it.

    Args:
        path: A run, or a folder with heads.
        key: Its encoder's key. Heads of fine-tuned encoders are none of it.

    Returns:
        Heads by file name: a task's name for those that `find_heads` gives, and what
        they differ by behind it for further ones.
    """
    found, damaged = list_heads(path)
    for line in damaged:
        logging.warning("left out: %s", line)
    fitting = _fitting(found, key)
    named: dict[str, Heads] = {}
    for task in sorted({heads.task["name"] for heads in fitting.values()}):
        files = [file for file, h in fitting.items() if h.task["name"] == task]
        first = _first_choice(files, task)
        main = fitting[first]
        for file in [first, *(file for file in files if file != first)]:
            named[_free_name(fitting[file], main, named)] = fitting[file]
    return named


def name_of_file(heads: Heads) -> str:
    """What heads are called in a folder that has no other."""
    return _free_name(heads, heads, ())


def _free_name(heads: Heads, main: Heads, taken: Iterable[str]) -> str:
    """A task's name, and how these heads differ from the task's main ones."""
    parts = [_file_stem(heads.task["name"])]
    for field, form in (
        ("protocol", "{}"),
        ("probe", "{}"),
        ("label_fraction", "labels{}"),
        ("level", "{}s"),
    ):
        value = heads.details.get(field)
        if value is not None and value != main.details.get(field):
            parts.append(_file_stem(form.format(value)))
    stem, number = "-".join(parts), 1
    while (name := f"{stem}{f'-{number}' if number > 1 else ''}.npz") in taken:
        number += 1
    return name


def _file_stem(text: str) -> str:
    """Any text as a part of a file's name that every system and archive can have."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", text)[:60].strip("._") or "heads"


def write_heads(
    folder: pathlib.Path, chosen: Mapping[str, Heads], key: str, advice: str = ""
) -> dict[str, Heads]:
    """Writes heads into a folder's `heads`, without what is nobody else's business.

    Args:
        folder: A pretrained folder, an export or a run that is being made.
        chosen: Heads by file name.
        key: The folder's encoder; of rounded weights it is another than the one that
            the heads were trained on, which `details` goes on to name.
        advice: What to do where they are too many, behind a colon.

    Returns:
        What was written, by its path relative to the folder.

    Raises:
        UserError: If they are more than a folder may hold.
    """
    written = {}
    if chosen:
        (folder / HEADS_FOLDER).mkdir()
    size, text = 0, 0
    for name, heads in chosen.items():
        trained_on = heads.details.get("encoder")
        trained_on = trained_on if isinstance(trained_on, dict) else {}
        details = {n: heads.details[n] for n in _HANDED_ON if n in heads.details}
        details["encoder"] = {"key": str(trained_on.get("key", heads.encoder_key))}
        own = dataclasses.replace(heads, encoder_key=key, details=details)
        path = folder / HEADS_FOLDER / name
        save_heads(path, own)
        written[f"{HEADS_FOLDER}/{name}"] = own
        size += path.stat().st_size
        text += len(json.dumps(summarize(own)))
    if len(written) > MAX_HEADS or size > MAX_BYTES or text > _MAX_TEXT:
        raise UserError(
            f"{len(written)} heads of {size:,} bytes, with names of {text:,}, are more "
            f"than a folder to hand on may hold ({MAX_HEADS}; {MAX_BYTES:,}; "
            f"{_MAX_TEXT:,}){advice}"
        )
    return written


def summarize(heads: Heads) -> dict[str, Any]:
    """What a folder's JSON says of heads; `details` may be anybody's."""
    details = heads.details
    thresholds = heads.thresholds
    found: dict[str, Any] = {
        "task": heads.task["name"],
        "title": heads.task["title"],
        "task_type": heads.task["task_type"],
        "class_names": list(heads.class_names),
        "thresholds": None if thresholds is None else [float(t) for t in thresholds],
        "outputs": heads.outputs,
        "level": "clip" if heads.are_of_clips else "window",
        "seeds": len(heads.members),
    }
    for name in ("protocol", "probe"):
        found[name] = str(details.get(name, "not stated"))
    for name in ("scores", "chance", "clips"):
        values = details.get(name)
        found[name] = finite_values(values)
    intervals = details.get("intervals")
    found["intervals"] = {
        str(name): [float(low), float(high)]
        for name, (low, high) in _pairs(intervals)
        if is_finite(low) and is_finite(high)
    }
    fraction = details.get("label_fraction", 1.0)
    found["label_fraction"] = float(fraction) if is_finite(fraction) else 1.0
    trained_on = details.get("encoder")
    found["trained_on"] = str(
        trained_on.get("key", heads.encoder_key)
        if isinstance(trained_on, dict)
        else heads.encoder_key
    )
    return found


def list_entries(
    folder: pathlib.Path, written: Mapping[str, Heads]
) -> list[dict[str, Any]]:
    """What a folder's JSON lists of its heads: file, SHA-256 and summary of each."""
    return [
        {"file": name, "sha256": file_sha256(folder / name), **summarize(heads)}
        for name, heads in written.items()
    ]


def check_entries(entries: Any) -> None:
    """Refuses a list of heads that `list_entries` cannot have made.

    Raises:
        ValueError, KeyError or TypeError: If so.
    """
    if not isinstance(entries, list) or len(entries) > MAX_HEADS:
        raise ValueError(f"heads: not a list of up to {MAX_HEADS}")
    for one in entries:
        for name in ("file", "sha256", "task"):
            if not isinstance(one[name], str):
                raise TypeError(f"heads: {name}")
        if not _FILE.fullmatch(one["file"]):
            raise ValueError(f"heads: file {one['file']!r:.60}")


def _pairs(values: Any) -> list[tuple[Any, Any]]:
    if not isinstance(values, dict):
        return []
    return [(k, v) for k, v in values.items() if isinstance(v, list) and len(v) == 2]
