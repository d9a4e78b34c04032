"""A head of a user's own: from a table of embeddings and labels of some of its clips.

A folder holds it: heads.npz, as an evaluation keeps heads; results.json, what it is
worth and what was found odd; predictions.csv, what cross-validation said of each clip,
the surest mistakes first (absent where there are too few clips for any).
"""

import importlib.metadata
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cola_msa.collection.table.read import Embeddings, load_embeddings
from cola_msa.config.checks import check_frontend
from cola_msa.config.schema import MULTICLASS, MULTILABEL, FrontendConfig
from cola_msa.evaluation.probes.kept_heads import (
    HEADS_NAME,
    Heads,
    Member,
    best_thresholds,
    save_heads,
)
from cola_msa.system import folders
from cola_msa.system.errors import FileError, UserError
from cola_msa.system.files import file_sha256, temporary_folder, write_json
from cola_msa.system.versions import package_versions
from cola_msa.tagging import scoring
from cola_msa.tagging.folds import CONTENT, Folds, make_folds
from cola_msa.tagging.labels import (
    ClipLabels,
    LabelError,
    content_numbers,
    labels_of_folders,
    read_clip_labels,
)
from cola_msa.tagging.regression import (
    DEFAULT_STRENGTH,
    STRENGTHS,
    Linear,
    Scaling,
    Validated,
    cross_validate,
    find_scaling,
    fit_path,
    suited_threads,
    turn,
)
from cola_msa.tagging.report import TITLES, write_predictions
from cola_msa.values.reading import read_json

RESULTS_NAME, PREDICTIONS_NAME = "results.json", "predictions.csv"
FORMAT, VERSION = "cola_msa fit", 1
WHAT = "a head of `tag fit`"
_SHOWN = 20  # classes that a warning names
FEW, LITTLE = 5, 20  # clips of a class that are too few, and that are little
# Paths -> float [n, B], what is compared with; a row of NaN where a file is unreadable.
Baseline = Callable[[Sequence[str]], np.ndarray]


class FitError(UserError):
    """Embeddings that no head can be fitted on; the message says why."""


