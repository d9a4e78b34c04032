"""What mteb's own evaluator makes of an encoder, on its mock tasks and on local music.

    python benchmarks/study_mteb.py --music_dir=MUSIC --models=starter,runs/NAME

For an environment with mteb: docs/embedding.md says how to make one. MUSIC holds `fma`,
`nsynth` and `mtat`, in those data sets' layouts. Each becomes a task of mteb's whose
clips lie in their files, a quarter of the songs for testing; mteb draws a few clips a
class ten times and fits its logistic regression (nearest neighbours for tags). Beside
the models: embeddings that are noise.
"""

import pathlib
from typing import Any

import common
import numpy as np
from absl import flags
from study_embeddings import TASKS, Labelled, divisions, read_task

from cola_msa.mteb import MtebEncoder, load_model
from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values.paths import define_path

# What a task must say of itself to be one of mteb's.
_METADATA = {
    "description": "Clips of local folders.",
    "dataset": {"path": "local", "revision": "local"},
    "category": "a2c",
    "modalities": ["audio"],
    "eval_splits": ["test"],
    "eval_langs": ["zxx-Zxxx"],
}


class NoiseEncoder(MtebEncoder):
    """Embeds clips without hearing them."""

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Noise, float64 [clips, 64]."""
        count = sum(len(batch["audio"]) for batch in inputs)
        return np.random.default_rng(count).standard_normal((count, 64))


def local_task(name: str, clips: Labelled) -> Any:
    """Makes a task of mteb's from labelled files.

    Args:
        name: What it is called.
        clips: The files; a quarter of the songs are for testing.

    Returns:
        mteb.AbsTask.
    """
    from datasets import Audio, Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClassification, AbsTaskMultilabelClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    kind, form = AbsTaskMultilabelClassification, "AudioMultilabelClassification"
    if clips.is_exclusive:
        kind, form = AbsTaskClassification, "AudioClassification"
    labels = [[int(n) for n in row.nonzero()[0]] for row in clips.labels]

    class LocalTask(kind):
        metadata = TaskMetadata(
            name=name,
            type=form,
            main_score="accuracy" if clips.is_exclusive else "lrap",
            **_METADATA,
        )
        input_column_name = "audio"

        def load_data(self, **_: Any) -> None:
            splits = {}
            is_train, is_test = next(divisions(clips, 1))
            for split, is_in in (("train", is_train), ("test", is_test)):
                rows = is_in.nonzero()[0]
                columns = {
                    "audio": [str(clips.paths[row].resolve()) for row in rows],
                    "label": [
                        labels[row][0] if clips.is_exclusive else labels[row]
                        for row in rows
                    ],
                }
                found = Dataset.from_dict(columns)
                splits[split] = found.cast_column("audio", Audio())
            self.dataset = DatasetDict(splits)
            self.data_loaded = True

    return LocalTask()


def evaluate(model: Any, task: Any) -> str:
    """A cell: the task's main score, over mteb's draws.

    Args:
        model: What mteb takes.
        task: mteb.AbsTask.
    """
    import mteb

    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    scores = result.task_results[0].scores["test"][0]
    return f"{scores['main_score']:.3f}"


def mock_tasks(model: Any) -> str:
    """A cell: how many of mteb's mock tasks for audio ran."""
    import mteb

    statuses = dict(mteb.mock_run(model).items())
    ran = [status for status in statuses.values() if status is not None]
    good = [status for status in ran if hasattr(status, "scores")]
    return f"{len(good)} of {len(ran)}"


def define_flags() -> None:
    """Defines the study's flags."""
    define_path("music_dir", None, "Folder with fma, nsynth and mtat.", required=True)
    flags.DEFINE_list("models", ["starter"], "Models' paths, several with commas.")


def main(options: flags.FlagValues) -> None:
    """Prints the table, a model a column."""
    if not all(options.models):
        raise UsageError("--models must be paths, several with commas")
    models = {name: load_model(name) for name in options.models}
    first = models[options.models[0]]
    named = first.mteb_model_meta.model_copy(update={"name": "cola_msa/noise"})
    judged = [*models.values(), NoiseEncoder(first.embedder, named)]
    root = pathlib.Path(options.music_dir)
    tasks = {name: local_task(name, read_task(name, root / name)) for name in TASKS}
    rows = [["mock tasks", *map(mock_tasks, models.values()), ""]]
    for name, task in tasks.items():
        score = task.metadata.main_score
        rows.append([f"{name}, {score}", *(evaluate(m, task) for m in judged)])
    print(common.table(["", *models, "noise"], rows))


if __name__ == "__main__":
    console.start(main, define_flags)
