"""How embeddings behave, and what they are worth on small labelled collections.

    python benchmarks/study_embeddings.py --music_dir=MUSIC [--divisions=20] \
        --models=starter=runs/NAME,untrained=runs/NAME@0

MUSIC holds `fma`, `nsynth` and `mtat`, or some of them, in those data sets' layouts;
each model is a run (`@STEP`: a kept step; `:raw`: its network's pooled output, whatever
its embeddings are), a pretrained folder or an export. Tables, beside log-mel statistics
(mean, deviation, mean change and 90th percentile of each band):

- the mean over random divisions by song (a quarter of the songs is the test) of a
  logistic regression on standardised clip embeddings, and of the share of the five
  nearest neighbours by cosine that have the clip's label;
- how far the norms of single windows lie apart, and how much of the clips' variance
  lies in one direction;
- of 20 songs, how many are nearest to themselves after a disturbance.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterator

import common
import numpy as np
import soundfile
from absl import flags
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cola_msa
from cola_msa.audio.clip_windows import ClipWindows
from cola_msa.audio.resample import mono_blocks
from cola_msa.config.schema import FrontendConfig
from cola_msa.hub.embedder import Embedder
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import Network
from cola_msa.runs import kept
from cola_msa.runs.directory import parse_step
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.tagging.spectra import mel_statistics
from cola_msa.values.paths import define_path
from data_prep.datasets import fma, mtat, nsynth
from data_prep.datasets.base import IndexOptions

TASKS = {"fma": fma, "nsynth": nsynth, "mtat": mtat}
_PENALTY = 0.01  # C of the logistic regression, strong: there are few clips
_NUM_DISTURBED = 20
_NEIGHBOURS = 5
# Waveform [channels, n] and rate -> windows [n, dim].
Embed = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Clips of one task.

    Attributes:
        paths: Their files.
        songs: What is never divided, a name a clip.
        labels: bool [clips, classes].
        is_exclusive: Whether each clip has one label.
    """

    paths: list[pathlib.Path]
    songs: np.ndarray
    labels: np.ndarray
    is_exclusive: bool


def read_task(name: str, folder: pathlib.Path) -> Labelled:
    """All clips of a task's folder, whatever their split."""
    dataset = TASKS[name].DATASET
    index = dataset.index(folder, IndexOptions())
    clips = [clip for clip in index.clips if clip.labels]
    songs = [clip.group for clip in clips]
    if name == "fma":  # its groups are artists; here the songs of few artists
        titles = _fma_artists(folder)
        songs = [titles.get(clip.clip_id, clip.group) for clip in clips]
    labels = np.zeros((len(clips), len(index.class_names)), bool)
    for row, clip in enumerate(clips):
        labels[row, list(clip.labels)] = True
    paths = [folder / clip.path for clip in clips]
    return Labelled(paths, np.array(songs), labels, dataset.task_type == "multiclass")


