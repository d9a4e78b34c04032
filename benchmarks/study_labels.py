"""What labels are worth that `tag suggest` asks for, beside as many at random.

    python benchmarks/study_labels.py --dataset_dir=nsynth --labels_per_class=1,5,10,20

The clips of a data set's training and validation splits are a collection without
labels. In rounds of one label a class on average `tag suggest` names clips, their
labels are handed in, and `tag fit` fits a head on all that there are; random labels
are drawn from the same clips. Each head is judged on the test split. Means and
deviations over seeds (the first clusters of `suggest`, and the draws).
"""

import csv
import dataclasses
import pathlib
import tempfile

import common
import numpy as np
from absl import flags, logging

from cola_msa.collection.embed import embed_files
from cola_msa.collection.table.read import load_embeddings
from cola_msa.hub.loading import open_model
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.tagging.fit import fit
from cola_msa.tagging.suggest import suggest
from cola_msa.tagging.tagger import open_heads
from cola_msa.values.field_flags import whole_numbers
from cola_msa.values.paths import define_path
from data_prep.datasets import fma, nsynth
from data_prep.datasets.base import IndexOptions

_DATASETS = {"nsynth": nsynth, "fma": fma}


@dataclasses.dataclass(frozen=True)
class Collection:
    """Clips that may be labelled, and clips that judge.

    Attributes:
        folder: Where labels and heads are written.
        pool: Embeddings of those that may be labelled.
        label_of: Class by path, of all clips.
        test: Embeddings of those that judge, float [n, D].
        test_labels: Their classes.
    """

    folder: pathlib.Path
    pool: pathlib.Path
    label_of: dict[str, str]
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def pool_paths(self) -> list[str]:
        """Paths of the clips that may be labelled."""
        return list(load_embeddings(self.pool).paths)

    def accuracy_with(self, labelled: list[str]) -> float:
        """Of a head fitted on these clips, on the test split; writes `head`."""
        with open(self.folder / "labels.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "class"])
            writer.writerows([path, self.label_of[path]] for path in labelled)
        head = self.folder / "head"
        fit(self.pool, self.folder / "labels.csv", head, num_resamples=1)
        heads = open_heads(head)[1]
        best = heads.score_windows(self.test).argmax(axis=1)
        return float(np.mean(np.array(heads.class_names)[best] == self.test_labels))

    def ask(self, labelled: list[str], num: int, seed: int) -> list[str]:
        """What `suggest` names, after `accuracy_with` of these."""
        known = {}
        if labelled:
            known = {"labels": self.folder / "labels.csv", "head": self.folder / "head"}
        found = suggest(self.pool, num=num, seed=seed, **known)
        return [row.path for row in found.rows]


def open_collection(
    name: str, dataset_dir: pathlib.Path, model: str, folder: pathlib.Path
) -> Collection:
    """Embeds a data set's clips by a model."""
    index = _DATASETS[name].DATASET.index(dataset_dir, IndexOptions())
    label_of, clips = {}, {"pool": [], "test": []}
    for clip in index.clips:
        if len(clip.labels) == 1:
            path = str(dataset_dir / clip.path)
            label_of[path] = index.class_names[clip.labels[0]]
            clips["test" if clip.split == "test" else "pool"].append(path)
    opened = open_model(model)
    for split, paths in clips.items():
        embed_files(paths, folder / f"{split}.npz", opened, per="clip")
    test = load_embeddings(folder / "test.npz")
    labels = np.array([label_of[path] for path in test.paths])
    pool = folder / "pool.npz"
    return Collection(folder, pool, label_of, test.embeddings, labels)


def study(collection: Collection, counts: list[int], seed: int) -> dict[str, list]:
    """Accuracy after each count of labels a class, by way of choosing."""
    num_classes = len(set(collection.label_of.values()))
    paths = collection.pool_paths
    shuffled = list(np.random.default_rng(seed).permutation(paths))
    found: dict[str, list] = {"suggested": [], "random": []}
    labelled: list[str] = []
    for count in range(1, max(counts) + 1):
        labelled += collection.ask(labelled, num_classes, seed)
        accuracy = collection.accuracy_with(labelled)
        if count in counts:
            found["suggested"].append(accuracy)
    for count in counts:
        drawn = shuffled[: count * num_classes]
        found["random"].append(collection.accuracy_with(drawn))
    return found


def define_flags() -> None:
    """Defines the study's flags."""
    flags.DEFINE_enum("dataset", "nsynth", list(_DATASETS), "Whose layout it has.")
    define_path("dataset_dir", None, "The data set.", required=True)
    flags.DEFINE_string("model", "starter", "Whose embeddings.")
    flags.DEFINE_list("labels_per_class", ["1", "5", "10", "20"], "On average.")
    flags.DEFINE_integer("seeds", 5, "Repetitions.", lower_bound=1)


def main(options: flags.FlagValues) -> None:
    """Prints the table."""
    counts = sorted(whole_numbers("labels_per_class", options.labels_per_class))
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        collection = open_collection(
            options.dataset,
            pathlib.Path(options.dataset_dir),
            options.model,
            pathlib.Path(name),
        )
        num_classes = len(set(collection.label_of.values()))
        num_paths = len(collection.pool_paths)
        if num_paths < max(counts) * num_classes:
            raise UsageError(
                f"--labels_per_class={max(counts)}: there are {num_paths} clips of "
                f"{num_classes} classes to label"
            )
        seeds = [study(collection, counts, seed) for seed in range(options.seeds)]
        everything = collection.accuracy_with(collection.pool_paths)
    rows = []
    for row, count in enumerate(counts):
        cells = [f"{count} ({count * num_classes})"]
        for way in ("suggested", "random"):
            values = [found[way][row] for found in seeds]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}")
        rows.append(cells)
    rows.append([f"all ({num_paths})", f"{everything:.3f}", ""])
    print(common.table(["labels a class (in all)", "suggested", "random"], rows))


if __name__ == "__main__":
    console.start(main, define_flags)
