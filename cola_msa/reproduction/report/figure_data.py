"""The numbers behind the paper's figures 2 to 5, from runs and their results."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from cola_msa.evaluation import metrics
from cola_msa.records.manifests import read_manifest
from cola_msa.records.schema import MANIFEST_NAME, DataError
from cola_msa.reproduction.report.results import ReportError, Result, share_of_published
from cola_msa.reproduction.report.runs import Collection, Group

TASK = "mtat"
# The tags that the paper's text names for its figure 4, with what it says of each.
NAMED_TAGS = ("fast", "drums", "techno", "guitar", "piano", "synth", "classical")
TARGETED = {
    "msa_bass": "bass",
    "msa_drums": "drums",
    "msa_other": "other",
    "msa_vocals": "vocals",
}
STEPS_OF = ("msa", "cola_mws")
STEMS_OF = {
    "cola_random_mask": ("random", "cola_random_mask"),
    "msa_degraded": ("degraded", "msa_degraded"),
    "msa": ("clean", "clean"),
}
_SCORES = ("roc_auc", "pr_auc")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A strategy's scores in the course of its training (figure 3).

    Attributes:
        strategy: Its name.
        title: Its title, with the size of a step.
        steps: Steps that were judged, in every run.
        scores: By score: values, and the ends of the band around them.
        band: What the band is, in words.
    """

    strategy: str
    title: str
    steps: list[int]
    scores: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    band: str


@dataclasses.dataclass(frozen=True)
class TagDifference:
    """A tag's PR-AUC of a model of one source, relative to COLA's (figure 4).

    Attributes:
        tag: The tag.
        source: The model's source.
        percent: 100 (model - COLA) / COLA.
        low: Lower end of the 95 % interval; NaN where none was estimated.
        high: Upper end.
        positives: Test clips with the tag.
    """

    tag: str
    source: str
    percent: float
    low: float
    high: float
    positives: int


@dataclasses.dataclass(frozen=True)
class Bar:
    """A score with one kind of stems (figure 5).

    Attributes:
        title: The kind of stems.
        colour: Name of its colour.
        score: Name of the score.
        value: The score.
        low: Lower end of its interval.
        high: Upper end.
    """

    title: str
    colour: str
    score: str
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of active segments of one prepared folder (figure 2).

    Attributes:
        title: Dataset, clips and separator.
        shares: 0 to 1, by source.
        segments: Training segments.
    """

    title: str
    shares: dict[str, float]
    segments: int


def active_shares(collection: Collection, data_dirs: Iterable[str]) -> list[Shares]:
    """Shares of active training segments a source, of all data with stems.

    Args:
        collection: Runs, whose data's manifests are read.
        data_dirs: Further prepared folders.

    Raises:
        ReportError: If one of `data_dirs` is not a prepared folder.
    """
    manifests = {}
    for run in collection.runs:
        if run.manifest is not None:
            key = run.description["data"]["manifest_hash"]
            manifests[key] = run.manifest
    for data_dir in data_dirs:
        try:
            manifest, _ = read_manifest(pathlib.Path(data_dir) / MANIFEST_NAME)
        except DataError as error:
            raise ReportError(
                f"--data_dirs: {data_dir} is not a prepared folder ({error})"
            ) from error
        manifests[json.dumps(manifest, sort_keys=True)] = manifest
    found: dict[str, Shares] = {}
    for manifest in manifests.values():
        split = manifest["splits"].get("train", {})
        shares = {
            s: v for s, v in split.get("active_share", {}).items() if v is not None
        }
        if shares:
            separator = (manifest.get("separator") or {}).get("name", "stems on disk")
            name = {"stems_dir": "stems on disk"}.get(separator, separator)
            name = pathlib.PurePath(name).name  # weights of one's own are a path
            title = f"{manifest['dataset']}, {split['num_clips']:,} clips, {name}"
            # The same folder may have been named twice.
            found.setdefault(title, Shares(title, shares, split["num_segments"]))
    return list(found.values())


def step_curves(collection: Collection) -> list[Curve]:
    """Figure 3's curves, of groups at one scale."""
    groups = collection.at_one_scale(STEPS_OF)
    curves = [_curve(groups[name]) for name in STEPS_OF if name in groups]
    return [curve for curve in curves if curve.steps]


def _curve(group: Group) -> Curve:
    by_run = [run.by_step(TASK) for run in group.runs]
    # Runs that were judged at their end alone have no course to show.
    judged = [found for found in by_run if len(found) > 1] or by_run[:1]
    steps = sorted(set.intersection(*(set(found) for found in judged)))
    scores = {}
    for name in _SCORES:
        rows = [_at_step([found[step] for found in judged], name) for step in steps]
        value, low, high = (
            np.array([getattr(row, field) for row in rows])
            for field in ("value", "low", "high")
        )
        scores[name] = (value, low, high)
    train = group.runs[0].config.train
    per_update = train.pairs_per_update(
        group.runs[0].description.get("num_replicas", 1)
    )
    title = (
        f"{group.strategy.title}: a step is {train.updates_per_step} updates of "
        f"{per_update} pairs"
    )
    band = "95 % interval over the test clips"
    if len(judged) > 1:
        band = f"mean and range of {len(judged)} runs"
    return Curve(group.strategy.name, title, steps, scores, band)


