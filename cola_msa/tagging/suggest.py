"""The clips without a label whose labels would help a head most."""

import csv
import dataclasses
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from cola_msa.collection.search.neighbours import unit_rows
from cola_msa.collection.table.read import Embeddings, load_embeddings
from cola_msa.evaluation.probes.held_heads import open_heads
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.system import folders
from cola_msa.system.errors import FileError, UserError
from cola_msa.system.files import write_bytes
from cola_msa.tagging.labels import LABEL_COLUMN, content_numbers, read_clip_labels
from cola_msa.tagging.regression import Scaling, find_scaling, suited_threads
from cola_msa.values.arrays import row_blocks
from cola_msa.values.markdown import aligned
from cola_msa.values.tables import TableError, read_table

WHAT = "a list of `tag suggest` that is not filled in"
_PERCENTILE = 99  # of the cosines of pairs of clips, above which two are too alike
_EQUAL = 1 - 1e-6  # a cosine of the same
_SAMPLE = 1000  # clips whose pairs tell what is alike
_CLUSTERED = 10_000  # clips that are clustered, of more a sample


class SuggestError(UserError):
    """Nothing can be suggested; the message says why."""


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A clip worth a label.

    Attributes:
        path: Its path.
        margin: Of classes the best probability minus the second; of tags the smallest
            distance of a probability to its threshold; None without a head.
        belief: What the head says of it; "" without one.
    """

    path: str
    margin: float | None = None
    belief: str = ""


@dataclasses.dataclass(frozen=True)
class Suggestions:
    """Clips worth a label, the most useful first.

    Attributes:
        rows: A Suggestion each.
        columns: Columns to fill in: `label`, or the tags.
        remarks: How they were chosen; a line each.
    """

    rows: tuple[Suggestion, ...]
    columns: tuple[str, ...]
    remarks: tuple[str, ...]


def suggest(
    embeddings: str | os.PathLike,
    labels: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    head: str | os.PathLike | None = None,
    num: int = 10,
    *,
    column: str | None = None,
    seed: int = 0,
) -> Suggestions:
    """Chooses clips without a label whose labels would help most.

    With a head those of the smallest margin, without any that is too like one chosen
    before: a cosine (of standardised embeddings) above the 99th percentile of pairs of
    clips. Without a head those nearest to the centres of `num` clusters, which cover
    the collection.

    Args:
        embeddings: What `embed` wrote; windows are averaged to clips.
        labels: CSV files of the labels that there are, as for `fit`, or None.
        head: Folder of a head, or its heads.npz; None where there is none yet.
        num: How many clips.
        column: As for `fit`.
        seed: Of samples and clusters.

    Returns:
        Suggestions; of clips of the same bytes one.

    Raises:
        UserError: If a file cannot be read, `num` is below 1, the head is of another
            encoder, or no clip is without a label (SuggestError).
    """
    if num < 1:
        raise SuggestError(f"--num={num}: at least 1 clip")
    heads = None if head is None else open_heads(head)[1]
    table = load_embeddings(embeddings)
    if heads is not None:
        _check_encoder(embeddings, table, head, heads)
    is_open = np.ones(len(table.paths), bool)
    columns: tuple[str, ...] = (LABEL_COLUMN,)
    remarks: list[str] = []
    if labels is not None:
        files = [labels] if isinstance(labels, str | os.PathLike) else labels
        known = read_clip_labels(files, table.paths, table.sha256, column)
        remarks += known.remarks
        is_open = ~known.is_known
        columns = known.class_names if known.is_tags else columns
    elif heads is not None and heads.is_tags:
        columns = heads.class_names
    content = content_numbers(table.paths, table.sha256)
    is_first = np.zeros(len(content), bool)
    is_first[np.unique(content, return_index=True)[1]] = True
    candidates = np.flatnonzero(is_open & is_first)
    if not len(candidates):
        raise SuggestError(
            f"{embeddings}: each of its {len(table.paths):,} clips has a label already"
        )
    if len(candidates) < num:
        remarks.append(f"clips without a label: {len(candidates):,}, and all are here")
    if heads is None:
        chosen = _cover(table, candidates, num, seed)
        remarks.append(
            "chosen without a head: the clips nearest to the centres of "
            f"{len(chosen):,} clusters of those without a label"
        )
        rows = [Suggestion(table.paths[row]) for row in chosen]
        return Suggestions(tuple(rows), columns, tuple(remarks))
    scores = np.empty((len(candidates), len(heads.class_names)), np.float32)
    for first, block in row_blocks(candidates, 1 << 14):
        scores[first : first + len(block)] = heads.score_windows(
            table.embeddings[block]
        )
    margins = _margins(heads, scores)
    order = np.argsort(margins, kind="stable")
    picked = _different(table, candidates[order], num, seed, remarks)
    rows = []
    for place in order[picked]:
        belief = _belief(heads, scores[place])
        path = table.paths[candidates[place]]
        rows.append(Suggestion(path, float(margins[place]), belief))
    return Suggestions(tuple(rows), columns, tuple(remarks))


def write_suggestions(path: str | os.PathLike, found: Suggestions) -> None:
    """Writes a CSV to fill in: `path`, and empty cells for what is to be said.

    Args:
        path: Absent, or an earlier list that nobody has filled in.
        found: From `suggest`.

    Raises:
        FileError: If anything else is there, or it cannot be written.
    """
    folders.check_file(path, _is_unfilled, WHAT)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *found.columns])
    empty = [""] * len(found.columns)
    writer.writerows([row.path, *empty] for row in found.rows)
    write_bytes(path, text.getvalue().encode("utf-8", "replace"), FileError)


def describe(found: Suggestions) -> list[str]:
    """Lines for people: the clips, their margins, and what the head believes."""
    table = [["clip", "margin", "the head believes"]]
    for row in found.rows:
        margin = "" if row.margin is None else f"{row.margin:.3f}"
        table.append([row.path, margin, row.belief])
    if all(row.margin is None for row in found.rows):
        table = [cells[:1] for cells in table]
    return [*aligned(table), "", *found.remarks]


def _is_unfilled(path: pathlib.Path) -> bool:
    try:
        table = read_table(path, delimiter=",")
    except TableError:
        return False
    cells = [cell for row in table.rows for cell in row.cells[1:]]
    return table.columns[0] == "path" and len(table.columns) > 1 and not any(cells)


def _check_encoder(
    embeddings: str | os.PathLike,
    table: Embeddings,
    head: str | os.PathLike | None,
    heads: Heads,
) -> None:
    if heads.are_tuned:
        raise SuggestError(
            f"{head}: belongs to an encoder that was trained with it, whose embeddings "
            "no table holds; fit a head on these embeddings"
        )
    dim = table.embeddings.shape[1]
    if table.model_hash != heads.encoder_key or dim != heads.dim:
        raise SuggestError(
            f"{head}: takes embeddings of the encoder {heads.encoder_key} with "
            f"{heads.dim:,} values, and {embeddings} has those of "
            f"{table.model_hash or 'an unnamed one'} with {dim:,}; embed with the "
            "head's encoder, or fit the head on these"
        )


def _margins(heads: Heads, scores: np.ndarray) -> np.ndarray:
    """float32 [n]: how sure the head is of each clip."""
    if heads.thresholds is not None:
        return np.abs(scores - heads.thresholds).min(axis=1)
    if scores.shape[1] < 2:
        return np.zeros(len(scores), np.float32)
    best = np.sort(scores, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def _belief(heads: Heads, scores: np.ndarray) -> str:
    names = heads.class_names
    if heads.thresholds is not None:
        tag = int(np.abs(scores - heads.thresholds).argmin())
        return (
            f"{names[tag]} {scores[tag]:.2f} (applies from {heads.thresholds[tag]:.2f})"
        )
    best = np.argsort(-scores, kind="stable")[:2]
    return ", ".join(f"{names[k]} {scores[k]:.2f}" for k in best)


def _directions(table: Embeddings, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
    """float32 [n, D]: standardised embeddings of length 1."""
    features = table.embeddings[rows].astype(np.float32)
    scaling.apply(features)
    return unit_rows(features).astype(np.float32)


def _different(
    table: Embeddings,
    ordered: np.ndarray,
    num: int,
    seed: int,
    remarks: list[str],
) -> np.ndarray:
    """Places of the first `num` rows none of which is too like one before it."""
    scaling = find_scaling(table.embeddings)
    limit = min(_alike(table, scaling, seed), _EQUAL)
    chosen: list[int] = []
    skipped: list[int] = []
    directions = np.zeros((min(num, len(ordered)), table.embeddings.shape[1]), "f4")
    for first in range(0, len(ordered), 256):
        block = _directions(table, ordered[first : first + 256], scaling)
        for place, direction in enumerate(block, first):
            if (directions[: len(chosen)] @ direction > limit).any():
                skipped.append(place)
                continue
            directions[len(chosen)] = direction
            chosen.append(place)
            if len(chosen) == num:
                break
        else:
            continue
        break
    line = "the smallest margins first"
    if skipped:
        line += (
            f"; {len(skipped):,} were passed over, being too like one chosen before (a "
            f"cosine above {limit:.2f}, the {_PERCENTILE}th percentile of pairs)"
        )
    missing = min(num, len(ordered)) - len(chosen)
    if missing:
        line += f", and {missing:,} of them are here after all: there are no others"
    remarks.append(line)
    return np.array([*chosen, *skipped[:missing]], np.int64)


def _alike(table: Embeddings, scaling: Scaling, seed: int) -> float:
    """The cosine that one in a hundred pairs of clips exceeds."""
    rng = np.random.default_rng(seed)
    count = min(_SAMPLE, len(table.paths))
    if count < 3:
        return _EQUAL
    rows = np.sort(rng.choice(len(table.paths), count, replace=False))
    directions = _directions(table, rows, scaling)
    pairs = (directions @ directions.T)[np.triu_indices(count, 1)]
    return float(np.percentile(pairs, _PERCENTILE))


def _cover(table: Embeddings, candidates: np.ndarray, num: int, seed: int) -> list[int]:
    """Rows nearest to the centres of clusters, of the largest cluster first."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    sample = candidates
    if len(sample) > _CLUSTERED:
        count = max(_CLUSTERED, num)
        sample = np.sort(rng.choice(sample, min(count, len(sample)), replace=False))
    directions = _directions(table, sample, find_scaling(table.embeddings))
    if num >= len(sample):
        return [int(row) for row in sample]
    num_different = len(np.unique(directions, axis=0))
    count = min(num, num_different)
    trials = 5 if count <= 50 else 1
    means = KMeans(count, n_init=trials, max_iter=50, random_state=seed)
    with suited_threads(directions.size):
        found = means.fit(directions)
    sizes = np.bincount(found.labels_, minlength=count)
    chosen: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable"):
        nearness = directions @ found.cluster_centers_[cluster].astype(np.float32)
        members = np.flatnonzero(found.labels_ == cluster)
        if len(members):
            chosen.append(int(sample[members[nearness[members].argmax()]]))
    others = np.setdiff1d(sample, chosen)
    return [*chosen, *(int(row) for row in others[: num - len(chosen)])]
