"""Heads as an evaluation keeps them: beside its results, in one file without pickle.

heads.npz holds arrays and a JSON state: what the heads decide (task, class names), on
whose embeddings (the encoder's key, its front end), and how they were trained and
judged. They are applied by NumPy alone.
"""

import dataclasses
import os
import pathlib
import re
import sys
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from cola_msa.config.checks import check_frontend
from cola_msa.config.schema import MULTICLASS, MULTILABEL, FrontendConfig, to_dict
from cola_msa.system.errors import RunError
from cola_msa.values.arrays import parse_state, read_arrays, write_arrays
from cola_msa.values.reading import FIELD_ERRORS

HEADS_NAME = "heads.npz"
FORMAT, VERSION = "cola_msa heads", 1
PROBABILITIES, OUTPUTS = "probabilities", "outputs"  # of a ridge: a regression's
_MAX_CLASSES, _MAX_DIM, _MAX_MEMBERS, _MAX_LAYERS = 1 << 14, 1 << 16, 1000, 8
_MAX_NAME = 1000  # characters
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LARGEST = sys.float_info.max
TINY = 1e-7  # Keras's Normalization divides by no less


@dataclasses.dataclass(frozen=True)
class Member:
    """One seed's head.

    Attributes:
        layers: (kernel [in, out], bias [out]) each, float32, or of a ridge float64; a
            ReLU between.
        mean: Of each feature, float32 [D], where features are scaled; else None.
        deviation: Its deviation, float32 [D]; else None.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    mean: np.ndarray | None = None
    deviation: np.ndarray | None = None

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, D] -> [N, K]."""
        hidden = features
        if self.mean is not None and self.deviation is not None:
            hidden = (hidden - self.mean) / np.maximum(self.deviation, TINY)
        for number, (kernel, bias) in enumerate(self.layers):
            if number:
                hidden = np.maximum(hidden, 0)
            hidden = hidden @ kernel + bias
        return hidden


@dataclasses.dataclass(frozen=True)
class Heads:
    """All heads of an evaluation, whose answers are averaged.

    Attributes:
        members: One a seed; they are at least one.
        class_names: K names.
        task: The task's `name`, `title` and `task_type`.
        encoder_key: Which encoder's embeddings they take.
        frontend: Its front end.
        thresholds: Float [K], of tags: from which on one applies; None for classes.
        outputs: `probabilities`, or `outputs` of a ridge's regression.
        details: Whatever else is known: encoder, protocol, probe, scores, clips.
    """

    members: tuple[Member, ...]
    class_names: tuple[str, ...]
    task: dict[str, str]
    encoder_key: str
    frontend: FrontendConfig
    thresholds: np.ndarray | None = None
    outputs: str = PROBABILITIES
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_tags(self) -> bool:
        """Whether a clip may have several labels."""
        return self.task["task_type"] == MULTILABEL

    @property
    def are_of_clips(self) -> bool:
        """Whether they take embeddings of whole clips, not of windows."""
        return self.details.get("level") == "clip"

    @property
    def are_tuned(self) -> bool:
        """Whether they belong to encoders that were trained with the labels."""
        return bool(self.details.get("tuned"))

    @property
    def dim(self) -> int:
        """Width of the embeddings, D."""
        return self.members[0].layers[0][0].shape[0]

    def score_windows(self, embeddings: np.ndarray) -> np.ndarray:
        """What the heads say of windows.

        Args:
            embeddings: float [N, D], or of clips where the heads are of those. They
                are rounded to half precision first, in which the heads' own training
                windows were kept.

        Returns:
            float32 [N, K]: probabilities, or a ridge's outputs.
        """
        with np.errstate(over="ignore"):  # what half cannot hold is infinite
            features = np.asarray(embeddings).astype(np.float16).astype(np.float32)
        total = np.zeros((len(features), len(self.class_names)), np.float64)
        for member in self.members:
            total += self._activate(member.logits(features))
        return (total / len(self.members)).astype(np.float32)

    def _activate(self, logits: np.ndarray) -> np.ndarray:
        if self.outputs == OUTPUTS:
            return logits
        return expit(logits) if self.is_tags else softmax(logits, axis=1)

    def choose(self, scores: np.ndarray) -> np.ndarray:
        """Which labels apply, bool [N, K]: above their thresholds, or the best one."""
        if self.thresholds is not None:
            return scores >= self.thresholds
        best = np.zeros(scores.shape, bool)
        best[np.arange(len(scores)), scores.argmax(axis=1)] = True
        return best