def _fma_artists(folder: pathlib.Path) -> dict[str, str]:
    with open(folder / "fma_metadata" / "tracks.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    column = list(zip(rows[0], rows[1], strict=True)).index(("artist", "name"))
    return {f"{int(row[0]):06d}": row[column] for row in rows[3:]}


def logmel_statistics(samples: np.ndarray, rate_hz: int) -> tuple:
    """(clip embedding [256], its windows' [n, 256]) without any network."""
    frontend = FrontendConfig()
    with ClipWindows(frontend) as clip:
        for block in mono_blocks(iter([samples]), rate_hz, frontend.sample_rate_hz):
            clip.add(block)
        clip.finish()
        windows = np.concatenate(list(clip.windows(frontend.window_frames)))[..., 0]
    whole = mel_statistics(windows.reshape(-1, frontend.num_mels))
    return whole, np.stack([mel_statistics(window) for window in windows])


def embedder_of(path: str) -> Embed:
    """(samples, rate) -> (clip embedding, its windows'), by a model."""
    given, _, form = path.partition(":")
    folder, _, text = given.partition("@")
    step = parse_step(text or None)
    model = open_model(folder, step)
    if form == "raw":
        encoder = kept.load_model(folder, step).encoder
        model = dataclasses.replace(
            model,
            dim=int(encoder.output_shape[-1]),
            make_network=lambda: Network(encoder),
            function=None,
        )
    elif form:
        raise UsageError(f"--models={path}: after the colon stands raw, or nothing")
    embedder = Embedder(model)

    def embed(samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        clip = embedder(samples, rate_hz)
        return clip, embedder.windows(samples, rate_hz)[1]

    return embed


def disturbed(samples: np.ndarray, rate_hz: int) -> Iterator[tuple]:
    """(name, samples, rate) of what a clip should still be recognised after."""
    import soxr

    silence = np.zeros((len(samples), 3 * rate_hz), np.float32)
    yield "3 s of silence", np.concatenate([samples, silence], axis=1), rate_hz
    yield "0.5 s less", samples[:, rate_hz // 2 :], rate_hz
    yield "20 dB less", samples * np.float32(0.1), rate_hz
    other = 22050 if rate_hz != 22050 else 44100
    changed = soxr.resample(samples.T, rate_hz, other).T
    yield "other rate", np.ascontiguousarray(changed, np.float32), other
    packed = io.BytesIO()
    soundfile.write(packed, samples.T, rate_hz, format="MP3", subtype="MPEG_LAYER_III")
    packed.seek(0)
    read, rate = soundfile.read(packed, dtype="float32", always_2d=True)
    yield "MP3", np.ascontiguousarray(read.T), rate


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


def divisions(task: Labelled, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(is_train, is_test), bool [clips] each, by song."""
    names = np.unique(task.songs)
    for seed in range(count):
        chosen = np.random.default_rng(seed).permutation(names)
        is_test = np.isin(task.songs, chosen[: max(1, len(names) // 4)])
        yield ~is_test, is_test


def judge(task: Labelled, clips: np.ndarray, count: int) -> dict[str, list[float]]:
    """Scores of every division.

    Returns:
        `accuracy` and `neighbours`, or `roc_auc` and `pr_auc` where a clip has many
        labels.
    """
    found: dict[str, list[float]] = {}
    for is_train, is_test in divisions(task, count):
        for name, value in _judge_once(task, clips, is_train, is_test).items():
            found.setdefault(name, []).append(value)
    return found


def _judge_once(
    task: Labelled, clips: np.ndarray, is_train: np.ndarray, is_test: np.ndarray
) -> dict[str, float]:
    def head() -> LogisticRegression:
        # Turned into the directions that the clips span: the same, of fewer values.
        turn = PCA(svd_solver="full")
        regression = LogisticRegression(C=_PENALTY, max_iter=500)
        return make_pipeline(StandardScaler(), turn, regression)

    if task.is_exclusive:
        label = task.labels.argmax(1)
        fitted = head().fit(clips[is_train], label[is_train])
        accuracy = float(fitted.score(clips[is_test], label[is_test]))
        nearness = unit(clips[is_test]) @ unit(clips[is_train]).T
        nearest = np.argsort(-nearness, axis=1)[:, :_NEIGHBOURS]
        agrees = label[is_train][nearest] == label[is_test][:, np.newaxis]
        return {"accuracy": accuracy, "neighbours": float(agrees.mean())}
    roc, pr = [], []
    for positive in task.labels.T:
        counts = [positive[rows].sum() for rows in (is_train, is_test)]
        sizes = [rows.sum() for rows in (is_train, is_test)]
        if min(counts[0], sizes[0] - counts[0]) < 2 or counts[1] in (0, sizes[1]):
            continue
        fitted = head().fit(clips[is_train], positive[is_train])
        scores = fitted.decision_function(clips[is_test])
        roc.append(roc_auc_score(positive[is_test], scores))
        pr.append(average_precision_score(positive[is_test], scores))
    return {"roc_auc": float(np.mean(roc)), "pr_auc": float(np.mean(pr))}


def first_direction(clips: np.ndarray) -> float:
    """Share of the variance that lies in the first principal direction."""
    energies = np.linalg.svd(clips - clips.mean(0), compute_uv=False) ** 2
    return float(energies[0] / energies.sum())


def study(embed: Embed, tasks: dict[str, Labelled], count: int) -> dict[str, str]:
    """A row of the table: column to its text."""
    row = {}
    for name, task in tasks.items():
        decoded = [cola_msa.decode(str(path)) for path in task.paths]
        found = [embed(song.samples, song.rate_hz) for song in decoded]
        clips = np.stack([clip for clip, _ in found])
        for score, values in judge(task, clips, count).items():
            row[f"{name}, {score}"] = f"{np.mean(values):.3f} ± {np.std(values):.3f}"
        norms = np.linalg.norm(np.concatenate([w for _, w in found]), axis=1)
        far = np.percentile(norms, 99) / np.median(norms)
        row[f"{name}, norms"] = f"{far:.1f}, {norms.max() / np.median(norms):.1f}"
        row[f"{name}, first direction"] = f"{first_direction(clips):.2f}"
        if name == "fma":
            step = max(1, len(decoded) // _NUM_DISTURBED)
            row |= _disturb(embed, decoded, unit(clips), step)
    return row


def _disturb(embed: Embed, decoded: list, clips: np.ndarray, step: int) -> dict:
    kept: dict[str, int] = {}
    chosen = list(range(0, len(decoded), step))[:_NUM_DISTURBED]
    for number in chosen:
        song = decoded[number]
        for name, samples, rate_hz in disturbed(song.samples, song.rate_hz):
            nearest = int(np.argmax(clips @ embed(samples, rate_hz)[0]))
            kept[name] = kept.get(name, 0) + (nearest == number)
    return {name: f"{value} of {len(chosen)}" for name, value in kept.items()}


def define_flags() -> None:
    """Defines the study's flags."""
    define_path("music_dir", None, "Folder with fma, nsynth, mtat.", required=True)
    flags.DEFINE_list("models", [], "NAME=PATH[@STEP][:raw], several with commas.")
    flags.DEFINE_integer("divisions", 20, "Random divisions by song.", 1)


def main(options: flags.FlagValues) -> None:
    """Prints the table, a model a column."""
    models = [given.partition("=") for given in options.models]
    if not all(path for _, _, path in models):
        raise UsageError("--models must be NAME=PATH, several with commas")
    root = pathlib.Path(options.music_dir)
    tasks = {n: read_task(n, root / n) for n in TASKS if (root / n).is_dir()}
    if not tasks:
        raise UsageError(f"--music_dir={root} holds none of {', '.join(TASKS)}")
    ways: dict[str, Embed] = {"log-mel statistics": logmel_statistics}
    for name, _, path in models:
        ways[name] = embedder_of(path)
    columns = {name: study(way, tasks, options.divisions) for name, way in ways.items()}
    names = list(next(iter(columns.values())))
    rows = [[name, *(column[name] for column in columns.values())] for name in names]
    print(common.table(["", *columns], rows))


if __name__ == "__main__":
    console.start(main, define_flags)