def _at_step(results: Sequence[Result], name: str) -> metrics.Estimate:
    """One run's score with its interval, or the mean of several with their range."""
    rows = [result.scores[name] for result in results]
    if len(rows) == 1:
        return metrics.Estimate(rows[0]["value"], rows[0]["low"], rows[0]["high"])
    values = [row["value"] for row in rows]
    return metrics.Estimate(float(np.mean(values)), min(values), max(values))


def tag_differences(collection: Collection) -> list[TagDifference]:
    """Figure 4's differences for all counted tags, tags in the data's order."""
    groups = collection.at_one_scale((*TARGETED, "cola"))
    if "cola" not in groups:
        return []
    baseline = _mean_tags(groups["cola"].finals(TASK))
    found = []
    for name, source in TARGETED.items():
        if name not in groups:
            continue
        mine = _mean_tags(groups[name].finals(TASK))
        for tag, (value, positives) in mine.items():
            theirs = baseline.get(tag)
            if theirs is not None and theirs[0] > 0:
                percent = 100.0 * (value - theirs[0]) / theirs[0]
                found.append(
                    TagDifference(tag, source, percent, np.nan, np.nan, positives)
                )
    return found


def _mean_tags(results: Sequence[Result]) -> dict[str, tuple[float, int]]:
    """Mean PR-AUC over runs, and positive test clips, of each tag that counts."""
    rows: dict[str, list[float]] = {}
    positives: dict[str, int] = {}
    for result in results:
        for row in result.content["per_class"]:
            if row.get("pr_auc") is not None:
                rows.setdefault(row["class"], []).append(row["pr_auc"])
                positives[row["class"]] = row["test_clips"]
    return {tag: (float(np.mean(v)), positives[tag]) for tag, v in rows.items()}


def named_tag_differences(
    collection: Collection, rows: Sequence[TagDifference], num_resamples: int = 1000
) -> list[TagDifference]:
    """The differences of the tags that the paper names, with intervals.

    Args:
        collection: What `rows` were made from.
        rows: What `tag_differences` returned.
        num_resamples: Of the test clips; both models see the same ones.

    Returns:
        Those of the tags that the data has, in the paper's order. An interval is of
        the first run's difference, as a share of COLA's score on all clips.
    """
    groups = collection.at_one_scale((*TARGETED, "cola"))
    found = []
    for tag in NAMED_TAGS:
        for row in rows:
            if row.tag == tag:
                name = next(n for n, s in TARGETED.items() if s == row.source)
                low, high = _tag_interval(
                    groups[name], groups["cola"], tag, num_resamples
                )
                found.append(dataclasses.replace(row, low=low, high=high))
    return found


def _tag_interval(
    group: Group, baseline: Group, tag: str, num_resamples: int
) -> tuple[float, float]:
    mine, theirs = (part.finals(TASK)[0].load_scores() for part in (group, baseline))
    if not np.array_equal(mine.clip_ids, theirs.clip_ids):
        return np.nan, np.nan
    column = mine.class_names.index(tag)
    labels = mine.labels[:, [column]]
    first, second = (part.scores[:, :, [column]] for part in (mine, theirs))
    difference = metrics.paired_bootstrap(labels, first, second, num_resamples)
    value = np.mean([metrics.clip_scores(labels, head)["pr_auc"] for head in second])
    estimate = difference["pr_auc"]
    return 100.0 * estimate.low / float(value), 100.0 * estimate.high / float(value)


def stem_bars(collection: Collection) -> list[Bar]:
    """Figure 5's bars: random, degraded and clean stems, as far as there are runs."""
    groups = collection.at_one_scale(STEMS_OF)
    bars = []
    for name, (title, colour) in STEMS_OF.items():
        for score in _SCORES:
            found = groups[name].score(TASK, score) if name in groups else None
            if found is not None:
                estimate = dataclasses.astuple(found.estimate)
                bars.append(Bar(title, colour, score, *estimate))
    return bars


def describe_scale(collection: Collection, strategies: Iterable[str]) -> str:
    """The scale of the groups that a figure shows, in words; one line a scale."""
    lines: dict[str, list[str]] = {}
    runs = []
    for group in collection.at_one_scale(strategies).values():
        results = group.finals(TASK)
        clips = f"{results[0].clips:,} test clips" if results else "not judged"
        pairs = results[0].pairs or 0 if results else group.pairs
        train_clips = group.runs[0].train_clips
        known = "unknown" if train_clips is None else f"{train_clips:,}"
        share = share_of_published(pairs, group.runs[0].yardstick)
        line = (
            f"{pairs:,} pairs ({share}), {known} training clips "
            f"(paper: 15,244), {clips} (paper: 4,332)"
        )
        lines.setdefault(line, []).append(group.strategy.title)
        if len(results) > 1:
            runs.append(f"{group.strategy.title} is the mean of {len(results)} runs")
    text = "\n".join(
        f"{'Scale' if len(lines) == 1 else ', '.join(names)}: {line}."
        for line, names in lines.items()
    )
    return " ".join([text, *(f"{run}." for run in runs)])
