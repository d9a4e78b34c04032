"""GTZAN: 30 s excerpts of 10 genres. `python -m data_prep.gtzan --help`.

The splits are read from the published lists of the fault-filtered partition
(`train_filtered.txt`, `valid_filtered.txt`, `test_filtered.txt`): excerpts that repeat,
are distorted or mislabelled are in none of them, and no artist is in two.
"""

from data_prep.datasets.gtzan import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