def best_thresholds(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each tag the threshold of the highest F1.

    Args:
        labels: [C, K] of 0 and 1.
        scores: Float [C, K].

    Returns:
        float64 [K]: in the middle between two scores, of equals the highest; 0.5 for a
        tag that no clip has.
    """
    thresholds = np.full(labels.shape[1], 0.5)
    for number, (truth, column) in enumerate(zip(labels.T > 0, scores.T, strict=True)):
        if not truth.any():
            continue
        order = np.argsort(-column, kind="stable")
        values, hits = column[order].astype(np.float64), np.cumsum(truth[order])
        f1 = 2 * hits / (np.arange(1, len(values) + 1) + truth.sum())
        # Clips of equal scores are taken all or none.
        is_end = np.append(values[1:] < values[:-1], True)
        last = int(np.argmax(np.where(is_end, f1, -1.0)))
        below = values[last + 1] if last + 1 < len(values) else 0.0
        thresholds[number] = (values[last] + below) / 2
    return thresholds


def save_heads(path: str | os.PathLike, heads: Heads) -> None:
    """Writes heads, whole or not at all.

    Raises:
        RunError: If they cannot be written.
    """
    arrays, state = pack_heads(heads)
    write_arrays(pathlib.Path(path), arrays, state)


def pack_heads(heads: Heads) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name and the JSON state that `save_heads` writes."""
    arrays = {}
    for seed, member in enumerate(heads.members):
        for number, (kernel, bias) in enumerate(member.layers):
            arrays[f"{seed}/{number}/kernel"] = kernel
            arrays[f"{seed}/{number}/bias"] = bias
        if member.mean is not None and member.deviation is not None:
            arrays[f"{seed}/mean"] = member.mean
            arrays[f"{seed}/deviation"] = member.deviation
    thresholds = heads.thresholds
    state = {
        "format": FORMAT,
        "version": VERSION,
        "members": len(heads.members),
        "layers": len(heads.members[0].layers),
        "is_scaled": heads.members[0].mean is not None,
        "class_names": [printable(name) for name in heads.class_names],
        "task": heads.task,
        "encoder_key": heads.encoder_key,
        "frontend": to_dict(heads.frontend),
        "thresholds": None if thresholds is None else [float(t) for t in thresholds],
        "outputs": heads.outputs,
        "details": heads.details,
    }
    return arrays, state


def read_heads(path: str | os.PathLike) -> Heads:
    """Reads what `save_heads` wrote; every value is checked.

    Raises:
        RunError: If there is no such file, it is damaged, or of a later version.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise RunError(f"{path}: there is no such file")
    try:
        arrays = read_arrays(path)
    except RunError as error:
        raise RunError(
            f"{path}: no heads, or damaged ({error.__cause__!r:.200}): make them anew "
            "by python -m cola_msa.eval or tag fit, or get the folder again"
        ) from error
    state = parse_state(path, arrays)
    if state.get("format") != FORMAT:
        raise RunError(f"{path}: holds no heads of ours")
    version = state.get("version")
    if type(version) is int and version > VERSION:
        raise RunError(
            f"{path}: heads of version {version}, and this cola_msa reads up to "
            f"{VERSION}; upgrade it"
        )
    try:
        return _parse(arrays, state)
    except FIELD_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{path}: damaged heads ({reason}): make them anew by "
            "python -m cola_msa.eval or tag fit, or get the folder again"
        ) from error


def _parse(arrays: dict[str, np.ndarray], state: dict[str, Any]) -> Heads:
    names = state["class_names"]
    if not isinstance(names, list) or not 1 <= len(names) <= _MAX_CLASSES:
        raise ValueError("class_names")
    task = {key: state["task"][key] for key in ("name", "title", "task_type")}
    for text in (*names, *task.values(), state["encoder_key"]):
        _check_text(text)
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("class_names that are empty or the same")
    if type(state["version"]) is not int or type(state["is_scaled"]) is not bool:
        raise TypeError("version or is_scaled")
    if task["task_type"] not in (MULTILABEL, MULTICLASS):
        raise ValueError(f"task_type {task['task_type']!r:.40}")
    if state["outputs"] not in (PROBABILITIES, OUTPUTS):
        raise ValueError(f"outputs {state['outputs']!r:.40}")
    if not isinstance(state["details"], dict):
        raise TypeError("details is no object")
    num_members, num_layers = state["members"], state["layers"]
    for count, most in ((num_members, _MAX_MEMBERS), (num_layers, _MAX_LAYERS)):
        if type(count) is not int or not 1 <= count <= most:
            raise ValueError(f"{count!r:.40} heads or layers")
    thresholds = state["thresholds"]
    if thresholds is not None:
        thresholds = np.array(thresholds, np.float64)
        if thresholds.shape != (len(names),) or not np.isfinite(thresholds).all():
            raise ValueError("thresholds")
    if (thresholds is None) == (task["task_type"] == MULTILABEL):
        raise ValueError("thresholds are of tags")
    members = tuple(
        _parse_member(arrays, str(seed), num_layers, state["is_scaled"], len(names))
        for seed in range(num_members)
    )
    if len({member.layers[0][0].shape[0] for member in members}) != 1:
        raise ValueError("heads of embeddings of different widths")
    return Heads(
        members,
        tuple(names),
        task,
        state["encoder_key"],
        check_frontend(state["frontend"]),
        thresholds,
        state["outputs"],
        state["details"],
    )


def printable(text: str) -> str:
    r"""A label as heads keep it: `\u000a` for what a terminal could not show."""
    return _NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _check_text(text: Any) -> None:
    """Refuses what a terminal or a file of text could not take as it is."""
    if not isinstance(text, str):
        raise TypeError(f"{text!a:.40} is no text")
    if len(text) > _MAX_NAME or _NO_TEXT.search(text):
        raise ValueError(f"text {text!a:.40}")


def _parse_member(
    arrays: dict[str, np.ndarray],
    seed: str,
    num_layers: int,
    is_scaled: bool,
    num_classes: int,
) -> Member:
    def get(name: str, *shape: int | None) -> np.ndarray:
        value = arrays[f"{seed}/{name}"]
        fits = len(value.shape) == len(shape) and all(
            size == wanted or (wanted is None and 1 <= size <= _MAX_DIM)
            for size, wanted in zip(value.shape, shape, strict=True)
        )
        if not fits or value.dtype not in (np.float32, np.float64):
            raise ValueError(f"{seed}/{name}: {value.dtype} {value.shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"{seed}/{name}: values that are not finite")
        return value

    layers: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(num_layers):
        before = layers[-1][0].shape[1] if layers else None
        after = num_classes if number == num_layers - 1 else None
        kernel = get(f"{number}/kernel", before, after)
        layers.append((kernel, get(f"{number}/bias", kernel.shape[1])))
    if not is_scaled:
        return Member(tuple(layers))
    dim = layers[0][0].shape[0]
    return Member(tuple(layers), get("mean", dim), get("deviation", dim))


def finite_values(values: Any) -> dict[str, float]:
    """Of anything the numbers by name that it holds, in details that are anybody's."""
    found = values.items() if isinstance(values, dict) else ()
    return {
        name: value
        for name, value in found
        if isinstance(name, str) and name.isprintable() and is_finite(value)
    }


def is_finite(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


def describe(heads: Heads) -> str:
    """One line for people: the task, its classes, the encoder and the scores."""
    scores = finite_values(heads.details.get("scores"))
    listed = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    kind = "tags" if heads.is_tags else "classes"
    return (
        f"{heads.task['name']}: {len(heads.class_names)} {kind}, "
        f"{len(heads.members)} head{'s' if len(heads.members) > 1 else ''}"
        + (f", {listed}" if listed else "")
    )