def fit(
    embeddings: str | os.PathLike,
    labels: str | os.PathLike | Sequence[str | os.PathLike] | None,
    output: str | os.PathLike,
    *,
    labels_from_folders: bool = False,
    column: str | None = None,
    baseline: Baseline | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Fits a logistic regression on clips' embeddings, judges it, and keeps it.

    Features are standardised by all labelled clips (their labels are not asked).
    Scores are of answers to clips whose folder gave no clip to the regression; the
    strength was chosen without that folder, too: see `regression.cross_validate`.

    Args:
        embeddings: What `embed` wrote; windows are averaged to clips.
        labels: One or several CSV files, see `labels.read_clip_labels`; None with
            `labels_from_folders`.
        output: Folder to write: absent, empty, or an earlier head.
        labels_from_folders: Take the name of each file's folder as its class.
        column: Of several columns the one of classes.
        baseline: Features of the same files to compare with, such as log-mel
            statistics; None to leave the comparison out.
        num_resamples: Resamples of the intervals.
        seed: Of folds and resamples.

    Returns:
        What results.json holds; `report.describe` makes lines of it.

    Raises:
        UserError: If a file cannot be read or labels fit nothing (LabelError), there
            is but one class, the embeddings do not say whose they are (FitError), or
            `output` holds anything else.
    """
    if (labels is None) != labels_from_folders:
        raise LabelError("hand in --labels, or take them from folders: one of both")
    folders.check_replaceable(output, listed_files, WHAT)
    table = load_embeddings(embeddings)
    encoder_key, frontend = _encoder_of(embeddings, table)
    if labels is None:
        found = labels_of_folders(table.paths, table.sha256)
    else:
        files = [labels] if isinstance(labels, str | os.PathLike) else labels
        found = read_clip_labels(files, table.paths, table.sha256, column)
    remarks = list(found.remarks)
    rows = _once(table, found, remarks)
    known = _learnable(found, rows, remarks)
    rows = rows[known.is_known]
    known = ClipLabels(known.class_names, known.values[known.is_known], known.column)
    features = _half(embeddings, table, rows)
    paths = [table.paths[row] for row in rows]
    metadata, num_clips = table.metadata, len(table.paths)
    del table  # it may be as large as the features
    folds = make_folds(known, paths, by_content=labels is None, seed=seed)
    scaling, fitted, validated = _regress(features, known, folds, seed)
    results: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "task_type": MULTILABEL if known.is_tags else MULTICLASS,
        "encoder": {
            "key": encoder_key,
            "model": metadata.get("model"),
            "kind": metadata.get("kind"),
        },
        "class_names": list(known.class_names),
        "clips": {"labelled": len(paths), "of": num_clips},
        "groups": {"by": folds.by, "count": int(folds.groups.max()) + 1},
        "folds": folds.count,
        **_strengths(validated, folds, scaling),
        "bootstrap": {"resamples": num_resamples, "over": "groups"},
        "scores": {},
        "baseline": None,
    }
    tags: list[scoring.Scores] = []
    is_judged = _is_judged(known, folds)
    if is_judged:
        values, tags = scoring.resampled(
            known, validated.probabilities, folds, num_resamples, seed
        )
        chance = scoring.chance_of(known, folds)
        results["scores"] = {
            name: {**scoring.estimate(column), "chance": chance[name]}
            for name, column in values.items()
        }
        results["clips"]["scored"] = int(scoring.scored_rows(known, folds).sum())
        if baseline is not None:
            results["baseline"] = _compare(
                baseline,
                paths,
                known,
                folds,
                features,
                validated,
                num_resamples,
                seed,
            )
    del features
    probabilities = validated.probabilities if folds.count else None
    results["per_class"] = scoring.class_rows(
        known, probabilities if is_judged else None, folds, tags
    )
    thresholds = _thresholds(known, probabilities, folds)
    results["thresholds"] = None if thresholds is None else thresholds.tolist()
    results["remarks"] = remarks
    results["warnings"] = _warnings(known, folds, results)
    results["versions"] = {
        **package_versions(),
        "scikit-learn": importlib.metadata.version("scikit-learn"),
    }
    heads = _heads(output, results, frontend, scaling, fitted, thresholds)
    with temporary_folder(output) as temporary:
        save_heads(temporary / HEADS_NAME, heads)
        names = [HEADS_NAME]
        if probabilities is not None:
            write_predictions(
                temporary / PREDICTIONS_NAME, paths, known, probabilities, thresholds
            )
            names.append(PREDICTIONS_NAME)
        results["files"] = {name: file_sha256(temporary / name) for name in names}
        write_json(temporary / RESULTS_NAME, results)
        folders.replace_folder(temporary, output, listed_files, WHAT)
    return results


def listed_files(folder: pathlib.Path) -> list[str] | None:
    """Unchanged files of an earlier head's folder; None where it is none."""
    try:
        files = read_json(folder / RESULTS_NAME, check=_files_of_fit)
    except FileError:
        return None
    return [*folders.unchanged_files(folder, files), RESULTS_NAME]


def _files_of_fit(content: dict[str, Any]) -> dict[str, str]:
    if content["format"] != FORMAT:
        raise ValueError("no head's")
    files = content["files"]
    if not set(files) <= {HEADS_NAME, PREDICTIONS_NAME}:
        raise ValueError("files that no head has")
    return files


def _encoder_of(
    path: str | os.PathLike, table: Embeddings
) -> tuple[str, FrontendConfig]:
    if not table.model_hash or "frontend" not in table.metadata:
        raise FitError(
            f"{path}: does not say which encoder made it (metadata: model_hash, "
            "frontend), so that a head of it would fit no audio; embed the files with "
            "python -m cola_msa.embed"
        )
    try:
        return table.model_hash, check_frontend(table.metadata["frontend"])
    except (KeyError, TypeError, ValueError) as error:
        raise FitError(f"{path}: metadata: frontend: {error}") from error


def _once(table: Embeddings, labels: ClipLabels, remarks: list[str]) -> np.ndarray:
    """Rows of clips with labels, each content once."""
    is_known = np.flatnonzero(labels.is_known)
    content = content_numbers(table.paths, table.sha256)[is_known]
    rows = is_known[np.unique(content, return_index=True)[1]]
    rows.sort()
    if len(rows) < len(is_known):
        remarks.append(
            f"labelled files of the same bytes as another: "
            f"{len(is_known) - len(rows):,}; each content counts once"
        )
    return rows


def _learnable(labels: ClipLabels, rows: np.ndarray, remarks: list[str]) -> ClipLabels:
    """Labels of these rows; tags that are the same for all clips are left out."""
    values = labels.values[rows]
    if not labels.is_tags:
        if len(labels.class_names) < 2:
            raise LabelError(
                f"all {len(rows):,} clips with a label are {labels.class_names[0]!r}: "
                "a head needs two classes at least; label clips of another"
            )
        return ClipLabels(labels.class_names, values, labels.column)
    both = (values == 1).any(axis=0) & (values == 0).any(axis=0)
    names = np.array(labels.class_names, object)
    if not both.any():
        raise LabelError(
            f"no tag ({', '.join(names[:3])}) has both a clip with 1 and one with 0: "
            "nothing can be learnt; write 0 where a tag does not apply"
        )
    if not both.all():
        remarks.append(
            "tags left out, since all their clips say the same: "
            f"{', '.join(names[~both])}"
        )
    return ClipLabels(tuple(names[both]), values[:, both])


def _half(path: str | os.PathLike, table: Embeddings, rows: np.ndarray) -> np.ndarray:
    """Embeddings float32 [n, D], rounded to half precision as heads do."""
    features = np.empty((len(rows), table.embeddings.shape[1]), np.float32)
    for first in range(0, len(rows), 4096):
        with np.errstate(over="ignore"):
            block = table.embeddings[rows[first : first + 4096]].astype(np.float16)
        if not np.isfinite(block).all():
            bad = int(np.argmin(np.isfinite(block).all(axis=1)))
            raise FitError(
                f"{path}: the embedding of {table.paths[rows[first + bad]]} has values "
                "beyond 65,504, the range of half precision, in which heads take them"
            )
        features[first : first + 4096] = block
    return features


def _regress(
    features: np.ndarray, labels: ClipLabels, folds: Folds, seed: int
) -> tuple[Scaling, Linear, Validated]:
    """Scales `features` in place, cross-validates, and fits all clips."""
    num_classes = len(labels.class_names)
    scaling = find_scaling(features)
    scaling.apply(features)
    turned, basis = turn(features)
    dim = features.shape[1]
    if folds.count:
        validated = cross_validate(turned, labels.values, num_classes, dim, folds, seed)
    else:
        nothing = np.zeros((0, num_classes), np.float32)
        validated = Validated(nothing, (), DEFAULT_STRENGTH / dim, 0)
    with suited_threads(turned.size):
        (fitted,) = fit_path(turned, labels.values, num_classes, [validated.strength])
    if basis is not None:
        fitted = Linear(basis @ fitted.kernel, fitted.bias)
    return scaling, fitted, validated


def _strengths(validated: Validated, folds: Folds, scaling: Scaling) -> dict[str, Any]:
    if validated.num_chosen_on:
        how = (
            f"by log loss in nested cross-validation over {validated.num_chosen_on:,} "
            "clips: for each fold without it"
        )
    else:
        how = "not chosen: it takes three folds"
    dim = len(scaling.mean)
    return {
        "strength": {
            "c": validated.strength,
            "of_folds": list(validated.fold_strengths),
            "tried": [value / dim for value in STRENGTHS],
            "choice": how,
        }
    }


def _is_judged(labels: ClipLabels, folds: Folds) -> bool:
    """Whether there is a score: of one class alone it would say nothing."""
    return int(folds.is_scored.sum()) >= (1 if labels.is_tags else 2)


def _compare(
    baseline: Baseline,
    paths: Sequence[str],
    labels: ClipLabels,
    folds: Folds,
    embeddings: np.ndarray,
    validated: Validated,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Both with the clips alone, in training and test, that have the other features."""
    features = np.asarray(baseline(paths), np.float32)
    has = np.isfinite(features).all(axis=1)
    found: dict[str, Any] = {"clips": int(has.sum()), "scores": {}}
    if not has.any():
        return found
    part = ClipLabels(labels.class_names, labels.values[has], labels.column)
    # The same folds; some classes may no longer be in two.
    division = Folds(
        folds.of[has],
        folds.count,
        folds.groups[has],
        folds.by,
        folds.is_scored & _in_two(part, folds.of[has]),
    )
    if not _is_judged(part, division):
        return found
    features = np.ascontiguousarray(features[has])
    find_scaling(features).apply(features)
    num_classes = len(part.class_names)

    def judge(given: np.ndarray) -> scoring.Scores:
        turned, _ = turn(given)
        answers = cross_validate(
            turned, part.values, num_classes, given.shape[1], division, seed
        )
        return resample(answers)

    def resample(answers: Validated) -> scoring.Scores:
        return scoring.resampled(
            part, answers.probabilities, division, num_resamples, seed
        )[0]

    theirs = judge(features)
    ours = resample(validated) if has.all() else judge(embeddings[has])
    found["scores"] = {n: scoring.estimate(v) for n, v in theirs.items()}
    found["embeddings"] = {n: scoring.estimate(v) for n, v in ours.items()}
    found["difference"] = {
        name: scoring.estimate(ours[name] - column) for name, column in theirs.items()
    }
    return found


def _in_two(labels: ClipLabels, of: np.ndarray) -> np.ndarray:
    """Bool [K]: which classes have clips in two folds (and of tags those without)."""

    def count(cells: np.ndarray) -> np.ndarray:
        return np.array([len(np.unique(of[column])) for column in cells.T])

    if labels.is_tags:
        both = count(labels.values == 1), count(labels.values == 0)
        return np.minimum(*both) > 1
    numbers = np.arange(len(labels.class_names))
    return count(labels.values[:, np.newaxis] == numbers) > 1


def _thresholds(
    labels: ClipLabels, probabilities: np.ndarray | None, folds: Folds
) -> np.ndarray | None:
    """Of tags, the highest F1 in cross-validation; 0.5 where there was none."""
    if not labels.is_tags:
        return None
    thresholds = np.full(len(labels.class_names), 0.5)
    if probabilities is None:
        return thresholds
    for number in np.flatnonzero(folds.is_scored):
        column = labels.values[:, number]
        rows = ~np.isnan(column)
        thresholds[number] = best_thresholds(
            column[rows, np.newaxis], probabilities[rows, number, np.newaxis]
        )[0]
    return thresholds


def _warnings(labels: ClipLabels, folds: Folds, results: dict[str, Any]) -> list[str]:
    rows = results["per_class"]
    kind = "tags" if labels.is_tags else "classes"
    lines = []

    def least(row: dict[str, Any]) -> int:
        return min(row["clips"], row.get("clips_without", row["clips"]))

    if few := [f"{row['name']} ({least(row)})" for row in rows if least(row) < FEW]:
        lines.append(f"{kind} with too few clips (below {FEW}): {_name_some(few)}")
    is_whole = folds.by != CONTENT
    two = "clips in two folders" if is_whole else "two clips"
    if not results["scores"]:
        lines.append(
            f"no score can be given: it takes a tag with {two} that have it, and "
            f"{two} that have it not"
            if labels.is_tags
            else f"no score can be given: it takes two classes with {two} each"
        )
    elif left := [row["name"] for row in rows if not row["is_scored"]]:
        lines.append(
            f"{kind} that cannot be scored, with "
            f"{'clips in one folder' if is_whole else 'one clip'} alone: "
            f"{_name_some(left)}"
        )
    if results["scores"] and not is_whole:
        lines.append(
            "folders cannot be held out, since classes are folders or lie in one: "
            "clips are, one by one, so that a score may be of albums that are known"
        )
    smallest = [least(row) for row in rows if row["is_scored"]]
    if results["scores"] and float(np.median(smallest)) < LITTLE:
        name, row = next(iter(results["scores"].items()))
        lines.append(
            f"half of the {kind} have at most {int(np.median(smallest))} clips, which "
            f"is little: {TITLES[name]} is over {results['clips']['scored']:,} clips, "
            f"and lies anywhere between {row['low']:.2f} and {row['high']:.2f}"
            + (" or so" if row["low"] == row["high"] else "")
            + "; label more, `tag suggest` says which"
        )
    if not results["strength"]["choice"].startswith("by"):
        lines.append(
            f"the strength of the regression is {results['strength']['c']:.2g}, which "
            "was not chosen: that takes three folds"
        )
    return lines


def _name_some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {more:,} more, see {RESULTS_NAME}" if more > 0 else "")


def _heads(
    output: str | os.PathLike,
    results: dict[str, Any],
    frontend: FrontendConfig,
    scaling: Scaling,
    fitted: Linear,
    thresholds: np.ndarray | None,
) -> Heads:
    name = pathlib.Path(os.path.abspath(output)).name
    scores, other = results["scores"], results["baseline"] or {"scores": {}}
    clips = results["clips"]
    return Heads(
        members=(
            Member(
                ((np.ascontiguousarray(fitted.kernel), fitted.bias),),
                scaling.mean,
                scaling.deviation,
            ),
        ),
        class_names=tuple(results["class_names"]),
        task={"name": name, "title": name, "task_type": results["task_type"]},
        encoder_key=results["encoder"]["key"],
        frontend=frontend,
        thresholds=thresholds,
        details={
            "mode": "frozen",
            "level": "clip",
            "protocol": "fit",
            "probe": "logistic",
            "encoder": results["encoder"],
            "scores": {n: row["value"] for n, row in scores.items()},
            "intervals": {n: [row["low"], row["high"]] for n, row in scores.items()},
            "chance": {n: row["chance"] for n, row in scores.items()},
            "log_mel": {n: row["value"] for n, row in other["scores"].items()},
            "clips": {"train": clips["labelled"], "test": clips.get("scored", 0)},
            "clips_of": [row["clips"] for row in results["per_class"]],
            "groups": results["groups"],
            "strength": results["strength"]["c"],
        },
    )
