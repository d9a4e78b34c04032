"""A task of your own for `python -m cola_msa.eval --task=examples/my_task.py`.

It reads what `python -m data_prep.labelled_folder` prepared, and judges by a classifier
with a hidden layer, where the built-in task `folder` has none. Copy it and change it.
"""

from cola_msa import Splits, TaskSpec

TASK = TaskSpec(
    name="my_task",
    title="my own labels",
    dataset="labelled_folder",  # the module of data_prep that prepared the data
    task_type="multiclass",  # one class a clip; "multilabel": any number of tags
    hidden_units=(256,),
    learning_rate=3e-4,
    scores=("accuracy", "balanced_accuracy"),
    splits=Splits(train=("train",), validation=("validation",), test=("test",)),
)
