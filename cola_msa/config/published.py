"""The numbers that the paper publishes: its length of training and its tables."""

import dataclasses

PAPER_UPDATES = 640_000
PAPER_PAIRS = 81_920_000


_TASKS = ("mtat", "mtat_unfiltered", "nsynth", "fma")


def _row(*values: float | None) -> dict[str, dict[str, float]]:
    """One published row: MTAT ROC, PR; MTAT* ROC, PR; NSynth WA; FMA WA."""
    columns = [(task, score) for task in _TASKS[:2] for score in ("roc_auc", "pr_auc")]
    columns += [("nsynth", "accuracy"), ("fma", "accuracy")]
    row: dict[str, dict[str, float]] = {name: {} for name in _TASKS}
    for (task, score), value in zip(columns, values, strict=True):
        if value is not None:
            row[task][score] = value
    return row


# The paper's tables: row -> task -> score -> value; a score that the paper leaves out
# ("-") is absent. Its WA columns are headed "%", but hold fractions.
PublishedTable = dict[str, dict[str, dict[str, float]]]
_MSA = _row(0.900, 0.427, 0.891, 0.356, 0.655, 0.520)

TABLE_1: PublishedTable = {
    "CLMR": _row(None, None, 0.887, 0.356, None, 0.484),
    "COLA": _row(0.886, 0.398, 0.881, 0.338, 0.572, 0.491),
    "COLA + MWS": _row(0.898, 0.422, 0.892, 0.358, 0.637, 0.515),
    "COLA + random mask": _row(0.885, 0.397, 0.878, 0.337, 0.598, 0.469),
    "MSA": _MSA,
}
TABLE_2: PublishedTable = {
    "MSA": _MSA,
    "Ablation 1": _row(0.897, 0.417, 0.892, 0.352, 0.665, 0.498),
    "Ablation 2": _row(0.898, 0.425, 0.892, 0.359, 0.651, 0.514),
    "Ablation 3": _row(0.895, 0.425, 0.890, 0.355, 0.649, 0.505),
}
# Its row "None" (COLA) differs from Table 1's COLA by 0.001 in MTAT ROC-AUC.
TABLE_3: PublishedTable = {
    "bass": _row(0.882, 0.392, 0.876, 0.325, 0.620, 0.471),
    "drums": _row(0.882, 0.389, 0.876, 0.326, 0.602, 0.496),
    "other": _row(0.892, 0.411, 0.886, 0.344, 0.636, 0.471),
    "vocals": _row(0.896, 0.415, 0.886, 0.341, 0.625, 0.456),
    "none": _row(0.887, 0.398, 0.881, 0.338, 0.572, 0.491),
    "multi": _MSA,
}
PUBLISHED: dict[int, PublishedTable] = {1: TABLE_1, 2: TABLE_2, 3: TABLE_3}


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """What the scores and the length of a method's runs are read beside.

    Attributes:
        row: The method's row of a table of the paper's; empty where it has none.
        title: Whose length of training it is, for tables.
        owner: The same, for "a share of the paper's".
        updates: Updates of the published length.
        pairs: Pairs of the published length.
        table: The table that the row is of.
    """

    row: str
    title: str
    owner: str
    updates: int
    pairs: int
    table: int = 1

    def scores(self, task: str) -> dict[str, float]:
        """The published scores of a task, by score; none where there are none.

        Args:
            task: Name of the task.
        """
        return dict(PUBLISHED[self.table].get(self.row, {}).get(task, {}))


PAPER = Yardstick("MSA", "paper", "the paper's", PAPER_UPDATES, PAPER_PAIRS)
# Spijkervet and Burgoyne 2021: 10,000 epochs of 317 batches of 48 pairs.
CLMR = Yardstick(
    "CLMR", "CLMR as published", "CLMR's published", 3_170_000, 152_160_000
)
